"""Before RL: the small model learns to read and write its world, then what an answer looks like."""

from __future__ import annotations

import random

import torch

from torchstone.core import Loss, token_mean
from torchstone.data.tasks import Task
from torchstone.train.learner import Learner
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import Run
from torchstone.train.rollout import as_rollout

Pair = tuple[list[int], list[int]]  # ids of what is read, ids of what is to be written


def make_start(config: Run, task: Task, device: str) -> Policy:
    """A small model after pre-training on raw text and a supervised warm-up on a few demonstrations."""
    policy = untrained(config, task, device)
    pretrain_steps = task.start_steps[0] if config.pretrain_steps is None else config.pretrain_steps
    warmup_steps = task.start_steps[1] if config.warmup_steps is None else config.warmup_steps
    written = [example.get("answer", example.get("chosen", "")) for example in task.examples]

    if task.raw_lines:  # several lines on each training prompt; held-out prompts are in none of them
        rng = random.Random(config.seed)
        lines = task.raw_lines(rng.choices(task.examples, k=64 * pretrain_steps), rng)
    else:
        lines = [example["prompt"] + str(text) for example, text in zip(task.examples, written, strict=True)]
    raw = [([ids[0]], ids[1:]) for ids in policy.encode_completions(lines)]  # all but the first token is predicted
    imitate(policy, raw, pretrain_steps, 3e-3, config.seed)

    shown = [i for i in random.Random(config.seed).sample(range(len(written)), len(written)) if written[i]]
    if shown := shown[: config.demonstrations]:  # none if the data has no answers
        prompts = policy.encode_prompts([task.examples[i]["prompt"] for i in shown], config.system)
        answers = policy.encode_completions([str(written[i]) for i in shown])
        imitate(policy, list(zip(prompts, answers, strict=True)), warmup_steps, 1e-3, config.seed)
    return policy


def untrained(config: Run, task: Task, device: str) -> Policy:
    """The small model for the task's characters and its longest prompt, at random."""
    torch.manual_seed(config.seed)
    longest = max(len(example["prompt"]) for example in task.examples + task.held_out) + len(config.system or "") + 1
    return small_policy(task.alphabet, longest + config.max_new_tokens, device)


def imitate(policy: Policy, pairs: list[Pair], steps: int, lr: float, seed: int, size: int = 64) -> None:
    """Minimise the mean negative log-probability of the written tokens, given all that stands before each."""
    learner, rng = Learner(policy), random.Random(seed)
    for _ in range(steps):
        learner.begin_round(lr, steps)
        read, written = zip(*rng.sample(pairs, min(size, len(pairs))), strict=True)
        batch = as_rollout(policy, list(read), list(written))
        learner.backward(Loss(-token_mean(policy(*batch.inputs, 1.0).log_probs, batch.mask), {}))
        learner.update(max_grad_norm=1.0)
        learner.end_round()
