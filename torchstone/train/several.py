"""Stage 5 of a row of the table that takes several rewards a completion, such as gdpo."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from torchstone.train.methods import Batch, Recipe
from torchstone.train.options import Online, RecipeOptions


class SeveralRewards(Recipe):
    """A row that is given each function's rewards, not their weighted sum."""

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """The row's own stages 4 and 5. A completion to which one of the functions gave no reward is not scored."""
        each = rewards[..., None] if batch.each is None else batch.each.to(rewards).view(*rewards.shape, -1)
        weights = rewards.new_tensor(self.config.reward_weights) if self.config.reward_weights else None
        scored = each.isfinite().all(2)
        how = {"scored": scored, "reward_weights": weights}
        advantages = self.recipe.advantages(each.nan_to_num(), batch.mask, **how).advantages
        return replace(batch, advantages=advantages, mask=batch.mask & scored.flatten()[:, None])


def class_of(config: Online) -> type[Recipe]:
    """Which class a row without a teacher takes."""
    several = isinstance(config, RecipeOptions) and getattr(config.find(), "several", False)
    return SeveralRewards if several else Recipe
