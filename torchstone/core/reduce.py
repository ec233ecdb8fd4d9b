"""Stage 6: from one value a token ``[B T]`` to a scalar, with every denominator explicit.

All reductions take ``denominator``. Left at None it is counted in the batch at hand. A number below 0 is an
error; a tensor's value is taken as it is, since to look at it would wait for the device. For micro-batches or
several devices give every part the count of the *whole* batch: the parts' losses and gradients then add up to
exactly those of the whole.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import number, require, select

Count = int | float | Tensor
Reduce = Callable[[Tensor, Tensor], Tensor]  # (x[B T], mask[B T]) -> scalar, what a loss takes as ``reduce``


def token_mean(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, denominator: Count | None = None
) -> Float[Tensor, ""]:
    """Every token weighs the same.

        sum_bt x_bt / N,    N = number of True in mask                          (CORE.5)

    Args:
        x: any value per token. Gradient flows through it.
        mask: True at the tokens that count. Other entries may hold anything, NaN included.
        denominator: N, in tokens. Default: counted in ``mask``. At 0, counted or given, the result is 0.
    Raises ValueError: a shape or dtype is wrong; ``denominator`` is negative.
    Source: DAPO's token-level loss as its authors' page in verl has it (b178a3c, docs/algo/dapo.md); by eq. 12 of
        arXiv:2503.14476v2 it is taken within each group (``group_token_mean``).
    """
    (x,) = select(mask, x=x)
    return _divide(x.sum(), mask.count_nonzero() if denominator is None else denominator)


def sequence_mean(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, denominator: Count | None = None
) -> Float[Tensor, ""]:
    """Every sequence weighs the same: the mean in each row, then the mean over rows.

        sum_b (sum_t x_bt / |y_b|) / N,    N = number of rows with a True       (CORE.6)

    Args:
        x, mask: as in ``token_mean``; |y_b| is the number of True in row b.
        denominator: N, in rows. Default: the rows with a True. At 0 the result is 0.
    Raises ValueError: a shape or dtype is wrong; ``denominator`` is negative.
    Source: GRPO, arXiv:2402.03300v3, eq. 3 (the 1/|o_i| inside the sum over i).
    """
    (x,) = select(mask, x=x)
    lengths = mask.sum(1)
    means = x.sum(1) / lengths.clamp(min=1)
    return _divide(means.sum(), lengths.count_nonzero() if denominator is None else denominator)


def sequence_sum(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, denominator: Count | None = None
) -> Float[Tensor, ""]:
    """The sum in each row, then the mean over rows: the sequence's log-probability is a sum over its tokens.

        sum_b (sum_t x_bt) / N,    N = number of rows with a True               (CORE.7)

    Args:
        x, mask: as in ``token_mean``.
        denominator: N, in rows. Default: the rows with a True. At 0 the result is 0.
    Raises ValueError: a shape or dtype is wrong; ``denominator`` is negative.
    """
    (x,) = select(mask, x=x)
    return _divide(x.sum(), mask.sum(1).count_nonzero() if denominator is None else denominator)


def fixed_length_mean(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, length: int, denominator: Count | None = None
) -> Float[Tensor, ""]:
    """The sum in each row over one constant length, then the mean over rows: no length bias, no batch's width.

        sum_b (sum_t x_bt / length) / N,    N = number of rows with a True      (CORE.8)

    Args:
        x, mask: as in ``token_mean``.
        length: a constant in tokens, as a rule the longest completion that generation allows.
        denominator: N, in rows. Default: the rows with a True. At 0 the result is 0.
    Raises ValueError: a shape or dtype is wrong; ``length`` is not positive; ``denominator`` is negative.
    Source: Dr. GRPO, arXiv:2503.20783v2, listing 1.
    """
    number("length", length, above=0)
    return sequence_sum(x, mask, denominator=denominator) / length


def mean_of_pairs(x: Float[Tensor, " N"], denominator: Count | None = None) -> Float[Tensor, ""]:
    """The mean over preference pairs: ``sum_n x_n / N``; 0 where N is 0."""
    return _divide(x.sum(), x.shape[0] if denominator is None else denominator)


def masked_whiten(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, correction: int, eps: float, keep_mean: bool = False
) -> Float[Tensor, "B T"]:
    """Shift and scale the chosen tokens of a batch to mean 0 and variance 1.

        (x - mean) / sqrt(var + eps)    [+ mean, with keep_mean]                (CORE.9)

    Args:
        x: advantages or rewards per token. Treated as a constant.
        mask: True at the tokens that enter the statistics and are whitened.
        correction: 0 for the population variance, 1 for the sample variance (sum / (N - 1)).
        eps: added to the variance, in x's unit squared.
        keep_mean: scale only, and leave the mean where it was.

    Returns: unitless (plus the mean, in x's unit), detached, 0 where ``mask`` is False; equal values deviate by 0.
    Raises ValueError: a shape or dtype is wrong; ``eps`` is negative; ``correction`` is not 0 or 1.
    """
    check_deviation(correction, eps)
    (x,) = (x.detach() for x in select(mask, x=x))
    centred, std = deviations(x, mask, correction)
    whitened = centred / torch.where(std > 0, torch.hypot(std, torch.full_like(std, eps**0.5)), 1)
    return (whitened + token_mean(x, mask)).masked_fill(~mask, 0) if keep_mean else whitened


def check_deviation(correction: int, eps: float) -> None:
    """Raise ``ValueError`` unless a variance is divided by n or n - 1, and ``eps`` is no negative number."""
    require(type(correction) is int and correction in (0, 1), "correction", "0 or 1", correction)
    number("eps", eps, at_least=0)


def deviations(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], correction: int
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "1"]]:
    """``x - mean`` of the chosen tokens, and its root mean square; both exactly 0 where all are equal."""
    if x.numel() == 0:
        return x, x.new_zeros(1)
    tied = all_equal(x.flatten(), mask.flatten())
    centred = (x - token_mean(x, mask)).masked_fill(~mask | tied, 0)
    return centred, root_mean_square(centred.flatten(), mask.sum() - correction)


def all_equal(x: Float[Tensor, "... N"], counted: Bool[Tensor, "... N"]) -> Bool[Tensor, "... 1"]:
    """Are all counted values of the last dimension the same? (Tested by equality: a deviation rounds, this cannot.)"""
    highest = x.masked_fill(~counted, -torch.inf).amax(-1, keepdim=True)
    lowest = x.masked_fill(~counted, torch.inf).amin(-1, keepdim=True)
    return highest <= lowest


def root_mean_square(x: Float[Tensor, "... N"], count: Tensor) -> Float[Tensor, "... 1"]:
    """sqrt( sum x^2 / count ) over the last dimension, scaled first: squares of very large or small x are no number."""
    largest = x.abs().amax(-1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1)
    return unit * ((x / unit).square().sum(-1, keepdim=True) / count.clamp(min=1)).sqrt()


def by_deviation(x: Float[Tensor, "..."], std: Float[Tensor, "..."], eps: float) -> Float[Tensor, "..."]:
    """x / (std + eps); x as it is where the deviation is exactly 0."""
    return x / torch.where(std > 0, std + eps, 1)


def _divide(total: Float[Tensor, ""], denominator: Count) -> Float[Tensor, ""]:
    """total / denominator, and 0 with zero gradient where the denominator is 0."""
    if not isinstance(denominator, Tensor):
        number("denominator", denominator, at_least=0)
    count = torch.as_tensor(denominator, dtype=total.dtype, device=total.device).detach()
    require(count.ndim == 0, "denominator", "a number or a tensor without dimensions", denominator)
    return torch.where(count == 0, 0, total / torch.where(count == 0, 1, count))
