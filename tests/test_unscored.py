"""A completion that cannot be scored is as if it had not been sampled: no number of the others changes."""

import dataclasses
import json
import math
from unittest import mock

import pytest
import torch

from torchstone.cli import main
from torchstone.data.tasks import Task
from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.rewards.judging import Judged
from torchstone.rewards.metrics import of_rewards
from torchstone.train.lesson import nothing_learned
from torchstone.train.methods import Batch, method_of
from torchstone.train.metrics import held_out, of_samples
from torchstone.train.model import Outputs, small_policy
from torchstone.train.offline import sample_pairs
from torchstone.train.options import (
    DistillOptions,
    DPOOptions,
    GRPOOptions,
    PPOOptions,
    RecipeOptions,
    ReinforceOptions,
)
from torchstone.train.run import train
from torchstone.train.tokens import weigh

NAN, T = math.nan, 5
# Every published row that needs nothing that the loop does not compute; DAPO's price on length is for 20,480 tokens.
NOT_COMPUTED = {"energies", "right", "prompt_values", "expert_log_probs"}
CHANGED = {  # numbers with which a few tokens are enough
    **dict.fromkeys(["dapo", "cispo", "high-entropy", "fipo"], "penalty.cache=2"), "kl-cov": "tokens.share=0.3",
    "clip-cov": "tokens.share=0.5+tokens.low=-9+tokens.high=9", "pass-at-k": "advantage.k=1",
}  # fmt: skip
ROWS = [
    name for name, row in RECIPES.items()
    if isinstance(row, PolicyRecipe) and "@" not in name and not NOT_COMPUTED & {*row.needs()}
]  # fmt: skip
ROWS = [f"{name}:{CHANGED[name]}" if name in CHANGED else name for name in ROWS]
METHODS = {
    "reinforce": ReinforceOptions(beta=0.1),
    "reinforce, leave-one-out": ReinforceOptions(baseline="leave-one-out", reduction="token-mean", entropy_coef=0.1),
    "reinforce, no baseline": ReinforceOptions(baseline="none", reduction="fixed-length", max_new_tokens=T),
    "ppo": PPOOptions(entropy_coef=0.01),
    "grpo, sequence-mean": GRPOOptions(beta=0.1),
    "grpo, token-mean": GRPOOptions(reduction="token-mean"),
    "grpo, undivided": GRPOOptions(divide_by_std=False, reduction="sequence-sum"),
} | {name: RecipeOptions(recipe=name, max_new_tokens=T) for name in ROWS}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def gradients(config, rewards, rows, greedy):
    """The gradient of a round's loss with respect to what the policy says of some rows of the same completions."""
    torch.manual_seed(1)
    config = dataclasses.replace(config, group_size=rewards.shape[1])
    method, lengths = method_of(config), torch.tensor([5, 2, 4, 3, 1, 5, 3, 2])
    mask = (torch.arange(T) < lengths[:, None])[rows]
    old, new, ref, values, old_values, entropies = (torch.randn(8, T)[rows] - 2 for _ in range(6))
    before, draws = Outputs(old, entropies, old_values), torch.rand(8, T)[rows]
    leaves = [x.clone().requires_grad_() for x in (new, entropies, values)]
    taught = method.keep(rewards) & greedy.isfinite()[:, None]
    mask = mask & taught.flatten()[:, None]
    batch = method.advantages(rewards, Batch(mask, before, ref), greedy if "greedy_rewards" in method.needs else None)
    if "token_weights" in method.needs:
        with mock.patch.object(torch, "rand", lambda *shape, **options: draws):  # each row keeps its own
            batch = weigh(method, batch, slice(None), Outputs(new, entropies, values), seed=0)
        assert 0 < batch.token_weights.count_nonzero() < mask.sum() or not mask.any()
    loss = method.loss(Outputs(*leaves), batch, method.denominator(mask))
    loss.value.backward()
    return [loss.value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)]


