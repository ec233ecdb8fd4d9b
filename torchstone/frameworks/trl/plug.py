"""TRL's GRPOTrainer with a row of the table in place of its loss and its advantages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from torchstone.core.result import mean_of
from torchstone.frameworks.trl.recorded import Recorded
from torchstone.frameworks.trl.settings import chosen_row, number, of_a_micro_batch, with_sampler
from torchstone.frameworks.trl.step import (
    IMAGES,
    OfGroups,
    chosen_tokens,
    config_of,
    count,
    everywhere,
    lent,
    over_ranks,
)
from torchstone.frameworks.trl.unit import UNIT
from torchstone.recipes.choices import Recipe

THEIRS = {"ref_log_probs": "ref_per_token_logps", "old_log_probs": "old_per_token_logps"}
CLIPS = ("clip_ratio/low_mean", "clip_ratio/high_mean")


class RecipeGRPOTrainer(Recorded, GRPOTrainer):
    """``GRPOTrainer`` with ``recipe``: a policy row, its name, or its name with changes.

    All other arguments are GRPOTrainer's. Rewards become the row's advantages over the whole generated batch, all ranks
    together; its loss has the denominators of one optimizer step's share of that batch, as TRL's own has.
    Raises ValueError: what TRL cannot give the row, or what would be said twice (settings.py).
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, *others: Any, recipe: Recipe | str,
                 **more: Any):  # fmt: skip
        args = config_of(args, GRPOConfig, model)
        self.recipe = with_sampler(chosen_row(recipe, GRPOTrainer, args), args)
        self._row = OfGroups.of(self.recipe) if self.recipe.reduction.name == "group-token-mean" else self.recipe
        self._takes = {stage: self.recipe.takes(stage) for stage in self.recipe.STAGES}
        beta = args.beta
        if any("ref_log_probs" in used for used in self._takes.values()):
            beta = number(self.recipe, "beta") or 1.0  # not 0: TRL makes a reference model, and its log-probs
        with lent(args, beta=beta):
            super().__init__(model, reward_funcs, args, *others, **more)

    def _log_probs(self, model: Any, batch: dict[str, Any], **options: Any) -> tuple[Tensor, Any, Any]:
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        images = {name: batch.get(name) for name in IMAGES}
        width = batch["completion_ids"].shape[1]
        found: Any = self._get_per_token_logps_and_entropies(model, ids, mask, width, **images, **options)
        return found

    def _calculate_rewards(self, *given: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(*given)  # of all ranks, [B functions]
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if "old_log_probs" in self._takes["advantages"] and "old_per_token_logps" not in batch:
            with torch.no_grad():
                size = self.args.per_device_train_batch_size
                batch["old_per_token_logps"] = self._log_probs(self.model, batch, batch_size=size)[0]
        group = self.num_generations if self.model.training else self.num_generations_eval
        missing = self._rewards.isnan()
        scored = ~(missing.any(1) if self.recipe.several else missing.all(1)).view(-1, group)
        weights = self.reward_weights.to(self._rewards)
        rewards = (self._rewards * weights).nansum(1).view(-1, group)
        kept = self.recipe.keep(rewards, scored=scored).repeat_interleave(group) & scored.flatten()
        mask = everywhere(self.accelerator, chosen_tokens(batch).long()).bool() & kept[:, None]
        taken = {
            ours: everywhere(self.accelerator, batch[theirs])
            for ours, theirs in THEIRS.items()
            if ours in self._takes["advantages"]
        }
        if self.recipe.several:
            rewards, taken["reward_weights"] = self._rewards.view(len(rewards), group, -1), weights
        length = self.max_completion_length
        found = self.recipe.advantages(rewards, mask, scored=scored, max_length=length, **taken).advantages
        tokens = mask.sum(1)
        of_group = tokens.view(-1, group).sum(1).clamp(min=1).repeat_interleave(group)
        rows, width = batch["completion_ids"].shape
        here = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        batch["advantages"] = found[here, :width]
        batch["tool_mask"] = batch.get("tool_mask", torch.ones_like(batch["completion_mask"])) * kept[here, None]
        batch["denominator"] = count(self.recipe, mask, kept, group)
        batch["tokens_of_group"] = of_group[here]
        self._show((found.sum(1) / tokens.clamp(min=1)).tolist())
        return batch

    def _show(self, advantages: list[float]) -> None:
        """In TRL's table of completions, in the place of its own."""
        logged = self._logs["advantages"]
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages)

    def _known(self, inputs: dict[str, Any], log_probs: Tensor, entropies: Any) -> dict[str, Any]:
        """By a row's names, what TRL knows of the tokens of this micro-batch."""
        old = inputs.get("old_per_token_logps", log_probs.detach())
        sampler = inputs.get("sampling_per_token_logps", None if self.use_vllm else old)
        if sampler is not None:
            sampler = torch.where(sampler.isnan(), old, sampler)  # vLLM gave none: as TRL, no correction there
        reference = inputs.get("ref_per_token_logps")
        known = {"old_log_probs": old, "ref_log_probs": reference, "sampler_log_probs": sampler, "entropies": entropies}
        return known | {"max_length": self.max_completion_length}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        training = self.model.training
        pieces = self.current_gradient_accumulation_steps if training else 1
        of_generated = pieces / self.args.steps_per_generation if training else 1  # one optimizer step's share
        on = {"compute_entropy": True, "compute_aux_loss": self.aux_loss_enabled}
        log_probs, entropies, aux_loss = self._log_probs(model, inputs, **on)
        mask = chosen_tokens(inputs)
        known = self._known(inputs, log_probs, entropies) | {"denominator": inputs["denominator"] * of_generated}
        scale: float = UNIT.scale(pieces, self.accelerator.num_processes)
        if of_a_micro_batch(self.recipe):
            known["denominator"], scale = None, 1 / pieces
        if isinstance(self._row, OfGroups):
            known |= {"group_size": 1, "denominator": known["denominator"] * inputs["tokens_of_group"]}
        tensors = {"log_probs": log_probs, "advantages": inputs["advantages"], "mask": mask}
        loss = self._row.loss(**tensors, **self._row.used("loss", known))
        metrics = self._metrics["train" if training else "eval"]
        means = over_ranks(self.accelerator, {"entropy": mean_of(entropies, mask)} | loss.metrics)
        if means.keys() >= set(CLIPS):
            means["clip_ratio/region_mean"] = sum(means[side] for side in CLIPS)
        for name, mean in means.items():
            metrics[name].append(mean)
        if aux_loss is None:
            return loss.value * scale
        metrics["aux_loss"].append(self.accelerator.gather(aux_loss).mean().item())
        return loss.value * scale + self.router_aux_loss_coef * aux_loss / pieces
