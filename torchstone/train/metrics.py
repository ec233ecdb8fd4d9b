"""What a run reports beside its losses: of each round, and of held-out prompts. docs/train.md has the expressions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.core import kl_k3, token_mean
from torchstone.data.tasks import Task
from torchstone.distill import jsd_exact
from torchstone.ppo import explained_variance
from torchstone.rewards.calling import State
from torchstone.rewards.judging import judged
from torchstone.rewards.metrics import of_rewards
from torchstone.rewards.reward_model import judge_pairs
from torchstone.train.methods import Batch, Method
from torchstone.train.model import Policy
from torchstone.train.options import RewardOptions, Run
from torchstone.train.rollout import Rollout, sample, slices, uniforms
from torchstone.train.supervised import held_out_losses


def of_round(method: Method, rewards: Tensor | None, rollout: Rollout, batch: Batch) -> dict[str, float]:
    """The round's metrics that no loss knows, from its rewards [P G], if there are any, and its samples."""
    old, mask = batch.old, rollout.mask  # of all groups, those that the method leaves out too
    metrics = {} if rewards is None else of_rewards(rewards)
    metrics |= {
        "entropy": token_mean(old.entropies, mask),
        "completions/mean_length": mask.sum(1).float().mean(),
        "completions/clipped_ratio": rollout.cut_off.float().mean(),
    }
    if {"ref_log_probs", "teacher_log_probs"} & method.needs:
        metrics["kl"] = token_mean(kl_k3(old.log_probs, batch.ref_log_probs, mask), mask)
    if "values" in method.needs and batch.returns is not None:
        metrics["explained_variance"] = explained_variance(old.values, batch.returns, mask)
    return {name: float(value) for name, value in metrics.items()}


def held_out(
    config: Run, task: Task, policy: Policy, teacher: Policy | None = None, state: State | None = None
) -> list[dict[str, Any]]:
    """Sample each held-out prompt once, as in training: prompt, completion, tokens and, with a checker, reward.

    The reward is None where it could not be scored. With a teacher, ``kl``: KL(policy || teacher) of the next token, in
    nats, added up over the completion's tokens.
    """
    if isinstance(config, RewardOptions):
        return judge_pairs(config, policy, task.held_out[: config.eval_prompts])
    samples: list[dict[str, Any]] = []
    n = min(config.eval_prompts, len(task.held_out))
    noise = uniforms(config.seed, -1, n, config.max_new_tokens)
    for piece in slices(0, n, config.micro_batch):
        examples = task.held_out[piece]
        prompts = policy.encode_prompts([example["prompt"] for example in examples], config.system)
        rollout = sample(policy, prompts, config.max_new_tokens, config.temperature, noise[piece])
        sampled = zip(examples, rollout.completions, rollout.mask.sum(1).tolist(), strict=True)
        found = [{"prompt": example["prompt"], "completion": c, "tokens": n} for example, c, n in sampled]
        if task.reward:
            earned = judged(task, examples, rollout.completions, rollout, state)
            found = [one | more for one, more in zip(found, earned.of_each(), strict=True)]
        if config.method == "sft":
            losses = held_out_losses(config, policy, examples)
            found = [one | {"loss": loss, "of": n} for one, (loss, n) in zip(found, losses, strict=True)]
        if teacher is not None:
            kls = next_token_kl(policy, teacher, rollout, config.temperature)
            found = [one | {"kl": kl} for one, kl in zip(found, kls.tolist(), strict=True)]
        samples += found
    return samples


@torch.no_grad()
def next_token_kl(policy: Policy, teacher: Policy, rollout: Rollout, temperature: float) -> Float[Tensor, " B"]:
    """KL(policy || teacher) of the next token over the whole vocabulary, in nats, summed over each completion."""
    logits, teacher_logits = (model.logits(*rollout.inputs) for model in (policy, teacher))
    kl = jsd_exact(logits, teacher_logits, beta=1.0, temperature=temperature)  # [B T]
    return kl.masked_fill(~rollout.mask, 0).sum(1)


def of_samples(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Mean reward, the length in tokens of completions that earned something, and nothing; KL to a teacher a token."""
    scored = [one for one in samples if one.get("reward") is not None]
    columns = {
        "eval_length/right": [one["tokens"] for one in scored if one["reward"] > 0],
        "eval_length/wrong": [one["tokens"] for one in scored if one["reward"] <= 0],
        "eval_reward": [one["reward"] for one in scored],
        "eval_unscored": [one["reward"] is None for one in samples if "reward" in one],
    }
    for name in samples[0].get("rewards", ()) if samples else ():
        columns[f"eval_rewards/{name}/mean"] = [
            one["rewards"][name] for one in scored if one["rewards"][name] is not None
        ]
    means = {name: sum(values) / len(values) for name, values in columns.items() if values}
    if samples and "rewards/chosen" in samples[0]:
        margins = [one["rewards/chosen"] - one["rewards/rejected"] for one in samples]
        means |= {
            "eval_accuracy": sum(m > 0 for m in margins) / len(margins),
            "eval_margin": sum(margins) / len(margins),
        }
    if samples and "loss" in samples[0]:
        means["eval_loss"] = sum(one["loss"] for one in samples) / sum(one["of"] for one in samples)
    if samples and "kl" in samples[0]:
        means["eval_kl"] = sum(one["kl"] for one in samples) / sum(one["tokens"] for one in samples)
    return means