@pytest.mark.parametrize("name", METHODS)
def test_one_that_cannot_be_scored_changes_no_number_of_the_others(name):
    """Two groups of four, a completion of each unscored, against the six others alone."""
    rewards = torch.tensor([[1.0, 0.0, NAN, 0.5], [0.25, 1.0, 0.0, NAN]])
    greedy = torch.tensor([0.5, 0.25])
    others = [0, 1, 3, 4, 5, 6]
    found = gradients(METHODS[name], rewards, list(range(8)), greedy)
    alone = gradients(METHODS[name], rewards[rewards.isfinite()].view(2, 3), others, greedy)
    torch.testing.assert_close(found[0], alone[0])
    for with_it, without in zip(found[1:], alone[1:], strict=True):
        torch.testing.assert_close(with_it[others], without)
        assert with_it[[2, 7]].abs().max() == 0
    assert found[1].abs().max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_group_that_cannot_be_scored_is_as_if_it_were_not_there(name):
    greedy = torch.tensor([0.5, NAN])
    found = gradients(METHODS[name], torch.tensor([[1.0, 0.0, 0.75, 0.5], [NAN] * 4]), list(range(8)), greedy)
    alone = gradients(METHODS[name], torch.tensor([[1.0, 0.0, 0.75, 0.5]]), [0, 1, 2, 3], greedy[:1])
    factor = 2 if name == "gpg" else 1  # groups by groups with a signal: it counts those that could not be scored
    torch.testing.assert_close(found[0], factor * alone[0])
    for with_it, without in zip(found[1:], alone[1:], strict=True):
        torch.testing.assert_close(with_it[:4], factor * without)
        assert with_it[4:].abs().max() == 0
    nothing = gradients(METHODS[name], torch.full((2, 4), NAN), list(range(8)), torch.tensor([NAN, NAN]))
    assert all(x.isfinite().all() and x.abs().max() == 0 for x in nothing)


def test_the_greedy_completion_may_be_the_one_that_cannot_be_scored():
    rewards, greedy = torch.tensor([[1.0, 0.0, 0.75, 0.5], [1.0, 0.0, 0.0, 0.0]]), torch.tensor([0.25, NAN])
    found = gradients(RecipeOptions(recipe="remax"), rewards, list(range(8)), greedy)
    alone = gradients(RecipeOptions(recipe="remax"), rewards[:1], [0, 1, 2, 3], greedy[:1])
    torch.testing.assert_close(found[1][:4], alone[1])
    assert found[1][4:].abs().max() == 0


def test_a_row_of_several_rewards_is_given_those_of_each_function():
    given = Judged([0.0] * 6, {"a": [1.0, None, 0.0, 0.5, 1.0, 0.25], "b": [5.0, 3.0, 9.0, 8.0, 1.0, 2.0]})
    each = given.table
    sums = torch.tensor([[3.5, 1.5, 4.5], [4.5, 1.5, 1.25]])  # a + b / 2, and b / 2 alone where a gave none
    mask, zeros = torch.ones(6, T, dtype=torch.bool), torch.zeros(6, T)
    method = method_of(RecipeOptions(recipe="gdpo", group_size=3, reward_weights=(1.0, 0.5)))
    batch = method.advantages(sums, Batch(mask, Outputs(zeros, zeros, zeros), zeros, each=each))
    found = batch.advantages
    scored = torch.tensor([[True, False, True], [True] * 3])
    how = {"scored": scored, "reward_weights": torch.tensor([1.0, 0.5])}
    torch.testing.assert_close(found, RECIPES["gdpo"].advantages(each.view(2, 3, 2), mask, **how).advantages)
    assert found[1].abs().max() == 0 and found[0].abs().max() > 0
    assert batch.mask.any(1).tolist() == [True, False, True, True, True, True]  # nor does it count in the loss's mean
    assert method.denominator(batch.mask) == 5
    torch.testing.assert_close(Judged([1.0, NAN]).table, torch.tensor([[1.0], [NAN]]), equal_nan=True)


def test_a_student_learns_from_all_completions():
    assert method_of(DistillOptions()).keep(torch.tensor([[NAN, 1.0]])).all()


def test_means_are_of_those_that_were_scored():
    told = {
        name: float(x) for name, x in of_rewards(torch.tensor([[1.0, 0.0, NAN], [NAN, NAN, 2.0], [NAN] * 3])).items()
    }
    assert told == pytest.approx({
        "reward": 1.0, "unscored": 6 / 9, "reward_std": 0.5**0.5 / 2, "frac_reward_zero_std": 0.5,
    })  # fmt: skip
    assert of_rewards(torch.full((2, 2), NAN)) == {"unscored": 1.0}
    samples = [{"tokens": 2, "reward": 1.0}, {"tokens": 3, "reward": None}, {"tokens": 4, "reward": 0.0}]
    assert of_samples(samples) == {
        "eval_length/right": 2, "eval_length/wrong": 4, "eval_reward": 0.5, "eval_unscored": 1 / 3,
    }  # fmt: skip
    said = nothing_learned(GRPOOptions(), Task("t", [{"prompt": "a"}], []), [{"unscored": 1.0, "grad_norm": 0.0}])
    assert said == "1 of 1 rounds taught nothing: the reward could score no completion (None)"


