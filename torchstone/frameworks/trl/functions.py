"""TRL: its utilities, and the losses of its trainers on the numbers of a case, by our names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.arguments import enter_pair_losses, in_order
from torchstone.frameworks.loading import default_dtype, float32_is_float64
from torchstone.frameworks.registry import Framework, theirs
from torchstone.frameworks.trl.load import (
    Numbers,
    Tables,
    completion_inputs,
    head_output,
    load,
    policy_trainer,
    preference_trainer,
    rollout,
)

UTILS = "trl.trainer.utils"
GRPO = "trl.trainer.grpo_trainer:GRPOTrainer._compute_loss"
ROLLOUT = "trl.trainer.grpo_trainer:GRPOTrainer._generate_and_score_completions"
RLOO = "trl.trainer.rloo_trainer:RLOOTrainer._generate_and_score_completions"
DPO = "trl.trainer.dpo_trainer:DPOTrainer._compute_loss"
CPO = "trl.experimental.cpo.cpo_trainer:CPOTrainer.cpo_loss"
REWARD = "trl.trainer.reward_trainer:RewardTrainer.compute_loss"
GMPO = "trl.experimental.gmpo.gmpo_trainer:GMPOTrainer._compute_loss"

FRAMEWORK = Framework("TRL", "trl", "trl", "https://github.com/huggingface/trl", prepare=load)
peer = FRAMEWORK.peer


# ----------------------------------------------------------------------------------------------------------- utilities


@peer("token log-probs", "token_log_probs", f"{UTILS}:selective_log_softmax")
def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return theirs(f"{UTILS}:selective_log_softmax")(logits, targets)


@peer("entropy", "token_entropies", f"{UTILS}:entropy_from_logits")
def token_entropies(logits: Tensor) -> Tensor:
    return theirs(f"{UTILS}:entropy_from_logits")(logits)


# ----------------------------------------------------------------------------------------------------------- advantages


def sizes(rows: int, group: int) -> dict[str, int]:
    """Batch sizes of a rollout; num_iterations=2, since with 1 TRL takes the policy's own log-probs as the old ones."""
    return {"per_device_train_batch_size": rows, "num_generations": group, "num_iterations": 2}


def advantages(kind: str, rewards: Tensor, **knobs: Any) -> Tensor:
    """Advantages [B] of rewards [P G] by the rollout code of a trainer, on completions of one token."""
    zeros = torch.zeros(rewards.numel(), 1, dtype=rewards.dtype)
    numbers = Numbers(zeros, torch.ones_like(zeros, dtype=torch.bool), rewards)
    return rollout(policy_trainer(kind, numbers, **sizes(len(zeros), rewards.shape[1]), **knobs))["advantages"]


@peer("group advantages (GRPO)", "group_advantages", ROLLOUT, 'scale_rewards="group" or "none"; eps is 1e-4')
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    return advantages("GRPO", rewards, scale_rewards="group" if divide_by_std else "none")


@peer("leave-one-out advantages (RLOO)", "leave_one_out_advantages", RLOO, "beta=0")
def rloo(rewards: Tensor) -> Tensor:
    return advantages("RLOO", rewards, beta=0.0)


@peer(
    "a reference that follows the policy (TR-DPO)", "update_reference",
    "trl.trainer.callbacks:SyncRefModelCallback._sync_target_model", "ref_model_mixup_alpha",
)  # fmt: skip
def update_reference(ref_parameters: Tensor, parameters: Tensor, alpha: float) -> Tensor:
    models = [torch.nn.ParameterList([x.detach().clone()]) for x in (parameters, ref_parameters)]
    theirs("trl.trainer.callbacks:SyncRefModelCallback._sync_target_model")(*models, alpha)
    moved: Tensor = models[1][0].detach()
    return moved


# --------------------------------------------------------------------------------------------------------------- policy


