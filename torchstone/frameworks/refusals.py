"""How a framework that cannot run a row says so: the reason, and the nearest row that it can run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torchstone.recipes import find
from torchstone.recipes.choices import Recipe


def changed(row: Recipe, change: str) -> str:
    """The row with one more change, as ``find`` reads it: ``"dapo:reduction=token-mean"``."""
    return f'"{row.name}{"+" if ":" in row.name else ":"}{change}"'


@cache
def allowed(framework: str, recipe: str, refusal: Callable[[Recipe], str]) -> Any:
    """The row of this name, or with these changes, if the framework can run it.

    Raises ValueError: the row is unknown, or there is a reason why it cannot be run.
    """
    row = find(recipe)
    if reason := refusal(row):
        raise ValueError(f"recipe: {framework} cannot run {row.name}: {reason}")
    return row
