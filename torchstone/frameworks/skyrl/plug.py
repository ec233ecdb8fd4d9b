"""Rows of the table in SkyRL's registries: ``register_loss("gspo:reduction.empty_rows=counted", "mine")``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, PolicyLossRegistry
from torch import Tensor

from torchstone.frameworks.refusals import allowed, warn_of_version
from torchstone.frameworks.skyrl.estimator import advantages
from torchstone.frameworks.skyrl.settings import advantages_refusal, check, loss_refusal
from torchstone.frameworks.skyrl.unit import UNIT
from torchstone.recipes.choices import NONE, Choice


def register_loss(recipe: str, name: str = "") -> None:
    """Enter the row's loss as ``torchstone:NAME``, the row's own if there is none.

    Raises ValueError: the row is unknown, or SkyRL cannot run it (settings.py), or the name is taken.
    Warns: another version of SkyRL than was tested.
    """
    warn_of_version(UNIT)
    allowed("SkyRL", recipe, loss_refusal)
    # partial, not a closure: Ray pickles the function by its name, and the row is found where it is used
    PolicyLossRegistry.register(f"torchstone:{name or recipe}", partial(policy_loss, recipe=recipe))


def register_advantages(recipe: str, name: str = "") -> None:
    """Enter the row's advantages likewise."""
    warn_of_version(UNIT)
    allowed("SkyRL", recipe, advantages_refusal)
    AdvantageEstimatorRegistry.register(f"torchstone:{name or recipe}", partial(advantages, recipe=recipe))


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, config: Any,
                loss_mask: Tensor | None = None, rollout_logprobs: Tensor | None = None, *, recipe: str
                ) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """The row's loss in SkyRL's form: a sum, since the advantages come divided by the mini-batch's count."""
    row = allowed("SkyRL", recipe, loss_refusal)
    check(row, config)
    mask = torch.ones_like(log_probs, dtype=torch.bool) if loss_mask is None else loss_mask.bool()
    plain = row.but(reduction=Choice("token-mean"), loss_kl=NONE)  # SkyRL adds the KL itself
    known = plain.used("loss", {"old_log_probs": old_log_probs, "sampler_log_probs": rollout_logprobs})
    value, metrics = plain.loss(log_probs, advantages, mask, denominator=1, **known)
    return value, {metric: float(mean) for metric, mean in metrics.items()}
