"""How inputs are checked: what every function does to them first, done once: check, compute in float32, select."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def require(condition: bool, argument: str, expected: str, got: Any) -> None:
    """Raise ``ValueError`` naming the argument, what was expected and what came, unless ``condition``."""
    if not condition:
        came = f"{str(got.dtype)[6:]} {list(got.shape)}" if isinstance(got, Tensor) else repr(got)
        raise ValueError(f"{argument}: expected {expected}, got {came}")


def number(
    argument: str, x: Any, *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> None:
    """Raise ``ValueError`` unless ``x`` is a finite Python number within the limits."""
    fits = isinstance(x, int | float) and not isinstance(x, bool) and -math.inf < x < math.inf
    fits = fits and (above is None or x > above) and (at_least is None or x >= at_least)
    if not (fits and (at_most is None or x <= at_most)):
        limits = {"above": above, ">=": at_least, "and <=": at_most}
        words = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
        require(False, argument, " ".join(["a finite number", *words]), x)


def as_float(argument: str, x: Tensor | None, shape: tuple[int, ...] | str) -> Tensor:
    """Check one floating-point tensor; give half precision back as float32, float32 and float64 as they are.

    ``shape`` is the exact shape, or the names of the dimensions (``"P G"``) where only their number is fixed.
    """
    halves = (torch.float16, torch.bfloat16)
    x = _tensor(argument, x, shape, (torch.float32, torch.float64, *halves), "a floating-point")
    return x.float() if x.dtype in halves else x


def as_ids(argument: str, x: Tensor, shape: tuple[int, ...] | str) -> Tensor:
    """Check one tensor of token ids; give it back as int64."""
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return _tensor(argument, x, shape, integers, "an integer").long()


def _tensor(argument: str, x: Any, shape: tuple[int, ...] | str, dtypes: tuple, kind: str) -> Tensor:
    named = f"[{shape}]" if isinstance(shape, str) else ""
    fits = isinstance(x, Tensor) and (x.ndim == len(named.split()) if named else x.shape == shape)
    if not (fits and x.dtype in dtypes):
        require(False, argument, f"{kind} tensor of shape {named or list(shape)}", x)
    return x


def check_mask(mask: Bool[Tensor, "B T"], argument: str = "mask") -> None:
    """Raise ``ValueError`` unless ``mask`` is a boolean tensor with two dimensions."""
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and mask.dtype == torch.bool
    require(fits, argument, "a torch.bool tensor of shape [B T], True where the policy chose the token", mask)


def check_flags(argument: str, x: Bool[Tensor, "..."], shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless ``x`` is a boolean tensor of this shape."""
    fits = isinstance(x, Tensor) and x.dtype == torch.bool and x.shape == shape
    require(fits, argument, f"a torch.bool tensor of shape {list(shape)}", x)


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


def same_length(**tensors: Float[Tensor, " N"] | None) -> tuple[Float[Tensor, " N"], ...]:
    """Check tensors with one value a completion, all of the first one's length; give them back in at least float32."""
    first = next(iter(tensors))
    shape = as_float(first, tensors[first], "N").shape
    return tuple(as_float(name, x, shape) for name, x in tensors.items())
