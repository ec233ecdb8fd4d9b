"""Before RL: the small model learns to read and write its world, then what an answer looks like."""

from __future__ import annotations

import random
from itertools import chain, islice

import torch

from torchstone.data.formats import completion_of, text_of
from torchstone.data.tasks import Example, Task
from torchstone.train.learner import Learner
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import Run
from torchstone.train.processes import once
from torchstone.train.supervised import Texts, encode, imitate

MOST = 20_000  # examples that are pre-trained on
Pair = tuple[list[int], list[int]]  # ids of what is read, ids of what is to be written


@once
def make_start(config: Run, task: Task, device: str) -> Policy:
    """A small model after pre-training on raw text and a supervised warm-up on a few demonstrations."""
    policy = untrained(config, task, device)
    pretrain_steps = task.start_steps[0] if config.pretrain_steps is None else config.pretrain_steps
    warmup_steps = task.start_steps[1] if config.warmup_steps is None else config.warmup_steps
    examples = task.examples[:MOST]

    if task.raw_lines:  # several lines on each training prompt; held-out prompts are in none of them
        rng = random.Random(config.seed)
        lines = task.raw_lines(rng.choices(task.examples, k=64 * pretrain_steps), rng)
    else:
        lines = [text_of(example["prompt"]) + completion_of(example) for example in examples]
    raw = [([ids[0]], ids[1:]) for ids in policy.encode_completions(lines)]  # all but the first token is predicted
    learn(policy, raw, pretrain_steps, 3e-3, config.seed)

    shown = demonstrations(config, task)
    if shown and warmup_steps:  # none if the data has no answers
        learn(policy, list(zip(*encode(config, policy, shown), strict=True)), warmup_steps, 1e-3, config.seed)
    return policy


def learn(policy: Policy, pairs: list[Pair], steps: int, lr: float, seed: int, size: int = 64) -> None:
    """Steps on so many of the pairs, drawn at random."""
    rng = random.Random(seed)

    def draw(step: int) -> Texts:
        read, written = zip(*rng.sample(pairs, min(size, len(pairs))), strict=True)
        return list(read), list(written)

    for _ in imitate(Learner(policy), draw, steps, lr):
        pass


def demonstrations(config: Run, task: Task) -> list[Example]:
    """So many examples with an answer, at random; all of them where the number is left out."""
    order = random.Random(config.seed).sample(range(len(task.examples)), len(task.examples))
    shown = (task.examples[i] for i in order if completion_of(task.examples[i]))
    return list(islice(shown, config.demonstrations))


def untrained(config: Run, task: Task, device: str) -> Policy:
    """The small model for the task's characters and its longest prompt, with its completion or answer, at random."""
    torch.manual_seed(config.seed)
    sizes = (
        len(text_of(example["prompt"])) + max(config.max_new_tokens, len(str(example.get("answer", ""))) + 1)
        for example in chain(task.examples, task.held_out)
    )
    return small_policy(task.alphabet, max(sizes) + len(config.system or "") + 1, device)
