"""Draw the pictures of docs/ (performance, scaling, curves, gallery, smollm2, comparisons) from the data there.

    python docs/pictures.py [NAME ...]        default: all; needs the extra "docs"

matplotlib writes an SVG whose text stays text, and Typst sets it in the typeface of summary.JPG and the map.
"""

import csv
import json
import sys
from functools import partial
from pathlib import Path
from statistics import fmean

import typst
from differences import differences
from gallery import RUNS

from torchstone.drawing import GRPO, INK, LINE, MUTED, PALETTE, PPO, REINFORCE, label_ends, pyplot
from torchstone.report import plot_curves

ROOT = Path(__file__).resolve().parent.parent
PPI = 180  # 8.3 inches wide: 1,494 pixels, where a page shows about 830
MINUS = "\N{MINUS SIGN}"
plt = pyplot()


def picture(name: str, draw: object) -> None:
    """``draw`` an SVG (a file), and write docs/NAME.png."""
    svg = ROOT / "build" / "docs" / f"{name.replace('/', '-')}.svg"
    svg.parent.mkdir(parents=True, exist_ok=True)
    draw(svg)
    page = '#set page(width: auto, height: auto, margin: 6pt, fill: white)\n#image("/build/docs/{}")'
    how = {"root": ROOT, "format": "png", "ppi": PPI, "ignore_system_fonts": True, "timestamp": 0}
    (ROOT / "docs" / f"{name}.png").write_bytes(typst.compile(page.format(svg.name).encode(), **how))


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


NAMES = {
    "openrlhf": "OpenRLHF", "trl": "TRL", "naive": "log_softmax of all logits",
    "a loop over columns, as TRL's former PPOTrainer had": "TRL's former loop",
    "torchstone, compiled": "Torchstone, compiled", "linear_log_probs": "Torchstone, linear_log_probs",
    "linear_log_probs, frozen head": "Torchstone, frozen head", "linear_loss": "Torchstone, linear_loss",
}  # fmt: skip
OWN = ("gae", "linear_recurrence", "plain loop", "torchstone", "three products")


def hidden() -> dict[str, dict]:
    return results("linear")["4096x576x49152, 2 threads"]["table"]


def ratios() -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """Heading, task and framework: time over Torchstone's, lowest, highest."""

    def peers(table: dict, ours: str = "", only: tuple[str, ...] = ()) -> dict[str, tuple[float, ...]]:
        by, names = table[ours]["ratio"] if ours else 1, only or [name for name in table if name not in OWN]
        ends = (("ratio",), ("low", "lowest"), ("high", "highest"))
        return {n: tuple(next(table[n][k] for k in e if k in table[n]) / by for e in ends) for n in names if n in table}

    rounds = {}
    for name, row in results("training")["peers"]["table"].items():
        method, *sizes = name.replace("x", " ").split()
        words = "{} pairs of {} tokens" if method == "DPO" else "{} x {} samples of {} tokens, steps: {}"
        rounds[f"{method}, {words.format(*sizes)}"] = peers({"TRL": row})
    gae, losses, one = results("recurrence"), results("objectives"), ", 1 threads"
    return {
        "GAE": {f"[{size.replace('x', ', ')}]": peers(gae[size + one]["table"]) for size in ("8x4096", "64x4096")},
        "Loss, forward and backward": {
            f"{name.upper()}, [64, 2048]": peers(losses[name + one]["table"]) for name in ("ppo", "grpo", "dpo")
        },
        "From hidden states, 4,096 x 576 x 49,152": {
            "log-probs": peers(hidden(), "linear_log_probs", ("TRL", "naive")),
            "a loss": peers(hidden(), "linear_loss", ("Liger GRPO", "Liger DPO")),
        },
        "A round of training": rounds,
    }


def mark(axes, y: float, name: str, row: tuple[float, ...], unit: str = "") -> None:
    """A dot, its interval as a line, its name and number beside it."""
    middle, low, high = row
    colour = PPO if "orchstone" in NAMES.get(name, name) else REINFORCE
    axes.plot([low, high], [y, y], color=colour, linewidth=2.5, alpha=0.4)
    axes.plot(middle, y, "o", color=colour, markersize=4.5)
    number = f"{middle:.0f}" if middle >= 10 else f"{middle:.2g}" if unit else f"{middle:.2f}"
    style = {"color": colour, "fontsize": 10, "va": "center", "textcoords": "offset points"}
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axes.annotate(f"{NAMES.get(name, name)}  {number}{unit}", (high, y), (6, 0), bbox=box, **style)


