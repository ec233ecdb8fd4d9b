"""TRL: how its code is loaded, our names for its calls, the rows of its dialect, and its trainers with a recipe.

``from torchstone.frameworks.trl import RecipeGRPOTrainer`` (RecipeDPOTrainer, RecipeDistillationTrainer) imports TRL;
nothing else here does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchstone.frameworks.trl.unit import VERSION

__all__ = ["RecipeDPOTrainer", "RecipeDistillationTrainer", "RecipeGRPOTrainer"]
_HOME = {
    "RecipeGRPOTrainer": "plug", "RecipeDPOTrainer": "plug_pairs", "RecipeDistillationTrainer": "plug_distill",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as missing:
        if missing.name != "trl":
            raise
        raise ModuleNotFoundError(f'{name} needs TRL: pip install "torchstone[trl]"', name="trl") from missing
    except ImportError as other:
        if not (other.name or "").startswith("trl"):
            raise
        raise ImportError(f"{name} needs {VERSION.replace('-', ' ')}: {other}", name=other.name) from other
