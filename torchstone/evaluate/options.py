"""Every option of compare, eval, ask. The comment beside an option is its text in ``--help``."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from torchstone.train.options import DType, MethodName, Run


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


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation takes from the run that made the model, where it is left out."""

    system: str | None = None  # System prompt; if left out, the run's
    temperature: float | None = None  # 0 is greedy; if left out, the run's, or 1
    max_new_tokens: int | None = None  # Longest completion; if left out, the run's, or 64
    seed: int = 0  # Of the samples; models that are compared share their noise
    device: str = "auto"  # cpu, cuda, mps; auto is cuda if there is one
    dtype: DType = "float32"  # float32 or bfloat16
    trust_remote_code: bool = False  # Run code that comes with MODEL here: read it first


@dataclass(frozen=True, kw_only=True)
class Eval(Measured):
    """Held-out reward and pass@k of one model or several, with 95% intervals over prompts.
    MODEL is a run's folder, a folder in Hugging Face format, or a hub id. A run brings its task, system prompt and
    lengths with it. Of several models, each is compared with the first, prompt by prompt. Scores: the task's reward;
    where there is a column "answer", strict (the completion is the answer) and lenient (its last number, or its last
    words, are).
    """

    task: str | None = None  # As for torchstone train; if left out, the run's
    data: Path | None = None  # A file instead of a task: its held-out tenth
    reward: tuple[str, ...] = ()  # As for torchstone train
    prompts: int = 200  # Held-out prompts, at most
    samples: int = 1  # N, completions of each prompt
    k: tuple[int, ...] = (1,)  # pass@k for each k, of the N samples by the unbiased estimator
    threshold: float = 1.0  # A completion passes if it earns this much
    split: Literal["test", "validation"] = "test"  # Held-out prompts of built-in tasks
    micro_batch: int = 64  # Completions that are sampled together
    json: Path | None = None  # File for the numbers
    completions: Path | None = None  # File for every completion with its scores, as JSONL


@dataclass(frozen=True, kw_only=True)
class Ask(Measured):
    """What a model writes after a prompt, sampled as in training: the run's system prompt, temperature and length."""

    n: int = 4  # Completions


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """Does training work here? Finds prompts that the model solves sometimes, and trains on them alone.
    The sound loop (GRPO) must solve 95% of them within --rounds; three that are broken on purpose (sign flipped, mask
    shifted by a token, rewards shuffled) must stay below 80% in as many rounds. Without --model about two minutes.
    Exit status: 0 all as expected, 1 not, 2 too few prompts.
    """

    model: str | None = None  # As for torchstone train; if left out, the small model
    task: str | None = None  # As for torchstone train; the small model's is sort
    data: Path | None = None  # A file instead of a task
    reward: tuple[str, ...] = ()  # As for torchstone train, such as lenient
    system: str | None = None  # System prompt
    max_new_tokens: int | None = None  # Longest completion; 8, or 16 with --model
    temperature: float = 1.0  # Of the samples
    threshold: float = 1.0  # A completion solves its prompt if it earns this much
    prompts: int = 8  # Prompts to find, and to train on
    search: int = 256  # Prompts to look at, at most
    samples: int = 16  # Completions of each, in the search
    rounds: int = 20  # Rounds of training, at most
    group_size: int | None = None  # G, completions of each prompt in a round; 64, or 8 with --model
    lr: float | None = None  # Learning rate; 5e-4, or 2e-5 with --model
    micro_batch: int | None = None  # Completions in a forward and backward pass
    seed: int = 0  # Of the samples
    device: str = "auto"  # cpu, cuda, mps; auto is cuda if there is one
    dtype: DType = "float32"  # Of what --model computes
    json: Path | None = None  # File for the numbers
