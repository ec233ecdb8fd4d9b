"""``torchstone compare``: methods or recipes from the same start, on the same task, with the same budget of samples."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torchstone.data.find import find_task
from torchstone.evaluate.options import Compare
from torchstone.store.files import absolute, make_folder, write_text
from torchstone.terminal import UserError
from torchstone.train.checks import check_options
from torchstone.train.loading import load_teacher
from torchstone.train.options import (
    DistillOptions,
    DPOOptions,
    Online,
    RecipeOptions,
    Run,
    defaults,
    file_name,
)

Show = Callable[[str, dict[str, Any]], None]  # (name of the run, its latest record)


def compare(options: Compare, folder: Path, show: Show) -> dict[str, list[Path]]:
    """Run everything; give back each method's run folders. What ``folder`` holds already is not done again.

    Each start model and each run has a folder of its own in ``folder``, as ``torchstone train`` would write it.
    """
    if min(options.seeds, options.samples, options.workers, len(options.names)) < 1:
        raise UserError("--seeds, --samples and --workers must be at least 1, and --methods name one method or more")
    find_task(Run(task=options.task))  # an unknown name is an error before anything is made
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = {name: [run_config(options, folder, name, seed) for seed in seeds] for name in options.names}
    for configs in runs.values():
        check_options(configs[0])
    students = [name for name, configs in runs.items() if configs[0].has_teacher]
    if students and not options.teacher and "grpo" not in options.names:
        raise UserError(f"{students[0]} learns from a teacher: compare it with grpo, or give --teacher FOLDER")
    if options.teacher and not students:
        raise UserError("--teacher is for distill, and nothing else that is compared has one")
    if options.teacher:
        load_teacher(runs[students[0]][0], "cpu")  # one that cannot be read is an error at once
    values = {**asdict(options), "out": str(folder), "teacher": absolute("teacher", options.teacher)}
    write_text(make_folder(folder) / "compare.json", json.dumps(values))

    start = Run(task=options.task)
    start = replace(start, **options.changes(start))
    spawn = multiprocessing.get_context("spawn")
    messages, stop = spawn.Queue(), spawn.Event()
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    pool = ProcessPoolExecutor(options.workers, spawn, _begin_worker, (messages, stop, threads))
    try:
        jobs = [config for name in sorted(runs, key="ppo dpo grpo distill reinforce".find) for config in runs[name]]
        jobs = [config for config in jobs if not (config.folder / "model").exists()]  # else it is finished already
        waiting: set[Future[None]] = {pool.submit(_make_start, start, folder / "start")} if jobs else set()
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()  # raises what the worker raised
                ready = [config for config in jobs if not waits(config, folder)]
                waiting |= {pool.submit(_train, config) for config in ready}
                jobs = [config for config in jobs if config not in ready]
            with suppress(queue.Empty):
                while True:  # the workers' messages arrive a little after them
                    show(*messages.get(timeout=0.1))
    finally:
        stop.set()  # after Ctrl-C or an error: the others finish their round, and save
        pool.shutdown(cancel_futures=True)
    return {method: [config.folder for config in configs] for method, configs in runs.items()}


def waits(config: Run, folder: Path) -> bool:
    """Whether its teacher is a run of this comparison that has not finished."""
    teacher = config.teacher if isinstance(config, DistillOptions | RecipeOptions) else None
    return teacher is not None and Path(teacher).parent == folder and not (Path(teacher) / "model").exists()


def run_config(options: Compare, folder: Path, name: str, seed: int) -> Run:
    """The method's (or recipe's) defaults, and as many rounds as the common budget of samples allows."""
    config = RecipeOptions(recipe=name) if options.recipes else defaults(name, large=False)
    config = replace(
        config, task=options.task, seed=seed, split=options.split, device="cpu",
        model=str(folder / "start"), out=folder / f"{file_name(name)}-{seed}", **options.changes(config),
    )  # fmt: skip
    if isinstance(config, DistillOptions | RecipeOptions) and config.has_teacher:
        config = replace(config, teacher=options.teacher or str(folder / f"grpo-{seed}"))
    if isinstance(config, DPOOptions):
        return replace(config, samples=options.samples)
    assert isinstance(config, Online)
    steps = max(1, options.samples // (config.prompts * config.group_size))
    return replace(config, steps=steps, eval_every=max(1, steps // 16))


# ------------------------------------------------------------------------------------- in the worker processes

_messages: Any = None
_stop: Any = None


def _begin_worker(messages: Any, stop: Any, threads: int) -> None:
    global _messages, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it sets ``stop``
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _messages, _stop = messages, stop


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_start(config: Run, folder: Path) -> None:
    from torchstone.train.run import make_and_save_start

    _messages.put(("start", {"step": 0, "steps": 1}))
    make_and_save_start(config, folder)
    _messages.put(("start", {"step": 1, "steps": 1}))


def _train(config: Run) -> None:
    from torchstone.train.run import train

    def report(record: dict[str, Any]) -> bool:
        _messages.put((f"{config.label} {config.seed}", record))
        return _stop.is_set()

    train(config, report, resume=(config.folder / "config.json").exists(), dry=False)
