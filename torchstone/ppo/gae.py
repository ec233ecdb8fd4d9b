"""Stage 5: generalised advantage estimation, and how good the critic is."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, number, select
from torchstone.core.reduce import deviations
from torchstone.core.scan import next_column
from torchstone.fast.recurrence import recur


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float | Float[Tensor, " B"],
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimation over the chosen tokens.

        delta_t = r_t + gamma V_{t+1} - V_t,    V = 0 after the last chosen token      (PPO.3)
        A_t = delta_t + gamma lam A_{t+1}                                              (PPO.4)
        R_t = A_t + V_t        the critic's target                                     (PPO.5)

    ``t + 1`` is the next *chosen* token: tool output and padding are stepped over and cost no discount.

    Args:
        rewards: r_t, in reward units. Treated as a constant.
        values: V_t, the critic's prediction before token t is chosen, in reward units. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        gamma: discount per chosen token, in [0, 1].
        lam: 0 is one-step TD (low variance, biased by the critic), 1 is return - V (unbiased, high variance). A number,
            or one a completion ``[B]``, whose values are taken as they are.

    Returns: (advantages, returns), in reward units, both detached; 0 where ``mask`` is False. A completion that was
        cut off by the length limit is treated as ended: nothing is bootstrapped after its last token.
    Raises ValueError: a shape or dtype is wrong; ``gamma`` or ``lam`` is outside [0, 1].
    Source: Schulman et al., arXiv:1506.02438v5, eq. 16. In the truncated form of PPO, arXiv:1707.06347v2,
        eq. 11, the last exponent (printed T - t + 1) should be T - t - 1.
    """
    number("gamma", gamma, at_least=0, at_most=1)
    if isinstance(lam, Tensor):
        lam = as_float("lam", lam, mask.shape[:1])[:, None].detach()
    else:
        number("lam", lam, at_least=0, at_most=1)
    rewards, values = (x.detach() for x in select(mask, rewards=rewards, values=values))
    # recur(x, d) is the sum from the right y_t = x_t + d_t y_{t+1}
    next_values = next_column(recur(values, (~mask).to(values.dtype)))  # V of the next chosen token
    deltas = torch.where(mask, rewards + gamma * next_values - values, 0)  # PPO.3
    decay = (deltas.new_ones(()) * (gamma * lam)).to(deltas)
    advantages = recur(deltas, torch.where(mask, decay, 1))  # PPO.4
    advantages = torch.where(mask, advantages, 0)
    return advantages, advantages + values  # PPO.5


def explained_variance(
    values: Float[Tensor, "B T"], returns: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """How much of the returns' variance the critic predicts.

        1 - Var[R - V] / Var[R]    over the chosen tokens                      (PPO.6)

    Args:
        values: V_t, in reward units. Treated as a constant.
        returns: R_t, in reward units. Treated as a constant.
        mask: True where the policy chose the token.

    Returns: unitless, detached: 1 is a perfect critic, 0 is no better than a constant, below 0 is worse. 0 if the
        returns do not vary. A ratio of variances is no mean: give it the whole batch, not micro-batches.
    Raises ValueError: a shape or dtype is wrong.
    """
    values, returns = (x.detach() for x in select(mask, values=values, returns=returns))
    total, unexplained = (deviations(x, mask, correction=0)[1][0] for x in (returns, returns - values))
    return torch.where(total > 0, 1 - (unexplained / torch.where(total > 0, total, 1)).square(), 0)
