"""Whole training steps of the small default model: against TRL's trainers, where the time goes, how it grows;
and its rollouts against transformers' ``generate``.

GRPO in samples a second against ``GRPOTrainer``, DPO in pairs a second against ``DPOTrainer``, in one process. Both
load the same folder, and do the same work in a round: the same prompts (of 7 tokens), group size, longest completion
(an untrained model ends one token in 16, so that some row of a batch always reaches it), batch, optimizer steps,
reward function, Adam and gradient clip, in float32, with full sampling. Neither has a reference in GRPO (beta is 0),
evaluates, logs or saves; in DPO both worked out the reference's log-probs before the clock starts, and TRL its token
ids too, which Torchstone makes in the first pass over the pairs and keeps.
What TRL does by default and is switched off: bfloat16, gradient checkpointing, tool and image fields of no use here.
TRL generates with transformers' ``generate``, its default. Every repetition runs both in turn; the figure is the median
ratio over repetitions. Wall time; the ratio of processor time, which other processes disturb less, stands beside it.

    python benchmarks/training.py                     everything; writes benchmarks/results/training.json
    python benchmarks/training.py peers               one part (peers, rollouts, profile, growth), merged into that file
    python benchmarks/training.py rollouts --model FOLDER    a real model's
    python benchmarks/training.py --quick             a smoke run, which writes nothing

One thread by default: with more, on a shared machine, each small product waits for the slower core (--threads).
TRL takes part where it is installed (requirements-frameworks.txt, with accelerate and datasets).
"""

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from recurrence import processor
from torch.utils.flop_counter import FlopCounterMode

from torchstone.core import completion_mask
from torchstone.data.tasks import DIGITS, Task, load_task
from torchstone.train import methods, offline, online
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.model import small_policy
from torchstone.train.offline import add_reference, learn_offline
from torchstone.train.online import learn_online
from torchstone.train.options import DPOOptions, GRPOOptions
from torchstone.train.rollout import sample

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
GRPO_SIZES = ["8x8x16x1", "64x8x8x1", "64x8x8x4", "32x16x32x1"]  # prompts, group, new tokens, optimizer steps a round
DPO_SIZES = ["16x16", "128x8", "128x32"]  # pairs, tokens of a completion
ROLLOUTS = ["8x8x16", "64x8x8", "32x16x32"]  # prompts, completions of each, new tokens
HERE = {"lr": 1e-6, "device": "cpu", "micro_batch": 1024}  # nothing is learned: all rounds are alike
BASE = {"prompts": 16, "group": 8, "tokens": 16, "vocabulary": 1024}  # so large that few completions end early
GROWTH = {
    "prompts": [2, 4, 8, 16, 32, 64],
    "group": [2, 4, 8, 16, 32],
    "tokens": [8, 16, 32, 64, 128],
    "vocabulary": [16, 128, 1024, 4096, 16384],
}


def clock() -> tuple[float, float]:
    if HERE["device"] == "cuda":  # benchmarks/gpu.py
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def ones(prompts, completions, **columns):
    """The reward: how many 1s."""
    return [float(c.count("1")) for c in completions]


def prompts(n):
    return [{"prompt": row["prompt"]} for row in load_task("sort").examples[:n]]


def pairs(n, tokens):
    """Completions of ``tokens`` tokens, the end token included."""
    texts = [(row["prompt"][:-1] * tokens)[: tokens - 1] for row in prompts(n)]
    rows = zip(prompts(n), texts, strict=True)
    return [row | {"chosen": "".join(sorted(t)), "rejected": "".join(reversed(t))} for row, t in rows]


def model(folder, tokens, vocabulary=16):
    """The untrained default model; a larger vocabulary is made of more characters."""
    torch.manual_seed(0)
    letters = DIGITS + "".join(chr(0x4E00 + i) for i in range(vocabulary - len(DIGITS) - 3))
    small_policy(letters, 7 + tokens, "cpu").save(folder)
    return folder


# ----------------------------------------------------------------------------- rounds: iterators that do one at a time


def our_grpo(folder, P, G, T, steps):
    config = GRPOOptions(prompts=P, group_size=G, max_new_tokens=T, minibatches=steps, steps=10**6, **HERE)
    learner = Learner(load_policy(str(folder), HERE["device"], "float32"))
    return learner, learn_online(config, Task("ones", prompts(4 * P), [], ones), learner, None)


