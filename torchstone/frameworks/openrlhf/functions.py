"""OpenRLHF: its losses, its estimators and its experience maker's functions, by our names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from torchstone.frameworks.arguments import in_order, per_token
from torchstone.frameworks.openrlhf.load import (
    CONTROL,
    LENGTH,
    LOSS,
    MAKER,
    UTILS,
    arguments,
    experience,
    load,
    maker,
    module,
)
from torchstone.frameworks.registry import Framework

FRAMEWORK = Framework("OpenRLHF", "openrlhf", "openrlhf", "https://github.com/OpenRLHF/OpenRLHF", prepare=load)
peer = FRAMEWORK.peer


# ------------------------------------------------------------------------------------------------ log-probs, reductions


@peer("token log-probs", "token_log_probs", f"{UTILS}:log_probs_from_logits", "without flash-attn")
def token_log_probs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return module(UTILS).log_probs_from_logits(logits, targets, temperature)


@peer("entropy", "token_entropies", f"{UTILS}:compute_entropy", "not compiled")
def token_entropies(logits: Tensor) -> Tensor:
    entropy = module(UTILS).compute_entropy
    return getattr(entropy, "_torchdynamo_orig_callable", entropy)(logits)


@peer("mean over tokens", "token_mean", f"{UTILS}:masked_mean")
def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return module(UTILS).masked_mean(x, mask)


@peer("mean over tokens", "token_mean", f"{LOSS}:aggregate_loss", "token_level_loss=True")
def token_mean(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return module(LOSS).aggregate_loss(x, mask, True, batch_num_tokens=denominator)


@peer("mean of row means", "sequence_mean", f"{LOSS}:aggregate_loss", "token_level_loss=False")
def sequence_mean(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return module(LOSS).aggregate_loss(x, mask, False, global_batch_size=denominator)


# ------------------------------------------------------------------------------------------------------------------- KL


def kl(name: str) -> Any:
    """``compute_approx_kl`` with the estimator of this name: "k1", "k2" or "k3"."""

    def estimate(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        return module(UTILS).compute_approx_kl(log_probs, ref_log_probs, kl_estimator=name)

    return estimate


for _name in ("k1", "k2", "k3"):
    peer(f"KL, {_name}", f"kl_{_name}", f"{UTILS}:compute_approx_kl", f'kl_estimator="{_name}"')(kl(_name))


@peer("KL, k3 with its unbiased gradient", "kl_k3_with_k2_gradient", f"{UTILS}:compute_approx_kl",
      'kl_estimator="k3", unbiased_gradient=True, on policy',
      "The value is held within [-10, 10], as k3 is; the gradient of k2 is not.")  # fmt: skip
def k3_with_unbiased_gradient(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    return module(UTILS).compute_approx_kl(log_probs, ref_log_probs, kl_estimator="k3", unbiased_gradient=True)


@peer("adaptive KL weight", "adaptive_kl", f"{CONTROL}:AdaptiveKLController", "n_steps / horizon = 0.1")
def adaptive_kl(kl: Any, beta: float, target: float) -> float:
    controller = module(CONTROL).AdaptiveKLController(beta, target, 10)
    controller.update(float(kl), 1)
    return float(controller.value)


@peer("KL in the reward", "shaped_rewards", f"{UTILS}:compute_reward", "with kl = log_probs - ref_log_probs")
def shaped_rewards(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    return module(UTILS).compute_reward(scores, beta, log_probs - ref_log_probs, mask)


# ----------------------------------------------------------------------------------------------------------- advantages


@peer("GAE", "gae", f"{MAKER}:RemoteExperienceMaker.get_advantages_and_returns", "before its whitening")
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> dict[str, Tensor]:
    found = maker().get_advantages_and_returns(values, rewards, mask, gamma, lam)
    return {"advantages": found[0], "returns": found[1]}


@peer("discounted returns", "discounted_returns", f"{MAKER}:RemoteExperienceMaker.get_cumulative_returns")
def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    return maker().get_cumulative_returns(rewards, mask, gamma)


ONE_PROCESS = SimpleNamespace(put=lambda x: x, get=lambda x: x)  # in place of ray


def advantages(
    rewards: Tensor, mask: Tensor, log_probs: Tensor, estimator: str, *, ref: Tensor | None = None,
    values: Tensor | None = None, advantage: dict[str, Any] | None = None, kl: dict[str, Any] | None = None,
    reward: dict[str, Any] | None = None, max_new_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``make_experience`` and ``compute_advantages_and_returns``: advantages and returns [B T], not masked.

    Args:
        rewards: [P G], one a completion
        mask: [B T] the tokens that the policy chose
        log_probs: [B T] of the policy that sampled
        estimator: gae, reinforce, reinforce_baseline, rloo, group_norm, dr_grpo, flash_reinforce
        ref: [B T] log-probs of the reference: the KL is in the reward. Without them there is none
        values: [B T] of the critic, for gae
        advantage: --algo.advantage.*: gamma, lambd (1), no_std_norm (False)
        kl: --algo.kl.*: init_coef (0.01), estimator ("k1"), use_loss (False)
        reward: --reward.*: clip_range, overlong_buffer_len, overlong_penalty_factor; all off
        max_new_tokens: --rollout.max_new_tokens
    """
    kl = {"use_loss": False, "estimator": "k1", "init_coef": 0.01, **(kl or {})}
    advantage = {"estimator": estimator, "gamma": 1.0, "lambd": 1.0, "no_std_norm": False, **(advantage or {})}
    off = {"clip_range": None, "overlong_buffer_len": None, "overlong_penalty_factor": 1.0}
    args = arguments(
        algo={"advantage": advantage, "kl": kl},
        reward={**off, "stop_properly_penalty_coef": None, **(reward or {})},
        rollout={"n_samples_per_prompt": rewards.shape[1], "max_new_tokens": max_new_tokens},
    )
    kl_coef = 0.0 if ref is None else kl["init_coef"]
    made = maker(log_probs, values, None, ref, kl_coef=kl_coef, args=args)
    sample = experience(mask, rewards=rewards.flatten().clone(), response_length=mask.sum(-1))
    with patch.object(module(MAKER), "ray", ONE_PROCESS):
        (done,) = made.compute_advantages_and_returns(made.make_experience([sample]))
    return done.advantages, done.returns


