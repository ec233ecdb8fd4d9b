"""SkyRL: the functions of its PPO utilities, by our names."""

from __future__ import annotations

import importlib
import math
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.arguments import per_token, prompts
from torchstone.frameworks.registry import Framework
from torchstone.frameworks.skyrl.load import CORE, CORRECTION, TORCH, core, load, trainer


def prepare() -> None:
    """Import what is called here; the trainer's module brings one function with it, and wants more packages."""
    load()
    with suppress(ImportError):
        trainer()


FRAMEWORK = Framework("SkyRL", "skyrl", "skyrl", "https://github.com/NovaSky-AI/SkyRL", "skyrl-v{}", prepare=prepare)
peer = FRAMEWORK.peer


@peer("token log-probs", "token_log_probs", f"{TORCH}:logprobs_from_logits_v2")
def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return importlib.import_module(TORCH).logprobs_from_logits_v2(logits, targets)


@peer("entropy", "token_entropies", f"{TORCH}:chunked_entropy_from_logits", "requires_grad=True")
def token_entropies(logits: Tensor) -> Tensor:
    return importlib.import_module(TORCH).chunked_entropy_from_logits(logits, requires_grad=True)


@peer("mean over tokens", "token_mean", f"{TORCH}:masked_mean")
def token_mean(x: Tensor, mask: Tensor) -> Tensor:
    return importlib.import_module(TORCH).masked_mean(x, mask)


DIVIDED = f"{CORE}:apply_loss_reduction_to_advantages_minibatch"


def _mean(x: Tensor, mask: Tensor, reduction: str, length: int = 1, bounds: Any = None) -> Tensor:
    """SkyRL's sum of what it has divided before."""
    marks, divide = mask.to(x.dtype), core().apply_loss_reduction_to_advantages_minibatch
    return core().reduce_loss(divide(x, marks, reduction, len(mask), length, bounds), marks)


@peer("mean over tokens", "token_mean", DIVIDED, 'loss_reduction="token_mean", its default')
def sum_of_token_mean(x: Tensor, mask: Tensor) -> Tensor:
    return _mean(x, mask, "token_mean")


@peer("mean of row means", "sequence_mean", DIVIDED, 'loss_reduction="sequence_mean"')
def sequence_mean(x: Tensor, mask: Tensor) -> Tensor:
    return _mean(x, mask, "sequence_mean")


@peer("fixed-length mean (Dr. GRPO)", "fixed_length_mean", DIVIDED, 'loss_reduction="seq_mean_token_sum_norm"')
def fixed_length_mean(x: Tensor, mask: Tensor, length: int) -> Tensor:
    return _mean(x, mask, "seq_mean_token_sum_norm", length)


@peer("mean over each prompt's tokens, then over prompts", "group_token_mean", DIVIDED, 'loss_reduction="prompt_mean"')
def group_token_mean(x: Tensor, mask: Tensor, group_size: int) -> Tensor:
    bounds = [(start, start + group_size) for start in range(0, len(mask), group_size)]
    return _mean(x, mask, "prompt_mean", bounds=bounds)


@peer("masked whitening", "masked_whiten", f"{CORE}:masked_whiten", "0 is put under the mask")
def masked_whiten(x: Tensor, mask: Tensor, keep_mean: bool) -> Tensor:
    return core().masked_whiten(x, mask, shift_mean=not keep_mean).where(mask, 0.0)


