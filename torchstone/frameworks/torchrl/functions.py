"""TorchRL: its value functionals, and the loss of its GRPO for language models, by our names."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.arguments import per_token
from torchstone.frameworks.registry import Framework, theirs
from torchstone.frameworks.torchrl.load import DISTILLATION, GRPO, VALUE, Batch, load, loss_without_a_model

FRAMEWORK = Framework("TorchRL", "torchrl", "torchrl", "https://github.com/pytorch/rl", prepare=load)
peer = FRAMEWORK.peer


def _value() -> Any:
    return importlib.import_module(VALUE)


def _gae(name: str) -> Any:
    def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> dict[str, Tensor]:
        state = values[..., None]
        following = torch.cat([state[:, 1:], torch.zeros_like(state[:, :1])], 1)
        done = torch.zeros_like(state, dtype=torch.bool)
        done[:, -1] = True
        advantages, returns = getattr(_value(), name)(gamma, lam, state, following, rewards[..., None], done)
        return {"advantages": advantages[..., 0], "returns": returns[..., 0]}

    return gae


for _name in ("generalized_advantage_estimate", "vec_generalized_advantage_estimate"):
    _remark = "With gamma * lambda = 0 it raises an IndexError." if _name.startswith("vec") else ""
    peer("GAE", "gae", f"{VALUE}:{_name}", "done at the last step; it takes no mask", _remark)(_gae(_name))


@peer("discounted returns", "discounted_returns", f"{VALUE}:reward2go", "done at the last step; it takes no mask",
      "With gamma = 0 it raises an IndexError.")  # fmt: skip
def discounted_returns(rewards: Tensor, gamma: float) -> Tensor:
    done = torch.zeros_like(rewards, dtype=torch.bool)
    done[:, -1] = True
    return _value().reward2go(rewards[..., None], done[..., None], gamma)[..., 0]


def _policy(
    kind: str, aggregation: str, epsilon: float, epsilon_high: float | None, log_probs: Tensor, old_log_probs: Tensor,
    advantages: Tensor, mask: Tensor, beta: float = 0.0, ref: Any = None,
) -> Tensor:  # fmt: skip
    """``forward`` of the loss on the case's numbers."""
    loss, clip = theirs(f"{GRPO}:{kind}"), (epsilon, epsilon if epsilon_high is None else epsilon_high)
    settings: dict[str, Any] = {"aggregation": aggregation, "kl_to_ref_coeff": beta or None}
    made = loss_without_a_model(loss, log_probs, mask, clip, **settings)
    given = per_token(advantages, log_probs)[..., None]
    out = loss.forward(made, Batch(action=mask, advantage=given, old=old_log_probs, ref=ref))
    total: Tensor = sum(out[k].sum() for k in list(out.keys()) if str(k).startswith("loss_"))
    return total


@peer("GRPO's loss", "grpo_loss", f"{GRPO}:GRPOLoss.forward", 'aggregation="prompt_mean", no entropy bonus',
      "Its KL is a mean over all positions, where masked ones count as 0, whatever the aggregation; the policy term "
      "matches.")  # fmt: skip
def grpo_loss(
    epsilon: float, epsilon_high: float | None, beta: float, ref_log_probs: Any = None, **policy: Any
) -> Tensor:
    return _policy("GRPOLoss", "prompt_mean", epsilon, epsilon_high, **policy, beta=beta, ref=ref_log_probs)


@peer("DAPO's loss", "dapo_loss", f"{GRPO}:DAPO", 'aggregation="token_mean", its default, no entropy bonus')
def dapo_loss(epsilon: float, epsilon_high: float | None, **policy: Any) -> Tensor:
    return _policy("DAPO", "token_mean", epsilon, epsilon_high, **policy)


@peer("CISPO's loss", "cispo_loss", f"{GRPO}:CISPOLoss._compute_policy_objective",
      'aggregation="token_mean", epsilon 0.2 on both sides',
      "Its docstring states what it computes, -clip(weight) * advantage; the paper's objective has the clipped weight "
      "as a constant, times log pi. The gradient is 0 where the weight is clipped.")  # fmt: skip
def cispo_loss(**policy: Any) -> Tensor:
    return _policy("CISPOLoss", "token_mean", 0.2, 0.2, **policy)


# --------------------------------------------------------------------------------------------------------- distillation


@peer("KL, k3", "kl_k3", f"{DISTILLATION}:k3_kl_token_estimate", "target_log_prob = ref_log_probs, without gradient")
def kl_k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    return theirs(f"{DISTILLATION}:k3_kl_token_estimate")(ref_log_probs.detach(), log_probs)


def distillation_loss(log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor, **settings: Any) -> Tensor:
    """``DistillationLoss.forward`` on the sampled tokens' log-probs; no model is asked, no history tokenised."""
    tensordict = importlib.import_module("tensordict")

    class Actor(torch.nn.Module):
        def forward(self, _: Any) -> Any:
            return tensordict.TensorDict({("log_probs", "full"): log_probs}, [len(mask)])

    masks = {("masks", "all_assistant_mask"): mask, ("masks", "all_attention_mask"): torch.ones_like(mask)}
    teacher = {("next", "teacher_log_probs", "full"): teacher_log_probs, ("history", "full"): mask}
    given = tensordict.TensorDict(masks | teacher, [len(mask)])
    loss: Tensor = theirs(f"{DISTILLATION}:DistillationLoss")(Actor(), **settings)(given).loss_distill
    return loss
