"""How far a function is from the recipes of the table: each row's own loss and gradient on one small batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.fit.aliases import AGGREGATIONS
from torchstone.conformance.fit.calling import Calling
from torchstone.conformance.fit.signature import BESIDE_TEACHER, Signature, read_signature
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Argument, Case, Setting, Vectors, leaves
from torchstone.recipes import RECIPES, DistillRecipe, PolicyRecipe, PreferenceRecipe
from torchstone.recipes.choices import Choice, Recipe, show

EQUAL = 1e-6  # relative distance below which two losses are the same
PAIRS = ("chosen_log_probs", "rejected_log_probs", "ref_chosen_log_probs", "ref_rejected_log_probs")
FREE = ("log_probs", "logits", *PAIRS[:2], "values", "entropies")  # what a gradient flows into
MEANS = "log-probs that are means"  # what a function is given that no function can see
REDUCTIONS = {
    "sequence-mean": "sequence_mean", "sequence-sum": "sequence_sum", "fixed-length": "fixed_length_mean",
}  # fmt: skip
LENGTH = 6  # tokens of the longest completion that generation allows


@dataclass(frozen=True)
class Match:
    """``kind``: "objective", "recipe" or "dialect". ``distance`` is relative, of loss and gradient; 0 is equal.

    ``differs``: for an objective the named alternatives; for a recipe the choice that was changed to get there.
    ``given``: numbers of the recipe that the function takes but does not have as its default.
    """

    kind: str
    name: str
    distance: float
    differs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class Asked:
    """A function, and what the user said of it: the arguments of ``identify``."""

    function: Callable[..., Any]
    names: Mapping[str, str]
    settings: Mapping[str, Any]
    output: str | int | None
    arrays: str
    time_limit: float


def recipes(asked: Asked) -> Iterable[Match]:
    """Every row whose loss this function could be, with its distance; and rows with one choice changed."""
    for kind in (PolicyRecipe, PreferenceRecipe, DistillRecipe):
        rows = [row for row in RECIPES.values() if isinstance(row, kind)]
        found = [m for row in rows if (m := _match(row, asked))]
        yield from found
        if found and min(m.distance for m in found) > EQUAL:
            for match in sorted(found, key=lambda m: m.distance)[:3]:
                for changed, what in _changes(RECIPES[match.name]):
                    m = _match(changed, asked)
                    if m is not None:
                        yield replace(m, name=match.name, kind=match.kind, differs=(what,))


def _changes(row: Recipe) -> Iterable[tuple[Recipe, str]]:
    """This row with another option in one column, where that needs no number of its own."""
    for at, options in row.COLUMNS.items():
        old = getattr(row, at)
        for name, option in options.items():
            kept = {k: v for k, v in old.numbers.items() if k in option.numbers}
            kept = {"beta": 0.04, "coef": 0.01, "empty_rows": "skipped"} | kept
            numbers = {k: kept[k] for k, v in option.numbers.items() if k in kept}
            missing = [k for k, v in option.numbers.items() if v is inspect.Parameter.empty and k not in numbers]
            if name == old.name or missing:
                continue
            try:
                yield row.but(**{at: Choice(name, **numbers)}), f"{at}={name}"
            except ValueError:
                continue


def _match(row: Recipe, asked: Asked) -> Match | None:
    """How far the function is from this row, relatively; None where it cannot be asked."""
    batch, numbers = _batch(row), _numbers(row)
    vectors = _vectors(row, batch, numbers)
    names = {k: v for k, v in asked.names.items() if v in vectors.arguments or v in numbers}
    try:
        signature = read_signature(asked.function, vectors, names, asked.settings)
        wanted = _right(row, batch)
    except ValueError:
        return None
    if not {"log_probs", "chosen_log_probs", "logits"} & set(signature.arguments.values()):
        return None
    distance = _distance(asked, signature, vectors, wanted)
    if distance is None:
        return None
    given = _not_default(asked.function, signature, numbers)
    if isinstance(row, PreferenceRecipe) and row.log_prob.name == "mean":
        given = (MEANS, *given)
    given = (*(f"no {ours}" for ours in signature.fillers.values() if ours in BESIDE_TEACHER), *given)
    return Match("dialect" if "@" in row.name else "recipe", row.name, distance, (), given, row.about)


def _numbers(row: Recipe) -> dict[str, Any]:
    """The row's numbers, by the names of our settings."""
    numbers: dict[str, Any] = {}
    for at in ("signal", "ratio", "surrogate", "sampler", "objective"):
        numbers |= dict(getattr(row, at, Choice("")).numbers)
    reduce = REDUCTIONS.get(getattr(row, "reduction", Choice("")).name, "token_mean")
    numbers |= {"length": LENGTH} if reduce == "fixed_length_mean" else {}
    numbers = {**numbers, "reduce": reduce, "epsilon_high": numbers.get("epsilon_high")}
    if isinstance(row, PolicyRecipe):
        numbers["beta"] = dict(row.loss_kl.numbers).get("beta", 0.0)
        numbers["entropy_coef"] = dict(row.entropy.numbers).get("coef", 0.0)
        numbers["value_coef"] = dict(row.value.numbers).get("coef", 0.0)
    return numbers


