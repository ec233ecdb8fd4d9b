"""What came back from a function, in our own terms: which of its results is which of our outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.fit.arguments import reduction
from torchstone.conformance.fit.calling import Calling
from torchstone.conformance.vectors import Case, Vectors

Named = tuple[str, Any]  # an index, key or attribute, and the array or number there


@dataclass
class Found:
    """Our names -> what came back. ``reduced``: as in ``Outcome``."""

    outputs: dict[str, Any]
    reduced: str = ""


def read(result: Any, vectors: Vectors, case: Case, mask: Any, output: str | None) -> Found | str:
    """Our outputs among what came back; a sentence where the first is not there.

    Args:
        result: whatever the function returned.
        vectors, case: what was asked; they tell the shapes.
        mask: the case's mask as an array, or None.
        output: the index, key or attribute to take as the first output; None takes the first that fits.

    Raises LookupError: the result has no such ``output``.
    """
    candidates = list(_candidates(result))
    first = next(iter(vectors.returns))
    shape = shape_of(vectors.returns[first].shape, vectors, case)
    asked = candidates if output is None else _called(output, candidates)
    found = _first_that_fits(asked, shape, case, mask)
    if found is None:
        have = ", ".join(f"{name or 'result'} {list(x.shape)}" for name, x in asked) or type(result).__name__
        return f"expected {first} of shape {list(shape)}, got {have}"
    primary, reduced, label = found
    if reduced == "reshaped":
        primary, reduced = primary.reshape(shape), ""
    elif reduced == "tokens":
        primary = _reduced(primary, case)
    elif reduced == "rows":
        primary = primary.sum() / max(len(primary), 1)
    others = [(name, x) for name, x in candidates if name != label]
    return Found({first: primary} | _further(others, vectors, case, by_shape=output is None), reduced)


def unpacked(result: Any, calling: Calling, case: Case, leaves: Mapping[str, Tensor]) -> Any:
    """As the objective has it: one number a chosen token as [B T] again, and one a token as its sample's."""
    if isinstance(result, list | tuple) and not hasattr(result, "_fields") and not _numeric(result):
        return [unpacked(part, calling, case, leaves) for part in result]
    if isinstance(result, Mapping):
        return {k: unpacked(part, calling, case, leaves) for k, part in result.items()}
    shape = tuple(getattr(result, "shape", ()))
    if calling.rewards == "tokens" and shape == (sum(map(len, case.inputs["rewards"])), 3):
        return result[:, 0]
    mask = leaves.get("mask")
    if calling.tokens == "packed" and mask is not None and isinstance(result, Tensor) and result.ndim == 1:
        if result.numel() == mask.numel():
            return result.reshape(mask.shape)
        if result.numel() == int(mask.sum()):
            return torch.zeros(mask.shape, dtype=result.dtype).masked_scatter(mask, result)
    return result


def _called(output: str, candidates: list[Named]) -> list[Named]:
    found = [c for c in candidates if c[0] == output or c[0].split(".")[-1] == output]
    if not found:
        have = ", ".join(label or "one result" for label, _ in candidates)
        raise LookupError(f"no output {output!r}; it has {have}")
    return found


def _first_that_fits(
    candidates: list[Named], shape: tuple[int, ...], case: Case, mask: Any
) -> tuple[Any, str, str] | None:
    """The first output, how it must be brought to its shape, and its label."""
    same = (lambda x: tuple(x.shape) == shape, "")
    reshaped = (lambda x: _size(x) == math.prod(shape), "reshaped")
    free = [c for c in candidates if getattr(c[1], "requires_grad", False)] if shape == () else []
    found = (
        (x, by, name)
        for pool in (free, candidates)  # of several numbers the loss is the one with a gradient
        for fits, by in (same, reshaped, *_reductions(shape, case, mask))
        for name, x in pool
        if fits(x)
    )
    return next(found, None)


def _reductions(shape: tuple[int, ...], case: Case, mask: Any) -> list[tuple[Callable[[Any], bool], str]]:
    """What else a result may be: per token or per row where one number is expected, or the reverse."""
    if shape == ():
        rows = {len(x) for x in case.inputs.values() if isinstance(x, list)}
        matrix = tuple(mask.shape) if mask is not None else None
        return [(lambda x: tuple(x.shape) == matrix, "tokens"), (lambda x: x.ndim == 1 and x.shape[0] in rows, "rows")]
    if len(shape) == 2 and mask is not None:
        return [(lambda x: _size(x) == 1, "mean")]
    return []


