"""Which known variant or bug is it? Stored alternatives first, then combinations by the oracle, then flags."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from torchstone.conformance.call import Trial
from torchstone.conformance.combined import Evidence, Names, combined, extended, flag_of
from torchstone.conformance.compare import as_reduced, matches
from torchstone.conformance.result import BAD, Diagnosis, Outcome, Result
from torchstone.conformance.vectors import MASKS, ORDINARY, Case, Numbers, Setting, Vectors, hazards, leaves

Found = tuple[Names, set[int]]  # alternatives, and the failing cases that they explain


def diagnose(
    trial: Trial, cases: list[Case], outcomes: Mapping[int, Outcome], results: Sequence[Result],
    built_in: Mapping[str, Any], accept: Sequence[str], search: bool = True,
) -> tuple[list[Diagnosis], list[Result]]:  # fmt: skip
    """What explains the failures, and those failures that nothing explains.

    Args:
        trial: the function.
        cases, outcomes: what was asked, and what came back by the case's id.
        results: every case of the objective in both precisions.
        built_in: settings that the function cannot be given, and what they seem to be.
        accept: names of what is meant.
        search: look for combinations of alternatives too.
    """
    failed = [r for r in results if r.status in BAD]
    found = [*_other_settings(trial.vectors, built_in, len(cases), accept), *_not_held(trial.vectors, cases, outcomes)]
    if not failed:
        return found, []
    ran = [c for c in cases if c.id in outcomes and outcomes[c.id].kind == "numbers"]
    if not ran and not any(r.status == "pass" for r in results):
        return found, failed  # it never gave a number: there is nothing to tell variants by
    evidence = Evidence(trial, [c for c in ran if c.expected is not None], outcomes)
    wrong = {r.case_id for r in failed if r.precision == "float64"}
    first = _single(evidence, wrong)
    factor = _factor(evidence)
    if factor is not None and len(factor[1] & wrong) > len(first[1]):
        found.append(factor[0])
        explained = factor[1]
    else:
        named = _alternatives(evidence, wrong, first, search)
        found += [_named(evidence, *f, accept) for f in named]
        explained = {i for _, ids in named for i in ids}
    by_flag, rest = _by_flag(trial.vectors, results, [r for r in failed if r.case_id not in explained], accept)
    return found + by_flag, rest


def _other_settings(
    vectors: Vectors, built_in: Mapping[str, Any], cases: int, accept: Sequence[str]
) -> Iterable[Diagnosis]:
    """A setting that the function has built in, on which the objective leaves no choice, and it chose otherwise."""
    for name, value in built_in.items():
        setting: Setting = vectors.settings[name]
        if not setting.free and setting.usual and value != setting.usual[0]:
            label = f"{name}={value}"
            yield Diagnosis(
                (label,), "variant", cases, cases, (f"{setting.about} It is {value} here.",), (),
                accepted=label in accept or name in accept or str(value) in accept,
            )  # fmt: skip


def _not_held(vectors: Vectors, cases: Iterable[Case], outcomes: Mapping[int, Outcome]) -> Iterable[Diagnosis]:
    """A gradient flows into what callers hold constant: accepted, since those who do so lose nothing by it."""
    ran = [o for c in cases if (o := outcomes.get(c.id)) is not None and o.kind == "numbers"]
    for name in dict.fromkeys(vectors.held.values()):
        hit = [o for o in ran if any(vectors.held[k] == name for k in o.moved)]
        if hit:
            flag = vectors.flags[name]
            yield Diagnosis(
                (name,), "variant", len(hit), len(ran), (flag.about,), (flag.effect,), flag.links, flag.pitfalls,
                accepted=True,
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------- alternatives by name


def _alternatives(evidence: Evidence, wrong: set[int], first: Found, search: bool) -> list[Found]:
    """Alternatives, or combinations of them, until none explains a failure that is left."""
    names, explained = first
    core = [c for c in evidence.scored if c.id in wrong and c.id not in explained and not hazards(c)]
    if core and search:
        more, covers = combined(evidence, wrong)
        if len(covers) > len(explained):
            names, explained = more, covers
    named: list[Found] = [(names, explained)] if names else []
    while left := wrong - explained:  # what shows only in some cases, such as empty rows, may have a name of its own
        if named:
            unstored = _unstored(evidence, named[-1][0], left)
            named[-1][1].update(unstored)
            explained, left = explained | unstored, left - unstored
        names, alone = _single(evidence, left, explained)
        grown, joint = extended(evidence, left, explained, named[0][0]) if named and search else ((), set())
        if not alone and not joint:
            break
        if len(joint) > len(alone):
            named[0] = (grown, named[0][1] | joint)
        else:
            named.append((names, alone))
        explained = explained | alone | joint
    return named


def _single(evidence: Evidence, wrong: set[int], explained: Set[int] = frozenset()) -> Found:
    """The alternative that explains most failures, and contradicts least elsewhere: edges count half."""
    best: tuple[float, Names, set[int]] = (0, (), set())
    for name in evidence.trial.vectors.named:
        shown = [c for c in evidence.scored if name in c.alternatives]
        hit = {c.id for c in shown if matches(evidence.outcomes[c.id], c.alternatives[name])}
        against = [c for c in shown if c.id not in hit and c.id not in explained]
        score = len(hit & wrong) - sum(1 if hazards(c) else 2 for c in against)
        if hit & wrong and score > best[0]:
            best = (score, (name,), hit & wrong)
    return best[1], best[2]


def _unstored(evidence: Evidence, names: Names, left: set[int]) -> set[int]:
    """The failures that an alternative explains without having numbers there in the vectors.

    The vectors have none where it differs from the right ones by less than 1e-4, which could be rounding in float32.
    """
    return evidence.equal(names, [c for c in evidence.scored if c.id in left and names[0] not in c.alternatives])


def _named(evidence: Evidence, names: Names, explained: set[int], accept: Sequence[str]) -> Diagnosis:
    """The diagnosis of these alternatives; ``explained``: the failures that they were found by."""
    vectors, outcomes = evidence.trial.vectors, evidence.outcomes
    if len(names) == 1 and names[0] in vectors.flags:
        asked = [c for c in evidence.scored if names[0] in c.alternatives]
        equal = [c.id for c in asked if matches(outcomes[c.id], c.alternatives[names[0]])]
    else:
        asked = list(evidence.scored)
        found = evidence.equal(names)
        equal = [c.id for c in asked if c.id in found]
    more = sorted(explained - {c.id for c in asked})
    flags = [flag for n in names if (flag := flag_of(vectors, n)) is not None]
    kinds = {f.kind for f in flags}
    about = tuple(
        flag.about if (flag := flag_of(vectors, n)) is not None else f"{n.partition('=')[0]} is {n.partition('=')[2]}."
        for n in names
    )
    return Diagnosis(
        names,
        "bug" if "bug" in kinds else "variant" if kinds else "setting",
        len(equal) + len(more), len(asked) + len(more), about, tuple(f.effect for f in flags),
        tuple(dict.fromkeys(x for f in flags for x in f.links)),
        tuple(dict.fromkeys(x for f in flags for x in f.pitfalls)),
        accepted=all(n in accept or _free(evidence.trial, n) for n in names), cases=(*equal, *more),
    )  # fmt: skip


def _free(trial: Trial, name: str) -> bool:
    """Is it a number ("eps=1e-08") or a choice ("token_mean") on which published code disagrees? Then it is right.

    Not if the function has an argument for it: then it ignores what it is given.
    """
    settings, (key, is_number, _) = trial.vectors.settings, name.partition("=")
    if is_number:
        return key in settings and settings[key].free and not trial.signature.expresses(key)
    return any(s.free and name in s.usual and not trial.signature.expresses(k) for k, s in settings.items())


# ------------------------------------------------------------------------------------- a constant factor; failing flags


def _factor(evidence: Evidence) -> tuple[Diagnosis, set[int]] | None:
    """Are all numbers the right ones times one constant? With the cases in which they are."""
    factor: float | None = None
    hit = set()
    for case in sorted(evidence.scored, key=lambda c: len(hazards(c))):
        outcome = evidence.outcomes[case.id]
        expected = as_reduced(case.expected, outcome.reduced)  # type: ignore[arg-type]
        first = next(iter(expected.outputs))
        if factor is None:
            factor = _ratio(outcome.outputs[first], expected.outputs[first])
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
    of = len(evidence.scored)
    return Diagnosis((f"times {factor:.6g}",), "factor", len(hit), of, (about,), (effect,), cases=(*hit,)), hit


def _ratio(got: Any, right: Any) -> float | None:
    """The first number over the right one, where that is not 0; None if it is no finite one, or 0."""
    pairs = zip(leaves(right), leaves(got), strict=False)
    ratio = next((b / a for (_, a), (_, b) in pairs if abs(a) > 1e-6), math.nan)
    return ratio if math.isfinite(ratio) and abs(ratio) > 1e-9 else None


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
            failing, ran = _failing(flag, left), _ran(flag, results)
            share = len(failing) * (len(failing) / len(ran)) * (1 if flag in ORDINARY else 2)
            if share > covers:
                best, covers = flag, share
        if best is None:
            break
        flag_data, failing = vectors.flags[best], _failing(best, left)
        found.append(
            Diagnosis(
                (best,),
                "edge",
                len(failing),
                len(_ran(best, results)),
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


def _failing(flag: str, left: Sequence[Result]) -> set[int]:
    return {r.case_id for r in left if flag in r.flags}


def _ran(flag: str, results: Sequence[Result]) -> set[int]:
    return {r.case_id for r in results if flag in r.flags and r.status != "skip"}
