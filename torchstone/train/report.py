"""Tables and pictures of runs, read from their metrics.jsonl."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torchstone.terminal import table, wrapped

# Two-sided 95% quantiles of Student's t, by degrees of freedom.
T95 = [math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23]
COLOURS = {"reinforce": "#1F6FA8", "ppo": "#C4570E", "grpo": "#178A6B", "dpo": "#9A3A78"}
NAMES = {"reinforce": "REINFORCE", "ppo": "PPO", "grpo": "GRPO", "dpo": "DPO"}
PALETTE = ["#1F6FA8", "#C4570E", "#178A6B", "#9A3A78", "#8A7500", "#444444"]
PANELS = {  # what a comparison of recipes shows: metric -> title, factor, its name in the table
    "eval_reward": ("held-out reward, %", 100, "reward, %"),
    "entropy": ("entropy, nats per token", 1, "entropy"),
    "eval_length/right": ("length of right completions, tokens", 1, "tokens if right"),
    "eval_length/wrong": ("length of wrong completions, tokens", 1, "tokens if wrong"),
}
Curve = list[tuple[float, float]]  # (share of the run, held-out reward or another metric)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% t interval over seeds (0 for a single seed)."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, 0.0
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, T95[min(n - 1, 10)] * math.sqrt(variance / n)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(folder: Path, metric: str = "eval_reward") -> Curve:
    """The metric at the evaluations of a run, by how much of it was done."""
    records = read_records(folder)
    steps = records[-1]["step"]
    return [(r["step"] / steps, r[metric]) for r in records if "eval_reward" in r and metric in r]


def at(points: Curve, share: float) -> float:
    """The curve at ``share``, linear between evaluations."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if share <= x1:
            return y0 + (y1 - y0) * (share - x0) / (x1 - x0)
    return points[-1][1]


def comparison_table(runs: dict[str, list[Path]], task: str) -> str:
    """For each method the held-out reward before and after, with intervals over seeds."""
    seeds = len(next(iter(runs.values())))
    note = f"mean of {seeds} seeds ± 95% t interval" if seeds > 1 else "one seed"
    rows = []
    for method, folders in runs.items():
        ends = [read_records(folder) for folder in folders]
        before, after = (interval([records[i]["eval_reward"] for records in ends]) for i in (0, -1))
        cells = [f"{100 * mean:.1f}%" + (f" ± {100 * half:.1f}" if seeds > 1 else "") for mean, half in (before, after)]
        samples, seconds = (sum(records[-1][k] for records in ends) / len(ends) for k in ("samples", "seconds"))
        rows.append([NAMES[method], *cells, f"{samples:,.0f}", f"{seconds:.0f}"])
    numbers = ["before", "after", "samples", "seconds"]
    return table(["method", *numbers], rows, right=numbers) + f"\n{task}: reward on held-out prompts, {note}"


def plot_comparison(runs: dict[str, list[Path]], task: str, samples: int, file: Path) -> None:
    """Learning curves: the mean over seeds, and its 95% t interval as a band."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8.4, 5.0))
    ends = []
    for method, folders in runs.items():
        curves, grid = [curve(folder) for folder in folders], [i / 40 for i in range(41)]
        stats = [interval([at(points, x) for points in curves]) for x in grid]
        x, means = [g * samples for g in grid], [100 * mean for mean, _ in stats]
        low, high = ([100 * min(1, max(0, m + sign * h)) for m, h in stats] for sign in (-1, 1))
        colour, line = COLOURS[method], "--" if method == "dpo" else "-"
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, means, line, color=colour, linewidth=2.2, solid_capstyle="round")
        ends.append((means[-1], method))
    height = math.inf
    for y, method in sorted(ends, reverse=True):  # a name at the end of each line, moved down where two would touch
        height = min(y, height - 5.5)
        style = {"color": COLOURS[method], "va": "center", "fontweight": "bold", "annotation_clip": False}
        axes.annotate(f"{NAMES[method]}  {y:.0f}%", (samples, y), (samples * 1.02, height), **style)
    seeds = len(next(iter(runs.values())))
    axes.set(xlim=(0, samples), ylim=(0, 101), xlabel="completions sampled")
    axes.set_title(f"{task}: the same start, the same budget of samples", loc="left", fontweight="bold", pad=38)
    band = f"mean of {seeds} seeds and its 95% t interval" if seeds > 1 else "one seed"
    notes = f"Mean reward in % on held-out prompts, one sample each; {band}."
    if "dpo" in runs:
        notes += "\nDPO (dashed) samples everything first: its line shows the share of its training that is done."
    axes.text(0, 1.03, notes, transform=axes.transAxes, fontsize=8.5, color="#555555", linespacing=1.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.subplots_adjust(left=0.07, right=0.80, top=0.83, bottom=0.11)
    figure.savefig(file, dpi=160)
    plt.close(figure)


def recipes_table(runs: dict[str, list[Path]], task: str) -> str:
    """What each recipe ends with, then seed by seed what it has more than the first one."""
    seeds = len(next(iter(runs.values())))
    note = f"mean of {seeds} seeds ± 95% t interval" if seeds > 1 else "one seed"
    ends = [[[last_of(folder, metric) for folder in folders] for metric in PANELS] for folders in runs.values()]
    rows = [[str(i), *_cells(columns, "")] for i, columns in enumerate(ends, start=1)]
    for i, columns in enumerate(ends[1:], start=2):
        more = [[x - y for x, y in zip(*pair, strict=True)] for pair in zip(columns, ends[0], strict=True)]
        rows.append([f"{i} - 1", *_cells(more, "+")])
    numbers = [title for _, _, title in PANELS.values()]
    names = [f"{i}  {name}" for i, name in enumerate(runs, start=1)]
    told = wrapped(f"{task}: end of the run, {note}. 2 - 1: what 2 has more than 1, seed by seed.")
    sums = range(len(ends), len(rows))
    return "\n".join([table(["recipe", *numbers], rows, right=numbers, sums=sums), *names, told])


def last_of(folder: Path, metric: str) -> float:
    """The metric at the run's last evaluation that has it; NaN if none has."""
    points = curve(folder, metric)
    return points[-1][1] if points else math.nan


