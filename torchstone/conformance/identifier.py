"""The other question: which objective, recipe or dialect does a function implement, and what is it nearest to?

Objectives are told by their vectors, recipes by running every row of the table on a small batch and comparing the loss
and its gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.call import Way, call
from torchstone.conformance.checker import check
from torchstone.conformance.compare import leaves
from torchstone.conformance.fit import fit
from torchstone.conformance.result import BAD, Outcome, Report
from torchstone.conformance.target import TargetError
from torchstone.conformance.trial import likely_arrays
from torchstone.conformance.vectors import Argument, Case, Setting, Vectors, load, objectives
from torchstone.recipes import RECIPES, PolicyRecipe, PreferenceRecipe
from torchstone.recipes.choices import Choice, Recipe, show

EQUAL = 1e-6  # relative distance below which two losses are the same


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
class Identification:
    target: str
    exact: tuple[Match, ...]
    near: tuple[Match, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "target": self.target,
            "exact": [vars(m) for m in self.exact],
            "near": [vars(m) for m in self.near],
            "notes": list(self.notes),
        }


def identify(
    function: Callable[..., Any], *, names: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None,
    output: str | int | None = None, arrays: str | None = None, time_limit: float = 5.0, target: str | None = None,
) -> Identification:  # fmt: skip
    """Name what a function implements: arguments as in ``check``.

    Returns: ``Identification``: what it equals, and what it is nearest to.
    Raises ValueError: its parameters fit no objective.
    """
    how: dict[str, Any] = {"names": names, "settings": settings, "output": output, "arrays": arrays}
    how |= {"time_limit": time_limit}
    reports, reasons = [], []
    for name in objectives():
        try:
            reports.append(check(function, name, search=False, **how))
        except TargetError as e:
            reasons.append(str(e))
    exact = [_objective(report) for report in reports if not _bad(report) and not _unused(report)]
    wrong = [r for r in reports if _bad(r)]
    by_cases = sorted(wrong, key=lambda r: (len(_unused(r)), -len(_ran(r))))[:2]
    by_share = sorted(wrong, key=lambda r: (len(_unused(r)), len(_bad(r)) / len(_ran(r))))[:2]
    closest = list({r.objective: r for r in [*by_cases, *by_share]}.values())
    searched = [check(function, report.objective, **how) for report in closest]
    near = [
        _objective(r) for r in searched if any(d.kind != "edge" for d in r.diagnoses) or 2 * len(_bad(r)) < len(_ran(r))
    ]
    near.sort(key=lambda m: m.distance)
    rows = [*_rows(function, names or {}, settings or {}, output, arrays or likely_arrays(function)[0], time_limit)]
    rows.sort(key=lambda m: (m.distance > EQUAL and m.distance, len(m.differs), len(m.given), m.kind != "recipe"))
    exact += [m for m in rows if m.distance <= EQUAL and not m.differs and not m.given]
    others = [m for m in rows if m.distance <= EQUAL and (m.differs or m.given)]
    near += (others or [m for m in rows if m.distance > EQUAL and not m.differs])[:6]
    if not exact and not near:
        raise TargetError(reasons[0] if reasons else "target: its parameters fit no objective")
    exact.sort(key=lambda m: (m.kind != "objective", len(m.given), len(m.differs)))
    notes = () if exact else ("It equals nothing in the table; what is nearest stands below.",)
    name = target or getattr(function, "__qualname__", None) or type(function).__name__
    return Identification(name, tuple(exact), tuple(near), notes)


# ----------------------------------------------------------------------------------------------------------- objectives


def _ran(report: Report) -> set[int]:
    return {r.case_id for r in report.results if r.status != "skip"}


def _bad(report: Report) -> set[int]:
    return {r.case_id for r in report.results if r.status in BAD}


def _unused(report: Report) -> list[str]:
    """What the function takes and this objective does not know."""
    vectors = load(report.objective)
    known = {*vectors.arguments, *vectors.settings, "log_ratios", "ratios", "group_size"}
    return [ours for ours in report.fitted.values() if ours not in known]


def _objective(report: Report) -> Match:
    """An objective with the alternatives that explain what differs from it."""
    ran, bad = _ran(report), _bad(report)
    named = tuple(n for d in report.diagnoses for n in d.names)
    detail = f"{len(ran - bad)} of {len(ran)} cases"
    given = tuple(f"no {ours}" for ours in _unused(report))
    return Match("objective", report.objective, len(bad) / max(len(ran), 1), named, given, detail)


# -------------------------------------------------------------------------------------------------------------- recipes

POLICY = {
    "log_probs": "B T", "old_log_probs": "B T", "ref_log_probs": "B T", "sampler_log_probs": "B T", "advantages": "B",
    "mask": "B T", "values": "B T", "old_values": "B T", "returns": "B T", "entropies": "B T",
}  # fmt: skip
PAIRS = ("chosen_log_probs", "rejected_log_probs", "ref_chosen_log_probs", "ref_rejected_log_probs")


def _rows(
    function: Callable[..., Any], names: Mapping[str, str], settings: Mapping[str, Any], output: str | int | None,
    arrays: str, time_limit: float,
) -> Iterable[Match]:  # fmt: skip
    """Every row whose loss this function could be, with its distance; and rows with one choice changed."""
    for kind in (PolicyRecipe, PreferenceRecipe):
        rows = [row for row in RECIPES.values() if isinstance(row, kind)]
        found = [m for row in rows if (m := _distance(row, function, names, settings, output, arrays, time_limit))]
        yield from found
        if found and min(m.distance for m in found) > EQUAL:
            nearest = sorted(found, key=lambda m: m.distance)[:3]
            for match in nearest:
                for changed, what in _changes(RECIPES[match.name]):
                    m = _distance(changed, function, names, settings, output, arrays, time_limit)
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


def _distance(
    row: Recipe, function: Callable[..., Any], names: Mapping[str, str], settings: Mapping[str, Any],
    output: str | int | None, arrays: str, time_limit: float,
) -> Match | None:  # fmt: skip
    """How far the function is from this row, relatively; None where it cannot be asked."""
    batch = _batch(row)
    numbers: dict[str, Any] = {}
    for at in ("ratio", "surrogate", "sampler", "objective"):
        numbers |= dict(getattr(row, at, Choice("")).numbers)
    shapes = {k: ("B T" if isinstance(x, list) and isinstance(x[0], list) else "B") for k, x in batch.items()}
    arguments = {
        k: Argument(
            shapes[k],
            "",
            "bool" if k.endswith("mask") else "float",
            k in ("log_probs", *PAIRS[:2], "values", "entropies"),
        )
        for k in batch
    }
    reduce_name = {"sequence-mean": "sequence_mean", "sequence-sum": "sequence_sum"}.get(
        getattr(row, "reduction", Choice("")).name, "token_mean"
    )
    numbers = {**numbers, "reduce": reduce_name, "epsilon_high": numbers.get("epsilon_high")}
    if "loss_kl" in row.COLUMNS:
        numbers["beta"] = dict(row.loss_kl.numbers).get("beta", 0.0)  # type: ignore[attr-defined]
        numbers["entropy_coef"] = dict(row.entropy.numbers).get("coef", 0.0)  # type: ignore[attr-defined]
        numbers["value_coef"] = dict(row.value.numbers).get("coef", 0.0)  # type: ignore[attr-defined]
    case = Case(0, "", (), "valid", batch, numbers, None, None, {}, {})
    vectors = Vectors(
        row.name,
        "",
        (),
        (),
        arguments,
        {"loss": Argument("", "")},
        {k: Setting("", True, ()) for k in numbers},
        {},
        (case,),
    )
    try:
        how = fit(function, vectors, {k: v for k, v in names.items() if v in arguments or v in numbers}, settings)
        wanted = _right(row, batch)
    except ValueError:
        return None
    if not {"log_probs", "chosen_log_probs"} & set(how.arguments.values()):
        return None
    best: float | None = None
    for mask, advantages in (("bool", ""), ("bool", "B T"), ("float", ""), ("float", "B T"), ("float", "B 1")):
        outcome = call(
            function,
            how,
            Way(arrays, mask, "P G", advantages, None if output is None else str(output)),
            vectors,
            case,
            "float64",
            time_limit,
        )
        if outcome.kind == "numbers":
            found = _apart(outcome, wanted)
            best = found if best is None else min(best, found)
            if best <= EQUAL:
                break
        if outcome.kind == "timeout":
            return None
    if best is None:
        return None
    kind = "dialect" if "@" in row.name else "recipe"
    used = {ours: inspect.signature(function).parameters.get(theirs) for theirs, ours in how.settings.items()}
    given = tuple(
        f"{ours} {show(numbers[ours])}"
        for ours, p in used.items()
        if p is not None and p.default is not p.empty and p.default != numbers[ours]
    )
    if isinstance(row, PreferenceRecipe) and row.log_prob.name == "mean":
        given = ("log-probs that are means", *given)
    return Match(kind, row.name, best, (), given, row.about)


def _batch(row: Recipe) -> dict[str, Any]:
    """A small batch on which all rows differ: ragged, both signs, ratios on both sides of every clip."""
    g = torch.Generator().manual_seed(4)
    n, t = 8, 6
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    if isinstance(row, PreferenceRecipe):
        return {k: (-20 + 6 * normal(n)).tolist() for k in PAIRS}
    log_probs = -normal(n, t).abs() - 0.1
    mask = torch.arange(t)[None] < torch.tensor([6, 3, 5, 2, 6, 4, 1, 5])[:, None]
    batch: dict[str, Tensor] = {"log_probs": log_probs}
    for name in ("old_log_probs", "ref_log_probs"):
        batch[name] = log_probs + 0.4 * normal(n, t)
    batch["sampler_log_probs"] = batch["old_log_probs"] + 0.3 * normal(n, t)
    batch |= {"advantages": normal(n), "mask": mask}
    batch |= {name: normal(n, t) for name in ("values", "old_values", "returns")}
    batch["entropies"] = normal(n, t).abs()
    return {k: x.tolist() for k, x in batch.items()}


def _right(row: Recipe, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The row's own loss and gradients."""
    tensors = {k: torch.tensor(x, dtype=torch.bool if k.endswith("mask") else torch.float64) for k, x in batch.items()}
    if isinstance(row, PolicyRecipe):
        free = [k for k in ("log_probs", "values", "entropies")]
        for k in free:
            tensors[k].requires_grad_()
        loss = row.loss(**tensors, max_length=len(batch["mask"][0]), group_size=4)
    else:
        assert isinstance(row, PreferenceRecipe)
        free = list(PAIRS[:2])
        for k in free:
            tensors[k].requires_grad_()
        one = torch.ones(len(batch[PAIRS[0]]), 1, dtype=torch.bool)
        loss = row.loss(
            tensors[PAIRS[0]][:, None], tensors[PAIRS[1]][:, None], one, one,
            ref_chosen_log_probs=tensors[PAIRS[2]][:, None], ref_rejected_log_probs=tensors[PAIRS[3]][:, None],
            reference_point=0.0, weights=torch.linspace(0.5, 1.5, len(one), dtype=torch.float64),
        )  # fmt: skip
    slopes = torch.autograd.grad(loss.value, [tensors[k] for k in free], allow_unused=True)
    gradients = {k: torch.zeros_like(tensors[k]) if g is None else g for k, g in zip(free, slopes, strict=True)}
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
    return max((s / max(n, 1e-12)) ** 0.5 for s, n in zip(squares, sizes, strict=True) if n > 0 or s > 0)
