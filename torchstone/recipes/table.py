"""The table of recipes as data, as Markdown, and the difference between two rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torchstone.recipes.choices import Choice, Number, Recipe, show
from torchstone.recipes.online import PolicyRecipe
from torchstone.recipes.pairs import PreferenceRecipe

HEADINGS: dict[type[Recipe], dict[str, tuple[str, ...]]] = {
    PolicyRecipe: {
        "advantage": ("advantage", "normalise"),
        "ratio; surrogate": ("ratio", "surrogate"),
        "KL": ("reward_kl", "loss_kl"),
        "reduction": ("reduction",),
        "and": ("penalty", "groups", "sampler", "value", "entropy"),
    },
    PreferenceRecipe: {"log-prob": ("log_prob",), "objective": ("objective",), "and": ("sft",)},
}
PLACES = {"reward_kl": "reward, ", "loss_kl": "loss, "}
SILENT = {"none", "all"}


class Difference(NamedTuple):
    """One choice or number in which two rows differ, and what either does to the update."""

    at: str
    values: tuple[str, str]
    effects: tuple[str, str] | tuple[str]


def differences(a: Recipe, b: Recipe) -> list[Difference]:
    """What differs between two rows, in the order of data flow.

    Raises ValueError: one is a policy-gradient algorithm and the other a preference objective.
    """
    if type(a) is not type(b):
        raise ValueError(
            f"{a.name} and {b.name}: expected two rows of one kind, got {type(a).__name__} and {type(b).__name__}"
        )
    found = []
    for at in a.COLUMNS:
        one, two = getattr(a, at), getattr(b, at)
        if one.name != two.name:
            found.append(Difference(at, (str(one), str(two)), (a.option(at).effect, b.option(at).effect)))
            continue
        for number in a.option(at).numbers:
            values = (value(a, at, number), value(b, at, number))
            if values[0] != values[1]:
                found.append(Difference(f"{at}.{number}", values, (type(a).NUMBERS[number],)))
    return found


def value(recipe: Recipe, at: str, number: str) -> str:
    """A number of a row as text, its option's default if the row does not set it."""
    return show(getattr(recipe, at).numbers.get(number, recipe.option(at).numbers[number]))


def cells(recipe: Recipe) -> dict[str, str]:
    """The row's cells by heading; what is off is left out."""
    return {
        heading: "; ".join(cell(at, getattr(recipe, at)) for at in ats if getattr(recipe, at).name not in SILENT)
        for heading, ats in HEADINGS[type(recipe)].items()
    }


def cell(at: str, choice: Choice) -> str:
    """A choice in as few words as still say everything: ``clip 0.2, high 0.28``."""
    numbers = {
        k: v for k, v in choice.numbers.items() if (v is not None or k in ("epsilon", "gate")) and (k, v) != ("eps", 0)
    }
    said = ", ".join(brief(k, v, first=i == 0) for i, (k, v) in enumerate(numbers.items()) if k != "empty_rows")
    rows = {"counted": "empty rows count"}.get(str(numbers.get("empty_rows")), "")
    return PLACES.get(at, "") + ", ".join(x for x in (f"{choice.name} {said}".strip(), rows) if x)


def brief(name: str, number: Number, first: bool) -> str:
    """A number with its name, without it where it stands first and everyone knows what it is."""
    if name == "correction":
        return "n-1" if number else "n"
    if first and name in ("epsilon", "beta", "coef", "cache", "estimator", "level", "limit"):
        return show(number)
    return f"{name.replace('epsilon_', '').replace('_', ' ')} {show(number)}"


