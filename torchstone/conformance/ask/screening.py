"""What is found out before any search: gradients that are lost, answers that change, modes that are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.ask.compare import matches
from torchstone.conformance.fit.arguments import NO_BOUND, keywords
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Numbers, hazards, leaves

TWICE = 6  # cases that are asked once more

Outcomes = Mapping[int, Outcome]


# ------------------------------------------------------------------------------------------------------ lost gradients


def lost_gradients(trial: Trial, cases: Sequence[Case], outcomes: Outcomes) -> list[str]:
    """The inputs that no gradient reaches, in any ordinary case, though the right one is not 0 there.

    One of several inputs is lost only if the value depends on it: what is never used has another name. A function of
    NumPy has no gradients to lose.
    """
    if trial.calling.arrays == "numpy":
        return []
    vectors, found = trial.vectors, []
    ran = [c for c in cases if not hazards(c) and c.id in outcomes and outcomes[c.id].kind == "numbers"]
    for k, a in vectors.arguments.items():
        asked = [c for c in ran if wants(c, k)]
        if a.gradient and k not in vectors.held and asked and not any(_flows(outcomes[c.id], k) for c in asked):
            gone = all(outcomes[c.id].gradients is None for c in asked)
            if gone or any(_depends(trial, c, k, outcomes[c.id]) for c in asked[:3]):
                found.append(k)
    return found


def wants(case: Case, name: str) -> bool:
    """Is the right gradient by this input another one than 0?"""
    return case.expected is not None and any(x != 0 for _, x in leaves(case.expected.gradients.get(name)))


def _flows(outcome: Outcome, name: str) -> bool:
    return any(x != 0 for _, x in leaves((outcome.gradients or {}).get(name)))


def _depends(trial: Trial, case: Case, name: str, outcome: Outcome) -> bool:
    moved = replace(case, inputs={**case.inputs, name: _moved(case.inputs[name])})
    again, first = trial.run(moved), next(iter(trial.vectors.returns))
    return again.kind == "numbers" and not _same(again.outputs[first], outcome.outputs[first])


def _moved(x: Any) -> Any:
    return [_moved(part) for part in x] if isinstance(x, list) else (None if x is None else 1.01 * x - 0.003)


def without(outcomes: Outcomes, lost: Sequence[str]) -> dict[int, Outcome]:
    """The outcomes without the gradients that are known to be lost, so that the rest can be told by itself."""
    if not lost:
        return dict(outcomes)
    return {
        i: o if o.gradients is None else replace(o, gradients={k: g for k, g in o.gradients.items() if k not in lost})
        for i, o in outcomes.items()
    }


# -------------------------------------------------------------------------------------------------- not the same twice


def same_twice(trial: Trial, cases: Sequence[Case], outcomes: Outcomes) -> list[int]:
    """The cases, of some that are asked once more, in which other numbers came back."""
    ran = [c for c in cases if c.expected is not None and c.id in outcomes and outcomes[c.id].kind == "numbers"]
    some = sorted(ran, key=lambda c: (bool(hazards(c)), -sum(1 for _ in leaves(dict(c.inputs)))))[:TWICE]
    return [c.id for c in some if not _as_before(trial.run(c), outcomes[c.id])]


def drifted(trial: Trial, cases: Sequence[Case], outcomes: Outcomes) -> list[int]:
    """The cases in which other numbers came back than when they were first asked, to find out how it is called.

    A weight that warms up over the first calls, or a fault that begins with the third, shows only here.
    """
    asked = [(c.id, trial.first.get(trial.asked(c))) for c in cases if c.id in outcomes]
    return [i for i, first in asked if first is not None and not _as_before(outcomes[i], first)]


def _as_before(again: Outcome, before: Outcome) -> bool:
    """What took too long once, as on a busy machine, gave no numbers that could be others."""
    if "timeout" in (again.kind, before.kind):
        return True
    same = again.kind == before.kind
    return same and (again.kind != "numbers" or matches(again, Numbers(before.outputs, before.gradients or {})))


def constant(cases: Sequence[Case], outcomes: Outcomes, first: str) -> bool:
    """Is the first output the same number in every case, though the right ones differ?"""
    ran = [c for c in cases if c.expected is not None and c.id in outcomes and outcomes[c.id].kind == "numbers"]
    ran = [c for c in ran if not hazards(c)] or ran
    got = {round(x, 12) for c in ran for _, x in leaves(outcomes[c.id].outputs.get(first))}
    right = {round(x, 12) for c in ran if c.expected for _, x in leaves(c.expected.outputs.get(first))}
    return len(ran) > 2 and len(got) == 1 and len(right) > 2


def _same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)


# -------------------------------------------------------------------------------------------- what could not be asked


def refusals(trial: Trial, cases: Sequence[Case], outcomes: Outcomes) -> dict[int, str]:
    """The cases that it refuses by an error on a mode that it was given: why, by the case's id.

    ``raise ValueError(mode)`` is an answer: this mode is not there. It is one only if other cases are answered.
    """
    if not any(o.kind == "numbers" for o in outcomes.values()):
        return {}
    found = {}
    for case in cases:
        outcome = outcomes.get(case.id)
        if outcome is not None and outcome.kind == "refused" and case.result != "invalid":
            mode = _mode_in(outcome.detail, trial, case)
            if mode:
                found[case.id] = f"it refuses {mode}: {outcome.detail}"
    for case, name in _lists(trial, cases):
        alike = [c for c in cases if isinstance(_passed(trial, c).get(name), list)]
        if all(outcomes[c.id].kind == "refused" for c in alike if c.id in outcomes) and case.result != "invalid":
            found.setdefault(case.id, f"it refuses a list as {name}: {getattr(outcomes.get(case.id), 'detail', '')}")
    answered = {repr(sorted(_passed(trial, c).items())) for c in cases if outcomes.get(c.id, _NONE).kind == "numbers"}
    kept = [c.id for c in cases if c.id in found and repr(sorted(_passed(trial, c).items())) not in answered]
    return {i: found[i] for i in kept} | dict(_always_bounded(trial, cases, outcomes))


def _always_bounded(trial: Trial, cases: Sequence[Case], outcomes: Outcomes) -> Iterator[tuple[int, str]]:
    """The cases without a bound in whose numbers the bound shows that it was given for none: it needs one."""
    for case in cases:
        bounds = [k for k, x in NO_BOUND.items() if case.settings.get(k, x) is None and trial.signature.expresses(k)]
        outcome = outcomes.get(case.id, _NONE)
        if bounds and outcome.kind == "numbers" and case.expected is not None:
            largest = max((abs(x) for _, x in leaves(dict(outcome.outputs)) if math.isfinite(x)), default=0.0)
            if largest > SHOWS * max(case.expected.magnitude, 1.0):
                yield case.id, f"it needs a number for {bounds[0]}"


def _lists(trial: Trial, cases: Sequence[Case]) -> Iterator[tuple[Case, str]]:
    """The cases that give a list for a setting which others give one number, and the function's name of it."""
    told = [(c, _passed(trial, c)) for c in cases]
    numbers = {k for _, values in told for k, x in values.items() if isinstance(x, int | float)}
    for case, values in told:
        yield from ((case, k) for k, x in values.items() if isinstance(x, list) and k in numbers)


