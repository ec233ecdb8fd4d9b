"""torchtune: its RLHF functions. Where torchao is not installed, its own ``__init__`` is left out."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import Framework

REWARDS = "torchtune.rlhf.rewards"
SEQUENCE = "torchtune.rlhf.sequence_processing"
PPO = "torchtune.rlhf.loss.ppo"
DPO = "torchtune.rlhf.loss.dpo"


def _prepare() -> None:
    quiet()
    try:
        importlib.import_module(PPO)
    except ImportError:
        _stub()
    for name in (REWARDS, SEQUENCE, PPO, DPO):
        importlib.import_module(name)


def _stub() -> None:
    """``torchtune`` without its ``__init__``, which wants torchao, and ``torchtune.data`` with one number."""
    for name in [k for k in sys.modules if k.partition(".")[0] == "torchtune"]:
        del sys.modules[name]
    spec = find_spec("torchtune")
    assert spec is not None and spec.origin is not None
    made = sys.modules["torchtune"] = ModuleType("torchtune")
    made.__path__, made.__file__ = [str(Path(spec.origin).parent)], spec.origin
    data = sys.modules["torchtune.data"] = ModuleType("torchtune.data")
    data.__dict__["CROSS_ENTROPY_IGNORE_IDX"] = -100


FRAMEWORK = Framework("torchtune", "torchtune", "torchtune", "https://github.com/pytorch/torchtune", prepare=_prepare)
peer = FRAMEWORK.peer


def _rlhf() -> Any:
    return importlib.import_module("torchtune.rlhf")


@peer("token log-probs", "token_log_probs", f"{SEQUENCE}:logits_to_logprobs")
def token_log_probs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return _rlhf().logits_to_logprobs(logits, targets, temperature)


@peer("mean over tokens", "token_mean", f"{REWARDS}:masked_mean")
def token_mean(x: Tensor, mask: Tensor) -> Tensor:
    return _rlhf().masked_mean(x, mask)


@peer("masked whitening", "masked_whiten", f"{REWARDS}:whiten", "shift_mean is our keep_mean; 0 is put under the mask",
      "With shift_mean=True, its default, the mean is added back, as its docstring says; in verl and SkyRL the name "
      "means the opposite.")  # fmt: skip
def masked_whiten(x: Tensor, mask: Tensor, keep_mean: bool) -> Tensor:
    return _rlhf().whiten(x, mask, shift_mean=keep_mean).where(mask, 0.0)


@peer("GAE", "gae", f"{REWARDS}:estimate_advantages",
      "returns - values, both 0 under the mask, as its recipe makes them; the advantages come out whitened",
      "It is made for completions without gaps; those with padding only match.")  # fmt: skip
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> dict[str, Tensor]:
    values, rewards = values.where(mask, 0.0), rewards.where(mask, 0.0)  # as its PPO recipe does
    _, returns = _rlhf().estimate_advantages(values, rewards, gamma, lam, mask)
    return {"advantages": returns - values, "returns": returns}


@peer("PPO's loss", "ppo_loss", f"{PPO}:PPOLoss.forward")
def ppo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float, value_coef: float,
    value_epsilon: float | None, values: Any = None, old_values: Any = None, returns: Any = None,
) -> Tensor:  # fmt: skip
    loss = importlib.import_module(PPO).PPOLoss(epsilon, 1e9 if value_epsilon is None else value_epsilon, value_coef)
    if values is None:
        values = old_values = returns = torch.zeros_like(log_probs)
    old = values.detach() if old_values is None else old_values
    return loss(old_log_probs, log_probs, advantages, old, values, returns, mask, mask)[0]


@peer("DPO's loss", "dpo_loss", f"{DPO}:DPOLoss.forward", "the mean of its losses")
def dpo_loss(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor, ref_rejected_log_probs: Tensor,
    beta: float, label_smoothing: float,
) -> Any:  # fmt: skip
    given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    losses, chosen, rejected = importlib.import_module(DPO).DPOLoss(beta, label_smoothing)(*given)
    return {"loss": losses.mean(), "rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean()}


@peer("hinge (RSO)", "hinge_loss", f"{DPO}:RSOLoss.forward", "gamma is our beta; the mean of its losses")
def hinge_loss(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor, ref_rejected_log_probs: Tensor,
    beta: float,
) -> Any:  # fmt: skip
    given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    return importlib.import_module(DPO).RSOLoss(beta)(*given)[0].mean()
