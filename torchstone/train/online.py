"""REINFORCE, PPO, GRPO and every recipe: one loop in seven stages. The maths is called, never written here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.core import Loss, kl_k3, masked_whiten, sequence_mean, sequence_sum, token_mean
from torchstone.core.reduce import Count
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.ppo import explained_variance, gae, ppo_loss, shaped_rewards
from torchstone.reinforce import discounted_returns, leave_one_out_advantages, reinforce_loss
from torchstone.train.learner import Learner
from torchstone.train.model import Policy, Rows, Scores
from torchstone.train.options import GRPO, PPO, Recipe, Reinforce
from torchstone.train.rollout import Rollout, sample, score_tokens, slices
from torchstone.train.tasks import Row, Task, score, take

Method = Reinforce | PPO | GRPO | Recipe


def learn_online(config: Method, task: Task, learner: Learner, reference: Policy | None) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each round. P prompts, G completions of each: B = P*G rows, row p*G+g."""
    P, G, policy = config.prompts, config.group_size, learner.policy
    policy.entropy_bonus = "entropies" in needs(config)
    minibatches = cut(config)
    micro_batches = [piece for minibatch in minibatches for piece in minibatch]
    while learner.step < config.steps:
        learner.begin_round(config.lr, config.steps)

        # 1 prompts: P of them, each repeated G times
        rows = take(task.rows, P, learner.step, config.seed)
        prompts = policy.encode_prompts([row["prompt"] for row in rows], config.system)
        rows = [row for row in rows for _ in range(G)]
        prompts = [prompt for prompt in prompts for _ in range(G)]

        # 2 rollout: tokens [B S], mask [B T]
        torch.manual_seed(config.seed * 1_000_003 + learner.step)  # a resumed run goes on exactly as it would have
        rollout = sample(policy, prompts, config.max_new_tokens, config.temperature)

        # 3 log-probs [B T] before any update: of the policy that sampled, and of the frozen start
        once = config.epochs == len(micro_batches) == 1  # then it serves the update too
        first = score_tokens(policy, rollout, config.temperature, micro_batches, gradient=once)
        old = Scores(*(x.detach() for x in vars(first).values()))
        ref = score_tokens(reference, rollout, config.temperature, micro_batches) if reference else old

        # 4 rewards [P G]
        rewards = torch.tensor(score(task, rows, rollout.completions), device=policy.device).view(P, G)

        # 5 advantages [B] or [B T], of the groups that the method keeps
        mask = kept(config, rewards, rollout.mask)
        greedy = greedy_rewards(config, task, policy, rows[::G])
        advantages, returns = credit(config, rewards, mask, old, ref, greedy)

        batch = Batch(replace(rollout, mask=mask), old, ref.log_probs, advantages, returns)

        for minibatch in minibatches * config.epochs:
            count = denominator(config, mask[minibatch[0].start : minibatch[-1].stop])  # its micro-batches add up to it
            for piece in minibatch:
                # 6 loss: a scalar
                micro = batch[piece]
                new = first if once else policy(*micro.rollout.inputs, config.temperature)
                learner.backward(objective(config, new, micro, count))
            # 7 update
            learner.update(config.max_grad_norm)

        yield learner.end_round() | describe(config, rewards, rollout, batch) | {"samples": learner.step * P * G}


def cut(config: Method) -> list[list[slice]]:
    """The rows of a round in minibatches, one update each, and those in micro-batches, one forward pass each.

    Old and new log-probs of a row come from the same micro-batch, so that their ratio starts at exactly 1.
    """
    rows, unit = config.prompts * config.group_size, config.group_size if "group_size" in needs(config) else 1
    minibatch, micro_batch = (math.ceil(n / unit) * unit for n in (rows / config.minibatches, config.micro_batch))
    return [list(slices(part.start, part.stop, micro_batch)) for part in slices(0, rows, minibatch)]


@dataclass(frozen=True)
class Batch(Rows):
    """What stages 2-5 hand to the loss: constants, with a row for each completion."""

    rollout: Rollout  # its mask is False in groups that are left out
    old: Scores  # of the policy that sampled
    ref_log_probs: Tensor  # [B T] of the start model
    advantages: Tensor  # [B] or [B T]
    returns: Tensor | None  # [B T] what the critic should have said


# ---------------------------------------------------------------------------------- where the methods differ


def needs(config: Method) -> list[str]:
    """What a method needs beside samples, rewards and log-probs: ``ref_log_probs`` (a frozen copy), ``values``, ..."""
    if isinstance(config, Recipe):
        return config.row.needs()
    bonus = not isinstance(config, GRPO) and config.entropy_coef > 0
    return ["ref_log_probs"] * (config.beta > 0) + ["values"] * isinstance(config, PPO) + ["entropies"] * bonus


def kept(config: Method, rewards: Tensor, mask: Tensor) -> Tensor:
    """Stage 5: the mask [B T] without the groups that a recipe leaves out: they are dropped, not sampled anew."""
    if isinstance(config, Recipe):
        return mask & config.row.keep(rewards).repeat_interleave(config.group_size)[:, None]
    return mask


