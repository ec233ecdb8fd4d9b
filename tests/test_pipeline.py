"""The classic pipeline: demonstrations, a reward model from pairs, and PPO that is paid by it."""

import json
import math
from pathlib import Path

import pytest
import torch
from test_train_folder import records, weights
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from torchstone.terminal import UserError
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import RewardOptions, SFTOptions
from torchstone.train.reward_model import RewardModel, learn_reward, pair_rewards, reward_model_of
from torchstone.train.run import train
from torchstone.train.supervised import completion_of, learn_sft

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
    chosen, rejected = pair_rewards(RewardOptions(), model, ROWS)
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
    r, s = pair_rewards(config, model, pairs)
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
    chosen, rejected = pair_rewards(RewardOptions(), loaded, last)
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


@pytest.mark.parametrize("margin", ["big", None, math.nan, True])
def test_a_margin_is_a_number(tmp_path, home, margin):
    data = write(tmp_path / "pairs.jsonl", [row | {"margin": margin} for row in ROWS])
    with pytest.raises(UserError, match=r"'margin' must be a number, got .*, for prompt 'say \d+'"):
        train(RewardOptions(out=tmp_path / "run", data=data, model=str(home / "base"), **SIZES))
