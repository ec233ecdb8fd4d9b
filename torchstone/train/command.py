"""What ``torchstone train`` and ``torchstone compare`` print, and how they end."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from torchstone.terminal import UserError, near, read_options, unstyled, wrapped

HELP = """\
usage: torchstone train METHOD [options]
       torchstone train --resume FOLDER [--steps N] [--data FILE] ...

{}
torchstone train METHOD --help explains every option of the method.
"""


def train(arguments: list[str]) -> int:
    """``torchstone train METHOD [options]``, or ``torchstone train --resume FOLDER``."""
    from torchstone.train.options import METHODS, defaults

    if not arguments or arguments[0] in ("-h", "--help"):
        about = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in METHODS.items()}
        print(HELP.format("".join(wrapped(text, f"  {name:<12}") + "\n" for name, text in about.items())), end="")
        return 0
    method, *options = arguments
    resume, rest = _resume_folder(arguments)
    if resume:
        from torchstone.train.files import load_config

        config = load_config(resume, rest)
    elif method not in METHODS:
        raise UserError(f"unknown method {method!r}{near(method, METHODS)}; choose {', '.join(METHODS)}")
    else:
        large = any(option == "--model" or option.startswith("--model=") for option in options)
        config = read_options(f"train {method}", METHODS[method], defaults(method, large), options)
        if config.data and any(option.split("=")[0] == "--task" for option in options):
            raise UserError("--task would change nothing: --data says what is to be learned")
    return _train(config, resume is not None)


def _train(config: Any, resume: bool) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from torchstone import report
    from torchstone.train.files import named
    from torchstone.train.run import Interrupted
    from torchstone.train.run import train as run

    stop = _ctrl_c_waits()
    if not config.model and not resume:
        print("first the small start model: pre-training and warm-up, up to a minute")
        print("(with --model FOLDER there is none)")
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), transient=True) as progress:
        bar = progress.add_task("the start model" if not config.model else "loading", total=None, note="")

        def show(record: dict[str, Any]) -> bool:
            names = ("reward", "rewards/accuracies", "entropy", "kl")
            note = "  ".join(f"{name} {record[name]:.3f}" for name in names if name in record)
            progress.update(bar, description=config.label, total=record["steps"], completed=record["step"], note=note)
            told = {"eval_reward": "held-out reward", "eval_kl": "KL to the teacher"}
            if held_out := [f"{name} {record[k]:.3f}" for k, name in told.items() if k in record]:
                print(f"round {record['step']:>5}  {'  '.join(held_out)}  {record['seconds']:6.1f} s")
            return stop.is_set()

        try:
            folder = run(config, show, resume)
        except Interrupted as e:
            raise _stopped("train", e) from e
        except KeyboardInterrupt:
            raise UserError("stopped at once; what was saved before is kept", 130) from None
    with named(folder / "curves.png"):
        report.plot_run(folder, f"{report.NAMES.get(config.label, config.label)} on {config.data or config.task}")
    print(f"metrics.jsonl, completions.jsonl, curves.png and model/ are in {folder}")
    return 0


def compare(arguments: list[str]) -> int:
    """``torchstone compare [options]``, or ``torchstone compare --resume FOLDER``."""
    from torchstone.train.options import Compare

    folder, rest = _resume_folder(arguments)
    if folder:
        if rest:
            raise UserError("--resume FOLDER takes every option from the folder; give nothing else with it")
        if not (folder / "compare.json").is_file():
            raise UserError(f"--resume {folder}: no comparison there (compare.json is missing)")
        values = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        options = Compare(**values | {"out": folder} | tuples)
    else:
        default = Compare(seeds=1, samples=8192, quick=True) if "--quick" in arguments else Compare()
        options = read_options("compare", Compare, default, arguments)
        folder = options.out or _new_folder(Path("runs") / f"compare-{options.task}")
        if (folder / "compare.json").exists():
            raise UserError(f"{folder} holds a comparison already: --resume {folder}, or choose another --out")
    return _compare(options, folder)


def _compare(options: Any, folder: Path) -> int:
    from torchstone import report
    from torchstone.train.compare import compare as run

    started = time.perf_counter()
    try:
        with _Display(options) as display:
            runs = run(options, folder, display.show)
    except KeyboardInterrupt as e:
        raise _stopped("compare", folder) from e
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


def _resume_folder(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """FOLDER of ``--resume FOLDER``, and the options beside it; a method's name may stand there, and says nothing."""
    at = [i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--resume"]
    if not at:
        return None, arguments
    _, equals, folder = arguments[at[0]].partition("=")
    after = at[0] + (1 if equals else 2)
    folder = folder or next(iter(arguments[at[0] + 1 : after]), "")
    if not folder or folder.startswith("-"):
        raise UserError("--resume FOLDER: the folder of a run that was stopped is missing")
    before = arguments[: at[0]]
    return Path(folder), before[bool(before and not before[0].startswith("-")) :] + arguments[after:]


def _ctrl_c_waits() -> threading.Event:
    """The first Ctrl-C, or SIGTERM, asks to stop after the round; the second stops at once."""
    asked = threading.Event()

    def handler(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nstopping after this round (once more: at once)", file=sys.stderr)

    if threading.current_thread() is threading.main_thread():
        for of in (signal.SIGINT, signal.SIGTERM):
            signal.signal(of, handler)
    return asked


def _stopped(command: str, folder: Any) -> UserError:
    again = f"torchstone {command} --resume {folder}"
    return UserError(f"stopped; everything is saved in {folder}. Go on with: {again}", 130)
