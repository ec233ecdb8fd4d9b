"""``torchstone sanity``: prompts that a model solves sometimes; a sound loop must learn them, broken ones must not."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from torchstone.core import Loss
from torchstone.data.tasks import Example, Task
from torchstone.evaluate.passes import completed
from torchstone.rewards.judging import judge
from torchstone.rewards.several import as_rewards
from torchstone.train import methods, online
from torchstone.train.learner import Learner
from torchstone.train.model import Policy
from torchstone.train.options import GRPOOptions
from torchstone.train.rollout import slices, uniforms

SOMETIMES = (0.2, 0.8)  # solved as often as this, a prompt teaches
LEARNED, NOT_LEARNED = 0.95, 0.8  # a sound loop gets to the first, a broken one stays below the second
Say = Callable[[int, int, str], None]  # done, of how many, a note


@dataclass(frozen=True)
class Found:
    """The prompts that are solved sometimes; how many were looked at, how many are solved less often, more often."""

    examples: list[Example]
    seen: int
    never: int
    always: int


def binary(task: Task, threshold: float) -> Task:
    """The task with a reward of 1 where it was at least the threshold, else 0: the mean is the share that pass."""
    assert task.reward
    rewards = as_rewards(task.reward)

    def passes(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        given = {name: column for name, column in columns.items() if isinstance(column, list)}
        scores = rewards(prompts=prompts, completions=completions, **given)
        return [float(score is not None and score >= threshold) for score in scores]

    return replace(task, reward=passes)


def find_prompts(config: GRPOOptions, task: Task, policy: Policy, samples: int, most: int, say: Say) -> Found:
    """The first ``config.prompts`` training prompts that the model solves sometimes, from at most ``most``."""
    low, high = SOMETIMES
    found: list[Example] = []
    rates: list[float] = []
    most, size = min(most, len(task.examples)), max(1, max(config.micro_batch, 64) // samples)
    for piece in slices(0, most, size):
        some = [example for example in task.examples[piece] for _ in range(samples)]
        noise = torch.cat([uniforms(config.seed, -2 - i, samples, config.max_new_tokens) for i in range(most)[piece]])
        _, rollout = completed(config, policy, [example["prompt"] for example in some], noise)
        earned = judge(task, some, rollout.completions, rollout)
        new = [sum(earned[i : i + samples]) / samples for i in range(0, len(earned), samples)]
        found += [some[i * samples] for i, rate in enumerate(new) if low <= rate <= high]
        rates += new
        say(min(len(found), config.prompts), config.prompts, f"{len(rates)} looked at")
        if len(found) >= config.prompts:
            break
    return Found(found[: config.prompts], len(rates), sum(r < low for r in rates), sum(r > high for r in rates))


def rates_of(config: GRPOOptions, task: Task, start: Policy, rounds: int, say: Say) -> list[float]:
    """Train a copy of the start model; the share of each round's completions that pass. It ends when all is learned."""
    learner, rates = Learner(copy.deepcopy(start), schedule=config.schedule), []
    for metrics in online.learn_online(config, task, learner, None):
        rates.append(metrics["reward"])
        say(len(rates), rounds, f"passes {100 * rates[-1]:.0f}%")
        if rates[-1] >= LEARNED or len(rates) == rounds:
            break
    return rates


def verdict(name: str, rates: list[float]) -> bool:
    """Whether a loop did what it must: a sound one learned, a broken one did not."""
    return rates[-1] >= LEARNED if name == "sound" else max(rates) < NOT_LEARNED


# ---------------------------------------------------------------------------------------- loops that are broken


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """``owner.name`` is ``make(owner.name)`` inside the block."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def flipped(loss: Any) -> Any:
    """Stage 6: the loss with its sign turned, so that what earned less becomes more likely."""

    def broken(self: Any, *arguments: Any) -> Loss:
        found = loss(self, *arguments)
        return Loss(-found.value, found.metrics)

    return broken


def shifted(advantages: Any) -> Any:
    """Stages 2 and 6: the mask one token late, as where [B S] and [B S-1] are mixed up."""

    def broken(self: Any, *arguments: Any) -> Any:
        batch = advantages(self, *arguments)
        return replace(batch, mask=torch.cat([torch.zeros_like(batch.mask[:, :1]), batch.mask[:, :-1]], 1))

    return broken


def shuffled(judged: Any) -> Any:
    """Stage 4: the rewards in another order than the completions."""
    rng = random.Random(0)

    def broken(*arguments: Any, **options: Any) -> Any:
        found = judged(*arguments, **options)
        return replace(found, rewards=rng.sample(found.rewards, len(found.rewards)))

    return broken


LOOPS: dict[str, Callable[[], Any]] = {
    "sound": nullcontext,
    "sign flipped": lambda: replaced(methods.GRPO, "loss", flipped),
    "mask shifted": lambda: replaced(methods.GRPO, "advantages", shifted),
    "rewards shuffled": lambda: replaced(online, "judged", shuffled),
}
