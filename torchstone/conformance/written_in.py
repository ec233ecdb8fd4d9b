"""Settings that are written into a function: the numbers that stand in its code, and what they must be."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

from torchstone.conformance.ask.compare import matches
from torchstone.conformance.name.combined import Names, by_oracle, oracle
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Numbers, Vectors, hazards, leaves

DEPTH = 3  # of functions that call functions
NUMBERS = 24  # of a function's own that are tried
TRIED = 600  # combinations of values on one case
AGAIN = 150  # of values that were chosen before
MISSED = 3  # cases that no combination fits, before the search ends
KEPT = 4  # combinations that go on to the next case
GRID = (
    0.0, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0,
)  # fmt: skip

FAR = 1e6  # a bound that nothing comes near
BOUNDS = ("epsilon", "epsilon_high", "value_epsilon")  # a clip of width 0 is none that anybody means

Values = dict[str, Any]


def numbers_in(function: Callable[..., Any]) -> list[float]:
    """The numbers of its code: constants, defaults, what it closes over, globals and functions that it names."""
    found: dict[float, None] = {}
    for x in _numbers(function, DEPTH, set()):
        if not isinstance(x, bool) and math.isfinite(x) and abs(x) <= 1e6:
            found.setdefault(float(x))
    return list(found)[:NUMBERS]


def _numbers(thing: Any, depth: int, seen: set[int]) -> Iterator[float]:
    if isinstance(thing, int | float):
        yield thing
    elif isinstance(thing, tuple | list):
        yield from (x for part in thing[:NUMBERS] for x in _numbers(part, 0, seen))
    elif isinstance(thing, CodeType):
        yield from (x for const in thing.co_consts for x in _numbers(const, depth, seen))
    elif depth > 0 and id(thing) not in seen:
        seen.add(id(thing))
        for part in _parts(thing):
            yield from _numbers(part, depth - 1, seen)


def _parts(thing: Any) -> Iterable[Any]:
    """Where the numbers of a function, a partial, a class or an object stand."""
    if inspect.isclass(thing):
        return [
            f for k, f in vars(thing).items() if k in ("__init__", "forward", "__call__") or isinstance(f, int | float)
        ]
    if hasattr(thing, "func") and hasattr(thing, "keywords"):
        return [*thing.args, *thing.keywords.values(), thing.func]
    run = getattr(thing, "__wrapped__", thing)
    if not hasattr(run, "__code__"):
        own = vars(thing).values() if hasattr(thing, "__dict__") and not inspect.ismodule(thing) else ()
        return [*own, *(f for k in ("forward", "__call__") if inspect.ismethod(f := getattr(thing, k, None)))]
    code, around = run.__code__, getattr(run, "__globals__", {})
    near = [around[k] for k in code.co_names if k in around]
    module = getattr(run, "__module__", None)
    near = [x for x in near if isinstance(x, int | float) or getattr(x, "__module__", "") == module]
    closed = [c.cell_contents for c in run.__closure__ or () if _filled(c)]
    defaults = [*(run.__defaults__ or ()), *(run.__kwdefaults__ or {}).values()]
    return [code, *defaults, *closed, *near, *([run.__self__] if inspect.ismethod(run) else [])]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def candidates(setting: str, vectors: Vectors, own: Sequence[float]) -> tuple[list[Any], list[Any]]:
    """Values that it may have: the usual ones and the function's own numbers; and what those may stand for.

    ``clamp(r, 0.8, 1.28)`` is an epsilon of 0.2 and one of 0.28: 1 - x, x - 1, -x and 1 / x are tried too.
    """
    known = [*vectors.settings[setting].usual, *(c.settings[setting] for c in vectors.cases)]
    first = _different(known)
    if not any(isinstance(x, float) for x in first):
        return first, first
    first = _different([*first, *own])
    more = (y for x in own for y in (1 - x, x - 1, -x, 1 / x if x else x))
    wide = _different([*first, *(round(y, 12) for y in more)])
    if setting in BOUNDS and 0 not in known:
        first, wide = ([x for x in some if x is None or x > 0] for some in (first, wide))
    return first, wide


def _different(values: Iterable[Any]) -> list[Any]:
    return list({(x is None, isinstance(x, str | bool), x): x for x in values}.values())


@dataclass
class Search:
    """Values of settings under which the oracle gives a function's own numbers, with these alternatives.

    ``cases``: ordinary ones that gave numbers. ``open``: the settings to be found, and the values to try, ``more``
    where none of these fits. ``solve``: then look for any number that does.
    """

    objective: Any
    cases: Sequence[Case]
    outcomes: Mapping[int, Outcome]
    open: Mapping[str, Sequence[Any]]
    more: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    solve: bool = False
    names: Names = ()
    matter: dict[int, set[str]] = field(default_factory=dict)  # by a case's id: the settings that move its numbers
    computed: dict[Any, Numbers | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.matter = self.matter or {c.id: self._matter(c) for c in self.cases}

    def found(self, missed: int = MISSED) -> tuple[Values, set[int]]:
        """The values, and the cases in which the numbers are then equal, gradients included.

        Case by case, those first in which the fewest settings matter: so the combinations stay few. ``missed``: how
        many cases may fit no combination before the search ends.
        """
        kept: list[Values] = [{}]
        left = {c.id: c for c in self.cases}
        fitted: list[Case] = []
        while left and missed:
            case = min(left.values(), key=lambda c: len(self.matter[c.id] - set(kept[0])))
            left.pop(case.id)
            matter = self.matter[case.id]
            grown = self._grown(case, kept, sorted(matter - set(kept[0])), fitted)
            if not grown and matter & set(kept[0]):  # what could be anything in the cases before is chosen again
                fewer = [{k: x for k, x in values.items() if k not in matter} for values in kept]
                grown = self._grown(case, fewer, sorted(matter), fitted, AGAIN)
            missed -= not grown
            kept = grown or kept
            fitted += [case] if grown else []
        if not missed and not kept[0]:
            return {}, set()
        chosen = [{k: known[0] for k, known in self.open.items()} | values for values in kept]
        scored = [(values, self.equal(values)) for values in chosen if self._reached(values)]
        return max(scored, key=lambda pair: len(pair[1]), default=({}, set()))

    def _reached(self, values: Values) -> bool:
        """Does each bound stop something? One that no case comes near is a bound that is missing."""
        bounds = [k for k in BOUNDS if k in self.open and values[k] is not None]
        return all(
            any(self._numbers(c, values, False) != self._numbers(c, values | {k: FAR}, False) for c in self.cases)
            for k in bounds
        )

    def _grown(
        self, case: Case, kept: Sequence[Values], new: Sequence[str], fitted: Sequence[Case], at_most: int = TRIED
    ) -> list[Values]:
        """The values kept so far, with values of the new settings that fit this case and those that are fitted."""
        grown: list[Values] = []
        tried: set[str] = set()
        for known in (self.open, self.more) if self.more and new else (self.open,):
            choices = sorted(itertools.product(*(range(len(known[k])) for k in new)), key=sum)[:at_most]
            for values in kept:
                for choice in choices:
                    more = values | {k: known[k][i] for k, i in zip(new, choice, strict=True)}
                    if repr(more) in tried:
                        continue
                    tried.add(repr(more))
                    if all(self._fits(c, more) for c in (case, *fitted)):
                        grown.append(more)
                        if len(grown) == KEPT:
                            return grown
            if grown:
                return grown
        if len(new) == 1 and self.solve:
            grown = [v | {new[0]: x} for v in kept for x in self._root(case, v, new[0])]
        return grown

    def _root(self, case: Case, values: Values, name: str) -> Iterable[float]:
        """The number at which the first output that it moves is the function's own, by halving."""
        if not any(isinstance(x, float) for x in self.open[name]):
            return
        first = next(iter(self.objective.returns))
        got = [x for _, x in leaves(self.outcomes[case.id].outputs.get(first))]

        def apart(x: float) -> list[float]:
            numbers = self._numbers(case, values | {name: x}, False)
            right = [] if numbers is None else [y for _, y in leaves(numbers.outputs[first])]
            return [a - b for a, b in zip(got, right, strict=False)] if len(right) == len(got) else []

        table = [(x, d) for x in GRID if (d := apart(x))]
        for i in range(len(got)):
            for (low, a), (high, b) in itertools.pairwise(table):
                if not a[i] * b[i] < 0:
                    continue
                for _ in range(50):
                    middle = (low + high) / 2
                    at = apart(middle)
                    if not at:
                        break
                    low, high = (middle, high) if at[i] * a[i] > 0 else (low, middle)
                x = float(f"{(low + high) / 2:.9g}")
                if name in BOUNDS and abs(x) < 1e-9:
                    continue
                if self._fits(case, values | {name: x}):
                    yield x
                    return

    def _matter(self, case: Case) -> set[str]:
        """The settings that move this case's numbers, from some of the values of the others."""
        found = set()
        for step in range(3):
            base = {k: known[min(step, len(known) - 1)] for k, known in self.open.items()}
            at = self._numbers(case, base, False)
            for k, known in self.open.items():
                if k not in found and any(self._numbers(case, base | {k: x}, False) != at for x in known[:4]):
                    found.add(k)
        return found

    def _fits(self, case: Case, values: Values) -> bool:
        return matches(replace(self.outcomes[case.id], gradients=None), self._numbers(case, values, False))

    def equal(self, values: Values) -> set[int]:
        """The cases in which the numbers at these values are the function's own, gradients included."""
        return {c.id for c in self.cases if matches(self.outcomes[c.id], self._numbers(c, values, True))}

    def _numbers(self, case: Case, values: Values, gradients: bool) -> Numbers | None:
        """In float64, each once: what does not move a case's right numbers makes no others."""
        matter = values if self.names else self.matter.get(case.id, values)
        moving = {k: v for k, v in values.items() if k in matter}
        key = case.id, self.names, gradients, repr(sorted(moving.items()))
        if key not in self.computed:
            there = replace(case, settings={**case.settings, **values})
            self.computed[key] = by_oracle(self.objective, there, self.names, gradients, fast=True)
        return self.computed[key]


