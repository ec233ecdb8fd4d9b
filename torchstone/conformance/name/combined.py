"""Alternatives, numbers and changes made by machine, alone and together, computed by the oracle case by case."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.ask.compare import matches
from torchstone.conformance.name import borrowed
from torchstone.conformance.name.changes import Change, numbers_of
from torchstone.conformance.name.search import SHARE, Search
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Flag, Numbers, Vectors

Names = tuple[str, ...]  # of alternatives ("token_mean"), of numbers ("epsilon=0.1"), of changes ("mask_inverted")
MADE: dict[tuple[str, str], Change] = {}  # what a search has named: by the objective and the change


@dataclass(frozen=True)
class Evidence:
    """What a diagnosis goes by: a function, the cases that gave numbers and have right ones, and all outcomes."""

    trial: Trial
    scored: Sequence[Case]
    outcomes: Mapping[int, Outcome]

    def equal(self, names: Names, cases: Iterable[Case] | None = None) -> set[int]:
        """The cases (by default all that are scored) in which the oracle with these alternatives gives its numbers."""
        objective = oracle(self.trial.vectors.objective)
        asked = self.scored if cases is None else cases
        return {c.id for c in asked if matches(self.outcomes[c.id], by_oracle(objective, c, names))}


def oracle(name: str) -> Any:
    """The oracle's objective of this name; None where it has none, or is not installed."""
    try:
        from torchstone_oracle.contracts import OBJECTIVES
    except ModuleNotFoundError as e:
        if e.name not in ("mpmath", "torchstone_oracle"):
            raise
        return None
    return OBJECTIVES.get(name)


def combined(evidence: Evidence, wrong: set[int]) -> tuple[Names, set[int]]:
    """The changes, one or two, that explain most of the wrong cases; and those cases."""
    objective = oracle(evidence.trial.vectors.objective)
    found = Search(objective, evidence.trial, evidence.scored, evidence.outcomes, wrong, _progress).run()
    _progress("")
    if found is None:
        return (), set()
    for change in found.changes:
        MADE[objective.name, change.name] = change
    return tuple(c.name for c in found.changes), set(found.equal & wrong)


def _progress(what: str) -> None:
    """A line on a terminal that says what is tried; "" takes it away."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{f'looking for a name: {what}' * bool(what)}", end="", file=sys.stderr, flush=True)


def extended(evidence: Evidence, left: set[int], explained: Set[int], names: Names) -> tuple[Names, set[int]]:
    """One more alternative beside these, that explains what is left and keeps what is explained."""
    from torchstone.conformance.evidence import candidate

    objective = oracle(evidence.trial.vectors.objective)
    best: tuple[Names, set[int]] = ((), set())
    if objective is None:
        return best
    unequal = [c for c in evidence.scored if c.id in left]
    done = evidence.equal(names, unequal)
    unequal = [c for c in unequal if c.id not in done]
    taken = {key for n in names for key in change(objective, n).replaces}
    for name in objective.alternatives if unequal else ():
        may_be = candidate(name, evidence.trial.signature, evidence.trial.vectors)
        if not may_be or name in names or taken & change(objective, name).replaces:
            continue
        hit = evidence.equal((*names, name), unequal)
        known = [c for c in evidence.scored if c.id in explained] if len(hit) > len(best[1]) else []
        if known and len(evidence.equal((*names, name), known)) >= SHARE * len(known):
            best = ((*names, name), hit)
    return best


def flag_of(vectors: Vectors, name: str) -> Flag | None:
    """What a name is about: an alternative's flag, or what a search has named; None for another value of a number."""
    made = MADE.get((vectors.objective, name))
    if name in vectors.flags or made is None:
        return vectors.flags.get(name)
    return Flag(made.kind, made.about, made.effect, made.pitfalls, made.links)


def change(objective: Any, name: str) -> Change:
    """What a name stands for.

    Raises KeyError: it is no alternative, no number, and no change that a search has named.
    """
    if name in objective.alternatives:
        return borrowed.alternative(name, objective.alternatives[name])
    if (objective.name, name) in MADE:
        return MADE[objective.name, name]
    key, _, _ = name.partition("=")
    value = next((v for v in objective.settings[key].usual if f"{key}={v}" == name), None)
    return Change(
        name, f"{key} is {'none' if value is None else value}.", "", frozenset((f"setting {key}",)), "setting",
        settings=lambda settings: {**settings, key: value},
    )  # fmt: skip


def by_oracle(objective: Any, case: Case, names: Names, gradients: bool = True, fast: bool = False) -> Numbers | None:
    """The oracle's numbers for a case with these names; None where they have none.

    Args:
        objective: the oracle's, or None: then there are no numbers.
        case: inputs and settings.
        names: alternatives, numbers and changes.
        gradients: compute them too.
        fast: in float64.
    """
    if objective is None:
        return None
    return numbers_of(objective, case, [change(objective, n) for n in names], gradients, fast)
