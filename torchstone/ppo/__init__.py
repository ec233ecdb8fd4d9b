"""PPO: several clipped steps on one batch, with a critic. Equations and symbols are in README.md."""

from torchstone.ppo.gae import explained_variance, gae
from torchstone.ppo.loss import clipped_surrogate, clipped_value_error, ppo_loss
from torchstone.ppo.rewards import AdaptiveKL, shaped_rewards

# fmt: off
__all__ = [
    "shaped_rewards", "AdaptiveKL", "gae", "explained_variance",
    "clipped_surrogate", "clipped_value_error", "ppo_loss",
]
