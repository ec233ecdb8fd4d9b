"""The rewards of completions, by the task's function; an error of it shows a prompt and a completion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torchstone.data.tasks import Example, Task
from torchstone.terminal import UserError


def judge(task: Task, examples: Sequence[Example], completions: list[str]) -> list[float]:
    """The reward of each completion, by the task's function, or 0; an error of it shows a prompt and a completion."""
    if task.reward is None:
        return [0.0] * len(examples)
    columns = {key: [example[key] for example in examples] for key in examples[0] if key != "prompt"}
    at = _at(examples[0], completions[0])
    try:
        rewards = task.reward(prompts=[example["prompt"] for example in examples], completions=completions, **columns)
    except Exception as e:
        if len(examples) == 1:
            raise UserError(f"the reward function raised {type(e).__name__}: {e}{at}") from e
        for example, completion in zip(examples, completions, strict=True):
            judge(task, [example], [completion])  # raises at the one that failed
        raise UserError(f"the reward function raised {type(e).__name__} on a batch, on none of it alone: {e}") from e
    if not hasattr(rewards, "__len__") or len(rewards) != len(examples):
        got = f"{len(rewards)} rewards" if hasattr(rewards, "__len__") else repr(rewards)
        raise UserError(f"the reward function returned {got} for {len(examples)} completions{at}")
    return [_finite(*one) for one in zip(rewards, examples, completions, strict=True)]


def _finite(reward: Any, example: Example, completion: str) -> float:
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"the reward function returned {reward!r}, not a finite number{_at(example, completion)}")
    return number


def _at(example: Example, completion: str) -> str:
    return f", for prompt {example['prompt'][:200]!r} and completion {completion[:200]!r}"