def micro_batch(old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> dict[str, Any]:
    """What a rollout hands to ``_compute_loss``."""
    ids = torch.zeros(mask.shape, dtype=torch.long)
    return {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old_log_probs, "num_items_in_batch": mask.sum(),
    }  # fmt: skip


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, ref: Any = None, kind: str = "GRPO",
    **knobs: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """``_compute_loss`` on one micro-batch that is the whole batch; the clip metrics as it logs them."""
    two = {"per_device_train_batch_size": 2, "num_generations": 2}
    trainer = policy_trainer(kind, Numbers(log_probs, mask), **two, **knobs)
    inputs = micro_batch(old_log_probs, advantages, mask) | {"ref_per_token_logps": ref}
    loss = trainer._compute_loss(trainer.model, inputs)
    metrics = trainer._metrics["train"]
    logged = {k: torch.tensor(metrics[k][-1]) for k in ("clip_ratio/low_mean", "clip_ratio/high_mean") if k in metrics}
    return {"loss": loss, **logged}


@peer("high-entropy tokens (80/20)", "top_entropy_mask", "trl:GRPOTrainer.get_high_entropy_mask", "1 - share",
      "The quantile is that of float32.")  # fmt: skip
def top_entropy_mask(entropies: Tensor, mask: Tensor, share: float) -> Tensor:
    trainer = policy_trainer("GRPO", Numbers(torch.zeros_like(entropies), mask))
    found: Tensor = trainer.get_high_entropy_mask(torch.where(mask, entropies, 0), mask, 1 - share)
    return found


@peer("adaptive entropy bonus (Skywork-OR1)", "adaptive_entropy", GRPO, "use_adaptive_entropy=True",
      "At the target TRL moves up, and the bonus is on.")  # fmt: skip
def adaptive_entropy(
    entropy: Any, coef: float, target: float, delta: float, low: float, high: float
) -> dict[str, Tensor]:
    ones = torch.ones(2, 1, dtype=torch.float64)
    numbers = Numbers(-ones, ones.bool(), entropies=float(entropy) * ones)
    bounds = {"entropy_target": target, "entropy_coef_delta": delta, "entropy_coef_min": low, "entropy_coef_max": high}
    knobs: dict[str, Any] = {"use_adaptive_entropy": True, "entropy_coef": coef, "num_generations": 2}
    trainer = policy_trainer("GRPO", numbers, per_device_train_batch_size=2, **knobs, **bounds)
    trainer._entropy_bonus_enabled, trainer._entropy_window_stats = True, None
    trainer._last_world_entropy = float("inf")
    trainer._compute_loss(trainer.model, micro_batch(-ones, ones[:, 0], ones.bool()))
    after = torch.tensor(trainer.entropy_coef, dtype=torch.float64)
    on = trainer._last_world_entropy <= trainer.args.entropy_target  # as the next micro-batch asks
    return {"coef": after, "bonus": after if on else 0 * after}


@peer("GRPO's loss", "grpo_loss", GRPO, 'loss_type="grpo", use_bias_correction_kl=False')
def grpo_loss(epsilon: float, epsilon_high: float | None, beta: float, ref_log_probs: Any = None, **policy: Any) -> Any:
    knobs: dict[str, Any] = {"loss_type": "grpo", "use_bias_correction_kl": False, "ref": ref_log_probs}
    return policy_loss(**policy, epsilon=epsilon, epsilon_high=epsilon_high, beta=beta, **knobs)


@peer("GRPO's loss", "grpo_loss", GRPO, 'its defaults: loss_type="dapo", use_bias_correction_kl=True')
def grpo_loss_by_default(
    epsilon: float, epsilon_high: float | None, beta: float, ref_log_probs: Any = None, **policy: Any
) -> Any:
    return policy_loss(**policy, ref=ref_log_probs, epsilon=epsilon, epsilon_high=epsilon_high, beta=beta)


@peer("DAPO's loss", "dapo_loss", GRPO, 'loss_type="dapo", its default')
def dapo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Any:
    return policy_loss(**policy, epsilon=epsilon, epsilon_high=epsilon_high, beta=0.0)


@peer("Dr. GRPO's loss", "dr_grpo_loss", GRPO, 'loss_type="dr_grpo", max_completion_length')
def dr_grpo_loss(epsilon: float, epsilon_high: float | None, length: int, **policy: Any) -> Any:
    knobs: dict[str, Any] = {"epsilon": epsilon, "epsilon_high": epsilon_high, "max_completion_length": length}
    return policy_loss(**policy, beta=0.0, loss_type="dr_grpo", **knobs)


@peer("GSPO's loss", "gspo_loss", GRPO, 'importance_sampling_level="sequence", loss_type="grpo"')
def gspo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Any:
    knobs: dict[str, Any] = {"importance_sampling_level": "sequence", "loss_type": "grpo", "beta": 0.0}
    return policy_loss(**policy, epsilon=epsilon, epsilon_high=epsilon_high, **knobs)["loss"]


@peer("CISPO's loss", "cispo_loss", GRPO, 'loss_type="cispo", epsilon_high = 1 + ours')
def cispo_loss(epsilon_high: float | None, cap: float | None, **policy: Any) -> Any:
    high = 1 + epsilon_high if cap is None and epsilon_high is not None else cap
    return policy_loss(**policy, loss_type="cispo", epsilon_high=high)["loss"]


@peer("SAPO's loss", "sapo_loss", GRPO, 'loss_type="sapo"')
def sapo_loss(tau_positive: float, tau_negative: float, **policy: Any) -> Any:
    knobs: dict[str, Any] = {"sapo_temperature_pos": tau_positive, "sapo_temperature_neg": tau_negative}
    return policy_loss(**policy, loss_type="sapo", **knobs)["loss"]


@peer("VESPO's loss", "vespo_loss", GRPO, 'loss_type="vespo"; a token mean, so times tokens / rows')
def vespo_loss(
    k_positive: float, lambda_positive: float, k_negative: float, lambda_negative: float, **policy: Any
) -> Any:
    knobs: dict[str, Any] = {"vespo_k_pos": k_positive, "vespo_lambda_pos": lambda_positive, "vespo_k_neg": k_negative}
    loss = policy_loss(**policy, loss_type="vespo", vespo_lambda_neg=lambda_negative, **knobs)["loss"]
    return loss * policy["mask"].sum().clamp(min=1) / len(policy["mask"])


@peer("GMPO's loss", "gmpo_loss", GMPO, "trl.experimental")
def gmpo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Any:
    return policy_loss(**policy, kind="GMPO", epsilon=epsilon, epsilon_high=epsilon_high, beta=0.0)["loss"]


# ----------------------------------------------------------------------------------------------------------- preference


def dpo(
    *pairs: Tensor, mask: Tensor, log_sum_sq_probs: Callable[[Tensor], Tensor] = torch.zeros_like, **knobs: Any
) -> Tensor:
    """``DPOTrainer._compute_loss`` on token log-probs [N T] and their mask [2N T], chosen rows first.

    ``pairs``: of chosen and rejected completions under the policy, and of both under the reference.
    ``log_sum_sq_probs`` gives log sum_v p_v^2 of each token for WPO; ``knobs`` are DPOConfig's (loss_type is a tuple).
    """
    model = Tables(head_output(torch.cat(pairs[:2]), mask, log_sum_sq_probs))
    reference = Tables(head_output(torch.cat(pairs[2:]), mask, log_sum_sq_probs))
    with default_dtype(pairs[0].dtype):
        trainer = preference_trainer("DPO", model, reference, **knobs)
        found: Tensor = trainer._compute_loss(model, completion_inputs(mask), False)
    return found


def _of_one_token(*pairs: Tensor, loss_type: str, **knobs: Any) -> Tensor:
    """The same on completions of one token, whose log-prob is the completion's."""
    mask = torch.ones(2 * len(pairs[0]), 1, dtype=torch.bool)
    return dpo(*(x[:, None] for x in pairs), mask=mask, loss_type=(loss_type,), **knobs)


LOSS_TYPES = "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard apo_zero apo_down discopop"
enter_pair_losses(peer, DPO, _of_one_token, LOSS_TYPES)


@peer("AOT", "aot_loss", DPO, 'loss_type="aot" (paired) or "aot_unpaired"')
def aot_loss(beta: float, label_smoothing: float, paired: bool, **pairs: Tensor) -> Tensor:
    knobs: dict[str, Any] = {"loss_type": "aot" if paired else "aot_unpaired", "label_smoothing": label_smoothing}
    return _of_one_token(*in_order(pairs), beta=beta, **knobs)


@peer("MPO", "mpo_loss", DPO, 'loss_type=["sigmoid", "bco_pair"] with loss_weights')
def mpo_loss(beta: float, preference_coef: float, quality_coef: float, **pairs: Tensor) -> Tensor:
    types, weights = ("sigmoid", "bco_pair"), (preference_coef, quality_coef)
    mask = torch.ones(2 * len(in_order(pairs)[0]), 1, dtype=torch.bool)
    four = (x[:, None] for x in in_order(pairs))
    return dpo(*four, mask=mask, loss_type=types, loss_weights=weights, beta=beta)


DIVERGENCES = {
    "js": "js_divergence",
    "forward-kl": "forward_kl",
    "reverse-kl": "reverse_kl",
    "alpha": "alpha_divergence",
}


@peer("f-DPO", "f_dpo_loss", DPO, "f_divergence_type; f_alpha_divergence_coef is 1 - alpha")
def f_dpo_loss(beta: float, divergence: str, alpha: float | None, **pairs: Tensor) -> Tensor:
    """The power of the alpha-divergence is float32 in TRL, and a float64 input an error: inside it is float64 here."""
    knobs = {} if alpha is None else {"f_alpha_divergence_coef": 1 - alpha}
    in_float64 = in_order(pairs)[0].dtype == torch.float64
    with float32_is_float64("trl.trainer.dpo_trainer") if in_float64 else nullcontext():
        return _of_one_token(
            *in_order(pairs), loss_type="sigmoid", beta=beta, f_divergence_type=DIVERGENCES[divergence], **knobs
        )


@peer("AlphaPO", "alphapo_loss", CPO, 'loss_type="alphapo"')
def alphapo_loss(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, beta: float, gamma: float, alpha: float
) -> Tensor:
    knobs: dict[str, Any] = {"loss_type": "alphapo", "beta": beta, "simpo_gamma": gamma, "alpha": alpha}
    trainer = preference_trainer("CPO", Tables(SimpleNamespace(logits=chosen_log_probs)), **knobs)
    losses: Tensor = trainer.cpo_loss(chosen_log_probs, rejected_log_probs)[0]
    return losses.mean()


@peer("reward model (Bradley-Terry)", "bradley_terry_loss", REWARD, "center_rewards_coefficient")
def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, centre: float, margin: Any = None) -> Tensor:
    model = Tables(SimpleNamespace(logits=torch.cat([chosen_rewards, rejected_rewards])[:, None]))
    ids = torch.zeros(2 * len(chosen_rewards), 1, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids + 1} | ({} if margin is None else {"margin": margin})
    with default_dtype(chosen_rewards.dtype):
        trainer = preference_trainer("Reward", model, center_rewards_coefficient=centre or None)
        found: Tensor = trainer.compute_loss(model, inputs)
    return found