def computed(case: Case, vectors: Vectors, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> Case | None:
    """The same case at other settings, or with fewer inputs, with right numbers by the oracle; None if it has none."""
    settings = {**case.settings, **settings}
    if settings == dict(case.settings) and inputs == dict(case.inputs):
        return case
    if case.result == "invalid":
        return replace(case, settings=settings, inputs=inputs)
    objective = oracle(vectors.objective)
    there = replace(case, settings=settings, inputs=inputs)
    numbers = by_oracle(objective, there, ())
    if numbers is None:
        return None
    if case.expected is None:
        return replace(there, signs={k: _signs(g) for k, g in numbers.gradients.items()})
    there = replace(there, expected=numbers)
    return replace(there, alternatives=Alternatives(objective, there, numbers))


def _signs(x: Any) -> Any:
    return [_signs(part) for part in x] if isinstance(x, list) else (x > 0) - (x < 0)


class Alternatives(Mapping[str, Numbers]):
    """A case's alternatives by name, each computed when it is asked for: those that differ from the right numbers."""

    def __init__(self, objective: Any, case: Case, right: Numbers) -> None:
        self.objective, self.case, self.right = objective, case, right
        self.known: dict[str, Numbers | None] = {}

    def __getitem__(self, name: str) -> Numbers:
        if name not in self.objective.alternatives:
            raise KeyError(name)
        if name not in self.known:
            found = by_oracle(self.objective, self.case, (name,), fast=not hazards(self.case))
            same = found is None or matches(Outcome("numbers", found.outputs, found.gradients, single=True), self.right)
            self.known[name] = None if same else found
        found = self.known[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.objective.alternatives if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
