"""What the four demos share: their options, the verdict, the picture."""

import argparse
import re
import textwrap
from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor

from torchstone.drawing import label_ends, pyplot


def options(doc: str, steps: int) -> argparse.Namespace:
    """--seed, --steps, --plot. One thread: these tensors are tiny."""
    parts = re.split(r"\n+(?=Problem|Known|Look)", doc.strip())
    about = "\n\n".join(textwrap.fill(" ".join(part.split()), 78) for part in parts)
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    curves: dict[str, tuple[Tensor, str]], known: dict[str, float],
) -> NoReturn:  # fmt: skip
    """Say which claims hold, draw the curves (name: values [steps], colour), exit with 0 if all claims hold.

    ``known``: the right answer of a curve, by its name.
    """
    for claim, holds in claims.items():
        print(textwrap.fill(claim, 78, initial_indent="PASS  " if holds else "FAIL  ", subsequent_indent=" " * 6))
    if args.plot:
        plt = pyplot()
        axes = plt.figure(figsize=(7.5, 4.2), layout="constrained").subplots()
        ends = []
        for name, (values, colour) in curves.items():
            axes.plot(range(1, len(values) + 1), values, color=colour)
            if name in known:
                axes.axhline(known[name], color=colour, linestyle=(0, (4, 3)), linewidth=1)
                name = f"{name},\nknown: {known[name]:.3g} (dashed)"
            ends.append((float(values[-1]), name, colour))
        axes.set(title=title, xlabel="updates", ylabel=ylabel, xlim=(1, len(values)))
        label_ends(axes, ends)
        axes.figure.savefig(args.plot)
        print(f"picture: {args.plot}")
    raise SystemExit(0 if all(claims.values()) else 1)