def _reduced(x: Any, case: Case) -> Any:
    """One number of one a token, as the case's settings say. A reduction is linear: its gradient is its weights."""
    mask = torch.tensor(case.inputs["mask"])
    if isinstance(x, Tensor):
        return reduction(case)(x, mask)
    ones = torch.ones(mask.shape, dtype=torch.float64, requires_grad=True)
    (weights,) = torch.autograd.grad(reduction(case)(ones, mask), ones)
    return (x * weights.numpy())[mask.numpy()].sum()


def _further(others: list[Named], vectors: Vectors, case: Case, by_shape: bool) -> dict[str, Any]:
    """The outputs after the first: by their names, or, where they are no metric, by their shapes."""
    outputs = {}
    for name, wanted in list(vectors.returns.items())[1:]:
        other = next((x for n, x in others if n.split(".")[-1] == name), None)
        if other is None and not wanted.metric and by_shape:
            expected = shape_of(wanted.shape, vectors, case)
            other = next((x for _, x in others if tuple(x.shape) == expected), None)
        if other is not None:
            outputs[name] = other
    return outputs


def _size(x: Any) -> int:
    return math.prod(x.shape)


def _candidates(result: Any, label: str = "") -> Iterator[Named]:
    """Everything in a result that is an array or a number, with its index, key or attribute."""
    if isinstance(result, bool | int | float):
        yield label, torch.tensor(result, dtype=torch.bool if isinstance(result, bool) else torch.float64)
    elif hasattr(result, "shape") and hasattr(result, "ndim"):
        keep = result.ndim or isinstance(result, Tensor) or not hasattr(result, "item")
        yield label, result if keep else result.reshape(())
    elif isinstance(result, list | tuple) and not hasattr(result, "_fields") and _numeric(result):
        yield label, torch.tensor(result)
    elif hasattr(result, "total") and hasattr(result, "count") and not hasattr(result, "_fields"):
        yield label, torch.tensor(float(result), dtype=torch.float64)
    else:
        for k, part in _parts(result):
            yield from _candidates(part, f"{label}.{k}" if label else str(k))


def _numeric(x: list[Any] | tuple[Any, ...]) -> bool:
    """Is it a vector or a matrix, written as lists?"""
    return bool(x) and all(
        isinstance(v, bool | int | float) or (isinstance(v, list) and v and isinstance(v[0], int | float)) for v in x
    )


def _parts(result: Any) -> list[tuple[Any, Any]]:
    """The entries of a mapping, list or tuple, or the fields of an object: a named tuple's in their order."""
    if isinstance(result, Mapping):
        return list(result.items())
    if hasattr(result, "_fields"):
        return [(k, getattr(result, k)) for k in result._fields]
    if isinstance(result, list | tuple):
        return list(enumerate(result))
    fields = getattr(result, "__dict__", {})
    return [(k, fields[k]) for k in sorted(fields, key=lambda k: k not in ("loss", "value"))]


def shape_of(shape: str, vectors: Vectors, case: Case) -> tuple[int, ...]:
    """The sizes behind the names of the dimensions, from this case's inputs. "S-1" is one less than S."""
    sizes: dict[str, int] = {}
    for k, x in case.inputs.items():
        for name in vectors.arguments[k].shape.split():
            sizes.setdefault(name, len(x))
            x = x[0] if len(x) else []
    return tuple(
        sizes[n.removesuffix("-1")] - n.endswith("-1") if n.removesuffix("-1") in sizes else int(n)
        for n in shape.split()
    )


def defined(vectors: Vectors, case: Case) -> Any:
    """Where the first output is compared, as rows of bools; None where everywhere."""
    first = next(iter(vectors.returns))
    if case.expected is not None:
        expected = case.expected.outputs[first]
        return [[x is not None for x in row] for row in expected] if _is_matrix(expected) else None
    return case.inputs.get("mask") if vectors.returns[first].shape == "B T" else None


def _is_matrix(x: Any) -> bool:
    return isinstance(x, list) and bool(x) and isinstance(x[0], list)


def differentiated(primary: Tensor, vectors: Vectors, case: Case) -> Tensor:
    """The number whose gradient is compared: the sum of the first output where it is defined."""
    where = defined(vectors, case)
    if where is None or primary.ndim != 2:
        return primary.sum()
    chosen = torch.tensor(where)
    return primary[chosen].sum() if chosen.shape == primary.shape else primary.sum()
