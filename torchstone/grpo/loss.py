"""Stage 6: the GRPO loss: PPO's clip, with the KL inside the loss and no critic."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, number, require, select
from torchstone.core.kl import kl_k3
from torchstone.core.reduce import Reduce
from torchstone.core.result import Loss, mean_of
from torchstone.ppo.loss import clip_metrics, clipped_surrogate


def grpo_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduce,
    epsilon: float,
    epsilon_high: float | None = None,
    beta: float,
    ref_log_probs: Float[Tensor, "B T"] | None = None,
    kl: Callable[[Tensor, Tensor, Tensor], Tensor] = kl_k3,
) -> Loss:
    """PPO's clipped surrogate with group advantages, plus the KL to the reference.

        L = reduce( L_t + beta KL_t )                                           (GRPO.3)

    Args:
        log_probs, old_log_probs, mask, epsilon, epsilon_high: see ``clipped_surrogate``.
        advantages: one a sequence, ``group_advantages(...).flatten()`` (row p * G + g). Treated as a constant.
        reduce: ``sequence_mean`` is GRPO as published, ``token_mean`` DAPO, ``fixed_length_mean`` Dr. GRPO.
        beta: weight of the KL, in the unit of the advantages per nat. 0 needs no reference.
        ref_log_probs: the same tokens under the frozen reference, in nats. Treated as a constant.
        kl: the estimator: ``kl_k3`` as published, ``kl_k2`` for the gradient of KL(pi || pi_ref).

    Returns: ``Loss``; metrics (means over tokens): those of ``ppo_loss``, and ``kl`` if ``ref_log_probs`` is given.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is negative, or positive without ``ref_log_probs``.
    Source: Shao et al., arXiv:2402.03300v3, eq. 3.
    """
    number("beta", beta, at_least=0)
    (log_probs,) = select(mask, log_probs=log_probs)  # once: the gradients of both terms add up in float32
    batch = (log_probs, old_log_probs, advantages, mask)
    losses = clipped_surrogate(*batch, epsilon=epsilon, epsilon_high=epsilon_high)
    metrics = clip_metrics(*batch, epsilon, epsilon_high)
    needed = beta == 0 or ref_log_probs is not None
    require(needed, "ref_log_probs", "a tensor, since beta is not 0", ref_log_probs)
    if ref_log_probs is not None:
        divergence = as_float("kl", kl(log_probs, ref_log_probs, mask), mask.shape)
        metrics["kl"] = mean_of(divergence, mask)
        losses = losses.add(divergence, alpha=beta) if beta > 0 else losses  # only watched, it may be infinite
    return Loss(reduce(losses, mask), metrics)
