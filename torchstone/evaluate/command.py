"""What ``torchstone compare`` prints, and how it ends."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

from torchstone.stopping import stopped
from torchstone.terminal import UserError, read_options, unstyled
from torchstone.train.command import resume_folder


def compare(arguments: list[str]) -> int:
    """``torchstone compare [options]``, or ``torchstone compare --resume FOLDER``."""
    from torchstone.evaluate.options import Compare

    folder, rest = resume_folder(arguments)
    if folder:
        if rest:
            raise UserError("--resume FOLDER takes every option from the folder; give nothing else with it")
        if not (folder / "compare.json").is_file():
            raise UserError(f"--resume {folder}: no comparison there (compare.json is missing)")
        from torchstone.store.files import read_options_of

        options = read_options_of(folder / "compare.json", Compare, out=folder)
    else:
        default = Compare(seeds=1, samples=8192, quick=True) if "--quick" in arguments else Compare()
        options = read_options("compare", Compare, default, arguments)
        if options.recipes and options.methods != default.methods:
            raise UserError("--methods would change nothing: --recipes says what is compared")
        folder = options.out or _new_folder(Path("runs") / f"compare-{options.task}")
        if (folder / "compare.json").exists():
            raise UserError(f"{folder} holds a comparison already: --resume {folder}, or choose another --out")
    return _compare(options, folder)


def _compare(options: Any, folder: Path) -> int:
    from torchstone import report
    from torchstone.evaluate.compare import compare as run

    started = time.perf_counter()
    try:
        with _Display(options) as display:
            runs = run(options, folder, display.show)
    except KeyboardInterrupt as e:
        raise stopped("compare", folder) from e
    if options.recipes:
        table = report.recipes_table(runs, options.task)
        report.plot_recipes(runs, options.task, options.samples, folder / "curves.png")
    else:
        table = report.comparison_table(runs, options.task)
        report.plot_comparison(runs, options.task, options.samples, folder / "curves.png")
    report.write_csv(runs, folder / "data.csv")
    print(f"{table}\n{time.perf_counter() - started:.0f} s in all. The picture is {folder}/curves.png")
    (folder / "table.txt").write_text(unstyled(table) + "\n", encoding="utf-8")
    return 0


def _new_folder(folder: Path) -> Path:
    """The folder, or the first of FOLDER-2, FOLDER-3, ... that is not there: asked twice, it compares twice."""
    names = itertools.chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2)))
    return next(name for name in names if not name.exists())


class _Display:
    """A line for each run: how far it is, and its latest reward. Without a terminal, a line when a run is done."""

    def __init__(self, options: Any):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(32), TimeElapsedColumn())
        self.on_terminal = sys.stdout.isatty()
        note = TextColumn("{task.fields[note]}")
        self.progress = Progress(*columns, note, transient=not self.on_terminal)
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        names = ["start", *(f"{name} {seed}" for name in options.names for seed in seeds)]
        self.width = max(14, *map(len, names))
        self.bars = {
            name: self.progress.add_task(f"{name:<{self.width}}", total=None, start=False, note="") for name in names
        }
        self.latest: dict[str, float] = {}

    def __enter__(self) -> _Display:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.__exit__(*error)

    def show(self, name: str, record: dict[str, Any]) -> None:
        """Move the bar of one run to this round, beside its last held-out reward."""
        bar = self.bars[name]
        self.progress.start_task(bar)
        if "eval_reward" in record:
            self.latest[name] = record["eval_reward"]
        note = f"held-out reward {100 * self.latest[name]:.0f}%" if name in self.latest else ""
        self.progress.update(bar, total=record["steps"], completed=record["step"], note=note)
        if record["step"] == record["steps"] and not self.on_terminal:
            print(f"{name:<{self.width}} done  {note}".rstrip())
