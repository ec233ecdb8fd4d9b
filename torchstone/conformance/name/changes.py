"""A change to an objective: to an input, a number, a step, a line of its code, or to what comes out; and its numbers.

The oracle computes them, so changes can be combined with each other and with the alternatives that have a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from torchstone.conformance.vectors import Case, Numbers

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """``replaces``: what it touches, so that two changes of one thing are not combined.

    ``inputs``: from the inputs, as nested lists of the oracle's numbers, to others. ``scaled``: an input, and the
    setting that it is multiplied (1) or divided (-1) by. ``at_settings``: from the inputs and the settings to other
    inputs. ``settings``: from the settings to others.
    ``steps``: of the oracle's objective. ``code``: functions of the oracle, and what they run in place of their own.
    ``result``: from the first output, a list or a number, and the case to another. ``of``: the oracle's objective
    that is computed in place of this one. ``gradient_only``: the value is the right one, the gradient is this one's.
    ``when``: a setting, and the value of it with which alone the change is made.
    """

    name: str
    about: str
    effect: str
    replaces: frozenset[str]
    kind: str = "bug"
    inputs: Callable[[Inputs], Inputs] | None = None
    scaled: tuple[str, str, int] | None = None
    at_settings: Callable[[Inputs, Mapping[str, Any]], Inputs] | None = None
    settings: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    steps: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[tuple[FunctionType, CodeType], ...] = ()
    result: Callable[[Any, Case], Any] | None = None
    of: Any = None
    gradient_only: bool = False
    when: tuple[str, Any] | None = None
    links: tuple[str, ...] = ()
    pitfalls: tuple[str, ...] = ()


def numbers_of(
    objective: Any, case: Case, changes: Sequence[Change], gradients: bool = True, fast: bool = False
) -> Numbers | None:
    """The oracle's numbers for a case with these changes; None where they have none.

    Args:
        objective: the oracle's, or None: then there are no numbers.
        case: inputs and settings; its right numbers say which entries are compared.
        changes: applied one after another.
        gradients: compute them too.
        fast: in float64.
    """
    if objective is None or case.expected is None:
        return None
    from torchstone_oracle.numbers import in_float64

    try:
        with in_float64() if fast else nullcontext():
            return _computed(objective, case, changes, gradients)
    except Exception:
        return None


def _computed(objective: Any, case: Case, changes: Sequence[Change], gradients: bool) -> Numbers:
    from torchstone_oracle.contract import flat, leaves, shaped
    from torchstone_oracle.numbers import total

    assert case.expected is not None
    changes = [c for c in changes if c.when is None or case.settings[c.when[0]] == c.when[1]]
    other = next((c.of for c in changes if c.of is not None), objective)
    steps, settings = dict(other.steps), dict(case.settings)
    wanted = [k for k, a in objective.arguments.items() if a.gradient and case.inputs.get(k) is not None and gradients]
    given = leaves(dict(case.inputs), objective.arguments, wanted)
    for change in changes:
        steps |= change.steps
        settings = settings if change.settings is None else change.settings(settings)
        given = given if change.inputs is None else change.inputs(given)
        given = given if change.at_settings is None else change.at_settings(given, settings)
        given = given if change.scaled is None else _scaled(given, settings, *change.scaled)
    with _running([pair for change in changes for pair in change.code]):
        outputs = other.compute(given, settings, steps)
    first, of_other = next(iter(objective.returns)), next(iter(other.returns))
    value = outputs[of_other]
    for change in changes:
        value = value if change.result is None else change.result(value, case)
    compared = case.expected.outputs if changes else outputs  # without a change they are the right numbers themselves
    value = _where_compared(value, compared[first])
    slopes = total(flat(value)).slopes if wanted else {}
    also = [k for k in case.expected.outputs if k != first and outputs.get(k) is not None]
    found = {first: value} | {k: outputs[k] for k in also}
    kept = {k: _where_compared(x, compared[k]) for k, x in found.items()}
    numbers = Numbers(
        {k: floats(x) for k, x in kept.items()}, {k: floats(shaped(case.inputs[k], (k,), slopes)) for k in wanted}
    )
    if any(c.gradient_only for c in changes):
        return Numbers(case.expected.outputs, numbers.gradients)
    return numbers


def _scaled(given: Inputs, settings: Mapping[str, Any], k: str, by: str, power: int) -> Inputs:
    return {**given, k: times(given[k], settings[by], power)} if k in given and settings[by] is not None else given


def times(x: Any, n: Any, power: int) -> Any:
    """Every entry of a nested list times a number, or (``power`` -1) divided by it."""
    if isinstance(x, list):
        return [times(part, n, power) for part in x]
    return x if x is None else x * n if power > 0 else x / n


@contextmanager
def _running(code: Sequence[tuple[FunctionType, CodeType]]) -> Iterator[None]:
    """These functions run other code meanwhile."""
    before = [(f, f.__code__) for f, _ in code]
    try:
        for function, other in code:
            function.__code__ = other
        yield
    finally:
        for function, own in before:
            function.__code__ = own


def _where_compared(x: Any, right: Any) -> Any:
    """The entries of ``x`` that are compared, which are those of ``right``; 0 where a change leaves one out."""
    if isinstance(right, list):
        rows = x if isinstance(x, list) else [None] * len(right)
        return [_where_compared(a, b) for a, b in zip(rows, right, strict=True)]
    return None if right is None else 0 if x is None else x


def floats(x: Any) -> Any:
    """Nested lists of the oracle's numbers as floats."""
    if isinstance(x, list):
        return [floats(part) for part in x]
    return None if x is None else float(getattr(x, "value", x))
