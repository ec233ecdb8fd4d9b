"""What each run of a data.csv has more than its first, pair by pair: mean and 95% t interval.

python docs/differences.py docs/comparisons/length.csv eval_length/wrong 1024 2048 16384
"""

import csv
import sys
from pathlib import Path

from torchstone.train.report import interval

Interval = tuple[float, float]  # mean, and half the width


def differences(file: Path, metric: str) -> dict[str, dict[int, Interval]]:
    """The first run's values and then every other run's difference from it, at each number of samples."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row[metric]]
    key = lambda row: (row.get("stream"), row["seed"], int(row["samples"]))  # noqa: E731
    runs = {
        run: {key(row): float(row[metric]) for row in rows if row["run"] == run} for run in {r["run"]: 0 for r in rows}
    }
    (first, base), *others = runs.items()
    tables = {first: base} | {run: {k: v - base[k] for k, v in values.items()} for run, values in others}
    grid = dict.fromkeys(at for *_, at in base)
    return {run: {at: interval([v for k, v in t.items() if k[-1] == at]) for at in grid} for run, t in tables.items()}


def main(file: str, metric: str, *samples: str) -> None:
    tables = differences(Path(file), metric)
    for at in map(int, samples):
        for i, (run, table) in enumerate(tables.items()):
            if at not in table:
                sys.exit(f"{file} has {metric} at {', '.join(map(str, table))} samples")
            mean, half = table[at]
            print(
                f"{mean:+.3f} ± {half:.3f}  {run}" if i else f"{metric} at {at} samples: {mean:.3f} ± {half:.3f}  {run}"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
