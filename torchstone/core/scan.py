"""Stage 5: the linear recurrence behind returns and GAE."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.core.inputs import as_float


def linear_recurrence(inputs: Float[Tensor, "B T"], decays: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Sum from the right, with a decay per position.

        x_t = inputs_t + decays_t x_{t+1},    x_{T+1} = 0                      (CORE.10)

    Args:
        inputs: any unit. Gradient flows through it.
        decays: unitless; 0 starts anew, 1 steps over a position. Products must be finite. Gradient flows through it.

    Returns: x, in the unit of ``inputs``.
    Raises ValueError: a shape or dtype is wrong.
    """
    inputs = as_float("inputs", inputs, "B T")
    decays = as_float("decays", decays, inputs.shape)
    dtype = torch.promote_types(inputs.dtype, decays.dtype)
    return _Recurrence.apply(inputs.to(dtype), decays.to(dtype))


def next_column(x: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Column t holds what column t + 1 held; the last column is 0."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)


def recur(inputs: Float[Tensor, "B T"], decays: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Without a gradient: 2 log2(T) steps on fewer and fewer columns; 2 B T additions, 3 B T products, three copies."""
    x, decay = (z.T.clone(memory_format=torch.contiguous_format) for z in (inputs, decays))  # [T B]
    span = 1
    while span < len(x):  # every 2 span-th position takes in the sum over the second half of its 2 span positions
        x[: -span : 2 * span].addcmul_(decay[: -span : 2 * span], x[span :: 2 * span])
        decay[: -span : 2 * span].mul_(decay[span :: 2 * span])
        span *= 2
    while span > 1:  # every 2 span-th position is done; those halfway between look up the next of them
        span //= 2
        x[span : -span : 2 * span].addcmul_(decay[span : -span : 2 * span], x[2 * span :: 2 * span])
    return x.T.contiguous()


class _Recurrence(torch.autograd.Function):
    forward = staticmethod(recur)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """x_t reaches x_{t-1} by decay_{t-1}: the gradient is the same recurrence, from the left."""
        decays, x = ctx.saved_tensors
        gradient = linear_recurrence(gradient.flip(1), decays.roll(1, 1).flip(1)).flip(1)
        return gradient, gradient * next_column(x)
