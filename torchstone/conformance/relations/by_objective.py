"""A function that is matched with an objective, on one of that objective's cases; only its inputs are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.fit.arguments import array
from torchstone.conformance.fit.signature import Signature, read_signature
from torchstone.conformance.fit.target import TargetError
from torchstone.conformance.relations.subject import Answer, Batch, Call, Refused, first_that_runs
from torchstone.conformance.trial import askable, best_trial, likely_arrays
from torchstone.conformance.vectors import Case, Vectors, load


def matched(
    function: Callable[..., Any], objective: str, names: Mapping[str, str], settings: Mapping[str, Any],
    output: str | int | None, arrays: str | None, layout: str | None, time_limit: float,
) -> tuple[Call, Batch, dict[str, str], tuple[str, ...]]:  # fmt: skip
    """The arguments of ``Subject`` for a function that implements an objective.

    Args:
        function, objective, names, settings, output, arrays, layout, time_limit: as in ``conformance.check``.

    Raises TargetError: its parameters do not match, or no ordinary case can be run with them.
    """
    vectors = load(objective)
    signature = read_signature(function, vectors, names, settings)
    alone = [c for c in vectors.cases if c.settings.get("denominator") is None or signature.expresses("denominator")]
    asked_of = (askable(c, signature, vectors) for c in alone if c.result == "valid" and _ordinary(c))
    cases = [c for c in asked_of if c is not None]
    if not cases:
        raise TargetError(f"target: no ordinary case of {vectors.objective} can be run with these parameters")
    kinds = (arrays,) if arrays else likely_arrays(function)
    asked = None if output is None else str(output)
    trial = best_trial(function, signature, vectors, cases, kinds, layout, asked, time_limit)
    case = max(cases, key=_telling)
    inputs = {k: x for k, x in case.inputs.items() if signature.expresses(k)}
    batch = _batch(case, inputs, signature, vectors)
    free = replace(trial, vectors=_all_free(vectors, inputs))
    calls = [_Ask(t, case, tuple(inputs)) for t in (free, trial)]
    declared = tuple(k for k in inputs if vectors.arguments[k].gradient and k not in vectors.held)
    return first_that_runs(calls, batch), batch, _shapes(inputs, batch, vectors), declared


@dataclass(frozen=True)
class _Ask:
    """A call of the function on a case with other numbers in the arguments that it takes."""

    trial: Trial
    case: Case
    takes: tuple[str, ...]

    def __call__(self, batch: Batch) -> Answer:
        vectors, case = self.trial.vectors, self.case
        single = any(isinstance(x, Tensor) and x.dtype == torch.float32 for x in batch.values())
        lists = {k: x.tolist() if isinstance(x, Tensor) else x for k, x in batch.items() if k in vectors.arguments}
        lists = {k: case.inputs[k] for k in case.inputs if k not in self.takes} | lists
        numbers = dict(case.settings) | {k: x for k, x in batch.items() if k in vectors.settings}
        asked = Case(0, "", (), "valid", lists, numbers, None, None, {}, {})
        found = self.trial.run(asked, "float32" if single else "float64")
        if found.kind != "numbers":
            raise Refused(found.detail)
        value = torch.tensor(next(iter(found.outputs.values())), dtype=torch.float64)
        slopes = found.gradients
        gradients = None if slopes is None else {k: torch.tensor(g, dtype=torch.float64) for k, g in slopes.items()}
        return Answer(value, gradients, found.changed)


def _all_free(vectors: Vectors, inputs: Mapping[str, Any]) -> Vectors:
    """The objective with a gradient asked of every tensor of floats, to see where one flows."""
    free = {k: bool(a.kind == "float" and a.shape and k in inputs) for k, a in vectors.arguments.items()}
    arguments = {k: replace(a, gradient=free[k]) for k, a in vectors.arguments.items()}
    return replace(vectors, arguments=arguments, flags={})  # without its variants nothing counts as held constant


def _batch(case: Case, inputs: Mapping[str, Any], signature: Signature, vectors: Vectors) -> Batch:
    batch: Batch = {k: array(x, vectors.arguments[k], "float64") for k, x in inputs.items()}
    g = torch.Generator().manual_seed(5)
    for k in (k for k in batch if k.endswith("log_probs")):  # no ties, whose slope may be one or the other
        batch[k] = batch[k] - 0.01 * torch.rand(batch[k].shape, generator=g, dtype=torch.float64)
    numbers = {k: v for k, v in case.settings.items() if signature.expresses(k)}
    return batch | {k: v for k, v in numbers.items() if v is not None or k == "denominator"}


def _shapes(inputs: Mapping[str, Any], batch: Batch, vectors: Vectors) -> dict[str, str]:
    shapes = {k: vectors.arguments[k].shape for k in inputs}
    shapes |= {k: "B T" for k, s in shapes.items() if s == "B" and batch[k].ndim == 2}  # advantages may be either
    return shapes | {k: "B" for k, s in shapes.items() if s == "B T" and batch[k].ndim == 1}


def _ordinary(case: Case) -> bool:
    numbers = [x for tree in case.inputs.values() for x in _flat(tree)]
    return all(math.isfinite(x) and abs(x) < 15 for x in numbers if isinstance(x, float)) and case.expected is not None


def _flat(x: Any) -> list[Any]:
    return [v for part in x for v in _flat(part)] if isinstance(x, list) else [x]


def _telling(case: Case) -> tuple[int, ...]:
    """Most arguments; a mask that hides something and leaves no row empty; several rows, not as many as columns."""
    mask = case.inputs.get("mask")
    first = next(iter(case.inputs.values()))
    oblong = isinstance(first, list) and bool(first) and isinstance(first[0], list) and len(first) != len(first[0])
    uneven = mask is not None and not all(_flat(mask)) and all(any(row) for row in mask)
    several = isinstance(first, list) and len(first) > 1
    beta = bool(case.settings.get("beta"))
    numbers = [_flat(x) for x in case.inputs.values()]
    distinct = all(len(set(x)) == len(x) for x in numbers if all(isinstance(v, float) for v in x))
    return (several, uneven, len(case.inputs), beta, distinct, oblong, len(_flat(first)))
