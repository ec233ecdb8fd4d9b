"""Recipes: every row runs, says where its numbers stand, and is the composition of functions that it claims to be."""

import inspect
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from objectives import pair_batch, token_batch

from torchstone import core
from torchstone.cli import main
from torchstone.core import fixed_length_mean, kl_k1, kl_k2, masked_whiten, sequence_mean, sequence_sum, token_mean
from torchstone.dpo import dpo_loss, sequence_log_probs
from torchstone.dpo.variants import ipo_loss, kto_loss, simpo_loss
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.grpo.variants import group_token_mean, overlong_penalties
from torchstone.ppo import gae, ppo_loss, shaped_rewards
from torchstone.recipes import RECIPES, Choice, DistillRecipe, PolicyRecipe, PreferenceRecipe, find, page, table
from torchstone.recipes.choices import TENSORS
from torchstone.reinforce import discounted_returns, leave_one_out_advantages, reinforce_loss

ROOT = Path(__file__).parent.parent
POLICY = [row for row in RECIPES.values() if isinstance(row, PolicyRecipe)]
PREFERENCE = [row for row in RECIPES.values() if isinstance(row, PreferenceRecipe)]
PUBLISHED = [row for row in RECIPES.values() if "@" not in row.name]
P, G, T = 2, 3, 5
same = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)
policy_rows = pytest.mark.parametrize("row", POLICY, ids=lambda row: row.name)
preference_rows = pytest.mark.parametrize("row", PREFERENCE, ids=lambda row: row.name)


def policy_batch(seed: int = 0, dtype=torch.float64) -> dict:
    """What any policy row may need, for P groups of G."""
    g = torch.Generator().manual_seed(100 + seed)
    batch = token_batch(seed, dtype, rows=P * G)
    batch["sampler_log_probs"] = batch["old_log_probs"] + 0.3 * torch.randn(P * G, T, generator=g).to(dtype)
    batch["rewards"] = torch.randn(P, G, generator=g, dtype=torch.float64).to(dtype)
    batch["energies"] = torch.rand(P * G, T, generator=g, dtype=torch.float64).to(dtype)
    batch["greedy_rewards"] = torch.randn(P, generator=g, dtype=torch.float64).to(dtype)
    batch["draws"] = torch.rand(P * G, T, generator=g, dtype=torch.float64).to(dtype)
    batch["token_weights"] = torch.rand(P * G, T, generator=g, dtype=torch.float64).to(dtype)
    batch["right"] = batch["right"] > 0
    batch["expert_log_probs"] = -torch.rand(P * G, T + 1, generator=g, dtype=torch.float64).to(dtype)
    batch["expert_mask"] = torch.rand(P * G, T + 1, generator=g) > 0.3
    batch["prompt_values"] = torch.randn(P, generator=g, dtype=torch.float64).to(dtype)
    batch["several_rewards"] = torch.randn(P, G, 3, generator=g, dtype=torch.float64).to(dtype)
    batch["reward_weights"] = torch.rand(3, generator=g, dtype=torch.float64).to(dtype)
    return batch


OF_PROMPTS = ("rewards", "greedy_rewards", "prompt_values", "several_rewards")
STAGE_5 = ("old_log_probs", "ref_log_probs", "values", "energies", "greedy_rewards", "prompt_values", "reward_weights")
AHEAD = ("old_log_probs", "sampler_log_probs", "entropies", "draws")
STAGE_6 = ("old_log_probs", "ref_log_probs", "sampler_log_probs", "values", "old_values", "returns", "entropies",
           "token_weights", "right", "expert_log_probs", "expert_mask")  # fmt: skip


def rows_of(batch: dict, index) -> dict:
    return {k: v if k in (*OF_PROMPTS, "reward_weights") else v[index] for k, v in batch.items()}


def rewards_of(row, batch):
    return batch["several_rewards"] if row.several else batch["rewards"]


def advantages(row, batch):
    row = fitting(row)
    given = row.used("advantages", batch)
    return row.advantages(rewards_of(row, batch), batch["mask"], max_length=T, **given)


def fitting(row):
    """DAPO's cache of 4,096 tokens does not fit completions of five, nor do 2 of 10,000 tokens these few."""
    row = row.but(penalty=Choice("overlong", cache=2)) if row.penalty.name == "overlong" else row
    row = row.but(advantage=Choice("pass-at-k", k=2, eps=1e-6)) if row.advantage.name == "pass-at-k" else row
    few = {"share": 0.3} | ({"low": 0.0} if row.tokens.name == "clip-cov" else {})
    small = row.tokens.numbers.get("share", 1) < 0.1
    return row.but(tokens=Choice(row.tokens.name, **{**row.tokens.numbers, **few})) if small else row


def token_weights(row, batch, earned):
    """What the row makes of the whole batch."""
    return fitting(row).token_weights(batch["log_probs"], earned, batch["mask"], **row.used("token_weights", batch))


def run(row, batch, denominator=None, earned=None, weights=None, learned_tokens=None):
    """Value, gradients by every tensor it may flow through, metrics."""
    earned = advantages(row, batch).advantages if earned is None else earned
    weights = token_weights(row, batch, earned) if weights is None else weights
    leaves = {k: batch[k].clone().requires_grad_() for k in ("log_probs", "values", "entropies")}
    given = row.used("loss", batch | leaves | {"token_weights": weights})
    how = {"max_length": T, "group_size": G, "denominator": denominator}
    counted = {"right-answers": "right_tokens", "expert": "expert_tokens"}.get(row.likelihood.name)
    how |= {counted: learned_tokens} if counted else {}
    loss = row.loss(leaves["log_probs"], earned, batch["mask"], **given, **how)
    gradients = torch.autograd.grad(loss.value, list(leaves.values()), allow_unused=True)
    zeros = [torch.zeros_like(x) if d is None else d for d, x in zip(gradients, leaves.values(), strict=True)]
    return loss.value.detach(), dict(zip(leaves, zeros, strict=True)), {k: float(m) for k, m in loss.metrics.items()}


# ------------------------------------------------------------------------------------------------ what a row says


def test_there_are_as_many_published_rows_as_promised():
    assert sum(isinstance(row, PolicyRecipe) for row in PUBLISHED) >= 20
    assert sum(isinstance(row, PreferenceRecipe) for row in PUBLISHED) >= 12
    assert sum(isinstance(row, DistillRecipe) for row in PUBLISHED) >= 7


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_every_number_of_a_published_row_says_where_it_is_stated(row):
    numbers, stated = set(row.numbers()), {k for k, v in row.stated.items() if v}
    assert numbers == stated, f"without a place: {numbers - stated}; of no number: {stated - numbers}"
    assert row.source and row.about.endswith(".")


