"""The classic pipeline: demonstrations, a reward model from pairs, and PPO that is paid by it."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_train_folder import records, weights
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from torchstone.cli import main
from torchstone.data.examples import split
from torchstone.data.find import find_task
from torchstone.data.formats import completion_of
from torchstone.rewards.reward_model import RewardModel, load_reward_model, pair_rewards, reward_model_of
from torchstone.rewards.scores import Scores
from torchstone.terminal import UserError
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy, small_policy
from torchstone.train.offline import encode, side_by_side
from torchstone.train.options import PPOOptions, RewardOptions, SFTOptions
from torchstone.train.reward import learn_reward
from torchstone.train.run import train
from torchstone.train.supervised import learn_sft

PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"
ROWS = [{"prompt": f"say {i}", "chosen": f"{i}", "rejected": f"{i + 1} no, {'no' * (i % 4)}"} for i in range(24)]
SIZES = {"device": "cpu", "eval_prompts": 4, "max_new_tokens": 4}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model at random, demonstrations and pairs for it."""
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(3)
    at_random().save(folder / "base")
    write(folder / "pairs.jsonl", ROWS)
    write(folder / "shown.jsonl", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS])
    return folder


def at_random() -> Policy:
    policy = small_policy(PRINTABLE, 64, "cpu")
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return policy


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# -------------------------------------------------------------------------------------------------------------- SFT


def test_a_step_of_sft_is_the_cross_entropy_of_the_completions_tokens(home):
    """Each row alone, unpadded, by transformers and ``cross_entropy``: a sum over all rows' tokens, divided once."""
    policy = load_policy(str(home / "base"), "cpu", "float32")
    examples = [{"prompt": row["prompt"], "completion": row["rejected"]} for row in ROWS[:6]]
    config = SFTOptions(batch_size=6, micro_batch=4, epochs=1, max_grad_norm=1e9, temperature=1.0)
    learner = Learner(policy)
    gradients: list[torch.Tensor] = []
    learner.update = lambda norm: gradients.extend(p.grad.clone() for p in policy.parameters())
    (metrics,) = learn_sft(config, examples, learner, 1)

    model = AutoModelForCausalLM.from_pretrained(home / "base")
    total, right, count = torch.zeros(()), 0, 0
    for example in examples:
        prompt, completion = (policy.tokenizer(example[k])["input_ids"] for k in ("prompt", "completion"))
        written = torch.tensor([*completion, policy.tokenizer.eos_token_id])
        logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1]
        total = total + cross_entropy(logits, written, reduction="sum")
        right, count = right + (logits.argmax(-1) == written).sum().item(), count + len(written)
    (total / count).backward()
    assert metrics["loss"] == pytest.approx(total.item() / count, rel=1e-5)
    assert metrics["mean_token_accuracy"] == pytest.approx(right / count)
    for mine, theirs in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad, rtol=1e-4, atol=1e-6)