def _kl(name: str) -> Any:
    def kl(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return core().compute_approx_kl(log_probs, ref_log_probs, mask.to(log_probs.dtype), name)

    return kl


for _name in ("k1", "k2", "k3"):
    peer(f"KL, {_name}", f"kl_{_name}", f"{CORE}:compute_approx_kl", f'kl_estimator_type="{_name}"')(_kl(_name))


@peer("adaptive KL weight", "adaptive_kl", f"{CORE}:AdaptiveKLController", "n_steps / horizon = 0.1")
def adaptive_kl(kl: Any, beta: float, target: float) -> float:
    controller = core().AdaptiveKLController(beta, target, horizon=10)
    controller.update(float(kl), n_steps=1)
    return float(controller.value)


@peer("groups with a signal (DAPO)", "mixed_groups", "skyrl.train.utils.trainer_utils:zero_variance_filter",
      "tol=1e-6, its default")  # fmt: skip
def mixed_groups(rewards: Tensor) -> Tensor:
    keep = importlib.import_module("skyrl.train.utils.trainer_utils").zero_variance_filter
    G = rewards.shape[1]
    kept = keep(rewards.flatten().tolist(), [str(row // G) for row in range(rewards.numel())], tol=1e-6)
    return torch.tensor([p * G in kept for p in range(len(rewards))])


@peer("group advantages (GRPO)", "group_advantages", f"{CORE}:compute_grpo_outcome_advantage",
      "epsilon=1e-6, its default",
      "Eight equal rewards of 0.1 get -0.0074 each in float32: the mean's rounding error over epsilon.")  # fmt: skip
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    given = prompts(rewards)
    return core().compute_grpo_outcome_advantage(*given, grpo_norm_by_std=divide_by_std)[0]


@peer("leave-one-out advantages (RLOO)", "leave_one_out_advantages", f"{CORE}:compute_rloo_outcome_advantage")
def rloo(rewards: Tensor) -> Tensor:
    return core().compute_rloo_outcome_advantage(*prompts(rewards))[0]


@peer(
    "MaxRL advantages",
    "max_likelihood_advantages",
    f"{CORE}:compute_maxrl_advantage",
    "epsilon=1e-6, its default",
)
def max_likelihood_advantages(rewards: Tensor) -> Tensor:
    return core().compute_maxrl_advantage(*prompts(rewards))[0]


def _span(mask: Tensor) -> tuple[list[int], Tensor]:
    """How far each row moves to be aligned right, as SkyRL lays them out; and its mask, from first to last token.

    SkyRL's response_mask marks padding only: tool output is in another mask, loss_mask.
    """
    steps = torch.arange(mask.shape[1])
    ends = [int(steps[row].max()) + 1 if row.any() else 0 for row in mask]
    return [mask.shape[1] - n for n in ends], torch.stack([steps >= mask.shape[1] - n for n in ends])


def _moved(x: Tensor, shifts: list[int]) -> Tensor:
    return torch.stack([row.roll(n) for row, n in zip(x, shifts, strict=True)])


ALIGNED = "rows aligned right, as it lays them out; response_mask from the first to the last token"
COUNTED = "Tool output counts as steps, with the values and rewards that stand there."


@peer("GAE", "gae", f"{CORE}:compute_gae_advantage_return",
      f"returns - values: the advantages come out whitened; {ALIGNED}", COUNTED)  # fmt: skip
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> dict[str, Tensor]:
    shifts, span = _span(mask)
    given = (_moved(x, shifts) for x in (rewards, values))
    _, returns = core().compute_gae_advantage_return(*given, span.to(values.dtype), gamma, lam)
    back = _moved(returns, [-n for n in shifts]).where(mask, 0.0)
    return {"advantages": (back - values).where(mask, 0.0), "returns": back}


@peer("returns of REINFORCE++", "discounted_returns", f"{CORE}:compute_reinforce_plus_plus_outcome_advantage",
      ALIGNED, COUNTED)  # fmt: skip
def reinforce_plus_plus(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    shifts, span = _span(mask)
    estimate = core().compute_reinforce_plus_plus_outcome_advantage
    returns = estimate(_moved(rewards, shifts), span.to(rewards.dtype), gamma)[1]
    return _moved(returns, [-n for n in shifts]).where(mask, 0.0)


OFF = SimpleNamespace(
    tis_ratio_type=None, sequence_mask_metric=None, outlier_token_is_threshold_low=None,
    outlier_token_is_threshold_high=None, token_mask_is_threshold_low=None, token_mask_is_threshold_high=None,
)  # fmt: skip


def _loss(
    name: str, reduction: str, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor,
    length: int = 1, **knobs: Any,
) -> Tensor:  # fmt: skip
    """The loss after its trainer's reduction, which SkyRL puts into the advantages."""
    marks, given = mask.to(log_probs.dtype), per_token(advantages, log_probs)
    reduced = core().apply_loss_reduction_to_advantages_minibatch(given, marks, reduction, len(mask), length)
    config = SimpleNamespace(loss_reduction=reduction, off_policy_correction=OFF, **knobs)
    found: Tensor = getattr(core(), name)(log_probs, old_log_probs, reduced, config, marks)[0]
    return found


def _ppo(reduction: str, epsilon: float, epsilon_high: float | None, kind: str = "regular", **knobs: Any) -> Tensor:
    return _loss("ppo_policy_loss", reduction, policy_loss_type=kind, **_clip(epsilon, epsilon_high), **knobs)


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"eps_clip_low": epsilon, "eps_clip_high": epsilon if epsilon_high is None else epsilon_high}


@peer("clipped policy loss (PPO)", "ppo_loss", f"{CORE}:ppo_policy_loss", 'loss_reduction="token_mean", its default')
def ppo_loss(epsilon: float, epsilon_high: float | None, dual_clip: float | None = None, **policy: Any) -> Tensor:
    kind = "regular" if dual_clip is None else "dual_clip"
    return _ppo("token_mean", epsilon, epsilon_high, kind, clip_ratio_c=dual_clip, **policy)


@peer("GRPO's loss", "grpo_loss", f"{CORE}:ppo_policy_loss", 'loss_reduction="sequence_mean", beta 0')
def grpo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _ppo("sequence_mean", epsilon, epsilon_high, **policy)


@peer("Dr. GRPO's loss", "dr_grpo_loss", f"{CORE}:ppo_policy_loss", 'loss_reduction="seq_mean_token_sum_norm"')
def dr_grpo_loss(epsilon: float, epsilon_high: float | None, length: int, **policy: Any) -> Tensor:
    return _ppo("seq_mean_token_sum_norm", epsilon, epsilon_high, length=length, **policy)


@peer("GSPO's loss", "gspo_loss", f"{CORE}:gspo_policy_loss", 'loss_reduction="sequence_mean"')
def gspo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _loss("gspo_policy_loss", "sequence_mean", **policy, **_clip(epsilon, epsilon_high))


@peer("CISPO's loss", "cispo_loss", f"{CORE}:compute_policy_loss_cispo",
      "token_mean; cispo_eps_clip_low=1.0 where there is none")  # fmt: skip
def cispo_loss(epsilon: float | None, epsilon_high: float | None, cap: float | None, **policy: Any) -> Tensor:
    high = cap - 1 if cap is not None else epsilon_high
    clip = SimpleNamespace(cispo_eps_clip_low=1.0 if epsilon is None else epsilon, cispo_eps_clip_high=high)
    return _loss("compute_policy_loss_cispo", "token_mean", **policy, cispo=clip)


@peer("SAPO's loss", "sapo_loss", f"{CORE}:sapo_policy_loss", 'loss_reduction="sequence_mean"')
def sapo_loss(tau_positive: float, tau_negative: float, **policy: Any) -> Tensor:
    sapo = SimpleNamespace(tau_pos=tau_positive, tau_neg=tau_negative)
    return _loss("sapo_policy_loss", "sequence_mean", **policy, sapo=sapo)


@peer("DPPO's loss", "dppo_loss", f"{CORE}:dppo_policy_loss",
      'dppo_type="binary_tv" or "binary_kl", loss_reduction="seq_mean_token_sum_norm" with max_seq_len=1',
      "It has no cap. The value is -A rho, of the same gradient.")  # fmt: skip
def dppo_loss(divergence: str, epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    high = epsilon if epsilon_high is None else epsilon_high
    of = SimpleNamespace(dppo_type=f"binary_{divergence}", delta_low=epsilon, delta_high=high)
    return _loss("dppo_policy_loss", "seq_mean_token_sum_norm", **policy, dppo=of)


CAPS = ("token_tis_ratio_clip_high", "sequence_tis_ratio_clip_high")
METRICS = {"sequence": "product", "sequence-mean": "geometric"}


@peer("truncated weights for the engine's samples (TIS)", "importance_weights", f"{CORRECTION}:compute_tis_ratio",
      "level: tis_ratio_type")  # fmt: skip
def truncated_weights(
    old_log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor, level: str, high: float
) -> Tensor:
    if level not in ("token", "sequence"):
        raise ValueError(f"level: SkyRL truncates the weight of a token or a sequence, got {level}")
    marks, caps = mask.to(old_log_probs.dtype), SimpleNamespace(**dict.fromkeys(CAPS, high))
    ratio = importlib.import_module(CORRECTION).compute_tis_ratio
    return ratio(old_log_probs, sampler_log_probs, marks, level, caps)[0].expand(mask.shape).where(mask, 0.0)


@peer("masks for the engine's samples", "importance_weights", f"{CORRECTION}:compute_off_policy_correction",
      "gate: sequence_mask_metric, or token_mask_is_threshold_*; level: tis_ratio_type",
      "Beside a mask of tokens the weight of a sequence is the product of those that are kept.")  # fmt: skip
def masked_weights(
    old_log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor, level: str, gate: str | None,
    low: float | None, high: float, kept_max: float | None,
) -> Tensor:  # fmt: skip
    if gate not in ("token", *METRICS):
        raise ValueError(f"gate: SkyRL masks by token, sequence and sequence-mean, got {gate}")
    bounds = {"token": "token_mask_is_threshold", "sequence": "product_mask", "sequence-mean": "geo_mask"}[gate]
    given = vars(OFF) | dict.fromkeys(CAPS, math.inf if kept_max is None else kept_max)
    given |= {"tis_ratio_type": None if level == "one" else level, "sequence_mask_metric": METRICS.get(gate)}
    given |= {f"{bounds}_low": 0.0 if low is None else low, f"{bounds}_high": high}
    correct = importlib.import_module(CORRECTION).compute_off_policy_correction
    marks = mask.to(old_log_probs.dtype)
    weights, _, kept = correct(old_log_probs, sampler_log_probs, marks, SimpleNamespace(**given))
    return kept if weights is None else weights * kept


@peer("clipped value loss", "clipped_value_error", f"{CORE}:ppo_critic_loss", "a mean of row means; cases of one row")
def clipped_value_error(values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float | None) -> Tensor:
    config = SimpleNamespace(value_clip=epsilon)
    return core().ppo_critic_loss(values, old_values, returns, config, torch.ones_like(values))[0]
