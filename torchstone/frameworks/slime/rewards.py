"""A row's advantages in slime: ``--custom-reward-post-process-path torchstone.frameworks.slime.rewards.rewards``.

Here all samples of a rollout are in one place. ``--custom-advantage-function-path`` sees those of one rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from torchstone.frameworks.refusals import allowed
from torchstone.frameworks.slime.settings import advantages_refusal, check, rewards_settings


def rewards(args: Any, samples: list[Any]) -> tuple[list[float], list[float]]:
    """Rewards as they came, and the row's advantages, one a sample: all tokens of a sample have the same.

    Raises ValueError: slime cannot run the row, a setting is another than the row's, or groups differ in size.
    """
    row = allowed("slime", args.torchstone_recipe, advantages_refusal)
    check(row, rewards_settings(row), args)
    raw = [float(sample.get_reward_value(args)) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: samples[i].group_index)
    groups = [samples[i].group_index for i in order]
    sizes = {groups.count(group) for group in set(groups)}
    if len(sizes) > 1:
        raise ValueError(f"samples: expected groups of one size, got {min(sizes)} to {max(sizes)}")
    totals = torch.tensor(raw, dtype=torch.float64)[order].view(-1, sizes.pop())
    if not row.keep(totals).all():
        raise ValueError(f"groups: {row.name} drops groups of equal rewards; set --dynamic-sampling-filter-path")
    marks = [sample.response_length * [1] if sample.loss_mask is None else sample.loss_mask for sample in samples]
    kept = [torch.tensor(marks[i], dtype=torch.bool) & (not samples[i].remove_sample) for i in order]
    mask = pad_sequence(kept, batch_first=True)
    known = row.used("advantages", {"max_length": args.rollout_max_response_len})
    found = row.advantages(totals, mask, **known).advantages
    of_each = found.gather(1, mask.int().argmax(1, keepdim=True)).flatten()
    return raw, of_each[torch.tensor(order).argsort()].tolist()
