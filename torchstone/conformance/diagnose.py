"""Which known variant or bug is it? Stored alternatives first, then combinations by the oracle, then flags."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from torchstone.conformance.compare import leaves, matches, reduced
from torchstone.conformance.result import BAD, Diagnosis, Outcome, Result
from torchstone.conformance.trial import Trial
from torchstone.conformance.vectors import MASKS, ORDINARY, Case, Numbers, Vectors, hazards

SECONDS = 30.0  # for the search of combinations
SHARE = 0.7  # of the cases that a combination must explain


def diagnose(
    trial: Trial, cases: list[Case], outcomes: Mapping[int, Outcome], results: Sequence[Result],
    taken: Mapping[str, Any], accept: Sequence[str], search: bool = True,
) -> tuple[list[Diagnosis], list[Result]]:  # fmt: skip
    """What explains the failures, and those failures that nothing explains."""
    failed = [r for r in results if r.status in BAD]
    vectors = trial.vectors
    found = [*_other_settings(vectors, taken, cases, accept)]
    if not failed:
        return found, []
    ran = [c for c in cases if c.id in outcomes and outcomes[c.id].kind == "numbers"]
    scored = [c for c in ran if c.expected is not None]
    if not ran and not any(r.status == "pass" for r in results):
        return found, failed  # it never gave a number: there is nothing to tell variants by
    wrong = {r.case_id for r in failed if r.precision == "float64"}
    names, explained = _single(vectors, scored, outcomes, wrong)
    factor = _factor(scored, outcomes)
    if factor is not None and len(factor[1] & wrong) > len(explained):
        found.append(factor[0])
        by_flag, rest = _by_flag(vectors, results, [r for r in failed if r.case_id not in factor[1]], accept)
        return found + by_flag, rest
    core = [c for c in scored if c.id in wrong and c.id not in explained and not hazards(c)]
    if core and search:
        more, covers = _combined(trial, scored, outcomes, wrong)
        if len(covers) > len(explained):
            names, explained = more, covers
    named = [names] if names else []
    while wrong - explained:  # what shows only in some cases, such as empty rows, may have a name of its own
        names, alone = _single(vectors, scored, outcomes, wrong - explained, explained)
        grown, joint = (
            _extended(trial, scored, outcomes, wrong - explained, explained, named[0])
            if named and search
            else ((), set())
        )
        if not alone and not joint:
            break
        named = [grown, *named[1:]] if len(joint) > len(alone) else [*named, names]
        explained = explained | alone | joint
    found += [_named(trial, names, scored, outcomes, accept) for names in named]
    rest = [r for r in failed if r.case_id not in explained]
    by_flag, rest = _by_flag(vectors, results, rest, accept)
    return found + by_flag, rest


def _other_settings(
    vectors: Vectors, taken: Mapping[str, Any], cases: list[Case], accept: Sequence[str]
) -> Iterable[Diagnosis]:
    """A setting that the function has built in, on which the objective leaves no choice, and it chose otherwise."""
    for name, value in taken.items():
        setting = vectors.settings[name]
        if not setting.free and setting.usual and value != setting.usual[0]:
            label = f"{name}={value}"
            yield Diagnosis(
                (label,), "variant", len(cases), len(cases), (f"{setting.about} It is {value} here.",), (),
                accepted=label in accept or name in accept or str(value) in accept,
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------- alternatives by name


def _single(
    vectors: Vectors, scored: list[Case], outcomes: Mapping[int, Outcome], wrong: set[int],
    explained: Set[int] = frozenset(),
) -> tuple[tuple[str, ...], set[int]]:  # fmt: skip
    """The alternative that explains most failures, and contradicts least elsewhere: edges count half."""
    best: tuple[float, tuple[str, ...], set[int]] = (0, (), set())
    for name in vectors.named:
        shown = [c for c in scored if name in c.alternatives]
        hit = {c.id for c in shown if matches(outcomes[c.id], c.alternatives[name])}
        against = [c for c in shown if c.id not in hit and c.id not in explained]
        score = len(hit & wrong) - sum(1 if hazards(c) else 2 for c in against)
        if hit & wrong and score > best[0]:
            best = (score, (name,), hit & wrong)
    return best[1], best[2]


def _combined(
    trial: Trial, scored: list[Case], outcomes: Mapping[int, Outcome], wrong: set[int]
) -> tuple[tuple[str, ...], set[int]]:
    """Two or three alternatives at once, or another number, computed by the oracle and compared case by case."""
    objective = _oracle(trial.vectors.objective)
    failing = [c for c in scored if c.id in wrong and not hazards(c) and _finite(outcomes[c.id])]
    if objective is None or not failing:
        return (), set()
    probe = min(failing, key=lambda c: (-len(c.alternatives), _tokens(c)))
    facets = _facets(objective, trial, probe.settings)
    core = [c for c in scored if not hazards(c)]
    end = time.monotonic() + SECONDS
    best: tuple[tuple[str, ...], set[int]] = ((), set())
    for size in (1, 2, 3):
        for names in itertools.combinations(facets, size):
            if time.monotonic() > end:
                return best
            if not _orthogonal(objective, names):
                continue
            if not matches(_values_only(outcomes[probe.id]), _by_oracle(objective, probe, names, gradients=False)):
                continue
            hit = {c.id for c in scored if matches(outcomes[c.id], _by_oracle(objective, c, names))}
            if (
                probe.id in hit
                and len(hit & wrong) > len(best[1])
                and sum(c.id in hit for c in core) >= SHARE * len(core)
            ):
                best = (names, hit & wrong)
        if best[0]:
            return best
    return best


def _extended(
    trial: Trial, scored: list[Case], outcomes: Mapping[int, Outcome], left: set[int], explained: set[int],
    names: tuple[str, ...],
) -> tuple[tuple[str, ...], set[int]]:  # fmt: skip
    """One more alternative beside these, that explains what is left and keeps what is explained."""
    objective = _oracle(trial.vectors.objective)
    best: tuple[tuple[str, ...], set[int]] = ((), set())
    if objective is None:
        return best
    open_cases = [c for c in scored if c.id in left and not matches(outcomes[c.id], _by_oracle(objective, c, names))]
    for name in objective.alternatives:
        more = (*names, name)
        if name in names or not _orthogonal(objective, more):
            continue
        hit = {c.id for c in open_cases if matches(outcomes[c.id], _by_oracle(objective, c, more))}
        known = [c for c in scored if c.id in explained] if len(hit) > len(best[1]) else []
        kept = [c for c in known if matches(outcomes[c.id], _by_oracle(objective, c, more))]
        if known and len(kept) >= SHARE * len(known):
            best = (more, hit)
    return best


def _oracle(name: str) -> Any:
    try:
        from torchstone_oracle.contracts import OBJECTIVES
    except ImportError:
        return None
    return OBJECTIVES.get(name)


def _facets(objective: Any, trial: Trial, settings: Mapping[str, Any]) -> list[str]:
    """Alternatives by name, and other usual values of numbers ("epsilon=0.1")."""
    numbers = [
        f"{k}={v}"
        for k, s in objective.settings.items()
        for v in s.usual
        if v != settings[k] and v is not None and settings[k] is not None
    ]
    return [*objective.alternatives, *numbers]


def _orthogonal(objective: Any, names: Sequence[str]) -> bool:
    """No step or number is replaced twice."""
    replaced = [
        key
        for n in names
        for key in (
            (*objective.alternatives[n].steps, *objective.alternatives[n].settings)
            if n in objective.alternatives
            else (n.partition("=")[0],)
        )
    ]
    return len(replaced) == len(set(replaced))


def _by_oracle(objective: Any, case: Case, names: Sequence[str], gradients: bool = True) -> Numbers | None:
    """The oracle's numbers for a case with these alternatives; None where they have none."""
    settings = dict(case.settings)
    for n in names:
        if n not in objective.alternatives:
            key, _, _ = n.partition("=")
            settings[key] = next(v for v in objective.settings[key].usual if f"{key}={v}" == n)
    try:
        outputs, slopes = objective.run(
            dict(case.inputs), settings, *(n for n in names if n in objective.alternatives), gradients=gradients
        )
    except Exception:
        return None
    return Numbers(
        {k: _floats(outputs[k]) for k in objective.returns if outputs.get(k) is not None},
        {k: _floats(g) for k, g in slopes.items()},
    )


