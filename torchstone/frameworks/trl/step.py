"""What the plugs into TRL's trainers share: the tokens that count, what a row divides by, and means over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import get_config_model_id

from torchstone.core.result import Mean
from torchstone.recipes.distill import DistillRecipe
from torchstone.recipes.online import PolicyRecipe

IMAGES = (  # a batch's entries that go to the model beside the tokens
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles",
    "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids",
)  # fmt: skip


def config_of(args: Any, config: type, model: Any) -> Any:
    """A copy of the user's config; without one TRL's default, its folder named as TRL names it.

    Raises ValueError: it is another trainer's.
    """
    if isinstance(args, config):
        return copy(args)
    if args is not None:
        raise ValueError(f"args: expected a {config.__name__}, got {type(args).__name__}")
    name = model if isinstance(model, str) else get_config_model_id(model.config)
    return config(f"{name.split('/')[-1]}-{config.__name__.removesuffix('Config')}")


class OfGroups(PolicyRecipe):
    """A row with a mean over each group's tokens, where TRL has shuffled the groups apart: its ``denominator`` [B] is
    for each completion the tokens of its group times the groups."""

    @classmethod
    def of(cls, row: PolicyRecipe) -> OfGroups:
        """The same row."""
        return cls(**{field.name: getattr(row, field.name) for field in fields(row)})

    def run(self, at: str, batch: Mapping[str, Any], stage: str = "loss") -> Any:
        """As every row; the last stage divides each completion by its own denominator."""
        if at != "reduction":
            return super().run(at, batch, stage)
        return (batch["x"].where(batch["mask"], 0).sum(1) / batch["denominator"]).sum()


@contextmanager
def lent(args: Any, **settings: Any) -> Iterator[None]:
    """The config with these settings while TRL's constructor reads it; with the user's again after it."""
    own = {name: getattr(args, name) for name in settings}
    vars(args).update(settings)
    try:
        yield
    finally:
        vars(args).update(own)


def chosen_tokens(batch: dict[str, Any]) -> Tensor:
    """True where the policy chose the token [B T]: not at padding, nor at tool output."""
    return (batch["completion_mask"] * batch.get("tool_mask", 1)).bool()


def count(row: PolicyRecipe | DistillRecipe, mask: Tensor, kept: Tensor, group: int) -> Tensor:
    """What the row's reduction divides by, of the whole generated batch: tokens, groups or completions.

    Args:
        mask: the tokens that count, of all ranks [B T].
        kept: False where the row leaves out the completion [B].
        group: completions of each prompt.
    """
    reduction, rows = row.reduction, mask.any(1)
    if reduction.name == "token-mean":
        return mask.sum()
    if reduction.name == "group-token-mean":
        return rows.view(-1, group).any(1).sum()
    return (kept if reduction.numbers["empty_rows"] == "counted" else rows).sum()


def everywhere(accelerator: Any, x: Tensor) -> Tensor:
    """Rows of all ranks [B T], in the order of the prompts."""
    gathered: Tensor = accelerator.gather(accelerator.pad_across_processes(x, dim=1))
    return gathered


def over_ranks(accelerator: Any, metrics: dict[str, Mean]) -> dict[str, float]:
    """The means of all ranks' pieces."""
    found = {}
    for name, mean in metrics.items():
        total, size = accelerator.reduce(torch.stack([mean.total, mean.count.to(mean.total)]), "sum")
        found[name] = (total / size.clamp(min=1)).item()
    return found
