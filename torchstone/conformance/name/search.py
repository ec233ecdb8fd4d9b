"""A name for what no alternative in the vectors explains: changes made by machine, alone and in pairs.

The order is that of a person's suspicion: an input or a number that is another one; a step that is known from another
objective; another objective; a line of the equation; two things at once. Each is computed on one or two failing cases
first, and on all only if it gives their numbers. What is tried is counted, not timed: every machine gives one report.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torchstone.conformance.ask.compare import CLOSE, difference, matches
from torchstone.conformance.name import borrowed
from torchstone.conformance.name.batches import fresh
from torchstone.conformance.name.changes import Change, numbers_of
from torchstone.conformance.name.code import code_changes
from torchstone.conformance.name.inputs import input_changes
from torchstone.conformance.name.joint import joint_changes
from torchstone.conformance.name.numbers import result_changes, scaled_inputs, setting_changes
from torchstone.conformance.result import Diagnosis, Outcome
from torchstone.conformance.vectors import MASKS, Case, hazards, leaves

CALLS = 8_000_000  # of functions, by the oracle: some seconds
SIDES = ("every_side_of_the_clip", "both_signs", "two_prompts")
IN_ONE_USE = "_where_"  # between an alternative and the value of a setting with which alone it is made
SHARE = 0.7  # of the ordinary failures that a name must explain


@dataclass(frozen=True)
class Named:
    """Changes that together give a function's numbers: in these cases, of those that were asked."""

    changes: tuple[Change, ...]
    equal: frozenset[int]
    asked: frozenset[int]

    def diagnosis(self) -> Diagnosis:
        """As the report has it."""
        kinds = {c.kind for c in self.changes}
        return Diagnosis(
            tuple(c.name for c in self.changes), "bug" if "bug" in kinds else "variant", len(self.equal),
            len(self.asked), tuple(c.about for c in self.changes), tuple(c.effect for c in self.changes),
            tuple(dict.fromkeys(x for c in self.changes for x in c.links)),
            tuple(dict.fromkeys(x for c in self.changes for x in c.pitfalls)), cases=tuple(sorted(self.equal)),
        )  # fmt: skip


