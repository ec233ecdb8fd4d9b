"""The type and colours of every plot: those of docs/style.typ, so that all pictures are of one hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

INK, MUTED, LINE = "#22303C", "#5B6873", "#C9D0D6"
REINFORCE, PPO, GRPO, DPO = "#1F6FA8", "#C4570E", "#178A6B", "#9A3A78"
DISTILL = "#806000"
PALETTE = [REINFORCE, PPO, GRPO, DPO, DISTILL, INK]
STYLE: Any = {
    "font.family": ["serif", "DejaVu Serif"], "font.serif": ["Libertinus Serif", "STIXGeneral"],  # matplotlib has STIX
    "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": LINE,
    "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": LINE, "ytick.color": LINE,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "lines.linewidth": 2.0, "lines.solid_capstyle": "round",
    "svg.fonttype": "none", "svg.hashsalt": "torchstone", "savefig.dpi": 180,
}  # fmt: skip


def pyplot() -> Any:
    """matplotlib's pyplot in this style, drawing to files only."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    return plt


def label_ends(axes: Any, labels: Iterable[tuple[float, str, str]], size: float = 11) -> None:
    """Names to the right of the axes, where the lines end: (y, text, colour), moved down where two would touch."""
    axes.figure.draw_without_rendering()
    points = axes.get_window_extent().height * 72 / axes.figure.dpi
    low, high = axes.get_ylim()
    line, place = 1.2 * size / points * (high - low), float("inf")
    for y, text, colour in sorted(labels, reverse=True):
        room = line * (1 + text.count("\n"))
        place = min(y, place - room / 2)
        where = {"xycoords": axes.get_yaxis_transform(), "xytext": (6, 0), "textcoords": "offset points"}
        style = {"va": "center", "linespacing": 1.1, "annotation_clip": False}
        axes.annotate(text, (1, place), color=colour, fontsize=size, **where, **style)
        place -= room / 2
