"""One run from start to end, and what it writes so that it can be looked at, used, and gone on with."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from torchstone.terminal import UserError
from torchstone.train.inputs import find_task, load_policy, read_jsonl
from torchstone.train.learner import Learner
from torchstone.train.model import Policy, Scores
from torchstone.train.offline import add_reference, learn_offline, sample_pairs
from torchstone.train.online import Batch, credit, learn_online, needs, objective
from torchstone.train.options import DPO, GRPO, METHODS, PPO, Recipe, Reinforce, Run
from torchstone.train.rollout import Rollout, sample, slices
from torchstone.train.start import make_start
from torchstone.train.tasks import Row, Task, score

Report = Callable[[dict[str, Any]], bool]


class Interrupted(Exception):
    """The run was asked to stop. The round was finished and saved; the message is the folder to go on with."""


def train(config: Run, report: Report = lambda record: False, resume: bool = False) -> Path:
    """Run one method; write metrics.jsonl, completions.jsonl, checkpoint.pt and model/; give back their folder.

    Args:
        report: called with each record of metrics.jsonl, and ``steps``, the number of rounds. True asks to stop.
        resume: go on from the checkpoint in ``config.out``; the result is that of an unbroken run.
    """
    check_options(config)
    folder = config.folder
    checkpoint, start = folder / "checkpoint.pt", folder / "start"
    if checkpoint.exists() and not resume:
        raise UserError(f"{folder} holds a run already: go on with --resume {folder}, or choose another --out")
    task = find_task(config)
    device = usable_device(config.device)
    source = config.model or (str(start) if resume and start.exists() else "")
    policy = load_policy(source, device, config.dtype) if source else make_start(config, task, device)
    check_task(config, task, policy)
    folder.mkdir(parents=True, exist_ok=True)
    if not source:
        save_model(policy, start)
    save(folder / "config.json", json.dumps({"method": config.method, **asdict(config), "out": folder}, default=str))

    started = time.perf_counter()
    if isinstance(config, DPO):
        pairs = make_pairs(config, task, policy, folder / "pairs.jsonl", resume)
        steps = config.epochs * len(pairs) // min(config.pairs, len(pairs))
        learner = Learner(policy)
        rounds = learn_offline(config, pairs, learner, steps)
    elif isinstance(config, Reinforce | PPO | GRPO | Recipe):
        reference = copy.deepcopy(policy).requires_grad_(False) if "ref_log_probs" in needs(config) else None
        if "values" in needs(config):
            policy.add_critic()
        learner, steps = Learner(policy), config.steps
        rounds = learn_online(config, task, learner, reference)

    if resume and checkpoint.exists():
        learner.load_state_dict(torch.load(checkpoint, map_location=device, weights_only=True))
    seconds = rewind(folder, learner.step)

    def record(values: dict[str, Any]) -> None:
        evaluated = learner.step % (config.eval_every or max(1, steps // 10)) == 0 or learner.step == steps
        if evaluated:
            texts = evaluate(config, task, policy)
            if texts and task.reward:
                values |= describe(texts)
            append(folder / "completions.jsonl", [{"step": learner.step, **text} for text in texts[:8]])
        if isinstance(config, DPO):
            values["samples"] = config.samples if task.reward else 0
        values["seconds"] = round(seconds + time.perf_counter() - started, 2)
        append(folder / "metrics.jsonl", [values])
        stop = report({**values, "steps": steps}) and learner.step < steps
        if evaluated or stop:
            save(checkpoint, learner.state_dict())
        if stop:
            raise Interrupted(folder)

    if learner.step == 0:
        record({"step": 0, "samples": 0})
    for values in rounds:
        record(values)
    save_model(policy, folder / "model")
    return folder


def usable_device(name: str) -> str:
    """``auto`` is cuda where there is one; any other name must work here."""
    device = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f"--device {device} cannot be used here: {str(e).splitlines()[0][:200]}") from e
    return device


def make_and_save_start(config: Run, folder: Path) -> None:
    """Only the small start model, as a folder that ``--model`` takes."""
    if not (folder / "config.json").exists():
        save_model(make_start(config, find_task(config), "cpu"), folder)


def load_config(folder: Path) -> Run:
    """The options of the run in a folder."""
    if not (folder / "config.json").is_file():
        raise UserError(f"--resume {folder}: no run there (config.json is missing)")
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    paths = {key: Path(values[key]) for key in ("data", "out") if values[key]}
    return METHODS[values.pop("method")](**values | paths)


def evaluate(config: Run, task: Task, policy: Policy) -> list[Row]:
    """Sample each held-out prompt once, as in training: rows of prompt, completion and, with a checker, reward."""
    torch.manual_seed(config.seed)
    texts: list[Row] = []
    for piece in slices(0, min(config.eval_prompts, len(task.held_out)), config.micro_batch):
        rows = task.held_out[piece]
        prompts = policy.encode_prompts([row["prompt"] for row in rows], config.system)
        rollout = sample(policy, prompts, config.max_new_tokens, config.temperature)
        sampled = zip(rows, rollout.completions, rollout.mask.sum(1).tolist(), strict=True)
        texts += [{"prompt": row["prompt"], "completion": c, "tokens": n} for row, c, n in sampled]
        if task.reward:
            rewards = score(task, rows, rollout.completions)
            texts[piece] = [text | {"reward": r} for text, r in zip(texts[piece], rewards, strict=True)]
    return texts


def describe(texts: list[Row]) -> dict[str, float]:
    """The held-out reward, and the length in tokens of the completions that earned something, and nothing."""
    earned = [text["tokens"] for text in texts if text["reward"] > 0]
    nothing = [text["tokens"] for text in texts if text["reward"] <= 0]
    means = {
        "eval_length/right": earned,
        "eval_length/wrong": nothing,
        "eval_reward": [text["reward"] for text in texts],
    }
    return {name: sum(values) / len(values) for name, values in means.items() if values}


def make_pairs(config: DPO, task: Task, start: Policy, file: Path, resume: bool) -> list[Row]:
    """The pairs given with ``--data``, or sampled and ranked; kept in a file, to look at and for resuming."""
    if not (resume and file.exists()):
        pairs = sample_pairs(config, task, start) if task.reward else task.rows
        if not pairs:
            raise UserError("no pairs: the completions of each prompt all earn the same reward; try more --samples")
        save(file, "".join(json.dumps(row) + "\n" for row in add_reference(config, start, pairs)))
    return read_jsonl(file)


# ------------------------------------------------------------------------------------ errors before any work


def check_options(config: Run) -> None:
    """Numbers that cannot work, by name."""
    at_least = dict.fromkeys(["steps", "prompts", "group_size", "epochs", "minibatches", "pairs", "samples"], 1)
    at_least |= {"max_new_tokens": 1, "micro_batch": 1, "pretrain_steps": 0, "warmup_steps": 0, "eval_prompts": 0}
    if isinstance(config, GRPO | DPO) or (isinstance(config, Reinforce) and config.baseline == "leave-one-out"):
        at_least["group_size"] = 2  # a lone completion has nothing to be compared with
    for name, least in at_least.items():
        value = getattr(config, name, None)
        if value is not None and value < least:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} must be at least {least} for {config.method}, got {value}")
    above_0 = ["lr", "temperature", "max_grad_norm", *(["beta"] if isinstance(config, DPO) else [])]
    weights = ["beta", "epsilon", "epsilon_high", "value_epsilon", "value_coef", "entropy_coef"]
    ranges: dict[str, tuple[str, Callable[[float], bool]]] = dict.fromkeys(weights, ("at least 0", lambda x: x >= 0))
    ranges |= dict.fromkeys(["gamma", "lam", "label_smoothing"], ("from 0 to 1", lambda x: 0 <= x <= 1))
    ranges |= dict.fromkeys(above_0, ("above 0", lambda x: x > 0))
    for name, (words, fits) in ranges.items():
        value = getattr(config, name, None)
        if value is not None and not (fits(value) and math.isfinite(value)):
            raise UserError(f"--{name.replace('_', '-')} must be {words}, got {value}")
    if isinstance(config, Recipe):
        check_recipe(config)


def check_recipe(config: Recipe) -> None:
    """A round on two empty groups: what the recipe lacks, or cannot be given here, is said before any work."""
    G, why = config.group_size, ""
    try:
        if (config.row.penalty.numbers.get("cache") or 0) > config.max_new_tokens:  # type: ignore[operator]
            why = f"; its cache is longer than a completion: raise --max-new-tokens, or write {config.recipe}"
            why += f"{'+' if ':' in config.recipe else ':'}penalty.cache={max(1, config.max_new_tokens // 5)}"
        rewards, mask = torch.zeros(2, G), torch.ones(2 * G, 1, dtype=torch.bool)
        scores = Scores(*torch.zeros(3, 2 * G, 1))
        rollout = Rollout(mask.long(), mask, mask, mask[:, 0], [])
        advantages = credit(config, rewards, mask, scores, scores, rewards[:, 0])
        objective(config, scores, Batch(rollout, scores, scores.log_probs, *advantages), 1)
    except ValueError as e:
        raise UserError(f"--recipe {config.recipe}: {e}{why}") from e


def check_task(config: Run, task: Task, policy: Policy) -> None:
    """Data that the method cannot learn from, and texts that the model cannot read."""
    if task.reward is None and not isinstance(config, DPO):
        score(task, [], [])  # says that there is nothing to score with
    rows = task.rows + task.held_out
    lengths = [len(ids) for ids in policy.encode_prompts([row["prompt"] for row in rows], config.system)]
    longest = [0] * len(rows)  # completion that is given
    if isinstance(config, DPO) and task.reward is None:
        given = (policy.encode_completions([row[kind] for row in rows]) for kind in ("chosen", "rejected"))
        longest = [max(len(chosen), len(rejected)) for chosen, rejected in zip(*given, strict=True)]
    for row, length, completion in zip(rows, lengths, longest, strict=True):
        if length == 0 or length + max(completion, config.max_new_tokens) > policy.context:
            own = completion > config.max_new_tokens
            then = f"{completion} of a completion" if own else f"--max-new-tokens {config.max_new_tokens}"
            advice = "shorten it" if own or length + 1 >= policy.context else "try a smaller --max-new-tokens"
            sizes = f"{length} tokens, then {then}, in a context of {policy.context}"
            raise UserError(f"a prompt does not fit ({sizes}): {row['prompt'][:60]!r}; {advice}")


# ------------------------------------------------------------------------------------------------------ files


def save(file: Path, content: Any) -> None:
    """Write a whole file, or leave the old one: nothing is ever half written."""
    temporary = file.with_name(file.name + ".tmp")
    if isinstance(content, str):
        temporary.write_text(content, encoding="utf-8")
    else:
        torch.save(content, temporary)
    os.replace(temporary, file)


def save_model(policy: Policy, folder: Path) -> None:
    """A folder that ``--model`` and transformers load, complete or not there at all."""
    from transformers import logging

    logging.disable_progress_bar()
    temporary = folder.with_name(folder.name + ".tmp")
    policy.save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def append(file: Path, rows: list[Row]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(json.dumps(row) + "\n" for row in rows))


def rewind(folder: Path, step: int) -> float:
    """Drop what a killed run wrote after its last checkpoint; give back the seconds used until then."""
    seconds = 0.0
    for file in (folder / "metrics.jsonl", folder / "completions.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        kept = [line for line in lines if line.endswith("}\n") and step and json.loads(line)["step"] <= step]
        save(file, "".join(kept))
        seconds = max([seconds, *(json.loads(line).get("seconds", 0.0) for line in kept)])
    return seconds
