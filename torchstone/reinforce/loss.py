"""Stage 6: the REINFORCE loss."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import number, per_token, require, select
from torchstone.core.reduce import Reduce
from torchstone.core.result import Loss, Mean, mean_of


def reinforce_surrogate(
    log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """The loss per token whose gradient is the policy gradient.

        grad J = E[ sum_t A_t grad log pi(y_t | x, y_<t) ],    A_t = G_t - b_t     (REINFORCE.2)
        L_t = -A_t log pi(y_t | x, y_<t)                                           (REINFORCE.3)

    J is the expected reward. The loss's value means nothing; only its gradient does.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``: a return, or a return less a baseline, in
            reward units (or unitless if normalised). Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.

    Returns: reward units x nats per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Williams (1992), doi:10.1007/BF00992696, theorem 1.
    """
    (log_probs,) = select(mask, log_probs=log_probs)
    return -per_token("advantages", advantages, mask) * log_probs


def reinforce_loss(
    log_probs: Float[Tensor, "B T"],
    returns: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduce,
    baseline: float | Float[Tensor, ""] | Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
    entropies: Float[Tensor, "B T"] | None = None,
    entropy_coef: float = 0.0,
) -> Loss:
    """REINFORCE with an optional baseline and entropy bonus.

        L = reduce( -(G_t - b_t) log pi(y_t | x, y_<t) - entropy_coef H_t )    (REINFORCE.4)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        returns: G, in reward units: the whole return ``[B]`` or the reward-to-go ``[B T]`` of
            ``discounted_returns``; or advantages, from which the baseline is subtracted already. Treated as a constant.
        mask: True where the policy chose the token.
        reduce: ``sequence_sum`` gives the policy gradient of the mean return; others reweigh it by length.
        baseline: b, in reward units: a number (a moving average), ``[B]`` (one a sequence) or ``[B T]`` (a critic's
            values). Treated as a constant. It must not depend on the tokens it judges, or the gradient is biased.
        entropies: H_t of the whole distribution, in nats (``token_entropies``). Gradient flows through it.
        entropy_coef: weight of the bonus, in reward units per nat.

    Returns: ``Loss``; metrics (means over tokens): ``advantages``, and ``entropy`` if given.
    Raises ValueError: a shape or dtype is wrong; ``entropy_coef`` is not 0 and ``entropies`` is missing.
    Source: Williams (1992), doi:10.1007/BF00992696, theorem 1; the entropy bonus: Williams & Peng (1991).
    """
    advantages = per_token("returns", returns, mask)
    if baseline is not None:
        if not isinstance(baseline, Tensor):
            number("baseline", baseline)
        if not isinstance(baseline, Tensor) or baseline.ndim == 0:
            baseline = torch.zeros_like(advantages) + baseline
        advantages = advantages - per_token("baseline", baseline, mask)
    loss = reinforce_surrogate(log_probs, advantages, mask)
    metrics = {"advantages": mean_of(advantages, mask)}
    return Loss(reduce(add_entropy(loss, metrics, mask, entropies, entropy_coef), mask), metrics)


def add_entropy(
    loss: Tensor, metrics: dict[str, Mean], mask: Tensor, entropies: Tensor | None, entropy_coef: float
) -> Float[Tensor, "B T"]:
    """``loss - entropy_coef * entropies`` per token, and the metric ``entropy``; the loss as it is without either."""
    number("entropy_coef", entropy_coef)
    needed = entropy_coef == 0 or entropies is not None
    require(needed, "entropies", "a tensor, since entropy_coef is not 0", entropies)
    if entropies is not None:
        (entropies,) = select(mask, entropies=entropies)
        metrics["entropy"] = mean_of(entropies, mask)
        loss = loss - entropy_coef * entropies if entropy_coef != 0 else loss
    return loss
