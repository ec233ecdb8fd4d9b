"""The table by name: published rows and frameworks' dialects, as they stand or with changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from math import isfinite
from types import NoneType
from typing import Any, get_args, get_type_hints

from torchstone.recipes.choices import Choice, Number, Option, Recipe
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
        raise ValueError(
            f"recipe: expected a name in the table (torchstone recipes), got {name!r}{near(name.lower(), self)}"
        )


def dialects() -> list[Recipe]:
    """The rows that ``DIALECTS`` names. No framework is imported for them."""
    module, _, name = DIALECTS.partition(":")
    rows: list[Recipe] = getattr(import_module(module), name)
    return rows


RECIPES = Recipes({row.name: row for row in [*ONLINE, *PAIRS, *DISTILL, *dialects()]})


def find(text: str) -> Recipe:
    """A row by name, or with changes: ``"grpo"``, ``"grpo:surrogate.epsilon_high=0.28+advantage=group-mean"``.

    A change is ``column=option`` or ``column.number=value``; the option's numbers stay where the new one has them too.

    Raises ValueError: the name, a column, an option or a number is unknown; a value is none that the number can have;
        something is said twice.
    """
    if not isinstance(text, str):
        raise ValueError(f"recipe: expected a row's name, with changes or without, got {text!r}")
    name, colon, changes = text.partition(":")
    recipe = RECIPES[name]
    if not colon:
        return recipe
    given: dict[str, dict[str, str]] = {}  # by column; "" is its option
    for change in changes.split("+"):
        key, equals, value = change.partition("=")
        at, _, number = key.partition(".")
        if not equals or at not in recipe.COLUMNS:
            known = "column=option or column.number=value with a column of " + ", ".join(recipe.COLUMNS)
            meant = near(next((k for k in recipe.numbers() if k.endswith(f".{at}")), at), recipe.numbers())
            raise ValueError(f"recipe {name}: expected {known}, got {change!r}{near(at, recipe.COLUMNS) or meant}")
        if {",", "="} & {*value}:
            raise ValueError(f"recipe {name}: expected changes with a + between two, and 1.5 for 1,5, got {change!r}")
        if number in given.setdefault(at, {}):
            raise ValueError(f"recipe {name}: expected {key} once, got {given[at][number]} and {value}")
        given[at][number] = value
    changed = recipe.but(name=text, **{at: _changed(recipe, at, values) for at, values in given.items()})
    own = {f"{at}.{number}" for at, values in given.items() for number in values}
    return changed.but(stated={k: "set here" if k in own else recipe.stated.get(k, "") for k in changed.numbers()})


def _changed(recipe: Recipe, at: str, values: dict[str, str]) -> Choice:
    old: Choice = getattr(recipe, at)
    name = values.get("", old.name)
    option = recipe.COLUMNS[at].get(name)
    what = f"recipe {recipe.name}: {at}"
    if option is None:
        known = recipe.COLUMNS[at]
        raise ValueError(f"{what}: expected one of {', '.join(known)}, got {name!r}{near(name, known)}")
    for k in filter(None, values):
        if k not in option.numbers:
            takes = ", ".join(option.numbers) or "no number"
            raise ValueError(f"{what}: {name} takes {takes}, got {k!r}{near(k, option.numbers)}")
    kept = {k: v for k, v in old.numbers.items() if k in option.numbers}
    read = {k: _value(f"{what}.{k}", v, _kinds(option, k)) for k, v in values.items() if k}
    return Choice(name, **{**kept, **read})


def _kinds(option: Option, number: str) -> set[type]:
    """What this number of the option may be, by the annotation of the function that takes it."""
    both: list[Any] = [function for function in (option.ahead, option.run) if function is not None]
    hints = [get_type_hints(getattr(run, "func", run)) for run in both]
    hint = next(found[number] for found in hints if number in found)
    return KINDS.keys() & {hint, *get_args(hint)}


def _value(what: str, text: str, kinds: set[type]) -> Number:
    """The text as one of these kinds."""
    for kind, (_, read) in KINDS.items():
        with suppress(ValueError, KeyError):
            if kind in kinds:
                return read(text)
    expected = " or ".join(words for kind, (words, _) in KINDS.items() if kind in kinds)
    raise ValueError(f"{what}: expected {expected}, got {text!r}")


def _finite(text: str) -> float:
    if isfinite(value := float(text)):
        return value
    raise ValueError


def _word(text: str) -> str:
    if text.replace("-", "_").isidentifier():
        return text
    raise ValueError


KINDS: dict[type, tuple[str, Callable[[str], Number]]] = {  # tried in this order
    NoneType: ("none", lambda text: {"none": None}[text.lower()]),
    bool: ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
    int: ("an integer", int),
    float: ("a number", _finite),
    str: ("a word", _word),
}
