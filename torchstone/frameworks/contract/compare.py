"""The batch uncut: which row of the table a loss equals there, and the loss as a plain function for the vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch
from torchstone.frameworks.contract.find import Findings
from torchstone.frameworks.contract.hand import Hand
from torchstone.frameworks.contract.run import run
from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.recipes import find as find_row

EQUAL = 1e-5  # relative to the largest gradient: frameworks add 1e-8 to their denominators


def rows_equal(hand: Hand, found: Findings, recipe: str | None) -> list[str]:
    """The rows of the table, and the named one, whose gradient on the batch uncut is this loss's; this framework's own
    dialect first, and those of others only if nothing nearer is equal."""
    if hand.advantages == "none" or found.whole.gradient is None:
        return []
    own = {name: row for name, row in RECIPES.items() if name.endswith(f"@{hand.unit.version}")}
    near = own | {name: row for name, row in RECIPES.items() if "@" not in name}
    for table in ({recipe: find_row(recipe)} if recipe else {}, near, RECIPES):
        equal = [
            name
            for name, row in table.items()
            if isinstance(row, PolicyRecipe) and _equal(row, hand.made(), found.whole.slope, must=name == recipe)
        ]
        if equal:
            return equal
    return []


def _equal(row: PolicyRecipe, batch: Batch, slope: Tensor, must: bool) -> bool:
    """Whether this is the row's gradient; where it needs what a policy loss is not handed, no, or an error if it
    ``must`` be told."""
    leaf = batch.log_probs.clone().requires_grad_()
    known = row.used("loss", {**vars(batch), "group_size": 4, "max_length": batch.mask.shape[1]})
    try:
        row.loss(leaf, batch.advantages, batch.mask, **known).value.backward()
    except ValueError:
        if must:
            raise
        return False
    if leaf.grad is None:
        return False
    return bool((slope - leaf.grad).abs().max() <= EQUAL * leaf.grad.abs().max())


def whole_function(hand: Hand, target: Any, settings: Mapping[str, Any]) -> Callable[..., Tensor]:
    """The loss of a batch uncut, by names that the vectors know."""

    def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        given = advantages if advantages.ndim == 2 else advantages[:, None].expand_as(log_probs)
        old, mask = old_log_probs.detach(), mask.bool()
        found = run(hand, target, settings, Batch(log_probs.detach(), old, old, old, given, mask, mask))
        value = torch.tensor(found.value, dtype=log_probs.dtype)
        if found.gradient is None:
            return value
        moved = (log_probs - log_probs.detach()).where(mask, 0.0)
        return value + (moved * found.gradient.to(log_probs.dtype)).sum()

    return loss
