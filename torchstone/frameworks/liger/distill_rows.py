"""Liger 0.8.5: the divergence of LigerFusedLinearJSDLoss."""

from __future__ import annotations

from torchstone.frameworks.liger.rows import FOLDER, VERSION
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.distill import DistillRecipe

ROWS: list[Recipe] = [
    DistillRecipe(
        name=f"gkd@{VERSION}",
        about="The divergence alone; by default it is half the loss, beside supervised learning on the same tokens.",
        signal=Choice("jsd", beta=0.5, temperature=1.0),
        reduction=Choice("token-mean"),
        left_out="the supervised term; a policy with the smaller vocabulary gets logits of 0 for what it lacks",
        source=f"{FOLDER}/jsd_loss.py:13-60; fused_linear_distillation.py:59-150 "
        "(LigerFusedLinearJSDLoss(weight_hard_loss=0, weight_soft_loss=1))",
    ),
]
