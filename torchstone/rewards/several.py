"""Several reward functions as one: their weighted sum."""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

from torchstone.rewards.calling import GIVEN, LARGEST, Logged, Reward, Rows, Scores, State, at, call, parameters
from torchstone.rewards.loading import read_reward
from torchstone.rewards.workers import Workers
from torchstone.terminal import UserError


class Rewards:
    """One or more reward functions and their weights; callable with TRL's signature.

        r = sum of w_k r_k over the functions that gave a number; None where none of them did

    A function that gives None takes no part in the sum, which then is as if it had given 0 (TRL 1.16.0: the same).
    """

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float] = (), workers: Workers | None = None):
        self.rewards, self.weights, self.workers = named_apart(rewards), [*weights] or [1.0] * len(rewards), workers
        self.patience = 5.0  # seconds

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: list[Any]) -> Scores:
        """The reward of each completion."""
        return self.judge({"prompts": prompts, "completions": completions, **columns}, None)[0]

    def judge(self, rows: Rows, state: State | None) -> tuple[Scores, dict[str, Scores], Logged]:
        """The reward of each completion, each function's by name where there are several, and what they logged."""
        with self.waiting():
            found, logged = self.workers.judge(rows, state) if self.workers else call(self.rewards, rows, state)
        sums = [self.total(one) for one in zip(*found, strict=True)]
        for i, total in enumerate(sums):
            if total is not None and abs(total) > LARGEST:
                raise UserError(f"the weighted sum of the rewards is {total:g}: float32 overflows{at(rows, i)}")
        several = dict(zip([reward.name for reward in self.rewards], found, strict=True)) if len(found) > 1 else {}
        for name, given in several.items():
            if numbers := [one for one in given if one is not None]:
                logged.metrics[f"rewards/{name}/mean"] = [fmean(numbers)]
        return sums, several, logged

    def total(self, given: Sequence[float | None]) -> float | None:
        """The weighted sum for one completion."""
        terms = [weight * one for weight, one in zip(self.weights, given, strict=True) if one is not None]
        return sum(terms) if terms else None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Says on stderr that the rewards take long: after 5 seconds, and again whenever it is twice as long."""
        labels = ", ".join(reward.label for reward in self.rewards)

        def tell() -> None:
            text = f"torchstone: judging completions has taken {self.patience:.0f} s so far ({labels})"
            print(text, file=sys.stderr, flush=True)
            self.patience *= 2
            start()

        def start() -> None:
            nonlocal timer
            timer = threading.Timer(self.patience, tell)
            timer.daemon = True
            timer.start()

        timer = threading.Timer(0, tell)
        start()
        try:
            yield
        finally:
            timer.cancel()


def load_rewards(
    specs: Sequence[str], weights: Sequence[float] = (), workers: int = 0, timeout: float | None = None
) -> Rewards:
    """The functions that ``--reward`` names, as one.

    Args:
        weights: one for each; none: all 1.
        workers: how many processes judge; 0: this one does.
        timeout: seconds that a batch may take; a process of its own judges then, which can be ended.

    Raises UserError: there is no such function, another number of weights, or one that is not finite.
    """
    if weights and len(weights) != len(specs):
        raise UserError(f"--reward-weights has {len(weights)} numbers for {len(specs)} rewards ({', '.join(specs)})")
    if bad := [weight for weight in weights if not math.isfinite(weight)]:
        raise UserError(f"--reward-weights must be finite, got {bad[0]}")
    processes = Workers(specs, max(1, workers), timeout) if workers or timeout else None
    return Rewards([read_reward(spec) for spec in specs], weights, processes)


def as_rewards(reward: Callable[..., Any]) -> Rewards:
    """A task's reward as ``Rewards``, which may be a plain function."""
    return reward if isinstance(reward, Rewards) else Rewards([Reward(getattr(reward, "__name__", "reward"), reward)])


def optional_columns(reward: Callable[..., Any]) -> list[str]:
    """Columns that a task's reward can do without."""
    wanted = [p for one in as_rewards(reward).rewards for p in parameters(one.function) or ()]
    return [p.name for p in wanted if p.default is not p.empty and p.name not in GIVEN]


def named_apart(rewards: Sequence[Reward]) -> list[Reward]:
    """The same, those of one name with their place behind it: length, length_2."""
    names: list[str] = []
    for reward in rewards:
        count = sum(bool(re.fullmatch(rf"{re.escape(reward.name)}(_\d+)?", name)) for name in names)
        names.append(reward.name + f"_{count + 1}" * (count > 0))
    return [replace(reward, name=name) for reward, name in zip(rewards, names, strict=True)]