def _of_one_token(rewards: Tensor, estimator: str) -> Tensor:
    zeros = torch.zeros(rewards.numel(), 1, dtype=rewards.dtype)
    return advantages(rewards, torch.ones_like(zeros, dtype=torch.bool), zeros, estimator)[0]


COMPUTE = f"{MAKER}:RemoteExperienceMaker.compute_advantages_and_returns"


@peer("group advantages (GRPO, Dr. GRPO)", "group_advantages", COMPUTE, 'estimator="group_norm" or "dr_grpo"',
      "Eight equal rewards of 0.1 get -0.83 each in float32, and -7.5 where there are two groups: the mean's rounding "
      "error over an epsilon of 1e-9, and over a deviation of that size or 0. "
      "Its command line refuses groups of one.")  # fmt: skip
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    return _of_one_token(rewards, "group_norm" if divide_by_std else "dr_grpo")


@peer(
    "leave-one-out advantages (RLOO)",
    "leave_one_out_advantages",
    COMPUTE,
    'estimator="rloo"',
    "Its command line refuses groups of one.",
)
def rloo(rewards: Tensor) -> Tensor:
    return _of_one_token(rewards, "rloo")


@peer("overlong penalty (DAPO)", "overlong_penalties", f"{LENGTH}:apply_overlong_penalty")
def overlong_penalties(lengths: Tensor, max_length: int, cache: int) -> Tensor:
    rewards = torch.zeros(lengths.numel(), dtype=torch.float64)
    experience = SimpleNamespace(response_length=lengths.reshape(-1), rewards=rewards)
    module(LENGTH).apply_overlong_penalty([experience], max_length, cache)
    return rewards.reshape(lengths.shape)


# --------------------------------------------------------------------------------------------------------------- losses


def _policy(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, **knobs: Any) -> Tensor:
    loss = module(LOSS).PolicyLoss(**knobs)
    found: Tensor = loss(log_probs, old_log_probs, per_token(advantages, log_probs), mask)[0]
    return found


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"clip_eps_low": epsilon, "clip_eps_high": epsilon if epsilon_high is None else epsilon_high}


@peer("clipped policy loss (PPO)", "ppo_loss", f"{LOSS}:PolicyLoss.forward", "token_level_loss=True, its default")
def ppo_loss(epsilon: float, epsilon_high: float | None, dual_clip: float | None = None, **policy: Any) -> Tensor:
    return _policy(**policy, dual_clip=dual_clip, **_clip(epsilon, epsilon_high))


@peer("GRPO's loss", "grpo_loss", f"{LOSS}:PolicyLoss.forward", "token_level_loss=False, beta 0")
def grpo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _policy(**policy, token_level_loss=False, **_clip(epsilon, epsilon_high))


@peer("DAPO's loss", "dapo_loss", f"{LOSS}:PolicyLoss.forward", "token_level_loss=True, its default")
def dapo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _policy(**policy, **_clip(epsilon, epsilon_high))


@peer("GSPO's loss", "gspo_loss", f"{LOSS}:PolicyLoss.forward", 'policy_loss_type="gspo"')
def gspo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _policy(**policy, policy_loss_type="gspo", **_clip(epsilon, epsilon_high))


@peer("clipped value loss", "clipped_value_error", f"{LOSS}:ValueLoss.forward")
def clipped_value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, epsilon: float | None
) -> Tensor:
    return module(LOSS).ValueLoss(epsilon)(values, old_values, returns, mask)


@peer("SFT loss", "sft_loss", f"{LOSS}:SFTLoss.forward", "token_level_loss=True, its default")
def sft_loss(log_probs: Tensor, mask: Tensor) -> Tensor:
    return module(LOSS).SFTLoss()(log_probs, mask)


@peer("reward model (Bradley-Terry)", "bradley_terry_loss", f"{LOSS}:PairWiseLoss.forward")
def pairwise(chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Any = None) -> Tensor:
    return module(LOSS).PairWiseLoss()(chosen_rewards, rejected_rewards, margin)


@peer("reward model, LogExp", "bradley_terry_loss", f"{LOSS}:LogExpLoss.forward")
def log_exp(chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Any = None) -> Tensor:
    return module(LOSS).LogExpLoss()(chosen_rewards, rejected_rewards, margin)


@peer("DPO's loss", "dpo_loss", f"{LOSS}:DPOLoss.forward")
def dpo_loss(beta: float, label_smoothing: float, **pairs: Tensor) -> Any:
    loss, chosen, rejected = module(LOSS).DPOLoss(beta, label_smoothing)(*in_order(pairs))
    return {"loss": loss, "rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean()}
