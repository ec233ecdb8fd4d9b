"""What each run of a data.csv has more than its first, pair by pair: mean and 95% t interval.

python docs/differences.py docs/comparisons/length.csv eval_length/wrong 1024 2048 16384
"""

import csv
import sys
from pathlib import Path

from torchstone.report import interval

Interval = tuple[float, float]  # mean, and half the width


def differences(file: Path, metric: str) -> dict[str, dict[int, Interval]]:
    """The first run's values and then every other run's difference from it, at each number of samples."""
    values: dict[str, dict[tuple[str, int], float]] = {}
    with open(file, encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row[metric]:
                pair = (row["seed"], int(row["samples"]))
                values.setdefault(row["run"], {})[pair] = float(row[metric])
    (first, base), *others = values.items()
    tables = {first: base} | {run: {k: v - base[k] for k, v in table.items()} for run, table in others}
    grid = dict.fromkeys(at for _, at in base)
    return {run: {at: interval([v for k, v in t.items() if k[1] == at]) for at in grid} for run, t in tables.items()}


def main(file: str, metric: str, *samples: str) -> None:
    for i, (run, table) in enumerate(differences(Path(file), metric).items()):
        print(f"{metric} of {run}" if i == 0 else f"what {run} has more")
        for at in map(int, samples or table):
            print(f"{at:7,} samples: {table[at][0]:+.3f} ± {table[at][1]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
