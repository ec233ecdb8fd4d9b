"""SmolLM2-135M on one task: what GRPO, RLOO and DPO learn here and in TRL, from equal samples, and what it costs.

A run is a folder with result.json; what is there is not run again, so a driver that was stopped goes on.

    python benchmarks/smollm2.py --model FOLDER                  all runs, one after the other
    python benchmarks/smollm2.py --model FOLDER --only trl-dpo-1 ours-grpo-0
    python benchmarks/smollm2.py --page                          docs/smollm2.md and CSVs of what is done
    python benchmarks/smollm2.py --model FOLDER --quick          every kind at a small size, in a folder of its own

FOLDER is SmolLM2-135M-Instruct in Hugging Face format. TRL runs in the environment of --trl-python
(requirements-frameworks.txt). One thread a run, each in a process of its own.
"""

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METHODS, SEEDS = ("grpo", "rloo", "dpo"), (0, 1, 2)
NAMES = [f"{who}-{method}-{seed}" for seed in SEEDS for method in METHODS for who in ("ours", "trl")]
NAMES += ["ours-distill-0", "ours-ppo-0"]  # after the teacher; PPO from a reward model on the pairs of DPO
SIZES = {"prompts": 8, "group": 8, "micro_batch": 16, "rounds": 12, "tokens": 16, "held_out": 200, "held_out_8": 50}
SIZES |= {"lr": 1e-5, "dpo_lr": 5e-6, "pairs": 8, "beta": 0.1}
QUICK = {"rounds": 3, "held_out": 12, "held_out_8": 4}
SHOTS = "12 + 2 = 14\n35 + 1 = 36\n23 + 4 = 27\n"  # what is asked for is shown, for the model is used without a chat


def clock():
    return time.perf_counter(), time.process_time()


