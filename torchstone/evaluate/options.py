"""Every option of a comparison. The comment beside an option is its text in ``torchstone compare --help``."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from torchstone.train.options import MethodName, Run


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Pre-training and a supervised warm-up, then each method from there: a table, curves.png and data.csv."""

    task: str = "sort"  # Built in: sort, add, ramble
    methods: tuple[MethodName, ...] = ("reinforce", "ppo", "grpo", "dpo")  # Which, in this order; there is distill too
    teacher: str | None = None  # Of distill, or of rows such as opd; if left out, the grpo run of the same seed
    recipes: tuple[str, ...] = ()  # In place of methods, rows of the table: grpo,dr_grpo,grpo:advantage=group-mean
    seeds: int = 3  # Runs of each; a seed decides all that comes after the start model
    samples: int = 24_576  # Budget of a run in completions sampled; for dpo those that are ranked to make its pairs
    out: Path | None = None  # Folder for everything; if left out, runs/compare-TASK, then runs/compare-TASK-2, ...
    workers: int = min(4, os.cpu_count() or 1)  # Runs at the same time, each on its share of the cores
    quick: bool = False  # A first look: one seed, 8,192 samples
    split: Literal["test", "validation"] = "test"  # Held-out prompts: choose settings on validation, report test
    first_seed: int = 0  # The seeds are this one and those that follow
    lr: float | None = None  # This option of every run, as those below; if left out, the method's own
    prompts: int | None = None  # P, prompts in a round
    group_size: int | None = None  # G, completions of each prompt
    epochs: int | None = None  # Passes over the completions of a round
    minibatches: int | None = None  # Optimizer steps in a pass
    max_new_tokens: int | None = None  # Longest completion

    @property
    def names(self) -> tuple[str, ...]:
        """What is compared: the recipes, as written with commas or spaces between them, or else the methods."""
        recipes = [name for text in self.recipes for name in text.split(",") if name]
        return tuple(dict.fromkeys(recipes or self.methods))

    def changes(self, config: Run) -> dict[str, Any]:
        """The options that were given, and that this kind of run has."""
        names = ["lr", "prompts", "group_size", "epochs", "minibatches", "max_new_tokens"]
        known = {field.name for field in fields(config)}
        return {name: getattr(self, name) for name in names if name in known and getattr(self, name) is not None}