def _floats(x: Any) -> Any:
    if isinstance(x, list):
        return [_floats(part) for part in x]
    return None if x is None else float(getattr(x, "value", x))


def _values_only(outcome: Outcome) -> Outcome:
    return Outcome(outcome.kind, outcome.outputs, None, outcome.detail, outcome.taken, outcome.single)


def _tokens(case: Case) -> int:
    return sum(1 for _ in leaves(dict(case.inputs)))


def _finite(outcome: Outcome) -> bool:
    return all(math.isfinite(x) for _, x in leaves(dict(outcome.outputs)))


def _named(
    trial: Trial, names: tuple[str, ...], scored: list[Case], outcomes: Mapping[int, Outcome], accept: Sequence[str]
) -> Diagnosis:  # fmt: skip
    vectors = trial.vectors
    if len(names) == 1 and names[0] in vectors.flags:
        shown = [c for c in scored if names[0] in c.alternatives]
        equal = [c.id for c in shown if matches(outcomes[c.id], c.alternatives[names[0]])]
    else:
        objective, shown = _oracle(vectors.objective), scored
        equal = [c.id for c in shown if matches(outcomes[c.id], _by_oracle(objective, c, names))]
    flags = [vectors.flags[n] for n in names if n in vectors.flags]
    kinds = {f.kind for f in flags}
    about = tuple(
        vectors.flags[n].about if n in vectors.flags else f"{n.partition('=')[0]} is {n.partition('=')[2]}."
        for n in names
    )
    return Diagnosis(
        names,
        "bug" if "bug" in kinds else "variant" if kinds else "setting",
        len(equal), len(shown), about, tuple(f.effect for f in flags),
        tuple(dict.fromkeys(x for f in flags for x in f.links)),
        tuple(dict.fromkeys(x for f in flags for x in f.pitfalls)),
        accepted=all(n in accept or _free(trial, n) for n in names), cases=tuple(equal),
    )  # fmt: skip


