"""Advantages of a row of the table, as an estimator in verl's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.frameworks.verl.names import Found
from torchstone.frameworks.verl.settings import advantages_refusal, estimator_row, refuse
from torchstone.reinforce import discounted_returns


def estimator(found: Found) -> Callable[..., tuple[Tensor, Tensor]]:
    """An advantage estimator in verl's form: a reward a completion becomes the row's advantage a token."""

    def advantages(token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None,
                   **others: Any) -> tuple[Tensor, Tensor]:  # fmt: skip
        asked, mask = found(), response_mask.bool()
        refuse("adv_estimator", asked, advantages_refusal(asked))
        row = estimator_row(asked, config)
        _, group, sizes = np.unique(np.arange(len(mask)) if index is None else index, return_inverse=True,
                                    return_counts=True)  # fmt: skip
        if len(set(sizes)) > 1:
            raise ValueError(f"index: expected groups of one size (rollout.n), got {min(sizes)} to {max(sizes)}")
        order = torch.as_tensor(np.argsort(group, kind="stable"), device=mask.device)  # row p * G + g is of prompt p
        rewards, mask = token_level_rewards.masked_fill(~mask, 0)[order], mask[order]
        totals = rewards.sum(1).view(-1, int(sizes[0]))
        if not row.keep(totals).all():
            raise ValueError(f"groups: {row.name} drops groups of equal rewards; set algorithm.filter_groups, got some")
        if asked.reward_kl.name == "per-token":  # no baseline: the returns of rewards that hold each token's KL
            found_here = discounted_returns(rewards, mask, gamma=1.0)
            normalised = row.run("normalise", {"advantages": found_here, "mask": mask})
            found_here = found_here if normalised is None else normalised
        else:
            found_here = row.advantages(totals, mask).advantages
        result = torch.empty_like(found_here)
        result[order] = found_here
        return result, result

    return advantages