PARENTS = {  # the row that a published one is told from, where it is not the root of its kind
    "rloo-token": "rloo", "ppo-dual-clip": "ppo", "reinforce++": "ppo", "reinforce++-baseline": "reinforce++",
    "gspo-token": "gspo", "luspo": "gspo", "cispo": "dapo", "vespo": "dr_grpo", "dppo": "dr_grpo", "dppo-kl": "dppo",
    "ipo-mean": "ipo", "aot_unpaired": "aot",
}  # fmt: skip
OFF = {
    "reward_kl": "no KL in the reward", "loss_kl": "no KL in the loss", "groups": "all groups",
    "normalise": "no whitening", "value": "no critic",
}  # fmt: skip
AROUND = {  # what stands before and after an option whose name alone does not say what it chooses
    "reward_kl": ("", " in the reward"), "loss_kl": ("", " in the loss"), "groups": ("", " groups"),
    "ratio": ("ratio ", ""), "sampler": ("sampler ", ""), "value": ("critic ", ""), "log_prob": ("log-prob ", ""),
    "sft": ("sft on ", ""),
}  # fmt: skip
ROOTS = ("reinforce", "ppo", "grpo", "dpo")


def parent(recipe: Recipe, recipes: Mapping[str, Recipe]) -> Recipe | None:
    """The row that this one is told from; None for the four methods, which are told in full."""
    name, at, _ = recipe.name.partition("@")
    if at and name in recipes:
        return recipes[name]
    if recipe.name in ROOTS:
        return None
    root = "dpo" if not isinstance(recipe, PolicyRecipe) else "reinforce" if recipe.ratio.name == "none" else "grpo"
    return recipes[PARENTS.get(recipe.name, root)]


def in_words(recipe: Recipe, recipes: Mapping[str, Recipe]) -> str:
    """A row in one line: ``grpo with clip high 0.28; group-token-mean``, or all that is on where it has no parent."""
    known = parent(recipe, recipes)
    if known is None:
        choices = {at: getattr(recipe, at) for at in recipe.COLUMNS}
        return "; ".join(change(at, choice, []) for at, choice in choices.items() if choice.name not in SILENT)
    changed: dict[str, list[str]] = {}
    for difference in differences(known, recipe):
        at, _, number = difference.at.partition(".")
        told = changed.setdefault(at, [])
        if number:
            own, default = getattr(recipe, at).numbers, recipe.option(at).numbers[number]
            told.append(brief(number, own.get(number, default), first=False))
    texts = [change(at, getattr(recipe, at), numbers) for at, numbers in changed.items()]
    return f"{known.name} with {'; '.join(texts)}" if texts else f"as {known.name}"


def change(at: str, choice: Choice, numbers: list[str]) -> str:
    """What a row does differently in one column: its numbers if there are any, else its option."""
    if choice.name in SILENT:
        return OFF.get(at, f"no {at}")
    said = f"{choice.name} {', '.join(numbers)}" if numbers else cell("", choice)
    before, after = AROUND.get(at, ("", ""))
    return f"{before}{said}{after}"


def by_algorithm(recipes: Iterable[Recipe]) -> dict[str, list[Recipe]]:
    """Rows grouped by the name before the ``@``: the published row first, then the dialects."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.name.partition("@")[0], []).append(recipe)
    return groups


def as_data(recipe: Recipe) -> dict[str, Any]:
    """A row as plain data, for ``--json``."""
    choices = {at: {"option": c.name, **c.numbers} for at in recipe.COLUMNS for c in [getattr(recipe, at)]}
    kind = "policy" if isinstance(recipe, PolicyRecipe) else "preference"
    about = {"name": recipe.name, "kind": kind, "about": recipe.about, "source": recipe.source}
    return {**about, "needs": recipe.needs(), "choices": choices, "stated": dict(recipe.stated)}


def markdown_table(recipes: list[Recipe], against: Recipe | None = None) -> str:
    """A Markdown table; cells that differ from the row ``against`` are bold."""
    headings = ["name", *HEADINGS[type(recipes[0])], "in words; source"]
    known = cells(against) if against is not None else {}
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    for recipe in recipes:
        marked = [f"**{text or 'none'}**" if text != known.get(k, text) else text for k, text in cells(recipe).items()]
        row = [f"`{recipe.name}`", *marked, f"{recipe.about} *{linked(recipe.source)}*"]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |")
    return "\n".join(lines)


def linked(source: str) -> str:
    """arXiv ids as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{5}(v\d+)?)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
