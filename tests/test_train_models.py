"""What a policy makes of a model: which token ends a turn, what it computes in, how long it may read."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from torchstone.terminal import UserError
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import DPOOptions, GRPOOptions
from torchstone.train.rollout import as_rollout, choose, sample
from torchstone.train.run import train

TURNS = (
    "{% for m in messages %}<s>{{ m['role'] }}|{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant|{% endif %}"
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def a_policy(eos, listed, template=None) -> Policy:
    """A small model whose tokenizer has the tokens <end> and <stop> beside the characters."""
    policy = small_policy("".join(map(chr, range(32, 127))) + "\n", 128, "cpu")
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<end>", "<stop>"]})
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    policy.tokenizer.eos_token, policy.tokenizer.chat_template = eos, template
    policy.model.generation_config.eos_token_id = listed and policy.tokenizer.convert_tokens_to_ids(listed)
    return policy


@pytest.mark.parametrize(
    ("eos", "listed", "template", "ends"),
    [
        ("<stop>", ["<stop>", "<end>"], TURNS, "<end>"),  # as Llama 3's: the turn's end is listed second
        ("<end>", ["<stop>", "<end>"], None, "<end>"),
        ("<end>", None, None, "<end>"),
        ("<stop>", None, TURNS, "<stop>"),  # <end> is no end token of this model: it would not stop there
        ("<stop>", ["<end>"], "{{ raise_exception('system first') }}", "<stop>"),
        ("<end>", ["<stop>"], TURNS, "<end>"),
        (None, ["<end>"], None, "<end>"),
    ],
)
def test_given_text_ends_with_the_token_that_ends_a_turn(tmp_path, eos, listed, template, ends):
    a_policy_saved(tmp_path, eos, listed, template)
    policy = load_policy(str(tmp_path), "cpu", "float32")
    end = policy.tokenizer.convert_tokens_to_ids(ends)
    assert policy.encode_completions(["hi"])[0][-1] == end and end in policy.eos_ids
    policy.save(tmp_path / "again")
    assert load_policy(str(tmp_path / "again"), "cpu", "float32").end_id == end


def a_policy_saved(folder: Path, eos, listed, template) -> None:
    policy = a_policy(eos, listed, template)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def test_an_end_token_that_nobody_names_is_not_guessed(tmp_path):
    with pytest.raises(UserError, match="lists 2 end tokens, of which none is the tokenizer's"):
        Policy((policy := a_policy(None, ["<stop>", "<end>"])).model, policy.tokenizer)
    policy = a_policy(None, None)
    with pytest.raises(UserError, match="The model has none"):
        Policy(policy.model, policy.tokenizer)


def damaged(folder: Path, what: str) -> None:
    """A model's folder of which something is missing or another thing than config.json says."""
    a_policy_saved(folder, "<end>", ["<end>"], None)
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    if what == "layer":
        weights = {name: x for name, x in weights.items() if "layers.0" not in name}
    elif what == "shape":
        weights["lm_head.weight"] = torch.zeros(3, 5)
    elif what == "reward model":
        config["architectures"] = ["LlamaForSequenceClassification"]
    elif what == "config":
        (folder / "config.json").unlink()
    elif what == "tokenizer":
        for file in folder.glob("token*"):
            file.unlink()
    elif what == "tokenizer.json":
        (folder / "tokenizer.json").write_text("{")
    elif what == "more":
        weights["model.layers.9.mlp.up_proj.weight"] = torch.zeros(3, 5)
    elif what == "run":
        (folder / "metrics.jsonl").touch()
        (folder / "model").mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if what == "cut":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    if what != "config":
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("layer", r"its files lack \d+ weights \(model.layers.0.*, ...\): transformers would draw them at random"),
        ("shape", r"lm_head.weight is \[3, 5\] in its files, and \[\d+, \d+\] by its config.json"),
        ("cut", "incomplete metadata"),
        ("reward model", r"it is a reward model \(LlamaForSequenceClassification\)"),
        ("config", "config.json is not in it"),
        ("tokenizer", "no tokenizer is in it"),
        ("tokenizer.json", "its tokenizer cannot be read"),
        ("run", "it is the folder of a run, whose model is .*model"),
    ],
)
def test_a_model_of_which_something_is_missing_is_refused(tmp_path, what, says):
    """By itself transformers draws missing weights at random, and goes on."""
    damaged(tmp_path, what)
    with pytest.raises(UserError, match=says):
        load_policy(str(tmp_path), "cpu", "float32")


def test_weights_that_a_model_has_no_place_for_are_said(tmp_path, capsys):
    damaged(tmp_path, "more")
    load_policy(str(tmp_path), "cpu", "float32")
    assert (
        "1 weight (model.layers.9.mlp.up_proj.weight) that its config.json has no place for" in capsys.readouterr().err
    )


