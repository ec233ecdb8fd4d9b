"""A function with everything that is needed to call it, found by trying on a few plain cases."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torchstone.conformance.call import PER_ROW, Way, call
from torchstone.conformance.compare import matches
from torchstone.conformance.fit import Fit
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Vectors, hazards


@dataclass(frozen=True)
class Trial:
    """A function with everything that is needed to call it; ``run`` is one case in one precision."""

    function: Callable[..., Any]
    fit: Fit
    way: Way
    vectors: Vectors
    time_limit: float

    def run(self, case: Case, precision: str = "float64") -> Outcome:
        return call(self.function, self.fit, self.way, self.vectors, case, precision, self.time_limit)


def run_all(trial: Trial, cases: Iterable[Case]) -> dict[int, Outcome]:
    """Every case once, in float64; after three that took too long, no more."""
    outcomes: dict[int, Outcome] = {}
    for case in cases:
        if sum(o.kind == "timeout" for o in outcomes.values()) < OVERTIMES:
            outcomes[case.id] = trial.run(case)
    return outcomes


OVERTIMES = 3


def constant_rows(case: Case) -> bool:
    given = [x for k in PER_ROW for x in [case.inputs.get(k)] if isinstance(x, list)]
    rows = [row for x in given for row in x if isinstance(row, list)]
    return all(len(set(row)) == 1 for row in rows)


def applies(case: Case, how: Fit, vectors: Vectors, without: bool = False) -> bool:
    """Can the function be asked this at all? What it cannot be given must not matter in the case.

    ``without``: a reference may be missing even so, to name what a function without one computes.
    """
    if case.settings.get("denominator") is not None and not how.expresses("denominator"):
        return False
    for name, x in case.inputs.items():
        if without and name.startswith("ref_"):
            continue
        if how.expresses(name) or (name.endswith("log_probs") and _derived(how)):
            continue
        if name.endswith("mask") and all(m for row in x for m in (row if isinstance(row, list) else [row])):
            continue
        if name == "old_log_probs" and x == case.inputs["log_probs"]:
            continue
        return False
    required = {ours for theirs, ours in how.arguments.items() if theirs not in how.optional}
    # a reference that the case has no need of can be anything, if its weight can be set to 0
    return all(k in case.inputs or (k == "ref_log_probs" and how.expresses("beta")) for k in required)


def _derived(how: Fit) -> bool:
    return any(d in ("log_ratios", "ratios") for d in how.derived.values())


def likely_arrays(function: Callable[..., Any]) -> tuple[str, ...]:
    """The library that the function itself speaks of, or else its module; then the others worth trying."""
    run = getattr(function, "forward", None) or function
    spoken = getattr(getattr(run, "__code__", None), "co_names", ())
    here = getattr(run, "__globals__", None) or vars(sys.modules.get(getattr(function, "__module__", "") or "", sys))
    for names in (spoken, list(here)):
        found = {x.__name__.split(".")[0] for k in names if isinstance(x := here.get(k), ModuleType)}
        for library, other in (("torch", "numpy"), ("jax", ""), ("numpy", "torch")):
            if library in found:
                return (library, other) if other else (library,)
    return "torch", "numpy"


def best_way(
    function: Callable[..., Any], how: Fit, vectors: Vectors, cases: list[Case], arrays: Sequence[str],
    layout: str | None, output: str | None, time_limit: float,
) -> Trial:  # fmt: skip
    """The most favourable reading of what the signature leaves open, found on a few plain cases."""
    plain = [c for c in cases if c.expected is not None and c.result == "valid" and not hazards(c) and _uneven(c)]
    guesses = hypotheses(
        plain or [c for c in cases if c.expected is not None] or cases[:1], [*fixed_settings(how, vectors)]
    )
    best: tuple[float, Trial] | None = None
    for way in _ways(how, vectors, arrays, layout, output):
        if way.rewards == "row" and layout is None and best is not None and best[0] >= 1:
            break  # it takes [P G], so it is taken at its word
        trial = Trial(function, how, way, vectors, time_limit)
        score = 0.0
        for guess in guesses:  # of the numbers that the function has built in
            asked = [c for c in guess if way.advantages != "B" or constant_rows(c)][:3]
            if not asked:
                continue
            outcomes = [(trial.run(case), case) for case in asked]
            score = max(score, sum(_score(*pair) for pair in outcomes) / len(outcomes))
            if any(outcome.kind == "timeout" for outcome, _ in outcomes):
                return trial
        if best is None or score > best[0]:
            best = (score, trial)
        if score == 3:
            break
    assert best is not None
    return best[1]


def _uneven(case: Case) -> bool:
    """Are rows and columns of different number, so that they cannot be mistaken for each other?"""
    mask = case.inputs.get("mask")
    return mask is None or len(mask) != len(mask[0])


def fixed_settings(how: Fit, vectors: Vectors) -> Iterable[str]:
    """The settings that cannot be passed: the function has them built in."""
    return (k for k in vectors.settings if not how.expresses(k))


def hypotheses(cases: Iterable[Case], fixed: Sequence[str]) -> list[list[Case]]:
    """The cases by what these settings are: a function that has them built in can be right in one group only."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(tuple(repr(case.settings[k]) for k in fixed), []).append(case)
    return list(groups.values())


