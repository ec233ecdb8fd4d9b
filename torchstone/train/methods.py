"""Stages 5 and 6 of each method: what a completion's reward says about its tokens, and the loss.

A class a method, to be read alone: what it needs, how it makes advantages, its loss. ``Method`` has what most share.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core import Loss, fixed_length_mean, masked_whiten, sequence_mean, sequence_sum, token_mean
from torchstone.core.reduce import Count, Reduce
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.ppo import gae, ppo_loss, shaped_rewards
from torchstone.recipes.columns import ESTIMATORS
from torchstone.reinforce import discounted_returns, leave_one_out_advantages, reinforce_loss
from torchstone.train import options
from torchstone.train.model import Outputs, Sliceable


@dataclass(frozen=True)
class Batch(Sliceable):
    """B = P*G completions and what stages 2 to 5 say about them; row p*G+g is the g-th of prompt p. Constants."""

    mask: Bool[Tensor, "B T"]  # True where the policy chose the token; False in groups that the method leaves out
    old: Outputs  # of the policy that sampled
    ref_log_probs: Float[Tensor, "B T"]  # of the frozen start model, or the teacher; the old ones where there is none
    advantages: Any = None  # [B] or [B T]: what the log-probs, or their ratios, are multiplied with
    returns: Any = None  # [B T]: what was earned from this token on
    baseline: Any = None  # [B]: what a completion was expected to earn
    token_weights: Any = None  # [B T]: of each minibatch, by a recipe that judges it as a whole (tokens.py)
    teacher: Any = None  # its Reader, for a method that wants logits
    each: Any = None  # [B K]: the reward of each function, NaN where it gave none; None where there is one alone


class Method:
    """What methods have in common."""

    def __init__(self, config: Any):
        self.config = config

    @property
    def needs(self) -> Set[str]:
        """What must be there beside samples, rewards and log-probs."""
        return set()

    def keep(self, rewards: Float[Tensor, "P G"]) -> Bool[Tensor, "P G"]:
        """Stage 5: which completions teach. All that could be scored, of groups whose rewards are all equal too."""
        return rewards.isfinite()

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """Stage 5: the batch with its advantages. ``greedy`` [P]: what each prompt's most likely tokens earn.

        A reward is NaN where a completion could not be scored: it enters no statistic, and its advantage is 0.
        """
        raise NotImplementedError

    def denominator(self, mask: Bool[Tensor, "B T"]) -> Count:
        """Stage 6: what the sum over a minibatch is divided by: its tokens, or its rows that have one."""
        return mask.sum() if self.config.reduction == "token-mean" else mask.any(1).sum()

    def reduce(self, count: Count) -> Reduce:
        """Stage 6: from a loss a token to a scalar; ``count`` is the minibatch's, so that micro-batches add up."""
        reductions = {"token-mean": token_mean, "sequence-mean": sequence_mean, "sequence-sum": sequence_sum}
        reductions["fixed-length"] = partial(fixed_length_mean, length=self.config.max_new_tokens)
        return partial(reductions[self.config.reduction], denominator=count)

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """Stage 6: the loss of some rows of a minibatch. Gradient flows through ``new``."""
        raise NotImplementedError


class Reinforce(Method):
    """What earned more than the baseline becomes more likely."""

    config: options.ReinforceOptions

    @property
    def needs(self) -> Set[str]:
        """The reference for a KL in the reward, the entropies for a bonus."""
        return needed(ref_log_probs=self.config.beta > 0, entropies=self.config.entropy_coef > 0)

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """What was earned from each token on, and the baseline that the loss takes from it."""
        c, old, scored = self.config, batch.old, rewards.isfinite()
        rewards = rewards.masked_fill(~scored, 0)
        token_rewards = shaped_rewards(
            rewards.flatten(), old.log_probs, batch.ref_log_probs, batch.mask, beta=c.beta
        )  # [B T]
        returns = discounted_returns(token_rewards, batch.mask, gamma=c.gamma)
        if c.baseline == "none":
            return replace(batch, returns=returns)
        baseline = (rewards.sum() / scored.sum().clamp(min=1)).expand_as(rewards)  # the mean of the round
        if c.baseline == "leave-one-out":
            baseline = rewards - leave_one_out_advantages(rewards, scored=scored)  # the mean of the prompt's others
        return replace(batch, returns=returns, baseline=baseline.flatten())

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """``reinforce_loss`` of some rows."""
        return reinforce_loss(
            new.log_probs, batch.returns, batch.mask, reduce=self.reduce(count), baseline=batch.baseline,
            entropies=new.entropies, entropy_coef=self.config.entropy_coef,
        )  # fmt: skip