@pytest.mark.parametrize("kind", [PolicyRecipe, PreferenceRecipe, DistillRecipe])
def test_every_option_and_every_number_says_what_it_does(kind):
    for at, options in kind.COLUMNS.items():
        for name, option in options.items():
            assert option.effect.endswith(".") and all(text.endswith(".") for text in option.beside.values())
            for number in option.numbers:
                assert {number, f"{at}.{number}", f"{name}.{number}"} & set(kind.NUMBERS), (at, name, number)
    said = {number for options in kind.COLUMNS.values() for o in options.values() for number in o.numbers}
    assert {key.split()[0].split(".")[-1] for key in kind.NUMBERS} == said


def test_no_code_asks_for_a_recipes_name():
    names = {row.name for row in RECIPES.values()} - {"dpo", "ppo", "grpo", "reinforce"}  # these are folders too
    for file in (ROOT / "torchstone").rglob("*.py"):
        if ROOT / "torchstone" / "frameworks" not in file.parents:
            text = file.read_text()
            assert not any(f'== "{name}"' in text or f'in ("{name}"' in text for name in names), file


def test_rows_can_be_imported_first_and_bring_no_framework():
    code = "import torchstone.frameworks.liger.rows, torchstone.recipes, sys; print(*torchstone.recipes.RECIPES)"
    code += "; assert not {'trl', 'verl', 'openrlhf', 'liger_kernel', 'transformers'} & set(sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == list(RECIPES)


# -------------------------------------------------------------------------------------------------- every row runs


@policy_rows
def test_what_lies_under_the_mask_never_matters(row):
    batch = policy_batch()
    dirty = {
        k: v.masked_fill(~batch["mask"], math.nan) if v.shape == (P * G, T) and k != "mask" else v
        for k, v in batch.items()
    }
    same(advantages(row, batch)[0], advantages(row, dirty)[0])
    same(run(row, batch), run(row, dirty))


@policy_rows
def test_groups_in_another_order_give_the_same_loss(row):
    batch, order = policy_batch(), torch.tensor([3, 4, 5, 0, 1, 2])
    swapped = rows_of(batch, order) | {k: batch[k].flip(0) for k in OF_PROMPTS}
    value, gradients, metrics = run(row, batch)
    same((value, {k: g[order] for k, g in gradients.items()}, metrics), run(row, swapped))


@policy_rows
def test_micro_batches_of_whole_groups_add_up(row):
    batch = policy_batch()
    earned = advantages(row, batch).advantages
    weights = token_weights(row, batch, earned)
    value, gradients, _ = run(row, batch, earned=earned)
    counts = {"token-mean": batch["mask"].sum(), "group-token-mean": P}
    expert = row.likelihood.name == "expert"
    learned = batch["expert_mask"].sum() if expert else batch["mask"][batch["right"]].sum()
    halves = [
        run(
            row,
            rows_of(batch, rows),
            counts.get(row.reduction.name, P * G),
            earned[rows],
            None if weights is None else weights[rows],
            learned,
        )
        for rows in (slice(0, G), slice(G, P * G))
    ]
    same(halves[0][0] + halves[1][0], value)
    for name, gradient in gradients.items():
        same(torch.cat([half[1][name] for half in halves]), gradient)


