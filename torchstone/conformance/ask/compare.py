"""Are these the numbers? Within a tolerance of the case's largest magnitude; NaN equals NaN."""

from __future__ import annotations

import math
from typing import Any

import torch

from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Numbers, leaves

CLOSE = {"float64": 1e-7, "float32": 2e-5}  # of the case's largest magnitude, unless it says otherwise


def matches(outcome: Outcome, wanted: Numbers | None) -> bool:
    """Are these its numbers, in the precision in which it computes?"""
    tolerance = CLOSE["float32" if outcome.single else "float64"]
    return wanted is not None and difference(outcome, wanted, tolerance) is None


def in_float32(numbers: Numbers) -> bool:
    """Could all of these be float32 numbers?"""
    values = torch.tensor(
        [x for tree in (numbers.outputs, numbers.gradients) for _, x in leaves(tree)], dtype=torch.float64
    )
    return bool((values.nan_to_num() == values.float().double().nan_to_num()).all())


def difference(outcome: Outcome, wanted: Numbers, tolerance: float, unit: float | None = None) -> str | None:
    """The first number that is not as wanted, in words; None if all are.

    Args:
        outcome: what came back. What the function does not give (a metric, gradients) is not compared.
        wanted: the right numbers.
        tolerance: as a share of ``unit``.
        unit: by default the largest magnitude of ``wanted``.
    """
    if outcome.kind != "numbers":
        return outcome.detail
    wanted = as_reduced(wanted, outcome.reduced)
    margin = tolerance * (unit or wanted.magnitude)
    for name, expected in wanted.outputs.items():
        if name in outcome.outputs:
            found = _first(outcome.outputs[name], expected, margin)
            if found:
                return f"{name}{found}"
    for name, expected in wanted.gradients.items():
        if outcome.gradients is not None and name in outcome.gradients:
            found = _first(outcome.gradients[name], expected, margin)
            if found:
                return f"gradient of {name}{found}"
    return None


def as_reduced(numbers: Numbers, by: str) -> Numbers:
    """What a function gives that reduces, by "mean" or "sum", what the vectors have per token."""
    if by not in ("mean", "sum"):
        return numbers
    first = next(iter(numbers.outputs))
    entries = [x for _, x in leaves(numbers.outputs[first])]
    n = max(len(entries), 1) if by == "mean" else 1
    outputs = {first: sum(entries) / n}
    return Numbers(outputs, {k: _divided(g, n) for k, g in numbers.gradients.items()})


def _divided(x: Any, n: float) -> Any:
    return [_divided(part, n) for part in x] if isinstance(x, list) else (None if x is None else x / n)


def _first(got: Any, expected: Any, margin: float, at: str = "") -> str | None:
    if expected is None:
        return None
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return f"{at}: expected {len(expected)} entries, got {len(got) if isinstance(got, list) else got}"
        found = (_first(g, e, margin, f"{at}[{i}]") for i, (g, e) in enumerate(zip(got, expected, strict=True)))
        return next((f for f in found if f), None)
    if isinstance(got, list):
        return f"{at}: expected one number, got {len(got)} entries"
    return None if same(float(got), float(expected), margin) else f"{at}: expected {expected:.9g}, got {got:.9g}"


def same(a: float, b: float, margin: float) -> bool:
    """Are two numbers no further apart than ``margin``? An infinity equals itself, and NaN equals NaN."""
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b) <= margin
    return a == b or (math.isnan(a) and math.isnan(b))


def broken_property(outcome: Outcome, case: Case) -> str | None:
    """What an input far off does not keep: finite numbers, and the sign of each gradient; None if it keeps all."""
    if outcome.kind != "numbers":
        return outcome.detail
    mask = case.inputs.get("mask")
    for tree, what in ((outcome.outputs, ""), (outcome.gradients or {}, "gradient of ")):
        for name, x in tree.items():
            for at, value in leaves(_chosen(x, mask) if not what else x):
                if not math.isfinite(value):
                    return f"{what}{name}{at}: expected a finite number, got {value}"
    for name, signs in (case.signs or {}).items():
        if outcome.gradients is not None and name in outcome.gradients:
            pairs = zip(leaves(signs), leaves(outcome.gradients[name]), strict=True)
            for (at, sign), (_, value) in pairs:
                if sign and value * sign <= 0:
                    return f"gradient of {name}{at}: expected it {'above' if sign > 0 else 'below'} 0, got {value:.6g}"
    return None


def _chosen(x: Any, mask: Any) -> Any:
    """A matrix without what lies under False."""
    fits = isinstance(x, list) and isinstance(mask, list) and len(x) == len(mask) and x and isinstance(x[0], list)
    if not fits or len(x[0]) != len(mask[0]):
        return x
    return [[v if m else None for v, m in zip(*rows, strict=True)] for rows in zip(x, mask, strict=True)]
