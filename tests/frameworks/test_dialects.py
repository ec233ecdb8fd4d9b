"""Every dialect row against the framework itself: advantages, value, and the gradient by every leaf, in float64.

The cases stand in `cases_*.py`, one file a framework; cases.py has their form:

    CASES = {"grpo@trl-1.16.0": Case(run, batches=("prefix", "gaps", "empty"))}
    run(batch) -> Output(value, {"log_probs": gradient, ...}, advantages or None, given={"max_length": 512})

`given` holds arguments of the recipe's own calls that the batch does not have, or that replace the batch's.
"""

import importlib
import inspect
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cases_trl
import pytest
import torch
from batch import GROUP, DistillBatch, PolicyBatch, PreferenceBatch, leaf, value_and_grads
from cases import BATCHES, NOTHING, Case, Output
from torch import Tensor

from torchstone.dpo import bradley_terry_loss
from torchstone.frameworks.trl import functions as trl
from torchstone.recipes import RECIPES
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.distill import DistillRecipe
from torchstone.recipes.online import PolicyRecipe

MODULES = [importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("cases_*.py"))]
CASES: dict[str, Case] = {name: case for module in MODULES for name, case in module.CASES.items()}
SAME: set[str] = set().union(*(module.SAME for module in MODULES))
SEEDS = (0, 1, 2)
STAGES_4_AND_5 = ("penalty", "reward_kl", "groups", "advantage", "normalise")  # what a loss alone does not show
RUNS = [(name, kind, seed) for name, case in CASES.items() for kind in case.batches for seed in SEEDS]


class Run(NamedTuple):
    """What a row, or a framework, makes of a batch."""

    value: Tensor
    gradients: dict[str, Tensor]
    advantages: Tensor | None


@cache
def framework(name: str, kind: str, seed: int) -> Output:
    return CASES[name].run(BATCHES[kind](seed))


def run(recipe: Recipe, batch: PolicyBatch | PreferenceBatch | DistillBatch, given: Mapping[str, Any] = NOTHING) -> Run:
    """The recipe on the batch; `given` takes precedence over the batch's own tensors."""
    if isinstance(recipe, PolicyRecipe):
        return run_policy(recipe, batch, given)
    if isinstance(recipe, DistillRecipe):
        return run_distill(recipe, batch, given)
    leaves = {"chosen": leaf(batch.chosen), "rejected": leaf(batch.rejected)}
    known = {"ref_chosen_log_probs": batch.ref_chosen, "ref_rejected_log_probs": batch.ref_rejected, **given}
    masks = (batch.chosen_mask, batch.rejected_mask)
    used = {name: x for name, x in known.items() if name in (*recipe.takes(), "denominator", "sft_denominator")}
    if "gold_log_probs" in used:
        used["gold_log_probs"] = leaves["gold_log_probs"] = leaf(used["gold_log_probs"])
    loss = recipe.loss(leaves["chosen"], leaves["rejected"], *masks, **used)
    return Run(*value_and_grads(loss.value, **leaves), None)


def run_policy(recipe: PolicyRecipe, batch: PolicyBatch, given: Mapping[str, Any]) -> Run:
    # 4096 is the shortest length that the published DAPO's penalty of 4096 tokens fits in
    own = {name: x for name, x in vars(batch).items() if name != "advantages"}
    own |= {"max_length": 4096, "group_size": GROUP} | given
    found = recipe.advantages(**arguments(recipe, "advantages", own))
    leaves = {name: leaf(own[name]) for name in ("log_probs", "values", "entropies")}
    stages = {"advantages": found.advantages, "returns": found.returns if found.returns is not None else own["returns"]}
    now = {name: x.detach() for name, x in leaves.items()}
    weights = recipe.token_weights(**arguments(recipe, "token_weights", own | stages | given | now))
    loss = recipe.loss(**arguments(recipe, "loss", own | stages | {"token_weights": weights} | given | leaves))
    return Run(*value_and_grads(loss.value, **leaves), found.advantages)