@policy_rows
def test_gradients_flow_where_the_row_says(row):
    runs = [run(row, policy_batch(seed)) for seed in range(4)]  # in one batch a narrow clip may stop every row
    moved = {name for _, gradients, _ in runs for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    metrics = runs[0][2]
    expected = {"log_probs": True, "values": row.value.name != "none", "entropies": row.entropy.name != "none"}
    assert moved == {name for name, flows in expected.items() if flows}
    assert ("kl" in metrics) == (row.loss_kl.name != "none")


@policy_rows
def test_a_missing_tensor_is_named_with_the_choice_that_needs_it(row):
    batch = policy_batch()
    sizes = {"max_length": T, "group_size": G}
    for name in row.needs():
        if name in row.option("groups").inputs:
            continue
        stages = {}
        if name in STAGE_5 or name == "max_length":
            given = row.used("advantages", batch) | {"max_length": T}
            stages[row.advantages] = ((rewards_of(row, batch), batch["mask"]), given)
        if name in row.takes("token_weights"):
            known = (batch["log_probs"], batch["advantages"], batch["mask"])
            stages[row.token_weights] = (known, row.used("token_weights", batch))
        if name in STAGE_6 or name in sizes:
            given = row.used("loss", batch) | sizes
            stages[row.loss] = ((batch["log_probs"], batch["advantages"], batch["mask"]), given)
        complaints = []
        for function, (arguments, given) in stages.items():
            try:
                function(*arguments, **given | {name: None})
            except ValueError as e:
                complaints.append(str(e))
        assert any(c.startswith(f"{name}: the recipe {row.name} needs {TENSORS[name]}, since ") for c in complaints)


# ------------------------------------------------------------------------------------------- three policies are three


def changed(row, name: str, seed: int) -> bool:
    """Whether another tensor in place of this one changes what the row computes."""
    batch = policy_batch(seed)
    other = batch | {name: policy_batch(seed + 50)[name]}
    stages = [stage for stage in row.STAGES if name in row.takes(stage)]
    if "advantages" in stages and not torch.equal(advantages(row, batch)[0], advantages(row, other)[0]):
        return True
    earned = advantages(row, batch).advantages
    if "token_weights" in stages:
        before, after = (token_weights(row, b, earned) for b in (batch, other))
        if not torch.equal(before, after):
            return True
    given = [b["token_weights"] if name == "token_weights" else None for b in (batch, other)]
    before, after = (run(row, b, earned=earned, weights=w)[:2] for b, w in zip((batch, other), given, strict=True))
    return "loss" in stages and not (
        torch.equal(before[0], after[0]) and all(torch.equal(before[1][k], after[1][k]) for k in before[1])
    )


@policy_rows
def test_every_tensor_that_a_row_takes_changes_what_it_computes(row):
    for name in {name for stage in row.STAGES for name in row.takes(stage)} - {
        "max_length",
        "group_size",
        "denominator",
        "right_tokens",
        "expert_tokens",
    }:
        assert any(changed(row, name, seed) for seed in range(6)), name


@policy_rows
def test_a_tensor_that_a_row_would_ignore_is_refused(row):
    batch = policy_batch()
    stages = {
        "advantages": (STAGE_5, (rewards_of(row, batch), batch["mask"])),
        "token_weights": (AHEAD, (batch["log_probs"], batch["advantages"], batch["mask"])),
        "loss": (STAGE_6, (batch["log_probs"], batch["advantages"], batch["mask"])),
    }
    for stage, (names, arguments) in stages.items():
        sizes = {} if stage == "token_weights" else {"max_length": 8192}
        sizes |= {"group_size": G} if stage == "loss" else {}
        for name in set(names) - set(row.takes(stage)):
            with pytest.raises(
                ValueError, match=re.escape(f"{name}: the recipe {row.name} does not use it in {stage}")
            ):
                getattr(row, stage)(*arguments, **row.used(stage, batch), **{name: batch[name]}, **sizes)


SCALARS = {"reference_point": torch.tensor(0.3), "reward_shift": torch.tensor(0.3)}


@preference_rows
def test_a_reference_that_a_preference_row_would_ignore_is_refused(row):
    batch = pairs()
    own = {k: x for k, x in batch.items() if k in OWN}
    known = {**batch, **SCALARS, "weights": torch.ones(6, dtype=torch.float64)}
    for scalar in SCALARS.keys() - set(row.takes()):
        with pytest.raises(ValueError, match=rf"{scalar}: .* does not use it in loss, .*; got 0\.3$"):
            row.loss(**own, **row.used("loss", known), **{scalar: 0.3})
    for name in known.keys() - own.keys() - set(row.takes()):
        with pytest.raises(ValueError, match=re.escape(f"{name}: the recipe {row.name} does not use it in loss")):
            row.loss(**own, **row.used("loss", known), **{name: known[name]})


@preference_rows
@pytest.mark.parametrize("count", [6, torch.tensor(6)])
def test_a_count_for_a_supervised_term_that_a_preference_row_has_not_is_refused(row, count):
    if "sft_denominator" not in row.takes():
        with pytest.raises(ValueError, match=r"sft_denominator: .* does not use it in loss, .*; got "):
            prefer(row, pairs(), sft_denominator=count)
    else:
        assert prefer(row, pairs(), sft_denominator=count)[0].isfinite()


def test_the_sentences_on_a_preference_row_are_true_of_it():
    def effect(name, at, number=""):
        return RECIPES[name].effect(at, number)

    # cDPO pulls a pair back beyond log(0.9 / 0.1); DPO never does
    assert "unless labels are smoothed" in effect("cdpo", "objective")
    # CPO asks for no margin; ORPO has no beta; SLiC and CPO sum log-probs and have no log-ratio
    assert "with a margin" not in effect("cpo", "objective")
    assert "beta is on another scale" not in effect("orpo", "log_prob")
    assert not any("log-ratio" in effect(name, "log_prob") for name in ("slic", "cpo", "dpo"))
    # a logistic comparison is never satisfied
    assert "is enough" not in effect("simpo", "objective", "beta")


def test_nca_pulls_the_chosen_reward_to_log_2_and_the_rejected_one_down():
    r_w = torch.tensor([math.log(2)], dtype=torch.float64, requires_grad=True)
    r_l = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    row = RECIPES["nca"]
    row.run("objective", {
        "chosen_log_probs": r_w / 0.01, "rejected_log_probs": r_l / 0.01,
        "ref_chosen_log_probs": zero, "ref_rejected_log_probs": zero,
    }).value.backward()  # fmt: skip
    assert abs(r_w.grad.item()) < 1e-12 and r_l.grad.item() > 0


def test_deepseek_v3_2_drops_what_has_left_the_engine_that_sampled():
    """Two completions of 3 tokens, the trainer's log-probs -1 before and after, the engine's -0.2 in the second."""
    log_probs, old = (torch.full((2, 3), -1.0, dtype=torch.float64) for _ in range(2))
    sampler = old.clone()
    sampler[1] = -0.2
    known = {"old_log_probs": old, "sampler_log_probs": sampler, "ref_log_probs": old}
    mask, earned = torch.ones(2, 3, dtype=torch.bool), torch.tensor([1.0, -1.0], dtype=torch.float64)
    loss = RECIPES["deepseek-v3.2"].loss(log_probs.requires_grad_(), earned, mask, **known)
    (gradient,) = torch.autograd.grad(loss.value, log_probs)
    same(gradient, torch.tensor([[-1 / 6] * 3, [0.0] * 3], dtype=torch.float64))


@pytest.mark.parametrize("name", ("dppo", "dppo-kl", "vespo"))
def test_a_row_that_is_anchored_at_the_sampler_takes_its_ratio_from_there(name):
    row, batch = RECIPES[name], policy_batch(3)
    assert row.anchor == Choice("sampler") and "old_log_probs" not in row.takes("loss")
    trainer = row.but(anchor=Choice("trainer"))
    earned, shift = advantages(row, batch).advantages, batch | {"old_log_probs": batch["sampler_log_probs"]}
    same(run(row, batch, earned=earned)[:2], run(trainer, shift, earned=earned)[:2])
    with pytest.raises(ValueError, match=r"sampler_log_probs: .* the engine .*, since anchor is sampler, got None"):
        row.loss(batch["log_probs"], earned, batch["mask"])


ADVANTAGES = PolicyRecipe.COLUMNS["advantage"]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_an_option_for_advantages_heeds_who_was_scored(name):
    option = ADVANTAGES[name]
    if "token_rewards" in option.inputs:
        return
    assert "scored" in option.inputs, "without it an unscored completion counts as a reward of 0"
    batch = policy_batch()
    batch["lengths"] = batch["mask"].sum(1).view(P, G).double()
    batch["scored"] = torch.tensor([[True, True, True], [True, False, True]])
    numbers = {"correction": 1, "eps": 1e-4, "k": 2}
    found = []
    for junk in (7.0, 1e6, -1e6):
        batch["rewards"][1, 1] = batch["several_rewards"][1, 1] = junk
        known = {k: batch[k] for k in option.inputs} | {k: numbers[k] for k in option.numbers}
        found.append(option.run(**known)[batch["scored"]])
    same(found[0], found[1])
    same(found[0], found[2])


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"reward", "batch-mean", "greedy", "prompt-value", "critic"}))
def test_a_group_of_one_is_refused(name, unchecked):
    option, ones = ADVANTAGES[name], torch.ones(4, 1)
    known = dict.fromkeys(("rewards", "lengths", "token_rewards", "energies"), ones) | {"mask": ones.bool()}
    known["several_rewards"] = ones[..., None]
    numbers = {"correction": 1, "eps": 1e-4, "k": 2}
    with pytest.raises(ValueError, match="at least 2"):
        option.run(**{k: known[k] for k in option.inputs if k in known}, **{k: numbers[k] for k in option.numbers})