def _vectors(row: Recipe, batch: Mapping[str, Any], numbers: Mapping[str, Any]) -> Vectors:
    """The row as an objective of one case without right numbers."""
    shapes = {k: " ".join("BTV"[: torch.tensor(x).ndim]) for k, x in batch.items()}
    arguments = {
        k: Argument(shape, "", "bool" if k.endswith("mask") else "float", k in FREE) for k, shape in shapes.items()
    }
    case = Case(0, "", (), "valid", batch, numbers, None, None, {}, {})
    settings = {k: Setting("", True, ()) for k in numbers}
    return Vectors(row.name, "", (), (), arguments, {"loss": Argument("", "")}, settings, {}, (case,))


def _distance(asked: Asked, signature: Signature, vectors: Vectors, wanted: Mapping[str, Any]) -> float | None:
    """The smallest over the layouts of masks and advantages; None if none runs, or one takes too long."""
    best: float | None = None
    output = None if asked.output is None else str(asked.output)
    for mask, advantages in (("bool", ""), ("bool", "B T"), ("float", ""), ("float", "B T"), ("float", "B 1")):
        calling = Calling(asked.arrays, mask, "P G", advantages, output)
        outcome = Trial(asked.function, signature, calling, vectors, asked.time_limit).run(vectors.cases[0])
        if outcome.kind == "timeout":
            return None
        if outcome.kind == "numbers":
            found = _apart(outcome, wanted)
            best = found if best is None else min(best, found)
            if best <= EQUAL:
                break
    return best