_NONE = Outcome("refused")
SHOWS = 1e5  # times the largest right number


def _mode_in(detail: str, trial: Trial, case: Case) -> str:
    """The parameter and value that an error speaks of; "" if it speaks of none."""
    for name, value in _passed(trial, case).items():
        said = isinstance(value, str) and value in detail
        named = re.search(rf"\\b{re.escape(name)}\\b", detail) and detail.startswith(
            ("ValueError", "NotImpl", "Assert")
        )
        absent = value is None and "NoneType" in detail
        if said or named or absent:
            return f"{name}={value!r}"
    return ""


def _passed(trial: Trial, case: Case) -> dict[str, Any]:
    """The settings as the function is given them, by its own names."""
    signature = trial.signature
    inner = signature.constructor
    told: dict[str, Any] = {}
    for part in (signature, inner) if inner else (signature,):
        alone = replace(part, arguments={}, derived={}, fillers={}, values={})
        told |= keywords(alone, trial.function, trial.calling, case, {}, {})
    return told


def switched_on(trial: Trial, case: Case) -> Case | None:
    """The case at a number in place of each none that the function is given: it cannot switch that off.

    None if there is no such number. The right numbers are those of the case as it was: see ``settled``.
    """
    vectors, settings = trial.vectors, dict(case.settings)
    for ours, value in case.settings.items():
        if value is None and trial.signature.expresses(ours) and ours != "denominator":
            known = [*vectors.settings[ours].usual, *(c.settings[ours] for c in vectors.cases)]
            settings[ours] = next((x for x in known if x is not None), None)
    return replace(case, settings=settings) if settings != dict(case.settings) else None


def unasked(trial: Trial, cases: Sequence[Case], outcomes: Outcomes) -> Iterator[str]:
    """What the function takes that was 0, or not there, in every case: nothing is known of it."""
    vectors, signature = trial.vectors, trial.signature
    ran = [c for c in cases if c.id in outcomes and outcomes[c.id].kind == "numbers" and c.result != "invalid"]
    if not ran:
        return
    theirs = {ours: name for name, ours in signature.names().items()}
    for k in vectors.settings:
        used = any(c.settings[k] not in (None, 0, 0.0) or isinstance(c.settings[k], bool) for c in vectors.cases)
        if signature.expresses(k) and used and all(c.settings[k] in (None, 0, 0.0) for c in ran):
            yield f"{theirs.get(k, k)} was never other than {'none' if ran[0].settings[k] is None else 0}"
    for k in vectors.arguments:
        if signature.expresses(k) and not any(k in c.inputs for c in ran):
            yield f"{theirs.get(k, k)} was never given"
    if not any(not hazards(c) for c in ran) and any(not hazards(c) for c in vectors.cases):
        yield "no ordinary batch could be asked"
