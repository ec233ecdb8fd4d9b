"""Liger Kernel: the formulas of its chunked losses, on log-probs, without the fused linear layer in front of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import Framework, theirs

GRPO = "liger_kernel.chunked_loss.grpo_loss"
DPO = "liger_kernel.chunked_loss.dpo_loss"
SIMPO = "liger_kernel.chunked_loss.simpo_loss"
ORPO = "liger_kernel.chunked_loss.orpo_loss"


def _prepare() -> None:
    quiet()
    for module in (GRPO, DPO, SIMPO, ORPO):
        theirs(f"{module}:torch")


FRAMEWORK = Framework(
    "Liger Kernel", "liger_kernel", "liger-kernel", "https://github.com/linkedin/Liger-Kernel", prefix="src/",
    prepare=_prepare,
)  # fmt: skip
peer = FRAMEWORK.peer


@peer("KL, k3", "kl_k3", f"{GRPO}:k3_loss_fn")
def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    k3_loss_fn = theirs("liger_kernel.chunked_loss.grpo_loss:k3_loss_fn")

    return k3_loss_fn(ref_log_probs, log_probs)


# --------------------------------------------------------------------------------------------------------------- policy


def _policy(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, ref: Tensor | None = None, **knobs: Any
) -> Tensor:
    LigerFusedLinearGRPOFunction = theirs("liger_kernel.chunked_loss.grpo_loss:LigerFusedLinearGRPOFunction")

    marks = mask.to(log_probs.dtype)
    found: Tensor = LigerFusedLinearGRPOFunction.ppo_loss_fn(
        log_probs, marks, advantages, marks, ref_per_token_logps=ref, old_per_token_logps=old_log_probs, **knobs
    )[0]
    return found


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"epsilon_low": epsilon, "epsilon_high": epsilon if epsilon_high is None else epsilon_high}


POLICY = f"{GRPO}:LigerFusedLinearGRPOFunction.ppo_loss_fn"


@peer("GRPO's loss", "grpo_loss", POLICY, 'loss_type="grpo"')
def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, beta: float, ref_log_probs: Any = None,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "beta": beta, "loss_type": "grpo"}
    return _policy(log_probs, old_log_probs, advantages, mask, ref_log_probs, **knobs)


@peer("GRPO's loss", "grpo_loss", POLICY, 'loss_type="dapo", its default')
def grpo_loss_by_default(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, beta: float, ref_log_probs: Any = None,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "beta": beta}
    return _policy(log_probs, old_log_probs, advantages, mask, ref_log_probs, **knobs)


@peer("DAPO's loss", "dapo_loss", POLICY, 'loss_type="dapo", beta=0')
def dapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    return _policy(log_probs, old_log_probs, advantages, mask, beta=0.0, **_clip(epsilon, epsilon_high))


@peer("Dr. GRPO's loss", "dr_grpo_loss", POLICY, 'loss_type="dr_grpo", beta=0')
def dr_grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, length: int,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {
        **_clip(epsilon, epsilon_high),
        "beta": 0.0,
        "loss_type": "dr_grpo",
        "max_completion_length": length,
    }
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)


@peer("GSPO's loss", "gspo_loss", POLICY, 'importance_sampling_level="sequence", loss_type="grpo", beta=0')
def gspo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {
        **_clip(epsilon, epsilon_high),
        "beta": 0.0,
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
    }
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)


@peer("CISPO's loss", "cispo_loss", POLICY, 'loss_type="cispo", epsilon_high = 1 + ours, beta=0')
def cispo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon_high: float | None,
    cap: float | None,
) -> Tensor:  # fmt: skip
    high = 1 + epsilon_high if cap is None and epsilon_high is not None else cap
    knobs: dict[str, Any] = {"epsilon_high": high, "beta": 0.0, "loss_type": "cispo"}
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)


@peer("SAPO's loss", "sapo_loss", POLICY, 'loss_type="sapo", beta=0')
def sapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, tau_positive: float, tau_negative: float
) -> Tensor:
    knobs: dict[str, Any] = {"sapo_temperature_pos": tau_positive, "sapo_temperature_neg": tau_negative}
    return _policy(log_probs, old_log_probs, advantages, mask, beta=0.0, loss_type="sapo", **knobs)


@peer("VESPO's loss", "vespo_loss", POLICY, 'loss_type="vespo", beta=0; a token mean, so times tokens / rows')
def vespo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, k_positive: float,
    lambda_positive: float, k_negative: float, lambda_negative: float,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {"vespo_k_pos": k_positive, "vespo_lambda_pos": lambda_positive}
    knobs |= {"vespo_k_neg": k_negative, "vespo_lambda_neg": lambda_negative}
    loss = _policy(log_probs, old_log_probs, advantages, mask, beta=0.0, loss_type="vespo", **knobs)
    return loss * mask.sum().clamp(min=1) / len(mask)


# ----------------------------------------------------------------------------------------------------------- preference


def _preference(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, **knobs: Any) -> Tensor:
    LigerFusedLinearDPOFunction = theirs("liger_kernel.chunked_loss.dpo_loss:LigerFusedLinearDPOFunction")

    target = torch.zeros(2 * len(chosen), 1, dtype=torch.long)  # of N pairs: their count divides
    found: Any = LigerFusedLinearDPOFunction.preference_loss_fn(
        chosen, rejected, target, ref_chosen_logps=ref_chosen, ref_rejected_logps=ref_rejected, **knobs
    )
    return found[0] if isinstance(found, tuple) else found


def _enter(what: str, objective: str, loss_type: str, smoothing: bool = False, flipped: bool = False) -> None:
    def loss(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor, beta: float,
    ) -> Tensor:  # fmt: skip
        given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
        return _preference(*given, beta=beta, loss_type=loss_type)

    def smooth(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor, beta: float, label_smoothing: float,
    ) -> Tensor:  # fmt: skip
        given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
        return _preference(*given, beta=beta, loss_type=loss_type, label_smoothing=label_smoothing)

    def flip(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor, beta: float, flip_rate: float,
    ) -> Tensor:  # fmt: skip
        given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
        return _preference(*given, beta=beta, loss_type=loss_type, label_smoothing=flip_rate)

    of = f"{DPO}:LigerFusedLinearDPOFunction.preference_loss_fn"
    peer(what, objective, of, f'loss_type="{loss_type}"')(flip if flipped else smooth if smoothing else loss)


_enter("DPO's loss", "dpo_loss", "sigmoid")
_enter("hinge", "hinge_loss", "hinge")
_enter("EXO", "exo_loss", "exo_pair", smoothing=True)
_enter("NCA", "nca_loss", "nca_pair")
_enter("BCO", "bco_loss", "bco_pair")
_enter("SPPO", "sppo_loss", "sppo_hard")
_enter("APO-zero", "apo_zero_loss", "apo_zero")
_enter("APO-down", "apo_down_loss", "apo_down")
_enter("DiscoPOP", "discopop_loss", "discopop")
_enter("robust DPO", "robust_dpo_loss", "robust", flipped=True)


@peer("SimPO", "simpo_loss", f"{SIMPO}:LigerFusedLinearSimPOFunction.preference_loss_fn")
def simpo_loss(chosen_log_probs: Tensor, rejected_log_probs: Tensor, beta: float, gamma: float) -> Tensor:
    Loss = theirs("liger_kernel.chunked_loss.simpo_loss:LigerFusedLinearSimPOFunction")

    target = torch.zeros(2 * len(chosen_log_probs), 1, dtype=torch.long)
    return Loss.preference_loss_fn(chosen_log_probs, rejected_log_probs, target, beta=beta, gamma=gamma)[0]


@peer("ORPO's odds ratio", "orpo_loss", f"{ORPO}:LigerFusedLinearORPOFunction.preference_loss_fn",
      "plus -sft_coef times the mean chosen log-prob, written here")  # fmt: skip
def orpo_loss(chosen_log_probs: Tensor, rejected_log_probs: Tensor, odds_coef: float, sft_coef: float) -> Tensor:
    Loss = theirs("liger_kernel.chunked_loss.orpo_loss:LigerFusedLinearORPOFunction")

    target = torch.zeros(2 * len(chosen_log_probs), 1, dtype=torch.long)
    odds = Loss.preference_loss_fn(chosen_log_probs, rejected_log_probs, target, beta=odds_coef)[0]
    return odds - sft_coef * chosen_log_probs.mean()
