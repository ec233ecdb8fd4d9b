"""What ``torchstone train`` prints, and how it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torchstone.stopping import ctrl_c_waits, stopped, unread
from torchstone.terminal import UserError, near, read_options, wrapped

HELP = """\
usage: torchstone train METHOD [options]
       torchstone train --resume FOLDER [--steps N] [--data FILE] ...

{}
torchstone train METHOD --help explains every option of the method.
"""


def train(arguments: list[str]) -> int:
    """``torchstone train METHOD [options]``, or ``torchstone train --resume FOLDER``; by torchrun, in each process."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return _read(arguments)
    from torchstone.train.processes import together

    return together(_read, arguments)


def _read(arguments: list[str]) -> int:
    from torchstone.train.options import METHODS, defaults

    if not arguments or arguments[0] in ("-h", "--help"):
        about = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in METHODS.items()}
        print(HELP.format("".join(wrapped(text, f"  {name:<12}") + "\n" for name, text in about.items())), end="")
        return 0
    method, *options = arguments
    resume, rest = resume_folder(arguments)
    if resume:
        from torchstone.store.files import load_config

        config = load_config(resume, rest)
    elif method not in METHODS:
        raise UserError(f"unknown method {method!r}{near(method, METHODS)}; choose {', '.join(METHODS)}", 2)
    else:
        large = any(option == "--model" or option.startswith("--model=") for option in options)
        config = read_options(f"train {method}", METHODS[method], defaults(method, large), options)
        if config.data and any(option.split("=")[0] == "--task" for option in options):
            raise UserError("--task would change nothing: --data says what is to be learned")
    return _train(config, resume is not None)


def _train(config: Any, resume: bool) -> int:
    from torchstone import report
    from torchstone.progress import Bar, evaluated, noted, shown
    from torchstone.store.files import named
    from torchstone.train.processes import main_process
    from torchstone.train.run import Interrupted
    from torchstone.train.run import train as run

    stop = ctrl_c_waits()
    if not config.model and not resume:
        print("first the small start model: pre-training and warm-up, up to a minute")
        print("(with --model FOLDER there is none)")
    with Bar("the start model" if not config.model else "loading") as bar:

        def show(record: dict[str, Any]) -> bool:
            with unread(stop):
                bar.update(record["step"], record["steps"], noted(record), evaluated(record), config.label)
                for sample in record["held_out"] if bar.on_terminal else []:
                    bar.say(shown(sample))
            return stop.is_set()

        try:
            folder = run(config, show, resume)
        except Interrupted as e:
            raise stopped("train", e) from e
        except KeyboardInterrupt:
            raise UserError("stopped at once; what was saved before is kept", 130) from None
    if main_process():
        with named(folder / "curves.png"):
            report.plot_run(folder, f"{report.NAMES.get(config.label, config.label)} on {config.data or config.task}")
    print(f"metrics.jsonl, completions.jsonl, curves.png and model/ are in {folder}")
    return 0


def resume_folder(arguments: list[str]) -> tuple[Path | None, list[str]]:
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
