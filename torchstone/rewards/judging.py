"""Stage 4: the reward of each completion of a batch, by the task's function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.tasks import Example, Task
from torchstone.rewards.calling import Rows, Scores, State
from torchstone.rewards.several import as_rewards
from torchstone.terminal import UserError
from torchstone.train.processes import once


@dataclass(frozen=True)
class Judged:
    """What a batch earned, and what the functions said beside it."""

    rewards: list[float]  # NaN where a completion could not be scored
    each: dict[str, Scores] = field(default_factory=dict)  # by function, if there are several
    metrics: dict[str, float] = field(default_factory=dict)  # means: each function's, and those that it logged
    extra: dict[str, list[Any]] = field(default_factory=dict)  # columns that functions logged

    @property
    def table(self) -> Float[Tensor, "B K"]:
        """Each function's rewards, NaN where it gave none; the rewards where there is one function."""
        given = [[math.nan if one is None else one for one in scores] for scores in self.each.values()]
        return torch.tensor(given or [self.rewards]).T

    def of_each(self) -> list[dict[str, Any]]:
        """What there is to say of each completion: ``reward``, ``rewards`` by function, and what they logged."""
        found: list[dict[str, Any]] = [{"reward": None if math.isnan(one) else one} for one in self.rewards]
        for i, one in enumerate(found):
            one |= {"rewards": {name: given[i] for name, given in self.each.items()}} if self.each else {}
            one |= {name: values[i] for name, values in self.extra.items() if name not in one}
        return found


def judge(task: Task, examples: Sequence[Example], completions: list[str], rollout: Any = None) -> list[float]:
    """The reward of each completion, or 0 if the task has none; NaN where it could not be scored. Outside of a run."""
    return judged(task, examples, completions, rollout, State()).rewards


@once
def judged(
    task: Task, examples: Sequence[Example], completions: list[str], rollout: Any = None, state: State | None = None
) -> Judged:
    """The same, with what else the functions said.

    Args:
        rollout: that the completions come from, for ``completion_ids`` and ``cut_off``.
        state: for ``trainer_state``.

    Raises UserError: a function fails; the message has a prompt, its completion and the line of the user's file.
    """
    if task.reward is None:
        return Judged([0.0] * len(examples))
    with torch.set_grad_enabled(torch.is_grad_enabled()):  # afterwards too, whatever the functions switch off
        sums, each, logged = as_rewards(task.reward).judge(rows_of(examples, completions, rollout), state)
    metrics = {name: fmean(values) for name, values in logged.metrics.items()}
    return Judged([math.nan if one is None else one for one in sums], each, metrics, logged.extra)


def with_logged(metrics: dict[str, Any], logged: dict[str, float]) -> dict[str, Any]:
    """A round's metrics and those of its reward functions. Raises UserError: one that they log is there already."""
    if taken := metrics.keys() & logged.keys():
        raise UserError(f"log_metric({min(taken)!r}): the run has a metric of that name; choose another")
    return metrics | logged


def rows_of(examples: Sequence[Example], completions: list[str], rollout: Any) -> Rows:
    """What is handed to functions. For chat data, whose prompt is a list, a completion is the assistant's message."""
    prompts = [example["prompt"] for example in examples]
    texts = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, completions, strict=True)
    ]
    columns = {key: [example[key] for example in examples] for key in examples[0] if key != "prompt"}
    if rollout is not None:
        columns |= {"completion_ids": rollout.ids, "cut_off": rollout.cut_off.tolist()}
    return {"prompts": prompts, "completions": texts, **columns}