def our_dpo(folder, N, T):
    policy = load_policy(str(folder), HERE["device"], "float32")
    config = DPOOptions(pairs=N, beta=0.1, **HERE)
    learner, rows = Learner(policy), list(add_reference(config, policy, pairs(4 * N, T)))
    return learner, learn_offline(config, rows, learner, 10**6)


def seconds(rounds, count):
    """(wall, processor) seconds of each of ``count`` rounds, after one to warm up."""
    stamps = [clock()]
    for _ in range(count + 1):
        next(rounds)
        stamps.append(clock())
    return differences(stamps)[1:]


def differences(stamps):
    return [tuple(b - a for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(stamps)]


class Trl:
    """A trainer of TRL; ``seconds`` trains for some rounds of ``steps`` optimizer steps."""

    def __init__(self, kind, folder, rows, batch, steps=1, micro=0, **options):
        import trl
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, logging

        disable_progress_bars()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        trainer, config = getattr(trl, kind + "Trainer"), getattr(trl, kind + "Config")
        self.stamps, self.steps, stamp = [], steps, lambda *_, **__: self.stamps.append(clock())
        names = {"on_train_begin": stamp, "on_step_end": stamp}
        self.trainer = trainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(folder),
            train_dataset=Dataset.from_list(rows),
            args=config(
                output_dir=tempfile.mkdtemp(), use_cpu=HERE["device"] == "cpu", bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=min(batch, micro), gradient_accumulation_steps=max(1, batch // micro),
                learning_rate=HERE["lr"], max_grad_norm=1.0, weight_decay=0.0,
                lr_scheduler_type="constant", num_train_epochs=10**6, max_steps=steps, report_to=[], disable_tqdm=True,
                logging_strategy="no", save_strategy="no", eval_strategy="no", beta=0.0 if kind == "GRPO" else 0.1,
                **options,
            ),
            callbacks=[type("Stamps", (TrainerCallback,), names)()],
            **({"reward_funcs": ones} if kind == "GRPO" else {}),
        )  # fmt: skip
        self.trainer.remove_callback(PrinterCallback)

    def seconds(self, count):
        self.trainer.args.max_steps = self.steps * (count + 1)
        self.stamps.clear()
        self.trainer.train()
        return differences(self.stamps[:: self.steps])[1:]


def trl_grpo(folder, P, G, T, steps):
    return Trl(
        "GRPO", folder, prompts(4 * P), P * G // steps, steps, HERE["micro_batch"], num_generations=G,
        steps_per_generation=steps * max(1, P * G // steps // HERE["micro_batch"]),
        max_completion_length=T, temperature=1.0, top_k=0, top_p=1.0, loss_type="grpo", scale_rewards="group",
        pad_to_multiple_of="none",
    )  # fmt: skip


def trl_dpo(folder, N, T):
    reference = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": N}
    return Trl("DPO", folder, pairs(4 * N, T), N, micro=HERE["micro_batch"] // 2, **reference)


# ------------------------------------------------------------------------------------------------------- four parts


def compare(method, size, repetitions, rounds):
    """A row of the table: units a second of both, and the ratio."""
    sizes = [int(n) for n in size.split("x")]
    units = sizes[0] * sizes[1] if method == "GRPO" else sizes[0]
    with tempfile.TemporaryDirectory() as folder:
        model(folder, sizes[2] if method == "GRPO" else sizes[1])
        theirs = (trl_grpo if method == "GRPO" else trl_dpo)(folder, *sizes)
        _, ours = (our_grpo if method == "GRPO" else our_dpo)(folder, *sizes)
        rows = []
        for _ in range(repetitions + 1):  # the first warms up
            a, b = theirs.seconds(rounds), seconds(ours, rounds)
            rows.append([statistics.median(x) for x in (*zip(*a, strict=True), *zip(*b, strict=True))])
    their_wall, their_cpu, our_wall, our_cpu = zip(*rows[1:], strict=True)
    ratios = sorted(a / b for a, b in zip(their_wall, our_wall, strict=True))
    return {
        "torchstone": round(units / statistics.median(our_wall), 1),
        "trl": round(units / statistics.median(their_wall), 1),
        "ratio": round(statistics.median(ratios), 2), "lowest": round(ratios[0], 2), "highest": round(ratios[-1], 2),
        "processor_ratio": round(statistics.median(a / b for a, b in zip(their_cpu, our_cpu, strict=True)), 2),
        "repetitions": repetitions, "rounds": rounds,
    }  # fmt: skip


def rollouts(size, repetitions, folder=None):
    """Tokens a second up to the end tokens, of ours and of ``generate``, full sampling and the KV cache in both."""
    P, G, T = (int(n) for n in size.split("x"))
    with tempfile.TemporaryDirectory() as small:
        policy = load_policy(str(folder or model(small, T)), HERE["device"], "float32")
    ids = policy.encode_prompts([row["prompt"] for row in prompts(P) for _ in range(G)])
    padded = policy.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(policy.device)
    end = {"eos_token_id": policy.eos_ids, "pad_token_id": policy.pad_id}

    def ours():
        return sample(policy, ids, T, 1.0).mask

    @torch.no_grad()
    def theirs():
        out = policy.model.generate(**padded, **end, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=T)
        return completion_mask(out[:, padded["input_ids"].shape[1] :], eos_id=policy.eos_ids)

    def rate(write):
        start = clock()[0]
        tokens = int(write().sum())
        return tokens / (clock()[0] - start)

    rates = [(rate(ours), rate(theirs)) for _ in range(repetitions + 1)][1:]  # the first warms up
    ratios = sorted(a / b for a, b in rates)
    a, b = (round(statistics.median(column), 1) for column in zip(*rates, strict=True))
    return {"torchstone": a, "generate": b, "ratio": round(statistics.median(ratios), 2)} | {
        "lowest": round(ratios[0], 2), "highest": round(ratios[-1], 2), "repetitions": repetitions,
    }  # fmt: skip


def profile(method, size, rounds):
    """Milliseconds of each stage in a round, from a clock around each; and the round against its matrix products."""
    sizes, spent, inside = [int(n) for n in size.split("x")], {}, []

    def timed(name, owner, attribute):
        function = getattr(owner, attribute)

        def run(*args, **kwargs):
            if inside:  # belongs to the stage around it
                return function(*args, **kwargs)
            inside.append(name)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            inside.pop()
            return result

        setattr(owner, attribute, run)
        return lambda: setattr(owner, attribute, function)

    with tempfile.TemporaryDirectory() as folder:
        model(folder, sizes[2] if method == "GRPO" else sizes[1])
        learner, ours = (our_grpo if method == "GRPO" else our_dpo)(folder, *sizes)
    seconds(ours, 2)
    policy = learner.policy
    stages = [("log-probs, forward", policy, "forward"), ("backward", learner, "backward")]
    stages += [("clip and Adam", learner, "update"), ("tokenizer, padding", policy, "encode_prompts")]
    if method == "GRPO":
        stages += [("generation", online, "sample"), ("old log-probs", online, "outputs_of")]
        stages += [("loss", methods.GRPO, "loss")]
    else:
        stages += [("loss", offline, "dpo_loss"), ("tokenizer, padding", offline, "as_rollout")]
        stages += [("tokenizer, padding", policy, "encode_completions")]
    restore = [timed(*stage) for stage in stages]
    start = time.perf_counter()
    for _ in range(rounds):
        next(ours)
    total = time.perf_counter() - start
    for undo in restore:
        undo()
    table = {name: 1e3 * s / rounds for name, s in sorted(spent.items(), key=lambda item: -item[1])}
    table["the rest: rewards, advantages, metrics, Python"] = 1e3 * total / rounds - sum(table.values())
    with FlopCounterMode(display=False) as counter:
        next(ours)
    flops, rates = counter.get_total_flops(), matrix_rates()
    alone = {name: flops / rate / (total / rounds) for name, rate in rates.items()}
    return {"milliseconds": table, "gflop": flops / 1e9, "gflop_per_second": {k: v / 1e9 for k, v in rates.items()}} | {
        "share_of_limit": alone
    }


def matrix_rates():
    """Float operations a second of a product: a large square one, and one of the model's own width on 1,024 rows."""
    rates = {}
    for name, (n, k, m) in {"1024x1024x1024": (1024, 1024, 1024), "1024x64x176": (1024, 64, 176)}.items():
        a, b, times = torch.randn(n, k), torch.randn(m, k), []
        for _ in range(50):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - start)
        rates[name] = 2 * n * k * m / min(times)
    return rates


def growth(quick):
    """Seconds of a GRPO round as one size grows; the exponent is the slope through the last three points."""
    table = {}
    for name, values in GROWTH.items():
        times = []
        for value in values[: 2 if quick else None]:
            size = BASE | {name: value}
            with tempfile.TemporaryDirectory() as folder:
                model(folder, size["tokens"], size["vocabulary"])
                _, rounds = our_grpo(folder, size["prompts"], size["group"], size["tokens"], 1)
                times.append(min(wall for wall, _ in seconds(rounds, 2 if quick else 4)))
        x, y = ([math.log(v) for v in column[-3:]] for column in (values[: len(times)], times))
        slope = statistics.linear_regression(x, y).slope
        table[name] = {"values": values[: len(times)], "seconds": times, "exponent": round(slope, 2)}
        print(f"{name:12} exponent {slope:.2f}  " + "  ".join(f"{t * 1e3:.0f}" for t in times) + " ms")
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["peers", "rollouts", "profile", "growth"])
    parser.add_argument(
        "--sizes", nargs="*", help="of peers: PxGxTxSTEPS for GRPO, PAIRSxT for DPO; of rollouts: PxGxT"
    )
    parser.add_argument("--model", help="of rollouts: a folder in Hugging Face format (default: the small model)")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, help="completions in a forward pass, of both sides", default=1024)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of TRL's and transformers' insides
    torch.set_num_threads(options.threads)
    HERE["micro_batch"] = options.micro_batch
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    packages = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy")
    packages = [p for p in packages if any(importlib.metadata.distributions(name=p))]
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads}
    machine |= {p: importlib.metadata.version(p) for p in packages} | {"python": platform.python_version()}
    sizes = ["2x2x4x1", "4x4"] if options.quick else options.sizes or GRPO_SIZES + DPO_SIZES
    named = [("DPO" if size.count("x") == 1 else "GRPO", size) for size in sizes]
    if options.quick:
        options.repetitions, options.rounds = 1, 2
    if "trl" not in packages and "peers" in options.parts:
        print("TRL is not installed: left out", file=sys.stderr)
        options.parts = [part for part in options.parts if part != "peers"]

    ending = f", micro-batches of {options.micro_batch}" if options.micro_batch != 1024 else ""

    def keep(part, table):
        old = results.get(part, {}).get("table", {}) if part != "growth" else {}
        results[part] = {"machine": machine | {"load": os.getloadavg()[0]}, "table": old | table}
        if not options.quick:
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")

    if "peers" in options.parts:
        print("samples (pairs) a second, TRL / Torchstone time (lowest-highest), ratio of processor time")
    for method, size in named if "peers" in options.parts else []:
        row = compare(method, size, options.repetitions, options.rounds)
        text = "{:5} {:12} ours {torchstone:7.0f}  TRL {trl:7.0f}  {ratio:.2f} ({lowest:.2f}-{highest:.2f})"
        print(text.format(method, size + ending, **row), f" {row['processor_ratio']:.2f}", flush=True)
        keep("peers", {f"{method} {size}{ending}": row | {"load": os.getloadavg()[0]}})
    for size in (["2x2x4"] if options.quick else options.sizes or ROLLOUTS) if "rollouts" in options.parts else []:
        row = rollouts(size, options.repetitions, options.model)
        name = f"{Path(options.model).name} {size}" if options.model else size
        text = "{:20} ours {torchstone:7.0f} tokens a second  generate {generate:7.0f}  {ratio:.2f}"
        print(text.format(name, **row), "({lowest:.2f}-{highest:.2f})".format(**row), flush=True)
        keep("rollouts", {name: row | {"load": os.getloadavg()[0]}})
    for method, size in named if "profile" in options.parts else []:
        row = profile(method, size, max(2, options.rounds))
        whole = sum(row["milliseconds"].values())
        print(
            f"{method} {size}: {whole:.1f} ms a round, {row['gflop']:.2f} Gflop, share of limit {row['share_of_limit']}"
        )
        for name, ms in row["milliseconds"].items():
            print(f"    {name:50} {ms:8.2f} ms {ms / whole:6.1%}")
        keep("profile", {f"{method} {size}{ending}": row})
    if "growth" in options.parts:
        keep("growth", growth(options.quick))


if __name__ == "__main__":
    main()
