"""TRL's DPOTrainer with a preference row of the table in place of its loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from torchstone.dpo.variants import shared_length_log_probs, wpo_weights
from torchstone.frameworks.trl.recorded import Recorded
from torchstone.frameworks.trl.settings import chosen_row, number, of_a_micro_batch
from torchstone.frameworks.trl.step import config_of, lent, over_ranks
from torchstone.frameworks.trl.unit import PAIRS
from torchstone.recipes.choices import Recipe

SIDES = ("chosen", "rejected")


class RecipeDPOTrainer(Recorded, DPOTrainer):
    """``DPOTrainer`` with ``recipe``: a preference row, its name, or its name with changes.

    All other arguments are DPOTrainer's. A row without a reference makes and runs no reference model. Denominators are
    those of the whole optimizer step, except that TRL's own rows have TRL's: a mean of the micro-batches' means.
    Raises ValueError: what TRL cannot give the row, or what would be said twice (settings.py).
    """

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, *others: Any, recipe: Recipe | str,
                 **more: Any):  # fmt: skip
        args = config_of(args, DPOConfig, model)
        self.recipe = chosen_row(recipe, DPOTrainer, args)
        self._counts: Any = None  # pairs, and the chosen completions' tokens, of the optimizer step
        self._with_reference = "ref_chosen_log_probs" in self.recipe.takes()
        tail = self.recipe.log_prob.numbers  # of "shared-length": TRL weighs the reference's log-probs as the policy's
        self._ref_alpha = 1.0 if tail.get("policy_only", True) else tail["alpha"]
        if not self._with_reference and ref_model is not None:
            raise ValueError(f"ref_model: the recipe {self.recipe.name} has no reference, expected None, got one")
        asked = {
            "precompute_ref_log_probs": args.precompute_ref_log_probs or not self._with_reference,  # it makes none then
            "beta": number(self.recipe, "beta") or args.beta,  # what TRL's metrics of rewards are scaled with
            "ld_alpha": None if self._ref_alpha == 1 else self._ref_alpha,
            "use_weighting": "weights" in self.recipe.takes(),  # TRL's head then gives log sum_v p_v^2
        }
        with lent(args, **asked):
            super().__init__(model, ref_model, args, *others, **more)
        self.precompute_ref_logps: bool = self._with_reference and args.precompute_ref_log_probs
        self._precomputed = self.precompute_ref_logps

    def _precompute_ref_logps(self, dataset: Any, *given: Any) -> Any:
        return super()._precompute_ref_logps(dataset, *given) if self._with_reference else dataset

    def get_batch_samples(self, *given: Any) -> Any:
        """Also counts the pairs and the chosen completions' tokens of the optimizer step, over all ranks."""
        samples, items = super().get_batch_samples(*given)
        chosen = [x["completion_mask"].chunk(2)[0][:, 1:] for x in samples]
        here = torch.tensor([sum(map(len, chosen)), sum(int(x.sum()) for x in chosen)], device=self.accelerator.device)
        self._counts = self.accelerator.reduce(here, "sum")
        return samples, items

    def _references(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """log pi_ref of whole completions, as TRL computes it; zeros for a row that has none."""
        names = [f"ref_{side}_logps" for side in SIDES]
        if self._precomputed:
            return {name: inputs[name] for name in names}
        if self._with_reference:
            found = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
            return dict(zip(names, found, strict=True))
        return dict.fromkeys(names, inputs["input_ids"].new_zeros(len(inputs["input_ids"]) // 2, dtype=torch.float32))

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        mode, seen, references = "train" if self.model.training else "eval", [], self._references(inputs)
        logged = {name: len(values) for name, values in self._metrics[mode].items()}

        def forward(**given: Any) -> Any:
            seen.append(model(**given))
            return seen[-1]

        self.precompute_ref_logps = True  # TRL's own loss, for its metrics: with these references, not computed again
        try:
            theirs = super()._compute_loss(forward, {**inputs, **references}, return_outputs)
        finally:
            self.precompute_ref_logps = self._precomputed
        mask = inputs["completion_mask"][:, 1:].bool()
        width = mask.shape[1]
        log_probs = seen[0].log_probs[:, -width:]
        tensors: dict[str, Any] = {}
        for i, side in enumerate(SIDES):
            tensors[f"{side}_log_probs"], tensors[f"{side}_mask"] = log_probs.chunk(2)[i], mask.chunk(2)[i]
            if self._with_reference:  # TRL keeps its sum alone: its distance is spread over the tokens, 0 where it is 0
                here = log_probs.detach().chunk(2)[i]
                whole = partial(
                    shared_length_log_probs,
                    mask=mask.chunk(2)[i],
                    other_mask=mask.chunk(2)[1 - i],
                    alpha=self._ref_alpha,
                )
                apart = (references[f"ref_{side}_logps"] - whole(here)) / whole(torch.ones_like(here)).clamp(min=1)
                tensors[f"ref_{side}_log_probs"] = here + apart[:, None]
        if "weights" in self.recipe.takes():
            weights = wpo_weights(log_probs, seen[0].log_sum_sq_probs[:, -width:], mask).chunk(2)
            tensors["weights"] = weights[0] * weights[1]
        scale = 1
        if mode == "train" and not of_a_micro_batch(self.recipe):
            pairs, tokens = self._counts
            tensors["denominator"] = pairs
            if "sft_denominator" in self.recipe.takes():
                tensors["sft_denominator"] = tokens if self.recipe.sft.numbers["mean"] == "token" else pairs
            scale = PAIRS.scale(self.current_gradient_accumulation_steps, self.accelerator.num_processes)
        loss = self.recipe.loss(**tensors)
        value = loss.value * scale
        for name, mean in over_ranks(self.accelerator, loss.metrics).items():
            self._metrics[mode][name][logged.get(name, 0) :] = [mean]
        if self.aux_loss_enabled:
            value = value + self.router_aux_loss_coef * seen[0].aux_loss
        return (value, theirs[1]) if return_outputs else value
