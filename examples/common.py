"""What the four demos share: their options, the verdict, the picture."""

import argparse
import textwrap
from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor

COLOURS = {"REINFORCE": "#1F6FA8", "PPO": "#C4570E", "GRPO": "#178A6B", "DPO": "#9A3A78", "known": "#22303C"}


def options(doc: str, steps: int) -> argparse.Namespace:
    """--seed, --steps, --plot. One thread: these tensors are tiny."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same numbers (default: 0)")
    parser.add_argument("--steps", type=int, default=steps, help=f"number of updates (default: {steps})")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw a picture")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps: expected at least 1, got {args.steps}")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    return args


def table(columns: Iterable[str], rows: Iterable[Iterable[float]], digits: int = 3) -> None:
    """Numbers under their names."""
    columns = list(columns)
    print("  ".join(columns))
    for row in rows:
        print("  ".join(f"{x:{len(c)}.{0 if c == 'step' else digits}f}" for c, x in zip(columns, row, strict=True)))


def lines(named: dict[str, Tensor]) -> None:
    """One line of numbers under each other for each name."""
    width = max(map(len, named))
    for name, numbers in named.items():
        print(f"{name:<{width}}" + "".join(f"{x:8.3f}" for x in numbers.tolist()))


def every_tenth(steps: int) -> range:
    """About ten rows of a run: the last step, and nine before it."""
    return range((steps - 1) % max(1, steps // 10), steps, max(1, steps // 10))


def finish(
    args: argparse.Namespace, claims: dict[str, bool], title: str, ylabel: str,
    curves: dict[str, tuple[Tensor, str]], known: Iterable[float],
) -> NoReturn:  # fmt: skip
    """Say which claims hold, draw the curves (name: values [steps], colour), exit with 0 if all claims hold."""
    for claim, holds in claims.items():
        print(textwrap.fill(claim, 78, initial_indent="PASS  " if holds else "FAIL  ", subsequent_indent=" " * 6))
    if args.plot:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(7.5, 4.2), layout="constrained").subplots()
        for name, (values, colour) in curves.items():
            axes.plot(range(1, len(values) + 1), values, color=colour, label=name)
        for i, value in enumerate(known):
            axes.axhline(
                value, color=COLOURS["known"], linestyle="--", linewidth=1, label=None if i else "known answer"
            )
        axes.set(title=title, xlabel="updates", ylabel=ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        axes.figure.savefig(args.plot, dpi=150)
        print(f"picture: {args.plot}")
    raise SystemExit(0 if all(claims.values()) else 1)
