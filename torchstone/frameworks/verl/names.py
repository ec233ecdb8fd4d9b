"""The names by which verl's configuration finds rows: the table's, and those of TORCHSTONE_RECIPES."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from torchstone.recipes import RECIPES, Choice, PolicyRecipe, find

Found = Callable[[], PolicyRecipe]


def named() -> dict[str, str]:
    """What TORCHSTONE_RECIPES names, by name: ``"mine=gspo:reduction=token-mean other=..."``, parted by spaces."""
    found: dict[str, str] = {}
    for text in os.environ.get("TORCHSTONE_RECIPES", "").split():
        name, equals, recipe = text.partition("=")
        found |= {name: recipe} if equals and ":" not in name else {text: text}
    return found


def policy_row(text: str) -> PolicyRecipe:
    """The policy row of this name, or with these changes."""
    row = find(text)
    if not isinstance(row, PolicyRecipe):
        raise ValueError(f"recipe: expected a policy row, got {row.name}, a {type(row).__name__}")
    return row


def option_row(name: str) -> PolicyRecipe:
    """REINFORCE with this advantage."""
    row: PolicyRecipe = policy_row("reinforce").but(name=name, advantage=Choice(name))
    return row


def recipes() -> dict[str, Found]:
    """How each policy row is found, by the name that verl's configuration has for it."""
    rows: dict[str, Found] = {k: (lambda k=k: policy_row(k)) for k, r in RECIPES.items() if isinstance(r, PolicyRecipe)}
    for name, text in named().items():
        rows[name] = lambda text=text: policy_row(text)
        try:
            rows[name]()
        except ValueError as error:
            warnings.warn(f"TORCHSTONE_RECIPES: {name}: {error}", stacklevel=2)
    return rows
