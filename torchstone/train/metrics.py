"""What a run reports beside its losses: of each round, and of held-out prompts. docs/train.md has the expressions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone.core import kl_k3, token_mean
from torchstone.ppo import explained_variance
from torchstone.train.methods import Batch, Method
from torchstone.train.model import Policy
from torchstone.train.options import Run
from torchstone.train.rollout import Rollout, sample, slices
from torchstone.train.tasks import Task, judge


def of_round(method: Method, rewards: Tensor, rollout: Rollout, batch: Batch) -> dict[str, float]:
    """The round's metrics that no loss knows, from its rewards [P G] and its samples."""
    old, mask = batch.old, rollout.mask  # of all groups, those that the method leaves out too
    groups = rewards if rewards.shape[1] > 1 else rewards.T  # without groups: the round is one
    metrics = {
        "reward": rewards.mean(),
        "reward_std": groups.std(1).mean(),
        "frac_reward_zero_std": (groups.amax(1) == groups.amin(1)).float().mean(),
        "entropy": token_mean(old.entropies, mask),
        "completions/mean_length": mask.sum(1).float().mean(),
        "completions/clipped_ratio": rollout.cut_off.float().mean(),
    }
    if "ref_log_probs" in method.needs:
        metrics["kl"] = token_mean(kl_k3(old.log_probs, batch.ref_log_probs, mask), mask)
    if "values" in method.needs and batch.returns is not None:
        metrics["explained_variance"] = explained_variance(old.values, batch.returns, mask)
    return {name: float(value) for name, value in metrics.items()}


def held_out(config: Run, task: Task, policy: Policy) -> list[dict[str, Any]]:
    """Sample each held-out prompt once, as in training: prompt, completion, tokens and, with a checker, reward."""
    torch.manual_seed(config.seed)
    samples: list[dict[str, Any]] = []
    for piece in slices(0, min(config.eval_prompts, len(task.held_out)), config.micro_batch):
        examples = task.held_out[piece]
        prompts = policy.encode_prompts([example["prompt"] for example in examples], config.system)
        rollout = sample(policy, prompts, config.max_new_tokens, config.temperature)
        sampled = zip(examples, rollout.completions, rollout.mask.sum(1).tolist(), strict=True)
        found = [{"prompt": example["prompt"], "completion": c, "tokens": n} for example, c, n in sampled]
        if task.reward:
            rewards = judge(task, examples, rollout.completions)
            found = [one | {"reward": reward} for one, reward in zip(found, rewards, strict=True)]
        samples += found
    return samples


def of_samples(samples: list[dict[str, Any]]) -> dict[str, float]:
    """The mean reward, and the length in tokens of the completions that earned something, and nothing."""
    columns = {
        "eval_length/right": [one["tokens"] for one in samples if one["reward"] > 0],
        "eval_length/wrong": [one["tokens"] for one in samples if one["reward"] <= 0],
        "eval_reward": [one["reward"] for one in samples],
    }
    return {name: sum(values) / len(values) for name, values in columns.items() if values}