class Search:
    """One function's outcomes, and what has been tried to explain them.

    Args:
        objective: the oracle's.
        trial: the function, with its signature.
        cases: those with right numbers, in which it gave numbers too.
        outcomes: what came back, by the case's id.
        wrong: the failures among them.
        progress: called with a line of what is tried.
    """

    def __init__(
        self, objective: Any, trial: Any, cases: Sequence[Case], outcomes: Mapping[int, Outcome], wrong: set[int],
        progress: Callable[[str], None] = lambda line: None,
    ):  # fmt: skip
        self.objective, self.trial, self.outcomes, self.wrong = objective, trial, dict(outcomes), wrong
        self.cases, self.progress, self.left = cases, progress, CALLS
        self.origin: dict[int, int] = {}  # of a new batch: the case that it is like
        self.core = [c for c in cases if not hazards(c)]
        differ = [c for c in cases if c.id in wrong]
        finite = [c for c in differ if _finite(outcomes[c.id])]
        self.failing = [c for c in finite if not hazards(c)] or finite or differ

    @cached_property
    def probes(self) -> list[Case]:
        """What a candidate is tried on first: a new batch, or else two failing cases of different settings."""
        if self.new:
            return self.new[:1]
        return [*self.telling[:1], *([self.other] if self.other else [])]

    @cached_property
    def telling(self) -> list[Case]:
        """The failing cases, those that tell most apart first."""
        return sorted(self.failing, key=lambda c: (-len({*MASKS, *SIDES} & set(c.flags)), _size(c)))

    @cached_property
    def other(self) -> Case | None:
        """Another failing case, of other settings if there is one."""
        first, *rest = self.telling
        return next((c for c in rest if c.settings != first.settings), next(iter(rest), None))

    @cached_property
    def new(self) -> list[Case]:
        """Batches that are in no vectors, on which the function is wrong too: a name must explain them."""
        found = []
        for number, case in enumerate(c for c in (*self.telling[:2], self.other) if c is not None):
            new = fresh(self.objective, self.trial.vectors, case, number)
            outcome = self.trial.run(new) if new is not None else None
            if new is None or outcome is None or outcome.kind != "numbers" or not _finite(outcome):
                continue
            if not matches(outcome, new.expected):
                self.outcomes[new.id] = outcome
                self.origin[new.id] = case.id
                found.append(new)
        return found

    @cached_property
    def known(self) -> list[Change]:
        """The alternatives that have a name, and may be named of this function."""
        from torchstone.conformance.evidence import candidate

        signature, vectors = self.trial.signature, self.trial.vectors
        return [a for a in borrowed.alternatives(self.objective) if candidate(a.name, signature, vectors)]

    @cached_property
    def calls(self) -> int:
        """How many functions are called to compute a probe: the same on every machine, as no clock is."""
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            numbers_of(self.objective, self.probes[0], (), gradients=False, fast=True)
        finally:
            sys.setprofile(before)
        return calls

    def run(self) -> Named | None:
        """The first kind of change that explains most ordinary failures; of its kind the one that explains most."""
        if self.objective is None or not self.failing:
            return None
        for what, changes in self.families():
            self.progress(what)
            found = self.best(c if isinstance(c, tuple) else (c,) for c in changes)
            if found is not None:
                return found
        self.progress("two changes at once")
        return self.best(self.pairs())

    def families(self) -> Iterator[tuple[str, Iterable[Change | tuple[Change, ...]]]]:
        """By kind, the simple ones first."""
        vectors = self.trial.vectors
        taken = [k for k in (*vectors.arguments, *vectors.settings) if self.trial.signature.expresses(k)]
        self.inputs = [
            *input_changes(vectors, taken), *joint_changes(vectors, taken), *setting_changes(vectors, taken),
            *scaled_inputs(vectors, taken),
        ]  # fmt: skip
        self.borrowed = [*borrowed.steps(self.objective), *result_changes(self.objective, vectors)]
        yield "inputs, numbers and steps", [*self.borrowed, *self.inputs]
        yield "other objectives", borrowed.others(self.objective, self.probes[0], taken)
        self.edited = [*code_changes(self.objective, self.probes[0])]
        known = self.known
        yield "alternatives with one value of a setting", self.in_one_use()
        yield "alternatives in pairs", _pairs(known, known)
        yield "lines of the equations", self.edited
        if all(self._value_is_right(c) for c in (*self.failing, *self.new)):
            every = [*self.known, *self.inputs, *self.borrowed, *self.edited]
            yield "gradients", map(_gradient_of, every)

    def in_one_use(self) -> Iterator[Change]:
        """An alternative with one value of a setting that is no number: a mistake in one branch of the code."""
        for k in filter(self.trial.signature.expresses, self.trial.vectors.settings):
            values = list({repr(c.settings[k]): c.settings[k] for c in self.core}.values())
            for value in (v for v in values if len(values) > 1 and (v is None or isinstance(v, bool | str))):
                for change in (c for c in self.known if f"setting {k}" not in c.replaces):
                    yield replace(
                        change, name=f"{change.name}{IN_ONE_USE}{k}_is_{value}", when=(k, value),
                        about=f"Where {k} is {'none' if value is None else value}: {change.about}",
                    )  # fmt: skip

    def pairs(self) -> Iterator[tuple[Change, ...]]:
        """An alternative with a name and any other change, any two of inputs and numbers, and what else there is."""
        known = self.known
        yield from _pairs(known, self.borrowed)
        yield from _pairs(known, self.inputs)
        yield from _pairs(self.inputs, self.inputs)
        yield from _pairs(known, self.edited)
        yield from _pairs(self.borrowed, self.inputs)

    # ------------------------------------------------------------------------------------------------------- one name

    def best(self, candidates: Iterable[tuple[Change, ...]]) -> Named | None:
        """Of these candidates the one that explains most of the ordinary failures, if it explains enough."""
        best: Named | None = None
        for changes in candidates:
            if self.left <= 0:
                break
            probes = self.probes if len(changes) == 1 else self.probes[:1]
            if not any(self.equal(changes, probe, probing=True) for probe in probes):
                continue
            named = self.named(changes)
            if named is not None and (best is None or len(named.equal) > len(best.equal)):
                best = named
        return best

    def equal(self, changes: tuple[Change, ...], case: Case, probing: bool = False) -> bool:
        """Does the function give this case's numbers with these changes? ``probing``: the value alone."""
        self.left -= self.calls
        slopes = not probing or changes[0].gradient_only
        outcome = self.outcomes[case.id]
        outcome = outcome if slopes else replace(outcome, gradients=None)
        numbers, right = numbers_of(self.objective, case, changes, slopes, fast=True), case.expected
        if numbers is None or right is None:
            return False
        unit = max(numbers.magnitude, 1e-6 * right.magnitude)  # 1e-17 is 0 that was rounded
        return difference(outcome, numbers, CLOSE["float32" if outcome.single else "float64"], unit) is None

    def named(self, changes: tuple[Change, ...]) -> Named | None:
        """The changes with what they explain; None if that is too little, or if they contradict what is right."""
        if 3 * sum(self.equal(changes, c) for c in self.new) < 2 * len(self.new):  # one may lie where a clip binds
            return None
        equal = {c.id for c in self.cases if self.equal(changes, c)}
        failing = {c.id for c in self.failing}
        equal |= {self.origin[c.id] for c in self.new}
        hit = equal & failing
        against = [c for c in self.core if c.id not in equal and c.id not in self.wrong]
        enough = len(hit) >= SHARE * len(failing) and len(against) <= (1 - SHARE) * len(self.core)
        return Named(changes, frozenset(equal), frozenset(c.id for c in self.cases)) if hit and enough else None

    def _value_is_right(self, case: Case) -> bool:
        return matches(replace(self.outcomes[case.id], gradients=None), case.expected)


def _pairs(some: Sequence[Change], others: Sequence[Change]) -> Iterator[tuple[Change, ...]]:
    """One of each, of different things."""
    pairs = itertools.combinations(some, 2) if some is others else itertools.product(some, others)
    return (pair for pair in pairs if not pair[0].replaces & pair[1].replaces)


def _gradient_of(change: Change) -> Change:
    """The right value with the gradient of this change."""
    return replace(
        change, name=f"gradient_of_{change.name}", gradient_only=True,
        about=f"The value is right, and the gradient is that of another loss. {change.about}",
    )  # fmt: skip


def _finite(outcome: Outcome) -> bool:
    trees = (outcome.outputs, outcome.gradients or {})
    return all(math.isfinite(x) for tree in trees for _, x in leaves(dict(tree)))


def _size(case: Case) -> int:
    return sum(1 for _ in leaves(dict(case.inputs)))
