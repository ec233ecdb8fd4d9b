"""How long a start takes: `import torchstone.grpo` over `import torch`, and `torchstone --help`.

    python benchmarks/startup.py        --rounds 15; --quick: a smoke run, writes nothing

Every run is a process of its own, the three in turn, by the time on the clock (a start is mostly reading files).
A figure is the median over rounds; that of the import is the median of differences within a round.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "startup.json"
RUNS = {
    "import torch": ["-c", "import torch"],
    "import torchstone.grpo": ["-c", "import torch, torchstone.grpo"],
    "torchstone --help": ["-m", "torchstone", "--help"],
}
LIMITS = {"import torchstone.grpo, over torch": 0.1, "torchstone --help": 0.5}


def start(arguments):
    before = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for arguments in RUNS.values():
        start(arguments)  # the files are in memory from here on
    rounds = [{name: start(run) for name, run in RUNS.items()} for _ in range(2 if options.quick else options.rounds)]
    seconds = {name: sorted(r[name] for r in rounds) for name in RUNS}
    over = "import torchstone.grpo, over torch"
    seconds[over] = sorted(r["import torchstone.grpo"] - r["import torch"] for r in rounds)
    table = {}
    for name, found in seconds.items():
        row = {"seconds": statistics.median(found), "lowest": found[0], "highest": found[-1]}
        limit = f", at most {LIMITS[name]}" if name in LIMITS else ""
        print("{:36} {seconds:6.3f} s ({lowest:.3f} to {highest:.3f}){}".format(name, limit, **row))
        table[name] = {key: round(number, 4) for key, number in row.items()}
    noted = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    noted |= {"torch": importlib.metadata.version("torch"), "load": os.getloadavg()[0]}
    if not options.quick:
        RESULTS.write_text(json.dumps({"machine": noted, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
