"""The table of recipes as data, as Markdown, and the difference between two rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torchstone.recipes.choices import Choice, Number, Recipe, show
from torchstone.recipes.distill import DistillRecipe
from torchstone.recipes.online import PolicyRecipe
from torchstone.recipes.pairs import PreferenceRecipe

HEADINGS: dict[type[Recipe], dict[str, tuple[str, ...]]] = {
    PolicyRecipe: {
        "advantage": ("advantage", "normalise"),
        "ratio; surrogate": ("ratio", "surrogate"),
        "KL": ("reward_kl", "loss_kl"),
        "reduction": ("reduction",),
        "and": ("penalty", "groups", "anchor", "tokens", "sampler", "value", "entropy", "likelihood"),
    },
    PreferenceRecipe: {"log-prob": ("log_prob",), "objective": ("objective",), "and": ("sft",)},
    DistillRecipe: {
        "signal": ("signal", "bound", "weight"),
        "ratio; surrogate": ("ratio", "surrogate"),
        "reduction": ("reduction",),
        "and": ("outcome", "anchor", "sampler"),
    },
}
KINDS: dict[type[Recipe], tuple[str, str]] = {  # the word in the data, and the title in lists
    PolicyRecipe: ("policy", "Policy gradient"),
    PreferenceRecipe: ("preference", "Preference"),
    DistillRecipe: ("distillation", "On-policy distillation"),
}
PLACES = {"reward_kl": "reward, ", "loss_kl": "loss, ", "anchor": "anchored at the "}
SILENT = {"none", "all", "trainer"}
UNANCHORED: dict[type[Recipe], str] = {  # what is said of the anchor where nothing is taken from there
    PolicyRecipe: "No ratio is taken, so no policy before the update counts in one.",
    DistillRecipe: "No ratio is taken, and the signal is that of the present policy.",
}


class Difference(NamedTuple):
    """One choice or number in which two rows differ, and what either does to the update."""

    at: str
    values: tuple[str, str]
    effects: tuple[str, ...]  # one that holds for both, or one each


def differences(a: Recipe, b: Recipe) -> list[Difference]:
    """What differs between two rows, in the order of data flow.

    Raises ValueError: they are of two kinds, such as a policy-gradient algorithm and a preference objective.
    """
    if type(a) is not type(b):
        raise ValueError(
            f"{a.name} and {b.name}: expected two rows of one kind, got {type(a).__name__} and {type(b).__name__}"
        )
    found = []
    for at in a.COLUMNS:
        one, two = getattr(a, at), getattr(b, at)
        if at == "anchor" and not (a.inputs(at) or b.inputs(at)):
            continue  # neither of them looks at the policy before the update
        if one.name != two.name:
            (value_a, effect_a), (value_b, effect_b) = told(a, at), told(b, at)
            found.append(Difference(at, (value_a, value_b), (effect_a, effect_b)))
            continue
        for number in a.option(at).numbers:
            if show(value(a, at, number)) != show(value(b, at, number)):
                values = (in_full(a, at, number), in_full(b, at, number))
                effects = dict.fromkeys((a.effect(at, number), b.effect(at, number)))
                found.append(Difference(f"{at}.{number}", values, tuple(effects)))
    return found


def told(recipe: Recipe, at: str) -> tuple[str, str]:
    """A row's choice in a column, and what it does to the update of this row."""
    if at == "anchor" and not recipe.inputs(at):
        return "none", UNANCHORED[type(recipe)]
    return str(getattr(recipe, at)), recipe.effect(at)


def value(recipe: Recipe, at: str, number: str) -> Number:
    """A number of a row, its option's default if the row does not set it."""
    default: Number = recipe.option(at).numbers[number]
    return getattr(recipe, at).numbers.get(number, default)


def in_full(recipe: Recipe, at: str, number: str) -> str:
    """A number as text: an ``epsilon_high`` that is none stands for ``epsilon``, and is told as that."""
    own = value(recipe, at, number)
    other = recipe.option(at).numbers.get("cap", 0) is None  # of "cispo": a cap may stand in its place
    if number == "epsilon_high" and own is None and not other:
        return f"{show(value(recipe, at, 'epsilon'))} (none: as epsilon)"
    return show(own)


def cells(recipe: Recipe) -> dict[str, str]:
    """The row's cells by heading; what is off is left out."""
    return {
        heading: "; ".join(cell(at, getattr(recipe, at)) for at in ats if getattr(recipe, at).name not in SILENT)
        for heading, ats in HEADINGS[type(recipe)].items()
    }


def cell(at: str, choice: Choice) -> str:
    """A choice in as few words as still say everything: ``clip 0.2, high 0.28``."""
    numbers = {
        k: v
        for k, v in choice.numbers.items()
        if (v is not None or k in ("epsilon", "gate")) and (k, v) not in (("eps", 0), ("temperature", 1))
    }
    said = ", ".join(brief(k, v, first=i == 0) for i, (k, v) in enumerate(numbers.items()) if k != "empty_rows")
    rows = {"counted": "empty rows count"}.get(str(numbers.get("empty_rows")), "")
    return PLACES.get(at, "") + ", ".join(x for x in (f"{choice.name} {said}".strip(), rows) if x)


FIRST = ("epsilon", "beta", "coef", "cache", "estimator", "level", "limit", "k", "share", "half_life")