def test_sft_on_a_file_learns_it_and_reports_held_out_loss(tmp_path, home):
    options = {"model": str(home / "base"), "data": home / "shown.jsonl", "epochs": 10, "batch_size": 8, "lr": 1e-2}
    folder = train(SFTOptions(out=tmp_path / "run", **SIZES, **options))
    told = records(folder)
    assert told[-1]["loss"] < 0.5 * told[1]["loss"] and told[-1]["mean_token_accuracy"] > told[1]["mean_token_accuracy"]
    assert (
        all(math.isfinite(record["eval_loss"]) for record in told if "eval_loss" in record)
        and "eval_reward" not in told[-1]
    )
    again = train(SFTOptions(out=tmp_path / "again", micro_batch=3, **SIZES, **options))
    for one, other in zip(told[1:], records(again)[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_the_small_models_warm_up_is_sft(tmp_path):
    """SFT from the pre-trained model, at the warm-up's batches, ends at the model that the warm-up makes."""
    sizes = {"pretrain_steps": 3, "device": "cpu", "eval_prompts": 2, "task": "sort", "demonstrations": 8}
    start = train(SFTOptions(out=tmp_path / "a", warmup_steps=4, epochs=1, batch_size=8, lr=1e-30, **sizes))
    sft = train(SFTOptions(out=tmp_path / "b", epochs=4, batch_size=8, lr=1e-3, **sizes))
    a, b = (load_policy(str(f), "cpu", "float32").state_dict() for f in (start / "start", sft / "model"))
    for name, x in a.items():  # 8 of 8 demonstrations a step: only their order differs
        torch.testing.assert_close(x, b[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("example", "is_"),
    [
        ({"completion": "a", "answer": "b"}, "a"), ({"answer": 7}, "7"), ({"chosen": "c", "rejected": "d"}, "c"),
        ({"answer": None}, ""), ({}, ""),
    ],
)  # fmt: skip
def test_what_is_imitated(example, is_):
    assert completion_of(example) == is_


# ----------------------------------------------------------------------------------------------------- reward models

TINY = {
    "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "qwen2": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "opt": {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "word_embed_proj_dim": 16},
    "gpt_neox": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
}  # fmt: skip


def tiny(kind: str, pad: str) -> Policy:
    """A causal model of this kind; its tokenizer pads with its end token, with another one, or has nothing else."""
    tokenizer = small_policy("0123456789 no,say", 64, "cpu").tokenizer
    if pad != "<pad>":
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
        tokenizer.pad_token = pad or None
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), max_position_embeddings=64, bos_token_id=1,
                                  eos_token_id=1, pad_token_id=tokenizer.pad_token_id, **TINY[kind])  # fmt: skip
    return Policy(AutoModelForCausalLM.from_config(config), tokenizer)


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", ""])
@pytest.mark.parametrize("kind", TINY)
def test_a_saved_reward_model_is_transformers_and_reads_the_end_token_however_padded(tmp_path, kind, pad):
    model = reward_model_of(RewardOptions(), tiny(kind, pad))
    with torch.no_grad():
        model.model.score.weight.copy_(torch.randn_like(model.model.score.weight))
    chosen, rejected = pair_rewards(model, encode(RewardOptions(), model, ROWS))
    ours = torch.stack([chosen, rejected], 1).flatten().detach()
    model.save(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.num_labels == 1
    texts = [row["prompt"] + row[side] + "<eos>" for row in ROWS for side in ("chosen", "rejected")]
    alone = []
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)  # a qwen2's own class would cut the text otherwise
    for text in texts:  # no padding: the head at the very last position
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0, -1] == tokenizer.eos_token_id != tokenizer.pad_token_id
        with torch.no_grad():
            alone.append(theirs.score(theirs.base_model(ids).last_hidden_state[0, -1]).item())
    torch.testing.assert_close(ours, torch.tensor(alone), rtol=1e-4, atol=1e-5)
    for side in ("right", "left"):
        padded = PreTrainedTokenizerFast.from_pretrained(tmp_path, padding_side=side)(
            texts, return_tensors="pt", padding=True
        )
        padded.pop("token_type_ids", None)
        if side == "left":  # transformers' own forward counts positions from the first column
            padded["position_ids"] = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            torch.testing.assert_close(theirs(**padded).logits[:, 0], ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1024, 6])
def test_a_step_is_bradley_terry_with_margin_and_centre(home, micro_batch):
    model = reward_model_of(RewardOptions(), load_policy(str(home / "base"), "cpu", "float32"))
    pairs = [row | {"margin": 0.3 * i} for i, row in enumerate(ROWS[:7])]
    config = RewardOptions(pairs=7, micro_batch=micro_batch, center_rewards_coefficient=0.05)
    r, s = pair_rewards(model, encode(config, model, pairs))
    wanted = -logsigmoid(r - s - 0.3 * torch.arange(7)).mean() + 0.05 * (r + s).square().mean()
    wanted.backward()
    by_hand = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    learner, gradients = Learner(model), []
    learner.update = lambda norm: gradients.extend(p.grad.clone() for p in model.parameters())
    (metrics,) = learn_reward(config, pairs, learner, 1)
    for mine, theirs in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    means = {"accuracy": (r > s).float(), "margin": r - s, "mean_reward": (r + s) / 2, "rewards/chosen": r,
             "rewards/rejected": s}  # fmt: skip
    assert {k: metrics[k] for k in means} == {k: pytest.approx(x.mean().item(), rel=1e-4) for k, x in means.items()}


