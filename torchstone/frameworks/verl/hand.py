"""What verl hands to a policy loss, micro-batch by micro-batch.

Lines are those of verl 0.9.1: the arguments of ``workers/utils/losses.py:101-109``, the counts of :65-68. Where the
loss's own file has not imported verl, ``DEFAULTS`` are the fields of ``ActorConfig`` that losses read
(``workers/config/actor.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchstone.frameworks.contract.hand import Given, Hand, Piece, pair
from torchstone.frameworks.contract.stand_in import Settings, masked_mean, masked_sum
from torchstone.frameworks.verl.unit import UNIT

FORM = """\
def loss(old_log_prob, log_prob, advantages, response_mask,
         loss_agg_mode="token-mean", config=None, rollout_is_weights=None):
    return loss, metrics"""
MODES = ("seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
AGG = "agg_loss(x, response_mask, loss_agg_mode, **config.global_batch_info)"


DEFAULTS: dict[str, Any] = {
    "clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "tau_pos": 1.0,
    "tau_neg": 1.05, "loss_agg_mode": "token-mean", "loss_scale_factor": None, "entropy_coeff": 0, "use_kl_loss": False,
    "kl_loss_coef": 0.001, "kl_loss_type": "low_var_kl", "ppo_epochs": 1,
    "policy_loss": {
        "loss_mode": "vanilla", "clip_cov_ratio": 0.0002, "clip_cov_lb": 1.0, "clip_cov_ub": 5.0,
        "kl_cov_ratio": 0.0002, "ppo_kl_coef": 0.1, "dro_beta": None, "rollout_correction": None,
    },
}  # fmt: skip


def agg_loss(
    loss_mat: Tensor, loss_mask: Tensor, loss_agg_mode: str, dp_size: int = 1, batch_num_tokens: Any = None,
    global_batch_size: Any = None, loss_scale_factor: Any = None,
) -> Tensor:  # fmt: skip
    """What verl's function of this name computes (trainer/ppo/core_algos.py:1140-1206)."""
    tokens, of_rows = loss_mask.sum(1), masked_sum(loss_mat, loss_mask, 1)
    if loss_agg_mode == "token-sum":
        return of_rows.sum() * dp_size
    if loss_agg_mode == "token-mean":
        return of_rows.sum() / (tokens.sum() if batch_num_tokens is None else batch_num_tokens) * dp_size
    if loss_agg_mode not in MODES:
        raise ValueError(f"Invalid loss_agg_mode: {loss_agg_mode}")
    lengths = {MODES[0]: tokens + 1e-8, MODES[2]: loss_scale_factor or loss_mask.shape[1]}
    rows = (tokens > 0).sum() if global_batch_size is None else global_batch_size
    return (of_rows / lengths.get(loss_agg_mode, 1)).sum() / rows * dp_size


def config(settings: Mapping[str, Any]) -> Any:
    """verl's own ActorConfig where the loss has imported verl, else the stand-in; ``policy_loss.NAME`` are nested."""
    real = sys.modules.get("verl.workers.config")
    if getattr(real, "ActorConfig", Settings) is Settings:
        return Settings(DEFAULTS, {"global_batch_info": {}, **settings})
    from torchstone.frameworks.verl.functions import config as with_settings

    inner = {k.removeprefix("policy_loss."): v for k, v in settings.items() if k.startswith("policy_loss.")}
    return with_settings(inner, **{k: v for k, v in settings.items() if not k.startswith("policy_loss.")})


def calls(piece: Piece) -> list[Given]:
    """One call of keywords; the counts are those of all ranks."""
    of, rows = config(piece.settings), piece.batch
    of.global_batch_info.update(
        dp_size=piece.ranks, batch_num_tokens=int(piece.whole.mask.sum()), global_batch_size=len(piece.whole.mask),
        loss_scale_factor=of.loss_scale_factor,
    )  # fmt: skip
    given = {
        "old_log_prob": rows.old_log_probs, "log_prob": rows.log_probs, "advantages": rows.advantages,
        "response_mask": rows.mask, "loss_agg_mode": of.loss_agg_mode, "config": of, "rollout_is_weights": None,
    }  # fmt: skip
    return [Given(given)]


LINES = {
    "ranks": f"return {AGG}, metrics   # or: loss * config.global_batch_info['dp_size']",
    "micro_batches": f"return {AGG}, metrics",
    "tokens": f"return {AGG}, metrics   # divides by batch_num_tokens, of all micro-batches",
    "rows": f"return {AGG}, metrics   # divides by global_batch_size, of all micro-batches",
    "mask": f"return {AGG}, metrics   # or: torch.where(response_mask, x, 0)",
}
MASKED = {"masked_sum": masked_sum, "masked_mean": masked_mean}
PACKAGES: dict[str, dict[str, Any]] = {
    "verl": {}, "verl.trainer.ppo.core_algos": {"agg_loss": agg_loss}, "verl.utils.torch_functional": MASKED,
    "verl.workers.config": {"ActorConfig": Settings}, "omegaconf": {}, "tensordict": {},
}  # fmt: skip
HAND = Hand(
    "verl", UNIT, FORM, calls, pair("verl"), LINES, stand_ins=PACKAGES, modes=("loss_agg_mode", MODES),
)  # fmt: skip