def test_a_model_of_no_numbers_is_said():
    with pytest.raises(UserError, match="is no number"):
        choose(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), 1.0, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_end_token_0_is_an_end_token():
    policy = a_policy("<end>", ["<pad>"])
    assert 0 in Policy(policy.model, policy.tokenizer).eos_ids


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """A model at random and pairs for it."""
    folder = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(1)
    policy = a_policy("<end>", ["<end>"])
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.3)
    policy.save(folder / "model")
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no " * (1 + i % 3)} for i in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.py").write_text("def reward(prompts, completions): return [float(len(set(c))) for c in completions]")
    return folder


def run(folder: Path, out: Path, dtype: str, **options) -> tuple[list[dict], Policy]:
    kind = GRPOOptions if "reward" in options else DPOOptions
    config = kind(model=str(folder / "model"), data=folder / "pairs.jsonl", out=out, dtype=dtype, device="cpu",
                  eval_prompts=2, max_new_tokens=4, **options)  # fmt: skip
    train(config)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()], load_policy(
        str(out / "model"), "cpu", "float32"
    )


def test_bfloat16_learns_as_float32_does_and_pure_bfloat16_does_not(tmp_path, pairs, capsys):
    """The step of 1e-5 is below half a unit in the last place of most weights in bfloat16."""
    options = {"pairs": 4, "epochs": 8, "lr": 1e-5, "beta": 0.1}
    start = load_policy(str(pairs / "model"), "cpu", "float32").state_dict()
    moved, margins = {}, {}
    for dtype in ("float32", "bfloat16", "pure-bfloat16"):
        records, after = run(pairs, tmp_path / dtype, dtype, **options)
        margins[dtype] = records[-1]["rewards/margins"]
        rounded = (lambda x: x.bfloat16().float()) if dtype == "pure-bfloat16" else (lambda x: x)
        changed = [(after.state_dict()[name] != rounded(x)).float().mean().item() for name, x in start.items()]
        moved[dtype] = sum(changed) / len(changed)
        warned = "--dtype pure-bfloat16" in capsys.readouterr().err
        assert warned == (dtype == "pure-bfloat16")
    assert moved["float32"] > 0.8 and moved["bfloat16"] > 0.8 and moved["pure-bfloat16"] < 0.5, moved
    assert margins["bfloat16"] == pytest.approx(margins["float32"], rel=0.25) and margins["float32"] > 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "bfloat16" / "model", dtype="auto")
    assert saved.dtype == torch.float32


def test_bfloat16_computes_in_bfloat16_and_samples_what_it_scores(pairs):
    policy = load_policy(str(pairs / "model"), "cpu", "bfloat16")
    ids = policy.encode_prompts(["ab", "abc"])
    assert policy.model.dtype == torch.float32 and policy.logits(*as_rollout(policy, ids, ids).inputs).dtype == (
        torch.bfloat16
    )
    rollout = sample(policy, ids, 8, 0.0)  # greedy: each token is the most likely one of the training pass too
    logits = policy.logits(*rollout.inputs)
    gap = logits.amax(-1) - logits.gather(-1, rollout.tokens[:, -logits.shape[1] :, None])[..., 0]
    assert gap[rollout.mask].max() < 0.05
    scores = policy(*rollout.inputs, 1.0)
    assert scores.log_probs.dtype == torch.float32 and scores.log_probs.requires_grad


def test_grpo_in_bfloat16_starts_at_ratio_1(tmp_path, pairs):
    options = {"reward": f"{pairs / 'r.py'}:reward", "steps": 2, "prompts": 4, "group_size": 4, "minibatches": 1}
    (pairs / "only.jsonl").write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(12)))
    options |= {"dtype": "bfloat16", "device": "cpu", "eval_prompts": 2, "max_new_tokens": 4, "beta": 0.1}
    folder = train(
        GRPOOptions(model=str(pairs / "model"), data=pairs / "only.jsonl", out=tmp_path / "run", epochs=2, **options)
    )
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert first["kl"] == 0.0 and first["grad_norm"] > 0


def test_a_model_whose_config_sets_no_limit_reads_any_length(tmp_path):
    tokenizer = small_policy("abc", 32, "cpu").tokenizer
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model("bloom", **sizes, pad_token_id=0, bos_token_id=None, eos_token_id=1)
    policy = Policy(AutoModelForCausalLM.from_config(config), tokenizer)
    assert policy.context > 10**6
    data = tmp_path / "p.jsonl"
    data.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("ab", "abc", "c" * 40)))
    (tmp_path / "r.py").write_text("def reward(prompts, completions): return [float(len(c)) for c in completions]")
    policy.save(tmp_path / "bloom")
    folder = train(GRPOOptions(model=str(tmp_path / "bloom"), data=data, reward=f"{tmp_path / 'r.py'}:reward",
                               out=tmp_path / "run", device="cpu", steps=1, prompts=2, group_size=3))  # fmt: skip
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["grad_norm"] > 0
