"""torchtune 0.6.1: the losses of torchtune.modules.loss for distillation on given completions."""

from __future__ import annotations

from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.distill import DistillRecipe

VERSION = "torchtune-0.6.1"

ROWS: list[Recipe] = [
    DistillRecipe(
        name=f"opd-exact@{VERSION}",
        about="ReverseKLLoss, which its recipes use on a data set's completions, not on the policy's own.",
        signal=Choice("jsd", beta=1.0, temperature=1.0),
        reduction=Choice("token-mean"),
        left_out="nothing",
        source="torchtune/modules/loss/kd_losses.py:64-116 (ReverseKLLoss())",
    ),
]
