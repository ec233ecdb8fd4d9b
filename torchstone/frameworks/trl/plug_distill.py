"""TRL's DistillationTrainer with a distillation row of the table in place of its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import DistillationConfig, DistillationTrainer

from torchstone.core import token_entropies, token_log_probs
from torchstone.frameworks.trl.recorded import Recorded
from torchstone.frameworks.trl.settings import chosen_row, without_sampler
from torchstone.frameworks.trl.step import IMAGES, chosen_tokens, config_of, count, everywhere, over_ranks
from torchstone.frameworks.trl.unit import UNIT
from torchstone.recipes.choices import Recipe


class RecipeDistillationTrainer(Recorded, DistillationTrainer):
    """``DistillationTrainer`` with ``recipe``: a distillation row, its name, or its name with changes.

    All other arguments are DistillationTrainer's. The row's loss has the denominators of the whole generated batch,
    which is one optimizer step's. It takes the logits of a whole micro-batch, [B T V], which TRL's own never holds.
    ``args.temperature`` is that of sampling and of sampled tokens' log-probs; a divergence has the row's.
    Raises ValueError: what TRL cannot give the row, or what would be said twice (settings.py).
    """

    def __init__(self, model: Any, teacher_model: Any = None, args: Any = None, *others: Any, recipe: Recipe | str,
                 **more: Any):  # fmt: skip
        args = config_of(args, DistillationConfig, model)
        self.recipe = without_sampler(chosen_row(recipe, DistillationTrainer, args), args)
        if teacher_model is None:
            raise ValueError(f"teacher_model: the recipe {self.recipe.name} has a teacher, got None")
        self._of_the_row: Any = {}  # its metrics, of the micro-batch at hand
        super().__init__(model, teacher_model, args, *others, **more)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        mask = everywhere(self.accelerator, chosen_tokens(batch).long()).bool()
        kept = torch.ones_like(mask[:, 0])
        batch["denominator"] = count(self.recipe, mask, kept, group=1)
        return batch

    def _logits(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """At the positions that chose the completions' tokens [B T V]."""
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        width = batch["completion_ids"].shape[1]
        given = {name: batch[name] for name in IMAGES if name in batch}
        if "logits_to_keep" in self.model_kwarg_keys:
            given["logits_to_keep"] = width + 1
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False, **given).logits
        return logits[:, -width - 1 : -1]

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        self.teacher_model.eval()
        teacher = self.accelerator.unwrap_model(self.teacher_model)
        with torch.no_grad():
            theirs = self._forward_redirection(self.teacher_model, teacher, self._logits, teacher, inputs)
        logits, mask = self._logits(unwrapped_student, inputs), chosen_tokens(inputs)
        theirs = theirs.to(logits.device)
        log_probs, of_teacher = (
            token_log_probs(x, inputs["completion_ids"], temperature=self.temperature) for x in (logits, theirs)
        )
        known = {
            "logits": logits, "teacher_logits": theirs, "log_probs": log_probs, "teacher_log_probs": of_teacher,
            "old_log_probs": log_probs.detach(), "sampler_log_probs": log_probs.detach(),  # one update a batch
            "max_length": self.max_completion_length,
        }  # fmt: skip
        known["denominator"] = inputs["denominator"]
        loss = self.recipe.loss(mask, **self.recipe.used("loss", known))
        self._of_the_row = loss.metrics
        with torch.no_grad():
            entropies = token_entropies(logits, temperature=self.temperature).where(mask, 0)
        return loss.value * UNIT.scale(1, self.accelerator.num_processes), entropies.sum(), mask.sum()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's, and the row's metrics: ranks meet here, since ``_compute_loss`` runs inside the wrapped forward."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        for name, mean in over_ranks(self.accelerator, self._of_the_row).items():
            self._metrics["train" if self.model.training else "eval"][name].append(mean)
        return loss