def run_distill(recipe: DistillRecipe, batch: DistillBatch, given: Mapping[str, Any]) -> Run:
    """The gradient is by the logits in every row: the sampled tokens' log-probs are made of them."""
    logits = leaf(batch.logits)
    own = vars(batch) | {"logits": logits, "log_probs": batch.sampled(logits)}
    own |= {"teacher_log_probs": batch.sampled(batch.teacher_logits)} | given
    loss = recipe.loss(**{name: own[name] for name in ["mask", *recipe.takes()] if name in own})
    return Run(*value_and_grads(loss.value, logits=logits), None)


def arguments(recipe: Recipe, stage: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """What this stage of the row is called with: its positional arguments, and what it takes beside them."""
    names = inspect.signature(getattr(recipe, stage)).parameters
    taken = {*recipe.takes(stage), "scored", "denominator"}
    return {k: known[k] for k, p in names.items() if k in known and (p.kind is not p.KEYWORD_ONLY or k in taken)}


def per_token(advantages: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, advantages[:, None] if advantages.ndim == 1 else advantages, 0.0)


def far(mine: Tensor, theirs: Tensor, rtol: float) -> bool:
    """Whether an entry differs by more than 1e-12 + rtol of its size; of the largest size where float32 has rounded."""
    size = theirs.abs() if rtol <= 1e-10 else theirs.abs().max()
    return not bool(((mine - theirs).abs() <= 1e-12 + rtol * size).all())


def differs(found: Run, expected: Output, mask: Tensor | None, rtol: float) -> list[str]:
    """Which of the framework's numbers the recipe misses."""
    pairs = {"value": (found.value, expected.value)}
    pairs |= {f"gradient by {name}": (found.gradients[name], theirs) for name, theirs in expected.gradients.items()}
    if expected.advantages is not None:
        pairs["advantages"] = (found.advantages, per_token(expected.advantages, mask))
    return [name for name, (mine, theirs) in pairs.items() if far(mine, theirs, rtol)]


def missed(recipe: Recipe, name: str, kind: str, seed: int) -> list[str]:
    """What this recipe misses of the framework's numbers for the row ``name``."""
    expected, batch = framework(name, kind, seed), BATCHES[kind](seed)
    return differs(run(recipe, batch, expected.given), expected, getattr(batch, "mask", None), CASES[name].rtol)


@pytest.mark.parametrize("name,kind,seed", RUNS, ids=["-".join(map(str, run)) for run in RUNS])
def test_a_row_computes_what_the_framework_computes(name: str, kind: str, seed: int) -> None:
    expected = framework(name, kind, seed)
    assert all(bool(x.any()) for x in (expected.value, *expected.gradients.values())[:2]), "nothing to compare"
    assert missed(RECIPES[name], name, kind, seed) == []


def test_every_dialect_row_has_a_case_and_every_case_a_row() -> None:
    assert {name for name in RECIPES if "@" in name} == set(CASES)


def published(name: str) -> Recipe | None:
    """The row of the same name without a version; None for what only frameworks have (bnpo)."""
    return RECIPES.get(name.partition("@")[0])


def changed_columns(name: str) -> list[str]:
    """The columns in which a dialect differs from the published row of its name."""
    row, other = RECIPES[name], published(name)
    return [at for at in row.COLUMNS if other is not None and getattr(row, at) != getattr(other, at)]


def held_columns(name: str) -> set[str]:
    """Columns that the framework's numbers depend on: a loss alone says nothing about stages 4 and 5."""
    kind = CASES[name].batches[0]
    whole = not isinstance(RECIPES[name], PolicyRecipe) or framework(name, kind, 0).advantages is not None
    return set(RECIPES[name].COLUMNS) - ({"groups"} if whole else set(STAGES_4_AND_5))


def missed_or_refused(name: str, at: str, kind: str) -> bool:
    """The row with the published choice in this column; that one may need another beside it (a clip a ratio)."""
    try:
        return bool(missed(RECIPES[name].but(**{at: getattr(published(name), at)}), name, kind, 0))
    except ValueError:
        return True


def test_rows_that_are_the_published_ones_are_listed() -> None:
    assert {name for name in CASES if published(name) and not changed_columns(name)} == SAME


@pytest.mark.parametrize("name", CASES)
def test_a_case_tells_the_row_from_the_published_one(name: str) -> None:
    """Column by column: with the published choice in place of its own, the row misses the framework's numbers."""
    for at in set(changed_columns(name)) & held_columns(name):
        assert any(missed_or_refused(name, at, kind) for kind in CASES[name].batches), at


def missed_if_allowed(off: Recipe, name: str, kind: str) -> bool:
    """False for a number that the row refuses, as a lower bound above the upper one."""
    try:
        return bool(missed(off, name, kind, 0))
    except ValueError:
        return False


@pytest.mark.parametrize("name", CASES)
def test_a_case_holds_every_number_of_the_row(name: str) -> None:
    """With any number a little off, the row misses the framework's numbers."""
    row = RECIPES[name]
    for number, value in row.numbers().items():
        at, _, key = number.partition(".")
        if at not in held_columns(name) or isinstance(value, str | bool) or value is None:
            continue
        near = [type(value)(0.8 * value), type(value)(1.25 * value)] if value else [0.01]
        if key == "beta" and isinstance(row, DistillRecipe):
            near = [0.8 * value] if value else [0.01]  # between the two KLs: not above 1
        others = [1 - value] if key == "correction" else near
        changed = [Choice(getattr(row, at).name, **{**getattr(row, at).numbers, key: other}) for other in others]
        rows = [row.but(**{at: choice}) for choice in changed]
        assert any(missed_if_allowed(off, name, kind) for off in rows for kind in CASES[name].batches), number


def test_kto_with_reference_point_0_is_trls_apo_zero_unpaired() -> None:
    batch = BATCHES["pairs"](0)
    expected = cases_trl.kto(batch, loss_type="apo_zero_unpaired")
    found = run(RECIPES["kto@trl-1.16.0"], batch, {"reference_point": 0.0})
    assert differs(found, expected, None, 1e-10) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("with_margin", (False, True))
@pytest.mark.parametrize("centre", (None, 0.01))
def test_bradley_terry_is_trls_reward_loss(seed: int, with_margin: bool, centre: float | None) -> None:
    batch = BATCHES["pairs"](seed)
    margin = batch.margins if with_margin else None
    leaves = {"chosen_rewards": leaf(batch.chosen_rewards), "rejected_rewards": leaf(batch.rejected_rewards)}
    theirs, mine = (
        value_and_grads(loss, **leaves)
        for loss in (
            trl.bradley_terry_loss(**leaves, margin=margin, centre=centre or 0.0),
            bradley_terry_loss(**leaves, margin=margin, centre=centre or 0.0).value,
        )
    )
    assert differs(Run(*mine, None), Output(*theirs), None, 1e-10) == []


@pytest.mark.parametrize("name", ("dapo", "lite-ppo", "dr_grpo-unscaled", "rloo"))
def test_a_completion_without_a_reward_counts_as_in_trl(name: str) -> None:
    batch = BATCHES["prefix"](0)
    scored = torch.ones_like(batch.rewards, dtype=torch.bool)
    scored[1, 2] = False
    batch = replace(batch, rewards=batch.rewards.masked_fill(~scored, torch.nan))
    expected = CASES[f"{name}@trl-1.16.0"].run(batch)
    found = run(RECIPES[f"{name}@trl-1.16.0"], batch, {**expected.given, "scored": scored})
    assert differs(found, expected, batch.mask, 1e-10) == []


@pytest.mark.parametrize("name", [name for name in RECIPES if "@" in name])
def test_the_lines_that_a_row_names_are_in_its_framework(name: str) -> None:
    found = re.findall(r"([\w/]+\.py):(\d+(?:-\d+)?(?:, \d+(?:-\d+)?)*)", RECIPES[name].source)
    site = Path(sysconfig.get_paths()["purelib"])
    package = site / found[0][0].partition("/")[0]
    assert found
    for file, ranges in found:
        path = site / file if "/" in file else next(package.rglob(file))  # a bare name: told in full before
        lines = path.read_text().splitlines()
        for span in ranges.split(", "):
            first, _, last = span.partition("-")
            assert int(first) <= int(last or first) <= len(lines), f"{file}:{span} of {len(lines)} lines"