def test_a_row_takes_one_reward_a_completion_or_several_and_says_which():
    batch = policy_batch()
    for name, given, shape in (("grpo", "several_rewards", "P G"), ("gdpo", "rewards", "P G K")):
        with pytest.raises(
            ValueError, match=re.escape(f"rewards: expected a tensor [{shape}], since advantage of {name} is")
        ):
            RECIPES[name].advantages(batch[given], batch["mask"])
    with pytest.raises(ValueError, match="reward_weights: the recipe grpo does not use it in advantages"):
        RECIPES["grpo"].advantages(batch["rewards"], batch["mask"], reward_weights=torch.ones(3))
    for change in ("groups=mixed", "penalty=overlong+penalty.cache=2"):
        with pytest.raises(ValueError, match=r"gdpo.*expected (all|none), since .* several rewards"):
            find(f"gdpo:{change}")
    with pytest.raises(ValueError, match=r"normalise: expected another .*: not one advantage a completion"):
        find("ppo:normalise=whiten-completions+normalise.correction=1")


def test_gdpo_of_one_reward_and_no_weight_is_whitened_grpo():
    batch, row = policy_batch(), RECIPES["gdpo"]
    one = row.advantages(batch["rewards"][..., None], batch["mask"]).advantages
    plain = group_advantages(batch["rewards"], divide_by_std=True, correction=1, eps=0.0).flatten()
    same(one, ((plain - plain.mean()) / (plain.std() + 1e-8))[:, None] * batch["mask"])


@policy_rows
def test_an_unscored_completion_may_have_no_reward(row):
    batch, row = policy_batch(), fitting(row)
    batch["rewards"][1, 2] = batch["several_rewards"][1, 2] = math.nan
    given = row.used("advantages", batch) | {"max_length": T, "scored": ~batch["rewards"].isnan()}
    earned = row.advantages(rewards_of(row, batch), batch["mask"], **given).advantages
    assert earned.isfinite().all()
    if row.advantage.name in ("group-mean", "group-std", "leave-one-out") and row.reward_kl.name == "none":
        assert (earned[P * G - 1] == 0).all() or row.normalise.name == "whiten"


OWN = {"chosen_log_probs", "rejected_log_probs", "chosen_mask", "rejected_mask"}  # what every row of pairs takes


def pairs(seed: int = 0) -> dict:
    """Token log-probs of N = 6 pairs under the policy and the reference, with ragged masks."""
    g = torch.Generator().manual_seed(seed)
    log_probs = {
        name: -torch.rand(6, width, generator=g, dtype=torch.float64)
        for name, width in (
            ("chosen_log_probs", 5),
            ("rejected_log_probs", 4),
            ("ref_chosen_log_probs", 5),
            ("ref_rejected_log_probs", 4),
            ("gold_log_probs", 3),
        )
    }
    masks = {"chosen_mask": torch.rand(6, 5, generator=g) > 0.3, "rejected_mask": torch.rand(6, 4, generator=g) > 0.3}
    masks["gold_mask"] = torch.rand(6, 3, generator=g) > 0.3
    log_probs["chosen_is_from_reference"] = torch.arange(6) % 3 == 0
    return log_probs | {k: v | (torch.arange(v.shape[1]) == 0) for k, v in masks.items()}


def prefer(row, batch, **how):
    leaves = {k: batch[k].clone().requires_grad_() for k in ("chosen_log_probs", "rejected_log_probs")}
    constants = SCALARS | {"weights": torch.full((len(batch["chosen_mask"]),), 0.7, dtype=torch.float64)}
    own = {k: x for k, x in batch.items() if k in OWN}
    loss = row.loss(**{**own, **leaves, **row.used("loss", batch | constants), **how})
    return loss.value.detach(), torch.autograd.grad(loss.value, list(leaves.values())), loss.metrics


@preference_rows
def test_a_preference_row_runs_whatever_lies_under_the_mask(row):
    batch = pairs()
    value, gradients, _ = prefer(row, batch)
    assert value.isfinite() and all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients[:1])
    dirty = {
        k: v.masked_fill(~batch[f"{re.search('chosen|rejected|gold', k)[0]}_mask"], math.nan)
        if v.is_floating_point()
        else v
        for k, v in batch.items()
    }
    same((value, gradients), prefer(row, dirty)[:2])


@preference_rows
def test_preference_micro_batches_add_up_unless_the_row_sorts_the_batch(row):
    if row.objective.name == "sorted-logistic":
        return
    batch = pairs()
    value, gradients, _ = prefer(row, batch)
    learnt = batch["gold_mask" if row.sft.name == "gold" else "chosen_mask"]
    count = int(learnt.sum()) if row.sft.numbers.get("mean") == "token" else 6
    counts = {"denominator": 6} | ({"sft_denominator": count} if "sft_denominator" in row.takes() else {})
    halves = [prefer(row, {k: v[rows] for k, v in batch.items()}, **counts) for rows in (slice(0, 2), slice(2, 6))]
    same(halves[0][0] + halves[1][0], value)
    for i in (0, 1):
        same(torch.cat([half[1][i] for half in halves]), gradients[i])


@preference_rows
def test_a_preference_row_says_what_it_lacks(row):
    batch = pairs()
    own = {k: x for k, x in batch.items() if k in OWN}
    weights = torch.ones(6, dtype=torch.float64)
    everything = own | row.used("loss", {**batch, **SCALARS, "weights": weights})
    for name in row.needs():
        with pytest.raises(ValueError, match=f"^{name}: the recipe {row.name} needs .*, since (objective|sft) is"):
            row.loss(**everything | {name: None})


# ------------------------------------------------------------- rows against the functions that they are made of


def group_std(batch):
    return group_advantages(batch["rewards"], divide_by_std=True, correction=1, eps=0.0).flatten()


def ratio(batch):
    return batch["log_probs"], batch["old_log_probs"]


def reference(batch, beta):
    return {"beta": beta, "ref_log_probs": batch["ref_log_probs"]}


def by_hand_grpo(b):
    return grpo_loss(*ratio(b), group_std(b), b["mask"], reduce=sequence_mean, epsilon=0.2, **reference(b, 0.04))


def by_hand_dr_grpo(b):
    centred = group_advantages(b["rewards"], divide_by_std=False, correction=0, eps=0.0).flatten()
    reduce = partial(fixed_length_mean, length=T)
    return grpo_loss(*ratio(b), centred, b["mask"], reduce=reduce, epsilon=0.2, beta=0.0)


def by_hand_dapo(b):
    lengths = b["mask"].sum(1).view(P, G).double()
    rewards = b["rewards"] + overlong_penalties(lengths, max_length=T, cache=2)
    reduce = partial(group_token_mean, group_size=G)
    earned = group_std(b | {"rewards": rewards})
    return ppo_loss(*ratio(b), earned, b["mask"], reduce=reduce, epsilon=0.2, epsilon_high=0.28)


