"""SkyRL: the functions of its PPO utilities, without the packages around them that reach a server or a cluster."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import Framework

CORE = "skyrl.backends.skyrl_train.utils.ppo_utils"
TORCH = "skyrl.backends.skyrl_train.utils.torch_utils"


def _prepare() -> None:
    quiet()
    try:
        importlib.import_module(CORE)
    except ImportError:
        _stub()
        importlib.import_module(CORE)


def _stub() -> None:
    """Empty packages in place of those whose ``__init__`` reaches a server, a cluster or a logger."""
    for name in [k for k in sys.modules if k.startswith("skyrl.")]:
        del sys.modules[name]
    spec = find_spec("skyrl")
    assert spec is not None and spec.submodule_search_locations is not None
    root = Path(next(iter(spec.submodule_search_locations)))

    def empty(name: str, **names: Any) -> None:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(names)
        module.__path__ = [str(root / "/".join(name.split(".")[1:]))]

    for name in ("backends", "backends.skyrl_train", "backends.skyrl_train.utils", "train"):
        empty(f"skyrl.{name}")
    empty("skyrl.train.config", AlgorithmConfig=object, OffPolicyCorrectionConfig=object)
    if find_spec("loguru") is None:
        silent = SimpleNamespace(warning=lambda *_: None, info=lambda *_: None)
        sys.modules["loguru"] = ModuleType("loguru")
        sys.modules["loguru"].__dict__["logger"] = silent


FRAMEWORK = Framework("SkyRL", "skyrl", "skyrl", "https://github.com/NovaSky-AI/SkyRL", "skyrl-v{}", prepare=_prepare)
peer = FRAMEWORK.peer


def _core() -> Any:
    return importlib.import_module(CORE)


@peer("token log-probs", "token_log_probs", f"{TORCH}:logprobs_from_logits_v2")
def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return importlib.import_module(TORCH).logprobs_from_logits_v2(logits, targets)


@peer("entropy", "token_entropies", f"{TORCH}:chunked_entropy_from_logits", "requires_grad=True")
def token_entropies(logits: Tensor) -> Tensor:
    return importlib.import_module(TORCH).chunked_entropy_from_logits(logits, requires_grad=True)


@peer("mean over tokens", "token_mean", f"{TORCH}:masked_mean")
def token_mean(x: Tensor, mask: Tensor) -> Tensor:
    return importlib.import_module(TORCH).masked_mean(x, mask)


@peer("masked whitening", "masked_whiten", f"{CORE}:masked_whiten", "0 is put under the mask")
def masked_whiten(x: Tensor, mask: Tensor, keep_mean: bool) -> Tensor:
    return _core().masked_whiten(x, mask, shift_mean=not keep_mean).where(mask, 0.0)


def _kl(name: str) -> Any:
    def kl(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return _core().compute_approx_kl(log_probs, ref_log_probs, mask.to(log_probs.dtype), name)

    return kl


for _name in ("k1", "k2", "k3"):
    peer(f"KL, {_name}", f"kl_{_name}", f"{CORE}:compute_approx_kl", f'kl_estimator_type="{_name}"')(_kl(_name))


def _groups(rewards: Tensor) -> tuple[Tensor, Tensor, Any]:
    import numpy as np

    flat = rewards.reshape(-1, 1).clone()
    return flat, torch.ones_like(flat), np.arange(rewards.shape[0]).repeat(rewards.shape[1])


@peer("group advantages (GRPO)", "group_advantages", f"{CORE}:compute_grpo_outcome_advantage",
      "epsilon=1e-6, its default; its statistics are float32",
      "Eight equal rewards of 0.1 get -0.0074 each in float32: the mean's rounding error over epsilon.")  # fmt: skip
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    given = _groups(rewards)
    return _core().compute_grpo_outcome_advantage(*given, grpo_norm_by_std=divide_by_std)[0]


@peer("leave-one-out advantages (RLOO)", "leave_one_out_advantages", f"{CORE}:compute_rloo_outcome_advantage")
def rloo(rewards: Tensor) -> Tensor:
    return _core().compute_rloo_outcome_advantage(*_groups(rewards))[0]


@peer(
    "MaxRL advantages",
    "max_likelihood_advantages",
    f"{CORE}:compute_maxrl_advantage",
    "epsilon=1e-6, its default; its mean is float32",
)
def max_likelihood_advantages(rewards: Tensor) -> Tensor:
    return _core().compute_maxrl_advantage(*_groups(rewards))[0]


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
    _, returns = _core().compute_gae_advantage_return(*given, span.to(values.dtype), gamma, lam)
    back = _moved(returns, [-n for n in shifts]).where(mask, 0.0)
    return {"advantages": (back - values).where(mask, 0.0), "returns": back}


@peer("returns of REINFORCE++", "discounted_returns", f"{CORE}:compute_reinforce_plus_plus_outcome_advantage",
      ALIGNED, COUNTED)  # fmt: skip
def reinforce_plus_plus(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    shifts, span = _span(mask)
    estimate = _core().compute_reinforce_plus_plus_outcome_advantage
    returns = estimate(_moved(rewards, shifts), span.to(rewards.dtype), gamma)[1]
    return _moved(returns, [-n for n in shifts]).where(mask, 0.0)


def _loss(
    name: str, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, reduction: str,
    length: int = 1, **knobs: Any,
) -> Tensor:  # fmt: skip
    """The loss after its trainer's reduction, which SkyRL puts into the advantages."""
    core, marks = _core(), mask.to(log_probs.dtype)
    given = advantages[:, None] * torch.ones_like(log_probs) if advantages.ndim == 1 else advantages
    reduced = core.apply_loss_reduction_to_advantages_minibatch(given, marks, reduction, len(mask), length)
    off = SimpleNamespace(
        tis_ratio_type=None, sequence_mask_metric=None, outlier_token_is_threshold_low=None,
        outlier_token_is_threshold_high=None, token_mask_is_threshold_low=None, token_mask_is_threshold_high=None,
    )  # fmt: skip
    config = SimpleNamespace(loss_reduction=reduction, off_policy_correction=off, **knobs)
    found: Tensor = getattr(core, name)(log_probs, old_log_probs, reduced, config, marks)[0]
    return found


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"eps_clip_low": epsilon, "eps_clip_high": epsilon if epsilon_high is None else epsilon_high}


