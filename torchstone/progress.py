"""How far something is: a bar on a terminal; elsewhere a line now and then, so that a log shows it too."""

from __future__ import annotations

import sys
import time
from typing import Any

from torchstone.terminal import columns, dim

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


def noted(record: dict[str, Any]) -> str:
    """What stands beside the bar, or in a line now and then."""
    names = ("reward", "rewards/accuracies", "accuracy", "loss", "entropy", "kl")
    notes = [f"{name.rpartition('/')[2]} {record[name]:.3f}" for name in names if name in record][:2]
    if record.get("tokens") and record["seconds"]:
        notes.append(f"{record['tokens'] / record['seconds']:,.0f} tok/s")
    return "  ".join(notes)


def evaluated(record: dict[str, Any]) -> str:
    """The line of an evaluation; nothing if there was none."""
    told = {"eval_reward": "held-out reward", "eval_kl": "KL to the teacher", "eval_loss": "held-out loss"}
    told |= {"eval_accuracy": "held-out pairs ranked right"}
    told |= {key: key.split("/")[1] for key in record if key.startswith("eval_rewards/")}
    held_out = [f"{name} {record[k]:.3f}" for k, name in told.items() if k in record]
    return f"round {record['step']:>5}  {'  '.join(held_out)}  {record['seconds']:6.1f} s" if held_out else ""


def shown(sample: dict[str, Any]) -> str:
    """A held-out prompt, what was sampled after it, and its reward, in grey; long texts are cut at the line's end."""
    names, width = {"prompt": "asked", "completion": "wrote", "chosen": "better", "rejected": "worse"}, columns() - 32
    texts = {name: sample[key] for key, name in names.items() if key in sample}
    lines = [f"{name} {repr(text)[:width]}{'…' * (len(repr(text)) > width)}" for name, text in texts.items()]
    lines[-1] += f"  reward {sample['reward']:.3g}" if "reward" in sample else ""
    return "\n".join(dim(f"             {line}") for line in lines)
