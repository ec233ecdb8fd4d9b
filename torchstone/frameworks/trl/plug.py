"""TRL's GRPOTrainer with a row of the table in place of its loss and its advantages."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from torchstone.core.result import mean_of
from torchstone.frameworks.trl.settings import OF_A_MICRO_BATCH, chosen_row, number, with_sampler
from torchstone.frameworks.trl.unit import UNIT
from torchstone.recipes.choices import Recipe

THEIRS = {"ref_log_probs": "ref_per_token_logps", "old_log_probs": "old_per_token_logps"}
IMAGES = """
    pixel_values image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids
    mm_token_type_ids image_position_ids
"""


class RecipeGRPOTrainer(GRPOTrainer):
    """``GRPOTrainer`` with ``recipe``: a policy row, its name, or its name with changes.

    All other arguments are GRPOTrainer's. Rewards become the row's advantages over the whole generated batch, all ranks
    together; its loss has the denominators of one optimizer step's share of that batch, as TRL's own has.
    Raises ValueError: what TRL cannot give the row, or what would be said twice (settings.py).
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, *others: Any, recipe: Recipe | str,
                 **more: Any):  # fmt: skip
        args = GRPOConfig() if args is None else copy(args)
        self.recipe = with_sampler(chosen_row(recipe, GRPOTrainer, args), args)
        self.takes = {stage: self.recipe.takes(stage) for stage in self.recipe.STAGES}
        if any("ref_log_probs" in used for used in self.takes.values()):
            args.beta = number(self.recipe, "beta") or 1.0  # not 0: TRL makes a reference model, and its log-probs
        super().__init__(model, reward_funcs, args, *others, **more)

    def _log_probs(self, model: Any, batch: dict[str, Any], **options: Any) -> tuple[Tensor, Any, Any]:
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        images = {name: batch.get(name) for name in IMAGES.split()}
        width = batch["completion_ids"].shape[1]
        found: Any = self._get_per_token_logps_and_entropies(model, ids, mask, width, **images, **options)
        return found

    def _everywhere(self, x: Tensor) -> Tensor:
        """Rows of all ranks, in the order of the prompts."""
        gathered: Tensor = self.accelerator.gather(self.accelerator.pad_across_processes(x, dim=1))
        return gathered

    def _calculate_rewards(self, *given: Any) -> Tensor:
        self.rewards = super()._calculate_rewards(*given)  # of all ranks, [B functions]
        return self.rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if "old_log_probs" in self.takes["advantages"] and "old_per_token_logps" not in batch:
            with torch.no_grad():
                size = self.args.per_device_train_batch_size
                batch["old_per_token_logps"] = self._log_probs(self.model, batch, batch_size=size)[0]
        group = self.num_generations if self.model.training else self.num_generations_eval
        scored = ~self.rewards.isnan().all(1).view(-1, group)
        rewards = (self.rewards * self.reward_weights.to(self.rewards)).nansum(1).view(-1, group)
        kept = self.recipe.keep(rewards, scored=scored).repeat_interleave(group)
        mask = self._everywhere(_mask(batch).long()).bool() & kept[:, None]
        tensors = {
            ours: self._everywhere(batch[key]) for ours, key in THEIRS.items() if ours in self.takes["advantages"]
        }
        length = self.max_completion_length
        found = self.recipe.advantages(rewards, mask, scored=scored, max_length=length, **tensors).advantages
        rows = len(batch["completion_ids"])
        here = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        batch["advantages"] = found[here, : batch["completion_ids"].shape[1]]
        batch["tool_mask"] = batch.get("tool_mask", torch.ones_like(batch["completion_mask"])) * kept[here, None]
        batch["denominator"], tokens = self._count(mask, kept, group), mask.sum(1)
        batch["share"] = (tokens / tokens.view(-1, group).sum(1).clamp(min=1).repeat_interleave(group))[here]
        logged = self._logs["advantages"]
        for _ in range(min(len(found), len(logged))):
            logged.pop()
        logged.extend((found.sum(1) / tokens.clamp(min=1)).tolist())
        return batch

    def _count(self, mask: Tensor, kept: Tensor, group: int) -> Tensor:
        """What the row's reduction divides by, of the whole generated batch: tokens, groups or completions."""
        reduction, rows = self.recipe.reduction, mask.any(1)
        if reduction.name == "token-mean":
            return mask.sum()
        if reduction.name == "group-token-mean":
            return rows.view(-1, group).any(1).sum()
        return (kept if reduction.numbers["empty_rows"] == "counted" else rows).sum()

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        mode = "train" if self.model.training else "eval"
        pieces = self.current_gradient_accumulation_steps if mode == "train" else 1
        step = pieces / self.args.steps_per_generation if mode == "train" else 1  # the share of the generated batch
        on = {"compute_entropy": True, "compute_aux_loss": self.aux_loss_enabled}
        log_probs, entropies, aux_loss = self._log_probs(model, inputs, **on)
        old, mask = inputs.get("old_per_token_logps", log_probs.detach()), _mask(inputs)
        sampler = inputs.get("sampling_per_token_logps", None if self.use_vllm else old)
        if sampler is not None:
            sampler = torch.where(sampler.isnan(), old, sampler)  # vLLM gave none: as TRL, no correction there
        given = {
            "old_log_probs": old, "ref_log_probs": inputs.get("ref_per_token_logps"), "sampler_log_probs": sampler,
            "entropies": entropies,
        }  # fmt: skip
        tensors = {"log_probs": log_probs, "advantages": inputs["advantages"], "mask": mask}
        tensors |= self.recipe.used("loss", given)
        numbers = {"max_length": self.max_completion_length, "denominator": inputs["denominator"] * step}
        scale: float = UNIT.scale(pieces, self.accelerator.num_processes)
        if self.recipe.name.partition(":")[0] == OF_A_MICRO_BATCH:
            numbers["denominator"], scale = None, 1 / pieces
        if self.recipe.reduction.name == "group-token-mean":  # TRL shuffles: each row has its share of its group
            alone = [{k: v[i : i + 1] for k, v in tensors.items() if v is not None} for i in range(len(mask))]
            losses = [self.recipe.loss(**row, group_size=1, **numbers) for row in alone]
            value = sum(loss.value * share for loss, share in zip(losses, inputs["share"], strict=True))
            metrics = {k: sum((x.metrics[k] for x in losses[1:]), m) for k, m in losses[0].metrics.items()}
        else:
            value, metrics = self.recipe.loss(**tensors, **numbers)
        for name, mean in ({"entropy": mean_of(entropies, mask)} | metrics).items():
            total, count = self.accelerator.reduce(torch.stack([mean.total, mean.count.to(mean.total)]), "sum")
            self._metrics[mode][name].append((total / count.clamp(min=1)).item())
        value = value * scale
        if aux_loss is not None:
            self._metrics[mode]["aux_loss"].append(self.accelerator.gather(aux_loss).mean().item())
            value = value + self.router_aux_loss_coef * aux_loss / pieces
        return value


def _mask(batch: dict[str, Any]) -> Tensor:
    """True where the policy chose the token: not at padding, nor at tool output."""
    return (batch["completion_mask"] * batch.get("tool_mask", 1)).bool()