def performance(file: Path) -> None:
    """Time of every framework over Torchstone's, a row for each task; below, memory from hidden states."""
    memory = sorted((100 * row["of_logits"], name) for name, row in hidden().items() if "products" not in name)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8.3, 9.0), height_ratios=(4.7, 1), layout="constrained")
    top.axvline(1, color=INK, linewidth=1.4, zorder=0)
    y, left = -0.3, {"ha": "right", "va": "center", "textcoords": "offset points"}
    for heading, tasks in ratios().items():
        y += 1.3
        top.annotate(heading, (0, y), (-8, 0), xycoords=top.get_yaxis_transform(), fontweight="bold", **left)
        for task, row in tasks.items():
            y += 0.4
            for i, (name, numbers) in enumerate(sorted(row.items(), key=lambda item: item[1])):
                y += 1
                if not i:
                    top.annotate(task, (0, y), (-8, 0), xycoords=top.get_yaxis_transform(), **left)
                mark(top, y, name, numbers)
    top.set(xscale="log", xlim=(0.22, 700), ylim=(y + 0.8, 0.4), yticks=[])
    ticks = [2.0**n for n in range(-2, 10)]
    top.set_xticks(ticks, [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks])
    top.set_title("Time over Torchstone's: right of the line, Torchstone is faster")
    top.set_xlabel("time / Torchstone's")
    for y, (share, name) in enumerate(memory):
        mark(bottom, y, name, (share, share, share), "%")
    bottom.set(xscale="log", xlim=(0.3, 1000), ylim=(len(memory) - 0.3, -0.7), yticks=[])
    bottom.set_xticks([0.3, 1, 3, 10, 30, 100, 300], ["0.3", "1", "3", "10", "30", "100", "300"])
    bottom.set_title("Memory of log-probs from hidden states, beyond inputs and gradients")
    bottom.set_xlabel("% of the full logits")
    for axes in (top, bottom):
        axes.minorticks_off()
        axes.grid(axis="x", color=LINE, linewidth=0.4)
        axes.spines["left"].set_visible(False)
    figure.savefig(file)


def scaling(file: Path) -> None:
    """A panel for each size that grows: the time of a round, and the slope of its last three points."""
    growth = results("training")["growth"]["table"]
    words = {"prompts": "prompts P", "group": "group size G", "tokens": "new tokens T", "vocabulary": "vocabulary V"}
    figure, grid = plt.subplots(1, 4, figsize=(8.3, 3.0), sharey=True, layout="constrained")
    for axes, (name, row), colour in zip(grid, growth.items(), PALETTE, strict=False):
        x, y = row["values"], [1e3 * s for s in row["seconds"]]
        line = [y[-1] * (v / x[-1]) ** row["exponent"] for v in x[-3:]]
        axes.loglog(x[-3:], line, color=colour, alpha=0.5)
        axes.loglog(x, y, "o", color=colour, markersize=5)
        style = {"textcoords": "offset points", "ha": "right", "va": "bottom", "color": colour}
        axes.annotate(f"exponent {row['exponent']:.2f}", (x[-1], y[-1]), (-9, 0), **style)
        axes.set_xlabel(words[name], color=colour)
        axes.set_xticks(x, [f"{v // 1024}k" if v >= 1024 else str(v) for v in x])
        axes.minorticks_off()
        axes.grid(color=LINE, linewidth=0.5)
    ticks = [t for t in (20, 50, 100, 200, 500, 1000, 2000) if grid[0].get_ylim()[0] <= t <= grid[0].get_ylim()[1]]
    grid[0].set_yticks(ticks, [f"{t:,}" for t in ticks])
    grid[0].set_ylabel("milliseconds of a round")
    title = "One GRPO round of the small model, as one size grows"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.savefig(file)


COMPARISONS = {  # picture: its lines (file, run, words), and its panels (finding, axis title, metric, factor)
    "length": (
        [("length", "dr_grpo:reduction=token-mean", "token mean"), ("length", "dr_grpo", "fixed length")],
        ("Wrong answers stay longer for a while\nunder the sequence mean",
         "tokens, less the sequence mean's", "eval_length/wrong", 1),
        ("Reward: ahead after two rounds,\nlevel at the end",
         "points, less the sequence mean's", "eval_reward", 100),
    ),
    "clip": (
        [("clip", "dr_grpo:surrogate.epsilon_high=0.28", "clip to\n1 + 0.28"),
         ("clip", "dr_grpo:surrogate.epsilon_high=1.0", "clip to\n1 + 1.0")],
        ("Right answers: a wider clip learns\nsooner to stop rambling",
         "tokens, less those of a clip to 1 + 0.2", "eval_length/right", 1),
        ("Entropy: higher for a moment,\nnot in the end", "nats per token, less that of 1 + 0.2", "entropy", 1),
    ),
    "std": (
        [("std", "grpo:loss_kl=none+advantage=group-mean", "no KL"),
         ("std-kl", "grpo:loss_kl.beta=0.1+advantage=group-mean", "KL,\nsame β"),
         ("std-kl", "grpo:loss_kl.beta=0.04+advantage=group-mean", "KL,\n0.4 β")],
        ("Reward without the deviation: lower\nwhere the KL keeps its β",
         "points, less those with the deviation", "eval_reward", 100),
        ("Entropy: higher there, the policy\nstays closer to the start",
         "nats per token, less that with it", "entropy", 1),
    ),
    "explore": (
        [("explore", "dr_grpo:reduction=token-mean+tokens=high-entropy+tokens.share=0.2+tokens.counted=chosen",
          "a fifth of\nthe tokens"),
         ("explore", "dr_grpo:reduction=token-mean+advantage=pass-at-k+advantage.k=4+advantage.eps=1e-6", "pass@4")],
        ("Reward: both learn more slowly", "points, less those of all tokens", "eval_reward", 100),
        ("Entropy: both keep more of it", "nats per token, less that of all tokens", "entropy", 1),
    ),
}  # fmt: skip


