"""SFT: the same stages, but the completion is given, and every token of it is right. The small model's warm-up too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from torchstone.core import Loss, token_mean
from torchstone.core.reduce import Count
from torchstone.core.result import mean_of
from torchstone.data.formats import completion_of
from torchstone.data.tasks import Example, take
from torchstone.train.learner import Learner
from torchstone.train.model import Outputs, Policy
from torchstone.train.options import Run, SFTOptions
from torchstone.train.processes import share
from torchstone.train.rollout import Rollout, as_rollout, check_room

Texts = tuple[list[list[int]], list[list[int]]]  # ids of what is read, ids of what is to be written; a row an example


def learn_sft(
    config: SFTOptions, examples: Sequence[Example], learner: Learner, steps: int
) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each step on N examples, which have a prompt and a completion."""
    N, policy = min(config.batch_size, len(examples)), learner.policy
    policy.keep_logits = True  # for the share of tokens that are the most likely ones
    draw = lambda step: encode(config, policy, take(examples, N, step, config.seed))  # noqa: E731
    return imitate(learner, draw, steps, config.lr, config.temperature, config.rows_at_once, config.max_grad_norm)


def imitate(
    learner: Learner, draw: Callable[[int], Texts], steps: int, lr: float,
    temperature: float = 1.0, rows_at_once: Callable[[int], int] = lambda width: 1024, max_grad_norm: float = 1.0,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield the metrics of each step. ``draw(step)`` gives its examples."""
    policy = learner.policy
    while learner.step < steps:
        learner.begin_round(lr, steps)

        # 1 prompts and 2 completions: given
        read, written = draw(learner.step)
        count, width = sum(map(len, written)), max(map(len, read)) + max(map(len, written))
        for rows in learner.share(share(0, len(read), rows_at_once(width))):
            # 3 log-probs [B T]
            batch = as_rollout(policy, read[rows], written[rows])
            new = policy(*batch.inputs, temperature)
            # 4 rewards and 5 advantages: none, every token is right
            # 6 loss: a scalar, of which the micro-batches are summands
            learner.backward(sft_loss(new, batch, count))
        # 7 update
        learner.update(max_grad_norm)

        yield learner.end_round()


def sft_loss(new: Outputs, batch: Rollout, count: Count) -> Loss:
    """The mean of -log pi(y_t | x, y_<t) over ``count`` completion tokens, end tokens included."""
    metrics = {"loss": mean_of(-new.log_probs, batch.mask)}
    if new.logits is not None:
        right = new.logits.argmax(-1) == batch.tokens[:, -batch.mask.shape[1] :]
        metrics["mean_token_accuracy"] = mean_of(right, batch.mask)
    return Loss(-token_mean(new.log_probs, batch.mask, denominator=count), metrics)


def encode(config: Run, policy: Policy, examples: Sequence[Example]) -> Texts:
    """Prompts and completions as token ids; those of the completions have the end token."""
    prompts = policy.encode_prompts([example["prompt"] for example in examples], config.system)
    completions = policy.encode_completions([completion_of(example) for example in examples])
    check_room(policy, prompts, list(map(len, completions)))
    return prompts, completions


@torch.no_grad()
def held_out_losses(config: Run, policy: Policy, examples: Sequence[Example]) -> list[tuple[float, int]]:
    """-log pi(y | x) of each example's completion, in nats, and its number of tokens."""
    batch = as_rollout(policy, *encode(config, policy, examples))
    log_probs = policy(*batch.inputs, config.temperature).log_probs.masked_fill(~batch.mask, 0)
    return list(zip((-log_probs.sum(1)).tolist(), batch.mask.sum(1).tolist(), strict=True))
