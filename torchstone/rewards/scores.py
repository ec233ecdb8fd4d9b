"""A reward model as a reward function: what its head says of prompt and completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from torchstone.data.formats import text_of
from torchstone.data.tasks import Task
from torchstone.rewards.calling import Reward
from torchstone.rewards.reward_model import RewardModel
from torchstone.rewards.several import Rewards, as_rewards
from torchstone.train.rollout import as_rollout, check_room, slices


def paid_by(task: Task, model: RewardModel, config: Any) -> Task:
    """The task whose reward is that of the model. A reward that it has itself is reported, with weight 0."""
    judge = Scores(model.requires_grad_(False), config.rows_at_once, config.system, config.missing_eos_penalty)
    longest = max((example["prompt"] for example in task.examples[:1000]), key=lambda prompt: len(text_of(prompt)))
    rooms = [config.max_new_tokens + 1]
    check_room(model, model.encode_prompts([longest], config.system), rooms, "the reward model's")
    own = as_rewards(task.reward).rewards if task.reward else []
    rewards = [Reward("reward_model", judge, f"--reward-model {config.reward_model}"), *own]
    return replace(task, reward=Rewards(rewards, [1.0] + [0.0] * len(own)))


class Scores:
    """r(x, y) of text, by the model's own tokenizer and template, less a penalty where the end token is missing."""

    def __init__(self, model: RewardModel, rows_at_once: Callable[[int], int], system: str | None, penalty: float):
        self.model, self.rows_at_once, self.system, self.penalty = model, rows_at_once, system, penalty

    @torch.no_grad()
    def __call__(self, prompts: list[Any], completions: list[Any], cut_off: Sequence[bool] = ()) -> list[float]:
        """One number a completion. What was cut off ends without an end token here too."""
        model, cut = self.model, list(cut_off) or [False] * len(prompts)
        read = model.encode_prompts(prompts, self.system)
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        written = [ids[:-1] or ids if c else ids for ids, c in zip(model.encode_completions(texts), cut, strict=True)]
        check_room(model, read, list(map(len, written)), "the reward model's")
        rewards: list[float] = []
        for rows in slices(0, len(read), self.rows_at_once(max(map(len, read)) + max(map(len, written)))):
            batch = as_rollout(model, read[rows], written[rows])
            rewards += model(batch.tokens, batch.attention).tolist()
        return [reward - self.penalty * c for reward, c in zip(rewards, cut, strict=True)]