class PPO(Method):
    """A critic says how much better than expected each token went; steps are clipped; leaving the start has a price."""

    config: options.PPOOptions

    @property
    def needs(self) -> Set[str]:
        """The critic; the reference for a KL in the reward, the entropies for a bonus."""
        return needed(values=True, ref_log_probs=self.config.beta > 0, entropies=self.config.entropy_coef > 0)

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """GAE on the critic's values, and what the critic is to predict."""
        c, old = self.config, batch.old
        token_rewards = shaped_rewards(
            rewards.flatten().nan_to_num(), old.log_probs, batch.ref_log_probs, batch.mask, beta=c.beta
        )  # [B T]
        advantages, returns = gae(token_rewards, old.values, batch.mask, gamma=c.gamma, lam=c.lam)
        if c.whiten:  # over the tokens of the round
            advantages = masked_whiten(advantages, batch.mask, correction=c.whiten_correction, eps=c.whiten_eps)
        return replace(batch, advantages=advantages, returns=returns)

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """``ppo_loss`` of some rows, the critic's part included."""
        c = self.config
        return ppo_loss(
            new.log_probs, batch.old.log_probs, batch.advantages, batch.mask,
            reduce=self.reduce(count), epsilon=c.epsilon, dual_clip=c.dual_clip,
            values=new.values, old_values=batch.old.values, returns=batch.returns,
            value_epsilon=c.value_epsilon, value_coef=c.value_coef,
            entropies=new.entropies, entropy_coef=c.entropy_coef,
        )  # fmt: skip


class GRPO(Method):
    """Each completion against the others of its prompt, in place of a critic; PPO's clip; the KL in the loss."""

    config: options.GRPOOptions

    @property
    def needs(self) -> Set[str]:
        """The reference for a KL in the loss."""
        return needed(ref_log_probs=self.config.beta > 0)

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """Each reward against those of its prompt's other completions, one number a completion."""
        c = self.config
        advantages = group_advantages(
            rewards, divide_by_std=c.divide_by_std, correction=c.std_correction, eps=c.std_eps,
            scored=rewards.isfinite(),
        )  # [P G]  # fmt: skip
        return replace(batch, advantages=advantages.flatten())

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """``grpo_loss`` of some rows."""
        c = self.config
        return grpo_loss(
            new.log_probs, batch.old.log_probs, batch.advantages, batch.mask,
            reduce=self.reduce(count), epsilon=c.epsilon, epsilon_high=c.epsilon_high,
            beta=c.beta, ref_log_probs=batch.ref_log_probs if c.beta > 0 else None, kl=ESTIMATORS[c.kl],
        )  # fmt: skip


class Recipe(Method):
    """A row of the table of recipes: it makes every choice itself."""

    config: options.RecipeOptions

    def __init__(self, config: options.RecipeOptions):
        self.config = config
        self.recipe: Any = config.find()

    @property
    def needs(self) -> Set[str]:
        """What the row says that it needs."""
        return set(self.recipe.needs())

    def keep(self, rewards: Float[Tensor, "P G"]) -> Bool[Tensor, "P G"]:
        """What could be scored, of the groups that the row uses."""
        scored = rewards.isfinite()
        return scored & self.recipe.keep(rewards, scored=scored)[:, None]

    def advantages(self, rewards: Float[Tensor, "P G"], batch: Batch, greedy: Tensor | None = None) -> Batch:
        """The row's own stages 4 and 5."""
        scored = rewards.isfinite() if greedy is None else (rewards - greedy[:, None]).isfinite()
        rewards, greedy = rewards.masked_fill(~scored, 0), None if greedy is None else greedy.nan_to_num()
        known: dict[str, Any] = {
            "greedy_rewards": greedy, "old_log_probs": batch.old.log_probs, "ref_log_probs": batch.ref_log_probs,
            "values": batch.old.values, "max_length": self.config.max_new_tokens,
        }  # fmt: skip
        known = {"scored": scored} | self.recipe.used("advantages", known)
        advantages, returns = self.recipe.advantages(rewards, batch.mask, **known)
        return replace(batch, advantages=advantages, returns=returns)

    def denominator(self, mask: Bool[Tensor, "B T"]) -> Count:
        """What the row's reduction divides by: tokens, groups that have one, or rows that have one."""
        reduction = self.recipe.reduction.name
        if reduction == "token-mean":
            return mask.sum()
        rows = self.config.group_size if reduction == "group-token-mean" else 1
        return mask.reshape(-1, rows * mask.shape[1]).any(1).sum()

    def loss(self, new: Outputs, batch: Batch, count: Count) -> Loss:
        """The row's own loss of some rows."""
        old = batch.old
        known: dict[str, Any] = {
            "old_log_probs": old.log_probs, "ref_log_probs": batch.ref_log_probs,
            "sampler_log_probs": old.log_probs,  # the engine that samples is the trainer itself
            "values": new.values, "old_values": old.values, "returns": batch.returns, "entropies": new.entropies,
            "token_weights": batch.token_weights,
            "max_length": self.config.max_new_tokens, "group_size": self.config.group_size,
        }  # fmt: skip
        used = self.recipe.used("loss", known)
        return self.recipe.loss(new.log_probs, batch.advantages, batch.mask, **used, denominator=count)


def needed(**names: bool) -> Set[str]:
    """The names that are true."""
    return {name for name, true in names.items() if true}


def method_of(config: options.Online) -> Method:
    """The method that the options belong to."""
    from torchstone.train.distill import Distill, DistillRow  # they build on this file
    from torchstone.train.several import class_of

    row: Any = DistillRow if config.has_teacher else class_of(config)
    return {"reinforce": Reinforce, "ppo": PPO, "grpo": GRPO, "distill": Distill, "recipe": row}[config.method](config)
