"""Why does it fail? What is plain to see first, then known variants and bugs, by the rules of ``evidence``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.ask.compare import as_reduced, matches
from torchstone.conformance.ask.screening import constant
from torchstone.conformance.evidence import (
    ONE_NAME,
    as_its_twin,
    candidate,
    forgotten,
    is_edge,
    of_cases,
    one_name,
    right_but_for_edges,
    silent,
    tells,
    tells_an_edge,
    thin,
    with_twins,
)
from torchstone.conformance.name.combined import Evidence, Names, combined, extended, flag_of
from torchstone.conformance.result import BAD, Diagnosis, Outcome, Result
from torchstone.conformance.vectors import Case, Flag, Numbers, Setting, Vectors, hazards, leaves

Found = tuple[Names, set[int]]  # alternatives, and the failing cases that they explain


@dataclass(frozen=True)
class Facts:
    """What a check found: the function, the cases at its settings, what came back, and what is wrong with it."""

    trial: Trial
    cases: Sequence[Case]
    outcomes: Mapping[int, Outcome]
    results: Sequence[Result]
    built_in: Mapping[str, Any]  # settings that the function cannot be given, and what they are
    accept: Sequence[str]


def diagnose(
    facts: Facts, lost: Sequence[str], twice: Sequence[int], search: bool | None = True
) -> tuple[list[Diagnosis], list[Result]]:
    """What explains the failures, and those failures that nothing explains.

    Args:
        facts: what was asked, and what came back, without the gradients that are lost.
        lost: the inputs that no gradient reaches.
        twice: cases that gave other numbers when they were asked once more.
        search: look for combinations of alternatives too; None: name nothing but edges.
    """
    trial, outcomes, accept = facts.trial, facts.outcomes, facts.accept
    failed = [r for r in facts.results if r.status in BAD]
    fits = any(r.status == "pass" for r in facts.results)  # where nothing is right its numbers are no cause
    found = [
        *(_other_settings(trial.vectors, facts.built_in, len(facts.cases), accept) if fits else ()),
        *_not_held(trial.vectors, facts.cases, outcomes),
    ]
    if twice:
        return [*found, _plain_to_see("not_the_same_twice", twice, failed)], []
    ran = [c for c in facts.cases if c.id in outcomes and outcomes[c.id].kind == "numbers"]
    if not failed or (not ran and not any(r.status == "pass" for r in facts.results)):
        return found, failed  # where it never gave a number, there is nothing to tell variants by
    plain = [(outcomes[c.id], c) for c in ran if not hazards(c)]
    named_so = (all(matches(o, c.alternatives.get(n, c.expected)) for o, c in plain) for n in trial.vectors.flags)
    if not plain or not any(named_so):
        if constant(ran, outcomes, next(iter(trial.vectors.returns))):
            return [*found, _plain_to_see("constant_output", [r.case_id for r in failed], failed)], []
        if len(plain) > 2 and not any(math.isfinite(x) for o, _ in plain for _, x in leaves(dict(o.outputs))):
            return [*found, _plain_to_see("nan_everywhere", [r.case_id for r in failed], failed)], []
    evidence = Evidence(trial, [c for c in ran if c.expected is not None], outcomes)
    wrong = {r.case_id for r in failed if r.precision == "float64"}
    evidence, not_edges = with_twins(evidence, wrong, lost)
    wrong |= not_edges
    if lost:
        found.append(_detached(evidence, lost, wrong, accept))
        right = {c.id for c in evidence.scored if matches(evidence.outcomes[c.id], c.expected)}
        failed = [r for r in failed if r.case_id not in right]
        wrong -= right
    edges: set[int] = set()
    if right_but_for_edges(facts.cases, {r.case_id for r in failed}):
        edges = {c.id for c in facts.cases if c.id in {r.case_id for r in failed} and is_edge(evidence, c)}
    named: list[Diagnosis] = []
    explained: set[int] = set()
    if wrong - edges and search is not None:
        told, by_edge = _told(evidence, facts.cases, ({r.case_id for r in failed} | not_edges) - edges, search, accept)
        named, explained = [of_cases(d, not_edges) for d in told[0]], told[1] | as_its_twin(evidence, told[1])
        explained = explained | {i for d in named for i in d.cases}
        edges = (edges | by_edge) - explained
    return [*found, *named, *_by_edge(facts, [r for r in failed if r.case_id in edges])], [
        r for r in failed if r.case_id not in explained | edges
    ]


def _told(
    evidence: Evidence, cases: Sequence[Case], wrong: set[int], search: bool, accept: Sequence[str]
) -> tuple[tuple[list[Diagnosis], set[int]], set[int]]:
    """Diagnoses and the failures that they explain; and the failures that are edges of a function so diagnosed.

    What fails without an edge is named first: an edge alone would not fail there.
    """
    scored = {c.id: c for c in evidence.scored}
    core = {i for i in wrong if i in scored and not forgotten(scored[i])} or wrong
    named, explained = _names(evidence, core, search, accept)
    if not named:
        return ([], set()), set()
    names = tuple(n for d in named for n in d.names if d.kind != "factor")
    explained |= evidence.equal(names, [c for i, c in scored.items() if i in wrong - explained]) if names else set()
    by_edge = {c.id for c in cases if c.id in wrong - explained and is_edge(evidence, c, names)}
    left = wrong - explained - by_edge
    if left and left != wrong:
        more, covers = _names(evidence, left, False, accept)
        named += [d for d in more if d.names not in {x.names for x in named}]
        explained |= covers
    return (named, explained), by_edge


# ----------------------------------------------------------------------------------------------------- plain to see

PLAIN = {  # failures that need no search: what it is, and what it does to a run
    "not_the_same_twice": (
        "Called twice on the same batch it gives different numbers: something random, or a state that it keeps.",
        "No run can be repeated; dropout that is left on moves the ratio of the policy to itself away from 1.",
    ),
    "nan_everywhere": (
        "No number is finite, on any batch: a log of what is not above 0, a division by 0, or two infinities.",
        "The first step of a run makes every weight NaN.",
    ),
    "constant_output": ("It gives the same number for every batch.", "Nothing is measured and nothing is trained."),
    "detached": (
        "No gradient reaches {}, though the value depends on it: no_grad, detach, item or NumPy on the way.",
        "The loss looks right and what it should train is never trained.",
    ),
}


def _plain_to_see(name: str, cases: Iterable[int], failed: Sequence[Result]) -> Diagnosis:
    about, effect = PLAIN[name]
    ids = sorted({*cases, *(r.case_id for r in failed)})
    return Diagnosis((name,), "bug", len(ids), len(ids), (about,), (effect,), cases=tuple(ids))


def _detached(evidence: Evidence, lost: Sequence[str], wrong: set[int], accept: Sequence[str]) -> Diagnosis:
    """The gradients that are lost, under the objective's own name for it if it has one."""
    about, effect = PLAIN["detached"]
    flags, kept = evidence.trial.vectors.flags, [c for c in evidence.scored if c.id in wrong]
    own = [n for n in flags if "detached" in n and "not_detached" not in n and _all_lost(n, lost, evidence.scored)]
    name = max(own, key=lambda n: sum(n in c.alternatives for c in kept), default="detached")
    ids = tuple(sorted(c.id for c in kept))
    links, pitfalls = (flags[name].links, flags[name].pitfalls) if name in flags else ((), ())
    told = (about.format(" and ".join(lost)),)
    return Diagnosis(
        (name,), "bug", len(ids), len(ids), told, (effect,), links, pitfalls, accepted=name in accept, cases=ids
    )


