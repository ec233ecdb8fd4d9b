"""Run a function on an objective's vectors, and say what differs."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from torchstone.conformance.call import PER_ROW, Outcome, Way, call
from torchstone.conformance.compare import difference, in_float32, matches, properties
from torchstone.conformance.fit import Fit, fit
from torchstone.conformance.target import TargetError
from torchstone.conformance.vectors import Case, Vectors, load
from torchstone.terminal import near

PRECISIONS = ("float64", "float32")
BAD = ("fail", "error", "timeout")  # statuses that are no match


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

    ``kind``: "bug", "variant", "setting" (another value of a number), "edge" (fails only where this flag is), or
    "factor" (the right numbers times a constant).
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


@dataclass(frozen=True)
class Row:
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
    target: str
    objective: str
    fitted: Mapping[str, str]  # their parameter -> ours
    way: str
    taken: Mapping[str, Any]  # settings that the function has built in, as they were taken to be
    results: tuple[Result, ...]
    diagnoses: tuple[Diagnosis, ...]
    notes: tuple[str, ...]
    unexplained: tuple[Result, ...]  # failures that no diagnosis explains
    kinds: Mapping[str, str]  # of each flag

    @property
    def passed(self) -> bool:
        """All cases match, or what differs has a name and was accepted by it."""
        if not any(r.status in ("pass", "warn") for r in self.results):
            return False
        return not self.unexplained and all(d.accepted for d in self.diagnoses)

    @property
    def rows(self) -> list[Row]:
        """How the cases of each flag went; a case counts once, by its worst precision."""
        worst = {i: _worst(group) for i, group in itertools.groupby(self.results, key=lambda r: r.case_id)}
        flags = {r.case_id: r.flags or ("plain",) for r in self.results}
        rows = []
        for flag in dict.fromkeys(f for fs in flags.values() for f in fs):
            statuses = [worst[i] for i, fs in flags.items() if flag in fs]
            count = statuses.count
            failed = sum(map(count, BAD))
            rows.append(
                Row(
                    flag,
                    self.kinds.get(flag, "edge"),
                    len(statuses),
                    count("pass"),
                    failed,
                    count("warn"),
                    count("skip"),
                )
            )
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "target": self.target,
            "objective": self.objective,
            "passed": self.passed,
            "fitted": dict(self.fitted),
            "way": self.way,
            "taken": dict(self.taken),
            "diagnoses": [vars(d) for d in self.diagnoses],
            "flags": [vars(r) for r in self.rows],
            "notes": list(self.notes),
            "unexplained": [r.case_id for r in self.unexplained],
            "results": [{**vars(r), "settings": dict(r.settings)} for r in self.results],
        }


ORDER = ("timeout", "error", "fail", "warn", "pass", "skip")


def _worst(results: Iterable[Result]) -> str:
    return min((r.status for r in results), key=ORDER.index)


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


def check(
    function: Callable[..., Any], objective: str, *, names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None, accept: Iterable[str] = (), output: str | int | None = None,
    arrays: str | None = None, layout: str | None = None, time_limit: float = 10.0, target: str | None = None,
    search: bool = True,
) -> Report:  # fmt: skip
    """Run every case of an objective that this function can express, and name what differs.

    Args:
        function: any callable or class of torch, NumPy or JAX. Its parameters are matched by the field's usual names.
        objective: such as "grpo_loss"; ``conformance.OBJECTIVES`` lists them.
        names: their parameter -> our argument or setting, where the name does not tell.
        settings: their parameter -> a value, passed as it is.
        accept: alternatives by name ("dual_clip", "token_mean") that are meant, and so no failure.
        output: which of several results to take: an index, a key or an attribute.
        arrays: "torch", "numpy" or "jax"; found out by trying where None.
        layout: of rewards: "P G", "flat" (one row [P * G]) or "row" (one group [G] at a time); found out where None.
        time_limit: seconds for one case.
        target: what to call the function in the report.
        search: look for combinations of alternatives too, for up to half a minute.

    Returns: ``Report``; ``passed`` is True if all cases match, or what differs was accepted by name.
    Raises ValueError: no such objective or alternative; a parameter cannot be matched (``TargetError``).
    """
    from torchstone.conformance.diagnose import diagnose

    vectors = load(objective)
    accept = tuple(accept)
    for name in accept:
        known = [*vectors.flags, *vectors.settings]
        if name.partition("=")[0] not in known:
            raise ValueError(f"accept: expected one of {', '.join(known)}; got {name!r}{near(name, known)}")
    how = fit(function, vectors, names or {}, settings or {})
    cases = [case for case in vectors.cases if applies(case, how, vectors)]
    cases = cases or [case for case in vectors.cases if applies(case, how, vectors, without=True)]
    if not cases:
        raise TargetError(
            f"target: none of the {len(vectors.cases)} cases of {vectors.objective} can be run: it takes "
            f"{', '.join(how.says()) or 'nothing that is known'}; the objective has {', '.join(vectors.arguments)}"
        )
    given = None if output is None else str(output)
    kinds = (arrays,) if arrays else likely_arrays(function)
    trial = best_way(function, how, vectors, cases, kinds, layout, given, time_limit)
    cases = [c for c in cases if trial.way.advantages != "B" or _constant_rows(c)]
    outcomes = run_all(trial, cases)
    taken, cases = built_in(cases, outcomes, how, vectors)
    results = _results(trial, vectors, cases, outcomes)
    diagnoses, unexplained = diagnose(trial, cases, outcomes, results, taken, accept, search)
    return Report(
        target=target or getattr(function, "__qualname__", None) or type(function).__name__,
        objective=vectors.objective,
        fitted=how.says(),
        way=trial.way.says(),
        taken=taken,
        results=tuple(results),
        diagnoses=tuple(diagnoses),
        notes=tuple(_notes(trial, cases, outcomes, results)),
        unexplained=tuple(unexplained),
        kinds={name: flag.kind for name, flag in vectors.flags.items()},
    )


# -------------------------------------------------------------------------- which cases, called how, with which numbers


def run_all(trial: Trial, cases: Iterable[Case]) -> dict[int, Outcome]:
    """Every case once, in float64; after three that took too long, no more."""
    outcomes: dict[int, Outcome] = {}
    for case in cases:
        if sum(o.kind == "timeout" for o in outcomes.values()) < OVERTIMES:
            outcomes[case.id] = trial.run(case)
    return outcomes


OVERTIMES = 3


def _constant_rows(case: Case) -> bool:
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
            asked = [c for c in guess if way.advantages != "B" or _constant_rows(c)][:3]
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


# Flags of ordinary batches. Every other edge is a reason to fail of its own, which says nothing on the formula.
MASKS = ("ragged_mask", "gaps_in_mask", "junk_under_mask")
ORDINARY = (
    *MASKS, "on_policy", "every_side_of_the_clip", "far_from_reference",
    "two_prompts", "one_right_in_four", "sparse_reward", "delayed_reward", "small_deviation", "micro_batch",
    "both_signs", "one_pair", "at_reference", "tied", "with_margin", "no_reference", "on_target", "far_from_target",
)  # fmt: skip


def hazards(case: Case) -> list[str]:
    """The flags of a case on which code fails that is right elsewhere."""
    return [f for f in case.flags if f not in ORDINARY]


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


# ------------------------------------------------------------------------------------------------------- case by case


def _results(trial: Trial, vectors: Vectors, cases: list[Case], outcomes: Mapping[int, Outcome]) -> list[Result]:
    results = []
    here = {c.id for c in cases}
    overtime = any(o.kind == "timeout" for o in outcomes.values())
    for case in vectors.cases:
        for precision in PRECISIONS:
            if case.id not in here:
                status, detail = "skip", "cannot be expressed with these parameters"
            elif case.id not in outcomes:
                status, detail = "skip", "left out after three cases that took too long"
            else:
                again = precision != "float64" and not overtime
                outcome = trial.run(case, precision) if again else outcomes[case.id]
                status, detail = judge(outcome, case, precision)
            results.append(Result(case.id, case.comment, case.flags, case.settings, precision, status, detail))
    return results


def judge(outcome: Outcome, case: Case, precision: str) -> tuple[str, str]:
    """Status and detail of one case."""
    if outcome.kind == "timeout":
        return "timeout", outcome.detail
    if case.result == "invalid":
        if outcome.kind == "refused":
            return "pass", outcome.detail
        return "fail", f"expected an error, got {_short(outcome)}"
    if outcome.kind != "numbers":
        return ("warn" if case.result == "acceptable" else "error"), outcome.detail
    if case.expected is None:
        found = properties(outcome, case)
    else:
        tolerance = case.tolerance["float32" if precision == "float32" or outcome.single else precision]
        found = difference(outcome, case.expected, tolerance)
        if found and not any(matches(outcome, n) for n in case.alternatives.values()):
            first = next(iter(case.expected.outputs))
            if difference(replace(outcome, outputs={first: outcome.outputs[first]}), case.expected, tolerance) is None:
                return "warn", f"right, but for what it reports: {found}"
    if found is None:
        return "pass", ""
    return ("warn" if case.result == "acceptable" else "fail"), found


def _short(outcome: Outcome) -> str:
    if outcome.kind != "numbers":
        return outcome.detail
    return ", ".join(f"{k} = {v}" for k, v in list(outcome.outputs.items())[:1])


def _notes(trial: Trial, cases: list[Case], outcomes: Mapping[int, Outcome], results: list[Result]) -> Iterable[str]:
    ran = [o for c in cases if (o := outcomes.get(c.id)) is not None and o.kind == "numbers"]
    vectors = trial.vectors
    differentiable = any(a.gradient for a in vectors.arguments.values())
    if differentiable and ran and all(o.gradients is None for o in ran):
        why = "NumPy has none" if trial.way.arrays == "numpy" else "no gradient flows from what it returns"
        yield f"no gradients: {why}, so only values were compared. Half of the proof is missing."
    taken = {o.taken for o in ran}
    if "tokens" in taken:
        yield "it returns one number a token; they were reduced here, as the objective says."
    if "rows" in taken:
        yield "it returns one number a row or pair; their mean was taken here."
    if "mean" in taken:
        yield "it returns one number; it was compared with the mean of the expected ones over the chosen tokens."
    missing = [k for k, a in vectors.returns.items() if ran and not a.metric and not any(k in o.outputs for o in ran)]
    if missing:
        yield f"not returned, so not compared: {', '.join(missing)}."
    telling = [c for c in cases if c.id in outcomes and c.expected is not None and not in_float32(c.expected)]
    if telling and all(outcomes[c.id].single for c in telling):
        yield "it computes in float32, whatever it is given."
    changed = sorted({k for o in ran for k in o.changed})
    if changed:
        yield f"it changes its inputs in place: {', '.join(changed)}."
    skipped = len({r.case_id for r in results if r.status == "skip" and r.detail.startswith("cannot")})
    if skipped:
        yield (
            f"{skipped} of {len(vectors.cases)} cases were left out: they need an argument that it does not take, or "
            "another value of a number that it has built in."
        )
