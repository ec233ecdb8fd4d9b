"""What a plug says before it runs: why a row cannot be run, the nearest one that can, another version than tested."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torchstone.frameworks.unit import Unit
from torchstone.recipes import PolicyRecipe, find
from torchstone.recipes.choices import Recipe


def couples_groups(row: Recipe) -> bool:
    """Whether a completion's loss is made of its siblings' log-probs too: a group has to stay whole."""
    return isinstance(row, PolicyRecipe) and any("group_size" in row.inputs(at) for at in ("ratio", "surrogate"))


def in_proportion(row: Recipe) -> bool:
    """Whether a token's loss is its advantage times something, so that a factor >= 0 may be put on the advantage."""
    return not isinstance(row, PolicyRecipe) or row.surrogate.name not in ("quadratic", "real")


def changed(row: Recipe, change: str) -> str:
    """The row with this change, as ``find`` reads it: ``"dapo:reduction=token-mean"``; a number it has already goes."""
    name, _, own = row.name.partition(":")
    keys = {part.partition("=")[0] for part in change.split("+")}
    kept = [part for part in own.split("+") if part and part.partition("=")[0] not in keys]
    return f'"{name}:{"+".join([*kept, change])}"'


def of_the_whole_batch(row: Recipe) -> str:
    """Why a loss that sees one micro-batch at a time cannot run this row; "" where it can."""
    if "token_weights" not in row.takes("loss"):
        return ""
    choice = row.tokens  # type: ignore[attr-defined]  # of policy rows alone
    return f"it judges all tokens of an optimizer step together ({choice}), and a loss is shown one micro-batch"


def likelihood_refusal(row: Any) -> str:
    """Why a likelihood term cannot run where a loss is not told what to learn; "" for a row without one."""
    if row.likelihood.name == "none":
        return ""
    what = (
        "an expert's answers do not reach"
        if row.likelihood.name == "expert"
        else "which answers are right does not reach"
    )
    return f"{what} a loss; name it {changed(row, 'likelihood=none')}"


@cache
def allowed(framework: str, recipe: str, refusal: Callable[[Recipe], str]) -> Any:
    """The row of this name, or with these changes, if the framework can run it.

    Raises ValueError: the row is unknown, or there is a reason why it cannot be run.
    """
    row = find(recipe)
    if reason := refusal(row):
        raise ValueError(f"recipe: {framework} cannot run {row.name}: {reason}")
    return row


def warn_of_version(unit: Unit) -> None:
    """Warn where another release of the framework is installed than the one that was tested."""
    try:
        installed = f"{unit.framework}-{version(unit.framework)}"
    except PackageNotFoundError:
        return
    if installed != unit.version:
        warnings.warn(f"{unit.framework}: rows were tested with {unit.version}, got {installed}", stacklevel=3)
