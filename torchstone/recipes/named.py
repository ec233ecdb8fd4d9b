"""The table by name: published rows and frameworks' dialects, as they stand or with changes."""

from __future__ import annotations

from importlib import import_module

from torchstone.recipes.choices import Choice, Number, Recipe
from torchstone.recipes.published.distill import DISTILL
from torchstone.recipes.published.online import ONLINE
from torchstone.recipes.published.pairs import PAIRS
from torchstone.terminal import near

# The rooms of frameworks stand above this one: each row there is a recipe, made with the words of this room. So that
# this room knows none of them, their list is found by its name, when the table is asked for and not before.
DIALECTS = "torchstone.frameworks.dialects:ROWS"


class Recipes(dict[str, Recipe]):
    """Rows by name, in the order of the table. An unknown name is a ``ValueError`` that lists near ones."""

    def __missing__(self, name: str) -> Recipe:
        raise ValueError(f"recipe: expected a name in the table (torchstone recipes), got {name!r}{near(name, self)}")


def dialects() -> list[Recipe]:
    """The rows that ``DIALECTS`` names. No framework is imported for them."""
    module, _, name = DIALECTS.partition(":")
    rows: list[Recipe] = getattr(import_module(module), name)
    return rows


RECIPES = Recipes({row.name: row for row in [*ONLINE, *PAIRS, *DISTILL, *dialects()]})


def find(text: str) -> Recipe:
    """A row by name, or with changes: ``"grpo"``, ``"grpo:surrogate.epsilon_high=0.28+advantage=group-mean"``.

    A change is ``column=option`` or ``column.number=value``; the option's numbers stay where the new one has them too.

    Raises ValueError: the name, a column, an option or a number is unknown.
    """
    name, _, changes = text.partition(":")
    recipe = RECIPES[name]
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
    changed = recipe.but(name=text, **{at: _changed(recipe, at, names, numbers) for at in {**names, **numbers}})
    own = {f"{at}.{number}" for at, given in numbers.items() for number in given}
    return changed.but(stated={k: "set here" if k in own else recipe.stated.get(k, "") for k in changed.numbers()})


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
