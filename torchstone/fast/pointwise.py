"""Stage 6, in fewer passes over the tokens. The first line of each function names its plain form."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.core.logprobs import LOG_RATIO_BOUND as BOUND


def minimum(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``torch.minimum``; of two equals it takes ``a``, with the whole gradient, where torch gives half to each."""
    return torch.where(b - a < 0, b, a)  # torch.compile makes vector code of this, and none of b < a


def clip(x: Float[Tensor, "..."], low: float, high: float) -> Float[Tensor, "..."]:
    """``x.clamp(low, high)`` as a constant, for ``minimum(x * a, clip(x, low, high) * a)``.

    Out of the range it has no slope; within it, it equals x, and ``minimum`` takes the first of two equals.
    """
    return x.detach().clamp(low, high)


def bounded_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``core.logprobs.bounded_exp``."""
    return _BoundedExp.apply(x, False)


def bounded_expm1(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``core.logprobs.bounded_expm1``."""
    return _BoundedExp.apply(x, True)


class _BoundedExp(torch.autograd.Function):
    """The slope, exp(min(x, 20)), can be read off the value: the backward pass needs nothing else."""

    @staticmethod
    def forward(x: Tensor, less_1: bool) -> Tensor:
        below = x.clamp(max=BOUND)
        below = below.expm1_() if less_1 else below.exp_()
        return below.add_((x - BOUND).relu_(), alpha=math.exp(BOUND))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.less_1 = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        value = value + 1 if ctx.less_1 else value
        return gradient * value.clamp(max=math.exp(BOUND)), None
