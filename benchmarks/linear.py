"""How long log-probs from hidden states take, forward and backward, and what memory they need beyond their gradients.

    python benchmarks/linear.py [1024x576x49152 ...]     rows x width x vocabulary; --quick: a smoke run, writes nothing
    python benchmarks/linear.py --only Liger             beside the products, and merged into the results

Time is a ratio to the three matrix products that the work consists of (logits, gradient of hidden, gradient of weight),
measured beside it: every round runs all contenders in turn, and the figure is the median ratio over rounds. With
--threads 1 it is processor time, which other processes on the machine disturb less than the time on the clock.
"rows at a time" are the same products in the pieces in which linear_loss takes them: the rate of the matrix library.
Memory is measured in a process of its own for each contender: its peak resident memory (VmHWM: all that torch and
Python allocate; Linux only), minus what was resident with the inputs in place after a toy run and the bare products of
half the rows (the matrix library keeps room for itself: 1 MB on one processor, 10 MB on another), minus the gradients.
TRL and Liger take part where they are installed (requirements-frameworks.txt), Liger compiled, which is its default. A
first round, in which things are compiled, does not count.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from recurrence import processor

from torchstone.core import Loss, linear_log_probs, linear_loss
from torchstone.fast import linear

SIZES = {"1024x576x49152": 7, "4096x576x49152": 5, "1024x640x262144": 5, "4096x640x262144": 3}  # and how many rounds
TOY = "512x64x2048"
RESULTS = Path(__file__).parent / "results" / "linear.json"
COPIES = {"naive": 3, "TRL": 5}  # of the full logits at most (others 2): left out where memory is short


def inputs(size):
    rows, width, vocabulary = (int(n) for n in size.split("x"))
    hidden = torch.randn(8, rows // 8, width).requires_grad_()  # eight sequences
    weight = torch.randn(vocabulary, width).mul_(width**-0.5).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, hidden.shape[:2]), torch.randn(hidden.shape[:2])


def installed(module):
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"{module} is not installed: left out", file=sys.stderr)


def contenders():
    """Each goes from hidden h, weight w, targets y and coefficients c to the gradients of sum(c * log_probs)."""

    @torch.no_grad()
    def products(h, w, y, c):
        logits = h.flatten(0, 1) @ w.T
        h.grad, w.grad = (logits @ w).view_as(h), logits.T @ h.flatten(0, 1)

    @torch.no_grad()
    def pieces(h, w, y, c):
        h.grad, w.grad, flat = torch.zeros_like(h), torch.empty_like(w), h.flatten(0, 1)
        logits = torch.empty(linear.LOSS_ROWS, len(w))
        for r in linear._slices(len(flat), linear.LOSS_ROWS):
            z = logits[: r.stop - r.start]
            for c in linear._slices(len(w), linear.LOSS_COLUMNS):
                torch.mm(flat[r], w[c].T, out=z[:, c])
            for c in linear._slices(len(w), linear.LOSS_COLUMNS):
                h.grad.flatten(0, 1)[r].addmm_(z[:, c], w[c])
                w.grad[c].addmm_(z[:, c].T, flat[r], beta=float(r.start > 0))

    log_p = lambda h, w, y: torch.log_softmax(h @ w.T, -1).gather(-1, y[..., None]).squeeze(-1)  # noqa: E731
    naive = lambda h, w, y, c: (c * log_p(h, w, y)).sum().backward()  # noqa: E731
    ours = lambda h, w, y, c: (c * linear_log_probs(h, w, y, temperature=1.0)).sum().backward()  # noqa: E731
    loss = lambda x, c: Loss((c * x).sum(), {})  # noqa: E731
    found = {"three products": products, f"three products, {linear.LOSS_ROWS} rows at a time": pieces}
    found |= {"naive": naive, "linear_log_probs": ours}
    found["linear_log_probs, frozen head"] = lambda h, w, y, c: ours(h, w.detach(), y, c)
    found["linear_loss"] = lambda h, w, y, c: linear_loss(h, w, y, loss, c, temperature=1.0).value.backward()
    if (trl := installed("trl.trainer.utils")) is not None:
        found["TRL"] = lambda h, w, y, c: (c * trl.selective_log_softmax(h @ w.T, y)).sum().backward()
    if (liger := installed("liger_kernel.chunked_loss")) is not None:
        grpo = liger.LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False)
        dpo = liger.LigerFusedLinearDPOLoss(use_ref_model=False)  # a loss of pairs; the same products
        found["Liger GRPO"] = lambda h, w, y, c: grpo(h, w, y, torch.ones_like(c), c[:, 0])[0].backward()
        found["Liger DPO"] = lambda h, w, y, c: dpo(w, h, y)[0].backward()
    return found


def peak(name, size):
    """MB beyond inputs and gradients at the peak of one run, in this process."""
    resident = lambda key: 1024 * int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])  # noqa: E731
    run = contenders()[name]
    run(*inputs(TOY))
    rows, rest = size.split("x", 1)
    contenders()["three products"](*inputs(f"{int(rows) // 2}x{rest}"))
    data = inputs(size)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    run(*data)
    return (resident("VmHWM") - before - sum(x.grad.nbytes for x in data if x.grad is not None)) / 1e6


def measure(size, rounds, only):
    rows, _, vocabulary = (int(n) for n in size.split("x"))
    free, logits_mb = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6, rows * vocabulary * 4e-6
    runs = {name: run for name, run in contenders().items() if COPIES.get(name, 2) * logits_mb < 0.9 * free}
    runs = {name: run for name, run in runs.items() if only in name or name == "three products"}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    data, seconds, table = inputs(size), {name: [] for name in runs}, {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            run(*inputs(TOY))  # warms up
            data[0].grad = data[1].grad = None
            start = clock()
            run(*data)
            seconds[name] += [clock() - start] * (turn > 0)
    del data
    for name in runs:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["three products"], strict=True))
        child = [sys.executable, __file__, size, "--peak", name]
        extra = float(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
        row = {"ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1], "extra_mb": extra}
        row |= {"of_logits": extra / logits_mb, "seconds": statistics.median(seconds[name])}
        print("{:30} {ratio:5.2f} ({lowest:.2f}-{highest:.2f}) {extra_mb:6.0f} MB {of_logits:7.1%}".format(name, **row))
        table[name] = {key: round(number, 3) for key, number in row.items()}
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), metavar="NxHxV")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="contenders whose name has this in it")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # a contender: how this script calls itself
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        return print(peak(options.peak, *options.sizes))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    noted = {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads}
    for name in ("torch", "trl", "liger-kernel"):
        noted |= {d.name: d.version for d in importlib.metadata.distributions(name=name)}
    for size in ["64x32x512"] if options.quick else options.sizes:
        rounds = options.rounds or SIZES.get(size, 5)
        print(f"{size}, float32, {rounds} rounds: time / three products (lowest-highest), extra memory, of logits")
        key, load = f"{size}, {options.threads} threads", {"load": os.getloadavg()[0]}
        kept = results.get(key, {}).get("table", {}) if options.only else {}
        results[key] = {"machine": noted | load, "table": kept | measure(size, rounds, options.only)}
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
