"""Advantages of a row of the table, as an estimator in SkyRL's form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.frameworks.refusals import allowed
from torchstone.frameworks.skyrl.settings import advantages_refusal


def advantages(token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any,
               values: Tensor | None = None, *, recipe: str, **others: Any) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Advantages and returns [B T]: a reward a completion becomes the row's advantage a token."""
    row, mask = allowed("SkyRL", recipe, advantages_refusal), response_mask.bool()
    for name in ("advantage_batch_normalize", "use_kl_in_reward"):
        if getattr(config, name):
            raise ValueError(f"{name}: expected False, since {row.name} says that itself, got True")
    _, group, sizes = np.unique(np.asarray(index), return_inverse=True, return_counts=True)
    if len(set(sizes)) > 1:
        raise ValueError(f"index: expected groups of one size, got {min(sizes)} to {max(sizes)}")
    order = torch.as_tensor(np.argsort(group, kind="stable"), device=mask.device)  # row p * G + g is of prompt p
    totals = token_level_rewards.masked_fill(~mask, 0).sum(1)[order].view(-1, int(sizes[0]))
    if not config.zero_variance_filter and not row.keep(totals).all():
        raise ValueError(f"groups: {row.name} drops groups of equal rewards; set zero_variance_filter=true, got some")
    known = {} if values is None else row.used("advantages", {"values": values[order]})
    found, returns = row.advantages(totals, mask[order], **known)
    result, targets = torch.empty_like(found), torch.empty_like(found)
    result[order], targets[order] = found, found if returns is None else returns
    return result, targets
