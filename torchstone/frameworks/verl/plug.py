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

from torchstone.frameworks.verl.estimator import estimator
from torchstone.frameworks.verl.names import Found, option_row, recipes
from torchstone.frameworks.verl.settings import UNREAD, actor_row, loss_refusal, refuse
from torchstone.frameworks.verl.unit import UNIT
from torchstone.recipes.columns import ADVANTAGES


def policy_loss(found: Found) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """A policy loss in verl's form, whose value is the row's, with the denominators of the whole mini-batch."""

    def loss(old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
             loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None
             ) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
        asked, mask, info = found(), response_mask.bool(), config.global_batch_info
        refuse("loss_mode", asked, loss_refusal(asked))
        row = actor_row(asked, config, rollout_is_weights is not None)
        if rollout_is_weights is not None:  # every surrogate is proportional to its advantage, for a weight >= 0
            advantages = advantages * rollout_is_weights
        for name in (k for k, default in UNREAD.items() if config.get(k) not in (default, None)):
            warnings.warn(
                f"actor.{name}={config.get(name)} is not read: the recipe {row.name} is the loss", stacklevel=2
            )
        count = "batch_num_tokens" if row.reduction.name == "token-mean" else "global_batch_size"
        given = {"denominator": info.get(count), "dp_size": info.get("dp_size")}
        if "max_length" in row.takes("loss"):
            given["max_length"] = info.get("loss_scale_factor")
        for name, value in given.items():
            if value is None:
                where = {"max_length": "loss_scale_factor, the setting actor.loss_scale_factor", "denominator": count}
                raise ValueError(f"{name}: the recipe {row.name} needs {where.get(name, name)} of the batch, got None")
        if row.reduction.numbers.get("empty_rows") == "skipped" and not mask.any(1).all():
            raise ValueError(
                f"response_mask: the recipe {row.name} leaves rows without a token out of its count, and verl counts "
                f"them all; name it with reduction.empty_rows=counted in TORCHSTONE_RECIPES; got rows without a token"
            )
        ranks = int(given.pop("dp_size"))
        if "old_log_probs" in row.takes("loss"):
            given["old_log_probs"] = old_log_prob
        if row.anchor.name == "sampler":
            given["sampler_log_probs"] = old_log_prob
        value, metrics = row.loss(log_prob, advantages, mask, **given)
        return value * UNIT.scale(1, ranks), {f"actor/{name}": float(mean) for name, mean in metrics.items()}

    return loss


def register() -> None:
    """Enter the rows, those of TORCHSTONE_RECIPES, and the options of the column ``advantage``."""
    if f"verl-{version('verl')}" != UNIT.version:
        warnings.warn(f"verl: recipes were tested with {UNIT.version}, got verl-{version('verl')}", stacklevel=2)
    rows = recipes()
    for name, found in rows.items():
        register_policy_loss(f"torchstone:{name}")(policy_loss(found))
    for name, found in ({k: (lambda k=k: option_row(k)) for k in ADVANTAGES} | rows).items():
        register_adv_est(f"torchstone:{name}")(estimator(found))


register()