def by_hand_ppo(b):
    shaped = shaped_rewards(b["rewards"].flatten(), b["old_log_probs"], b["ref_log_probs"], b["mask"], beta=0.02)
    earned, _ = gae(shaped, b["values"], b["mask"], gamma=1.0, lam=0.95)
    white = masked_whiten(earned, b["mask"], correction=0, eps=1e-8)
    return ppo_loss(
        b["log_probs"], b["old_log_probs"], white, b["mask"], reduce=token_mean, epsilon=0.2, values=b["values"],
        old_values=b["old_values"], returns=b["returns"], value_epsilon=0.2, value_coef=0.1,
    )  # fmt: skip


def by_hand_rloo(b):
    kl = kl_k1(b["old_log_probs"], b["ref_log_probs"], b["mask"]).sum(1).view(P, G)
    earned = leave_one_out_advantages(b["rewards"] - 0.03 * kl).flatten()
    return reinforce_loss(b["log_probs"], earned, b["mask"], reduce=sequence_sum)


def by_hand_reinforce_plus_plus(b):
    shaped = shaped_rewards(b["rewards"].flatten(), b["old_log_probs"], b["ref_log_probs"], b["mask"], beta=0.01)
    white = masked_whiten(discounted_returns(shaped, b["mask"], gamma=1.0), b["mask"], correction=0, eps=1e-8)
    return ppo_loss(b["log_probs"], b["old_log_probs"], white, b["mask"], reduce=sequence_mean, epsilon=0.2)


def by_hand_reinforce_plus_plus_baseline(b):
    centred = group_advantages(b["rewards"], divide_by_std=False, correction=0, eps=0.0).flatten()
    white = masked_whiten(centred[:, None].expand(P * G, T), b["mask"], correction=0, eps=1e-8)
    kl = reference(b, 0.001) | {"kl": kl_k2}
    return grpo_loss(*ratio(b), white, b["mask"], reduce=sequence_mean, epsilon=0.2, **kl)


def by_hand_luspo(b):
    """Written out: the ratio of a whole row, clipped, times its length."""
    u = (b["log_probs"] - b["old_log_probs"]).masked_fill(~b["mask"], 0)
    n = b["mask"].sum(1)
    s, A = (u.sum(1) / n).exp(), group_std(b)
    return core.Loss((-torch.minimum(s * A, s.clamp(1 - 2e-3, 1 + 2.5e-3) * A) * n).mean(), {})


def by_hand_icepop(b):
    w = (b["old_log_probs"] - b["sampler_log_probs"]).exp()
    r, A = (b["log_probs"] - b["old_log_probs"]).exp(), group_std(b)[:, None]
    loss = -torch.minimum(r * A, r.clamp(0.8, 1.2) * A) * w * ((w >= 0.5) & (w <= 5))
    return core.Loss((loss.masked_fill(~b["mask"], 0).sum(1) / b["mask"].sum(1)).mean(), {})


