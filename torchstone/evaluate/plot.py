"""``torchstone plot``: the curves of several runs in one picture; runs that differ in their seed alone are one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone.terminal import Parser, UserError, near, table, wrapped

ABOUT = """\
Draw a metric of several runs against each other. Runs that differ in nothing
but their seed are one line: their mean, with a band for its 95% interval. RUN
is the folder of a run; it may still be going on.
"""
EXAMPLES = """\
examples
  torchstone plot runs/grpo-sort-0                        held-out reward
  torchstone plot runs/grpo-sort-* runs/ppo-sort-*        two lines, with bands
  torchstone plot runs/* --metric entropy reward          a panel for each
  torchstone plot runs/grpo-sort-0 --metric list          which there are
  torchstone plot runs/* --x seconds --out curves.png     against time
"""
AXES = {"samples": "completions sampled", "step": "rounds", "seconds": "seconds", "tokens": "tokens sampled"}
LIKELY = ("eval_reward", "reward", "rewards/accuracies", "eval_loss", "loss")  # drawn if no metric is named: the first
Curve = list[tuple[float, float]]


def plot(arguments: Sequence[str]) -> int:
    """``torchstone plot RUN... [--metric NAME ...] [--x NAME] [--out FILE]``."""
    parser = Parser("plot", ABOUT, EXAMPLES, operands="RUN [RUN ...]")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a run")
    parser.add_argument("--metric", nargs="+", metavar="NAME", help="What to draw, or list (default: held-out reward)")
    parser.add_argument("--x", choices=AXES, help="Against what (default: samples where there are any, else step)")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE", help="(default: curves.png)")
    options = parser.parse_args(arguments)
    runs = {folder: read_run(folder) for folder in dict.fromkeys(options.runs)}
    metrics = [name for name in metrics_of(runs.values()) if name not in AXES]
    if options.metric == ["list"]:
        print(wrapped(", ".join(metrics)))
        return 0
    chosen = options.metric or [next((name for name in LIKELY if name in metrics), "")]
    for name in chosen:
        if name not in metrics:
            raise UserError(f"no run has the metric {name!r}{near(name, metrics)}; there are {', '.join(metrics)}")
    x = options.x or ("samples" if all(map(samples_grow, runs.values())) else "step")
    lines = {label: [runs[folder]["records"] for folder in folders] for label, folders in labelled(runs).items()}
    draw(lines, chosen, x, options.out)
    print(plot_table(lines, chosen, x))
    others = [name for name in metrics if name not in chosen]
    print(wrapped(f"{options.out} has the picture. Other metrics: {', '.join(others)}"))
    return 0


def read_run(folder: Path) -> dict[str, Any]:
    """The options and records of a run. Raises UserError: there is none, or it has no round yet."""
    from torchstone.store.files import read_records

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("config.json holds no options")
    except (OSError, ValueError) as e:
        raise UserError(f"{folder} is no run's folder: {e}") from e
    records = read_records(folder / "metrics.jsonl")
    if not records:
        raise UserError(f"{folder} has no round yet: metrics.jsonl is empty or not there")
    return {"config": config, "records": records}


def metrics_of(runs: Any) -> list[str]:
    """The names of all numbers in the records, in their order."""
    names = (name for run in runs for record in run["records"] for name, x in record.items() if is_number(x))
    return list(dict.fromkeys(names))


def samples_grow(run: dict[str, Any]) -> bool:
    """Whether a run samples as it goes: dpo samples all before its first round."""
    first, last = (run["records"][i].get("samples") or 0 for i in (0, -1))
    return bool(first < last)


def is_number(x: Any) -> bool:
    """Whether a metric can be drawn."""
    return isinstance(x, int | float) and not isinstance(x, bool)


def labelled(runs: dict[Path, dict[str, Any]]) -> dict[str, list[Path]]:
    """Runs that differ in nothing but their seed and their place, under one label.

    The label is the method (or recipe) and the options in which the groups differ.
    """
    placed = ("seed", "out", "model", "teacher", "device", "log", "keep", "data")
    kinds: dict[str, list[Path]] = {}
    for folder, run in runs.items():
        options = {k: v for k, v in run["config"].items() if k not in placed}
        options |= {"model": bool(run["config"].get("model"))}
        kinds.setdefault(json.dumps(options, sort_keys=True), []).append(folder)
    options_of = [json.loads(kind) for kind in kinds]
    methods = [options.get("recipe") or options.get("method", "run") for options in options_of]
    labels = []
    for options, method in zip(options_of, methods, strict=True):
        same = [other for other, name in zip(options_of, methods, strict=True) if name == method]
        differ = [k for k in options if any(other.get(k) != options[k] for other in same)]
        labels.append(" ".join([method, *(f"{k} {options[k]}" for k in differ)]))
    found: dict[str, list[Path]] = {}
    for label, folders in zip(labels, kinds.values(), strict=True):
        found[label if label not in found else f"{label} ({folders[0].name})"] = folders
    return found


def curve(records: list[dict[str, Any]], metric: str, x: str) -> Curve:
    """The points of one run."""
    return [(r[x], r[metric]) for r in records if is_number(r.get(metric)) and is_number(r.get(x))]


def mean_curve(curves: list[Curve]) -> list[tuple[float, float, float]]:
    """(x, mean, half the 95% interval over seeds) at every point that all curves reach."""
    from torchstone.report import at, interval

    curves = [points for points in curves if points]
    begin = max((points[0][0] for points in curves), default=0.0)
    end = min((points[-1][0] for points in curves), default=-1.0)
    places = sorted({x for points in curves for x, _ in points if begin <= x <= end})
    return [(x, *interval([at(points, x) for points in curves])) for x in places]


def draw(lines: dict[str, list[list[dict[str, Any]]]], metrics: list[str], x: str, file: Path) -> None:
    """A panel for each metric, a line for each label, a band where it has several seeds."""
    from torchstone.drawing import LINE, PALETTE, label_ends, pyplot

    plt = pyplot()
    across = min(2, len(metrics))
    down = -(-len(metrics) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(6.2 * across + 1, 3.9 * down), squeeze=False, layout="constrained"
    )
    for axes, metric in zip(grid.flat, metrics, strict=False):
        ends = []
        for i, (label, runs) in enumerate(lines.items()):
            colour, style = PALETTE[i % len(PALETTE)], ("-", "--", ":")[i // len(PALETTE) % 3]
            if points := mean_curve([curve(records, metric, x) for records in runs]):
                xs, means, halves = zip(*points, strict=True)
                dots = {"marker": "o", "markersize": 3} if len(xs) < 40 else {}
                axes.plot(xs, means, color=colour, linestyle=style, **dots)
                low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
                axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
                ends.append((means[-1], label + (f" ({len(runs)} seeds)" if len(runs) > 1 else ""), colour))
        axes.set_title({"eval_reward": "held-out reward"}.get(metric, metric))
        axes.set_xlabel(AXES[x])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        label_ends(axes, ends, 10)
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as e:
        raise UserError(f"cannot write {file}: {e}") from e
    finally:
        plt.close(figure)


def plot_table(lines: dict[str, list[list[dict[str, Any]]]], metrics: list[str], x: str) -> str:
    """Where each line begins and ends."""
    rows = []
    for label, runs in lines.items():
        for metric in metrics:
            if points := mean_curve([curve(records, metric, x) for records in runs]):
                first, last = (
                    f"{m:.4g}" + (f" ± {h:.2g}" if len(runs) > 1 else "") for _, m, h in (points[0], points[-1])
                )
                rows.append([label, metric, str(len(runs)), first, last, f"{points[-1][0]:,.0f}"])
    head = ["runs", "metric", "seeds", "first", "last", x]
    return table(head, rows, right=head[2:])
