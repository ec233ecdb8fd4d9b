"""What is evaluated: a run's model, a folder or a hub id, and the options that it was trained with."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torchstone.data.find import find_task
from torchstone.data.tasks import Task
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy
from torchstone.train.options import Run, defaults
from torchstone.train.run import usable_device


def model_of(name: str) -> tuple[str, Run | None]:
    """Where the model of that name is, and the run's options: of RUN, of RUN/model, RUN/best, RUN/start; else None."""
    folder = Path(name)
    if (folder / "metrics.jsonl").is_file():
        if not (folder / "model").is_dir():
            best = f", or ask for {folder / 'best'}" if (folder / "best").is_dir() else ""
            raise UserError(f"{folder} has no model yet: torchstone train --resume {folder}{best}")
        return str(folder / "model"), load_config(folder)
    if (folder.parent / "metrics.jsonl").is_file() and folder.is_dir():
        return str(folder), load_config(folder.parent)
    return name, None


def config_for(names: list[str], given: Any) -> Run:
    """The options of an evaluation: those given, else those of the first run among the models, else a real model's."""
    runs = [run for _, run in map(model_of, names) if run]
    config = runs[0] if runs else defaults("grpo", large=True)
    options = {field.name: getattr(given, field.name) for field in fields(given)}
    known = {field.name for field in fields(config)}
    changes = {name: value for name, value in options.items() if name in known and value not in (None, ())}
    if "data" in changes or "task" in changes:  # then nothing of the run's own is left
        changes = {"data": None, "task": "", "reward": (), "reward_weights": ()} | changes
    return replace(config, **changes)


def task_of(config: Run, names: list[str]) -> Task:
    """The task of an evaluation of these models. Raises UserError: neither it nor a run was named."""
    if not (config.data or config.task):
        what = "is no run's folder" if len(names) == 1 else "are no runs' folders"
        raise UserError(f"{', '.join(names)} {what}: say --task NAME, or --data FILE and --reward")
    return find_task(config)


def load(name: str, config: Run) -> Policy:
    """The frozen model of that name, prompted as the run prompts; a run's model has the run's template in it."""
    source, run = model_of(name)
    policy = load_policy(source, usable_device(config.device), config.dtype, "MODEL", config.trust_remote_code)
    policy.requires_grad_(False)
    policy.set_template(
        "default" if run and config.chat_template != "none" else config.chat_template, config.template_args
    )
    return policy