def _ways(how: Fit, vectors: Vectors, arrays: Sequence[str], layout: str | None, output: str | None) -> Iterable[Way]:
    """Ways to call it, the plain one first; one group at a time last."""
    has = vectors.arguments
    masks = ("bool", "float") if any(a.kind == "bool" and k.endswith("mask") for k, a in has.items()) else ("bool",)
    layouts: tuple[str, ...] = ("P G",)
    if "rewards" in has and has["rewards"].shape == "P G":
        layouts = ("flat", "P G") if "group_size" in how.derived.values() else ("P G", "row")
        if any("group" in theirs for theirs, ours in how.arguments.items() if ours == "rewards"):
            layouts = ("row", "P G")
    layouts = (layout,) if layout else layouts
    per_row = any(k in has for k in PER_ROW) and "log_probs" in has
    expanded = ("", "B T", "B 1", "B") if per_row else ("",)
    first, *rest = (k for k, a in vectors.returns.items() if not a.metric)
    outputs = (output,) if output is not None else (None,) if rest else (None, "0", "1", first)
    for rewards, kind, choice, advantages, mask in itertools.product(layouts, arrays, outputs, expanded, masks):
        yield Way(kind, mask, rewards, advantages, choice)


def _score(outcome: Outcome, case: Case) -> float:
    if outcome.kind != "numbers":
        return 0.5 if outcome.kind == "shape" else 0.0
    if case.expected is None:
        return 1.0
    if matches(outcome, case.expected):
        return 3.0
    if any(matches(outcome, n) for n in case.alternatives.values()):
        return 2.0
    return 1.0


def built_in(
    cases: list[Case], outcomes: Mapping[int, Outcome], how: Fit, vectors: Vectors
) -> tuple[dict[str, Any], list[Case]]:
    """What the settings that cannot be passed seem to be: the values under which most cases match, and those cases."""
    fixed = [
        k for k in fixed_settings(how, vectors) if k not in ("reduce", "length", "group_size") or _reduces(outcomes)
    ]

    def match(group: list[Case]) -> tuple[bool, float]:
        scored = [c for c in group if c.id in outcomes and c.expected is not None and not hazards(c)]
        right = sum(_score(outcomes[c.id], c) == 3 for c in scored)
        names = {n for c in scored for n in c.alternatives}
        named = max((sum(_score_as(outcomes[c.id], c, n) for c in scored) for n in names), default=0)
        return len(scored) > 2 and right == len(scored), max(right, named) / (len(scored) + 2)

    best = max(hypotheses(cases, fixed), key=match)
    forms = [[c for c in best if _form(c) == form] for form in dict.fromkeys(map(_form, best))]
    if len(forms) > 1:  # a function of one number a row, or of one a token, that does not take the other
        fits = [any(_score(outcomes[c.id], c) >= 2 for c in form if c.id in outcomes) for form in forms]
        best = [c for form, fit in zip(forms, fits, strict=True) if fit or not any(fits) for c in form]
    return {k: best[0].settings[k] for k in fixed}, best


def _form(case: Case) -> tuple[str, ...]:
    """Which arguments hold one number a token, of those that may also hold one a row."""
    return tuple(
        k for k in PER_ROW for x in [case.inputs.get(k)] if isinstance(x, list) and x and isinstance(x[0], list)
    )


def _score_as(outcome: Outcome, case: Case, name: str) -> bool:
    return matches(outcome, case.alternatives.get(name, case.expected))


def _reduces(outcomes: Mapping[int, Outcome]) -> bool:
    """Does the function reduce by itself? What comes back per token is reduced here, as the case says."""
    return all(o.taken != "tokens" for o in outcomes.values())
