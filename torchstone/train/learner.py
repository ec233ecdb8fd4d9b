"""Stage 7: the update. A learner is a policy, its optimizer and how far it has come: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchstone.core import Loss, Mean
from torchstone.terminal import UserError
from torchstone.train import processes
from torchstone.train.model import Policy


class Learner:
    """Adds up gradients and metrics over micro-batches, and makes a step of Adam, or of AdamW, from them."""

    def __init__(self, policy: Policy, weight_decay: float = 0.0, schedule: str = "up-down", lr_warmup: int = 0):
        self.policy, self.schedule, self.lr_warmup = policy, schedule, lr_warmup
        kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
        self.weights = {name: p for name, p in policy.named_parameters() if p.requires_grad}  # those that are trained
        self.optimizer = kind(self.weights.values(), lr=0.0, weight_decay=weight_decay, fused=True)
        self.step = 0  # rounds done
        self.means: dict[str, Mean] = {}
        self.weight = 1.0  # of the rows that come next

    def begin_round(self, lr: float, steps: int) -> None:
        """Forget the last round's metrics, and set this one's learning rate."""
        self.means = {}
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(lr, steps)

    def rate(self, lr: float, steps: int) -> float:
        """This round's learning rate: up to ``lr`` in the first tenth of the run, then down to 0, or transformers'."""
        if self.schedule == "up-down":
            return lr * min(1.0, 10 * (self.step + 1) / steps) * (1 - self.step / steps)
        from transformers import get_scheduler

        unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        return lr * float(get_scheduler(self.schedule, unused, self.lr_warmup, steps).lr_lambdas[0](self.step))

    def share(self, parts: Sequence[slice]) -> Iterator[slice]:
        """The micro-batches of a minibatch, as far as they are this process's."""
        for rows, weight in processes.turns(parts, self.policy.is_cut):
            self.weight = weight
            yield rows

    def backward(self, loss: Loss) -> None:
        """Add the gradient of some rows, and pool their metrics."""
        (self.weight * loss.value).backward()
        if self.weight:
            self.pool(loss.metrics | self.policy.aux_loss)

    def update(self, max_grad_norm: float) -> None:
        """An optimizer step, its gradient shortened to this norm. Raises UserError: the gradient is not finite."""
        processes.add_gradients(self.weights.values(), self.policy.is_cut)
        norm = processes.full(torch.nn.utils.clip_grad_norm_(self.weights.values(), max_grad_norm))
        if not torch.isfinite(norm):
            raise UserError(f"round {self.step + 1}: the gradient is not finite; try a smaller --lr")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pool({"grad_norm": Mean(norm, torch.ones_like(norm))})

    def pool(self, metrics: dict[str, Mean]) -> None:
        """Pool metrics; each mean remembers its weight, so the result is that of the undivided batch."""
        self.means |= {k: self.means[k] + m if k in self.means else m for k, m in metrics.items()}

    def end_round(self) -> dict[str, Any]:
        """The round's metrics as plain numbers."""
        every, self.means = processes.gather(self.means), {}
        for means in every:
            self.pool(means)
        self.step += 1
        lr = self.optimizer.param_groups[0]["lr"]
        return {"step": self.step, "learning_rate": lr} | {k: float(m) for k, m in self.means.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: trained weights and Adam's state, by name; a weight that is used twice once."""
        states = {name: self.optimizer.state.get(p, {}).items() for name, p in self.weights.items()}
        adam = {f"adam/{name}/{key}": x for name, state in states.items() for key, x in state}
        return {f"policy/{name}": p.detach() for name, p in self.weights.items()} | adam

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from a checkpoint of ``step`` rounds."""
        self.step = step
        for name, x in tensors.items():
            kind, weight, *key = name.split("/")
            if kind == "policy":
                self.weights[weight].copy_(processes.cut_as(x, self.weights[weight]))
            else:
                self.optimizer.state[self.weights[weight]][key[0]] = processes.cut_as(x, self.weights[weight]).clone()
