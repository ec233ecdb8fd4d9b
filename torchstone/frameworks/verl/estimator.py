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
        rows, slots, shape = table_of_groups(np.arange(len(mask)) if index is None else index, mask)
        rewards = in_table(token_level_rewards.masked_fill(~mask, 0)[rows], slots, shape)
        scored = in_table(torch.ones_like(mask[rows][:, 0]), slots, shape).view(shape)
        mask, totals = in_table(mask[rows], slots, shape), rewards.sum(1).view(shape)
        if not row.keep(totals, scored=scored).all():
            raise ValueError(f"groups: {row.name} drops groups of equal rewards; set algorithm.filter_groups, got some")
        if asked.reward_kl.name == "per-token":  # no baseline: the returns of rewards that hold each token's KL
            returns = discounted_returns(rewards, mask, gamma=1.0)
            normalised = row.run("normalise", {"advantages": returns, "mask": mask})
            given = returns if normalised is None else normalised
        else:
            given = row.advantages(totals, mask, scored=scored).advantages
        result = torch.zeros_like(response_mask, dtype=given.dtype)
        result[rows] = given[slots]
        return result, result

    return advantages


def table_of_groups(index: Any, mask: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The places of completions in a table ``[P G]`` of groups, of which the largest fills its line.

    Args:
        index: the name of each row's group, as verl's ``uid``.
        mask: ``[B T]``. A group without any token is left out: rows with which verl fills up its batch.

    Returns: the rows that are in the table ``[N]``, the place of each, ``p * G + g`` ``[N]``, and (P, G).
    """
    _, group = np.unique(index, return_inverse=True)
    rows = np.flatnonzero(np.isin(group, group[mask.any(1).cpu().numpy()]))
    _, group, sizes = np.unique(group[rows], return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    member = np.empty_like(order)
    member[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shape = (len(sizes), int(sizes.max(initial=0)))
    return *(torch.as_tensor(x, device=mask.device) for x in (rows, group * shape[1] + member)), shape  # type: ignore[return-value]


def in_table(x: Tensor, slots: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows of ``x`` at their places ``[P*G ...]``; 0 where a group has no more rows."""
    return x.new_zeros(shape[0] * shape[1], *x.shape[1:]).index_copy(0, slots, x)
