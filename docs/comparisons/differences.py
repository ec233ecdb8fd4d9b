"""What each run of a data.csv has more than its first, seed by seed: mean and 95% t interval.

python docs/comparisons/differences.py docs/comparisons/length.csv eval_length/wrong 1024 2048 16384
"""

import csv
import sys

from torchstone.train.report import interval


def main(file: str, metric: str, *samples: str) -> None:
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row[metric]]
    value = {(row["run"], row["seed"], row["samples"]): float(row[metric]) for row in rows}
    runs, seeds = dict.fromkeys(row["run"] for row in rows), dict.fromkeys(row["seed"] for row in rows)
    first, *others = runs
    for at in samples:
        if (first, next(iter(seeds)), at) not in value:
            sys.exit(f"{file} has {metric} at {', '.join(dict.fromkeys(row['samples'] for row in rows))} samples")
        mean, half = interval([value[first, seed, at] for seed in seeds])
        print(f"{metric} at {at} samples: {mean:.3f} ± {half:.3f}  {first}")
        for run in others:
            mean, half = interval([value[run, seed, at] - value[first, seed, at] for seed in seeds])
            print(f"{mean:+.3f} ± {half:.3f}  {run}")


if __name__ == "__main__":
    main(*sys.argv[1:])
