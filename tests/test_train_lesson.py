"""What would teach nothing, or change nothing, is said: before any work, in the first round, and at the end."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.data.find import find_task
from torchstone.data.tasks import Task
from torchstone.terminal import UserError
from torchstone.train import checks
from torchstone.train.checks import check_options, check_task
from torchstone.train.lesson import nothing_learned
from torchstone.train.model import Policy, small_policy
from torchstone.train.offline import encode
from torchstone.train.options import DistillOptions, DPOOptions, GRPOOptions, PPOOptions, ReinforceOptions, defaults
from torchstone.train.rollout import sample
from torchstone.train.run import train

TINY = {
    "pretrain_steps": 3,
    "warmup_steps": 1,
    "eval_prompts": 4,
    "device": "cpu",
    "eval_every": 1,
    "max_new_tokens": 4,
}
ROUNDS = {"steps": 2, "prompts": 4, "group_size": 4}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def prompts(folder: Path, **columns) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}+1=", **columns}) + "\n" for i in range(20)), encoding="utf-8")
    return file


def reward(folder: Path, code: str) -> str:
    (folder / "r.py").write_text(code)
    return f"{folder / 'r.py'}:reward"


ZERO = "def reward(prompts, completions, **columns): return [0.0] * len(prompts)\n"


# ------------------------------------------------------------------------------- work that teaches nothing


@pytest.mark.parametrize("kind", [GRPOOptions, ReinforceOptions, PPOOptions])
def test_tied_rewards_are_said_in_the_first_round_and_at_the_end(tmp_path, capsys, kind):
    config = kind(task="add", reward=reward(tmp_path, ZERO), out=tmp_path / "run", **TINY, **ROUNDS)
    said = []

    def report(record):
        said.append(capsys.readouterr().err)
        return False

    train(config, report)
    assert not said[0] and not said[2]
    assert "the rewards of round 1 taught nothing: all completions of a prompt earn the same, 0 on average" in said[1]
    assert "Try: read completions.jsonl" in said[1]
    assert "the rewards of 2 of 2 rounds taught nothing" in capsys.readouterr().err


def test_rewards_that_differ_are_not_complained_of(tmp_path, capsys):
    code = "def reward(prompts, completions, **columns): return [float(i % 3) for i in range(len(prompts))]\n"
    train(GRPOOptions(task="add", reward=reward(tmp_path, code), out=tmp_path / "run", **TINY, **ROUNDS))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "code", "options", "says"),
    [
        ({"answer": "1"}, "def reward(prompts, completions, level=None, **c): return [0.0] * len(prompts)", {},
         "The reward function's level: no such column in"),
        ({}, ZERO, {}, "The small model was shown no answers: give each line an 'answer', or --model FOLDER"),
        ({"answer": "é≤"}, ZERO, {}, "The small model cannot write é ≤."),
        ({"answer": "1"}, ZERO, {"max_new_tokens": 1, "temperature": 5.0, "warmup_steps": 0, "demonstrations": 0},
         "No completion ended within --max-new-tokens 1"),
    ],
)  # fmt: skip
def test_why_all_groups_are_tied(tmp_path, capsys, columns, code, options, says):
    options = TINY | ROUNDS | {"steps": 1} | options
    train(
        GRPOOptions(data=prompts(tmp_path, **columns), reward=reward(tmp_path, code), out=tmp_path / "run", **options)
    )
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("norms", "says"),
    [
        ([0.0], "round 1 taught nothing: the gradient is exactly 0."),
        ([1e-9], ""),
        ([0.0, 0.0, 0.3], "2 of 3 rounds taught nothing: the gradient is exactly 0."),
        ([0.0, 0.2], ""),
    ],
)
def test_a_gradient_of_exactly_0_is_said(norms, says):
    found = nothing_learned(DPOOptions(), Task("t", [{"prompt": "a"}], []), [{"grad_norm": norm} for norm in norms])
    assert found.startswith(says) and bool(found) == bool(says)


def test_a_distillation_learns_from_no_reward(tmp_path):
    records = [{"frac_reward_zero_std": 1.0, "grad_norm": 0.5, "reward": 0.0}]
    task = Task("t", [{"prompt": "a"}], [], lambda prompts, completions: [0.0])
    assert not nothing_learned(DistillOptions(teacher="t"), task, records)
    assert nothing_learned(GRPOOptions(), task, records)


def test_pairs_of_one_text_twice(tmp_path, capsys):
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no" if i == 3 else "yes"} for i in range(20)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(DPOOptions(data=file, out=tmp_path / "run", pairs=16, **TINY))
    assert "19 of 20 pairs have one text twice, and teach nothing" in capsys.readouterr().err
    file.write_text("".join(json.dumps(row | {"rejected": "yes"}) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"every pair of .* has one text twice: there is nothing to learn"):
        train(DPOOptions(data=file, out=tmp_path / "other", **TINY))
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------------------------------------ options and data


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GRPOOptions(model="x", pretrain_steps=3), "--pretrain-steps would change nothing: it is for the small model"),
        (GRPOOptions(model="x", demonstrations=3), "--demonstrations would change nothing"),
        (GRPOOptions(data=Path("x"), split="validation"), "--split would change nothing: it is for the built-in tasks"),
        (GRPOOptions(task="reasoning_gym:x", split="validation"), "--split would change nothing"),
        (GRPOOptions(dtype="bfloat16"), "--dtype would change nothing: it is for --model"),
        (GRPOOptions(kl="k1"), "--kl would change nothing: --beta is 0"),
        (GRPOOptions(divide_by_std=False, std_eps=1e-3), "--std-eps would change nothing: --no-divide-by-std"),
        (PPOOptions(whiten=False, whiten_correction=0), "--whiten-correction would change nothing: --no-whiten"),
        (DistillOptions(signal="jsd", k=3), "--k would change nothing: it belongs to --signal jsd-top-k"),
        (GRPOOptions(model=""), "--model is empty"),
        (GRPOOptions(eval_every=-1), "--eval-every must be at least 0"),
        (GRPOOptions(demonstrations=-3), "--demonstrations must be at least 0"),
        (GRPOOptions(seed=2**62), "--seed must be between"),
        (GRPOOptions(prompts=1, group_size=4, minibatches=5), "--minibatches must be from 1 to the round's 4 "),
        (defaults("grpo", large=True), "with --model, what to learn is --data FILE or --task NAME"),
    ],
)  # fmt: skip
def test_an_option_that_would_change_nothing_is_refused(config, says):
    with pytest.raises(UserError, match=says):
        check_options(config)


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo", "dpo", "distill"])
def test_what_is_left_out_is_never_refused(method):
    for large in (False, True):
        config = defaults(method, large)
        check_options(dataclasses.replace(config, task="add", model="x" if large else None))
    check_options(GRPOOptions(beta=0.1, kl="k1", std_eps=0.0, task="sort", split="validation", pretrain_steps=0))
    check_options(GRPOOptions(model="x", dtype="bfloat16", data=Path("x")))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("grpo --model FOLDER", "with --model, what to learn is --data FILE or --task NAME"),
        ("grpo --task sort --data prompts.jsonl", "--task would change nothing"),
        ("grpo --model=", "--model is empty"),
    ],
)
def test_the_real_model_is_not_trained_by_accident(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words.split()]) == 1
    assert says in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.fixture
def pairs(tmp_path) -> Path:
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(20)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 64}, "--samples would change nothing: the pairs are given"),
        ({"group_size": 4}, "--group-size would change nothing: the pairs are given"),
        ({"reward": ZERO}, "has preference pairs: leave --reward out"),
    ],
)
def test_options_beside_given_pairs(tmp_path, pairs, options, says):
    options = options | ({"reward": reward(tmp_path, ZERO)} if "reward" in options else {})
    with pytest.raises(UserError, match=says):
        train(DPOOptions(data=pairs, out=tmp_path / "run", **TINY, **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("column", ["prompts", "completions"])
def test_a_column_may_not_be_called_as_what_the_reward_gets_anyway(tmp_path, column):
    config = GRPOOptions(data=prompts(tmp_path, **{column: 1}), reward=reward(tmp_path, ZERO))
    with pytest.raises(UserError, match=f"no column may be called '{column}'"):
        find_task(config)


# -------------------------------------------------------------------------------- tokenised when it is needed


def test_of_many_prompts_only_the_longest_are_tokenised_before_training(monkeypatch):
    rows = [{"prompt": f"{i:05d}" + "x" * (i == 7)} for i in range(20_000)]
    task, policy, read = Task("many", rows, rows[:10], lambda **_: []), small_policy("0123456789x", 14, "cpu"), []
    encode_prompts = Policy.encode_prompts
    monkeypatch.setattr(Policy, "encode_prompts", lambda self, texts, system=None: (
        read.extend(texts), encode_prompts(self, texts, system))[1])  # fmt: skip
    check_task(GRPOOptions(max_new_tokens=8), task, policy)
    assert rows[7]["prompt"] in read and len(read) < 500
    with pytest.raises(UserError, match=r"6 tokens, then 9 of a completion, in a context of 14.: '00007x'"):
        check_task(GRPOOptions(max_new_tokens=9), task, policy)


def test_a_prompt_that_does_not_fit_is_named_when_it_is_needed():
    policy = small_policy("abc", 8, "cpu")
    for prompt in ("abcab", ""):
        with pytest.raises(UserError, match="a prompt does not fit"):
            sample(policy, policy.encode_prompts(["a", prompt]), 4, 1.0)
    with pytest.raises(UserError, match="1 tokens, then 8 of a completion"):
        encode(DPOOptions(), policy, [{"prompt": "a", "chosen": "abcabca", "rejected": "a"}])


def test_a_model_that_cannot_be_sampled_is_named(monkeypatch):
    def mamba(*arguments, **options):
        raise AttributeError("'MambaCausalLMOutput' object has no attribute 'past_key_values'")

    monkeypatch.setattr(checks, "sample", mamba)
    task = Task("t", [{"prompt": "a"}], [], lambda **_: [])
    with pytest.raises(UserError, match="--model m cannot be sampled here: 'MambaCausalLMOutput'"):
        check_task(GRPOOptions(model="m"), task, small_policy("abc", 16, "cpu"))
