"""The batch uncut: which row of the table a loss equals there, and the loss as a plain function for the vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch
from torchstone.frameworks.contract.hand import Hand
from torchstone.frameworks.contract.plugged import Findings
from torchstone.frameworks.contract.run import run
from torchstone.recipes import RECIPES, PolicyRecipe, PreferenceRecipe
from torchstone.recipes import find as find_row
from torchstone.recipes.choices import NONE, Recipe

REFERENCES = ("ref_chosen_log_probs", "ref_rejected_log_probs")
PLAIN = ("grpo:loss_kl=none", "grpo:loss_kl=none+reduction=token-mean")  # a clip alone, under a plain name
EQUAL = 1e-5  # relative to the largest gradient: frameworks add 1e-8 to their denominators


def rows_equal(hand: Hand, found: Findings, recipe: str | None) -> list[str]:
    """The rows, and the named one, whose loss has this gradient on the batch uncut, the plainest first: of this
    framework's own dialect and the published ones, and those of others only if none of these is equal."""
    if found.whole.gradient is None:
        return []
    kind, slope = kind_of(hand), found.whole.slope
    own = {name: row for name, row in RECIPES.items() if name.endswith(f"@{hand.unit.version}")}
    near = (
        own | {name: row for name, row in RECIPES.items() if "@" not in name} | {name: find_row(name) for name in PLAIN}
    )
    for table in ({recipe: find_row(recipe)} if recipe else {}, near, RECIPES):
        rows = {name: row for name, row in table.items() if isinstance(row, kind)}
        equal = [name for name, row in rows.items() if _equal(row, hand, slope, must=name == recipe)]
        equal = [name for name in equal if name == recipe or _compared(rows[name], hand, slope)]
        if equal:
            return sorted(equal, key=lambda name: (_choices(rows[name]), name not in PLAIN))
    return []


def _choices(row: Recipe) -> int:
    """How much the row has: the fewer choices, the plainer."""
    return sum(getattr(row, at).name != "none" for at in row.COLUMNS)


def _compared(row: Recipe, hand: Hand, slope: Tensor) -> bool:
    """Whether all that the row adds to its loss shows in this batch: weights of the sampler are 1 where it is handed
    one kind of old log-probs, and an equal gradient says nothing of them."""
    added = [at for at in ("sampler", "loss_kl", "entropy") if at in row.COLUMNS and getattr(row, at) != NONE]
    return not any(_equal(row.but(**{at: NONE}), hand, slope, must=False) for at in added)


def kind_of(hand: Hand) -> type[PolicyRecipe | PreferenceRecipe]:
    """The kind of rows that a loss of this form may equal."""
    return PreferenceRecipe if hand.advantages == "none" else PolicyRecipe


def _equal(row: Any, hand: Hand, slope: Tensor, must: bool) -> bool:
    """Whether this is the row's gradient; where it needs what a policy loss is not handed, no, or an error if it
    ``must`` be told."""
    batch = hand.made()
    leaf = batch.log_probs.clone().requires_grad_()
    try:
        if isinstance(row, PreferenceRecipe):
            known = row.used("loss", dict(zip(REFERENCES, batch.ref_log_probs.chunk(2, 1), strict=True)))
            row.loss(*leaf.chunk(2, 1), *batch.mask.chunk(2, 1), **known).value.backward()
        else:
            known = row.used("loss", {**vars(batch), "group_size": 4, "max_length": hand.max_length})
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

    def of_pairs(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor,
    ) -> Tensor:  # fmt: skip
        """Each completion is one token."""
        log_probs = torch.stack([chosen_log_probs, rejected_log_probs], 1)
        ref = torch.stack([ref_chosen_log_probs, ref_rejected_log_probs], 1).detach()
        at, all_of_it = log_probs.detach(), torch.ones_like(ref, dtype=torch.bool)
        found = run(hand, target, settings, Batch(at, at, at, ref, torch.zeros_like(at), all_of_it, all_of_it))
        value = torch.tensor(found.value, dtype=at.dtype)
        if found.gradient is None:
            return value
        return value + ((log_probs - at) * found.gradient.to(at.dtype)).sum()

    return of_pairs if hand.advantages == "none" else loss
