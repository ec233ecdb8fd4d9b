"""Stage 5, in 2 log2(T) steps in place of T: ``column_by_column`` of core/scan.py, to the last few bits."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def recur(inputs: Float[Tensor, "B T"], decays: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """x_t = inputs_t + decays_t x_{t+1}, without a gradient: 2 B T additions, 3 B T products, three copies."""
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


class Recurrence(torch.autograd.Function):
    """``recur`` with a gradient, of any order."""

    forward = staticmethod(recur)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """x_t reaches x_{t-1} by decay_{t-1}: the gradient is the same recurrence, from the left."""
        decays, x = ctx.saved_tensors
        gradient = Recurrence.apply(gradient.flip(1), decays.roll(1, 1).flip(1)).flip(1)
        return gradient, gradient * torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)
