"""Policy-gradient algorithms as rows of choices, from the rewards to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core import Loss
from torchstone.core.inputs import as_float, check_mask, per_token, require, select
from torchstone.core.kl import kl_k3
from torchstone.core.masks import last_chosen
from torchstone.core.result import Mean, mean_of
from torchstone.recipes.choices import NONE, Choice, Recipe
from torchstone.recipes.columns import COLUMNS, NUMBERS
from torchstone.reinforce import discounted_returns
from torchstone.reinforce.returns import scored_members

ALL, TRAINER = Choice("all"), Choice("trainer")


class Advantages(NamedTuple):
    """``advantages`` [B T]: what each token earned. ``returns`` [B T]: what a critic should learn, or None."""

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"] | None


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe(Recipe):
    """A policy-gradient algorithm: its columns stand in the order in which data flows.

    A batch holds B = P * G completions, at index ``p * G + g`` the g-th of prompt p.
    """

    COLUMNS: ClassVar = COLUMNS
    STAGES: ClassVar = {
        "advantages": ("penalty", "reward_kl", "groups", "advantage", "normalise"),
        "token_weights": ("tokens",),
        "loss": (
            "anchor",
            "ratio",
            "surrogate",
            "tokens",
            "sampler",
            "loss_kl",
            "value",
            "entropy",
            "reduction",
            "likelihood",
        ),
    }
    NUMBERS: ClassVar = NUMBERS

    penalty: Choice = NONE
    reward_kl: Choice = NONE
    groups: Choice = ALL
    advantage: Choice
    normalise: Choice = NONE
    anchor: Choice = TRAINER
    ratio: Choice
    surrogate: Choice
    tokens: Choice = ALL
    sampler: Choice = NONE
    loss_kl: Choice = NONE
    value: Choice = NONE
    entropy: Choice = NONE
    reduction: Choice
    likelihood: Choice = NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self)
        check_rewards(self)
        check_tokens(self)

    def inputs(self, at: str, stage: str = "loss") -> dict[str, bool]:
        """Tensors that the choice of this column takes in this stage, without those that another choice makes idle."""
        found = super().inputs(at, stage)
        away = self.anchor.name != "trainer"  # others' log-probs stand in the place of the trainer's
        if stage == self.AHEAD and "old_log_probs" in found:
            needed = found.pop("old_log_probs") or self.tokens.numbers.get("epsilon") is not None
            found |= {"sampler_log_probs" if away else "old_log_probs": True} if needed else {}
        if (away and at in self.STAGES["loss"] and stage != self.AHEAD) or (
            at == "anchor" and self.ratio.name == "none"
        ):
            found = {tensor: needed for tensor, needed in found.items() if tensor != "old_log_probs"}
        if at == "value" and "old_values" in found:  # the middle of the clip, if there is one
            del found["old_values"]
            found |= {} if self.value.numbers["epsilon"] is None else {"old_values": True}
        return found

    def keep(self, rewards: Float[Tensor, "P G"], *, scored: Bool[Tensor, "P G"] | None = None) -> Bool[Tensor, " P"]:
        """Which groups the update may use: sample others in place of the rest, or mask their rows."""
        kept = self.run("groups", {"rewards": rewards, "scored": scored})
        return rewards.new_ones(len(rewards), dtype=torch.bool) if kept is None else kept

    @property
    def several(self) -> bool:
        """Whether the row takes several rewards a completion, ``[P G K]``."""
        return "several_rewards" in self.inputs("advantage")

    def advantages(
        self,
        rewards: Float[Tensor, "P G"] | Float[Tensor, "P G K"],
        mask: Bool[Tensor, "B T"],
        *,
        scored: Bool[Tensor, "P G"] | None = None,
        reward_weights: Float[Tensor, " K"] | None = None,
        greedy_rewards: Float[Tensor, " P"] | None = None,
        prompt_values: Float[Tensor, " P"] | None = None,
        old_log_probs: Float[Tensor, "B T"] | None = None,
        ref_log_probs: Float[Tensor, "B T"] | None = None,
        values: Float[Tensor, "B T"] | None = None,
        energies: Float[Tensor, "B T"] | None = None,
        max_length: int | None = None,
    ) -> Advantages:
        """Stages 4 and 5 of this row: from one reward a completion to an advantage a token.

        Args:
            rewards: one a completion, in reward units; ``rewards[p]`` are those of the G samples of prompt p. With the
                advantage "each-by-std", and with no other, K a completion, ``[P G K]``.
            mask: True where the policy chose the token, in B = P * G completions.
            scored: False where a completion could not be scored; its reward may then be NaN. Its advantages are 0 and
                enter no statistic. Not every loss is 0 where the advantage is: give ``token_weights`` and ``loss`` a
                mask without it, ``mask & scored.flatten()[:, None]``.
            reward_weights: one for each of K rewards; None: all 1.
            greedy_rewards: the reward of each prompt's greedy completion, for the baseline "greedy".
            prompt_values: what each prompt is worth, in reward units, for "prompt-value" (``soft_values``).
            old_log_probs, ref_log_probs: of the sampled tokens, in nats, for a KL in the reward.
            values: the critic's, in reward units, for the advantage "critic".
            energies: the squared norm of each token's score, for "optimal-token" (``optimal_token_advantages``).
            max_length: the longest completion that generation allows, in tokens, for the penalty "overlong".

        Returns: ``Advantages``, detached, 0 where ``mask`` is False.
        Raises ValueError: a shape or dtype is wrong; something that the row needs is missing; a tensor is given that
            the row would ignore (``takes("advantages")`` names those that it uses).
        """
        shape = "P G K" if self.several else "P G"
        fits = isinstance(rewards, Tensor) and rewards.ndim == len(shape.split())
        require(fits, "rewards", f"a tensor [{shape}], since advantage of {self.name} is {self.advantage}", rewards)
        several = as_float("rewards", rewards, shape).detach().view(*rewards.shape[:2], -1)  # [P G 1] of one reward
        P, G, _ = several.shape
        if scored is not None:
            several = several.masked_fill(~scored_members(several[..., 0], scored)[..., None], 0)
        rewards = several.sum(2)
        check_mask(mask)
        require(len(mask) == P * G, "mask", f"{P * G} rows, one for each reward", mask)
        if scored is not None:
            mask = mask & scored.flatten()[:, None]
        batch = {
            "rewards": rewards, "mask": mask, "scored": scored, "greedy_rewards": greedy_rewards,
            "prompt_values": prompt_values, "energies": energies,
            "several_rewards": several, "reward_weights": reward_weights,
            "old_log_probs": old_log_probs, "ref_log_probs": ref_log_probs, "values": values, "max_length": max_length,
            "lengths": mask.sum(1).view(P, G).to(rewards.dtype), "token_rewards": mask,
        }  # fmt: skip
        self.check("advantages", batch)
        penalties, costs = self.run("penalty", batch), self.run("reward_kl", batch)
        if penalties is not None:
            batch["rewards"] = rewards = rewards + penalties
        if costs is not None and costs.ndim == 1:
            batch["rewards"] = rewards = rewards - costs.view(P, G)
            costs = None
        batch["token_rewards"] = at_the_end(rewards, mask, costs)
        advantages, returns = self.run("advantage", batch), None
        if "completion_advantages" in self.inputs("normalise"):
            advantages = self.run("normalise", batch | {"completion_advantages": advantages})
        if isinstance(advantages, tuple):
            advantages, returns = advantages
        elif costs is None:
            advantages = per_token("advantages", advantages.flatten(), mask)
        else:
            advantages = discounted_returns(at_the_end(advantages, mask, costs), mask, gamma=1.0)
        if "advantages" in self.inputs("normalise"):
            advantages = self.run("normalise", {"advantages": advantages, "mask": mask})
        return Advantages(advantages.detach(), returns)

    def token_weights(
        self,
        log_probs: Float[Tensor, "B T"],
        advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        *,
        old_log_probs: Float[Tensor, "B T"] | None = None,
        sampler_log_probs: Float[Tensor, "B T"] | None = None,
        entropies: Float[Tensor, "B T"] | None = None,
        draws: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"] | None:
        """What this row judges on the whole batch: the weight of each token, for ``loss`` of every micro-batch of it.

        The batch is the samples of one optimizer step, of all ranks. In the first step of an update the log-probs and
        the entropies are those before it; in a later one they take a forward pass of their own.

        Args:
            log_probs: log pi(y_t | x, y_<t) of the sampled tokens as the policy is now, in nats.
            advantages: from ``advantages``.
            mask: True where the policy chose the token.
            old_log_probs, sampler_log_probs: the same tokens by the trainer when the update began, and as the engine
                that sampled reported them.
            entropies: H_t of the policy as it is now, in nats.
            draws: a random number for each token, ``torch.rand(mask.shape, generator=generator)``, where tokens are
                drawn.

        Returns: the weights, detached, 0 where ``mask`` is False; None where the row takes none.
        Raises ValueError: a shape or dtype is wrong; something that the row needs is missing; a tensor is given that
            the row would ignore (``takes("token_weights")`` names those that it uses).
        """
        batch = {
            "log_probs": log_probs, "advantages": advantages, "mask": mask, "old_log_probs": old_log_probs,
            "sampler_log_probs": sampler_log_probs, "entropies": entropies, "draws": draws,
        }  # fmt: skip
        self.check("token_weights", batch)
        if self.option("tokens").ahead is None:
            return None
        batch["old_log_probs"] = self.run("anchor", batch)
        weights: Tensor = self.run("tokens", batch, self.AHEAD)
        return weights.to(as_float("log_probs", log_probs, mask.shape).dtype)

    def loss(
        self,
        log_probs: Float[Tensor, "B T"],
        advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        *,
        old_log_probs: Float[Tensor, "B T"] | None = None,
        ref_log_probs: Float[Tensor, "B T"] | None = None,
        sampler_log_probs: Float[Tensor, "B T"] | None = None,
        values: Float[Tensor, "B T"] | None = None,
        old_values: Float[Tensor, "B T"] | None = None,
        returns: Float[Tensor, "B T"] | None = None,
        entropies: Float[Tensor, "B T"] | None = None,
        token_weights: Float[Tensor, "B T"] | None = None,
        max_length: int | None = None,
        group_size: int | None = None,
        denominator: int | float | Tensor | None = None,
        right: Bool[Tensor, " B"] | None = None,
        right_tokens: int | float | Tensor | None = None,
        expert_log_probs: Float[Tensor, "E S"] | None = None,
        expert_mask: Bool[Tensor, "E S"] | None = None,
        expert_tokens: int | float | Tensor | None = None,
    ) -> Loss:
        """Stage 6 of this row: a scalar to minimise.

            L = reduce( w_t L_surrogate_t + beta KL_t + coef L_value_t - coef H_t ) + coef L_likelihood

        Args:
            log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
            advantages: from ``advantages``. Treated as a constant.
            mask: True where the policy chose the token.
            old_log_probs, ref_log_probs, sampler_log_probs: the same tokens by the trainer when the update began, under
                the frozen reference, and as the engine that sampled reported them. Treated as constants.
            values, old_values, returns: see ``clipped_value_error``. Gradient flows through ``values``.
            entropies: H_t, in nats. Gradient flows through it.
            token_weights: the rows of ``token_weights`` of the whole batch; None where that is None.
            max_length: the longest completion that generation allows, in tokens, for the reduction "fixed-length".
            group_size: G, completions of each prompt, for the reduction "group-token-mean" and a ratio within a group.
            denominator: tokens (``token-mean``), groups (``group-token-mean``) or completions of the whole batch, for
                micro-batches.
            right: True where the completion is a right answer, for the likelihood "right-answers".
            right_tokens: tokens of right answers in the whole batch, for micro-batches.
            expert_log_probs, expert_mask: of E answers of an expert, for the likelihood "expert". Gradient flows
                through the first.
            expert_tokens: tokens of the experts in the whole batch, for micro-batches.

        Returns: ``Loss``; metrics (means over tokens): ``approx_kl`` with a ratio, the clip's with "clip", and
            ``kl``, ``value_loss``, ``entropy``, ``nll_loss`` where the row has the term.
        Raises ValueError: a shape or dtype is wrong; something that the row needs is missing; a tensor is given that
            the row would ignore (``takes("loss")`` names those that it uses).
        """
        batch = {
            "log_probs": log_probs, "advantages": advantages, "mask": mask, "old_log_probs": old_log_probs,
            "ref_log_probs": ref_log_probs, "sampler_log_probs": sampler_log_probs, "values": values,
            "old_values": old_values, "returns": returns, "entropies": entropies, "token_weights": token_weights,
            "max_length": max_length, "group_size": group_size, "denominator": denominator, "x": mask,
            "right": right, "right_tokens": right_tokens, "expert_log_probs": expert_log_probs,
            "expert_mask": expert_mask, "expert_tokens": expert_tokens,
        }  # fmt: skip
        self.check("loss", batch)
        batch["old_log_probs"] = self.run("anchor", batch)
        (batch["log_probs"],) = select(mask, log_probs=log_probs)  # once: all terms' gradients add up in float32
        present, old = self.run("ratio", batch)
        loss, metrics = with_metrics(self.run("surrogate", batch | {"log_probs": present, "old_log_probs": old}))
        if old is not None and not metrics:
            metrics["approx_kl"] = mean_of(kl_k3(old, present, mask), mask)
        chosen = self.run("tokens", batch | {"x": loss})
        loss = loss if chosen is None else chosen
        weights = self.run("sampler", batch)
        loss = loss if weights is None else loss * weights
        for at, name in (("loss_kl", "kl"), ("value", "value_loss"), ("entropy", "entropy")):
            term = self.run(at, batch)
            if term is not None:
                loss, metrics[name] = loss + term[0], mean_of(term[1], mask)
        value, likelihood = self.run("reduction", batch | {"x": loss}), self.run("likelihood", batch)
        if likelihood is not None:
            value, metrics["nll_loss"] = value + likelihood[0], likelihood[1]
        return Loss(value, metrics)


def check_ratio(row: Any) -> None:
    """Raise ``ValueError`` if the surrogate of this row, of samples or of distillation, cannot take its ratio."""
    ratios = row.option("surrogate").ratios
    if (ratios and row.ratio.name not in ratios) or (not ratios and row.ratio.name == "none"):
        expected = " or ".join(ratios) or "one other than none"
        raise ValueError(f"{row.name}.ratio: expected {expected}, since surrogate is {row.surrogate}, got {row.ratio}")


def check_tokens(row: PolicyRecipe) -> None:
    """Raise ``ValueError`` if the mean over the chosen tokens has no meaning beside this row, or no batch to judge."""
    if row.tokens.numbers.get("counted") == "chosen" and row.reduction.name != "token-mean":
        why = "since the mean over the chosen tokens is one over tokens"
        raise ValueError(f"{row.name}.reduction: expected token-mean with {row.tokens}, {why}, got {row.reduction}")
    if row.anchor.name == "reference" and row.tokens.name != "all":
        why = "since tokens are judged by how far the policy has moved, not by its distance from the reference"
        raise ValueError(f"{row.name}.tokens: expected all with anchor reference, {why}, got {row.tokens}")


def check_rewards(row: PolicyRecipe) -> None:
    """Raise ``ValueError`` if a choice of this row has no place beside its advantage."""
    of_tokens = "token_rewards" in row.inputs("advantage") or row.reward_kl.name == "per-token"
    if "completion_advantages" in row.inputs("normalise") and of_tokens:
        why = f"advantage is {row.advantage} and reward_kl {row.reward_kl}: not one advantage a completion"
        raise ValueError(f"{row.name}.normalise: expected another than {row.normalise}, since {why}")
    for at, off in {"penalty": "none", "reward_kl": "none", "groups": "all"}.items():
        if row.several and getattr(row, at).name != off:
            why = f"advantage is {row.advantage}, which takes several rewards: give what else counts as one of them"
            raise ValueError(f"{row.name}.{at}: expected {off}, since {why}; got {getattr(row, at)}")


def at_the_end(rewards: Tensor, mask: Tensor, costs: Tensor | None) -> Tensor:
    """Each completion's reward on its last token ``[B T]``, less what each token costs."""
    placed = per_token("rewards", rewards.flatten(), mask).masked_fill(~last_chosen(mask), 0)
    return placed if costs is None else placed - costs


def with_metrics(result: Tensor | tuple[Tensor, dict[str, Mean]]) -> tuple[Tensor, dict[str, Mean]]:
    """A surrogate's losses ``[B T]`` and its metrics, none where it gives losses alone."""
    return result if isinstance(result, tuple) else (result, {})
