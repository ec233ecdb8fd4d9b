"""Every policy row of the table in verl's registries: ``loss_mode=torchstone:gspo``, ``adv_estimator=torchstone:rloo``.

verl imports this file itself, wherever verl is imported: it is an entry point of the group ``verl.plugins``. verl logs
an error here at DEBUG only, so nothing here raises: what cannot be had is registered too, and says why when it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss

from torchstone.frameworks.refusals import in_proportion
from torchstone.frameworks.verl.estimator import estimator
from torchstone.frameworks.verl.names import VARIABLE, Found, faults, option_row, recipes
from torchstone.frameworks.verl.settings import actor_row, counts, loss_refusal, refuse
from torchstone.frameworks.verl.unit import UNIT
from torchstone.recipes.columns import ADVANTAGES


def policy_loss(found: Found) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """A policy loss in verl's form, whose value is the row's, with the denominators of the whole mini-batch."""

    def loss(old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
             loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None
             ) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
        row, mask = found(), response_mask.bool()
        refuse("loss_mode", row, loss_refusal(row))
        row = actor_row(row, config, rollout_is_weights is not None)
        given = counts(row, mask, config.global_batch_info)
        if rollout_is_weights is not None:  # a surrogate is proportional to its advantage, for a weight >= 0
            refuse("rollout_is", row, "" if in_proportion(row) else "its loss is not a multiple of the advantage")
            advantages = advantages * rollout_is_weights
        old = "sampler_log_probs" if row.anchor.name == "sampler" else "old_log_probs"
        if old in row.takes("loss"):
            given[old] = old_log_prob
        value, metrics = row.loss(log_prob, advantages, mask, **given)
        scale = UNIT.scale(1, config.global_batch_info["dp_size"])
        return value * scale, {f"actor/{name}": float(mean) for name, mean in metrics.items()}

    return loss


def register() -> None:
    """Enter the rows, those of TORCHSTONE_RECIPES, and the options of the column ``advantage``."""
    if f"verl-{version('verl')}" != UNIT.version:
        warnings.warn(f"verl: recipes were tested with {UNIT.version}, got verl-{version('verl')}", stacklevel=2)
    rows = recipes()
    for name, reason in faults().items():
        warnings.warn(f"{VARIABLE}: {name}: {reason}", stacklevel=2)
    for name, found in rows.items():
        register_policy_loss(f"torchstone:{name}")(policy_loss(found))
    for name, found in ({k: (lambda k=k: option_row(k)) for k in ADVANTAGES} | rows).items():
        register_adv_est(f"torchstone:{name}")(estimator(found))


register()
