"""Several alternatives at once, or another number, computed by the oracle and compared case by case."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from torchstone.conformance.call import Trial
from torchstone.conformance.compare import matches
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Numbers, hazards, leaves

SECONDS = 30.0  # for the search of combinations
SHARE = 0.7  # of the cases that a combination must explain

Names = tuple[str, ...]  # of alternatives ("token_mean"), and numbers ("epsilon=0.1")


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
    """The fewest alternatives or numbers, up to three, that explain most of the wrong cases; and those cases."""
    objective = oracle(evidence.trial.vectors.objective)
    core = [c for c in evidence.scored if not hazards(c)]
    failing = [c for c in core if c.id in wrong and _finite(evidence.outcomes[c.id])]
    best: tuple[Names, set[int]] = ((), set())
    if objective is None or not failing:
        return best
    probe = min(failing, key=lambda c: (-len(c.alternatives), _size(c)))
    value = replace(evidence.outcomes[probe.id], gradients=None)
    facets = _facets(objective, probe.settings)
    end = time.monotonic() + SECONDS
    for size in (1, 2, 3):
        for names in itertools.combinations(facets, size):
            if time.monotonic() > end:
                return best
            if not _orthogonal(objective, names):
                continue
            if not matches(value, by_oracle(objective, probe, names, gradients=False)):
                continue
            hit = evidence.equal(names)
            enough = sum(c.id in hit for c in core) >= SHARE * len(core)
            if probe.id in hit and len(hit & wrong) > len(best[1]) and enough:
                best = (names, hit & wrong)
        if best[0]:
            return best
    return best


def extended(evidence: Evidence, left: set[int], explained: Set[int], names: Names) -> tuple[Names, set[int]]:
    """One more alternative beside these, that explains what is left and keeps what is explained."""
    objective = oracle(evidence.trial.vectors.objective)
    best: tuple[Names, set[int]] = ((), set())
    if objective is None:
        return best
    unequal = [c for c in evidence.scored if c.id in left]
    done = evidence.equal(names, unequal)
    unequal = [c for c in unequal if c.id not in done]
    for name in objective.alternatives:
        more = (*names, name)
        if name in names or not _orthogonal(objective, more):
            continue
        hit = evidence.equal(more, unequal)
        known = [c for c in evidence.scored if c.id in explained] if len(hit) > len(best[1]) else []
        if known and len(evidence.equal(more, known)) >= SHARE * len(known):
            best = (more, hit)
    return best


def _facets(objective: Any, settings: Mapping[str, Any]) -> list[str]:
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


def by_oracle(objective: Any, case: Case, names: Names, gradients: bool = True) -> Numbers | None:
    """The oracle's numbers for a case with these alternatives; None where they have none.

    Args:
        objective: the oracle's, or None: then there are no numbers.
        case: inputs and settings.
        names: alternatives and numbers.
        gradients: compute them too.
    """
    if objective is None:
        return None
    settings = dict(case.settings)
    for n in names:
        if n not in objective.alternatives:
            key, _, _ = n.partition("=")
            settings[key] = next(v for v in objective.settings[key].usual if f"{key}={v}" == n)
    alternatives = [n for n in names if n in objective.alternatives]
    try:
        outputs, slopes = objective.run(dict(case.inputs), settings, *alternatives, gradients=gradients)
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


def _size(case: Case) -> int:
    return sum(1 for _ in leaves(dict(case.inputs)))


def _finite(outcome: Outcome) -> bool:
    return all(math.isfinite(x) for _, x in leaves(dict(outcome.outputs)))
