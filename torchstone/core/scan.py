"""Stage 5: the linear recurrence behind returns and GAE."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.core.inputs import as_float
from torchstone.fast.recurrence import Recurrence


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
    return Recurrence.apply(inputs.to(dtype), decays.to(dtype))  # the numbers of ``column_by_column``, sooner


def column_by_column(inputs: Float[Tensor, "B T"], decays: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """``linear_recurrence`` as (CORE.10) says it; unchecked."""
    x, columns = torch.zeros_like(inputs[:, 0]), []
    for t in reversed(range(inputs.shape[1])):
        x = inputs[:, t] + decays[:, t] * x
        columns.append(x)
    return torch.stack(columns[::-1], 1)


def next_column(x: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Column t holds what column t + 1 held; the last column is 0."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)
