"""Run a function on an objective's vectors, and say what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from torchstone.conformance.ask.compare import broken_property, difference, in_float32, matches
from torchstone.conformance.ask.screening import (
    drifted,
    lost_gradients,
    refusals,
    same_twice,
    switched_on,
    unasked,
    wants,
    without,
)
from torchstone.conformance.diagnose import Facts, diagnose
from torchstone.conformance.evidence import at_a_kink
from torchstone.conformance.fit.refusal import adapter
from torchstone.conformance.fit.signature import Signature, read_signature
from torchstone.conformance.fit.target import TargetError, written
from torchstone.conformance.result import PRECISIONS, Outcome, Report, Result
from torchstone.conformance.settled import settled
from torchstone.conformance.trial import Trial, askable, best_trial, constant_rows, likely_arrays, run_all
from torchstone.conformance.vectors import Case, Vectors, hazards, load
from torchstone.terminal import near

ROUNDING = 5e-7  # of numbers of size 1 in float32
EXACT = 1e-10  # in float64


def check(
    function: Callable[..., Any], objective: str, *, names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None, accept: Iterable[str] = (), output: str | int | None = None,
    arrays: str | None = None, layout: str | None = None, time_limit: float = 10.0, target: str | None = None,
    search: bool | None = True, strict: bool = False,
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
        search: look for combinations of alternatives too; None: compare, and name nothing but edges.
        strict: what plain, correct code forgets (NaN under the mask, a row without a token) is a failure too.

    Returns: ``Report``; ``passed`` is True if all ordinary cases match, or what differs was accepted by name.
    Raises ValueError: no such objective or alternative; a parameter cannot be matched (``TargetError``).
    """
    vectors, accept = load(objective), tuple(accept)
    _check_known(accept, vectors)
    signature = read_signature(function, vectors, names or {}, settings or {})
    cases = _cases(signature, vectors)
    kinds = (arrays,) if arrays else likely_arrays(function)
    trial = best_trial(
        function, signature, vectors, cases, kinds, layout, None if output is None else str(output), time_limit
    )
    cases = [c for c in cases if trial.calling.advantages != "B" or constant_rows(c)]
    outcomes = run_all(trial, cases)
    drift = drifted(trial, cases, outcomes)
    refused = refusals(trial, cases, outcomes)
    on = [there for c in cases if c.id in refused if (there := switched_on(trial, c))]
    again = {i: o for i, o in run_all(trial, on).items() if o.kind == "numbers"}
    refused, outcomes = {i: why for i, why in refused.items() if i not in again}, outcomes | again
    cases = [*(c for c in cases if c.id not in refused | again), *(c for c in on if c.id in again)]
    numbers, cases = settled(trial, cases, outcomes, bool(search))
    twice = drift or same_twice(trial, cases, outcomes)
    lost = lost_gradients(trial, cases, outcomes)
    results = _results(trial, vectors, cases, outcomes, lost, refused)
    facts = Facts(trial, cases, without(outcomes, lost), results, numbers, accept)
    diagnoses, unexplained = diagnose(facts, lost, twice, search)
    return Report(
        target=target or getattr(function, "__qualname__", None) or type(function).__name__,
        objective=vectors.objective,
        signature=signature.names(),
        calling=trial.calling.in_words(),
        left_default=signature.left(),
        built_in=numbers,
        results=tuple(results),
        diagnoses=tuple(diagnoses),
        notes=tuple(_notes(trial, cases, outcomes, results)),
        unexplained=tuple(unexplained),
        kinds={name: flag.kind for name, flag in vectors.flags.items()},
        unasked=tuple(unasked(trial, cases, outcomes)),
        strict=strict,
        adapter=_adapter(function, signature, vectors),
    )


def _adapter(function: Callable[..., Any], signature: Signature, vectors: Vectors) -> str:
    inner = signature.constructor
    return adapter(function, signature.passed(), signature.containers, vectors, inner.passed() if inner else None)


def _check_known(accept: Iterable[str], vectors: Vectors) -> None:
    known = [*vectors.flags, *vectors.settings]
    for name in accept:
        if name.partition("=")[0] not in known:
            raise ValueError(f"accept: expected one of {', '.join(known)}; got {name!r}{near(name, known)}")


def _cases(signature: Signature, vectors: Vectors) -> list[Case]:
    """The cases that can be asked; if there is none, those that only lack a reference."""
    for without_reference in (False, True):
        asked = (askable(case, signature, vectors, without_reference) for case in vectors.cases)
        if cases := [case for case in asked if case is not None]:
            return cases
    takes = ", ".join(signature.names()) or "nothing that is known"
    raise TargetError(
        f"target: none of the {len(vectors.cases)} cases of {vectors.objective} can be run: it takes {takes}; "
        f"the objective has {', '.join(vectors.arguments)}"
    )