def _not_default(function: Callable[..., Any], signature: Signature, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """The row's numbers that the function takes, where its own defaults are others.

    A number that it must be given has no default: it is the row's, unless the row has none, or leaves its term out.
    """
    parameters = inspect.signature(function).parameters
    used = {ours: parameters.get(theirs) for theirs, ours in signature.settings.items()}
    same = {"epsilon_high": (None, numbers.get("epsilon"))}  # none is the lower bound's number
    words = {ours: (numbers[ours], AGGREGATIONS.get(numbers[ours])) for ours in used if ours == "reduce"}
    right = {ours: same.get(ours, ()) if numbers[ours] is None else (numbers[ours],) for ours in used} | words
    return tuple(
        f"{ours} {show(numbers[ours])}"
        for ours, p in used.items()
        if p is not None
        and ours != "length"
        and (not numbers[ours] if p.default is p.empty else p.default not in right[ours])
    )


def _batch(row: Recipe) -> dict[str, Any]:
    """A small batch on which all rows differ: ragged, both signs, ratios on both sides of every clip."""
    g = torch.Generator().manual_seed(4)
    n, t = 8, LENGTH
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    if isinstance(row, PreferenceRecipe):
        return {k: (-20 + 6 * normal(n)).tolist() for k in PAIRS}
    log_probs = -normal(n, t).abs() - 0.1
    mask = torch.arange(t)[None] < torch.tensor([6, 3, 5, 2, 6, 4, 1, 5])[:, None]
    batch: dict[str, Tensor] = {"log_probs": log_probs}
    for name in ("old_log_probs", "ref_log_probs"):
        batch[name] = log_probs + 0.4 * normal(n, t)
    advantages = normal(n)
    for at in (int(advantages.argmin()), int(advantages.argmax())):  # a ratio of 6 is above every dual clip and cap
        batch["old_log_probs"][at, 0] = log_probs[at, 0] - 1.8
    batch["sampler_log_probs"] = batch["old_log_probs"] + 0.3 * normal(n, t)
    batch |= {"advantages": advantages, "mask": mask}
    batch |= {name: normal(n, t) for name in ("values", "old_values", "returns")}
    batch["entropies"] = normal(n, t).abs()
    if isinstance(row, DistillRecipe):
        batch["teacher_log_probs"] = log_probs + 0.5 * normal(n, t)
        batch |= {name: normal(n, t, 110) for name in ("logits", "teacher_logits")}
        batch = {k: x for k, x in batch.items() if k in row.takes() or k == "mask"}
    return {k: x.tolist() for k, x in batch.items()}


def _right(row: Recipe, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The row's own loss and gradients."""
    tensors = {k: torch.tensor(x, dtype=torch.bool if k.endswith("mask") else torch.float64) for k, x in batch.items()}
    free = {k: x.requires_grad_() for k, x in tensors.items() if k in FREE}
    if isinstance(row, PolicyRecipe | DistillRecipe):
        used = {k: x for k, x in tensors.items() if k in (*row.ALWAYS, *row.takes())}
        loss = row.loss(**used, max_length=len(batch["mask"][0]), group_size=4)
    else:
        assert isinstance(row, PreferenceRecipe)
        one = torch.ones(len(batch[PAIRS[0]]), 1, dtype=torch.bool)
        more: dict[str, Any] = {f"ref_{k}": tensors[f"ref_{k}"][:, None] for k in PAIRS[:2]}
        more |= {"reference_point": 0.0, "reward_shift": 0.5}  # at 0 BCO is what TRL calls BCO
        more |= {"chosen_is_from_reference": torch.arange(len(one)) % 2 == 0}
        more |= {"gold_log_probs": torch.full((len(one), 1), -1.5, dtype=torch.float64), "gold_mask": one}
        more |= {"weights": torch.linspace(0.5, 1.5, len(one), dtype=torch.float64)}
        pair = (tensors[k][:, None] for k in PAIRS[:2])
        loss = row.loss(*pair, one, one, **row.used("loss", more))
    slopes = torch.autograd.grad(loss.value, list(free.values()), allow_unused=True)
    gradients = {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(free.items(), slopes, strict=True)}
    return {"loss": loss.value.item(), "gradients": {k: g.tolist() for k, g in gradients.items()}}


def _apart(outcome: Outcome, wanted: Mapping[str, Any]) -> float:
    """Relative distance of loss and gradients together; values alone where no gradient flows."""
    pairs = [(outcome.outputs["loss"], wanted["loss"])]
    squares = [(a - b) ** 2 for a, b in pairs]
    sizes = [b**2 for _, b in pairs]
    if outcome.gradients is not None:
        for k, g in wanted["gradients"].items():
            right = torch.tensor([x for _, x in leaves(g)])
            got = torch.tensor([x for _, x in leaves(outcome.gradients[k])]) if k in outcome.gradients else 0 * right
            squares.append(float((got - right).square().sum()))
            sizes.append(float(right.square().sum()))
    apart = ((s / max(n, 1e-12)) ** 0.5 for s, n in zip(squares, sizes, strict=True) if n > 0 or s > 0)
    return max(apart, default=0.0)
