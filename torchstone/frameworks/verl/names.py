"""The names by which verl's configuration finds rows: the table's, and those of TORCHSTONE_RECIPES."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from typing import NoReturn

from torchstone.frameworks.verl.settings import advantages_refusal
from torchstone.recipes import RECIPES, PolicyRecipe, find
from torchstone.recipes.columns import ADVANTAGES

VARIABLE = "TORCHSTONE_RECIPES"
Found = Callable[[], PolicyRecipe]


def recipes() -> dict[str, Found]:
    """How each policy row is found, by its name. What cannot be had raises ``ValueError`` when it is looked for."""
    of_the_table = {k: partial(policy_row, k) for k, row in RECIPES.items() if isinstance(row, PolicyRecipe)}
    return of_the_table | named()


def named() -> dict[str, Found]:
    """The rows that TORCHSTONE_RECIPES names: ``"mine=gspo:reduction=token-mean other=rloo"``, parted by spaces."""
    found: dict[str, Found] = {}
    for text in os.environ.get(VARIABLE, "").split():
        name, _, recipe = text.partition("=")
        if not name or not recipe or ":" in name:
            found[text] = partial(refused, f"expected NAME=ROW or NAME=ROW:CHANGES, parted by spaces, got {text!r}")
        elif name in RECIPES or name in ADVANTAGES:
            found[name] = partial(refused, f"expected a name that Torchstone does not have itself, got {name!r}")
        elif name in found:
            found[name] = partial(refused, f"expected one row of each name, got two named {name!r}")
        else:
            found[name] = partial(policy_row, recipe)
    return found


@cache
def policy_row(text: str) -> PolicyRecipe:
    """The policy row of this name, or with these changes."""
    row = find(text)
    if not isinstance(row, PolicyRecipe):
        raise ValueError(f"recipe: expected a policy row, got {row.name}, a {type(row).__name__}")
    return row


def option_row(name: str) -> PolicyRecipe:
    """REINFORCE with this advantage; where it takes numbers, a row of the table has to say them."""
    rows = [row for row in RECIPES.values() if isinstance(row, PolicyRecipe) and row.advantage.name == name]
    row: PolicyRecipe = policy_row("reinforce").but(name=name, advantage=rows[0].advantage)
    if row.advantage.numbers and not advantages_refusal(row):
        known = ", ".join(row.name for row in rows[:3])
        raise ValueError(
            f"adv_estimator: {name} takes {', '.join(row.advantage.numbers)}; name a row that has it: {known}"
        )
    return row


def refused(reason: str) -> NoReturn:
    """Raise that this name has no row."""
    raise ValueError(f"recipe: {reason}")


def faults() -> dict[str, str]:
    """Why a name of TORCHSTONE_RECIPES cannot be had, by name; empty where all can."""
    wrong: dict[str, str] = {}
    for name, found in named().items():
        try:
            found()
        except ValueError as e:
            wrong[name] = str(e)
    return wrong
