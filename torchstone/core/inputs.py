"""What every function does to its inputs, done once: check, compute in float32, select, bound."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # nats; exp(20) = 4.9e8


def require(condition: bool, argument: str, expected: str, got: Any) -> None:
    """Raise ``ValueError`` naming the argument, what was expected and what came, unless ``condition``."""
    if not condition:
        came = f"{str(got.dtype)[6:]} {list(got.shape)}" if isinstance(got, Tensor) else repr(got)
        raise ValueError(f"{argument}: expected {expected}, got {came}")


def number(argument: str, value: Any, low: float = -math.inf, high: float = math.inf, *, strict: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite Python number from low (``strict``: above it) to high."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not (real and -math.inf < value < math.inf and low <= value <= high and not (strict and value == low)):
        limits = f"{'above' if strict else '>='} {low}" + (f" and <= {high}" if high < math.inf else "")
        require(False, argument, "a finite number" if low == -math.inf else f"a finite number {limits}", value)


def given(argument: str, x: Tensor | None, because: str) -> Tensor:
    """``x``, or a ``ValueError`` that says why this optional argument is needed."""
    if x is None:
        raise ValueError(f"{argument}: expected a tensor, since {because}, got None")
    return x


def as_float(argument: str, x: Tensor, shape: tuple[int, ...] | str) -> Tensor:
    """Check one floating-point tensor; give half precision back as float32, float32 and float64 as they are.

    ``shape`` is the exact shape, or the names of the dimensions (``"P G"``) where only their number is fixed.
    """
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    _check_tensor(argument, x, shape, floats, "a floating-point")
    return x.float() if x.dtype in floats[2:] else x


def as_ids(argument: str, x: Tensor, shape: tuple[int, ...] | str) -> Tensor:
    """Check one tensor of token ids; give it back as int64."""
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    _check_tensor(argument, x, shape, integers, "an integer")
    return x.long()


def _check_tensor(argument: str, x: Tensor, shape: tuple[int, ...] | str, dtypes: tuple, kind: str) -> None:
    named = f"[{shape}]" if isinstance(shape, str) else ""
    fits = isinstance(x, Tensor) and (x.ndim == len(named.split()) if named else x.shape == shape)
    if not (fits and x.dtype in dtypes):
        require(False, argument, f"{kind} tensor of shape {named or list(shape)}", x)


def check_mask(mask: Bool[Tensor, "B T"], argument: str = "mask") -> None:
    """Raise ``ValueError`` unless ``mask`` is a boolean tensor with two dimensions."""
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and mask.dtype == torch.bool
    require(fits, argument, "a torch.bool tensor of shape [B T], True where the policy chose the token", mask)


def select(mask: Bool[Tensor, "B T"], **tensors: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T"], ...]:
    """Check the mask and tensors of its shape; give them back in at least float32, 0 where ``mask`` is False.

    The keyword is the name that an error message uses. Selecting comes before any arithmetic: NaN and inf
    under False then reach neither a value nor a gradient (0 * nan is nan, so multiplying would not do).
    """
    check_mask(mask)
    return tuple(torch.where(mask, as_float(name, x, mask.shape), 0) for name, x in tensors.items())


def per_token(argument: str, x: Tensor, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """One value a sequence ``[B]``, or one a token ``[B T]``, as a detached ``[B T]`` selected by ``mask``.

    The two are told apart by their number of dimensions, never by broadcasting, so B equal to T is safe.
    """
    check_mask(mask)
    fits = isinstance(x, Tensor) and (x.shape == mask.shape or x.shape == mask.shape[:1])
    require(fits, argument, f"a tensor of shape {list(mask.shape[:1])} or {list(mask.shape)}", x)
    if x.ndim == 1:
        x = as_float(argument, x, mask.shape[:1])[:, None].expand(mask.shape)
    return select(mask, **{argument: x})[0].detach()


def vectors(**tensors: Float[Tensor, " N"]) -> tuple[Float[Tensor, " N"], ...]:
    """Check that all are vectors of the first one's length; give them back in at least float32."""
    first = next(iter(tensors))
    shape = as_float(first, tensors[first], "N").shape
    return tuple(as_float(name, x, shape) for name, x in tensors.items())


def log_ratios(
    log_probs: Float[Tensor, "B T"], other: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], name: str
) -> Float[Tensor, "B T"]:
    """log pi(y_t) - log pi_other(y_t) in nats; 0 where ``mask`` is False. ``other``, called ``name``, is detached."""
    check_mask(mask)
    log_probs, other = as_float("log_probs", log_probs, mask.shape), as_float(name, other, mask.shape)
    return torch.where(mask, log_probs - other.detach(), 0)


def bounded_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """exp(x), continued above +20 by its tangent exp(20) (1 + x - 20): finite, and its gradient is never 0."""
    return _BoundedExp.apply(x, 0)


def bounded_expm1(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``bounded_exp(x) - 1`` without cancellation near 0."""
    return _BoundedExp.apply(x, 1)


class _BoundedExp(torch.autograd.Function):
    """exp or, ``less`` 1, expm1. The slope, exp(min(x, 20)), can be read off the value: the backward pass is short."""

    @staticmethod
    def forward(x: Tensor, less: int) -> Tensor:
        below = x.clamp(max=LOG_RATIO_BOUND)
        below = below.expm1_() if less else below.exp_()
        return below.add_((x - LOG_RATIO_BOUND).relu_(), alpha=math.exp(LOG_RATIO_BOUND))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.less = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        value = value + 1 if ctx.less else value
        return gradient * value.clamp(max=math.exp(LOG_RATIO_BOUND)), None
