"""TorchRL 0.14.1: torchrl.objectives.llm.DistillationLoss."""

from __future__ import annotations

from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.distill import DistillRecipe

VERSION = "torchrl-0.14.1"

ROWS: list[Recipe] = [
    DistillRecipe(
        name=f"opd-k3@{VERSION}",
        about="kl_direction='reverse', its default: k3 back-propagated, so forward KL's gradient, as its docstring "
        "says.",
        signal=Choice("k3"),
        reduction=Choice("sequence-mean", empty_rows="counted"),
        left_out="nothing",
        source="torchrl/objectives/llm/distillation.py:24-72, 428-511 (DistillationLoss(actor_network))",
    ),
]
