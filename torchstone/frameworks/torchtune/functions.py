"""torchtune: its RLHF functions, by our names."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.arguments import in_order
from torchstone.frameworks.registry import Framework
from torchstone.frameworks.torchtune.load import DPO, PPO, REWARDS, SEQUENCE, load

FRAMEWORK = Framework("torchtune", "torchtune", "torchtune", "https://github.com/pytorch/torchtune", prepare=load)
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
def dpo_loss(beta: float, label_smoothing: float, **pairs: Tensor) -> Any:
    losses, chosen, rejected = importlib.import_module(DPO).DPOLoss(beta, label_smoothing)(*in_order(pairs))
    return {"loss": losses.mean(), "rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean()}


@peer("hinge (RSO)", "hinge_loss", f"{DPO}:RSOLoss.forward", "gamma is our beta; the mean of its losses")
def hinge_loss(beta: float, **pairs: Tensor) -> Any:
    return importlib.import_module(DPO).RSOLoss(beta)(*in_order(pairs))[0].mean()
