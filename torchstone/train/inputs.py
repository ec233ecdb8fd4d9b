"""What the user brings: JSONL files and reward functions. An error names the file, the line and what is missing."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.terminal import UserError, near
from torchstone.train.options import GRPOOptions, Run
from torchstone.train.tasks import Example, RewardFunction, Task, load_task, split_examples

if TYPE_CHECKING:  # it imports torch, which reading a file does not need
    from torchstone.train.model import Policy


def find_task(config: Run) -> Task:
    """The task that the options name."""
    if config.data:
        return task_from_file(config.data, config.reward, alone=config.has_teacher)
    if config.task.startswith("reasoning_gym:"):
        task = reasoning_gym_task(config.task.removeprefix("reasoning_gym:"))
    else:
        task = load_task(config.task, config.split)
    return replace(task, reward=load_reward(config.reward)) if config.reward else task


def task_from_file(data: Path, reward: str | None, alone: bool) -> Task:
    """Prompts, with columns for the function ``reward`` names, or preference pairs (prompt, chosen, rejected).

    Args:
        alone: prompts without either will do.
    """
    examples = read_jsonl(data)
    if "chosen" not in examples[0] and reward is None and not alone:
        raise UserError(f"{data} has prompts without preferences: judge completions with --reward FILE.py:FUNCTION")
    if reward and (taken := examples[0].keys() & {"prompts", "completions"}):
        raise UserError(f"{data}: no column may be called {min(taken)!r}, which a reward function is given anyway")
    held_out, examples = split_examples(examples)
    return Task(str(data), examples, held_out, load_reward(reward) if reward else None)


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

    def reward(prompts: list[str], completions: list[str], entry: list[dict], **columns: list) -> list[float]:
        return [float(dataset.score_answer(c.strip(), e)) for c, e in zip(completions, entry, strict=True)]

    held_out, examples = split_examples(examples)
    return Task(f"reasoning_gym:{spec}", examples, held_out, reward)


def read_jsonl(path: Path) -> list[Example]:
    """Read prompts or preference pairs; an error names file, line and what is missing."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except OSError as e:
        raise UserError(f"cannot read {path}: {e}") from e
    except UnicodeDecodeError as e:
        number = e.object[: e.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {number}: not text in UTF-8 ({e.reason}); expected JSON, an object a line"
        ) from e
    examples: list[Any] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(json.loads(line))
            check_example(examples)
        except UserError as e:
            raise UserError(f"{path}, line {number}: {e}") from e
        except (ValueError, RecursionError) as e:
            raise UserError(f"{path}, line {number}: not JSON ({e})") from e
    if not examples:
        raise UserError(f"{path} is empty: expected one JSON object a line")
    return examples


def check_example(examples: list[Any]) -> None:
    """The last one: texts where texts must be, and the keys of the first. Raises UserError."""
    first, example = examples[0], examples[-1]
    if not isinstance(example, dict):
        raise UserError(f"expected an object, got {type(example).__name__}")
    wanted = ["prompt", "chosen", "rejected"] if example.keys() & {"chosen", "rejected"} else ["prompt"]
    for key in {**dict.fromkeys(wanted), **first, **example}:
        if key not in example:
            raise UserError(f"{key!r} is missing (it has {', '.join(example) or 'nothing'})")
        if key in wanted and not (isinstance(example[key], str) and (example[key] or key != "prompt")):
            raise UserError(f"{key!r} must be a text, got {example[key]!r}")
        if key not in first:
            raise UserError(
                f"{key!r} is not in the first line (it has {', '.join(first)}): all must have the same keys"
            )
        if key in wanted:
            example[key].encode()  # half of a surrogate pair is no text: a ValueError


def load_reward(spec: str) -> RewardFunction:
    """Load ``file.py:function``; without a name, the file's only public function, or the one named ``reward``."""
    path, _, name = spec.partition(".py:")
    file = Path(path if path.endswith(".py") else path + ".py")
    if not file.is_file():
        raise UserError(f"--reward {spec}: no file {file}")
    found = importlib.util.spec_from_file_location(file.stem, file)
    assert found and found.loader  # a .py file always has a loader
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as e:
        raise UserError(f"--reward {spec}: {file} does not import: {type(e).__name__}: {e}") from e
    own = {k: f for k, f in vars(module).items()
           if callable(f) and not k.startswith("_") and getattr(f, "__module__", None) == module.__name__}  # fmt: skip
    name = name or (next(iter(own)) if len(own) == 1 else "reward")
    if name not in own:
        raise UserError(f"--reward {spec}: no function {name!r} in {file}; it has {', '.join(own) or 'none'}")
    return own[name]


def load_teacher(config: Any, device: str) -> Policy:
    """The frozen model of ``--teacher``: of a finished run's folder, or of one in Hugging Face format."""
    if config.teacher is None:
        grpo = GRPOOptions(task=config.task, data=config.data, seed=config.seed)
        given: dict[str, Any] = {"model": config.model, "seed": config.seed}
        given |= {"data": grpo.data, "reward": config.reward or "FILE.py"} if grpo.data else {"task": grpo.task}
        command = " ".join(f"--{name} {value}" for name, value in given.items() if value)
        raise UserError(
            f"{config.label} needs --teacher FOLDER: torchstone train grpo {command} makes one in {grpo.folder}"
        )
    folder = Path(config.teacher)
    if not folder.is_dir():
        runs = [str(f.parents[1]) for f in folder.parent.glob("*/model/config.json")]
        there = f"; finished runs there: {', '.join(sorted(runs))}" if runs else ""
        raise UserError(f"--teacher {folder}: no such folder{near(str(folder), runs)}{there}")
    if (folder / "metrics.jsonl").exists() and not (folder / "model").exists():
        raise UserError(
            f"--teacher {folder}: that run has not finished; go on with: torchstone train --resume {folder}"
        )
    source = folder / "model" if (folder / "model").is_dir() else folder
    if not (source / "config.json").exists():
        raise UserError(f"--teacher {folder} holds no model: config.json is missing")
    return load_policy(str(source), device, config.dtype, "--teacher").requires_grad_(False)


def load_policy(source: str, device: str, dtype: str, option: str = "--model") -> Policy:
    """Load a folder in Hugging Face format, or a model of the hub; ``option`` is who named it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    from torchstone.train.model import Policy

    folder = Path(source)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        local = source.startswith((".", "/", "~")) or source.count("/") > 1
        if not folder.is_dir() and (local or ("/" in source and folder.parent.is_dir())):
            raise OSError("no such folder")
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        weights = torch.bfloat16 if dtype == "pure-bfloat16" else torch.float32
        if (folder / "adapter_config.json").is_file():
            from peft import AutoPeftModelForCausalLM

            model: Any = AutoPeftModelForCausalLM.from_pretrained(source, dtype=weights).merge_and_unload()
        else:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=weights)
        policy = Policy(model.to(device), tokenizer).requires_grad_(True)  # merged adapters leave it frozen
        policy.compute = torch.bfloat16 if dtype == "bfloat16" else None
        return policy
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        beside = [str(f.parent) for f in folder.parent.glob("*/config.json") if f.parent != folder]
        choices = f"; folders with a model there: {', '.join(sorted(beside))}" if beside else ""
        why = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise UserError(f"{option} {source} cannot be loaded: {why}{near(source, beside)}{choices}") from e
