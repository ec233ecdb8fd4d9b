"""How our arguments are laid out for theirs, where more than one framework wants it so."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TAKEN_TOGETHER = {
    "policy": ("log_probs", "old_log_probs", "advantages", "mask"),
    "pairs": ("chosen_log_probs", "rejected_log_probs", "ref_chosen_log_probs", "ref_rejected_log_probs"),
}


def spelled_out(function: Callable[..., Any]) -> inspect.Signature:
    """The signature in which ``**policy`` and ``**pairs`` are the arguments that they stand for.

    ``**policy``: log_probs [B T], old_log_probs [B T], advantages [B] or [B T], mask [B T]. ``**pairs``: the log-probs
    [N] of chosen and rejected completions under the policy and the reference.
    """
    signature = inspect.signature(function)
    plain = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    together = [name for p in signature.parameters if p in TAKEN_TOGETHER for name in TAKEN_TOGETHER[p]]
    first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in together]
    return signature.replace(parameters=first + plain)


def in_order(pairs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The four log-probs of ``**pairs``: chosen, rejected, and both under the reference."""
    return tuple(pairs[name] for name in TAKEN_TOGETHER["pairs"])


def per_token(advantages: Tensor, like: Tensor) -> Tensor:
    """Advantages [B] or [B T] as [B T], one a token of ``like``."""
    return advantages[:, None] * torch.ones_like(like) if advantages.ndim == 1 else advantages


def prompts(rewards: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Rewards [P G] as verl and SkyRL take them: [B 1] on the only token, its mask, the number of each prompt [B]."""
    import numpy as np

    flat = rewards.reshape(-1, 1).clone()
    return flat, torch.ones_like(flat), np.arange(rewards.shape[0]).repeat(rewards.shape[1])


# TRL's and Liger's names of losses on pairs: what each is, our name for it, and what we call its label_smoothing.
PAIR_LOSSES = {
    "sigmoid": ("DPO's loss", "dpo_loss", ""),
    "hinge": ("hinge", "hinge_loss", ""),
    "ipo": ("IPO, completions of one token", "ipo_loss", ""),
    "exo_pair": ("EXO", "exo_loss", "label_smoothing"),
    "nca_pair": ("NCA", "nca_loss", ""),
    "robust": ("robust DPO", "robust_dpo_loss", "flip_rate"),
    "bco_pair": ("BCO", "bco_loss", ""),
    "sppo_hard": ("SPPO", "sppo_loss", ""),
    "apo_zero": ("APO-zero", "apo_zero_loss", ""),
    "apo_down": ("APO-down", "apo_down_loss", ""),
    "discopop": ("DiscoPOP", "discopop_loss", ""),
}


def enter_pair_losses(peer: Callable[..., Any], of: str, run: Callable[..., Any], loss_types: str) -> None:
    """Enter these losses of the function ``of``, each by our names.

    ``run`` takes the four log-probs [N] of ``**pairs`` by position, and ``loss_type``, ``beta``, ``label_smoothing``.
    """
    for loss_type in loss_types.split():
        what, objective, smoothing = PAIR_LOSSES[loss_type]
        peer(what, objective, of, f'loss_type="{loss_type}"')(_pair_loss(run, loss_type, smoothing))


def _pair_loss(run: Callable[..., Any], loss_type: str, smoothing: str) -> Callable[..., Any]:
    def plain(beta: float, **pairs: Tensor) -> Any:
        return run(*in_order(pairs), loss_type=loss_type, beta=beta)

    def smooth(beta: float, label_smoothing: float, **pairs: Tensor) -> Any:
        return run(*in_order(pairs), loss_type=loss_type, beta=beta, label_smoothing=label_smoothing)

    def flip(beta: float, flip_rate: float, **pairs: Tensor) -> Any:
        return run(*in_order(pairs), loss_type=loss_type, beta=beta, label_smoothing=flip_rate)

    by_name: dict[str, Callable[..., Any]] = {"": plain, "label_smoothing": smooth, "flip_rate": flip}
    return by_name[smoothing]
