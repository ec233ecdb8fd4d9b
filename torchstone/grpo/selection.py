"""Which tokens teach, judged on the whole batch: masks and weights [B T], made before it is cut into micro-batches.

Stage 6. All are constants, and "the batch" is the samples of one optimizer step: made of a part of it, another mask
comes out. Multiply the loss per token by them. Equations and symbols are in variants.md.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import check_flags, number, per_token, require, select
from torchstone.core.logprobs import bounded_exp, log_ratios
from torchstone.core.reduce import token_mean
from torchstone.fast.recurrence import recur

# fmt: off
__all__ = [
    "top_entropy_mask", "covariances", "clip_cov_mask", "kl_cov_mask", "second_moment_mask", "future_kl_weights",
]
# fmt: on


def top_entropy_mask(
    entropies: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, share: float
) -> Bool[Tensor, "B T"]:
    """The tokens at which the policy was least sure: the forks of an answer (80/20).

        keep_t = H_t >= the (1 - share) quantile of the entropies of the batch's chosen tokens        (GRPO.18)

    Between two entropies the quantile is interpolated; equal entropies stay or go together.

    Args:
        entropies: H_t of the policy that learns, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        share: rho, of the chosen tokens, in (0, 1]; at 1 all of them stay.

    Returns: True for the tokens that teach; False where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``share`` is outside (0, 1].
    Source: Wang et al. (80/20), arXiv:2506.01939, as accounts print it. TRL 1.16.0 interpolates as here; the authors'
        code (Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR 6f5dda6f) keeps the ceil(share N) largest.
    """
    number("share", share, above=0, at_most=1)
    (entropies,) = select(mask, entropies=entropies.detach())
    ordered = entropies[mask].sort().values
    if not len(ordered):
        return torch.zeros_like(mask)
    place = (len(ordered) - 1) - share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return mask & (entropies >= torch.lerp(below, above, place - math.floor(place)))  # GRPO.18


def covariances(
    log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """What each token adds to the covariance of log-prob and advantage, by which the entropy falls.

        c_t = (log pi(y_t | x, y_<t) - mean log pi) (A_t - mean A),    means over the batch's chosen tokens (GRPO.19)

    Their mean is the covariance. A step raises likely tokens with A > 0 and lowers unlikely ones with A < 0: both have
    c > 0, and both make the policy surer.

    Args:
        log_probs: log pi(y_t | x, y_<t) under the policy that learns, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.

    Returns: nats x the unit of ``advantages``; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Cui et al. (the entropy mechanism), arXiv:2505.22617v1, eq. 10.
    """
    (log_probs,) = select(mask, log_probs=log_probs.detach())
    advantages = per_token("advantages", advantages, mask)
    centred = [(x - token_mean(x, mask)).masked_fill(~mask, 0) for x in (log_probs, advantages)]
    return centred[0] * centred[1]  # GRPO.19


def clip_cov_mask(
    covariances: Float[Tensor, "B T"],
    draws: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    share: float,
    low: float,
    high: float,
    least: int = 0,
    spared: Bool[Tensor, "B T"] | None = None,
) -> Bool[Tensor, "B T"]:
    """Clip-Cov: a few tokens of high covariance, drawn at random, get no gradient.

        drop k = max(least, floor(share N)) of the tokens with low <= c_t <= high,    N = chosen tokens   (GRPO.20)

    Args:
        covariances: c_t, from ``covariances``. Treated as a constant.
        draws: random numbers, which decide: the smallest are dropped, of equal ones the first in the batch. Draw them
            for the whole batch, ``torch.rand(mask.shape, generator=generator)``, and on all ranks the same.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        share: r, of the chosen tokens, in (0, 1].
        low, high: the bounds of c_t, themselves included, in nats x the unit of advantages.
        least: how many are dropped at least, if there are so many between the bounds.
        spared: True for tokens that are never dropped, such as those that a clip has stopped already.

    Returns: True for the tokens that teach; False for those that are dropped, and where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``share`` is outside (0, 1]; ``low`` is above ``high``; ``least`` is
        negative.
    Source: Cui et al. (Clip-Cov), arXiv:2505.22617v1, eq. 11 and 12. The authors' code, verl 0.9.1 and SkyRL 0.3.0
        drop one at least, leave the bounds themselves out, and spare what PPO's clip has stopped.
    """
    number("low", low)
    number("high", high, at_least=low)
    (c, draws) = select(mask, covariances=covariances.detach(), draws=draws.detach())
    among = mask & (c >= low) & (c <= high)
    if spared is not None:
        check_flags("spared", spared, mask.shape)
        among = among & ~spared
    return mask & ~_first(draws, among, _count(mask, share, least))  # GRPO.20


def kl_cov_mask(
    covariances: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, share: float, least: int = 0
) -> Bool[Tensor, "B T"]:
    """KL-Cov: the tokens of the highest covariance, which pay for leaving the policy before the update.

        L_t + coef |log rho_t|    for the k = max(least, floor(share N)) tokens with the largest c_t      (GRPO.21)

    L_t is the surrogate, which the paper takes without a clip. The paper writes the penalty as a KL to the old policy;
    in all code it is |log rho_t|, whose gradient is coef on one side of rho = 1, -coef on the other, and 0 at rho = 1.

    Args:
        covariances: c_t, from ``covariances``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        share: k, of the chosen tokens, in (0, 1].
        least: how many pay at least.

    Returns: True for the tokens that pay; False elsewhere. Of equal ones the first in the batch come first.
    Raises ValueError: a shape or dtype is wrong; ``share`` is outside (0, 1]; ``least`` is negative.
    Source: Cui et al. (KL-Cov), arXiv:2505.22617v1, eq. 13 and 14; the authors' code (PRIME-RL/
        Entropy-Mechanism-of-RL 8850579) and verl 0.9.1, where at least one token pays.
    """
    (c,) = select(mask, covariances=covariances.detach())
    return _first(-c, mask, _count(mask, share, least))  # GRPO.21


def second_moment_mask(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    limit: float,
) -> Bool[Tensor, "B T"]:
    """M2PO: of the tokens that have moved as their advantage says, the furthest are dropped until the rest is near.

        T = { t : A_t > 0 and rho_t > 1, or A_t < 0 and rho_t < 1 }
        while the mean of (log rho_t)^2 over T is above limit:    drop the token of T where it is largest   (GRPO.22)

    Args:
        log_probs: log pi(y_t | x, y_<t) under the policy that learns, in nats. Treated as a constant.
        old_log_probs: the same tokens under the policy that *sampled* them, however old. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        limit: tau, the mean square that is allowed, in nats squared.

    Returns: True for the tokens that teach; False for those that are dropped, and where ``mask`` is False. Of equal
        ones the last in the batch is dropped first.
    Raises ValueError: a shape or dtype is wrong; ``limit`` is negative.
    Source: Zheng et al. (M2PO), arXiv:2510.01161, algorithm 1.
    """
    number("limit", limit, at_least=0)
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs").detach()
    moved = log_rho.sign() * per_token("advantages", advantages, mask).sign() > 0  # T
    squares, order = log_rho[moved].double().square().sort(stable=True)
    means = squares.cumsum(0) / torch.arange(1, len(squares) + 1, device=squares.device)  # of the smallest ones
    beyond = (means > limit).cumsum(0) > 0  # these means never fall, but for their rounding
    dropped = torch.zeros_like(mask)
    dropped[moved] = beyond[order.argsort()]  # GRPO.22
    return mask & ~dropped


def future_kl_weights(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    half_life: float,
    epsilon: float,
    epsilon_high: float,
    limit: float | None = None,
    reset: float | None = None,
) -> Float[Tensor, "B T"]:
    """FIPO: a token weighs more if the policy has since moved towards what came after it.

        F_t = [rho_t <= limit] log rho_t + 2^(-1 / half_life) F_{t+1}
        f_t = clip( exp(F_t), 1 - epsilon, 1 + epsilon_high ),    1 where A_t < 0 and rho_t > reset       (GRPO.23)

    ``t + 1`` is the next *chosen* token. A completion is judged alone: any micro-batch of whole rows will do.

    Args:
        log_probs: log pi(y_t | x, y_<t) under the policy that learns, in nats. Treated as a constant.
        old_log_probs: the same tokens under the policy before the update. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        half_life: tau, after how many tokens a move counts half.
        epsilon, epsilon_high: f_t lies between 1 - epsilon and 1 + epsilon_high.
        limit: c, the ratio beyond which a token's move does not count; None counts all.
        reset: the ratio beyond which a token with A_t < 0 weighs 1; None is no such bound.

    Returns: weights, unitless and detached; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``half_life`` is not positive; an epsilon is negative, or ``epsilon``
        above 1; ``limit`` or ``reset`` is negative.
    Source: Ma et al. (FIPO), arXiv:2603.19835, eq. 3-8.
    """
    number("half_life", half_life, above=0)
    number("epsilon", epsilon, at_least=0, at_most=1)
    number("epsilon_high", epsilon_high, at_least=0)
    for name, x in (("limit", limit), ("reset", reset)):
        if x is not None:
            number(name, x, at_least=0)
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs").detach()
    ratios = bounded_exp(log_rho)
    earned = per_token("advantages", advantages, mask)
    moves = log_rho if limit is None else log_rho.masked_fill(ratios > limit, 0)
    future = recur(moves, torch.where(mask, moves.new_full((), 2 ** (-1 / half_life)), 1))
    weights = bounded_exp(future).clamp(1 - epsilon, 1 + epsilon_high)
    if reset is not None:
        weights = weights.masked_fill((earned < 0) & (ratios > reset), 1)
    return weights.masked_fill(~mask, 0)  # GRPO.23


def _count(mask: Bool[Tensor, "B T"], share: float, least: int) -> int:
    """max(least, floor(share N)), the product as a Python float: 0.29 x 100 is a little below 29, and gives 28."""
    number("share", share, above=0, at_most=1)
    require(isinstance(least, int) and not isinstance(least, bool) and least >= 0, "least", "an integer >= 0", least)
    return max(least, math.floor(share * int(mask.sum())))


def _first(x: Float[Tensor, "B T"], among: Bool[Tensor, "B T"], count: int) -> Bool[Tensor, "B T"]:
    """True at the ``count`` smallest of x, or at all if there are fewer."""
    found = torch.zeros_like(among)
    ranks = x[among].argsort(stable=True).argsort()
    found[among] = ranks < count
    return found
