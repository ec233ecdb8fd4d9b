"""Steps of other objectives in this one's place, and other objectives under this one's name."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torchstone.conformance.name.changes import Change
from torchstone.conformance.vectors import Case

MOST = 60  # combinations of numbers that another objective is tried with


def alternatives(objective: Any) -> list[Change]:
    """The alternatives that have a name, as changes."""
    return [alternative(name, a) for name, a in objective.alternatives.items()]


def alternative(name: str, a: Any) -> Change:
    """An alternative of the oracle as a change."""
    numbers = a.settings
    return Change(
        name, a.flag.about, a.flag.effect, frozenset((*a.steps, *(f"setting {k}" for k in numbers))),
        a.flag.kind, settings=(lambda s: {**s, **numbers}) if numbers else None, steps=a.steps,
        links=a.flag.links, pitfalls=a.flag.pitfalls,
    )  # fmt: skip


def steps(objective: Any) -> Iterable[Change]:
    """What is known to go wrong in other objectives with a step that this one has too, and their own steps."""
    from torchstone_oracle.contracts import OBJECTIVES
    from torchstone_oracle.contracts.shared import more

    known = {id(step) for a in objective.alternatives.values() for step in a.steps.values()}
    seen = known | {id(step) for step in objective.steps.values()}
    for name, a in more.ALTERNATIVES.items():
        if name not in objective.alternatives and _fits(a.steps, objective):
            yield alternative(name, a)
    for other in OBJECTIVES.values():
        for name, a in other.alternatives.items():
            new = a.steps and not a.settings and not {id(s) for s in a.steps.values()} <= seen
            if new and name not in objective.alternatives and _fits(a.steps, objective):
                seen |= {id(s) for s in a.steps.values()}
                yield alternative(name, a)
        if other.steps.keys() == objective.steps.keys():
            for key, step in other.steps.items():
                if id(step) not in seen and _fits({key: step}, objective):
                    seen.add(id(step))
                    yield Change(
                        f"{key}_of_{other.name}", f"The step `{key}` is that of {other.name}: {other.about}",
                        "Part of another objective under this name.", frozenset((key,)), "variant", steps={key: step},
                    )  # fmt: skip


def _fits(replaced: Mapping[str, Any], objective: Any) -> bool:
    """Has the objective all these steps, with as many parameters?"""
    return all(k in objective.steps and _number(s) == _number(objective.steps[k]) for k, s in replaced.items())


def _number(step: Callable[..., Any]) -> int:
    return len(inspect.signature(step).parameters)


def others(objective: Any, case: Case, taken: Iterable[str]) -> Iterable[Change]:
    """Every other objective that can be computed from these arguments, with each of its usual numbers.

    A number of one name has the value that is given; any other may be any number that the function is given.
    """
    from torchstone_oracle.contracts import OBJECTIVES

    shapes = {k: len(objective.arguments[k].shape.split()) for k in case.inputs}
    first = next(iter(objective.returns.values())).shape
    for other in OBJECTIVES.values():
        needed = _needed(other)
        same = needed <= shapes.keys() and all(objective.arguments[k].kind == other.arguments[k].kind for k in needed)
        if other is objective or not same or next(iter(other.returns.values())).shape != first:
            continue
        free = {k: _values(other.settings[k], k, case) for k in other.settings}
        for values in itertools.islice(itertools.product(*free.values()), MOST):
            yield _under_this_name(other, needed, dict(zip(free, values, strict=True)))


def _under_this_name(other: Any, needed: set[str], numbers: Mapping[str, Any]) -> Change:
    """Another objective; ``numbers``: a value for each of its settings, or a tuple with the name of ours it is."""
    usual = {k: (s.usual or (None,))[0] for k, s in other.settings.items()}
    shown = ", ".join(f"{k} {_shown(v)}" for k, v in numbers.items() if v not in ((k,), usual[k]))
    short = other.name.removesuffix("_loss").replace("_", " ").upper() if other.name.endswith("_loss") else ""

    def settings(given: dict[str, Any]) -> dict[str, Any]:
        given = {**given, "epsilon_high": given.get("epsilon_high") or given.get("epsilon")}  # as a function has them
        return {k: given[v[0]] if isinstance(v, tuple) else v for k, v in numbers.items()}

    return Change(
        f"{other.name}({shown})" if shown else other.name,
        f"This is {other.name}{f' ({short})' * bool(short)}, another objective under this name"
        f"{f', with {shown}' * bool(shown)}. {other.about}",
        "The run has the name of one objective and the result of another.", frozenset(("everything",)), "variant",
        of=other, inputs=lambda x: {k: v for k, v in x.items() if k in needed or k in other.arguments},
        settings=settings,
    )  # fmt: skip


def _shown(value: Any) -> Any:
    return f"= {value[0]}" if isinstance(value, tuple) else "none" if value is None else value


def _needed(objective: Any) -> set[str]:
    """The arguments that every case of it has."""
    every = [set(c.inputs) for g in objective.groups for c in g.cases if c.result == "valid"]
    return set.intersection(*every) if every else set(objective.arguments)


def _values(setting: Any, name: str, case: Case) -> list[Any]:
    """What a setting of another objective may be: as given where it has the name, else usual, or another's value."""
    if name in case.settings:
        return [(name,), *([None] if None in setting.usual else []), *(setting.usual if name == "reduce" else ())]
    usual = list(setting.usual) or [None]
    if not any(_is_number(v) for v in usual):
        return usual
    return [*((k,) for k, v in case.settings.items() if k != "denominator" and (v is None or _is_number(v))), *usual]


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