BY_HAND = {
    "grpo": by_hand_grpo, "dr_grpo": by_hand_dr_grpo, "dapo": by_hand_dapo, "ppo": by_hand_ppo, "rloo": by_hand_rloo,
    "reinforce++": by_hand_reinforce_plus_plus, "reinforce++-baseline": by_hand_reinforce_plus_plus_baseline,
    "luspo": by_hand_luspo, "icepop": by_hand_icepop,
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_a_row_is_the_composition_that_it_claims_to_be(name):
    batch = policy_batch(1)
    value, gradients, _ = run(RECIPES[name], batch)
    for key in gradients:
        batch[key] = batch[key].requires_grad_()
    by_hand = BY_HAND[name](batch)
    same(value, by_hand.value.detach())
    for key, gradient in gradients.items():
        (expected,) = torch.autograd.grad(by_hand.value, batch[key], retain_graph=True, allow_unused=True)
        same(gradient, torch.zeros_like(gradient) if expected is None else expected)


def test_the_returns_of_a_critic_come_with_its_advantages():
    batch = policy_batch()
    shaped = shaped_rewards(
        batch["rewards"].flatten(), batch["old_log_probs"], batch["ref_log_probs"], batch["mask"], beta=0.02
    )
    same(advantages(RECIPES["ppo"], batch).returns, gae(shaped, batch["values"], batch["mask"], gamma=1.0, lam=0.95)[1])
    assert advantages(RECIPES["grpo"], batch).returns is None


def test_preference_rows_are_the_functions_on_sums_or_means():
    batch = pairs()
    masks = {"chosen": batch["chosen_mask"], "rejected": batch["rejected_mask"]}
    of = lambda average: [  # noqa: E731
        sequence_log_probs(batch[f"{ref}{side}_log_probs"], masks[side], average=average)
        for ref in ("", "ref_") for side in ("chosen", "rejected")
    ]  # fmt: skip
    sums, means = of(False), of(True)
    same(prefer(RECIPES["dpo"], batch)[0], dpo_loss(*sums, beta=0.1).value)
    same(prefer(RECIPES["dpo-norm"], batch)[0], dpo_loss(*means, beta=5.0).value)
    same(prefer(RECIPES["ipo"], batch)[0], ipo_loss(*sums, beta=0.1).value)
    same(prefer(RECIPES["ipo-mean"], batch)[0], ipo_loss(*means, beta=0.1).value)
    same(prefer(RECIPES["simpo"], batch)[0], simpo_loss(*means[:2], beta=2.0, gamma=1.0).value)
    mean = -sequence_log_probs(batch["chosen_log_probs"], masks["chosen"], average=True).mean()
    same(prefer(RECIPES["iterative-rpo"], batch)[0], dpo_loss(*sums, beta=0.1).value + mean)
    good = torch.arange(12) < 6
    how = {"beta": 0.1, "reference_point": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    same(prefer(RECIPES["kto"], batch)[0], kto_loss(torch.cat(sums[:2]), torch.cat(sums[2:]), good, **how).value)


def test_a_gold_completion_is_learnt_whatever_the_pair_is():
    """pi_w - pi_l = 2, beta 0.5, NLL 2, coef 1: log(1 + exp(-1)) + 2; the gold tokens' gradient is -1 / 3 each."""
    row, whole = find("triple-po:objective.beta=0.5"), torch.ones(1, 1, dtype=torch.bool)
    gold_mask = torch.tensor([[True, True, False, True]])
    for rejected in (-3.0, 4.0):
        gold = torch.tensor([[-1.0, -2.0, math.nan, -3.0]], dtype=torch.float64, requires_grad=True)
        pair = (torch.tensor([[x]], dtype=torch.float64) for x in (-1.0, rejected))
        loss = row.loss(*pair, whole, whole, gold_log_probs=gold, gold_mask=gold_mask).value
        same(torch.autograd.grad(loss, gold)[0], -gold_mask.double() / 3)
        assert rejected > 0 or loss.item() == pytest.approx(math.log1p(math.exp(-1)) + 2)


SHORT, FLOATS = (lambda x: x[:2]), (lambda x: x.double())  # as many rows as that, or the wrong dtype


@pytest.mark.parametrize(
    ("name", "row", "change"),
    [
        *[(f"{ref}{side}_log_probs", "ld-dpo", SHORT) for ref in ("", "ref_") for side in ("chosen", "rejected")],
        ("ref_rejected_log_probs", "dpo", lambda x: x[:, :2]),
        ("rejected_mask", "ld-dpo", SHORT),
        *[(f"{side}_mask", row, FLOATS) for side in ("chosen", "rejected") for row in ("dpo", "ld-dpo")],
        *[(name, "triple-po", SHORT) for name in ("gold_mask", "gold_log_probs")],
        ("gold_mask", "triple-po", FLOATS),
        ("chosen_is_from_reference", "xpo", SHORT),
        *[("sft_denominator", row, lambda _: -1) for row in ("triple-po", "iterative-rpo")],
    ],
)
def test_what_does_not_fit_a_pair_is_named_as_the_caller_knows_it(name, row, change, unchecked):
    row, batch = RECIPES[row], pairs()
    batch = {k: x for k, x in batch.items() if k in OWN} | row.used("loss", batch)
    assert row.loss(**batch).value.isfinite()
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got"):
        row.loss(**batch | {name: change(batch.get(name))})


def test_a_gold_completion_of_two_prompts_is_not_learnt_beside_one_pair(unchecked):
    one, two = torch.ones(1, 2, dtype=torch.bool), torch.ones(7, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^gold_mask: expected .* a row for each of 1 pairs, got bool \[7, 2\]"):
        RECIPES["triple-po"].loss(-torch.rand(1, 2), -torch.rand(1, 2), one, one,
                                  gold_log_probs=-torch.rand(7, 2), gold_mask=two)  # fmt: skip


def test_the_pair_batch_of_the_common_suite_is_not_what_a_recipe_takes(unchecked):
    whole = {k: v for k, v in pair_batch().items() if k.endswith("log_probs") and k[0] in "cr" and k != "ref_log_probs"}
    with pytest.raises(ValueError, match="expected"):
        RECIPES["dpo"].loss(
            **whole, chosen_mask=torch.ones(6, dtype=torch.bool), rejected_mask=torch.ones(6, dtype=torch.bool)
        )


# ------------------------------------------------------------------------------------- keeping, finding, comparing


def test_dynamic_sampling_names_the_groups_to_keep():
    rewards = torch.tensor([[0.7, 0.7, 0.7], [0.7, 0.7, 0.8]])
    assert RECIPES["dapo"].keep(rewards).tolist() == [False, True]
    assert RECIPES["grpo"].keep(rewards).tolist() == [True, True]


def test_a_row_with_changes():
    row = find("grpo:surrogate.epsilon_high=0.28+advantage=group-mean+loss_kl=none")
    assert row.surrogate == Choice("clip", epsilon=0.2, epsilon_high=0.28)
    assert row.advantage == Choice("group-mean") and row.loss_kl == Choice("none")
    assert row.reduction == RECIPES["grpo"].reduction
    assert find("gspo:reduction=sequence-sum").reduction == Choice("sequence-sum", empty_rows="skipped")
    assert find("cispo:surrogate.cap=none+surrogate.epsilon_high=0.28").surrogate.numbers["cap"] is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gropo", r"expected a name in the table .*, got 'gropo' \(did you mean 'grpo'"),
        ("grpo:surogate=clip", r"expected column=option .*, got 'surogate=clip' \(did you mean 'surrogate'\?\)"),
        ("grpo:surrogate=clp", r"surrogate: expected one of .*, got 'clp' \(did you mean 'clip'\?\)"),
        ("grpo:surrogate.eps=1", r"surrogate: clip takes epsilon, epsilon_high, dual_clip, got"),
        ("grpo:surrogate", "expected column=option"),
        ("rloo:surrogate=clip+surrogate.epsilon=0.2", "ratio: expected one other than none, since surrogate is clip"),
        ("vespo:ratio=product", r"ratio: expected own, since surrogate is vespo .*, got product"),
        ("grpo:surrogate=policy-gradient", "ratio: expected none, since surrogate is policy-gradient, got token"),
        (
            "grpo:reduction=fixed-length+advantage=group-std+advantage.epps=1",
            "advantage: group-std takes correction, eps",
        ),
        ("GRPO", r"got 'GRPO' \(did you mean 'grpo'"),
        ("grpo:loss_kl.beta=abc", "recipe grpo: loss_kl.beta: expected a number, got 'abc'"),
        ("grpo:loss_kl.beta=", "loss_kl.beta: expected a number, got ''"),
        ("grpo:loss_kl.beta=true", "loss_kl.beta: expected a number, got 'true'"),
        ("grpo:surrogate.epsilon=nan", "surrogate.epsilon: expected a number, got 'nan'"),
        ("cispo:surrogate.cap=x", "surrogate.cap: expected none or a number, got 'x'"),
        ("dapo:penalty.cache=6.5", "penalty.cache: expected an integer, got '6.5'"),
        ("grpo:reduction.empty_rows=1", "reduction.empty_rows: expected a word, got '1'"),
        ("grpo:loss_kl.beta=1,5", "expected changes with a \\+ between two, and 1.5 for 1,5, got 'loss_kl.beta=1,5'"),
        ("grpo:loss_kl=k3,entropy=bonus", "expected changes with a \\+ between two"),
        ("grpo:loss_kl.beta=1+loss_kl.beta=2", "recipe grpo: expected loss_kl.beta once, got 1 and 2"),
        ("grpo:loss_kl=k1+loss_kl=k2", "expected loss_kl once, got k1 and k2"),
        ("grpo:", "expected column=option"),
        ("dpo:beta=0.3", r"expected column=option .*, got 'beta=0.3' \(did you mean 'objective.beta'"),
        ("grpo:loss_kl.betta=0.3", r"recipe grpo: loss_kl: k3 takes beta, got 'betta' \(did you mean 'beta'\?\)"),
        ("grpo:reduction=tokenmean", r"recipe grpo: reduction: expected one of .*, got 'tokenmean' \(did you mean"),
    ],
)
def test_an_unknown_name_lists_near_ones(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        find(text)


def test_a_row_that_lacks_a_choice_or_misspells_one_is_no_row():
    with pytest.raises(ValueError, match="takes level, gate, low, high, kept_max, got weights"):
        RECIPES["tis"].but(sampler=Choice("weights", level="token"))
    with pytest.raises(TypeError):
        PolicyRecipe(name="x", about="", source="", ratio=Choice("token"))
    with pytest.raises(TypeError):
        replace(RECIPES["grpo"], advantge=Choice("group-mean"))


def test_differences_are_the_choices_and_numbers_that_differ():
    found = {d.at: d for d in table.differences(RECIPES["grpo"], RECIPES["dapo"])}
    assert set(found) == {"penalty", "groups", "surrogate.epsilon_high", "loss_kl", "reduction"}
    assert (
        found["surrogate.epsilon_high"].values == ("0.2 (none: as epsilon)", "0.28")
        and len(found["reduction"].effects) == 2
    )
    assert table.differences(RECIPES["grpo"], RECIPES["grpo"]) == []
    with pytest.raises(ValueError, match="expected two rows of one kind"):
        table.differences(RECIPES["grpo"], RECIPES["dpo"])


def test_a_difference_is_explained_for_the_rows_that_are_compared():
    effect = lambda row, at, number="": find(row).effect(at, number)  # noqa: E731
    whole = "gspo:ratio=product+surrogate.epsilon=0.2"
    assert "a token of a long one weighs less" in effect("grpo", "reduction") == effect("gspo", "reduction")
    assert "none weighs less" in effect(whole, "reduction")
    assert "A token that has moved" in effect("grpo", "surrogate") and "A completion" in effect("gspo", "surrogate")
    assert "tokens fall" in effect("grpo", "surrogate", "epsilon")
    assert "completions fall" in effect("gspo", "surrogate", "epsilon")
    assert "critic" in effect("ppo", "value", "epsilon") and "probability" in effect("dppo", "surrogate", "epsilon")
    assert "nearly equal advantages" in effect("ppo", "normalise", "eps")
    assert "1 / (2 beta)" in effect("ipo", "objective", "beta") and "sharpens" in effect("simpo", "objective", "beta")
    assert "A ratio is 1" in effect("grpo", "anchor") and "A ratio" not in effect("reinforce", "anchor")
    assert "wrong answers" in effect("grpo", "reduction") and "wrong" not in effect("gkd", "reduction")
    assert "the policy gradient" in effect("reinforce", "reduction") and "gradient" not in effect("opd", "reduction")
    found = {d.at: d.effects for d in table.differences(RECIPES["grpo"], find("gspo:loss_kl.beta=0.04+loss_kl=k3"))}
    assert len(found["surrogate.epsilon"]) == 2  # each row's own sentence


def test_an_anchor_is_told_where_one_of_two_rows_takes_nothing_from_it():
    found = {d.at: d for d in table.differences(RECIPES["mopd"], find("iw-opd@trl-1.16.0"))}
    assert found["anchor"].values == ("none", "sampler") and "present policy" in found["anchor"].effects[0]
    assert "the engine that sampled" in found["anchor"].effects[1]
    assert "to the present policy" in found["signal"].effects[0]
    found = {d.at: d for d in table.differences(RECIPES["vespo"], RECIPES["reinforce"])}
    assert found["anchor"].values == ("sampler", "none") and "No ratio" in found["anchor"].effects[1]
    assert "anchor" not in {d.at for d in table.differences(RECIPES["mopd"], RECIPES["opd-sequence"])}
    assert "anchor" not in table.in_words(RECIPES["mopd"], RECIPES)


def test_an_upper_bound_that_is_none_is_told_as_the_lower_one_only_where_it_is():
    in_full = lambda row, number="epsilon_high": table.in_full(RECIPES[row], "surrogate", number)  # noqa: E731
    assert in_full("cispo") == "none"  # its cap is the bound
    assert in_full("dppo") == "0.2 (none: as epsilon)" and in_full("grpo") == "0.2 (none: as epsilon)"
    assert in_full("gmpo") == "0.4 (none: as epsilon)"


def test_a_ratio_of_the_whole_completion_is_not_clipped_as_a_whole_where_its_tokens_have_their_own_advantages():
    row = find("gspo@openrlhf-0.11.2")  # its KL is in each token's reward
    log_probs = torch.full((1, 2), 0.5, dtype=torch.float64, requires_grad=True)
    mask, old = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.float64)
    for advantages, pushed in (([[1.0, -1.0]], True), ([[1.0, 1.0]], False)):
        loss = row.loss(log_probs, torch.tensor(advantages, dtype=torch.float64), mask, old_log_probs=old)
        (gradient,) = torch.autograd.grad(loss.value, log_probs)
        assert gradient[0, 0] == gradient[0, 1] and bool(gradient[0, 0] != 0) == pushed
    told = [row.effect(at) for at in ("ratio", "surrogate")] + [row.effect("surrogate", "epsilon")]
    assert not [text for text in told if "as a whole" in text]
    assert "pushed alike" in told[0] and "where its tokens share one" in told[1]


def test_a_gate_at_another_level_than_the_weights_does_not_drop_by_the_weight():
    row = find("seq-mask-tis@openrlhf-0.11.2")  # weights of tokens, a gate at the completion's mean
    numbers = row.sampler.numbers
    ratio = 2 * numbers["high"]
    sampler = torch.tensor([[-math.log(ratio), math.log(ratio)]], dtype=torch.float64)  # one too rare, one too often
    old, mask = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    weights = row.option("sampler").run(old, sampler, mask, **numbers)
    assert weights[0].tolist() == pytest.approx([ratio, 1 / ratio])  # beyond the bound, and kept
    assert "dropped where there is a gate" not in row.effect("sampler", "high") + row.effect("sampler", "low")


def test_gspo_token_clips_only_the_tokens_whose_advantage_points_where_the_completion_went():
    log_probs = torch.full((1, 2), 0.1, dtype=torch.float64, requires_grad=True)
    advantages, mask = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    row = RECIPES["gspo-token"]
    loss = row.loss(log_probs, advantages, mask, old_log_probs=torch.zeros(1, 2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.value, log_probs)
    assert gradient[0, 0] == 0 and gradient[0, 1] > 0
    assert "as a whole" not in row.effect("surrogate") and "its tokens whose advantage" in row.effect("surrogate")


def test_gpg_of_verl_is_divided_by_the_share_of_rewards_that_are_not_0():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    row = find("gpg@verl-0.9.1")
    same(row.advantages(rewards, torch.ones(4, 1, dtype=torch.bool)).advantages[:, 0], (rewards - 0.25)[0] / 0.25)
    assert row.effect("advantage").startswith("Divided by the share of rewards that are not 0")


def test_one_sample_of_the_teachers_advantage_may_lead_uphill_and_the_mean_of_all_does_not():
    g = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(50, 3, generator=g, dtype=torch.float64) for _ in range(2))
    log_p, log_q = logits.requires_grad_().log_softmax(1), teacher.log_softmax(1)
    (uphill,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), logits, retain_graph=True)
    step = lambda y: torch.autograd.grad(((log_q - log_p).detach() * log_p)[:, y].sum(), logits, retain_graph=True)[0]  # noqa: E731
    raised = torch.stack([(step(y) * uphill).sum(1) for y in range(3)], 1)
    assert (raised > 1e-6).any() and ((raised * log_p.exp()).sum(1) < 0).all()
    assert "on average" in find("opd-sequence").effect("signal")


@pytest.mark.parametrize("ratio", ("token", "sequence", "product"))
@pytest.mark.parametrize("reduction", ("token-mean", "sequence-mean", "sequence-sum", "fixed-length"))
def test_what_is_said_of_a_reduction_is_what_a_token_weighs_beside_that_ratio(ratio, reduction):
    """On policy with A = 1: how a token's gradient falls with its completion's length, n ** slope."""
    mask = torch.tensor([[True] * 4, [True] + [False] * 3])
    log_probs = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    row = find(f"grpo:ratio={ratio}+surrogate=importance+loss_kl=none+reduction={reduction}")
    loss = row.loss(log_probs, torch.ones(2), mask, old_log_probs=torch.zeros(2, 4).double(), **(
        {"max_length": 8} if reduction == "fixed-length" else {}
    ))  # fmt: skip
    (gradient,) = torch.autograd.grad(loss.value, log_probs)
    slope = math.log(gradient[0, 0] / gradient[1, 0], 4)
    said = {-1: "token of a long one weighs less", 0: "", 1: "its tokens"}
    assert slope == pytest.approx(round(slope)) and said[round(slope)] in row.effect("reduction")


def test_a_row_in_one_line_is_what_it_does_differently_from_another():
    words = lambda name: table.in_words(RECIPES[name], RECIPES)  # noqa: E731
    assert words("dapo") == "grpo with overlong 4096; mixed groups; clip high 0.28; no KL; group-token-mean"
    assert words("cdpo") == "dpo with logistic label smoothing 0.1" and words("dpo") == "log-prob sum; logistic 0.1"
    assert words("grpo@liger-0.8.5").startswith("grpo with ") and words("kto@trl-1.16.0") == "as kto"
    for name, row in RECIPES.items():
        known = table.parent(row, RECIPES)
        assert (known is None) == (name in table.ROOTS), name
        if known is not None:
            columns = {d.at.partition(".")[0] for d in table.differences(known, row)}
            columns -= {"anchor"} if "anchor" in row.COLUMNS and not row.inputs("anchor") else set()
            told = words(name).removeprefix(f"{known.name} with ").split("; ") if columns else []
            assert len(told) == len(columns), name


@pytest.mark.parametrize("kind", table.KINDS, ids=lambda kind: kind.__name__)
def test_what_is_said_of_a_tensor_has_the_shape_that_the_row_takes(kind):
    told = 0
    for stage in kind.STAGES:
        for name, parameter in inspect.signature(getattr(kind, stage)).parameters.items():
            shapes = re.findall(r"Tensor, '([^']+)'", str(parameter.annotation))
            if name in TENSORS and shapes:
                told += 1
                assert all(f"[{shape.strip()}]" in TENSORS[name] for shape in shapes), (name, shapes, TENSORS[name])
    assert told


def test_what_is_said_of_preference_rows_is_true_of_those_that_say_it():
    batch = dict(zip(("chosen_log_probs", "rejected_log_probs"), -torch.rand(2, 4, 3).double(), strict=True))
    batch |= {f"ref_{name}": -torch.rand(4, 3).double() for name in batch}
    masks = dict.fromkeys(("chosen_mask", "rejected_mask"), torch.ones(4, 3, dtype=torch.bool))
    shuffled = {k: x.roll(1, 0) if "rejected" in k else x for k, x in batch.items()}
    for name in ("aot", "aot_unpaired"):  # where other pairs give the same loss, no margin of a pair is compared
        row = RECIPES[name]
        paired = abs(row.loss(**batch, **masks).value - row.loss(**shuffled, **masks).value) > 1e-9
        assert paired == (name == "aot") and (paired or "margin" not in row.effect("objective"))
    # the rejected falls three times as fast in theta: the chosen falls with it, although it is trained on too
    theta = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    long, masks = torch.ones(1, 100).double(), {k: torch.ones(1, 100, dtype=torch.bool) for k in masks}
    row, pair = RECIPES["iterative-rpo"], (theta * long, 3 * theta * long)
    ref = {"ref_chosen_log_probs": pair[0].detach(), "ref_rejected_log_probs": pair[1].detach()}
    (slope,) = torch.autograd.grad(row.loss(*pair, **masks, **ref).value, theta)
    assert slope > 0 and "cannot" not in row.effect("sft")


def test_the_page_in_the_docs_is_in_step():
    assert (ROOT / "docs/recipes.md").read_text() == page.markdown() + "\n", (
        "torchstone recipes --markdown > docs/recipes.md"
    )


def test_the_page_has_each_row_once_in_a_group_and_stays_short():
    text, published = page.markdown(), [name for name in RECIPES if "@" not in name]
    assert sorted(name for names in page.GROUPS.values() for name in names) == sorted(published)
    assert set(page.TWELVE) <= set(published) and len(page.TWELVE) == 12 and len(text.split()) <= 6000
    lines = text.splitlines()
    for name in published:
        assert sum(line.startswith(f"| `{name}` |") and "source" not in line for line in lines) >= 1
    columns, told = [], set()
    for line in lines[lines.index("## The same rows as frameworks compute them") :]:
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        columns = [cell.replace(" ", "-") for cell in cells] if name == "row" else columns
        told |= {
            f"{name}@{at}" for at, cell in zip(columns, cells, strict=False) if cell and name not in ("row", "---")
        }
    assert told == RECIPES.keys() - published


def test_the_command_prints_every_option_once(capsys):
    assert main(["recipes", "--choices"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    options = {
        (at, name): o.effect
        for kind in table.KINDS
        for at, columns in kind.COLUMNS.items()
        for name, o in columns.items()
    }
    assert len(options) > 80
    for (_, name), effect in options.items():
        assert name in out and effect.split()[0] in out


def test_the_command_prints_rows_differences_and_data(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "grpo" in out and "simpo" in out and "@" not in out
    published, lines = [name for name in RECIPES if "@" not in name], out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert all(sum(line.split(" ")[0] == name for line in lines) == 1 for name in published)  # one line each
    assert main(["recipes", "dapo"]) == 0
    assert "epsilon_high 0.28" in capsys.readouterr().out
    assert main(["recipes", "grpo", "dapo"]) == 0
    out = capsys.readouterr().out
    assert "group-token-mean" in out and "Every completion weighs the same" in out and "advantage" not in out.split()
    assert main(["recipes", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(RECIPES)
    assert rows["dapo"]["choices"]["surrogate"] == {"option": "clip", "epsilon": 0.2, "epsilon_high": 0.28}
    assert main(["recipes", "gropo"]) == 1
    assert "did you mean 'grpo'" in capsys.readouterr().err
