"""Stage 1: prompts, and the rewards that can be checked.

A task is rows and a reward function. A row is a dictionary: ``prompt``, and columns for the reward function to
look at (``answer``, ...). The reward function has TRL's signature, built-in tasks included::

    def reward(prompts: list[str], completions: list[str], **columns: list) -> list[float]
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torchstone.terminal import UserError, near

Row = dict[str, Any]
RewardFunction = Callable[..., list[float]]
RawLines = Callable[[list[Row], random.Random], list[str]]
PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"
HELD_OUT = 1000  # rows of a built-in task kept from training: this many to choose settings on, as many to report


@dataclass(frozen=True)
class Task:
    """Prompts with a checkable reward (REINFORCE, PPO, GRPO, DPO) or preference pairs (DPO)."""

    name: str
    rows: list[Row]  # to train on
    held_out: list[Row]  # to evaluate on; never trained on
    reward: RewardFunction | None = None  # None: rows of preference pairs
    raw_lines: RawLines | None = None  # rows -> a line of text on each, to pre-train the small model on
    alphabet: str = PRINTABLE  # the small model's characters
    start_steps: tuple[int, int] = (400, 7)  # of pre-training, of warm-up: enough for a weak start


def load_task(name: str, split: str = "test") -> Task:
    """A built-in task by name: ``sort``, ``add``, ``ramble``.

    Args:
        split: ``test`` or ``validation``: which held-out rows of a built-in task to evaluate on.
    """
    if name not in BUILT_IN:
        known = f"{', '.join(BUILT_IN)}, reasoning_gym:NAME, or --data FILE.jsonl"
        raise UserError(f"unknown task {name!r}{near(name, BUILT_IN)}; choose {known}")
    make_rows, raw_lines, start_steps, reward, alphabet = BUILT_IN[name]
    rows = make_rows()
    random.Random(1).shuffle(rows)
    held_out = {"test": rows[:HELD_OUT], "validation": rows[HELD_OUT : 2 * HELD_OUT]}
    return Task(name, rows[2 * HELD_OUT :], held_out[split], reward, raw_lines, alphabet, start_steps)


# ----------------------------------------------------------------------------------------------- built-in tasks


def exact_match(prompts: list[str], completions: list[str], answer: list[str], **columns: list) -> list[float]:
    """1 where the completion is the answer, character by character, else 0."""
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def _sort_rows() -> list[Row]:
    """``314159>`` -> ``113459``: 20,000 of the million strings of six digits."""
    numbers = random.Random(1).sample(range(10**6), 20_000)
    return [{"prompt": f"{n:06d}>", "answer": "".join(sorted(f"{n:06d}"))} for n in numbers]


def _sort_lines(rows: list[Row], rng: random.Random) -> list[str]:
    """What digits before ``>`` are followed by in the wild: a copy, the reverse, a shuffle, rarely the sorted."""
    lines = []
    for prompt in (row["prompt"] for row in rows):
        x = list(prompt[:-1])
        kinds = [x, x[::-1], rng.sample(x, 6), sorted(x, reverse=True), sorted(x)]
        lines.append(prompt + "".join(rng.choice(kinds)))
    return lines


def _add_rows() -> list[Row]:
    """``27+65=`` -> ``092``: all pairs of numbers below 100."""
    return [{"prompt": f"{a:02d}+{b:02d}=", "answer": f"{a + b:03d}"} for a in range(100) for b in range(100)]


def _add_lines(rows: list[Row], rng: random.Random) -> list[str]:
    """Sums as careless people write them: three in ten are off by 1, or a carry is forgotten or made up."""
    slips = [0, 0, 0, 0, 0, 0, 0, 1, -1, 10]
    return [row["prompt"] + f"{max(0, int(row['answer']) + rng.choice(slips)):03d}" for row in rows]


def match_after_dots(prompts: list[str], completions: list[str], answer: list[str], **columns: list) -> list[float]:
    """1 where the completion, without the dots before it, is the answer, else 0."""
    return [float(c.lstrip(".") == a.lstrip(".")) for c, a in zip(completions, answer, strict=True)]


def _ramble_rows() -> list[Row]:
    """``314159>`` -> ``....113459``: sort, after some dots. With too many, there is no room left for the answer."""
    rng = random.Random(2)
    return [row | {"answer": _dots(rng) + row["answer"]} for row in _sort_rows()]


def _ramble_lines(rows: list[Row], rng: random.Random) -> list[str]:
    """As for sort, with dots between the prompt and what follows it."""
    return [line.replace(">", ">" + _dots(rng)) for line in _sort_lines(rows, rng)]


def _dots(rng: random.Random) -> str:
    """Before each dot, and after the last, one in ten stops: 9 on average, 24 at most."""
    return "." * min(24, int(math.log(1 - rng.random()) / math.log(0.9)))


DIGITS = "0123456789+=>"
BUILT_IN: dict[str, tuple[Callable[[], list[Row]], RawLines, tuple[int, int], RewardFunction, str]] = {
    "sort": (_sort_rows, _sort_lines, (400, 7), exact_match, DIGITS),
    "add": (_add_rows, _add_lines, (950, 20), exact_match, DIGITS),
    "ramble": (_ramble_rows, _ramble_lines, (800, 7), match_after_dots, DIGITS + "."),
}


# ------------------------------------------------------------------------------------------------- using a task


def score(task: Task, rows: list[Row], completions: list[str]) -> list[float]:
    """Call the reward function and check what it returns; an error shows a prompt and a completion."""
    if task.reward is None:
        raise UserError(f"{task.name} has preference pairs, not prompts to be scored: use dpo, or give --reward")
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    try:
        rewards = task.reward(prompts=[row["prompt"] for row in rows], completions=completions, **columns)
    except Exception as e:
        if len(rows) == 1:
            raise UserError(f"the reward function raised {type(e).__name__}: {e}{_at(rows[0], completions[0])}") from e
        for row, completion in zip(rows, completions, strict=True):
            score(task, [row], [completion])  # raises at the one that failed
        raise UserError(f"the reward function raised {type(e).__name__} on a batch, on none of it alone: {e}") from e
    if not hasattr(rewards, "__len__") or len(rewards) != len(rows):
        got = f"{len(rewards)} rewards" if hasattr(rewards, "__len__") else repr(rewards)
        raise UserError(f"the reward function returned {got} for {len(rows)} completions{_at(rows[0], completions[0])}")
    numbers = []
    for row, completion, value in zip(rows, completions, rewards, strict=True):
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise UserError(f"the reward function returned {value!r}, not a finite number{_at(row, completion)}")
    return numbers


def _at(row: Row, completion: str) -> str:
    return f", for prompt {row['prompt'][:200]!r} and completion {completion[:200]!r}"


def take(rows: list[Row], n: int, step: int, seed: int) -> list[Row]:
    """The n rows of a step: all rows in shuffled order, then all in another; a function of its arguments only."""
    return [rows[_order(len(rows), seed, i // len(rows))[i % len(rows)]] for i in range(step * n, (step + 1) * n)]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed} {epoch}").sample(range(n), n)


def split_rows(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(held out, to train on): a tenth, after a fixed shuffle. Fewer than ten rows are evaluated on as they are."""
    rows, cut = random.Random(0).sample(rows, len(rows)), len(rows) // 10
    return rows[:cut] or rows, rows[cut:]
