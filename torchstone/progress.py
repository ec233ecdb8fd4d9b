"""How far something is: a bar on a terminal; elsewhere a line now and then, so that a log shows it too."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY = 30.0  # seconds between lines where there is no terminal


class Bar:
    """Moves as ``update`` is called; ``left`` is told from what was done since the first call."""

    def __init__(self, description: str, unit: str = "round"):
        self.description, self.unit, self.on_terminal = description, unit, sys.stdout.isatty()
        self.first: tuple[float, float] | None = None  # the clock and what was done at the first call
        self.printed = time.perf_counter()
        self.progress: Any = None

    def __enter__(self) -> Bar:
        if self.on_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(14), MofNCompleteColumn(), TimeElapsedColumn())
            self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), transient=True)
            self.progress.__enter__()
            self.task = self.progress.add_task(self.description, total=None, note="")
        return self

    def __exit__(self, *error: Any) -> None:
        if self.progress:
            self.progress.__exit__(*error)

    def update(self, done: float, total: float, note: str = "", line: str = "", description: str = "") -> None:
        """Now ``done`` of ``total``. ``line`` is printed to stay; without a terminal, so is the note now and then."""
        now = time.perf_counter()
        self.first = self.first or (now, done)
        since, before = self.first
        left = (now - since) / (done - before) * (total - done) if done > before else None
        words = [note] * bool(note) + ([f"{duration(left)} left"] if left and done < total else [])
        if self.progress:
            told = description or self.description
            self.progress.update(self.task, description=told, total=total, completed=done, note="  ".join(words))
        elif not line and (now - self.printed >= EVERY or (0 < done < total and done % max(1, total // 10) == 0)):
            line = "  ".join([f"{self.unit} {done:>5,} of {total:,}", *words])
        if line:
            self.printed = now
            self.say(line)

    def say(self, text: str) -> None:
        """Print something that stays, above the bar."""
        if self.progress:
            self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