def brief(name: str, number: Number, first: bool) -> str:
    """A number with its name, without it where it stands first and everyone knows what it is."""
    if name == "correction":
        return "n-1" if number else "n"
    if name == "rest" or (first and name in FIRST):
        return show(number)
    return f"{name.replace('epsilon_', '').replace('_', ' ')} {show(number)}"


OFF = {
    "groups": "all groups", "tokens": "all tokens", "normalise": "no whitening", "anchor": "anchor trainer",
    "value": "no critic",
}  # fmt: skip
AROUND = {  # what stands before and after an option whose name alone does not say what it chooses
    "reward_kl": ("reward KL ", ""), "loss_kl": ("KL ", ""), "groups": ("", " groups"),
    "anchor": ("anchor ", ""), "ratio": ("ratio ", ""),
    "value": ("critic ", ""), "likelihood": ("likelihood of ", ""),
    "log_prob": ("log-prob ", ""), "sft": ("sft on ", ""),
}  # fmt: skip
ROOTS = ("reinforce", "ppo", "grpo", "dpo", "opd", "opd-exact")


def parent(recipe: Recipe, recipes: Mapping[str, Recipe]) -> Recipe | None:
    """The row that this one is told from; None for those of ROOTS, which are told in full."""
    name, at, _ = recipe.name.partition("@")
    if at and name in recipes:
        return recipes[name]
    if recipe.name in ROOTS:
        return None
    if isinstance(recipe, PolicyRecipe):
        root = "reinforce" if recipe.ratio.name == "none" else "grpo"
    elif isinstance(recipe, DistillRecipe):
        root = "opd-exact" if "logits" in recipe.needs() else "opd"
    else:
        root = "dpo"
    return recipes[recipe.parent or root]


def in_words(recipe: Recipe, recipes: Mapping[str, Recipe]) -> str:
    """A row in one line: ``grpo with clip high 0.28; group-token-mean``, or all that is on where it has no parent."""
    known = parent(recipe, recipes)
    if known is None:
        return "; ".join(change(at, recipe, []) for at in recipe.COLUMNS if getattr(recipe, at).name not in SILENT)
    changed: dict[str, list[str]] = {}
    for difference in differences(known, recipe):
        at, _, number = difference.at.partition(".")
        if at == "anchor" and not recipe.inputs(at):
            continue  # told by the ratio, or by the signal
        numbers = changed.setdefault(at, [])
        if number:
            numbers.append(brief(number, value(recipe, at, number), first=False))
    texts = [change(at, recipe, numbers) for at, numbers in changed.items()]
    return f"{known.name} with {'; '.join(texts)}" if texts else f"as {known.name}"


def change(at: str, recipe: Recipe, numbers: list[str]) -> str:
    """What a row does differently in one column: its numbers if there are any, else its option."""
    choice: Choice = getattr(recipe, at)
    if choice.name in SILENT:
        return off(at, recipe)
    before, after = AROUND.get(at, ("", ""))
    if numbers:  # the option is the parent's: its name is left out where other words say which column it is
        named = "" if before or numbers[0].startswith(choice.name) or choice.name in numbers[0] else f"{choice.name} "
        return f"{before}{named}{', '.join(numbers)}{after}"
    said = cell("", choice)
    return f"{before}{said.replace(', beta ', ' ') if at == 'reward_kl' else said}{after}"


def off(at: str, recipe: Recipe) -> str:
    """What is said of a column that a row leaves off: ``no KL``, ``all groups``, ``no penalty``."""
    places = [place for place in ("reward_kl", "loss_kl") if place in recipe.COLUMNS]
    if at in places:
        paid = any(getattr(recipe, place).name != "none" for place in places)
        return f"no {at.replace('_kl', ' KL')}" if paid else "no KL"
    return OFF.get(at, f"no {at}")


def by_algorithm(recipes: Iterable[Recipe]) -> dict[str, list[Recipe]]:
    """Rows grouped by the name before the ``@``: the published row first, then the dialects."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.name.partition("@")[0], []).append(recipe)
    return groups


def as_data(recipe: Recipe) -> dict[str, Any]:
    """A row as plain data, for ``--json``."""
    choices = {at: {"option": c.name, **c.numbers} for at in recipe.COLUMNS for c in [getattr(recipe, at)]}
    kind, _ = KINDS[type(recipe)]
    about = {
        "name": recipe.name,
        "kind": kind,
        "about": recipe.about,
        "source": recipe.source,
        "left_out": recipe.left_out,
    }
    return {**about, "needs": recipe.needs(), "choices": choices, "stated": dict(recipe.stated)}


def markdown_table(recipes: list[Recipe], against: Recipe | None = None) -> str:
    """A Markdown table; cells that differ from the row ``against`` are bold."""
    headings = ["name", *HEADINGS[type(recipes[0])], "in words; source"]
    known = cells(against) if against is not None else {}
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    for recipe in recipes:
        marked = [f"**{text or 'none'}**" if text != known.get(k, text) else text for k, text in cells(recipe).items()]
        row = [f"`{recipe.name}`", *marked, f"{recipe.about} *{linked(recipe.source)}*{left_out(recipe)}"]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |")
    return "\n".join(lines)


def left_out(recipe: Recipe) -> str:
    """What the paper has beside this row. What a framework has is said once for all its rows."""
    return "" if "@" in recipe.name or not recipe.left_out else f" Left out: {recipe.left_out}."


def linked(source: str) -> str:
    """arXiv ids as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{5}(v\d+)?)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
