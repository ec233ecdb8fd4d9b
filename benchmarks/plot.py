"""docs/performance.png from the JSON files in benchmarks/results: Torchstone beside its peers and its limits.

python benchmarks/plot.py        needs matplotlib
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
INK, MUTED, GREY = "#22303C", "#5B6873", "#8A96A0"
ORANGE, GREEN, BLUE, PURPLE = "#C4570E", "#178A6B", "#1F6FA8", "#9A3A78"
NAMES = {
    "openrlhf": "OpenRLHF", "trl": "TRL", "torchrl": "torchrl", "verl": "verl",
    "a loop over columns, as TRL's former PPOTrainer had": "TRL's former loop",
    "torchstone, compiled": "Torchstone, compiled", "naive": "log_softmax of all logits",
    "linear_log_probs, frozen head": "Torchstone, frozen head",
    "linear_log_probs": "Torchstone", "linear_loss": "Torchstone, linear_loss",
}  # fmt: skip


def panels():
    """For each panel: title, unit, colour, whether it is over Torchstone's time, and rows of a label and figures."""
    read = lambda name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())  # noqa: E731
    recurrence, objectives, linear = read("recurrence"), read("objectives"), read("linear")
    ours, own = "time / Torchstone's", ("gae", "linear_recurrence", "plain loop", "torchstone", "three products")
    rows = lambda table: [(NAMES.get(n, n), r) for n, r in table["table"].items() if n not in own]  # noqa: E731
    for size in ("8x4096", "64x4096"):
        yield f"GAE on [{size.replace('x', ', ')}]", ours, ORANGE, True, rows(recurrence[f"{size}, 1 threads"])
    yield "GRPO's loss on [64, 2048]", ours, GREEN, True, rows(objectives["grpo, 1 threads"])
    table = linear["4096x576x49152, 2 threads"]
    title = "log-probs from hidden states\n4,096 x 576 x 49,152"
    yield f"{title}: time", "time / three products", PURPLE, False, rows(table)
    shares = {n: {"ratio": 100 * r["of_logits"]} for n, r in table["table"].items()}
    yield f"{title}: memory", "extra memory, % of the logits", PURPLE, False, rows({"table": shares})
    training = read("training")["peers"]["table"]
    yield "a round of training", "TRL's time / Torchstone's", BLUE, True, list(training.items())


def main():
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "ytick.color": INK})
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.6), layout="constrained")
    for axis, (title, unit, colour, over_ours, rows) in zip(axes.flat, panels(), strict=True):
        names, ratios = [n for n, _ in rows[::-1]], [r["ratio"] for _, r in rows[::-1]]
        ends = [
            [r.get(a, r.get(b, r["ratio"])) for _, r in rows[::-1]] for a, b in (("low", "lowest"), ("high", "highest"))
        ]
        spread = [[abs(r - end) for r, end in zip(ratios, side, strict=True)] for side in ends]
        colours = [colour if over_ours or n.startswith("Torchstone") else GREY for n in names]
        axis.barh(names, ratios, color=colours, alpha=0.85, xerr=spread, ecolor=MUTED, height=0.62)
        for y, (ratio, high) in enumerate(zip(ratios, ends[1], strict=True)):
            axis.text(high * 1.03, y, f" {ratio:.0f}" if ratio > 10 else f" {ratio:.2f}", va="center", color=INK)
        large = max(ratios) > 20 and over_ours
        if large:
            axis.set(xscale="log", xlim=(0.8, None))
        if "%" not in unit:
            axis.axvline(1, color=INK, linewidth=1, linestyle="--")
        axis.set_xlim(right=max(ends[1]) * (2.2 if large else 1.2))
        axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
        axis.set_xlabel(unit)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "performance.png", dpi=150)


if __name__ == "__main__":
    main()
