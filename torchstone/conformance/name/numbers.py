"""Changes of numbers and of results that any objective can have: squared, left out, negated, divided by a count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from torchstone.conformance.name.changes import Change, times
from torchstone.conformance.name.inputs import each_entry, normalised, word
from torchstone.conformance.vectors import Vectors

Rows = list[Any]

# ------------------------------------------------------------------------------------------------------- of numbers

Number = int | float


def setting_changes(vectors: Vectors, taken: Iterable[str]) -> Iterable[Change]:
    """Of each setting that a function takes, alone, and of each pair of numbers."""
    names = [k for k in vectors.settings if k in set(taken)]
    for k in names:
        for name, about, function in _FORMS:
            yield Change(
                f"{k}_{name}", about.replace("NUMBER", k), f"{k} does not act as it says.", 
                frozenset((f"setting {k}",)),
                settings=lambda s, k=k, f=function: {**s, k: f(s[k])} if _is_number(s[k]) else s,
            )  # fmt: skip
        values = {repr(c.settings[k]): c.settings[k] for c in vectors.cases}
        values |= {repr(v): v for v in vectors.settings[k].usual}
        for v in values.values():
            shown = "none" if v is None else v
            yield Change(
                f"{k}={v}", f"{k} is ignored: it is {shown}, whatever is given.", f"{k} has no effect.",
                frozenset((f"setting {k}",)), settings=lambda s, k=k, v=v: {**s, k: v},
            )  # fmt: skip
        if all(isinstance(v, bool) for v in values.values()):
            yield Change(
                f"{k}_inverted", f"{k} is inverted: True does what False should.", "The run is the other one.",
                frozenset((f"setting {k}",)), settings=lambda s, k=k: {**s, k: not s[k]},
            )  # fmt: skip
    for a, b in itertools.permutations(names, 2):
        keys = frozenset((f"setting {a}", f"setting {b}"))
        if names.index(a) < names.index(b):
            yield Change(
                f"{a}_and_{b}_exchanged", f"{a} and {b} are exchanged (swapped): they have changed places.",
                "Each acts where the other should.", keys,
                settings=lambda s, a=a, b=b: {**s, a: s[b], b: s[a]} if _is_number(s[a]) and _is_number(s[b]) else s,
            )  # fmt: skip
        yield Change(
            f"{a}_is_{b}", f"{b} is used in place of {a}.", f"{a} has no effect.", frozenset((f"setting {a}",)),
            settings=lambda s, a=a, b=b: {**s, a: s[b]} if _is_number(s[a]) and _is_number(s[b]) else s,
        )  # fmt: skip


def scaled_inputs(vectors: Vectors, taken: Iterable[str]) -> Iterable[Change]:
    """Each input times or over each number: a number that acts on one of several inputs alone, or on one twice."""
    known = set(taken)
    for k, a in vectors.arguments.items():
        for by in vectors.settings:
            if k not in known or by not in known or a.kind != "float" or by == "denominator":
                continue
            for verb, power in (("multiplied", 1), ("divided", -1)):
                yield Change(
                    f"{k}_{verb}_by_{by}", f"{word(k).capitalize()} alone: {verb} by {by} once more ({by} acts on them "
                    "twice, or not at all, or on the others alone).", f"{by} does not act on all that it should.",
                    frozenset((k, f"setting {by}")), scaled=(k, by, power),
                )  # fmt: skip


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


_FORMS: tuple[tuple[str, str, Callable[[Number], Number]], ...] = (
    ("squared", "NUMBER is squared: it is applied twice.", lambda x: x * x),
    ("doubled", "NUMBER is doubled: it counts twice.", lambda x: 2 * x),
    ("halved", "NUMBER is halved.", lambda x: x / 2),
    ("negated", "NUMBER is negated: its sign is flipped.", lambda x: -x),
    ("left_out", "NUMBER is left out: it is ignored, as if it were 1.", lambda x: 1),
    ("zero", "NUMBER is ignored, as if it were 0: what it weighs is left out.", lambda x: 0),
    ("inverted", "NUMBER is inverted: 1 / NUMBER, a division in place of a product or the reverse.", lambda x: 1 / x),
    ("rooted", "The root of NUMBER is used.", lambda x: x**0.5),
    ("complement", "1 - NUMBER stands in place of NUMBER.", lambda x: 1 - x),
    ("plus_one", "1 + NUMBER stands in place of NUMBER.", lambda x: 1 + x),
    ("less_one", "NUMBER - 1 stands in place of NUMBER (off by one).", lambda x: x - 1),
)

# --------------------------------------------------------------------------------------------- of what comes out


def result_changes(objective: Any, vectors: Vectors) -> Iterable[Change]:
    """The first output negated, constant, or another times as large by a count of the batch."""
    from torchstone_oracle.contract import flat
    from torchstone_oracle.numbers import dual, stop

    keys = frozenset(("the result",))
    first = next(iter(objective.returns))

    def change(name: str, about: str, effect: str, function: Callable[[Any, Any], Any]) -> Change:
        return Change(f"{first}_{name}", about, effect, keys, result=function)

    each = lambda f: lambda x, case: each_entry(f)(x)  # noqa: E731
    yield change("negated", "The result is negated: its sign is flipped.", "The update goes the wrong way.",
                 each(lambda x: -x))  # fmt: skip
    yield change("zero", "The result is the constant 0.", "Nothing is trained.", each(lambda x: dual(0)))
    yield change("one", "The result is the constant 1.", "Nothing is trained.", each(lambda x: dual(1)))
    if any(a.gradient for a in vectors.arguments.values()):  # a metric trains nothing
        yield change("detached", "The result is detached: no gradient flows from it.", "Nothing is trained.",
                     each(stop))  # fmt: skip
    yield change("absolute", "The absolute value of the result is taken.", "What is below 0 is turned around.",
                 each(lambda x: x if dual(x) > 0 else -dual(x)))  # fmt: skip
    yield change("not_below_zero", "The result is held at 0 or above (clamp(min=0)).", "What is below 0 is lost.",
                 each(lambda x: x if dual(x) > 0 else dual(0)))  # fmt: skip
    if vectors.returns[first].shape:
        yield from _of_many(change, vectors.returns[first].shape)
    counts: dict[str, Callable[[Any], float]] = {
        "the number of rows": lambda case: len(_array(case)),
        "the number of columns": lambda case: len(_array(case)[0]),
        "the number of entries": lambda case: len(flat(_array(case))),
        "the number of tokens that count": lambda case: sum(flat(case.inputs["mask"])),
        "the number of rows with a token": lambda case: sum(map(any, case.inputs["mask"])),
        "the mean length": lambda case: sum(flat(case.inputs["mask"])) / len(case.inputs["mask"]),
        **{k: lambda case, k=k: case.settings[k] for k in objective.settings},
    }
    for what, count in counts.items():
        for verb, power in (("multiplied by", 1), ("divided by", -1)):
            yield change(
                f"{verb}_{what}".replace(" ", "_"), f"The result is {verb} {what} (once more, or it is missing).",
                f"The learning rate is another one, and depends on {what}.",
                lambda x, case, count=count, power=power: times(x, dual(count(case)), power),
            )  # fmt: skip


def _of_many(change: Callable[..., Change], shape: str) -> Iterable[Change]:
    """A result of many numbers whitened, centred, or held at a bound."""

    def scaled(x: Any, case: Any, correction: int, centred: bool, divided: bool) -> Any:
        return normalised(x, correction, centred, case.settings.get("eps") or 0, divided)

    for n in (1, 0):
        deviation = f"the deviation (n{' - 1' * n}) of the batch"
        yield change(f"whitened_{n}", f"The result is whitened as well: less its mean, over {deviation}.",
                     "Two normalisations at once.", lambda x, case, n=n: scaled(x, case, n, True, True))  # fmt: skip
        yield change(f"scaled_{n}", f"The result is divided by {deviation} as well.", "Two normalisations at once.",
                     lambda x, case, n=n: scaled(x, case, n, False, True))  # fmt: skip
    yield change("centred", "The mean of the batch is taken off the result as well.", "A constant is taken off.",
                 lambda x, case: scaled(x, case, 0, True, False))  # fmt: skip
    for bound in (0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0):
        for name, about, low, high in (
            ("above", f"at most {bound}", -1e30, bound), ("below", f"at least {-bound}", -bound, 1e30),
            ("both", f"in [{-bound}, {bound}]", -bound, bound),
        ):  # fmt: skip
            yield change(f"clamped_{name}_{bound}", f"The result is clamped (clipped) to be {about}.",
                         "Beyond the bound there is no gradient.",
                         lambda x, case, low=low, high=high: each_entry(_held(low, high))(x))  # fmt: skip


def _held(low: float, high: float) -> Callable[[Any], Any]:
    from torchstone_oracle.numbers import clip, dual

    return lambda v: clip(v, dual(low), dual(high))


def _array(case: Any) -> Rows:
    return next(x for x in case.inputs.values() if isinstance(x, list))