def prepare(model, out):
    """The start model, which reads plain text and ends at a line's end; the prompts; the pairs of DPO."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out.mkdir(parents=True, exist_ok=True)
    if not (out / "start" / "config.json").exists():
        tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
        end = tokenizer("\n")["input_ids"][0]
        tokenizer.chat_template, tokenizer.eos_token = None, tokenizer.convert_ids_to_tokens(end)
        network.config.eos_token_id = network.generation_config.eos_token_id = end
        network.save_pretrained(out / "start")
        tokenizer.save_pretrained(out / "start")
    rows = [(a, b) for a in range(10, 100) for b in range(1, 10)]
    random.Random(0).shuffle(rows)
    lines = [json.dumps({"prompt": f"{SHOTS}{a} + {b} =", "answer": str(a + b)}) + "\n" for a, b in rows]
    (out / "held_out.jsonl").write_text("".join(lines[:200]))
    (out / "train.jsonl").write_text("".join(lines[200:]))


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def options(kind, base, sizes, **more):
    """The options of a run of ours; nothing is evaluated in it, so that its time is that of training."""
    return kind(
        data=base / "train.jsonl", model=str(base / "start"), max_new_tokens=sizes["tokens"], schedule="constant",
        micro_batch=sizes["micro_batch"], eval_prompts=0, eval_every=10**6, device="cpu", **more,
    )  # fmt: skip


def make_pairs(out, sizes):
    """As many completions of the start model as the others sample, judged, the right ones before the wrong ones."""
    from torchstone.data.find import find_task
    from torchstone.train.loading import load_policy
    from torchstone.train.offline import sample_pairs
    from torchstone.train.options import DPOOptions

    samples = sizes["rounds"] * sizes["prompts"] * sizes["group"]
    config = options(DPOOptions, out, sizes, samples=samples, group_size=sizes["group"], reward="exact", seed=0)
    pairs = sample_pairs(config, find_task(config), load_policy(config.model, "cpu", "float32"))
    (out / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


# ------------------------------------------------------------------------------------------------ runs


def ours(method, seed, out, folder, sizes, stamp):
    """A run of ours; its records."""
    from torchstone.train import options as o
    from torchstone.train.run import train

    rounds = {"prompts": sizes["prompts"], "group_size": sizes["group"], "steps": sizes["rounds"], "minibatches": 1}
    of_method = {
        "grpo": (o.GRPOOptions, rounds | {"reward": "exact", "lr": sizes["lr"]}),
        "rloo": (o.ReinforceOptions, rounds | {"reward": "exact", "lr": sizes["lr"], "baseline": "leave-one-out"}),
        "dpo": (o.DPOOptions, {"lr": sizes["dpo_lr"], "pairs": sizes["pairs"], "beta": sizes["beta"], "epochs": 1}),
        "distill": (
            o.DistillOptions,
            rounds | {"lr": sizes["lr"], "signal": "jsd", "teacher": str(out / "ours-grpo-0")},
        ),
        "ppo": (o.PPOOptions, rounds | {"lr": sizes["lr"], "epochs": 1}),
    }
    kind, more = of_method[method]
    config = options(kind, out, sizes, seed=seed, out=folder, **more)
    if method == "dpo":
        config = replace(config, data=out / "pairs.jsonl")
    if method == "ppo":
        judge = options(o.RewardOptions, out, sizes, seed=seed, out=folder.with_name("reward-model"), lr=sizes["lr"])
        judge = replace(judge, data=out / "pairs.jsonl", pairs=sizes["pairs"], epochs=1)
        if not (judge.folder / "model").exists():
            train(judge)
        config = replace(config, reward_model=str(judge.folder))
    train(config, lambda record: stamp() or False)
    return read(folder / "metrics.jsonl")[1:]


def trl(method, seed, out, folder, sizes, stamp):
    """A run of TRL's trainer, with the same samples, batches, optimizer and precision; its records."""
    import torch
    import trl as package
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

    from torchstone.data.find import find_task
    from torchstone.rewards.library import exact
    from torchstone.train.options import DPOOptions, GRPOOptions

    completions, micro = sizes["prompts"] * sizes["group"], sizes["micro_batch"]
    rows = list(find_task(options(GRPOOptions, out, sizes, reward="exact")).examples)
    more = {
        "num_generations": sizes["group"], "max_completion_length": sizes["tokens"], "temperature": 1.0, "top_k": 0,
        "top_p": 1.0, "beta": 0.0, "steps_per_generation": completions // micro, "max_steps": sizes["rounds"],
        "per_device_train_batch_size": micro, "gradient_accumulation_steps": completions // micro,
        "learning_rate": sizes["lr"],
    }  # fmt: skip
    if method == "grpo":
        more |= {"loss_type": "grpo", "scale_rewards": "group"}
    if method == "dpo":
        rows = list(find_task(replace(options(DPOOptions, out, sizes), data=out / "pairs.jsonl")).examples)
        half = min(sizes["pairs"], micro // 2)
        more = {
            "per_device_train_batch_size": half, "gradient_accumulation_steps": sizes["pairs"] // half,
            "beta": sizes["beta"], "learning_rate": sizes["dpo_lr"], "max_steps": len(rows) // sizes["pairs"],
            "precompute_ref_log_probs": True, "precompute_ref_batch_size": micro // 2,
        }  # fmt: skip
    kind = method.upper()
    config = getattr(package, kind + "Config")(
        output_dir=str(folder / "trl"), seed=seed, use_cpu=True, bf16=False, gradient_checkpointing=False,
        max_grad_norm=1.0, weight_decay=0.0, lr_scheduler_type="constant", report_to=[], disable_tqdm=True,
        logging_strategy="steps", logging_steps=1, save_strategy="no", eval_strategy="no", **more,
    )  # fmt: skip
    names = {"on_train_begin": lambda *_, **__: stamp(), "on_step_end": lambda *_, **__: stamp()}
    trainer = getattr(package, kind + "Trainer")(
        model=AutoModelForCausalLM.from_pretrained(out / "start", dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(out / "start", padding_side="left"),
        train_dataset=Dataset.from_list(rows), args=config,
        callbacks=[type("Stamps", (TrainerCallback,), names)()],
        **({} if method == "dpo" else {"reward_funcs": exact}),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.save_pretrained(folder / "model")
    trainer.processing_class.save_pretrained(folder / "model")
    rows_of = 0 if method == "dpo" else completions
    logs = [log for log in trainer.state.log_history if "grad_norm" in log]
    records = [{**log, "step": i, "samples": i * rows_of} for i, log in enumerate(logs, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def evaluate(model, out, folder, sizes):
    """Scores of each held-out prompt: one sample of each of 200, eight of each of 50; every completion in a file."""
    from torchstone.data.tasks import Task
    from torchstone.evaluate.passes import sampled, values
    from torchstone.rewards.library import exact
    from torchstone.train.loading import load_policy
    from torchstone.train.options import GRPOOptions

    policy = load_policy(str(model), "cpu", "float32").requires_grad_(False)
    held = read(out / "held_out.jsonl")
    config = replace(options(GRPOOptions, out, sizes, reward="exact", seed=17), micro_batch=64)
    found, rows = {}, []
    for n, k, prompts in ((1, 1, sizes["held_out"]), (8, 8, sizes["held_out_8"])):
        some = [row for part in sampled(config, Task("sums", held, held, exact), policy, prompts, n) for row in part]
        rows += some
        for scorer in ("strict", "lenient"):
            found[f"pass@{k} {scorer}"] = values(some, n, (k,), 1.0)[scorer][f"pass@{k}"]
    (folder / "completions-held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def child(name, out, sizes):
    """One run in this process: training, its time and memory, then the evaluation."""
    import torch

    torch.set_num_threads(1)
    folder = out / name
    folder.mkdir(exist_ok=True)
    who, method, seed = ("ours", "start", 0) if name == "start" else name.split("-")
    result = {"name": name, "by": who, "method": method, "seed": int(seed), "sizes": sizes}
    model = folder if name == "start" else folder / "model"
    if name != "start":
        stamps, began = [], clock()
        records = {"ours": ours, "trl": trl}[who](method, int(seed), out, folder, sizes, lambda: stamps.append(clock()))
        wall, cpu = (b - a for a, b in zip(began, clock(), strict=True))
        rounds = [[b - a for a, b in zip(x, y, strict=True)] for x, y in itertools.pairwise(stamps)][1:] or [[0.0, 0.0]]
        result |= {
            "wall_s": wall, "cpu_s": cpu, "rounds": len(records), "samples": records[-1].get("samples", 0),
            "round_wall_s": statistics.median(w for w, _ in rounds),
            "round_cpu_s": statistics.median(c for _, c in rounds),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "mean_length": statistics.fmean(r.get("completions/mean_length", 0.0) for r in records),
            "curve": [[r.get("samples", 0), r.get("reward")] for r in records],
        }  # fmt: skip
    began = clock()
    result["scores"] = evaluate(model, out, folder, sizes)
    result["eval_cpu_s"] = clock()[1] - began[1]
    (folder / "result.json.tmp").write_text(json.dumps(result) + "\n")
    os.replace(folder / "result.json.tmp", folder / "result.json")


def drive(names, model, out, sizes, trl_python):
    """Every run that has no result yet, each in its own process; time left from those that are done."""
    prepare(model, out)
    if not (out / "pairs.jsonl").exists():
        make_pairs(out, sizes)
    took, names = [], [name for name in ["start", *names] if not (out / name / "result.json").exists()]
    for i, name in enumerate(names):
        began = time.perf_counter()
        left = f", about {statistics.fmean(took) * (len(names) - i) / 60:.0f} min left" if took else ""
        print(f"{name}  ({i + 1} of {len(names)}{left})", flush=True)
        folder = out / name
        if name != "start" and folder.exists():  # half done: begun again
            subprocess.run(["rm", "-rf", str(folder)], check=True)
        python = trl_python if name.startswith("trl") else sys.executable
        command = [python, __file__, "--child", name, "--out", str(out), "--sizes", json.dumps(sizes)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
        with (out / f"{name}.log").open("w") as log:
            done = subprocess.run(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            print(f"  failed: see {out / name}.log", file=sys.stderr)
            continue
        took.append(time.perf_counter() - began)
        told = json.loads((folder / "result.json").read_text())
        means = ", ".join(f"{k} {statistics.fmean(v):.3f}" for k, v in told["scores"].items())
        print(f"  {took[-1]:.0f} s, {told.get('peak_mb', 0):.0f} MB; {means}", flush=True)
        for big in [*folder.glob("checkpoint-*"), *([folder / "model"] if "trl" in name else [])]:
            subprocess.run(["rm", "-rf", str(big)], check=True)  # 2 GB a run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(NAMES[:2])}, ..., {NAMES[-1]}")
    parser.add_argument("--out", type=Path, help="(default: runs/smollm2, or runs/smollm2-quick)")
    parser.add_argument("--trl-python", default=str(ROOT / ".venv-frameworks" / "bin" / "python"))
    parser.add_argument("--quick", action="store_true", help="three rounds, 12 held-out prompts")
    parser.add_argument("--page", action="store_true", help="write the page of what is done")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    out = given.out or ROOT / "runs" / ("smollm2-quick" if given.quick else "smollm2")
    if given.child:
        return child(given.child, out, given.sizes)
    if unknown := set(given.only or []) - set(NAMES):
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if given.page:
        from smollm2_page import write_page

        return write_page(out)
    if not given.model:
        parser.error("--model FOLDER is missing")
    drive(given.only or NAMES, given.model, out.absolute(), SIZES | (QUICK if given.quick else {}), given.trl_python)


if __name__ == "__main__":
    main()
