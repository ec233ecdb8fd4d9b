"""Liger Kernel: the formulas of its chunked losses, by our names; without the linear layer before them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.arguments import enter_pair_losses
from torchstone.frameworks.liger.load import CHUNKED, formula, load
from torchstone.frameworks.registry import Framework, theirs

POLICY = f"{CHUNKED}.grpo_loss:LigerFusedLinearGRPOFunction.ppo_loss_fn"
DPO = f"{CHUNKED}.dpo_loss:LigerFusedLinearDPOFunction.preference_loss_fn"
SIMPO = f"{CHUNKED}.simpo_loss:LigerFusedLinearSimPOFunction.preference_loss_fn"
ORPO = f"{CHUNKED}.orpo_loss:LigerFusedLinearORPOFunction.preference_loss_fn"
K3 = f"{CHUNKED}.grpo_loss:k3_loss_fn"

FRAMEWORK = Framework(
    "Liger Kernel", "liger_kernel", "liger-kernel", "https://github.com/linkedin/Liger-Kernel", prefix="src/",
    prepare=load,
)  # fmt: skip
peer = FRAMEWORK.peer


@peer("KL, k3", "kl_k3", K3)
def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    return theirs(K3)(ref_log_probs, log_probs)


# --------------------------------------------------------------------------------------------------------------- policy


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, ref: Tensor | None = None, **knobs: Any
) -> Tensor:
    """``ppo_loss_fn``, the formula behind LigerFusedLinearGRPOLoss; ``knobs`` are that module's."""
    marks = mask.to(log_probs.dtype)
    found: Tensor = formula("GRPO").ppo_loss_fn(
        log_probs, marks, advantages, marks, ref_per_token_logps=ref, old_per_token_logps=old_log_probs, **knobs
    )[0]
    return found


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"epsilon_low": epsilon, "epsilon_high": epsilon if epsilon_high is None else epsilon_high}


@peer("GRPO's loss", "grpo_loss", POLICY, 'loss_type="grpo"')
def grpo_loss(
    epsilon: float, epsilon_high: float | None, beta: float, ref_log_probs: Any = None, **policy: Any
) -> Tensor:
    return policy_loss(**policy, ref=ref_log_probs, beta=beta, loss_type="grpo", **_clip(epsilon, epsilon_high))


@peer("GRPO's loss", "grpo_loss", POLICY, 'loss_type="dapo", its default')
def grpo_loss_by_default(
    epsilon: float, epsilon_high: float | None, beta: float, ref_log_probs: Any = None, **policy: Any
) -> Tensor:
    return policy_loss(**policy, ref=ref_log_probs, beta=beta, **_clip(epsilon, epsilon_high))


@peer("DAPO's loss", "dapo_loss", POLICY, 'loss_type="dapo", beta=0')
def dapo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return policy_loss(**policy, beta=0.0, **_clip(epsilon, epsilon_high))


@peer("Dr. GRPO's loss", "dr_grpo_loss", POLICY, 'loss_type="dr_grpo", beta=0')
def dr_grpo_loss(epsilon: float, epsilon_high: float | None, length: int, **policy: Any) -> Tensor:
    knobs: dict[str, Any] = {"loss_type": "dr_grpo", "max_completion_length": length}
    return policy_loss(**policy, beta=0.0, **knobs, **_clip(epsilon, epsilon_high))


@peer("GSPO's loss", "gspo_loss", POLICY, 'importance_sampling_level="sequence", loss_type="grpo", beta=0')
def gspo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    knobs: dict[str, Any] = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    return policy_loss(**policy, beta=0.0, **knobs, **_clip(epsilon, epsilon_high))


@peer("CISPO's loss", "cispo_loss", POLICY, 'loss_type="cispo", epsilon_high = 1 + ours, beta=0')
def cispo_loss(epsilon_high: float | None, cap: float | None, **policy: Any) -> Tensor:
    high = 1 + epsilon_high if cap is None and epsilon_high is not None else cap
    return policy_loss(**policy, epsilon_high=high, beta=0.0, loss_type="cispo")


@peer("SAPO's loss", "sapo_loss", POLICY, 'loss_type="sapo", beta=0')
def sapo_loss(tau_positive: float, tau_negative: float, **policy: Any) -> Tensor:
    knobs: dict[str, Any] = {"sapo_temperature_pos": tau_positive, "sapo_temperature_neg": tau_negative}
    return policy_loss(**policy, beta=0.0, loss_type="sapo", **knobs)


@peer("VESPO's loss", "vespo_loss", POLICY, 'loss_type="vespo", beta=0; a token mean, so times tokens / rows')
def vespo_loss(
    k_positive: float, lambda_positive: float, k_negative: float, lambda_negative: float, **policy: Any
) -> Tensor:
    knobs: dict[str, Any] = {"vespo_k_pos": k_positive, "vespo_lambda_pos": lambda_positive, "vespo_k_neg": k_negative}
    loss = policy_loss(**policy, beta=0.0, loss_type="vespo", vespo_lambda_neg=lambda_negative, **knobs)
    return loss * policy["mask"].sum().clamp(min=1) / len(policy["mask"])


# ----------------------------------------------------------------------------------------------------------- preference


def preference_loss(kind: str, chosen: Tensor, rejected: Tensor, **knobs: Any) -> Tensor:
    """``preference_loss_fn`` of ``kind`` "DPO", "SimPO" or "ORPO" on log-probs [N]; ``knobs`` are its own."""
    target = torch.zeros(2 * len(chosen), 1, dtype=torch.long)  # of N pairs: their count divides
    found: Any = formula(kind).preference_loss_fn(chosen, rejected, target, **knobs)
    return found[0] if isinstance(found, tuple) else found


def _dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, **knobs: Any) -> Tensor:
    references = {"ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    return preference_loss("DPO", chosen, rejected, **references, **knobs)


LOSS_TYPES = "sigmoid hinge exo_pair nca_pair bco_pair sppo_hard apo_zero apo_down discopop robust"
enter_pair_losses(peer, DPO, _dpo, LOSS_TYPES)


@peer("SimPO", "simpo_loss", SIMPO)
def simpo_loss(chosen_log_probs: Tensor, rejected_log_probs: Tensor, beta: float, gamma: float) -> Tensor:
    return preference_loss("SimPO", chosen_log_probs, rejected_log_probs, beta=beta, gamma=gamma)


@peer("ORPO's odds ratio", "orpo_loss", ORPO, "plus -sft_coef times the mean chosen log-prob, written here")
def orpo_loss(chosen_log_probs: Tensor, rejected_log_probs: Tensor, odds_coef: float, sft_coef: float) -> Tensor:
    odds = preference_loss("ORPO", chosen_log_probs, rejected_log_probs, beta=odds_coef)
    return odds - sft_coef * chosen_log_probs.mean()
