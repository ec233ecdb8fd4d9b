"""TorchRL: its value functionals, and the loss of its GRPO for language models without the model."""

from __future__ import annotations

import importlib
import inspect
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import Framework, theirs

VALUE = "torchrl.objectives.value.functional"
GRPO = "torchrl.objectives.llm.grpo"


def _prepare() -> None:
    quiet()
    for of in (f"{VALUE}:reward2go", f"{GRPO}:GRPOLoss"):
        theirs(of)


FRAMEWORK = Framework("TorchRL", "torchrl", "torchrl", "https://github.com/pytorch/rl", prepare=_prepare)
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


class _Loss:
    """The methods of a loss without its ``__init__``, which wants a model."""

    def __init__(self, cls: type):
        self.cls = cls

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self.cls, name)
        own = isinstance(inspect.getattr_static(self.cls, name), FunctionType)
        return MethodType(plain, self) if own else plain


class _Batch(dict[Any, Any]):
    """What the loss asks of a TensorDict."""

    def get(self, key: Any, default: Any = None, **_: Any) -> Any:
        return dict.get(self, key, default)

    def copy(self) -> Any:
        return _Batch(self)

    def set(self, key: Any, value: Any) -> None:
        self[key] = value


def _policy(
    cls: str, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, aggregation: str, beta: float = 0.0, ref: Any = None,
) -> Tensor:  # fmt: skip
    """``forward`` of the loss, its distribution being the case's log-probs and mask."""
    loss = theirs(f"{GRPO}:{cls}")
    high = epsilon if epsilon_high is None else epsilon_high
    low_, high_ = (torch.tensor(x, dtype=log_probs.dtype) for x in (epsilon, high))
    keys = SimpleNamespace(action="action", advantage="advantage", sample_log_prob="old", ref_log_probs="ref")
    made: Any = _Loss(loss)
    made.__dict__.update(
        tensor_keys=keys, kl_mask_threshold=None, entropy_bonus=False, aggregation=aggregation, reduction="mean",
        deterministic_sampling_mode=loss.deterministic_sampling_mode, masking_strategy="generic",
        kl_to_ref_coeff=beta or None, kl_to_inference_coeff=None,
        _clip_bounds=((-low_).log1p(), high_.log1p()), ref_log_prob_padding_side="left", ref_log_prob_padding_value=0.0,
        output_type=SimpleNamespace(from_tensordict=lambda found: found),
        _get_cur_log_prob=lambda _: (log_probs, SimpleNamespace(mask=mask), False),
    )  # fmt: skip
    given = advantages[:, None] * torch.ones_like(log_probs) if advantages.ndim == 1 else advantages
    batch = _Batch(action=mask, advantage=given[..., None], old=old_log_probs, ref=ref)
    out = loss.forward(made, batch)
    total: Tensor = sum(out[k].sum() for k in list(out.keys()) if str(k).startswith("loss_"))
    return total


@peer("GRPO's loss", "grpo_loss", f"{GRPO}:GRPOLoss.forward", 'aggregation="prompt_mean", no entropy bonus',
      "Its KL is a mean over all positions, where masked ones count as 0, whatever the aggregation; the policy term "
      "matches.")  # fmt: skip
def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, beta: float, ref_log_probs: Any = None,
) -> Tensor:  # fmt: skip
    clip = (epsilon, epsilon_high)
    return _policy("GRPOLoss", log_probs, old_log_probs, advantages, mask, *clip, "prompt_mean", beta, ref_log_probs)


@peer("DAPO's loss", "dapo_loss", f"{GRPO}:DAPO", 'aggregation="token_mean", its default, no entropy bonus')
def dapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    return _policy("DAPO", log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high, "token_mean")


@peer("CISPO's loss", "cispo_loss", f"{GRPO}:CISPOLoss._compute_policy_objective",
      'aggregation="token_mean", epsilon 0.2 on both sides',
      "Its docstring states what it computes, -clip(weight) * advantage; the paper's objective has the clipped weight "
      "as a constant, times log pi. The gradient is 0 where the weight is clipped.")  # fmt: skip
def cispo_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return _policy("CISPOLoss", log_probs, old_log_probs, advantages, mask, 0.2, 0.2, "token_mean")
