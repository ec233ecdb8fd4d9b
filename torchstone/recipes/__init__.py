"""The field in one table: every named algorithm, and every framework's dialect of it, as one row of choices.

``RECIPES["grpo"]`` is GRPO as published, ``RECIPES["grpo@trl-1.16.0"]`` as that version of TRL computes it. A policy
recipe runs by ``recipe.advantages(...)`` and ``recipe.loss(...)``, a preference recipe by ``recipe.loss(...)``.
``torchstone recipes`` prints the table.
"""

from __future__ import annotations

from functools import cache

from torchstone.recipes.choices import Choice, Number, Recipe
from torchstone.recipes.policy import Advantages, PolicyRecipe
from torchstone.recipes.preference import PreferenceRecipe
from torchstone.recipes.published import POLICY, PREFERENCE
from torchstone.terminal import near

__all__ = ["Advantages", "Choice", "PolicyRecipe", "PreferenceRecipe", "RECIPES", "find"]


class Recipes(dict[str, Recipe]):
    """Rows by name, in the order of the table. An unknown name is a ``ValueError`` that lists near ones."""

    def __missing__(self, name: str) -> Recipe:
        raise ValueError(f"recipe: expected a name in the table (torchstone recipes), got {name!r}{near(name, self)}")


RECIPES: Recipes


def __getattr__(name: str) -> Recipes:
    """``RECIPES``, made when it is first asked for: the frameworks' rows are made of the choices that stand here."""
    if name != "RECIPES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _table()


@cache
def _table() -> Recipes:
    from torchstone.frameworks.dialects import ROWS

    return Recipes({row.name: row for row in [*POLICY, *PREFERENCE, *ROWS]})


def find(text: str) -> Recipe:
    """A row by name, or with changes: ``"grpo"``, ``"grpo:surrogate.epsilon_high=0.28+advantage=group-mean"``.

    A change is ``column=option`` or ``column.number=value``; the option's numbers stay where the new one has them too.

    Raises ValueError: the name, a column, an option or a number is unknown.
    """
    name, _, changes = text.partition(":")
    recipe = _table()[name]
    if not changes:
        return recipe
    names: dict[str, str] = {}
    numbers: dict[str, dict[str, Number]] = {}
    for change in changes.split("+"):
        key, equals, value = change.partition("=")
        at, _, number = key.partition(".")
        if not equals or at not in recipe.COLUMNS:
            known = "column=option or column.number=value with a column of " + ", ".join(recipe.COLUMNS)
            raise ValueError(f"recipe {name}: expected {known}, got {change!r}{near(at, recipe.COLUMNS)}")
        if number:
            numbers.setdefault(at, {})[number] = _value(value)
        else:
            names[at] = value
    return recipe.but(name=text, **{at: _changed(recipe, at, names, numbers) for at in {**names, **numbers}})


def _changed(recipe: Recipe, at: str, names: dict[str, str], numbers: dict[str, dict[str, Number]]) -> Choice:
    old: Choice = getattr(recipe, at)
    option = recipe.COLUMNS[at].get(names.get(at, old.name))
    kept = {k: v for k, v in old.numbers.items() if option is not None and k in option.numbers}
    return Choice(names.get(at, old.name), **{**kept, **numbers.get(at, {})})


def _value(text: str) -> Number:
    words: dict[str, Number] = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
