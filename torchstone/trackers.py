"""Where a run's metrics go beside metrics.jsonl (``--log``): TensorBoard, trackio, wandb, by their own packages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Log = Callable[[Record], None]  # one round's numbers, ``step`` among them
PROJECT = "torchstone"


@contextmanager
def tracked(config: Any, report: Callable[[Record], bool]) -> Iterator[Callable[[Record], bool]]:
    """``report``, with each record sent to the trackers of ``config.log`` first. They open with the first record."""
    with ExitStack() as opened:
        logs: list[Log] = []

        def told(record: Record) -> bool:
            if not logs:
                logs.extend(opened.enter_context(TRACKERS[name](config, record["step"])) for name in config.log)
            numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
            for log in logs:
                log(numbers)
            return report(record)

        yield told


@contextmanager
def tensorboard(config: Any, step: int) -> Iterator[Log]:
    """Event files in ``FOLDER/tensorboard``; what a killed run wrote from this step on is not shown."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(config.folder / "tensorboard", purge_step=step)

    def log(record: Record) -> None:
        for name, value in record.items():
            if name not in ("step", "steps"):
                writer.add_scalar(name, value, record["step"])
        writer.flush()

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def wandb(config: Any, step: int) -> Iterator[Log]:
    """A run of wandb; its files are in ``FOLDER/wandb``. WANDB_MODE=offline needs neither account nor network."""
    import wandb

    run = wandb.init(
        project=PROJECT, name=config.folder.name, id=run_id(config.folder), resume="allow", dir=config.folder,
        config=options_of(config), settings=wandb.Settings(console="off"),
    )  # fmt: skip
    run.define_metric("*", step_metric="step")  # rounds that a resumed run does again stand where they stood
    try:
        yield run.log
    finally:
        run.finish()


@contextmanager
def trackio(config: Any, step: int) -> Iterator[Log]:
    """A run in trackio's own folder on this machine; ``trackio show --project torchstone`` shows it."""
    import trackio

    name = f"{config.folder.name}-{run_id(config.folder)}"
    trackio.init(project=PROJECT, name=name, config=options_of(config), resume="allow", embed=False)
    try:
        yield lambda record: trackio.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])
    finally:
        trackio.finish()


def options_of(config: Any) -> Record:
    """The options as JSON has them."""
    options: Record = json.loads(json.dumps({"method": config.method, **asdict(config)}, default=str))
    return options


def run_id(folder: Path) -> str:
    """The name that a tracker knows this folder's run by: made once, and found again by a run that goes on."""
    file = folder / "tracker-id.txt"
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


TRACKERS = {"tensorboard": tensorboard, "trackio": trackio, "wandb": wandb}