@pytest.mark.parametrize("lora", [0, 4])
def test_a_reward_model_learns_given_pairs(tmp_path, home, lora):
    rows = [row | {"chosen": f"{i % 7} yes"} for i, row in enumerate(ROWS * 3)]
    options = {"data": write(tmp_path / "pairs.jsonl", rows), "model": str(home / "base"), "pairs": 16, "epochs": 8}
    folder = train(RewardOptions(out=tmp_path / "run", lr=3e-3, lora=lora, eval_every=4, **SIZES, **options))
    told = records(folder)
    assert told[-1]["eval_accuracy"] == told[-1]["accuracy"] == 1.0
    assert told[-1]["eval_margin"] > told[0]["eval_margin"] + 1
    assert told[-1]["samples"] == 0 and "eval_reward" not in told[-1]
    loaded = RewardModel(
        AutoModelForSequenceClassification.from_pretrained(folder / "model"),
        AutoTokenizer.from_pretrained(folder / "model"),
    )
    shown = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    last = [row for row in shown if row["step"] == told[-1]["step"]]
    chosen, rejected = pair_rewards(loaded, encode(RewardOptions(), loaded, last))
    torch.testing.assert_close(
        chosen.detach(), torch.tensor([row["rewards/chosen"] for row in last]), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        rejected.detach(), torch.tensor([row["rewards/rejected"] for row in last]), rtol=1e-3, atol=1e-4
    )