# ------------------------------------------------------------------------------------------------------- case by case


def _results(
    trial: Trial, vectors: Vectors, cases: list[Case], outcomes: Mapping[int, Outcome], lost: Sequence[str],
    refused: Mapping[int, str],
) -> list[Result]:  # fmt: skip
    results = []
    here = {c.id: c for c in cases}
    overtime = any(o.kind == "timeout" for o in outcomes.values())
    metrics = {name for name, output in vectors.returns.items() if output.metric}
    for whole in vectors.cases:
        case = here.get(whole.id, whole)
        for precision in PRECISIONS:
            if case.id in refused:
                status, detail = "skip", refused[case.id]
            elif case.id not in here:
                status, detail = "skip", "cannot be expressed with these parameters"
            elif case.id not in outcomes:
                status, detail = "skip", "left out after three cases that took too long"
            else:
                again = precision != "float64" and not overtime
                outcome = trial.run(case, precision) if again else outcomes[case.id]
                status, detail = judge(outcome, case, precision, metrics)
                if status == "fail" and at_a_kink(trial, case, outcome, precision):
                    status, detail = "pass", "at a kink, where every slope between the two sides is one"
                gone = [k for k in lost if wants(case, k)]
                if gone and status in ("pass", "warn", "fail") and outcome.kind == "numbers":
                    status, detail = "fail", f"no gradient reaches {', '.join(gone)}"
            results.append(Result(case.id, case.comment, case.flags, case.settings, precision, status, detail))
    return results


def judge(outcome: Outcome, case: Case, precision: str, metrics: Set[str]) -> tuple[str, str]:
    """Status (pass, fail, warn, error, timeout) and detail of one case.

    Args:
        outcome: what came back.
        case: what should have.
        precision: "float64" or "float32": how near.
        metrics: outputs that are reported alone: no failure if they differ.
    """
    if outcome.kind == "timeout":
        return "timeout", outcome.detail
    if case.result == "invalid":
        if outcome.kind == "refused":
            return "pass", outcome.detail
        return "fail", f"expected an error, got {_short(outcome)}"
    if outcome.kind != "numbers":
        return ("warn" if case.result == "acceptable" else "error"), outcome.detail
    if case.expected is None:
        found = broken_property(outcome, case)
    else:
        single = precision == "float32" or outcome.single
        tolerance = case.tolerance["float32" if single else precision]
        if single and not hazards(case):  # 1 - sigmoid(x) rounds like 1, however small it is
            tolerance = max(tolerance, ROUNDING / case.expected.magnitude)
        found = difference(outcome, case.expected, tolerance)
        if found and not any(matches(outcome, n) for n in case.alternatives.values()):
            used = {k: x for k, x in outcome.outputs.items() if k not in metrics}
            if difference(replace(outcome, outputs=used), case.expected, tolerance) is None:
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
    differentiable = any(a.gradient and k not in vectors.held for k, a in vectors.arguments.items())
    if differentiable and ran and all(o.gradients is None for o in ran) and trial.calling.arrays == "numpy":
        yield "no gradients: NumPy has none, so only values were compared. Half of the proof is missing."
    reduced = {o.reduced for o in ran}
    if "tokens" in reduced:
        yield "it returns one number a token; they were reduced here, as the objective says."
    if "rows" in reduced:
        yield "it returns one number a row or pair; their mean was taken here."
    if "mean" in reduced:
        yield "it returns one number; it was compared with the mean of the expected ones over the chosen tokens."
    missing = [k for k, a in vectors.returns.items() if ran and not a.metric and not any(k in o.outputs for o in ran)]
    if missing:
        yield f"not returned, so not compared: {', '.join(missing)}."
    telling = [(outcomes[c.id], c.expected) for c in cases if c.id in outcomes and c.expected is not None]
    telling = [(o, right) for o, right in telling if not in_float32(right)]
    rounded = any(matches(o, right) and difference(o, right, EXACT) for o, right in telling)
    if rounded and all(o.single for o, _ in telling):
        yield "it computes in float32, whatever it is given."
    if files := written():
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        yield f"it writes files where it is run ({', '.join(files[:3])}{more}): here into a folder that is deleted."
    changed = sorted({k for o in ran for k in o.changed})
    if changed:
        yield f"it changes its inputs in place: {', '.join(changed)}."
    skipped = len({r.case_id for r in results if r.status == "skip" and r.detail.startswith("cannot")})
    if skipped:
        yield (
            f"{skipped} of {len(vectors.cases)} cases were left out: they need an argument that it does not take, or "
            "are the same as another without it."
        )
