"""Stage 5: from rewards to returns, and the leave-one-out baseline."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, check_flags, number, require, select
from torchstone.core.reduce import all_equal
from torchstone.core.scan import linear_recurrence


def discounted_returns(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Float[Tensor, "B T"]:
    """The return of each choice: the rewards from here on, discounted once per chosen token (reward-to-go).

        G_t = r_t + gamma G_{t+1},    t over the chosen tokens                 (REINFORCE.1)

    Args:
        rewards: r_t, in reward units. Treated as a constant.
        mask: True where the policy chose the token. Tool output and padding are stepped over: they cost no
            discount, and a reward that lies on them is not counted.
        gamma: discount per chosen token, in [0, 1]. 1 is usual for language models.

    Returns: reward units, detached; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``gamma`` is outside [0, 1].
    Source: Williams (1992), doi:10.1007/BF00992696, eq. 11 (episodic REINFORCE, one reward at the end).
    """
    number("gamma", gamma, at_least=0, at_most=1)
    rewards = select(mask, rewards=rewards)[0].detach()
    decays = torch.where(mask, rewards.new_full((), gamma), 1)
    return torch.where(mask, linear_recurrence(rewards, decays), 0)


def leave_one_out_advantages(
    rewards: Float[Tensor, "P G"], *, scored: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """Each sample's reward minus the mean reward of its siblings (RLOO).

        A_i = r_i - (1 / (n - 1)) sum_{j != i} r_j = n / (n - 1) (r_i - mean r)    (REINFORCE.5)

    The baseline does not depend on sample i, so the gradient stays unbiased.

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
        scored: False where a completion could not be scored; its reward may then be NaN. n counts the scored.

    Returns: reward units, detached. Exactly 0 for an unscored sample, and in a group whose scored rewards are all
        equal or fewer than two.
    Raises ValueError: a shape or dtype is wrong; G is 1.
    Source: Kool et al. (2019), "Buy 4 REINFORCE Samples, Get a Baseline for Free!";
        Ahmadian et al., arXiv:2402.14740v2, section 2.3 (unnumbered).
    """
    centred, n = centred_rewards(rewards, scored)
    return centred * n / (n - 1).clamp(min=1)


def centred_rewards(
    rewards: Float[Tensor, "P G"], scored: Bool[Tensor, "P G"] | None
) -> tuple[Float[Tensor, "P G"], Float[Tensor, "P 1"]]:
    """``r_i - mean r`` over each group's scored samples, and their number n; exactly 0 in a tied group.

    Both group baselines, leave-one-out and GRPO's, are this times a factor.
    """
    rewards = as_float("rewards", rewards, "P G").detach()
    require(rewards.shape[1] >= 2, "rewards", "at least 2 samples in a group (a lone sample has no baseline)", rewards)
    scored = scored_members(rewards, scored)
    rewards = rewards.masked_fill(~scored, 0)
    n = scored.sum(1, keepdim=True).to(rewards.dtype)
    mean = rewards.sum(1, keepdim=True) / n.clamp(min=1)
    return (rewards - mean).masked_fill(~scored | all_equal(rewards, scored), 0), n


def scored_members(rewards: Float[Tensor, "P G"], scored: Bool[Tensor, "P G"] | None) -> Bool[Tensor, "P G"]:
    """``scored``, checked; True everywhere if it is None."""
    if scored is None:
        return torch.ones_like(rewards, dtype=torch.bool)
    check_flags("scored", scored, rewards.shape)
    return scored
