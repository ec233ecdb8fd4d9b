"""Stage 6: the clipped surrogate, the value error, and PPO's sum of three terms."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, number, per_token, require, select
from torchstone.core.logprobs import log_ratios
from torchstone.core.reduce import Reduce
from torchstone.core.result import Loss, Mean, mean_of
from torchstone.fast.pointwise import bounded_exp, bounded_expm1, clip, minimum
from torchstone.reinforce.loss import add_entropy


def clipped_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
) -> Float[Tensor, "B T"]:
    """PPO's pessimistic loss per token: no reward for moving the ratio beyond the clip, full price for harm.

        rho_t = pi(y_t | x, y_<t) / pi_old(y_t | x, y_<t)                                   (PPO.7)
        L_t = -min( rho_t A_t, clip(rho_t, 1 - epsilon, 1 + epsilon_high) A_t )             (PPO.8)
        dual clip, where A_t < 0:  L_t <- min( L_t, -dual_clip A_t )                        (PPO.9)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``, unitless or in reward units.
            Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        epsilon: how far below 1 the ratio may go, and above 1 if ``epsilon_high`` is None.
        epsilon_high: how far above 1 the ratio may go (DAPO's clip-higher). The bound is 1 + epsilon_high.
        dual_clip: c > 1 bounds the loss of a token with A < 0 by -c A, so that a huge ratio cannot explode.

    Returns: the unit of ``advantages``, per token; exactly 0 where ``mask`` is False. A log-ratio above 20 goes on as
        the tangent of exp, so value and gradient stay finite.
    Raises ValueError: a shape or dtype is wrong; an epsilon is negative; ``dual_clip`` is not above 1.
    Source: Schulman et al., arXiv:1707.06347v2, eq. 6-7; clip-higher: DAPO, arXiv:2503.14476v2, eq. 10;
        dual clip: Ye et al., arXiv:1912.09729, eq. 5.
    """
    low, high = clip_range(epsilon, epsilon_high)
    advantages = per_token("advantages", advantages, mask)
    ratios = bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs"))  # PPO.7
    losses = -minimum(ratios * advantages, clip(ratios, low, high) * advantages)  # PPO.8
    if dual_clip is not None:
        number("dual_clip", dual_clip, above=1)
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)  # PPO.9
    return losses


def clip_range(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    """1 - epsilon and 1 + epsilon_high, checked; ``epsilon_high`` is ``epsilon`` if None."""
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    number("epsilon", epsilon, at_least=0)
    number("epsilon_high", epsilon_high, at_least=0)
    return 1 - epsilon, 1 + epsilon_high


@torch.no_grad()
def clip_metrics(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor,
    epsilon: float, epsilon_high: float | None,
) -> dict[str, Mean]:  # fmt: skip
    """How far the policy has moved since it sampled, and how often the clip acts: for inputs that were checked.

    A ratio out of range is *clipped* only where that takes the gradient away: above with A > 0, below with A < 0.
    """
    low, high = clip_range(epsilon, epsilon_high)
    log_rho = as_float("log_probs", log_probs, mask.shape) - as_float("old_log_probs", old_log_probs, mask.shape)
    rho_less_1 = bounded_expm1(log_rho)
    advantages = advantages if advantages.ndim == 2 else advantages[:, None]
    return {
        "approx_kl": mean_of(rho_less_1 - log_rho, mask),
        "clip_ratio/low_mean": mean_of((rho_less_1 < low - 1) & (advantages < 0), mask),
        "clip_ratio/high_mean": mean_of((rho_less_1 > high - 1) & (advantages > 0), mask),
    }


def clipped_value_error(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"] | None,
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    epsilon: float | None,
) -> Float[Tensor, "B T"]:
    """Half the squared error of the critic, optionally clipped around its old prediction.

        V_clip = V_old + clip(V - V_old, -epsilon, epsilon)
        L_t = max( (V_t - R_t)^2, (V_clip_t - R_t)^2 ) / 2                      (PPO.10)

    Args:
        values: V, the critic's present prediction, in reward units. Gradient flows through it.
        old_values: V_old, its prediction at sampling time, in reward units; None if ``epsilon`` is. A constant.
        returns: R, the target from ``gae``, in reward units. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        epsilon: how far V may move from V_old, in reward units; None is the plain squared error.

    Returns: reward units squared, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``epsilon`` is negative, or given without ``old_values``.
    Source: the squared error: arXiv:1707.06347v2, eq. 9. The clip is in no paper: it comes from OpenAI's
        baselines code (Huang et al., "The 37 Implementation Details of PPO", 2022, detail 9).
    """
    values, returns = select(mask, values=values, returns=returns)
    errors = (values - returns.detach()).square()
    needed = epsilon is None or old_values is not None
    require(needed, "old_values", "a tensor, since the value error is clipped", old_values)
    if old_values is not None:
        old = select(mask, old_values=old_values)[0].detach()
    if epsilon is not None:
        number("epsilon", epsilon, at_least=0)
        clipped = old + (values - old).clamp(-epsilon, epsilon)
        errors = torch.maximum(errors, (clipped - returns.detach()).square())
    return errors / 2


def ppo_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduce,
    epsilon: float,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
    values: Float[Tensor, "B T"] | None = None,
    old_values: Float[Tensor, "B T"] | None = None,
    returns: Float[Tensor, "B T"] | None = None,
    value_epsilon: float | None = None,
    value_coef: float = 0.0,
    entropies: Float[Tensor, "B T"] | None = None,
    entropy_coef: float = 0.0,
) -> Loss:
    """Policy, critic and entropy in one loss.

        L = reduce( L_t + value_coef LV_t - entropy_coef H_t )                  (PPO.11)

    Args:
        log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high, dual_clip: see ``clipped_surrogate``.
        reduce: (x[B T], mask) -> scalar, from ``torchstone.core``; the same for all three terms.
        values, old_values, returns: see ``clipped_value_error``. Gradient flows through ``values``.
        value_epsilon: the clip of the value error, in reward units; None does not clip.
        value_coef: weight of the value error.
        entropies: H_t of the whole distribution, in nats (``token_entropies``). Gradient flows through it.
        entropy_coef: weight of the bonus.

    Returns: ``Loss``; metrics (means over tokens): ``approx_kl`` (k3 of KL(pi_old || pi), in nats),
        ``clip_ratio/low_mean`` and ``clip_ratio/high_mean`` (share of tokens whose gradient the clip removes, not
        counting the dual clip), and, where given, ``value_loss``, ``entropy``.
    Raises ValueError: a shape or dtype is wrong; a coefficient is not 0 and what it weighs is missing.
    Source: Schulman et al., arXiv:1707.06347v2, eq. 9.
    """
    batch = (log_probs, old_log_probs, advantages, mask)
    losses = clipped_surrogate(*batch, epsilon=epsilon, epsilon_high=epsilon_high, dual_clip=dual_clip)
    metrics = clip_metrics(*batch, epsilon, epsilon_high)
    number("value_coef", value_coef)
    if value_epsilon is not None:
        number("value_epsilon", value_epsilon, at_least=0)
    needed = value_coef == 0 or values is not None
    require(needed, "values", "a tensor, since value_coef is not 0", values)
    if values is not None:
        require(returns is not None, "returns", "a tensor, since the critic learns from them", returns)
        errors = clipped_value_error(values, old_values, returns, mask, epsilon=value_epsilon)  # type: ignore[arg-type]
        metrics["value_loss"] = mean_of(errors, mask)
        losses = losses + value_coef * errors if value_coef != 0 else losses
    losses = add_entropy(losses, metrics, mask, entropies, entropy_coef)
    return Loss(reduce(losses, mask), metrics)
