"""What SkyRL's worker hands to a policy loss: advantages that are divided already, so that a sum is the loss.

Lines are those of skyrl 0.3.0: the call in ``backends/skyrl_train/workers/worker.py:894-901``; ``divided`` does what
``apply_loss_reduction_to_advantages_minibatch`` (``utils/ppo_utils.py:1095``) does to the advantages of a mini-batch;
``NESTED`` and ``PLAIN`` are the fields of ``AlgorithmConfig`` that losses read, with its defaults
(``train/config/config.py:508-653``; ``cispo_anchor`` as it came later, in SkyRL a956457).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchstone.frameworks.contract.batch import Batch
from torchstone.frameworks.contract.hand import Given, Hand, Piece, pair
from torchstone.frameworks.contract.stand_in import Settings, masked_mean
from torchstone.frameworks.skyrl.unit import UNIT

FORM = """\
def loss(log_probs, old_log_probs, advantages, config, loss_mask=None,
         rollout_logprobs=None):
    return loss, metrics"""
NESTED: dict[str, dict[str, Any]] = {
    "sapo": {"tau_pos": 1.0, "tau_neg": 1.05},
    "clip_cov": {"clip_ratio": 0.0002, "clip_cov_lb": 1.0, "clip_cov_ub": 5.0},
    "kl_cov": {"kl_cov_frac": 0.2, "ppo_kl_coef": 1.0},
    "cispo": {"cispo_eps_clip_low": 0.0, "cispo_eps_clip_high": 5.0, "cispo_anchor": "old"},
    "dppo": {"dppo_type": "binary_tv", "delta_low": 0.2, "delta_high": 0.2},
    "off_policy_correction": {
        "tis_ratio_type": None, "token_tis_ratio_clip_high": 2.0, "sequence_tis_ratio_clip_high": 5.0,
        "sequence_mask_metric": None, "geo_mask_high": 1.01, "geo_mask_low": 0.99, "product_mask_high": 2.0,
        "product_mask_low": 0.5, "outlier_token_is_threshold_low": None, "outlier_token_is_threshold_high": None,
        "token_mask_is_threshold_low": None, "token_mask_is_threshold_high": None,
    },
}  # fmt: skip
PLAIN = {
    "policy_loss_type": "regular", "loss_reduction": "token_mean", "eps_clip_low": 0.2, "eps_clip_high": 0.2,
    "clip_ratio_c": 3.0, "max_seq_len": 8, "use_kl_loss": False, "kl_loss_coef": 0.001, "temperature": 1.0,
    "kl_estimator_type": "k3", "use_entropy_loss": False, "entropy_loss_coef": 0.01, "advantage_estimator": "grpo",
}  # fmt: skip


def divided(advantages: Tensor, rows: Batch, whole: Batch, of: Settings) -> Tensor:
    """The advantages of these rows, divided by what ``loss_reduction`` says of the whole mini-batch."""
    tokens, counts = whole.mask.sum().clamp(min=1), rows.mask.sum(1, keepdim=True).clamp(min=1)
    parts: dict[str, Any] = {
        "token_mean": tokens,
        "sequence_mean": len(whole.mask) * counts,
        "seq_mean_token_sum_norm": len(whole.mask) * of.max_seq_len,
    }
    if of.loss_reduction not in parts:
        raise ValueError(f"loss_reduction: expected one of {', '.join(parts)}, got {of.loss_reduction!r}")
    return advantages / parts[of.loss_reduction]


def calls(piece: Piece) -> list[Given]:
    """Three arguments by place, three by name."""
    of, rows = Settings(NESTED | PLAIN, piece.settings), piece.batch
    given = {
        "log_probs": rows.log_probs, "old_log_probs": rows.old_log_probs,
        "advantages": divided(rows.advantages, rows, piece.whole, of), "config": of,
        "loss_mask": rows.mask.to(rows.log_probs.dtype), "rollout_logprobs": rows.sampler_log_probs,
    }  # fmt: skip
    return [Given(given, positional=3)]


LINES = {
    "mask": "loss = (x * loss_mask).sum()",
    "mean": "loss = (x * loss_mask).sum()   # the advantages are divided already",
    "ranks": "loss = (x * loss_mask).sum()   # the worker multiplies by dp_size itself",
}


def reduce_loss(loss: Tensor, loss_mask: Tensor | None) -> Tensor:
    """What SkyRL's function of this name computes (utils/ppo_utils.py:1088): a sum."""
    return loss.sum() if loss_mask is None else (loss * loss_mask).sum()


UTILS = {"reduce_loss": reduce_loss, "masked_mean": masked_mean}
CORE = "skyrl.backends.skyrl_train.utils"
STAND_INS: dict[str, dict[str, Any]] = {
    "skyrl": {}, f"{CORE}.ppo_utils": UTILS, f"{CORE}.torch_utils": UTILS, "skyrl_gym": {}, "ray": {}, "omegaconf": {},
    "loguru": {},
}  # fmt: skip
HAND = Hand(
    "SkyRL", UNIT, FORM, calls, pair("SkyRL"), LINES, stand_ins=STAND_INS,
    modes=("loss_reduction", ("sequence_mean", "seq_mean_token_sum_norm")),
)  # fmt: skip