def _all_lost(name: str, lost: Sequence[str], cases: Sequence[Case]) -> bool:
    """Has this alternative no gradient by these inputs, the right values, and the right gradients by the others?"""
    numbers = [(c.alternatives[name], c.expected) for c in cases if c.expected and name in c.alternatives]
    return (
        bool(numbers)
        and all(
            all(x == 0 for _, x in leaves(n.gradients.get(k, [])))
            if k in lost
            else n.gradients[k] == right.gradients[k]
            for n, right in numbers
            for k in right.gradients
        )
        and all(n.outputs == right.outputs for n, right in numbers)
    )


# ------------------------------------------------------------------------------------------------------- settings


def _other_settings(
    vectors: Vectors, built_in: Mapping[str, Any], cases: int, accept: Sequence[str]
) -> Iterable[Diagnosis]:
    """A setting that the function has built in, on which the objective leaves no choice, and it chose otherwise."""
    for name, value in built_in.items():
        setting: Setting = vectors.settings[name]
        usual = setting.usual[0] if setting.usual else value
        if setting.free or value == usual:
            continue
        label, number = f"{name}={value}", all(isinstance(x, float) for x in (value, usual))
        if not number:  # which number is written in is the user's affair; which formula is not
            yield Diagnosis(
                (label,), "variant", cases, cases, (f"{setting.about.rstrip('.')}. It is {value} here.",), (),
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


def _names(
    evidence: Evidence, wrong: set[int], search: bool, accept: Sequence[str]
) -> tuple[list[Diagnosis], set[int]]:
    """The diagnoses that explain these failures, and the failures that they explain."""
    first = _single(evidence, wrong)
    factor = _factor(evidence)
    if factor is not None and len(factor[1] & wrong) > len(first[1]):
        return [factor[0]], factor[1]
    found = _alternatives(evidence, wrong, first, search)
    explained = {i for _, ids in found for i in ids}
    core = {c.id for c in evidence.scored if c.id in wrong and not hazards(c)}
    diagnoses = []
    for names, ids in found:
        others = {i for other, more in found if other != names for i in more} - ids
        diagnoses.append(replace(_named(evidence, names, ids, accept), thin=thin(evidence, ids, core - others)))
    return diagnoses, explained


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
    vectors, signature = evidence.trial.vectors, evidence.trial.signature
    for name in vectors.named:
        if not candidate(name, signature, vectors) or tells_an_edge(name, vectors):
            continue
        shown = [c for c in evidence.scored if name in c.alternatives]
        telling = [c for c in shown if tells(evidence.outcomes[c.id], c)]
        hit = {c.id for c in telling if matches(evidence.outcomes[c.id], c.alternatives[name])}
        against = [c for c in telling if c.id not in hit | explained]
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


# --------------------------------------------------------------------------------------------------------------- edges


EDGES = {
    "empty_rows_counted": Flag(
        "edge",
        "A row without a chosen token counts in the mean over rows.",
        "Every other completion is scaled down when one is filtered out.",
        ("C61",),
        ("https://github.com/huggingface/trl/tree/v1.16.0",),
    ),
}


def _by_edge(facts: Facts, failed: Sequence[Result]) -> list[Diagnosis]:
    """Failures that edges explain, each edge once under its one name: the fewest that cover them."""
    vectors, cases = facts.trial.vectors, {c.id: c for c in facts.cases}
    told = {r.case_id: set(forgotten(cases[r.case_id])) for r in failed}
    ran = {r.case_id: set(r.flags) for r in facts.results if r.status != "skip"}
    found: dict[str, list[int]] = {}
    while told:
        flags = dict.fromkeys(f for fs in told.values() for f in fs)
        counts = {f: sum(f in fs for fs in told.values()) for f in flags}
        best = max(flags, key=lambda f: counts[f] * counts[f] / sum(f in fs for fs in ran.values()))
        for i in [i for i, fs in told.items() if best in fs]:
            told.pop(i)
            found.setdefault(one_name(cases[i], facts.outcomes.get(i), best), []).append(i)
    diagnoses = []
    for name, ids in found.items():
        flag = EDGES.get(name) or vectors.flags[name]
        of = max(len(ids), sum(name in fs for fs in ran.values()))
        accepted = name in facts.accept or any(ONE_NAME.get(n) == name for n in facts.accept)
        diagnoses.append(
            Diagnosis(
                (name,), "edge", len(ids), of, (flag.about,), (flag.effect,), flag.links, flag.pitfalls,
                accepted=accepted, cases=tuple(sorted(ids)),
                silent=silent(name, [cases[i] for i in ids], facts.cases, facts.trial),
            )
        )  # fmt: skip
    return diagnoses