def comparison(name: str, file: Path) -> None:
    """A panel for each metric: what each run has more than the one that it is held against, pair by pair."""
    lines, *panels = COMPARISONS[name]
    figure, grid = plt.subplots(1, 2, figsize=(8.3, 3.6), layout="constrained")
    for axes, (finding, unit, metric, factor) in zip(grid, panels, strict=True):
        ends = []
        for (data, run, words), colour, shift in zip(lines, PALETTE, (0.97, 1, 1.03), strict=False):
            table = differences(ROOT / "docs" / "comparisons" / f"{data}.csv", metric)[run]
            points = [at for at in table if at in (512, 1024, 2048, 4096, 8192, max(table))]
            means, halves = zip(*([factor * v for v in table[at]] for at in points), strict=True)
            style = {"color": colour, "fmt": "o-", "markersize": 4, "linewidth": 1.6, "elinewidth": 1}
            axes.errorbar([at * shift for at in points], means, halves, **style)
            ends.append((means[-1], words, colour))
        axes.axhline(0, color=INK, linewidth=0.9, zorder=0)
        axes.set(xscale="log", title=finding, ylabel=unit, xlabel="completions sampled")
        axes.set_xticks(points, [f"{at / 1024:g}k" if at >= 1024 else str(at) for at in points])
        axes.minorticks_off()
        label_ends(axes, ends)
    figure.savefig(file)


def curves(file: Path) -> None:
    """The README's run of ``torchstone compare``, from the columns of its data.csv that are in docs/curves.csv."""
    with (ROOT / "docs" / "curves.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    runs: dict[str, dict[str, list]] = {}
    for row in rows:
        point = (int(row["step"]), float(row["eval_reward"]))
        runs.setdefault(row["run"], {}).setdefault(row["seed"], []).append(point)
    shares = {run: [[(x / p[-1][0], y) for x, y in p] for p in seeds.values()] for run, seeds in runs.items()}
    plot_curves(shares, "sort", max(int(row["samples"]) for row in rows), file)


def gallery(file: Path) -> None:
    """Six runs that went wrong, in colour, each beside one that did not, from docs/gallery.csv."""
    with (ROOT / "docs" / "gallery.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    figure, grid = plt.subplots(2, 3, figsize=(8.3, 4.9), layout="constrained")
    for axes, (panel, _, title, *_) in zip(grid.flat, RUNS, strict=True):
        for run, style in (("beside", {"color": MUTED, "linewidth": 1.4}), ("wrong", {"color": PPO})):
            of = [(int(r["round"]), float(r["value"])) for r in rows if (r["panel"], r["run"]) == (panel, run)]
            axes.plot(*zip(*of, strict=True), **style)
        axes.set_title(title.replace(": ", "\n"), fontsize=11)
        axes.set(xlabel="round", xlim=(1, None), ylim=(min(0, axes.get_ylim()[0]), None))
        axes.grid(axis="y", color=LINE, linewidth=0.6)
    figure.savefig(file)


def smollm2(file: Path) -> None:
    """The reward of each round's samples on SmolLM2, averaged over seeds: ours as lines, TRL's dashed."""
    with (ROOT / "benchmarks" / "results" / "smollm2-curves.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    runs: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        who, method, _ = row["run"].split("-")
        if method != "ppo":  # whose reward is the reward model's
            runs.setdefault((method, who), {}).setdefault(int(row["samples"]), []).append(float(row["reward"]))
    figure, axes = plt.subplots(figsize=(8.3, 3.8), layout="constrained")
    ends, colours = [], {"grpo": GRPO, "rloo": REINFORCE}
    for (method, who), points in runs.items():
        means = [fmean(of_seeds) for of_seeds in points.values()]
        axes.plot(list(points), means, "-" if who == "ours" else "--", color=colours[method])
        ends.append((means[-1], f"{method.upper()}, {who.replace('trl', 'TRL')}", colours[method]))
    axes.set(xlabel="completions sampled", ylabel="reward of a round's samples", ylim=(0, 1), xlim=(0, None))
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    label_ends(axes, ends)
    figure.savefig(file)


PICTURES = {
    "performance": performance,
    "scaling": scaling,
    "curves": curves,
    "gallery": gallery,
    "smollm2": smollm2,
} | {f"comparisons/{name}": partial(comparison, name) for name in COMPARISONS}


def main(*names: str) -> None:
    for name in names or PICTURES:
        picture(name, PICTURES[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
