"""A dry step before a real model's first round: what memory, disk and reward say, before hours are spent."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchstone.data.tasks import Task
from torchstone.terminal import UserError
from torchstone.train.learner import Learner
from torchstone.train.metrics import held_out
from torchstone.train.options import Online, Run
from torchstone.train.rollout import as_rollout

LESS = "try a smaller --micro-batch or --max-new-tokens, --lora, or a smaller model"


def dry_step(config: Run, task: Task, learner: Learner, teacher: Any = None) -> str:
    """One held-out completion, judged; a micro-batch forwards and backwards; room for a checkpoint: a line of each.

    Nothing is learned from it, and no random number of the run is used up. Raises UserError: something does not fit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each process would have to take its own part
        return ""
    device, trained = learner.policy.device, learner.weights.values()
    size = sum(p.numel() * p.element_size() for p in trained)
    if (free := free_memory(device)) < 3 * size:
        has = f"its gradient and Adam's state take {3 * size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise UserError(f"the model does not fit on {device.type}: {has}; {LESS}")
    found, started = [], time.perf_counter()
    if samples := held_out(replace(config, eval_prompts=1), task, learner.policy, teacher):
        seconds, one = time.perf_counter() - started, samples[0]
        reward = f", reward {one['reward']:.3g}" if one.get("reward") is not None else ""
        what = f"a completion of {one['tokens']} tokens" if "tokens" in one else "a pair"
        found.append(f"{what} took {seconds:.1f} s{reward}")
    if isinstance(config, Online):
        found.append(micro_batch(config, task, learner))
    found.append(f"a checkpoint takes {reserve(config.folder, 3 * size) / 1e9:.2g} GB")
    return f"dry step: {'; '.join(found)}"


def micro_batch(config: Online, task: Task, learner: Learner) -> str:
    """The largest micro-batch that may come, forwards and backwards; its gradient is thrown away."""
    policy = learner.policy
    some = policy.encode_prompts([example["prompt"] for example in task.examples[:256]], config.system)
    prompt, started = max(some, key=len), time.perf_counter()
    width, rows = len(prompt) + config.max_new_tokens, min(config.micro_batch, config.prompts * config.group_size)
    if config.micro_batch_tokens:
        rows = max(1, min(rows, config.micro_batch_tokens // width))
    try:
        batch = as_rollout(policy, [prompt] * rows, [[policy.end_id] * config.max_new_tokens] * rows)
        policy(*batch.inputs, config.temperature).log_probs.sum().backward()
    except RuntimeError as e:  # torch.OutOfMemoryError is one
        if "memory" not in str(e):
            raise
        raise UserError(
            f"{rows} rows of {width} tokens do not fit into memory ({str(e).splitlines()[0]}); {LESS}"
        ) from e
    finally:
        learner.optimizer.zero_grad()
    took = time.perf_counter() - started
    return (
        f"{rows} rows of {width} tokens there and back {took:.1f} s, {peak_memory(policy.device) / 1e9:.1f} GB at most"
    )


def free_memory(device: torch.device) -> float:
    """Bytes that are free on the device; without a limit where nothing says."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return float("inf")


def peak_memory(device: torch.device) -> float:
    """The most bytes that were in use so far: on the GPU by torch, on a CPU by the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def reserve(folder: Path, size: int) -> int:
    """Whether the disk, and a quota, let a file of so many bytes be; it is taken away again. Raises UserError."""
    file = folder / "checkpoint.tmp"
    try:
        with file.open("wb") as out:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), 0, max(1, size))
    except OSError as e:
        what = f"a checkpoint takes {size / 1e9:.2g} GB"
        raise UserError(f"{what}, and {folder} does not take it ({e.strerror}): choose another --out") from e
    finally:
        file.unlink(missing_ok=True)
    return size
