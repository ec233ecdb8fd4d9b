"""Tables and pictures of runs, read from their metrics.jsonl."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

from torchstone.drawing import DISTILL, DPO, GRPO, LINE, MUTED, PALETTE, PPO, REINFORCE, label_ends, pyplot
from torchstone.terminal import table, wrapped

# Two-sided 95% quantiles of Student's t, by degrees of freedom.
T95 = [math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23]
COLOURS = {"reinforce": REINFORCE, "ppo": PPO, "grpo": GRPO, "dpo": DPO, "distill": DISTILL}
NAMES = {
    "sft": "SFT",
    "reward": "Reward model",
    "reinforce": "REINFORCE",
    "ppo": "PPO",
    "grpo": "GRPO",
    "dpo": "DPO",
    "distill": "Distillation",
}
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
    return mean, t95(n - 1) * math.sqrt(variance / n)


def t95(dof: int) -> float:
    """The two-sided 95% quantile of Student's t, by degrees of freedom.

    A table to 10; from there the series in 1/dof (Abramowitz and Stegun, 26.7.5), right to 0.001.
    """
    if dof < len(T95):
        return T95[dof]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    from torchstone.store.files import read_records as read  # with what trains: pictures alone do without

    return read(folder / "metrics.jsonl")


def curve(folder: Path, metric: str = "eval_reward") -> Curve:
    """The metric at the evaluations of a run, by how much of it was done."""
    records = read_records(folder)
    steps = records[-1]["step"]
    return [(r["step"] / steps, r[metric]) for r in records if "eval_reward" in r and metric in r]


def at(points: Curve, share: float) -> float:
    """The curve at ``share``, linear between evaluations."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if share <= x1 and x0 < x1:
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
    told = f"{task}: reward on held-out prompts, {note}"
    return "\n".join([table(["method", *numbers], rows, right=numbers), told, *cost_of_teacher(runs)])


def cost_of_teacher(runs: dict[str, list[Path]]) -> list[str]:
    """What the samples of a distillation do not count, in a sentence; none if there is no distillation."""
    first = [json.loads((folders[0] / "config.json").read_text(encoding="utf-8")) for folders in runs.values()]
    teachers = {config["teacher"] for config in first if config.get("teacher")}
    if not teachers:
        return []
    teacher = Path(teachers.pop())
    if teacher.parent.resolve() != next(iter(runs.values()))[0].parent.resolve():
        return [wrapped(f"Distillation learns from {teacher}: what that took is not counted.")]
    samples = read_records(teacher)[-1]["samples"]
    return [wrapped(f"Distillation learns from the GRPO run of its seed, whose {samples:,} samples are not counted.")]


def plot_comparison(runs: dict[str, list[Path]], task: str, samples: int, file: Path) -> None:
    """Learning curves: a thin line for each seed, a bold one for their mean."""
    plot_curves(
        {method: [curve(folder) for folder in folders] for method, folders in runs.items()}, task, samples, file
    )


