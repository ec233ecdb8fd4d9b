"""What the checker finds: the outcome of a call, the result of a case, a diagnosis, and the report of them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PRECISIONS = ("float64", "float32")
BAD = ("fail", "error", "timeout")  # statuses that are no match


@dataclass(frozen=True)
class Outcome:
    """``kind``: "numbers", "refused" (it raised), "timeout", "shape" (nothing that it returned fits).

    ``gradients`` is None where no gradient flows. ``reduced``: "" or how the result was brought to the expected shape:
    "tokens" and "rows" (reduced here), "mean" and "sum" (it reduces what is expected per token).
    """

    kind: str
    outputs: Mapping[str, Any] = field(default_factory=dict)
    gradients: Mapping[str, Any] | None = None
    detail: str = ""
    reduced: str = ""
    single: bool = False  # all numbers are float32 numbers
    changed: tuple[str, ...] = ()  # inputs that it changed in place
    moved: tuple[str, ...] = ()  # arguments that callers hold constant, and into which a gradient flows


@dataclass(frozen=True)
class Result:
    """One case in one precision. ``status``: pass, fail, warn, skip, error (it raised or nothing fits), timeout."""

    case_id: int
    comment: str
    flags: tuple[str, ...]
    settings: Mapping[str, Any]
    precision: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The function equals the right one with these alternatives in ``matched`` of ``of`` cases.

    ``kind``: "bug", "variant", "setting" (another value of a number), "edge" (what plain, correct code forgets: it
    fails only there), or "factor" (the right numbers times a constant).
    """

    names: tuple[str, ...]
    kind: str
    matched: int
    of: int
    about: tuple[str, ...]
    effect: tuple[str, ...]
    links: tuple[str, ...] = ()
    pitfalls: tuple[str, ...] = ()
    accepted: bool = False
    cases: tuple[int, ...] = ()  # the failures that it explains
    thin: str = ""  # why the name is no more than a perhaps; "" where it is more
    silent: bool = False  # of an edge: it gives a wrong number there, and nobody sees it


@dataclass(frozen=True)
class FlagCount:
    """The cases of one flag."""

    flag: str
    kind: str
    cases: int
    passed: int
    failed: int
    warned: int
    skipped: int


@dataclass(frozen=True)
class Report:
    """What a function was found to be, against one objective."""

    target: str
    objective: str
    signature: Mapping[str, str]  # their parameter -> ours
    calling: str  # what the signature leaves open, in words
    built_in: Mapping[str, Any]  # settings that cannot be passed, and what they seem to be
    results: tuple[Result, ...]
    diagnoses: tuple[Diagnosis, ...]
    notes: tuple[str, ...]
    unexplained: tuple[Result, ...]  # failures that no diagnosis explains
    kinds: Mapping[str, str]  # of each flag
    left_default: Mapping[str, str] = field(default_factory=dict)  # what is not understood: their parameter -> value

    unasked: tuple[str, ...] = ()  # what it takes that no case has used
    strict: bool = False  # edges count as failures
    adapter: str = ""  # lines of Python that call it, to be changed where it was called in another way than it wants

    @property
    def verdict(self) -> str:
        """ "right", "edges" (right on ordinary batches), "wrong", "not asked" (too little to tell) or "not fitted"."""
        if self.unanswered:
            return "not fitted"
        if self.unexplained or any(not d.accepted and (d.kind != "edge" or d.silent) for d in self.diagnoses):
            return "wrong"
        if self.unasked or not any(r.status in ("pass", "warn") for r in self.results):
            return "not asked"
        return "edges" if any(not d.accepted for d in self.diagnoses) else "right"

    @property
    def exit_status(self) -> int:
        """0 right, edges included unless ``strict``; 1 wrong; 2 not fitted, or not asked enough to tell."""
        return {"right": 0, "edges": int(self.strict), "wrong": 1}.get(self.verdict, 2)

    @property
    def unanswered(self) -> bool:
        """Did it raise, or take too long, in each case that was tried? Then it was called in a way that it is not."""
        tried = [r for r in self.results if r.status not in ("skip", "warn")]
        return bool(tried) and all(
            r.status == "timeout" or (r.status == "error" and not r.detail.startswith("expected ")) for r in tried
        )

    @property
    def passed(self) -> bool:
        """All ordinary cases match, or what differs has a name and was accepted by it: the exit status is 0."""
        return self.exit_status == 0

    @property
    def edges(self) -> tuple[Diagnosis, ...]:
        """What plain, correct code forgets, and this function too."""
        return tuple(d for d in self.diagnoses if d.kind == "edge" and not d.accepted)

    @property
    def asked(self) -> tuple[int, int]:
        """How many cases were asked, of how many."""
        return len({r.case_id for r in self.results if r.status != "skip"}), len({r.case_id for r in self.results})

    @property
    def flag_counts(self) -> list[FlagCount]:
        """How the cases of each flag went; a case counts once, by its worst precision."""
        worst = {i: _worst(group) for i, group in itertools.groupby(self.results, key=lambda r: r.case_id)}
        flags = {r.case_id: r.flags or ("plain",) for r in self.results}
        rows = []
        for flag in dict.fromkeys(f for fs in flags.values() for f in fs):
            statuses = [worst[i] for i, fs in flags.items() if flag in fs]
            passed, warned, skipped = map(statuses.count, ("pass", "warn", "skip"))
            failed = sum(map(statuses.count, BAD))
            kind = self.kinds.get(flag, "edge")
            rows.append(FlagCount(flag, kind, len(statuses), passed, failed, warned, skipped))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "target": self.target,
            "objective": self.objective,
            "passed": self.passed,
            "verdict": self.verdict,
            "asked": list(self.asked),
            "unasked": list(self.unasked),
            "fitted": dict(self.signature),
            "way": self.calling,
            "left_default": dict(self.left_default),
            "adapter": self.adapter,
            "taken": dict(self.built_in),
            "diagnoses": [vars(d) for d in self.diagnoses],
            "flags": [vars(f) for f in self.flag_counts],
            "notes": list(self.notes),
            "unexplained": [r.case_id for r in self.unexplained],
            "results": [{**vars(r), "settings": dict(r.settings)} for r in self.results],
        }


ORDER = ("timeout", "error", "fail", "warn", "pass", "skip")  # of statuses, the worst first


def _worst(results: Iterable[Result]) -> str:
    return min((r.status for r in results), key=ORDER.index)
