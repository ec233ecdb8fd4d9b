"""The learner's folder: a file for each exercise, and the progress. An answer is graded in another process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone.learn.exercises import EXERCISES, Grade
from torchstone.learn.writing import text_of
from torchstone.terminal import UserError

DEFAULT = "torchstone-exercises"
PROGRESS = "progress.json"
FORMAT = "torchstone-exercises/1"
SECONDS = 6.0  # of work for an answer, once torch is loaded
STARTING = 120.0  # for torch to load, on the slowest machine


@dataclass
class Folder:
    """``passed`` and ``failed``: names of exercises that are right, and how many checks of one have failed."""

    path: Path
    passed: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def file(self, number: int) -> Path:
        """Where exercise ``number`` is; one that was renamed is known by the number that its name begins with."""
        usual = self.path / f"{number:02}_{EXERCISES[number - 1].name}.py"
        others = sorted(self.path.glob(f"{number:02}*.py")) if not usual.exists() else []
        return others[0] if len(others) == 1 else usual

    @property
    def next(self) -> int | None:
        """The first exercise that is not right yet."""
        return next((i for i, e in enumerate(EXERCISES, 1) if e.name not in self.passed), None)

    def write(self, number: int) -> Path | None:
        """The exercise as it was at first; what was there is kept beside it, and its place given back."""
        path, kept = self.file(number), None
        if path.exists():
            kept = path.with_suffix(".py.old")
            os.replace(path, kept)
        path.write_text(text_of(EXERCISES[number - 1]), encoding="utf-8")
        return kept

    def save(self) -> None:
        """Write the progress, whole or not at all; a folder that cannot be written to is a note."""
        data = {"format": FORMAT, "passed": sorted(self.passed), "failed": dict(sorted(self.failed.items()))}
        part = self.path / f"{PROGRESS}.{os.getpid()}"
        try:
            part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            os.replace(part, self.path / PROGRESS)
        except OSError as e:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            self.note = f"The progress could not be written into {self.path}: {e.strerror}."


def opened(given: Path | None) -> Folder:
    """The folder with its progress; made, with all exercises, if it is not there.

    Args:
        given: where; None is here, if the exercises are here, and else ``torchstone-exercises``.

    Raises UserError: it is a file, holds other things, or cannot be made.
    """
    here = Path.cwd()
    path = given or (here if _format(here / PROGRESS) == FORMAT else here / DEFAULT)
    folder = Folder(path)
    try:
        if path.is_dir() and any(path.iterdir()):
            return _read(folder)
        path.mkdir(parents=True, exist_ok=True)
        for number in range(1, len(EXERCISES) + 1):
            folder.write(number)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}; --folder takes another one", 2) from e
    folder.save()
    return folder


def _read(folder: Folder) -> Folder:
    progress = folder.path / PROGRESS
    if not progress.exists():
        if not any(folder.file(i).exists() for i in range(1, len(EXERCISES) + 1)):
            raise UserError(f"{folder.path} holds no exercises; --folder takes one that is empty, or not there yet", 2)
        folder.note = f"There is no {PROGRESS}: all exercises count as not done."
    elif _format(progress) != FORMAT:
        folder.note = f"{progress} cannot be read, and is written anew: all exercises count as not done."
    else:
        data = json.loads(progress.read_text(encoding="utf-8"))
        known = {e.name for e in EXERCISES}
        folder.passed = {x for x in data["passed"] if x in known}
        folder.failed = {k: int(n) for k, n in data["failed"].items() if k in known}
    return folder


def _format(progress: Path) -> Any:
    """What a file of progress says that it is; None of another file, and of one that does not hold together."""
    try:
        data = json.loads(progress.read_text(encoding="utf-8"))
        fits = isinstance(data["passed"], list) and all(isinstance(n, int) for n in data["failed"].values())
        return data["format"] if fits else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def graded(path: Path, number: int) -> Grade:
    """The grade of a file, from a process that ends after ``SECONDS`` whatever the file does."""
    command = [sys.executable, "-m", "torchstone.learn.grade", str(path.resolve()), str(number), str(SECONDS)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=STARTING + 4 * SECONDS, check=False)
        out, err = ran.stdout, ran.stderr
    except subprocess.TimeoutExpired:
        out, err = "", "it did not end"
    lines = out.splitlines()
    if lines:
        told = json.loads(lines[-1])
        return Grade(told["state"], told["function"], tuple(told["says"]), told["effect"], tuple(told["edges"]))
    places = re.findall(rf'File "{re.escape(str(path.resolve()))}", line (\d+)', err)
    where = f", and was stopped at line {places[0]}" if places else ""
    if "most recent call first" in err:
        return Grade("broken", says=(f"It did not end{where}: is there a loop without an end?",))
    last = (err.strip().splitlines() or ["is there an exit in the file?"])[-1]
    return Grade("broken", says=(f"The process that ran it ended without a grade: {last}",))
