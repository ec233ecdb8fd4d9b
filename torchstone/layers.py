"""What the layers of a transformers model can do beside their work: run again to save memory, balance their experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchstone.core import Mean
from torchstone.terminal import UserError


def set_layers(config: Any, policy: Any) -> str:
    """``--gradient-checkpointing`` and ``--router-aux-loss``; what there is to say, or nothing.

    Raises UserError: the model has no such layers.

    The balancing loss is transformers', of the tokens that are read together; each row of a step weighs the same, so
    that micro-batches add up to one loss a step, though not to that of the whole step: it is no mean over rows.
    """
    if config.gradient_checkpointing:
        run_again(policy.model)
    if config.router_aux_loss and not has_experts(policy.model):
        raise UserError("--router-aux-loss: the model has no experts whose use could be balanced")
    policy.balance = config.router_aux_loss / rows_of_update(config)
    policy.one_pass = config.gradient_checkpointing or policy.balance > 0
    if not has_experts(policy.model) or config.router_aux_loss:
        return ""
    told = "their use is not balanced; --router-aux-loss 0.001 adds the usual loss"
    return f"the model is a mixture of experts: {told}"


def run_again(model: nn.Module) -> None:
    """Each layer keeps only what it read, and runs again in the backward pass: less memory, the same gradients.

    transformers' own switch acts in training mode alone, where dropout acts too; a policy is in evaluation mode.
    Raises UserError: the model has no layers that transformers marks for this.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"--gradient-checkpointing: {type(model).__name__} has no layers that can run again")
    for layer in layers:
        layer.forward = partial(once_more, layer.forward)


def once_more(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a layer gives; where a gradient is wanted, without what lies between."""
    if torch.is_grad_enabled():
        return checkpoint(forward, *given, use_reentrant=False, **named)
    return forward(*given, **named)


def has_experts(model: Any) -> bool:
    """Whether transformers knows a balancing loss for it: a mixture of experts with a router."""
    return hasattr(model.config.get_text_config(), "output_router_logits")


def balanced(policy: Any, out: Any, rows: int) -> Any:
    """The model's output, whose backward pass adds that of its balancing loss, times the rows and a row's weight."""
    policy.aux_loss = {"aux_loss": Mean(rows * out.aux_loss.detach(), torch.tensor(rows))}
    out.logits = WithLoss.apply(out.logits, out.aux_loss, policy.balance * rows)
    return out


class WithLoss(torch.autograd.Function):
    """x, so that whoever asks for the gradient of a loss of x gets that of ``weight`` times another loss on top."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, weight: float) -> Tensor:
        """x as it is."""
        ctx.weight = torch.full_like(loss, weight)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """That of x as it is, and the weight."""
        return gradient, ctx.weight, None


def rows_of_update(config: Any) -> float:
    """Texts that one step of the optimiser is made from."""
    if hasattr(config, "prompts"):
        return float(config.prompts * config.group_size / config.minibatches)
    return float(2 * config.pairs if hasattr(config, "pairs") else config.batch_size)
