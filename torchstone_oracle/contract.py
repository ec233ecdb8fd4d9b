"""What a vector file says about one objective: its arguments, its right numbers, and what is known to go wrong.

An objective is computed from *steps*: plain functions, the right one for each. A named alternative (a published
variant, or a bug that somebody has had) is the same computation with one step, or a few, replaced. So alternatives can
be combined: a function with two mistakes is the computation with two steps replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .numbers import Dual, dual, leaf, mp, mpf, total

Inputs = dict[str, Any]  # nested lists of numbers, booleans or ids, by argument
Step = Callable[..., Any]


@dataclass(frozen=True)
class Argument:
    """``shape`` names the dimensions ("B T"; "" is a number). ``gradient``: the contract has the derivative by it."""

    shape: str
    unit: str
    gradient: bool = False
    kind: str = "float"  # or "bool", "int"


@dataclass(frozen=True)
class Setting:
    """A number, or the name of a choice, that a group of cases shares.

    ``free``: published code disagrees on it and no paper decides, so whatever a function has built in is right.
    ``usual``: values to try when a function has one built in that cannot be passed.
    """

    about: str
    usual: tuple[Any, ...] = ()
    free: bool = False


@dataclass(frozen=True)
class Flag:
    """What a case is about, or how an alternative differs.

    ``kind``: "bug" (somebody's mistake), "variant" (published under another name), "edge" (an input that code forgets).
    ``pitfalls``: rows of the catalogue of mistakes, such as C32. ``links``: papers, threads, commits.
    """

    kind: str
    about: str
    effect: str
    links: tuple[str, ...] = ()
    pitfalls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """``steps`` replace the right ones of the same names; ``settings`` replace numbers."""

    flag: Flag
    steps: Mapping[str, Step] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """``result``: "valid"; "invalid" (must be refused); "acceptable" (a miss is a warning: right code may differ).

    ``properties``: only that all numbers are finite and each gradient's sign are checked, not the numbers.
    """

    comment: str
    inputs: Inputs
    flags: tuple[str, ...] = ()
    result: str = "valid"
    properties: bool = False
    tolerance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    settings: Mapping[str, Any]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Objective:
    """``compute(inputs, settings, steps) -> {output: nested list of Dual, None where it may be anything}``.

    The first output is the one whose sum is differentiated. ``metrics``: the outputs that are reported, not optimised.
    """

    name: str
    about: str
    tags: tuple[str, ...]
    source: tuple[str, ...]
    arguments: Mapping[str, Argument]
    returns: Mapping[str, Argument]
    settings: Mapping[str, Setting]
    compute: Callable[[Inputs, Mapping[str, Any], Mapping[str, Step]], dict[str, Any]]
    steps: Mapping[str, Step]
    alternatives: Mapping[str, Alternative]
    edges: Mapping[str, Flag]
    groups: tuple[Group, ...]
    metrics: tuple[str, ...] = ()

    def run(
        self, inputs: Inputs, settings: Mapping[str, Any], *names: str, gradients: bool = True
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs, and the gradient by each differentiable argument, of the objective with these alternatives."""
        steps, numbers = dict(self.steps), dict(settings)
        for name in names:
            steps |= self.alternatives[name].steps
            numbers |= self.alternatives[name].settings
        wanted = [k for k, a in self.arguments.items() if a.gradient and inputs.get(k) is not None and gradients]
        given = leaves(inputs, self.arguments, wanted)
        outputs = self.compute(given, numbers, steps)
        slopes = total(flat(outputs[next(iter(self.returns))])).slopes
        return outputs, {k: shaped(inputs[k], (k,), slopes) for k in wanted}


def leaves(inputs: Inputs, arguments: Mapping[str, Argument], wanted: Collection[str]) -> Inputs:
    """The inputs as numbers that carry derivatives: by those that are ``wanted``, each entry named by its place."""
    return {k: _leaves(x, (k,), k in wanted) if arguments[k].kind == "float" else x for k, x in inputs.items()}


def flat(x: Any) -> list[Any]:
    """The numbers of a nested list in order, without the None."""
    if isinstance(x, list):
        return [y for part in x for y in flat(part)]
    return [] if x is None else [x]


def _leaves(x: Any, at: tuple, differentiable: bool) -> Any:
    if isinstance(x, list):
        return [_leaves(part, (*at, i), differentiable) for i, part in enumerate(x)]
    if x is None:
        return None
    return leaf(x, at) if differentiable else dual(x)


def shaped(x: Any, at: tuple, slopes: Mapping[Any, mpf]) -> Any:
    """The slopes by each entry of an input, in its shape."""
    if isinstance(x, list):
        return [shaped(part, (*at, i), slopes) for i, part in enumerate(x)]
    return Dual(slopes.get(at, mp.zero))