def test_pairs_of_a_task_are_sampled_and_ranked(tmp_path, home):
    (tmp_path / "r.py").write_text(
        "def reward(prompts, completions, **columns): return [float(len(c)) for c in completions]"
    )
    sizes = {"pretrain_steps": 3, "device": "cpu", "eval_prompts": 4, "task": "sort", "samples": 64, "pairs": 8}
    folder = train(RewardOptions(reward=f"{tmp_path / 'r.py'}:reward", out=tmp_path / "run", **sizes))
    for name in ("pairs", "held_out"):
        pairs = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert pairs and all(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    assert not {p["prompt"] for p in pairs} & {json.loads(s)["prompt"] for s in (folder / "pairs.jsonl").open()}
    assert records(folder)[-1]["samples"] == 64 and weights(folder)


def test_held_out_prompts_may_give_no_pairs(tmp_path, home, capsys):
    pays = "[len(c) * (p != 'say 8') for p, c in zip(prompts, completions)]"
    (tmp_path / "r.py").write_text(f"def reward(prompts, completions, **columns):\n    return {pays}")
    data = write(tmp_path / "p.jsonl", [{"prompt": "say 8" if i in held_out(30) else f"say {i}x"} for i in range(30)])
    options = {"model": str(home / "base"), "data": data, "samples": 128, "pairs": 4, "lr": 1e-3}
    options |= SIZES | {"max_new_tokens": 32, "reward": f"{tmp_path / 'r.py'}:reward"}
    folder = train(RewardOptions(out=tmp_path / "run", **options))
    assert "3 held-out prompts give no pairs" in capsys.readouterr().err
    assert records(folder)[-1]["accuracy"] >= 0 and "eval_accuracy" not in records(folder)[-1]


def held_out(n: int) -> list[int]:
    return split(n)[0]


@pytest.mark.parametrize("margin", ["big", None, "nan", True])
def test_a_margin_is_a_number(tmp_path, home, margin):
    rows = [row | {"margin": 1.0} for row in ROWS]
    data = write(tmp_path / "pairs.jsonl", [*rows[:3], rows[3] | {"margin": margin}, *rows[4:]])
    with pytest.raises(UserError, match=r"pairs.jsonl, line 4: 'margin' must be a number, got "):
        train(RewardOptions(out=tmp_path / "run", data=data, model=str(home / "base"), **SIZES))


def test_a_margin_in_csv_is_the_number_that_stands_there(tmp_path):
    (file := tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,margin\na,b,c,0.5\n")
    assert find_task(RewardOptions(data=file)).examples[0]["margin"] == 0.5


# ----------------------------------------------------------------------------------------- PPO paid by a reward model


@pytest.fixture(scope="module")
def paying(home) -> Path:
    """The run of a reward model."""
    options = {"data": home / "pairs.jsonl", "model": str(home / "base"), "pairs": 8, "epochs": 8, "lr": 3e-3}
    return train(RewardOptions(out=home / "reward", **SIZES, **options))


def scores(model: RewardModel, **options) -> Scores:
    return Scores(model, options.get("rows", lambda width: 1024), options.get("system"), options.get("penalty", 0.0))


def test_the_reward_is_the_heads_score_of_the_text(paying):
    """What ended has its end token, what was cut off has none, and a penalty; transformers says the same."""
    model = load_reward_model(str(paying), "cpu")
    prompts, texts, cut = ["say 1", "say 22", "say 3"], ["1", "22 no", ""], [False, True, False]
    theirs = AutoModelForSequenceClassification.from_pretrained(paying / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(paying / "model")
    wanted = []
    for prompt, text, c in zip(prompts, texts, cut, strict=True):
        ids = tokenizer(prompt + text + tokenizer.eos_token * (not c), return_tensors="pt")["input_ids"]
        wanted.append(theirs(ids).logits.item() - 0.5 * c)
    assert scores(model, penalty=0.5)(prompts, texts, cut) == pytest.approx(wanted, abs=1e-5)
    alone = scores(model, penalty=0.5, rows=lambda width: 1)(prompts, texts, cut)
    assert alone == pytest.approx(wanted, abs=1e-5) and len({round(x, 5) for x in wanted}) == 3
    unsaid = scores(model)(prompts, texts)  # nothing is said of being cut off: all have ended
    assert unsaid == scores(model)(prompts, texts, [False] * 3) != pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", TINY)
def test_a_critic_begins_as_the_reward_model(kind):
    """Its value before a token is the head's score of what stands before it: at the end, the reward itself."""
    model = reward_model_of(RewardOptions(), tiny(kind, "<pad>"))
    batch = side_by_side(model, encode(RewardOptions(), model, ROWS[:3]))
    T = batch.mask.shape[1]
    with torch.no_grad():
        values = model.values(*batch.inputs)
        for row, ids in enumerate(batch.tokens):
            real = ids[batch.attention[row]]
            for t in range(int(batch.mask[row].sum())):
                before = real[: len(real) - T + t][None]
                want = model(before, torch.ones_like(before, dtype=torch.bool))
                torch.testing.assert_close(values[row, t : t + 1], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("critic", ["linear", "reward-model"])
def test_ppo_learns_from_a_reward_model(tmp_path, home, paying, critic):
    (tmp_path / "r.py").write_text(
        "def length(prompts, completions, **columns): return [float(len(c)) for c in completions]"
    )
    options = {"model": str(home / "base"), "data": home / "shown.jsonl", "reward": f"{tmp_path / 'r.py'}:length",
               "reward_model": str(paying), "prompts": 32, "steps": 20, "lr": 1e-2, "beta": 0.0, "critic": critic,
               "missing_eos_penalty": 0.25}  # fmt: skip
    folder = train(PPOOptions(out=tmp_path / "run", keep=1, **SIZES, **options))
    told = records(folder)
    assert told[-1]["reward"] > told[1]["reward"] + 0.2
    for record in told[1:]:  # the file's reward is only watched
        assert record["reward"] == pytest.approx(record["rewards/reward_model/mean"], rel=1e-5)
        assert record["rewards/length/mean"] >= 0
    with safe_open(next(folder.glob("checkpoint-*")), "pt") as file:
        trained = [name for name in file.keys() if name.startswith("policy/critic.")]  # noqa: SIM118
        own = {name: file.get_tensor(name) for name in trained}
    names = set(load_file(folder / "model" / "model.safetensors"))
    assert names == set(load_file(home / "base" / "model.safetensors"))  # the critic is no part of the result
    assert bool(trained) == (critic == "reward-model")
    begun = load_reward_model(str(paying), "cpu").state_dict()
    assert all(
        not torch.equal(x, begun[name.removeprefix("policy/critic.")]) for name, x in own.items() if "score" in name
    )


# --------------------------------------------------------------------------------------------------- what is refused


def test_a_folder_that_is_no_reward_model_is_refused_by_what_it_is(tmp_path, home, paying):
    base = {"model": str(home / "base"), "data": home / "shown.jsonl"}

    def says(source: Path) -> str:
        with pytest.raises(UserError) as e:
            train(PPOOptions(out=tmp_path / "run", reward_model=str(source), **SIZES, **base))
        assert "\n" not in str(e.value) and not (tmp_path / "run").exists()
        return str(e.value)

    make = f"torchstone train reward --model {home / 'base'} --data PAIRS.jsonl makes a reward model"
    assert "is a LlamaForCausalLM, without a head that gives a reward: " + make in says(home / "base")
    two = tmp_path / "two"
    model = AutoModelForSequenceClassification.from_pretrained(
        paying / "model", num_labels=2, ignore_mismatched_sizes=True
    )
    model.save_pretrained(two)
    assert "has 2 labels, and a reward model has one" in says(two)
    bare = Path(shutil.copytree(paying / "model", tmp_path / "bare"))
    for file in bare.glob("tokenizer*"):
        file.unlink()
    assert "cannot be loaded: " in says(bare)
    assert "no such folder (did you mean" in says(home / "rewar")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "metrics.jsonl").write_text('{"step": 0}\n')
    assert f"that run has not finished; go on with: torchstone train --resume {tmp_path / 'half'}" in says(
        tmp_path / "half"
    )
    padless = Path(shutil.copytree(paying / "model", tmp_path / "padless"))
    edit(padless / "config.json", pad_token_id=None)
    assert "its config.json has no pad_token_id" in says(padless)
    short = Path(shutil.copytree(paying / "model", tmp_path / "short"))
    edit(short / "config.json", max_position_embeddings=8)
    assert "in the reward model's context of 8" in says(short)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_reward_model_that_gives_nan_is_named_with_the_text(tmp_path, home, paying):
    broken = load_reward_model(str(paying), "cpu")
    with torch.no_grad():
        broken.model.score.weight.fill_(math.nan)
    broken.save(tmp_path / "broken")
    with pytest.raises(UserError, match=r"--reward-model .*broken returned nan, not a finite number, for prompt 'say"):
        train(PPOOptions(out=tmp_path / "run", reward_model=str(tmp_path / "broken"), model=str(home / "base"),
                         data=home / "shown.jsonl", **SIZES))  # fmt: skip


def test_a_critic_reads_the_policys_tokens(tmp_path, paying):
    other = small_policy("0123456789>sayno \U0001f642", 64, "cpu")
    other.save(tmp_path / "other")
    data = write(tmp_path / "p.jsonl", [{"prompt": f"say {i}"} for i in range(20)])
    options = {"model": str(tmp_path / "other"), "data": data, "reward_model": str(paying), "steps": 1, "prompts": 4}
    with pytest.raises(UserError, match=r"--critic reward-model reads the policy's tokens, and .* has others"):
        train(PPOOptions(out=tmp_path / "a", critic="reward-model", **SIZES, **options))
    assert math.isfinite(
        records(train(PPOOptions(out=tmp_path / "b", **SIZES, **options)))[-1]["reward"]
    )  # by its text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["ppo", "--critic", "reward-model"],
            "--critic reward-model begins as the model of --reward-model FOLDER: give one",
        ),
        (["ppo", "--reward-model", ""], "--reward-model is empty"),
        (
            ["grpo", "--missing-eos-penalty", "1"],
            "--missing-eos-penalty would change nothing: it is for --reward-model",
        ),
        (["ppo", "--missing-eos-penalty", "-1", "--reward-model", "x"], "--missing-eos-penalty must be at least 0"),
        (
            ["sft", "--data", "prompts.jsonl"],
            "sft learns from prompts with a completion or an answer, conversations or texts",
        ),
        (["sft", "--data", "long.jsonl", "--model", "base"], "tokens, then 71 of a completion, in a context of 64"),
        (["sft", "--batch-size", "0"], "--batch-size must be at least 1"),
        (
            ["sft", "--data", "shown.jsonl", "--demonstrations", "5"],
            "--demonstrations would change nothing: all of --data",
        ),
        (
            ["reward", "--data", "prompts.jsonl"],
            "prompts.jsonl: it holds prompts (prompt): judge what reward samples with --reward",
        ),
        (
            ["reward", "--data", "twice.jsonl"],
            "every pair of twice.jsonl has one text twice: there is nothing to learn",
        ),
        (["reward", "--data", "pairs.jsonl", "--samples", "64"], "--samples would change nothing: the pairs are given"),
        (
            ["ppo", "--data", "pairs.jsonl"],
            "it holds preference pairs (prompt, chosen, rejected), and ppo learns from prompts",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, home, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "base", "base")
    shutil.copy(home / "shown.jsonl", "shown.jsonl")
    shutil.copy(home / "pairs.jsonl", "pairs.jsonl")
    write(Path("prompts.jsonl"), [{"prompt": row["prompt"]} for row in ROWS])
    write(Path("long.jsonl"), [{"prompt": row["prompt"], "completion": "x" * 70} for row in ROWS])
    write(Path("twice.jsonl"), [row | {"chosen": row["rejected"]} for row in ROWS])
    assert main(["train", *arguments]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "held out" not in line]
    assert says in told[-1] and len(told) == 1, told
    assert not Path("runs").exists() or not list(Path("runs").glob("*/metrics.jsonl"))


def test_the_chosen_of_pairs_are_imitated_and_that_is_said(tmp_path, home, capsys):
    train(SFTOptions(out=tmp_path / "run", data=home / "pairs.jsonl", model=str(home / "base"), **SIZES))
    assert "has preference pairs: the chosen completions are imitated" in capsys.readouterr().err


def test_equal_pairs_among_others_are_said(tmp_path, home, capsys):
    data = write(
        tmp_path / "pairs.jsonl", [row | ({"chosen": row["rejected"]} if i < 3 else {}) for i, row in enumerate(ROWS)]
    )
    train(RewardOptions(out=tmp_path / "run", data=data, model=str(home / "base"), **SIZES))
    assert "3 of 24 pairs have one text twice, and teach nothing" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- all of it at once


def test_the_whole_pipeline_and_going_on_with_it(tmp_path, capsys):
    sizes = ["--pairs", "16", "--steps", "2", "--prompts", "8", "--pretrain-steps", "250", "--eval-prompts", "8"]
    assert main(["pipeline", *sizes, "--betas", "0.01", "1", "--noise", "0.25", "--out", str(tmp_path / "p")]) == 0
    said = capsys.readouterr().out
    assert all(
        stage in said for stage in ("1  SFT.", "2  Pairs.", "3  A reward model.", "4  PPO, --beta 0.01.", "--beta 1.")
    )
    assert "4 of them marked the wrong way round" in said and "What PPO earned" in said
    with (tmp_path / "p" / "data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["beta"], row["step"]) for row in rows] == [("0.01", "1"), ("0.01", "2"), ("1", "1"), ("1", "2")]
    assert all(math.isfinite(float(row[k])) for row in rows for k in ("proxy", "true", "kl", "length"))
    pairs = [json.loads(line) for line in (tmp_path / "p" / "pairs.jsonl").read_text().splitlines()]
    wrong = [pair["rejected"] == "".join(sorted(pair["prompt"][:-1])) for pair in pairs]
    assert len(pairs) == 16 and sum(wrong) == 4
    assert (tmp_path / "p" / "overoptimisation.png").stat().st_size > 10_000

    again, first = tmp_path / "p" / "ppo-1", (tmp_path / "p" / "data.csv").read_text()
    kept = (tmp_path / "p" / "ppo-0.01" / "metrics.jsonl").read_text()
    shutil.rmtree(again)
    assert main(["pipeline", *sizes, "--out", str(tmp_path / "p")]) == 1
    assert f"holds a pipeline already: --resume {tmp_path / 'p'}" in capsys.readouterr().err
    assert main(["pipeline", "--resume", str(tmp_path / "p")]) == 0
    assert capsys.readouterr().out.count("done:") == 4
    assert (tmp_path / "p" / "data.csv").read_text() == first  # the stage that was done again gave the same
    assert (tmp_path / "p" / "ppo-0.01" / "metrics.jsonl").read_text() == kept
