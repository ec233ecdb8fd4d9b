"""docs/performance.png from the JSON files in benchmarks/results: how much longer peers take than Torchstone.

python benchmarks/plot.py        needs matplotlib
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
INK, MUTED, COLOURS = "#22303C", "#5B6873", {"recurrence": "#C4570E", "objectives": "#178A6B", "training": "#1F6FA8"}


def bars():
    """For each panel: title, colour, and (label, ratio, lowest, highest)."""
    read = lambda name: json.loads((RESULTS / f"{name}.json").read_text())  # noqa: E731
    recurrence, objectives, training = read("recurrence"), read("objectives"), read("training")["peers"]["table"]
    size = "8x4096, 1 threads"
    peers = {"torchrl": "torchrl, vectorised", "plain loop": "plain loop (returns alone)"}
    rows = [(peers.get(n, n.split(",")[0]), r) for n, r in recurrence[size]["table"].items() if r["ratio"] != 1]
    yield "GAE on [8, 4096]", COLOURS["recurrence"], [(n, r["ratio"], r["low"], r["high"]) for n, r in rows]
    table = objectives["ppo, 1 threads"]["table"]
    rows = [(n, r) for n, r in table.items() if n != "torchstone"]
    yield "PPO's loss on [64, 2048]", COLOURS["objectives"], [(n, r["ratio"], r["low"], r["high"]) for n, r in rows]
    rows = [(f"TRL, {n}", r["ratio"], r["lowest"], r["highest"]) for n, r in training.items()]
    yield "a round of training", COLOURS["training"], rows


def main():
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "ytick.color": INK})
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for axis, (title, colour, rows) in zip(axes, bars(), strict=True):
        rows = rows[::-1]
        ratios = [r for _, r, _, _ in rows]
        spread = [[r - low for _, r, low, _ in rows], [high - r for _, r, _, high in rows]]
        axis.barh([n for n, *_ in rows], ratios, color=colour, alpha=0.85, xerr=spread, ecolor=MUTED, height=0.62)
        for y, (_, ratio, _, high) in enumerate(rows):
            axis.text(high * 1.03, y, f" {ratio:.3g}", va="center", color=INK)
        axis.axvline(1, color=INK, linewidth=1, linestyle="--")
        if max(ratios) > 20:
            axis.set_xscale("log")
        axis.set_xlim(right=max(high for *_, high in rows) * (2.2 if max(ratios) > 20 else 1.18))
        axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
        axis.set_xlabel("time / Torchstone's time")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "performance.png", dpi=150)


if __name__ == "__main__":
    main()
