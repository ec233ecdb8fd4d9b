"""Stage 6 of distillation: the loss, from what the teacher says of the student's own samples."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core import Loss, kl_k2, kl_k3
from torchstone.core.reduce import Count
from torchstone.core.result import mean_of
from torchstone.distill import distill_loss, jsd_loss, jsd_top_k
from torchstone.train import options
from torchstone.train.methods import Batch, Method, Recipe, needed
from torchstone.train.model import Outputs


class Distill(Method):
    """The policy becomes more like its teacher where it goes itself. Rewards are reported, not learned from."""

    config: options.DistillOptions

    @property
    def needs(self) -> Set[str]:
        """The teacher's log-probs of the sampled tokens; both models' logits where the whole vocabulary is compared."""
        return needed(teacher_log_probs=True, logits=self.config.signal.startswith("jsd"))

    def keep(self, rewards: Float[Tensor, "P G"]) -> Bool[Tensor, "P G"]:
        """All completions: the teacher judges them."""
        return torch.ones_like(rewards, dtype=torch.bool)

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """None beforehand: the loss compares the present policy with the teacher."""
        return batch

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """The signal's loss of some rows."""
        c, mask, reduce, teacher_log_probs = self.config, batch.mask, self.reduce(count), batch.ref_log_probs
        if c.signal == "teacher-advantage":
            return distill_loss(
                new.log_probs, teacher_log_probs, mask, reduce=reduce, gamma=c.gamma, old_log_probs=batch.old.log_probs
            )
        if c.signal in ("k2", "k3"):  # back-propagated
            losses = {"k2": kl_k2, "k3": kl_k3}[c.signal](new.log_probs, teacher_log_probs, mask)
            return Loss(reduce(losses, mask), {})
        logits, teacher_logits = new.logits, batch.teacher.logits()  # [B T V]
        numbers = {"beta": c.beta, "temperature": c.temperature}
        if c.signal == "jsd":
            return jsd_loss(logits, teacher_logits, mask, reduce=reduce, **numbers)
        losses = jsd_top_k(logits, teacher_logits, k=c.k, of=c.of, rest=c.rest, **numbers)
        return Loss(reduce(losses, mask), {"jsd": mean_of(losses, mask)})


class DistillRow(Recipe):
    """A distillation of the table of recipes: it makes every choice itself."""

    @property
    def needs(self) -> Set[str]:
        """The teacher's log-probs, for the metric ``kl`` at least; both models' logits if the row says so."""
        return {"teacher_log_probs"} | ({"logits", "group_size"} & set(self.recipe.needs()))

    def keep(self, rewards: Float[Tensor, "P G"]) -> Bool[Tensor, "P G"]:
        """All completions: the teacher judges them."""
        return torch.ones_like(rewards, dtype=torch.bool)

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """None beforehand: the row's signal is in its loss."""
        return batch

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """The row's own loss of some rows."""
        old, logits = batch.old.log_probs, "teacher_logits" in self.recipe.takes("loss")
        known: dict[str, Any] = {
            "log_probs": new.log_probs, "teacher_log_probs": batch.ref_log_probs, "logits": new.logits,
            "teacher_logits": batch.teacher.logits() if logits else None, "old_log_probs": old,
            "sampler_log_probs": old,  # the engine that samples is the trainer itself
            "max_length": self.config.max_new_tokens, "group_size": self.config.group_size,
        }  # fmt: skip
        return self.recipe.loss(batch.mask, **self.recipe.used("loss", known), denominator=count)