def _cells(columns: list[list[float]], sign: str) -> list[str]:
    """Mean and interval of each metric's values, one value a seed."""
    texts = []
    for values, (_, factor, _) in zip(columns, PANELS.values(), strict=True):
        mean, half = interval([factor * value for value in values])
        digits = 1 if factor == 100 else 2
        texts.append(f"{mean:{sign}.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else ""))
    return texts


def plot_recipes(runs: dict[str, list[Path]], task: str, samples: int, file: Path) -> None:
    """A panel for each metric, a line for each recipe: the mean over seeds, and its 95% t interval as a band."""
    plt = _pyplot()
    figure, grid = plt.subplots(2, 2, figsize=(9.6, 6.2), sharex=True)
    seeds = len(next(iter(runs.values())))
    for axes, (metric, (title, factor, _)) in zip(grid.flat, PANELS.items(), strict=True):
        ends: list[float] = []
        for i, (name, folders) in enumerate(runs.items()):
            curves = [points for folder in folders if (points := curve(folder, metric))]
            shares = [x / 40 for x in range(41) if curves and x / 40 >= max(points[0][0] for points in curves)]
            stats = [interval([factor * at(points, x) for points in curves]) for x in shares]
            xs, means = [x * samples for x in shares], [mean for mean, _ in stats]
            style = {"color": PALETTE[i % len(PALETTE)], "linestyle": ["-", "--", ":"][i // len(PALETTE) % 3]}
            axes.fill_between(
                xs, [m - h for m, h in stats], [m + h for m, h in stats], color=style["color"], alpha=0.15, linewidth=0
            )
            axes.plot(xs, means, label=f"{i + 1}  {name}", linewidth=2.0, **style)
            ends += means
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        room = max(0.2 * (high - low), 0.05 * abs(high), 0.01)  # the lines decide what is seen: bands may be very wide
        axes.set_ylim(low - room, min(high + room, 101) if metric == "eval_reward" and high <= 100 else high + room)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(0, samples)
    for axes in grid[1]:
        axes.set_xlabel("completions sampled")
    band = f"mean of {seeds} seeds and its 95% t interval" if seeds > 1 else "one seed"
    top = 1 - (0.45 + 0.19 * len(runs)) / 6.2  # inches for the heading, and a line of the legend each
    figure.text(0.012, 0.985, f"{task}: {band}", va="top", fontweight="bold", fontsize=11)
    where = {"loc": "upper left", "bbox_to_anchor": (0.005, 0.955), "frameon": False, "fontsize": 9}
    figure.legend(*grid[0, 0].get_legend_handles_labels(), **where)
    figure.tight_layout(rect=(0, 0, 1, top))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def write_csv(runs: dict[str, list[Path]], file: Path) -> None:
    """Every evaluation of every run: what the table and the picture are made of."""
    metrics = ["eval_reward", "eval_length/right", "eval_length/wrong", "entropy", "reward", "frac_reward_zero_std"]
    metrics += ["clip_ratio/low_mean", "clip_ratio/high_mean", "grad_norm"]
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["run", "seed", "samples", *metrics])
        for name, folders in runs.items():
            for folder in folders:
                seed = json.loads((folder / "config.json").read_text(encoding="utf-8"))["seed"]
                for r in (r for r in read_records(folder) if "eval_reward" in r):
                    numbers = [f"{r[k]:.4g}" if k in r else "" for k in metrics]
                    rows.writerow([name, seed, r["samples"], *numbers])


def plot_run(folder: Path, title: str) -> Path:
    """One panel for each thing worth watching in a run."""
    plt = _pyplot()
    records = read_records(folder)
    panels = [
        ("reward", ["reward", "eval_reward"]),
        ("pairs", ["rewards/accuracies"]),
        ("margin", ["rewards/margins", "rewards/chosen", "rewards/rejected"]),
        ("entropy, nats per token", ["entropy"]),
        ("KL to the start, nats per token", ["kl"]),
        ("clipped share", ["clip_ratio/low_mean", "clip_ratio/high_mean"]),
        ("completion length, tokens", ["completions/mean_length"]),
        ("groups without signal, share", ["frac_reward_zero_std"]),
        ("gradient norm", ["grad_norm"]),
    ]
    panels = [(name, keys) for name, keys in panels if any(r.get(k) for r in records for k in keys)]
    figure, grid = plt.subplots(-(-len(panels) // 3), 3, figsize=(11, 2.6 * -(-len(panels) // 3)), squeeze=False)
    for axes, (name, keys) in zip(grid.flat, panels, strict=False):
        for i, key in enumerate(k for k in keys if any(k in r for r in records)):
            x, y = zip(*((r["step"], r[key]) for r in records if key in r), strict=True)
            style = {"marker": "o", "markersize": 3} if key == "eval_reward" else {}
            axes.plot(x, y, color=list(COLOURS.values())[i], linewidth=1.4, label=key, **style)
        axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=7.5)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=140)
    plt.close(figure)
    return folder / "curves.png"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#e6e6e6", "axes.axisbelow": True, "axes.edgecolor": "#999999",
    })  # fmt: skip
    return plt
