"""What every ``*_loss`` returns: a scalar to minimise, and metrics that add up over micro-batches."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean that remembers its weight: ``float(m)`` is total / count, and ``m + n`` pools two parts exactly.

    ``total`` and ``count`` are detached scalars. The mean of nothing (count 0) reads as 0.0.
    """

    total: Float[Tensor, ""]
    count: Int[Tensor, ""] | Float[Tensor, ""]

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def __float__(self) -> float:
        count = float(self.count)
        return float(self.total) / count if count > 0 else 0.0


class Loss(NamedTuple):
    """``value``: a scalar with gradient, to be minimised. ``metrics``: detached means, by name."""

    value: Float[Tensor, ""]
    metrics: dict[str, Mean]


def mean_of(x: Tensor, counted: Bool[Tensor, "..."] | None = None) -> Mean:
    """The detached mean of ``x`` over the entries where ``counted`` is True (over all if None)."""
    x, is_bool = x.detach(), x.dtype == torch.bool
    if counted is not None:
        x = x & counted if is_bool else torch.where(counted, x, 0)
    count = x.new_full((), x.numel(), dtype=torch.int64) if counted is None else counted.count_nonzero()
    return Mean(x.count_nonzero().float() if is_bool else x.sum(), count)
