"""At which settings is a function compared? At those that it is given, and at those that are written into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.ask.compare import matches
from torchstone.conformance.evidence import SHARE, candidate
from torchstone.conformance.name.combined import oracle
from torchstone.conformance.result import Outcome
from torchstone.conformance.trial import WEIGHTS, form, hypotheses, reduces
from torchstone.conformance.vectors import Case, Vectors, hazards
from torchstone.conformance.written_in import Search, Values, candidates, computed, numbers_in

WRITTEN = 8  # cases that no number of the function's own fits, before it is given up

Outcomes = Mapping[int, Outcome]


def settled(trial: Trial, cases: Sequence[Case], outcomes: Outcomes, search: bool = True) -> tuple[Values, list[Case]]:
    """The settings that the function cannot be given, at what they seem to be; and the cases at those settings.

    A number that is written into a function is solved for over all ordinary cases before any bug is thought of: what
    explains every case is its value. Every case can then be asked, with right numbers at that value.

    Args:
        trial: the function.
        cases: those that it can be asked, with the inputs that it takes.
        outcomes: what came back, by the case's id.
        search: if no values make it right, look for those at which it equals a named alternative.
    """
    vectors, signature = trial.vectors, trial.signature
    reduced = reduces(outcomes)
    fixed = [k for k in vectors.settings if not signature.expresses(k)]
    fixed = [k for k in fixed if reduced or k not in ("reduce", "length", "group_size")]
    settings = {k: _without_input(k, trial) for k in fixed if _without_input(k, trial) is not ...}
    open_ = [k for k in fixed if k not in settings]
    settings |= _solved(trial, cases, outcomes, settings, open_, search) if open_ else {}
    there = _at(vectors, cases, {k: settings[k] for k in fixed})
    there = [c for c in there if not _other_form(c, there, outcomes)]
    return {k: settings[k] for k in fixed}, sorted(there, key=lambda c: c.id)


def _other_form(case: Case, cases: Sequence[Case], outcomes: Outcomes) -> bool:
    """Has it one number a row where the function takes one a token, or the reverse? It fits only the other form."""
    for k, of_tokens in form(case).items():
        fits = [form(c)[k] for c in cases if k in form(c) and c.id in outcomes and _fits(outcomes[c.id], c)]
        if fits and of_tokens not in fits:
            return True
    return False


def _without_input(setting: str, trial: Trial) -> Any:
    """What a setting is for a function that does not take what it weighs; ``...`` where it must be found."""
    if setting == "denominator":
        return None
    weighed = [k for k, weight in WEIGHTS.items() if weight == setting and k in trial.vectors.arguments]
    optional = [k for k in weighed if any(k not in c.inputs for c in trial.vectors.cases)]
    return 0.0 if optional and not any(trial.signature.expresses(k) for k in optional) else ...


def _fits(outcome: Outcome, case: Case) -> bool:
    return matches(outcome, case.expected) or any(matches(outcome, n) for n in case.alternatives.values())


def _at(vectors: Vectors, cases: Sequence[Case], settings: Values) -> list[Case]:
    """The cases at these settings; one that is then the same as another is left out."""
    whole = {c.id: c for c in vectors.cases}
    found: dict[str, Case] = {}
    own = [c for c in cases if all(c.settings[k] == v for k, v in settings.items())]
    for case in [*own, *(c for c in cases if c not in own)]:
        there = computed(whole[case.id], vectors, {**case.settings, **settings}, case.inputs)
        if there is not None:
            found.setdefault(repr((there.inputs, sorted(there.settings.items(), key=str), there.result)), there)
    return list(found.values())


def _solved(
    trial: Trial, cases: Sequence[Case], outcomes: Outcomes, known: Values, open_: Sequence[str], search: bool
) -> Values:
    """The values of these settings that explain most ordinary cases: as they are, or by one named alternative."""
    vectors = trial.vectors
    plain = _plainest(vectors, open_)
    asked = [c for c in cases if c.result == "valid" and c.expected is not None and not hazards(c)]
    asked = [c for c in asked if c.id in outcomes and outcomes[c.id].kind == "numbers"]
    objective = oracle(vectors.objective)
    name, stored = _stored([c for c in asked if all(c.settings[k] == v for k, v in known.items())], outcomes, open_)
    if objective is None or not asked:
        return stored or plain
    ordinary = [replace(c, settings={**c.settings, **known}) for c in asked]
    own = numbers_in(trial.function)
    tables = {k: candidates(k, vectors, own) for k in open_}
    first = {k: [plain[k], *(x for x in t[0] if x != plain[k])] for k, t in tables.items()}
    as_it_is = Search(objective, ordinary, outcomes, first)
    written, equal = as_it_is.found(WRITTEN)
    if len(equal) < len(ordinary):  # a number that stands nowhere in the code must explain everything
        values, more = replace(as_it_is, more={k: t[1] for k, t in tables.items()}, solve=True).found()
        written, equal = (values, more) if len(more) == len(ordinary) else (written, equal)
    if 2 * len(equal) >= len(ordinary):
        return written
    if stored and len(replace(as_it_is, names=(name,) * bool(name)).equal(stored)) >= SHARE * len(ordinary):
        return stored
    near = written if len(equal) > len(as_it_is.equal(plain)) else plain
    return (_with_a_name(trial, as_it_is, plain) if search else {}) or near


def _with_a_name(trial: Trial, as_it_is: Search, plain: Values) -> Values:
    """The values at which one named alternative explains most ordinary cases; none if there is none."""
    vectors = trial.vectors
    best: tuple[Values, set[int]] = {}, set()
    usual = {k: [plain[k], *(x for x in candidates(k, vectors, ())[0] if x != plain[k])] for k in plain}
    for name in as_it_is.objective.alternatives if any(len(known) > 1 for known in usual.values()) else ():
        shown = [c for c in vectors.cases if name in c.alternatives and not hazards(c)]
        if shown and candidate(name, trial.signature, vectors):
            values, hit = replace(as_it_is, open=usual, names=(name,)).found(1)
            if len(hit) > len(best[1]) and len(hit) >= SHARE * len(as_it_is.cases):
                best = values, hit
    return best[0]


def _plainest(vectors: Vectors, open_: Sequence[str]) -> Values:
    """What a setting is for a function that does not speak of it: none, where there is none, else the usual value."""
    wanted = {}
    for k in open_:
        seen = [c.settings[k] for c in vectors.cases]
        usual = [*vectors.settings[k].usual, *seen]
        wanted[k] = None if None in usual else usual[0]
    groups = hypotheses((c for c in vectors.cases if c.expected is not None), open_)
    near = max(groups, key=lambda g: (sum(g[0].settings[k] == wanted[k] for k in open_), len(g)))
    return {k: near[0].settings[k] for k in open_}


def _stored(cases: Sequence[Case], outcomes: Outcomes, open_: Sequence[str]) -> tuple[str, Values]:
    """By the vectors alone: the values of the group of cases of which one name explains most, and the name.

    "" is the name of the right numbers.
    """
    best, name, values = 1, "", {}
    for group in hypotheses(cases, open_):
        for other in ["", *dict.fromkeys(k for c in group for k in c.alternatives)]:
            hit = sum(_explains(other, c, outcomes[c.id]) for c in group)
            if hit > best and hit >= SHARE * len(group):
                best, name, values = hit, other, {k: group[0].settings[k] for k in open_}
    return name, values


def _explains(name: str, case: Case, outcome: Outcome) -> bool:
    """Are these its numbers? Those of an alternative that makes no difference here are the right ones."""
    return matches(outcome, case.alternatives.get(name, case.expected))
