"""verl: its plain functions, called as its trainer does, by our names."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.arguments import per_token, prompts
from torchstone.frameworks.registry import Framework
from torchstone.frameworks.verl.load import CORE, TORCH, core, load

FRAMEWORK = Framework("verl", "verl", "verl", "https://github.com/verl-project/verl", prepare=load)
peer = FRAMEWORK.peer


def _tools() -> Any:
    return importlib.import_module(TORCH)


# ------------------------------------------------------------------------------------------------ log-probs, reductions


@peer("token log-probs", "token_log_probs", f"{TORCH}:logprobs_from_logits_v2")
def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return _tools().logprobs_from_logits_v2(logits, targets)


@peer("entropy", "token_entropies", f"{TORCH}:entropy_from_logits")
def token_entropies(logits: Tensor) -> Tensor:
    return _tools().entropy_from_logits(logits)


@peer("mean over tokens", "token_mean", f"{TORCH}:masked_mean")
def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return _tools().masked_mean(x, mask)


@peer("mean over tokens", "token_mean", f"{CORE}:agg_loss", 'loss_agg_mode="token-mean"')
def token_mean(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return core().agg_loss(x, mask, "token-mean", batch_num_tokens=denominator)


@peer("mean of row means", "sequence_mean", f"{CORE}:agg_loss", 'loss_agg_mode="seq-mean-token-mean"')
def sequence_mean(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return core().agg_loss(x, mask, "seq-mean-token-mean", global_batch_size=denominator)


@peer("mean of row sums", "sequence_sum", f"{CORE}:agg_loss", 'loss_agg_mode="seq-mean-token-sum"')
def sequence_sum(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return core().agg_loss(x, mask, "seq-mean-token-sum", global_batch_size=denominator)


@peer("fixed-length mean (Dr. GRPO)", "fixed_length_mean", f"{CORE}:agg_loss",
      'loss_agg_mode="seq-mean-token-sum-norm", loss_scale_factor')  # fmt: skip
def fixed_length_mean(x: Tensor, mask: Tensor, length: int, denominator: Any = None) -> Tensor:
    mode = "seq-mean-token-sum-norm"
    return core().agg_loss(x, mask, mode, global_batch_size=denominator, loss_scale_factor=length)


@peer("masked whitening", "masked_whiten", f"{TORCH}:masked_whiten", "0 is put under the mask")
def masked_whiten(x: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
    return _tools().masked_whiten(x, mask, shift_mean=not keep_mean).where(mask, 0.0)


# ------------------------------------------------------------------------------------------------------------------- KL


def kl(name: str) -> Any:
    """``kl_penalty`` of this name: "k1", "k2", "k3", "k3+", ..."""

    def estimate(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        return core().kl_penalty(log_probs, ref_log_probs, name)

    return estimate


for _ours, _theirs in (("kl_k1", "k1"), ("kl_k2", "k2"), ("kl_k3", "k3"), ("kl_k3_with_k2_gradient", "k3+")):
    _remark = "The value is held within [-10, 10], as k3 is; the gradient of k2 is not." if _theirs == "k3+" else ""
    peer(f"KL, {_theirs}", _ours, f"{CORE}:kl_penalty", f'kl_penalty="{_theirs}"', _remark)(kl(_theirs))


@peer("adaptive KL weight", "adaptive_kl", f"{CORE}:AdaptiveKLController", "n_steps / horizon = 0.1")
def adaptive_kl(kl: Any, beta: float, target: float) -> float:
    controller = core().AdaptiveKLController(beta, target, horizon=10)
    controller.update(float(kl), n_steps=1)
    return float(controller.value)


# ----------------------------------------------------------------------------------------------------------- advantages


@peer("group advantages (GRPO)", "group_advantages", f"{CORE}:compute_grpo_outcome_advantage",
      "epsilon=1e-6, its default",
      "Eight equal rewards of 0.1 get -0.0074 each in float32: the mean's rounding error over epsilon. A group of one "
      "keeps its raw reward.")  # fmt: skip
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    given = prompts(rewards)
    return core().compute_grpo_outcome_advantage(*given, norm_adv_by_std_in_grpo=divide_by_std)[0]


@peer("leave-one-out advantages (RLOO)", "leave_one_out_advantages", f"{CORE}:compute_rloo_outcome_advantage")
def rloo(rewards: Tensor) -> Tensor:
    return core().compute_rloo_outcome_advantage(*prompts(rewards))[0]


@peer("leave-one-out, vectorised", "leave_one_out_advantages", f"{CORE}:compute_rloo_vectorized_outcome_advantage")
def rloo_vectorized(rewards: Tensor) -> Tensor:
    return core().compute_rloo_vectorized_outcome_advantage(*prompts(rewards))[0]


@peer("length-weighted advantages (OPO)", "length_weighted_advantages", f"{CORE}:compute_opo_outcome_advantage", "",
      "A completion without a token has no place for an advantage.")  # fmt: skip
def opo(rewards: Tensor, lengths: Tensor) -> Tensor:
    _, _, index = prompts(rewards)
    steps = torch.arange(int(lengths.max()), dtype=rewards.dtype)
    mask = (steps < lengths.reshape(-1, 1)).to(rewards.dtype)
    scores = torch.zeros_like(mask)
    scores[:, 0] = rewards.reshape(-1)
    return core().compute_opo_outcome_advantage(scores, mask, index)[0][:, 0]


@peer("GPG advantages", "gpg_advantages", f"{CORE}:compute_gpg_outcome_advantage")
def gpg_advantages(rewards: Tensor) -> Tensor:
    return core().compute_gpg_outcome_advantage(*prompts(rewards))[0]


@peer("greedy baseline (ReMax)", "greedy_advantages", f"{CORE}:compute_remax_outcome_advantage")
def remax(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    scores, mask, _ = prompts(rewards)
    baselines = greedy_rewards.repeat_interleave(rewards.shape[1])
    return core().compute_remax_outcome_advantage(scores, baselines, mask)[0]


@peer("GAE", "gae", f"{CORE}:compute_gae_advantage_return", "returns - values: the advantages come out whitened")
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> dict[str, Tensor]:
    _, returns = core().compute_gae_advantage_return(rewards, values, mask.to(values.dtype), gamma, lam)
    return {"advantages": returns - values, "returns": returns}


@peer("returns of REINFORCE++", "discounted_returns", f"{CORE}:compute_reinforce_plus_plus_outcome_advantage")
def reinforce_plus_plus(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    config = SimpleNamespace(gamma=gamma)
    return core().compute_reinforce_plus_plus_outcome_advantage(rewards, mask.to(rewards.dtype), config)[1]


# --------------------------------------------------------------------------------------------------------------- losses


def config(policy: dict[str, Any] | None = None, **knobs: Any) -> Any:
    """A real ActorConfig with these settings, ``policy`` being those of its PolicyLossConfig."""
    of = importlib.import_module("verl.workers.config")
    return of.ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=of.PolicyLossConfig(**(policy or {})),
        **knobs,
    )  # fmt: skip


def _loss(
    name: str, mode: str, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, **knobs: Any
) -> Tensor:
    marks = mask.to(log_probs.dtype)
    loss = core().get_policy_loss_fn(name)
    found: Tensor = loss(old_log_probs, log_probs, per_token(advantages, log_probs), marks, mode, config(**knobs))[0]
    return found


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    high = epsilon if epsilon_high is None else epsilon_high
    return {"clip_ratio": epsilon, "clip_ratio_low": epsilon, "clip_ratio_high": high}


def _ppo(default: float) -> Any:
    def ppo_loss(
        epsilon: float, epsilon_high: float | None, loss_agg_mode: str, dual_clip: float | None = None, **policy: Any
    ) -> Tensor:
        bound = default if dual_clip is None else dual_clip
        return _loss("vanilla", loss_agg_mode, **policy, clip_ratio_c=bound, **_clip(epsilon, epsilon_high))

    return ppo_loss


VANILLA = f"{CORE}:compute_policy_loss_vanilla"
peer("clipped policy loss (PPO)", "ppo_loss", VANILLA, "clip_ratio_c=3.0, its default")(_ppo(3.0))
peer("clipped policy loss (PPO)", "ppo_loss", VANILLA, "clip_ratio_c=1e9: no dual clip")(_ppo(1e9))


@peer("DAPO's loss", "dapo_loss", f"{CORE}:compute_policy_loss_vanilla",
      'loss_agg_mode="token-mean", clip_ratio_high, clip_ratio_c=3.0, its default')  # fmt: skip
def dapo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _loss("vanilla", "token-mean", **policy, **_clip(epsilon, epsilon_high))


@peer(
    "GSPO's loss", "gspo_loss", f"{CORE}:compute_policy_loss_gspo", 'loss_agg_mode="seq-mean-token-mean", its default'
)
def gspo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _loss("gspo", "seq-mean-token-mean", **policy, **_clip(epsilon, epsilon_high))


@peer("CISPO's loss", "cispo_loss", f"{CORE}:compute_policy_loss_cispo", "clip_ratio_low=1.0 where there is none")
def cispo_loss(
    epsilon: float | None, epsilon_high: float | None, cap: float | None, loss_agg_mode: str, **policy: Any
) -> Tensor:
    high = cap - 1 if cap is not None else epsilon_high
    return _loss("cispo", loss_agg_mode, **policy, **_clip(1.0 if epsilon is None else epsilon, high))


@peer(
    "SAPO's loss", "sapo_loss", f"{CORE}:compute_policy_loss_sapo", 'loss_agg_mode="seq-mean-token-mean", its default'
)
def sapo_loss(tau_positive: float, tau_negative: float, **policy: Any) -> Tensor:
    return _loss("sapo", "seq-mean-token-mean", **policy, tau_pos=tau_positive, tau_neg=tau_negative)


@peer("GMPO's loss", "gmpo_loss", f"{CORE}:compute_policy_loss_geo_mean")
def gmpo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _loss("geo_mean", "seq-mean-token-mean", **policy, **_clip(epsilon, epsilon_high))


@peer("DPPO's loss", "dppo_loss", f"{CORE}:compute_policy_loss_dppo_tv",
      'loss_mode="dppo_tv" and "dppo_kl", loss_agg_mode="seq-mean-token-sum"',
      "The one case on the clip has a log-prob above 0: a fault of that case.")  # fmt: skip
def dppo_loss(divergence: str, epsilon: float, epsilon_high: float | None, cap: float, **policy: Any) -> Tensor:
    clip = _clip(epsilon, epsilon_high)
    return _loss(f"dppo_{divergence}", "seq-mean-token-sum", **policy, clip_ratio_c=cap, **clip)


@peer("-A log pi (GPG's loss)", "reinforce_loss", f"{CORE}:compute_policy_loss_gpg")
def gpg_loss(log_probs: Tensor, returns: Tensor, mask: Tensor, loss_agg_mode: str) -> Tensor:
    return _loss("gpg", loss_agg_mode, log_probs, log_probs.detach(), returns, mask)


@peer("clipped value loss", "clipped_value_error", f"{CORE}:compute_value_loss",
      'loss_agg_mode="token-mean", its default',
      "A value exactly on the bound gets half the gradient of its clip: torch.max and torch.min share "
      "a tie.")  # fmt: skip
def clipped_value_error(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    return core().compute_value_loss(values, returns, old_values, mask, epsilon)[0]
