"""What a round reports of its rewards."""

from __future__ import annotations

import torch
from torch import Tensor


def of_rewards(rewards: Tensor) -> dict[str, Tensor]:
    """The mean reward, and how much rewards differ within a group; without groups, the round is one.

    NaN where a completion could not be scored: ``unscored`` is the share, and the others are of the scored alone.
    """
    groups = rewards if rewards.shape[1] > 1 else rewards.T
    scored = [group[group.isfinite()] for group in groups if group.isfinite().any()]
    metrics = {"unscored": rewards.isnan().float().mean()}
    if scored:
        metrics["reward"] = torch.cat(scored).mean()
        metrics["reward_std"] = torch.stack([group.std(correction=min(1, len(group) - 1)) for group in scored]).mean()
        metrics["frac_reward_zero_std"] = torch.stack([group.amax() == group.amin() for group in scored]).float().mean()
    return metrics
