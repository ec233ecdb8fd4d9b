"""How a framework that cannot run a row says so: the reason, and the nearest row that it can run."""

from __future__ import annotations

from torchstone.recipes.choices import Recipe


def changed(row: Recipe, change: str) -> str:
    """The row with one more change, as ``find`` reads it: ``"dapo:reduction=token-mean"``."""
    return f'"{row.name}{"+" if ":" in row.name else ":"}{change}"'


def refuse(framework: str, row: Recipe, reason: str) -> None:
    """Raise ``ValueError`` if there is a reason."""
    if reason:
        raise ValueError(f"recipe: {framework} cannot run {row.name}: {reason}")
