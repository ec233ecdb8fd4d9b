"""The other question: which objective, recipe or dialect does a function implement, and what is it nearest to?

Objectives are told by their vectors, recipes by their loss on a small batch (``nearest.recipes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchstone.conformance.checker import check
from torchstone.conformance.fit.signature import DERIVED
from torchstone.conformance.fit.target import TargetError
from torchstone.conformance.nearest import EQUAL, MEANS, Asked, Match, recipes
from torchstone.conformance.result import BAD, Report
from torchstone.conformance.trial import likely_arrays
from torchstone.conformance.vectors import load, objectives

KINDS = ("recipe", "dialect", "objective")  # in the order in which they are told
HALF = 0.5  # of an objective's cases
SEARCHED = 2  # of the nearest objectives, for a name of what differs


@dataclass(frozen=True)
class Identification:
    """``exact``: what the function equals. ``near``: what comes next, the nearest first."""

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
    """Name what a function implements.

    Args:
        function, names, settings, output, arrays, time_limit, target: as in ``check``.

    Returns: ``Identification``: what it equals, and what it is nearest to.
    Raises ValueError: its parameters fit no objective.
    """
    options: dict[str, Any] = {"names": names, "settings": settings, "output": output, "arrays": arrays}
    options |= {"time_limit": time_limit}
    exact, near, reason = _objectives(function, options)
    asked = Asked(function, names or {}, settings or {}, output, arrays or likely_arrays(function)[0], time_limit)
    rows = [*recipes(asked)]
    rows.sort(key=lambda m: (m.distance > EQUAL and m.distance, len(m.differs), len(m.given), m.kind != "recipe"))
    equal = [m for m in rows if m.distance <= EQUAL and not m.differs]
    plain = [m for m in equal if not m.given] or [m for m in equal if m.given == (MEANS,)]
    exact += plain
    others = [m for m in rows if m.distance <= EQUAL and m not in plain]
    near += (others or [m for m in rows if m.distance > EQUAL and not m.differs and not plain])[:6]
    if not exact and not near:
        raise TargetError(reason)
    exact.sort(key=lambda m: (KINDS.index(m.kind), len(m.given), len(m.differs)))
    notes = () if exact else ("It equals nothing in the table.",)
    name = target or getattr(function, "__qualname__", None) or type(function).__name__
    return Identification(name, tuple(exact), tuple(near), notes)


def _objectives(function: Callable[..., Any], options: Mapping[str, Any]) -> tuple[list[Match], list[Match], str]:
    """Those that it equals; those that it is near; and what is missing for the first that it does not fit."""
    reports, reasons = [], []
    for name in objectives():
        try:
            reports.append(check(function, name, search=None, **options))
        except TargetError as e:
            reasons.append(str(e))
    equal = [report for report in reports if not _bad(report) and not _unused(report) and _telling(report)]
    equal.sort(key=lambda r: (not _as_it_is(r), -_share(r)))
    exact = [_objective(report) for report in equal if _share(report) >= HALF or report is equal[0]]
    wrong = [r for r in reports if _bad(r)]
    by_cases = sorted(wrong, key=lambda r: (len(_unused(r)), -len(_ran(r))))[:2]
    by_share = sorted(wrong, key=lambda r: (len(_unused(r)), len(_bad(r)) / len(_ran(r))))[:2]
    closest = {} if exact else {r.objective: len(_unused(r)) for r in [*by_cases, *by_share]}
    fewest = [name for name, unused in closest.items() if unused == min(closest.values())][:SEARCHED]
    searched = [check(function, name, **options) for name in fewest]
    near = [
        _objective(r) for r in searched if 2 * len(_bad(r)) < len(_ran(r)) or any(d.kind != "edge" for d in r.diagnoses)
    ]
    near.sort(key=lambda m: m.distance)
    return exact, near, reasons[0] if reasons else "target: its parameters fit no objective"


def _as_it_is(report: Report) -> bool:
    """Is what it returns what the objective returns? A loss is the mean of what others return for each token."""
    return not any(note.startswith("it returns one number; it was compared") for note in report.notes)


def _telling(report: Report) -> bool:
    """Did it give right numbers that say something? One case may be equal by chance."""
    passed = {r.case_id for r in report.results if r.status == "pass"}
    return len(passed) >= min(3, len(load(report.objective).cases))


def _share(report: Report) -> float:
    """Of the objective's cases those that it was asked: a part of an objective is another one."""
    return len(_ran(report)) / len(load(report.objective).cases)


def _ran(report: Report) -> set[int]:
    return {r.case_id for r in report.results if r.status != "skip"}


def _bad(report: Report) -> set[int]:
    """The cases that differ; none if they are edges alone."""
    if not report.unexplained and all(d.kind == "edge" or d.accepted for d in report.diagnoses):
        return set()
    return {r.case_id for r in report.results if r.status in BAD}


def _unused(report: Report) -> list[str]:
    """What the function takes and this objective does not know."""
    vectors = load(report.objective)
    known = {*vectors.arguments, *vectors.settings, *DERIVED, "teacher_weight"}
    return [ours for ours in report.signature.values() if ours not in known]


def _objective(report: Report) -> Match:
    """An objective with the alternatives that explain what differs from it."""
    ran, bad = _ran(report), _bad(report)
    named = tuple(n for d in report.diagnoses for n in d.names)
    about = load(report.objective).about
    detail = f"{len(ran - bad)} of {len(ran)} cases are equal. {about}" if bad else about
    given = tuple(f"no {ours}" for ours in _unused(report))
    return Match("objective", report.objective, len(bad) / max(len(ran), 1), named, given, detail)
