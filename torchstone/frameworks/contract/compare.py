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
    dialect first."""
    if hand.advantages == "none" or found.whole.gradient is None:
        return []
    own = {name: row for name, row in RECIPES.items() if name.endswith(f"@{hand.unit.version}")}
    plain = {name: row for name, row in RECIPES.items() if "@" not in name}
    batch, slope = hand.made(), found.whole.slope
    tables = [{recipe: find_row(recipe)} if recipe else {}, own | plain, dict(RECIPES)]
    equal: list[str] = []
    for table in tables:  # the dialects of other frameworks only if nothing nearer is equal
        for name, row in table.items():
            if isinstance(row, PolicyRecipe):
                expected = _gradient(row, batch, recipe == name)
                if expected is not None and (slope - expected).abs().max() <= EQUAL * expected.abs().max():
                    equal.append(name)
        if equal:
            break
    return equal


def _gradient(row: PolicyRecipe, batch: Batch, asked: bool) -> Tensor | None:
    """The row's gradient on this batch; None where it needs what a policy loss is not handed."""
    names = ("old_log_probs", "ref_log_probs", "sampler_log_probs")
    leaf = batch.log_probs.clone().requires_grad_()
    given = {k: v for k, v in {name: getattr(batch, name) for name in names}.items() if k in row.takes("loss")}
    given |= {"group_size": 4} if "group_size" in row.takes("loss") else {}
    given |= {"max_length": batch.mask.shape[1]} if "max_length" in row.takes("loss") else {}
    try:
        row.loss(leaf, batch.advantages, batch.mask, **given).value.backward()
    except ValueError:
        if asked:
            raise
        return None
    return leaf.grad


def whole_function(hand: Hand, target: Any, settings: Mapping[str, Any]) -> Callable[..., Tensor]:
    """The loss of a batch uncut, by names that the vectors know."""

    def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        given = advantages if advantages.ndim == 2 else advantages[:, None].expand_as(log_probs)
        old = old_log_probs.detach()
        batch = Batch(log_probs.detach(), old, old, old, given, mask.bool(), mask.bool())
        found = run(hand, target, settings, batch)
        value = torch.tensor(found.value, dtype=log_probs.dtype)
        if found.gradient is None:
            return value
        moved = (log_probs - log_probs.detach()).where(mask.bool(), 0.0)
        return value + (moved * found.slope.to(log_probs.dtype)).sum()

    return loss
