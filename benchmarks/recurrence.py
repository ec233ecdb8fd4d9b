"""How long GAE and the recurrence behind it take beside the peers' own code, and how exact they are.

    python benchmarks/recurrence.py [8x64 ...]     rows x positions; --quick: a smoke run, writes nothing

float32, every position chosen, gamma 0.99, lam 0.95. A figure is the median over rounds of their time / ours: over gae,
which checks and selects its inputs too, and over linear_recurrence for what is only the recurrence; the JSON has the
peers over the recurrence alone as well. With --threads 1 it is processor time, which other processes
disturb less than the time on the clock. verl whitens the advantages as well. torchrl's is its vectorised form. TRL's
PPOTrainer is in no wheel of today: its loop is written out here. The table of errors is against a loop in float64.
verl and OpenRLHF are loaded by torchstone.frameworks (requirements-frameworks.txt).
"""

import argparse
import gc
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

from torchstone.core import linear_recurrence
from torchstone.ppo import gae

RESULTS, GAMMA, LAM = Path(__file__).parent / "results" / "recurrence.json", 0.99, 0.95
PEERS = ("torch", "trl", "verl", "openrlhf", "torchrl")


def plain_loop(inputs, decays):
    """The recurrence, one addcmul a column."""
    x, out = torch.zeros_like(inputs[:, 0]), []
    for column, decay in zip(reversed(inputs.unbind(1)), reversed(decays.unbind(1)), strict=True):
        x = torch.addcmul(column, decay, x)
        out.append(x)
    return torch.stack(out[::-1], 1)


def column_loop(rewards, values):
    x, out = 0.0, []
    for t in reversed(range(rewards.shape[1])):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        x = rewards[:, t] + GAMMA * after - values[:, t] + GAMMA * LAM * x
        out.append(x)
    advantages = torch.stack(out[::-1], 1)
    return advantages, advantages + values


def verl(r, v, m):
    from torchstone.frameworks.verl.load import core

    algos = core()
    return lambda: algos.compute_gae_advantage_return(r, v, m.long(), GAMMA, LAM)


def openrlhf(r, v, m):
    from torchstone.frameworks.openrlhf.load import MAKER, load, module

    load()
    maker = module(MAKER).RemoteExperienceMaker
    return lambda: maker.get_advantages_and_returns(None, v, r, m.long(), GAMMA, LAM)


def torchrl(r, v, m):
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate as estimate

    after, done = torch.nn.functional.pad(v[:, 1:], (0, 1)), torch.zeros_like(m)
    done[:, -1] = True
    return lambda: estimate(GAMMA, LAM, *(x[..., None] for x in (v, after, r, done)))


def present(peers, *inputs):
    """name -> a run, of those that are installed."""
    found = {}
    for peer in peers:
        try:
            found[peer.__name__] = peer(*inputs)
        except ImportError as error:
            print(f"{peer.__name__} left out: {error}", file=sys.stderr)
    return found


def contenders(r, v):
    m, d = torch.ones_like(r, dtype=torch.bool), torch.full_like(r, GAMMA * LAM)
    found = {"gae": lambda: gae(r, v, m, gamma=GAMMA, lam=LAM)} | present((verl, openrlhf, torchrl), r, v, m)
    found["a loop over columns, as TRL's former PPOTrainer had"] = lambda: column_loop(r, v)
    return found | {"linear_recurrence": lambda: linear_recurrence(r, d), "plain loop": lambda: plain_loop(r, d)}


def alternate(runs, base, rounds, threads):
    """All in turn, 20 ms each or once: name -> its time / that of runs[base(name)], the median over rounds."""
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds, table = {name: [] for name in runs}, {}
    gc.freeze()  # the peers import half a million objects: a collection that walks them takes 0.2 s
    for turn in range(rounds + 2):  # two to warm up
        for name, run in runs.items():
            start, repeats = clock(), 0
            while repeats == 0 or clock() - start < 0.02:
                run()
                repeats += 1
            seconds[name] += [(clock() - start) / repeats] * (turn >= 2)
    for name in runs:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds[base(name)], strict=True))
        row = {"ratio": statistics.median(ratios), "low": ratios[rounds // 10], "high": ratios[-1 - rounds // 10]}
        row["ms"] = 1e3 * statistics.median(seconds[name])
        print("{:52} {ratio:7.2f} ({low:.2f}-{high:.2f}) {ms:8.3f} ms".format(name, **row))
        table[name] = {key: float(f"{number:.3g}") for key, number in row.items()}
    return {"machine": machine(threads), "table": table}


def processor():
    """The processor's name, family and model where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return f"{known['model name']}, family {known['cpu family']} model {known['model']}"
    except (OSError, KeyError):
        return platform.machine()


def machine(threads):
    noted = {"processor": processor(), "cores": os.cpu_count(), "threads": threads, "load": os.getloadavg()[0]}
    return noted | {d.name: d.version for p in PEERS for d in importlib.metadata.distributions(name=p)}


def arguments(description, **positional):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", **positional)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    return options


def errors(lengths):
    """The largest error of linear_recurrence and of the plain loop in float32, over the largest exact value."""
    table = {}
    for length, decay in itertools.product(lengths, (0.9, 0.99, 0.999, 1.0)):
        x = torch.randn(4, length, generator=torch.Generator().manual_seed(0))
        decays = torch.full_like(x, decay)
        exact = plain_loop(x.double(), decays.double())
        found = {"linear_recurrence": linear_recurrence(x, decays), "plain loop": plain_loop(x, decays)}
        row = {name: float(f"{(y - exact).abs().max() / exact.abs().max():.2g}") for name, y in found.items()}
        print(f"T {length:6}, decay {decay}: relative error {row}")
        table[f"T {length}, decay {decay}"] = row
    return table


def main():
    options = arguments(__doc__, default=["8x64", "8x4096", "64x4096"], metavar="BxT")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for size in ["2x16"] if options.quick else options.which:
        print(f"{size}, float32: time / torchstone's (10% to 90% of rounds)")
        runs = contenders(*torch.randn(2, *(int(n) for n in size.split("x"))))
        recurrence = {"linear_recurrence", "plain loop"}
        base = lambda name, r=recurrence: "linear_recurrence" if name in r else "gae"  # noqa: E731
        measured = alternate(runs, base, 3 if options.quick else options.rounds, options.threads)
        for row in measured["table"].values():
            row["over linear_recurrence"] = float(f"{row['ms'] / measured['table']['linear_recurrence']['ms']:.3g}")
        results[f"{size}, {options.threads} threads"] = measured
    results["relative error against float64"] = errors([64] if options.quick else [64, 1024, 4096, 16384])
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
