"""The field in one table: every named algorithm, and every framework's dialect of it, as one row of choices.

``RECIPES["grpo"]`` is GRPO as published, ``RECIPES["grpo@trl-1.16.0"]`` as that version of TRL computes it. A policy
recipe runs by ``recipe.advantages(...)`` and ``recipe.loss(...)``, one for preferences or for distillation by
``recipe.loss(...)``.
``torchstone recipes`` prints the table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # they load torch, which the help of the command does not need
    from torchstone.recipes.choices import Choice
    from torchstone.recipes.distill import DistillRecipe
    from torchstone.recipes.named import RECIPES, find
    from torchstone.recipes.online import Advantages, PolicyRecipe
    from torchstone.recipes.pairs import PreferenceRecipe

__all__ = ["Advantages", "Choice", "DistillRecipe", "PolicyRecipe", "PreferenceRecipe", "RECIPES", "find"]
_HOME = {
    "Advantages": "online", "Choice": "choices", "DistillRecipe": "distill", "PolicyRecipe": "online",
    "PreferenceRecipe": "pairs", "RECIPES": "named", "find": "named",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"torchstone.recipes.{_HOME[name]}"), name)