PICKY = """
import os
def first(prompts, completions, trainer_state, log_metric):
    log_metric("round", trainer_state.global_step)
    return [None if len(c) % 3 == 0 else float(c.count("1") - c.count("2")) for c in completions]
async def second(prompts, completions, completion_ids, cut_off):
    sampled = zip(completions, completion_ids, cut_off)
    return [None if len(c) % 2 == 0 else (len(ids) - cut) / 8 for c, ids, cut in sampled]
def none(prompts): return [None] * len(prompts)
"""
SIZES = {
    "pretrain_steps": 3, "warmup_steps": 1, "eval_prompts": 8, "eval_every": 2, "device": "cpu", "max_new_tokens": 4,
}  # fmt: skip
ROUNDS = {"steps": 3, "prompts": 4, "group_size": 4}


def test_a_run_with_several_rewards_is_the_same_to_the_bit_with_processes(tmp_path):
    (tmp_path / "picky.py").write_text(PICKY)
    rewards = tuple(f"{tmp_path / 'picky.py'}:{name}" for name in ("first", "second"))
    found = []
    for workers in (0, 2):
        config = GRPOOptions(task="add", reward=rewards, reward_weights=(1.0, 0.5), reward_workers=workers,
                             out=tmp_path / f"{workers}", **SIZES, **ROUNDS)  # fmt: skip
        folder = train(config)
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        weights = (folder / "model" / "model.safetensors").read_bytes()
        found.append(([{k: v for k, v in one.items() if k != "seconds"} for one in records], weights,
                      (folder / "completions.jsonl").read_text()))  # fmt: skip
    assert found[0] == found[1]
    (_, one, *_), _, texts = found[0]
    assert {"rewards/first/mean", "rewards/second/mean", "round", "reward"} <= one.keys() and 0 < one["unscored"] < 1
    assert '"rewards": {"first": ' in texts and "NaN" not in texts


@pytest.mark.parametrize("kind", [ReinforceOptions, PPOOptions, GRPOOptions])
def test_a_run_in_which_nothing_can_be_scored_says_so_and_ends(tmp_path, capsys, kind):
    (tmp_path / "picky.py").write_text(PICKY)
    folder = train(kind(task="add", reward=f"{tmp_path / 'picky.py'}:none", out=tmp_path / "run", **SIZES, **ROUNDS))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "NaN" not in (folder / "metrics.jsonl").read_text() + (folder / "completions.jsonl").read_text()
    assert records[0]["eval_unscored"] == 1 and "reward" not in records[1]
    assert "3 of 3 rounds taught nothing: the reward could score no completion" in capsys.readouterr().err


def test_pairs_are_made_of_what_could_be_scored():
    policy = small_policy("0123456789+=", 32, "cpu")
    rows = [{"prompt": f"{i}+1="} for i in range(20)]
    reward = lambda prompts, completions: [None if "1" in c else float(len(c)) for c in completions]  # noqa: E731
    config = DPOOptions(samples=80, group_size=4, max_new_tokens=4, temperature=2.0)
    pairs = sample_pairs(config, Task("t", rows, [], reward), policy)
    assert len(pairs) > 2 and not any("1" in pair["chosen"] + pair["rejected"] for pair in pairs)
    samples = held_out(GRPOOptions(eval_prompts=9, max_new_tokens=4), Task("t", rows, rows, reward), policy)
    assert {one["reward"] is None for one in samples} == {("1" in one["completion"]) for one in samples}


def test_two_reward_options_both_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["--steps=1", "--prompts=2", "--group-size=2", "--pretrain-steps=1", "--warmup-steps=1", "--eval-prompts=2"]
    assert main(["train", "grpo", "--task=add", "--reward", "exact", "--reward", "lenient", *sizes, "--out=run"]) == 0
    assert '"rewards/lenient/mean"' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["reward"] == ["exact", "lenient"]
    assert main(["train", "--resume", "run", "--steps=2"]) == 0