def _free(trial: Trial, name: str) -> bool:
    """Is it a number ("eps=1e-08") or a choice ("token_mean") on which published code disagrees? Then it is right.

    Not if the function has an argument for it: then it ignores what it is given.
    """
    settings, (key, is_number, _) = trial.vectors.settings, name.partition("=")
    if is_number:
        return settings[key].free and not trial.fit.expresses(key)
    return any(s.free and name in s.usual and not trial.fit.expresses(k) for k, s in settings.items())


# ------------------------------------------------------------------------------------- a constant factor; failing flags


def _factor(scored: list[Case], outcomes: Mapping[int, Outcome]) -> tuple[Diagnosis, set[int]] | None:
    """Are all numbers the right ones times one constant? With the cases in which they are."""
    factor: float | None = None
    hit = set()
    for case in sorted(scored, key=lambda c: len(hazards(c))):
        assert case.expected is not None
        outcome = outcomes[case.id]
        expected = reduced(case.expected, outcome.taken)
        first = next(iter(expected.outputs))
        pairs = zip(leaves(expected.outputs[first]), leaves(outcome.outputs[first]), strict=False)
        ratios = [got / right for (_, right), (_, got) in pairs if abs(right) > 1e-6]
        if factor is None and ratios and math.isfinite(ratios[0]) and abs(ratios[0]) > 1e-9:
            factor = ratios[0]
        if factor is None or abs(factor - 1) < 1e-5:
            return None
        outputs = {first: _times(expected.outputs[first], factor)}
        if matches(outcome, Numbers(outputs, {k: _times(g, factor) for k, g in expected.gradients.items()})):
            hit.add(case.id)
        elif not hazards(case):
            return None
    if factor is None or len(hit) < 2:
        return None
    about = f"Your numbers are {factor:.6g} times the right ones, value and gradient."
    effect = "The learning rate is another one by this factor." if factor > 0 else "The update goes the wrong way."
    return Diagnosis((f"times {factor:.6g}",), "factor", len(hit), len(scored), (about,), (effect,), cases=(*hit,)), hit


def _times(x: Any, factor: float) -> Any:
    return [_times(part, factor) for part in x] if isinstance(x, list) else (None if x is None else factor * x)


def _by_flag(
    vectors: Vectors, results: Sequence[Result], rest: list[Result], accept: Sequence[str]
) -> tuple[list[Diagnosis], list[Result]]:
    """Failures that have an edge in common: the fewest flags that cover them."""
    found, left = [], list(rest)
    if any(set(r.flags) <= set(ORDINARY) - set(MASKS) for r in rest):
        return [], left  # ordinary batches fail without a name: that edges fail too says nothing
    while left:
        best, covers = None, 0.0
        for flag in dict.fromkeys(f for r in left for f in r.flags if vectors.flags[f].kind == "edge"):
            failing = {r.case_id for r in left if flag in r.flags}
            ran = {r.case_id for r in results if flag in r.flags and r.status != "skip"}
            share = len(failing) * (len(failing) / len(ran)) * (1 if flag in ORDINARY else 2)
            if share > covers:
                best, covers = flag, share
        if best is None:
            break
        flag_data = vectors.flags[best]
        failing = {r.case_id for r in left if best in r.flags}
        of = {r.case_id for r in results if best in r.flags and r.status != "skip"}
        found.append(
            Diagnosis(
                (best,),
                "edge",
                len(failing),
                len(of),
                (flag_data.about,),
                (flag_data.effect,),
                flag_data.links,
                flag_data.pitfalls,
                accepted=best in accept,
                cases=tuple(sorted(failing)),
            )
        )
        left = [r for r in left if r.case_id not in failing]
    return found, left