# --------------------------------------------------------------------------------------------------------- distillation

GKD = "trl.experimental.gkd.gkd_trainer:GKDTrainer.generalized_jsd_loss"
TOP_K = "trl.experimental.sdpo.loss_utils:compute_topk_self_distillation_loss"


@peer("generalised JSD", "jsd_exact", GKD, 'reduction="none", summed over the vocabulary; the teacher detached')
def jsd_exact(logits: Tensor, teacher_logits: Tensor, beta: float, temperature: float) -> Tensor:
    knobs: dict[str, Any] = {"beta": float(beta), "temperature": temperature, "reduction": "none"}
    return theirs(GKD)(logits, teacher_logits.detach(), **knobs).sum(-1)


def top_k(add_tail: bool) -> Callable[..., Tensor]:
    """The divergence of SDPO and SDFT on the policy's k likeliest tokens, with the rest as one more or rescaled."""

    def jsd_top_k(logits: Tensor, teacher_logits: Tensor, k: int, beta: float, temperature: float) -> Tensor:
        both = (logits / temperature, teacher_logits.detach() / temperature)
        knobs: dict[str, Any] = {"distillation_topk": k, "distillation_alpha": float(beta)}
        found: Tensor = theirs(TOP_K)(*both, **knobs, distillation_add_tail=add_tail)
        return found

    return jsd_top_k


for _tail in (True, False):
    _using = f"distillation_add_tail={_tail}; the teacher detached"
    peer("JSD of the policy's top k", "jsd_top_k", TOP_K, _using)(top_k(_tail))
