"""The same code on a GPU: the head, the recurrence and the losses against what the device can do.

    python benchmarks/gpu.py          on a GPU, writes results/gpu.json
    python benchmarks/gpu.py --toy    tiny sizes on whatever there is, a CPU too; writes nothing

head        linear_log_probs, forward and backward, bf16: its four matrix products (the logits are computed twice) over
            the time, as a share of the rate of a large bf16 product measured beside it; and its peak of extra memory,
            beyond inputs, outputs and gradients. The same with a frozen head, and of linear_loss: three products each.
recurrence  over the time of reading its two inputs and writing its output once (an addition), measured beside it.
losses      ppo_loss and grpo_loss, forward and backward, eager and compiled.
training    rounds of the small default model as in benchmarks/training.py: GRPO in samples a second, DPO in pairs; in
            turn with TRL's trainers where TRL is installed.
A figure is the median over rounds; low and high are the 10% and 90% of rounds.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
import training as small  # benchmarks/training.py

from torchstone.core import Loss, linear_log_probs, linear_loss, linear_recurrence, token_mean
from torchstone.grpo import grpo_loss
from torchstone.ppo import gae, ppo_loss

RESULTS = Path(__file__).parent / "results" / "gpu.json"
GOALS = {"head: share of the matrix rate": ">= 0.7", "head: extra GiB": "< 2", "recurrence / its traffic": "<= 3"}


def seconds(runs, rounds, device):
    """name -> the time of each round, all in turn; the first two rounds warm up and do not count."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            found[name] += [time.perf_counter() - start] * (turn >= 2)
    return found


def report(table, name, numbers):
    ordered = sorted(numbers)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    row = {"median": statistics.median(numbers), "low": low, "high": high, "goal": GOALS.get(name, "")}
    print("{:42} {median:10.4g} ({low:.4g} to {high:.4g}) {goal}".format(name, **row))
    table[name] = row


def head(table, device, rounds, rows, width, vocabulary):
    like = {"device": device, "dtype": torch.bfloat16}
    hidden = torch.randn(8, rows // 8, width, **like).requires_grad_()
    weight = torch.randn(vocabulary, width, **like).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(vocabulary, hidden.shape[:2], device=device)
    left, right = torch.randn(rows, width, **like), torch.randn(width, min(rows, vocabulary), **like)

    loss = lambda log_probs: Loss(log_probs.sum(), {})  # noqa: E731
    given = {"targets": targets, "temperature": 1.0}
    runs = {"head": lambda: linear_log_probs(hidden, weight, **given).sum().backward()}
    runs["frozen head"] = lambda: linear_log_probs(hidden, weight.detach(), **given).sum().backward()
    runs["linear_loss"] = lambda: linear_loss(hidden, weight, loss=loss, **given).value.backward()

    def fresh(run):
        hidden.grad = weight.grad = None
        run()

    runs = {name: partial(fresh, run) for name, run in runs.items()}
    found = seconds({"product": lambda: left @ right} | runs, rounds, device)
    rate = 2 * rows * width * right.shape[1] / statistics.median(found["product"])
    report(table, "matrix rate, TFLOP/s", [2e-12 * rows * width * right.shape[1] / s for s in found["product"]])
    for name, run in runs.items():
        work = (4 if name == "head" else 3) * 2 * rows * width * vocabulary
        report(table, f"{name}: seconds", found[name])
        report(table, f"{name}: share of the matrix rate", [work / s / rate for s in found[name]])
        if device.type == "cuda":
            hidden.grad = weight.grad = None
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            gradients = sum(x.grad.nbytes for x in (hidden, weight) if x.grad is not None)
            report(table, f"{name}: extra GiB", [(torch.cuda.max_memory_allocated() - before - gradients) / 2**30])


def recurrence(table, device, rounds, *shape):
    inputs, decays = torch.randn(shape, device=device), torch.full(shape, 0.999, device=device)
    out, mask = torch.empty_like(inputs), torch.ones(shape, dtype=torch.bool, device=device)
    runs = {"its traffic": lambda: torch.add(inputs, decays, out=out)}
    runs["recurrence"] = lambda: linear_recurrence(inputs, decays)
    runs["gae"] = lambda: gae(inputs, out, mask, gamma=0.999, lam=0.95)
    found = seconds(runs, rounds, device)
    for name in ("recurrence", "gae"):
        pairs = zip(found[name], found["its traffic"], strict=True)
        report(table, f"{name}: milliseconds", [1e3 * s for s in found[name]])
        report(table, f"{name} / its traffic", [a / b for a, b in pairs])


def losses(table, device, rounds, *shape):
    old = -3 * torch.rand(shape, device=device)
    x = (old + 0.2 * torch.randn_like(old)).requires_grad_()
    ref, advantages = old + 0.1 * torch.randn_like(old), torch.randn(shape[0], device=device)
    mask = torch.arange(shape[1], device=device) < torch.randint(1, shape[1] + 1, (shape[0], 1), device=device)
    how, kl = {"reduce": token_mean, "epsilon": 0.2}, {"beta": 0.04, "ref_log_probs": ref}
    named = {"ppo_loss": lambda: ppo_loss(x, old, advantages, mask, **how).value}
    named["grpo_loss"] = lambda: grpo_loss(x, old, advantages, mask, **how, **kl).value
    named |= {f"{name}, compiled": torch.compile(loss, fullgraph=True) for name, loss in named.items()}
    for name, found in seconds({n: lambda f=f: f().backward() for n, f in named.items()}, rounds, device).items():
        report(table, f"{name}: milliseconds", [1e3 * s for s in found])


def training(table, device, rounds, **sizes):
    small.HERE["device"] = device.type
    for method, size in sizes.items():
        numbers, grpo = [int(n) for n in size.split("x")], method == "GRPO"
        units, unit = (numbers[0] * numbers[1], "samples") if grpo else (numbers[0], "pairs")
        with tempfile.TemporaryDirectory() as folder:
            small.model(folder, numbers[2] if grpo else numbers[1])
            _, ours = (small.our_grpo if grpo else small.our_dpo)(folder, *numbers)
            runs, found = {"ours": partial(small.seconds, ours)}, {"ours": [], "TRL": []}
            if importlib.util.find_spec("trl"):
                runs["TRL"] = (small.trl_grpo if grpo else small.trl_dpo)(folder, *numbers).seconds
            for turn in range(4):  # the first warms up
                for name, run in runs.items():
                    found[name] += [units / wall for wall, _ in run(rounds)] * (turn > 0)
        for name in runs:
            report(table, f"{method} {size}: {unit} a second, {name}", found[name])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--toy", "--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of TRL's and transformers' insides
    torch.set_num_threads(1)  # of the host: small products wait for the slower core
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.toy:
        raise SystemExit("there is no GPU here; benchmarks/gpu.py --toy tries the script on the CPU")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, no GPU: a trial only"
    print(name, "torch", torch.__version__)
    table, rounds = {}, 3 if options.toy else options.rounds
    head(table, device, rounds, *((64, 32, 512) if options.toy else (16384, 4096, 151936)))
    recurrence(table, device, rounds, *((4, 64) if options.toy else (512, 16384)))
    losses(table, device, rounds, *((4, 16) if options.toy else (64, 2048)))
    sizes = {"GRPO": "2x2x4x1", "DPO": "4x4"} if options.toy else {"GRPO": "64x8x8x1", "DPO": "128x32"}
    training(table, device, max(2, rounds // 4), **sizes)
    if not options.toy:
        machine = {"device": name, "torch": torch.__version__}
        RESULTS.write_text(json.dumps({"machine": machine, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