def plot_curves(curves: dict[str, list[Curve]], task: str, samples: int, file: Path) -> None:
    """The picture of ``plot_comparison``, from the curves of each method, one for each seed."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8.3, 4.4), layout="constrained")
    ends, grid = [], [i / 40 for i in range(41)]
    for method, of_seeds in curves.items():
        style = {"color": COLOURS[method], "linestyle": "--" if method == "dpo" else "-"}
        for points in of_seeds:
            axes.plot(
                [samples * x for x, _ in points], [100 * y for _, y in points], alpha=0.35, linewidth=0.9, **style
            )
        means = [100 * sum(at(points, x) for points in of_seeds) / len(of_seeds) for x in grid]
        axes.plot([samples * x for x in grid], means, linewidth=2.6, **style)
        ends.append((means[-1], f"{NAMES[method]}  {means[-1]:.0f}%", COLOURS[method]))
    seeds = len(next(iter(curves.values())))
    lines = f"Thin: {seeds} seeds. Bold: their mean." if seeds > 1 else "One seed."
    if "dpo" in curves:
        lines += "\nDPO, dashed, samples everything first:\nits line is the share of its training done."
    if "distill" in curves:
        lines += "\nDistillation has a trained teacher:\nits line leaves out what that took."
    place = {"transform": axes.transAxes, "va": "top", "linespacing": 1.35}
    axes.text(0.6, 0.32, "A demonstration, not a ranking.", fontweight="bold", **place)
    axes.text(0.6, 0.25, lines, color=MUTED, **place)
    axes.set_title(f"Task {task}: the same start, the same budget of samples")
    axes.set(xlim=(0, samples), ylim=(0, 101), xlabel="completions sampled", ylabel="reward on held-out prompts, %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    label_ends(axes, ends, 12)
    figure.savefig(file)
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
    shown = table(["recipe", *numbers], rows, right=numbers, sums=sums)
    return "\n".join([shown, *names, told, *cost_of_teacher(runs)])


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
    """A panel for each metric, a numbered line for each recipe: the mean over seeds, its 95% t interval as a band."""
    plt = pyplot()
    figure, grid = plt.subplots(2, 2, figsize=(8.3, 5.2 + 0.2 * len(runs)), sharex=True, layout="constrained")
    for axes, (metric, (title, factor, _)) in zip(grid.flat, PANELS.items(), strict=True):
        ends: list[float] = []
        labels = []
        for i, folders in enumerate(runs.values()):
            colour, dashes = PALETTE[i % len(PALETTE)], ["-", "--", ":"][i // len(PALETTE) % 3]
            curves = [points for folder in folders if (points := curve(folder, metric))]
            shares = [x / 40 for x in range(41) if curves and x / 40 >= max(points[0][0] for points in curves)]
            stats = [interval([factor * at(points, x) for points in curves]) for x in shares]
            xs, means = [x * samples for x in shares], [mean for mean, _ in stats]
            low, high = ([m + sign * h for m, h in stats] for sign in (-1, 1))
            axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(xs, means, color=colour, linestyle=dashes)
            labels += [(mean, str(i + 1), colour) for mean in means[-1:]]
            ends += means
        bottom, top = min(ends, default=0.0), max(ends, default=1.0)
        room = max(0.2 * (top - bottom), 0.05 * abs(top), 0.01)  # the lines decide what is seen: bands may be very wide
        axes.set_ylim(bottom - room, min(top + room, 101) if metric == "eval_reward" and top <= 100 else top + room)
        axes.set_title(title, fontsize=11)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(0, samples)
        label_ends(axes, labels)
    for axes in grid[1]:
        axes.set_xlabel("completions sampled")
    seeds = len(next(iter(runs.values())))
    band = f"mean of {seeds} seeds and its 95% t interval" if seeds > 1 else "one seed"
    names = [f"{i}  {name}" for i, name in enumerate(runs, start=1)]
    style = {"frameon": False, "handlelength": 0, "handletextpad": 0, "alignment": "left", "labelcolor": "linecolor"}
    legend = figure.legend(grid[0, 0].lines, names, loc="outside upper left", title=f"Task {task}: {band}", **style)
    legend.get_title().set_fontweight("bold")
    figure.savefig(file)
    plt.close(figure)


def write_csv(runs: dict[str, list[Path]], file: Path) -> None:
    """Every evaluation of every run: what the table and the picture are made of."""
    metrics = ["eval_reward", "eval_length/right", "eval_length/wrong", "entropy", "reward", "frac_reward_zero_std"]
    metrics += ["clip_ratio/low_mean", "clip_ratio/high_mean", "grad_norm"]
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["run", "seed", "samples", "step", *metrics])
        for name, folders in runs.items():
            for folder in folders:
                seed = json.loads((folder / "config.json").read_text(encoding="utf-8"))["seed"]
                for r in (r for r in read_records(folder) if "eval_reward" in r):
                    numbers = [f"{r[k]:.4g}" if k in r else "" for k in metrics]
                    rows.writerow([name, seed, r["samples"], r["step"], *numbers])


def plot_run(folder: Path, title: str) -> Path:
    """One panel for each thing worth watching in a run."""
    plt = pyplot()
    records = read_records(folder)
    other, kls = "start", {"kl": ""}
    if any("eval_kl" in r for r in records):
        other, kls = "teacher", {"eval_kl": "held out", "kl": "sampled"}
    panels = [
        ("reward", {"eval_reward": "held out", "reward": "sampled"}),
        ("loss, nats per token", {"eval_loss": "held out", "loss": "seen"}),
        ("pairs ranked right, share", {"eval_accuracy": "held out", "accuracy": "seen", "rewards/accuracies": ""}),
        (
            "reward of a pair",
            {
                "rewards/margins": "margin",
                "margin": "margin",
                "rewards/chosen": "chosen",
                "rewards/rejected": "rejected",
            },
        ),
        ("entropy, nats per token", {"entropy": ""}),
        (f"KL to the {other}, nats per token", kls),
        ("clipped, share", {"clip_ratio/low_mean": "low", "clip_ratio/high_mean": "high"}),
        ("completion length, tokens", {"completions/mean_length": ""}),
        ("groups without signal, share", {"frac_reward_zero_std": ""}),
        ("gradient norm", {"grad_norm": ""}),
    ]
    panels = [(name, keys) for name, keys in panels if any(r.get(k) for r in records for k in keys)]
    rows = -(-len(panels) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(11, 0.4 + 2.4 * rows), squeeze=False, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    for axes, (name, keys) in zip(grid.flat, panels, strict=False):
        ends = []
        for (key, label), colour in zip(keys.items(), (REINFORCE, MUTED, PPO), strict=False):
            if points := [(r["step"], r[key]) for r in records if key in r]:
                style = {"marker": "o", "markersize": 3, "zorder": 3} if key.startswith("eval_") else {}
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, **style)
                ends.append((points[-1][1], label, colour))
        axes.set_title(name, fontsize=11)
        axes.set_xlim(0, records[-1]["step"])
        label_ends(axes, ends, 10)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    figure.savefig(folder / "curves.png")
    plt.close(figure)
    return folder / "curves.png"