def greedy_rewards(config: Method, task: Task, policy: Policy, rows: list[Row]) -> Tensor | None:
    """Stage 5: the reward [P] of the most likely token at each step, where a recipe takes it as the baseline."""
    if "greedy_rewards" not in needs(config):
        return None
    prompts = policy.encode_prompts([row["prompt"] for row in rows], config.system)
    completions = sample(policy, prompts, config.max_new_tokens, temperature=0.0).completions
    return torch.tensor(score(task, rows, completions), device=policy.device)


def credit(
    config: Method, rewards: Tensor, mask: Tensor, old: Scores, ref: Scores, greedy: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Stage 5: from one reward a completion [P G] to an advantage a completion [B] or a token [B T]; the returns."""
    if isinstance(config, Recipe):
        return config.row.advantages(
            rewards, mask, greedy_rewards=greedy, old_log_probs=old.log_probs, ref_log_probs=ref.log_probs,
            values=old.values, max_length=config.max_new_tokens,
        )  # fmt: skip
    if isinstance(config, GRPO):
        advantages = group_advantages(rewards, divide_by_std=config.divide_by_std, correction=1, eps=1e-4)
        return advantages.flatten(), None
    token_rewards = shaped_rewards(rewards.flatten(), old.log_probs, ref.log_probs, mask, beta=config.beta)
    if isinstance(config, PPO):
        advantages, returns = gae(token_rewards, old.values, mask, gamma=config.gamma, lam=config.lam)
        return masked_whiten(advantages, mask, correction=1, eps=1e-8), returns
    returns = discounted_returns(token_rewards, mask, gamma=config.gamma)
    baseline = torch.zeros_like(rewards)
    if config.baseline == "mean":  # of the round
        baseline += rewards.mean()
    elif config.baseline == "leave-one-out":  # the mean reward of the prompt's other completions
        baseline = rewards - leave_one_out_advantages(rewards)
    return returns - baseline.flatten()[:, None], returns


def denominator(config: Method, mask: Tensor) -> Count:
    """Stage 6: what the sum over a minibatch is divided by: its tokens, its groups, or its rows with a token."""
    reduction = config.row.reduction.name if isinstance(config, Recipe) else ""
    if isinstance(config, PPO) or reduction == "token-mean":
        return mask.sum()
    rows = config.group_size if reduction == "group-token-mean" else 1
    return mask.reshape(-1, rows * mask.shape[1]).any(1).sum()


def objective(config: Method, new: Scores, batch: Batch, count: Count) -> Loss:
    """Stage 6: the loss of some rows of a minibatch; ``count`` is its denominator."""
    mask, old = batch.rollout.mask, batch.old
    if isinstance(config, Recipe):
        return config.row.loss(
            new.log_probs, batch.advantages, mask, old_log_probs=old.log_probs, ref_log_probs=batch.ref_log_probs,
            sampler_log_probs=old.log_probs,  # the program that samples is the one that trains
            values=new.values, old_values=old.values, returns=batch.returns, entropies=new.entropies,
            max_length=config.max_new_tokens, group_size=config.group_size, denominator=count,
        )  # fmt: skip
    if isinstance(config, GRPO):
        return grpo_loss(
            new.log_probs, old.log_probs, batch.advantages, mask, reduce=partial(sequence_mean, denominator=count),
            epsilon=config.epsilon, epsilon_high=config.epsilon_high,
            beta=config.beta, ref_log_probs=batch.ref_log_probs if config.beta else None,
        )  # fmt: skip
    if isinstance(config, PPO):
        return ppo_loss(
            new.log_probs, old.log_probs, batch.advantages, mask,
            reduce=partial(token_mean, denominator=count), epsilon=config.epsilon,
            values=new.values, old_values=old.values, returns=batch.returns,
            value_epsilon=config.value_epsilon, value_coef=config.value_coef,
            entropies=new.entropies, entropy_coef=config.entropy_coef,
        )  # fmt: skip
    return reinforce_loss(
        new.log_probs, batch.advantages, mask, reduce=partial(sequence_sum, denominator=count),
        entropies=new.entropies, entropy_coef=config.entropy_coef,
    )  # fmt: skip


def describe(config: Method, rewards: Tensor, rollout: Rollout, batch: Batch) -> dict[str, Any]:
    """The round's metrics that no loss knows; docs/train.md defines each by its expression."""
    mask, old = rollout.mask, batch.old
    groups = rewards if rewards.shape[1] > 1 else rewards.T  # without groups: the round is one
    metrics = {
        "reward": rewards.mean(),
        "reward_std": groups.std(1).mean(),
        "frac_reward_zero_std": (groups.amax(1) == groups.amin(1)).float().mean(),
        "entropy": token_mean(old.entropies, mask),
        "completions/mean_length": mask.sum(1).float().mean(),
        "completions/clipped_ratio": rollout.cut_off.float().mean(),
    }
    if "ref_log_probs" in needs(config):
        metrics["kl"] = token_mean(kl_k3(old.log_probs, batch.ref_log_probs, mask), mask)
    if "values" in needs(config) and batch.returns is not None:
        metrics["explained_variance"] = explained_variance(old.values, batch.returns, mask)
    return {name: float(value) for name, value in metrics.items()}