@peer("clipped policy loss (PPO)", "ppo_loss", f"{CORE}:ppo_policy_loss", 'loss_reduction="token_mean", its default')
def ppo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, dual_clip: float | None = None,
) -> Tensor:  # fmt: skip
    kind = "regular" if dual_clip is None else "dual_clip"
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "policy_loss_type": kind, "clip_ratio_c": dual_clip}
    return _loss("ppo_policy_loss", log_probs, old_log_probs, advantages, mask, "token_mean", **knobs)


@peer("GRPO's loss", "grpo_loss", f"{CORE}:ppo_policy_loss", 'loss_reduction="sequence_mean", beta 0')
def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "policy_loss_type": "regular"}
    return _loss("ppo_policy_loss", log_probs, old_log_probs, advantages, mask, "sequence_mean", **knobs)


@peer("Dr. GRPO's loss", "dr_grpo_loss", f"{CORE}:ppo_policy_loss", 'loss_reduction="seq_mean_token_sum_norm"')
def dr_grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, length: int,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "policy_loss_type": "regular", "length": length}
    return _loss("ppo_policy_loss", log_probs, old_log_probs, advantages, mask, "seq_mean_token_sum_norm", **knobs)


@peer("GSPO's loss", "gspo_loss", f"{CORE}:gspo_policy_loss", 'loss_reduction="sequence_mean"')
def gspo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    knobs = _clip(epsilon, epsilon_high)
    return _loss("gspo_policy_loss", log_probs, old_log_probs, advantages, mask, "sequence_mean", **knobs)


@peer("CISPO's loss", "cispo_loss", f"{CORE}:compute_policy_loss_cispo",
      "token_mean; cispo_eps_clip_low=1.0 where there is none")  # fmt: skip
def cispo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float | None,
    epsilon_high: float | None, cap: float | None,
) -> Tensor:  # fmt: skip
    high = cap - 1 if cap is not None else epsilon_high
    clip = SimpleNamespace(cispo_eps_clip_low=1.0 if epsilon is None else epsilon, cispo_eps_clip_high=high)
    name = "compute_policy_loss_cispo"
    return _loss(name, log_probs, old_log_probs, advantages, mask, "token_mean", cispo=clip)


@peer("SAPO's loss", "sapo_loss", f"{CORE}:sapo_policy_loss", 'loss_reduction="sequence_mean"')
def sapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, tau_positive: float, tau_negative: float
) -> Tensor:
    sapo = SimpleNamespace(tau_pos=tau_positive, tau_neg=tau_negative)
    return _loss("sapo_policy_loss", log_probs, old_log_probs, advantages, mask, "sequence_mean", sapo=sapo)


@peer("clipped value loss", "clipped_value_error", f"{CORE}:ppo_critic_loss", "a mean of row means; cases of one row")
def clipped_value_error(values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float | None) -> Tensor:
    config = SimpleNamespace(value_clip=epsilon)
    return _core().ppo_critic_loss(values, old_values, returns, config, torch.ones_like(values))[0]
