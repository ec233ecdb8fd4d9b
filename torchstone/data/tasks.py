"""Stage 1: prompts, and the rewards that can be checked.

A task is examples and a reward function. An example is a dictionary: ``prompt``, and columns for the reward function to
look at (``answer``, ...). The reward function has TRL's signature, built-in tasks included::

    def reward(prompts, completions, **columns) -> list[float | None] -> list[float]
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torchstone.terminal import UserError, near

Example = dict[str, Any]
RewardFunction = Callable[..., Sequence[float | None]]  # None: cannot be scored
RawLines = Callable[[list[Example], random.Random], list[str]]
PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"
HELD_OUT = 1000  # examples of a built-in task kept from training: this many to choose settings on, as many to report


@dataclass(frozen=True)
class Task:
    """Prompts with a checkable reward, preference pairs (DPO), or prompts alone (distillation)."""

    name: str
    examples: Sequence[Example]  # to train on; they may lie on the disk, and are made one by one
    held_out: Sequence[Example]  # to evaluate on; never trained on
    reward: RewardFunction | None = None  # None: preference pairs, or prompts for a teacher
    raw_lines: RawLines | None = None  # examples -> a line of text on each, to pre-train the small model on
    alphabet: str = PRINTABLE  # the small model's characters
    start_steps: tuple[int, int] = (400, 7)  # of pre-training, of warm-up: enough for a weak start
    kind: str = "prompts"  # the format of its examples, of those of data/formats.py
    told: tuple[str, ...] = ()  # what the user should know of the data, a sentence each
    fingerprint: str = ""  # another one if the data is another; "" if it is always the same


def load_task(name: str, split: str = "test") -> Task:
    """A built-in task by name: ``sort``, ``add``, ``ramble``.

    Args:
        split: ``test`` or ``validation``: which held-out examples of a built-in task to evaluate on.
    """
    if name not in BUILT_IN:
        known = f"{', '.join(BUILT_IN)}, reasoning_gym:NAME, or --data FILE.jsonl"
        raise UserError(f"unknown task {name!r}{near(name, BUILT_IN)}; choose {known}")
    make_examples, raw_lines, start_steps, reward, alphabet = BUILT_IN[name]
    examples = make_examples()
    random.Random(1).shuffle(examples)
    held_out = {"test": examples[:HELD_OUT], "validation": examples[HELD_OUT : 2 * HELD_OUT]}
    return Task(name, examples[2 * HELD_OUT :], held_out[split], reward, raw_lines, alphabet, start_steps)


# ----------------------------------------------------------------------------------------------- built-in tasks


def exact_match(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """1 where the completion is the answer, character by character, else 0."""
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def _sort_examples() -> list[Example]:
    """``314159>`` -> ``113459``: 20,000 of the million strings of six digits."""
    numbers = random.Random(1).sample(range(10**6), 20_000)
    return [{"prompt": f"{n:06d}>", "answer": "".join(sorted(f"{n:06d}"))} for n in numbers]


def _sort_lines(examples: list[Example], rng: random.Random) -> list[str]:
    """What digits before ``>`` are followed by in the wild: a copy, the reverse, a shuffle, rarely the sorted."""
    lines = []
    for prompt in (example["prompt"] for example in examples):
        x = list(prompt[:-1])
        kinds = [x, x[::-1], rng.sample(x, 6), sorted(x, reverse=True), sorted(x)]
        lines.append(prompt + "".join(rng.choice(kinds)))
    return lines


def _add_examples() -> list[Example]:
    """``27+65=`` -> ``092``: all pairs of numbers below 100."""
    return [{"prompt": f"{a:02d}+{b:02d}=", "answer": f"{a + b:03d}"} for a in range(100) for b in range(100)]


def _add_lines(examples: list[Example], rng: random.Random) -> list[str]:
    """Sums as careless people write them: three in ten are off by 1, or a carry is forgotten or made up."""
    slips = [0, 0, 0, 0, 0, 0, 0, 1, -1, 10]
    return [example["prompt"] + f"{max(0, int(example['answer']) + rng.choice(slips)):03d}" for example in examples]


def match_after_dots(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """1 where the completion, without the dots before it, is the answer, else 0."""
    return [float(c.lstrip(".") == a.lstrip(".")) for c, a in zip(completions, answer, strict=True)]


def _ramble_examples() -> list[Example]:
    """``314159>`` -> ``....113459``: sort, after some dots. With too many, there is no room left for the answer."""
    rng = random.Random(2)
    return [example | {"answer": _dots(rng) + example["answer"]} for example in _sort_examples()]


def _ramble_lines(examples: list[Example], rng: random.Random) -> list[str]:
    """As for sort, with dots between the prompt and what follows it."""
    return [line.replace(">", ">" + _dots(rng)) for line in _sort_lines(examples, rng)]


def _dots(rng: random.Random) -> str:
    """Before each dot, and after the last, one in ten stops: 9 on average, 24 at most."""
    return "." * min(24, int(math.log(1 - rng.random()) / math.log(0.9)))


DIGITS = "0123456789+=>"
BUILT_IN: dict[str, tuple[Callable[[], list[Example]], RawLines, tuple[int, int], RewardFunction, str]] = {
    "sort": (_sort_examples, _sort_lines, (400, 7), exact_match, DIGITS),
    "add": (_add_examples, _add_lines, (950, 20), exact_match, DIGITS),
    "ramble": (_ramble_examples, _ramble_lines, (800, 7), match_after_dots, DIGITS + "."),
}


# ------------------------------------------------------------------------------------------------- using a task


def take(examples: Sequence[Example], n: int, step: int, seed: int) -> list[Example]:
    """The n examples of a step: all in shuffled order, then all in another; a function of its arguments only."""
    return [examples[i] for i in places(len(examples), n, step, seed)]


def places(size: int, n: int, step: int, seed: int) -> list[int]:
    """Where they stand among all ``size`` examples."""
    return [_order(size, seed, i // size)[i % size] for i in range(step * n, (step + 1) * n)]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed} {epoch}").sample(range(n), n)
