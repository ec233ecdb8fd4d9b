"""Numbers with 50 digits that carry their own derivatives.

A ``Dual`` is a value and its slopes: the derivative by each input that it depends on. Every rule of differentiation
stands here once, as in a schoolbook (forward mode); nothing is taken from an autograd library. ``stop`` drops the
slopes: that is what "no gradient flows through it" means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mpmath import mp, mpf

mp.dps = 50

Slopes = dict[Any, mpf]


class Dual:
    """``value + sum_i slopes[i] d_i``."""

    __slots__ = ("slopes", "value")

    def __init__(self, value: Any, slopes: Slopes | None = None):
        self.value: mpf = value if type(value) is mpf else mpf(value)
        self.slopes: Slopes = slopes or {}

    def __repr__(self) -> str:
        return f"Dual({mp.nstr(self.value, 8)})"

    def __neg__(self) -> Dual:
        return Dual(-self.value, {i: -s for i, s in self.slopes.items()})

    def __add__(self, other: Number) -> Dual:
        other = dual(other)
        slopes = dict(self.slopes)
        for i, s in other.slopes.items():
            slopes[i] = slopes.get(i, 0) + s
        return Dual(self.value + other.value, slopes)

    def __sub__(self, other: Number) -> Dual:
        return self + -dual(other)

    def __mul__(self, other: Number) -> Dual:
        other = dual(other)
        slopes = {i: s * other.value for i, s in self.slopes.items()}
        for i, s in other.slopes.items():
            slopes[i] = slopes.get(i, 0) + s * self.value
        return Dual(self.value * other.value, slopes)

    def __truediv__(self, other: Number) -> Dual:
        other = dual(other)
        return self * _chain(other, _quotient(1, other.value), -(_quotient(1, other.value) ** 2))

    def __radd__(self, other: Number) -> Dual:
        return self + other

    def __rsub__(self, other: Number) -> Dual:
        return -self + other

    def __rmul__(self, other: Number) -> Dual:
        return self * other

    def __rtruediv__(self, other: Number) -> Dual:
        return dual(other) / self

    def __lt__(self, other: Number) -> bool:
        return self.value < dual(other).value

    def __gt__(self, other: Number) -> bool:
        return self.value > dual(other).value

    def __le__(self, other: Number) -> bool:
        return self.value <= dual(other).value

    def __ge__(self, other: Number) -> bool:
        return self.value >= dual(other).value

    def same(self, other: Number) -> bool:
        """Equal values, whatever the slopes."""
        return bool(self.value == dual(other).value)


class _Float64:
    """What is used of mpmath, in float64: some digits less, and several times as fast."""

    nan, inf, ninf, zero = math.nan, math.inf, -math.inf, 0.0
    log, isnan, isfinite = math.log, math.isnan, math.isfinite

    @staticmethod
    def exp(x: float) -> float:
        return math.exp(x) if x < 709 else math.inf if x == x else x

    @staticmethod
    def sqrt(x: float) -> float:
        return math.sqrt(x) if x >= 0 else math.nan

    @staticmethod
    def sign(x: float) -> int:
        return (x > 0) - (x < 0)


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 meanwhile: for a search, whose finds are computed again with all digits."""
    global mp, mpf
    exact = mp, mpf
    mp, mpf = _Float64, float
    try:
        yield
    finally:
        mp, mpf = exact


Number = Dual | mpf | int | float | str


def dual(x: Number) -> Dual:
    """A constant: no slopes."""
    return x if isinstance(x, Dual) else Dual(x)


def leaf(value: Number, name: Any) -> Dual:
    """An input: its slope by itself is 1."""
    return Dual(dual(value).value, {name: mpf(1)})


def stop(x: Number) -> Dual:
    """The value alone, as a constant."""
    return Dual(dual(x).value)


def _chain(x: Dual, value: mpf, slope: mpf) -> Dual:
    """f(x) from f's value and slope there."""
    return Dual(value, {i: slope * s for i, s in x.slopes.items()})


def _quotient(a: Any, b: mpf) -> mpf:
    """a / b, and IEEE's inf or nan where b is 0."""
    if b == 0:
        return mp.nan if a == 0 else mp.inf * mp.sign(a)
    return mpf(a) / b


# ------------------------------------------------------------------------------------------------ functions of a number


def exp(x: Number) -> Dual:
    x = dual(x)
    e = mp.exp(x.value)
    return _chain(x, e, e)


def log(x: Number) -> Dual:
    """log x; -inf at 0 and nan below, as in IEEE arithmetic."""
    x = dual(x)
    value = mp.log(x.value) if x.value > 0 else (mp.ninf if x.value == 0 else mp.nan)
    return _chain(x, value, _quotient(1, x.value))


def sqrt(x: Number) -> Dual:
    x = dual(x)
    root = mp.sqrt(x.value)
    return _chain(x, root, _quotient(mpf(1) / 2, root))


def sigmoid(x: Number) -> Dual:
    return 1 / (1 + exp(-dual(x)))


def log_sigmoid(x: Number) -> Dual:
    """-log(1 + exp(-x)): 50 digits need no care with large x."""
    return -log(1 + exp(-dual(x)))


def absolute(x: Number) -> Dual:
    """|x|. At 0 the slope is 0, as autograd libraries have it."""
    x = dual(x)
    if x.same(0):
        return stop(x)
    return -x if x < 0 else x


def minimum(a: Number, b: Number) -> Dual:
    """The smaller; its slopes. At equality the mean of both slopes, as autograd libraries have it."""
    a, b = dual(a), dual(b)
    if a.same(b):
        return (a + b) / 2
    return a if a < b else b


def maximum(a: Number, b: Number) -> Dual:
    return -minimum(-dual(a), -dual(b))


def clip(x: Number, low: Number, high: Number) -> Dual:
    """x held between two constants. Outside, the slope is 0; at a bound it is x's own."""
    x = dual(x)
    if x < low:
        return stop(low)
    return stop(high) if x > high else x


def total(xs: Iterable[Number]) -> Dual:
    """The sum; 0 of nothing."""
    result = Dual(0)
    for x in xs:
        result = result + x
    return result


def mean(xs: Sequence[Number]) -> Dual:
    """The mean; 0 of nothing."""
    return total(xs) / len(xs) if len(xs) else Dual(0)


BOUND = 20


def bounded_exp(x: Number) -> Dual:
    """exp(x) up to x = 20, its tangent beyond: the rule for far-off tokens."""
    x = dual(x)
    if x > BOUND:
        return exp(BOUND) * (1 + x - BOUND)
    return exp(x)
