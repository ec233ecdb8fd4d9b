"""The task that the options of a run name: built in, of reasoning-gym, or data of the user's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from torchstone.data.examples import Survey, split
from torchstone.data.files import Renamed, fingerprint, open_rows
from torchstone.data.tasks import Task, load_task
from torchstone.rewards.calling import GIVEN
from torchstone.rewards.several import Rewards, load_rewards
from torchstone.terminal import UserError, near


def find_task(config: Any) -> Task:
    """The task that the options name."""
    given = (config.reward, config.reward_weights, config.reward_workers, config.reward_timeout)
    reward = load_rewards(*given) if config.reward else None
    if config.data:
        return task_from_data(config, reward)
    if config.task.startswith("reasoning_gym:"):
        task = reasoning_gym_task(config.task.removeprefix("reasoning_gym:"))
    else:
        task = load_task(config.task, config.split)
    return replace(task, reward=reward) if reward else task


def task_from_data(config: Any, reward: Rewards | None) -> Task:
    """The examples of ``--data``, read as what the method learns from."""
    source = str(config.data)
    rows = Renamed(open_rows(source), config.columns) if config.columns else open_rows(source)
    judged = bool(reward or config.has_teacher or getattr(config, "reward_model", None))
    found = Survey(rows, config.method, judged, config.skip_bad_rows)
    if reward and (taken := found.first.keys() & {*GIVEN}):
        raise UserError(f"{source}: no column may be called {min(taken)!r}, which a reward function is given anyway")
    held_out, examples, told = found.split()
    return Task(source, examples, held_out, reward, kind=found.kind, told=tuple(told), fingerprint=fingerprint(rows))


def reasoning_gym_task(spec: str) -> Task:
    """``NAME`` or ``NAME,option=value,...`` of the package reasoning-gym, judged by its own checker."""
    name, *options = spec.split(",")
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as e:
        raise UserError(f"--task reasoning_gym:{name} needs the package: pip install reasoning-gym") from e
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise UserError(f"reasoning_gym has no data set {name!r}{near(name, DATASETS)}; it has {known}")
    try:
        settings = {k: json.loads(v) for k, v in (option.split("=") for option in options)}
        dataset = reasoning_gym.create_dataset(name, size=2200, seed=0, **settings)
        examples = [{"prompt": entry["question"], "answer": entry["answer"], "entry": entry} for entry in dataset]
    except (ValueError, TypeError, AssertionError) as e:
        raise UserError(f"--task reasoning_gym:{spec}: {e} (options look like NAME,max_terms=2,max_digits=1)") from e

    def reward(prompts: list[str], completions: list[str], entry: list[dict], **columns: Any) -> list[float]:
        return [float(dataset.score_answer(c.strip(), e)) for c, e in zip(completions, entry, strict=True)]

    held_out, train = ([examples[i] for i in part] for part in split(len(examples)))
    return Task(f"reasoning_gym:{spec}", train, held_out, reward)
