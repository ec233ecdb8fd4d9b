"""Tiny runs in float64, all in one process group: ``torchrun --nproc-per-node N tests/several_processes.py HOME OUT``.

tests/test_processes.py makes HOME (a model, a teacher, data), starts this with several processes, runs the same in
one, and compares what was written.
"""

import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchstone.train import checks, processes, run
from torchstone.train.model import Policy
from torchstone.train.options import METHODS, Run

REWARD = "def reward(prompts, completions, **columns): return [float(sum(map(ord, c)) % 7) for c in completions]\n"
REDUCTIONS = ("token-mean", "sequence-mean", "sequence-sum", "fixed-length")
SMALL: dict[str, Any] = {"max_new_tokens": 5, "eval_prompts": 3, "eval_every": 2, "device": "cpu", "lr": 1e-2}
ROUND = {"steps": 2, "prompts": 3, "group_size": 3}  # 9 rows: neither 2 nor 4 divides them
CUT = ("ppo token-mean", "distill jsd", "dpo sampled", "sft", "reward", "recipe remax")  # with --shard too
CUT += ("grpo lora", "reward lora", "ppo reward-model")
MADE = ((run, "first_policy"), (run, "load_teacher"), (run, "load_reward_model"), (Policy, "add_critic"))
STOPPED = ("grpo token-mean", "grpo token-mean cut", "ppo reward-model cut")  # after the first round, and gone on with


def cases(home: Path) -> dict[str, Run]:
    """Every method and reduction; budgets, adapters; rows that do not divide, and processes without a row."""
    to: dict[str, Any] = SMALL | {"model": str(home / "model"), "data": home / "prompts.jsonl"}
    judged, teacher = to | {"reward": f"{home / 'r.py'}:reward"}, {"teacher": str(home / "teacher")}
    on, pairs = ROUND | judged, to | {"data": home / "pairs.jsonl", "pairs": 5, "epochs": 1}
    rows = {
        "gspo": "gspo",
        "remax": "remax",
        "dapo": "dapo:penalty.cache=2",
        "groups": "grpo:reduction=group-token-mean",
    }
    many: dict[str, Any] = {f"grpo {r}": on | {"reduction": r, "beta": 0.1, "minibatches": 2} for r in REDUCTIONS}
    many |= {f"reinforce {r}": on | {"reduction": r, "entropy_coef": 0.01} for r in REDUCTIONS[:3]}
    many |= {f"ppo {r}": on | {"reduction": r} for r in REDUCTIONS[:2]}
    many |= {f"distill {s}": ROUND | to | teacher | {"signal": s} for s in ("teacher-advantage", "jsd")}
    many |= {f"recipe {name}": on | {"recipe": row, "minibatches": 1} for name, row in rows.items()}
    many |= {"dpo": pairs, "dpo sampled": pairs | judged | {"samples": 320, "group_size": 16}}
    many |= {"sft": to | {"batch_size": 5, "epochs": 1}, "reward": pairs}
    many["grpo micro-batches"] = on | {"micro_batch_tokens": 30, "rollout_tokens": 40, "minibatches": 4, "epochs": 2}
    many["grpo lora"] = on | {"lora": 2, "beta": 0.1}
    many["reward lora"] = pairs | {"lora": 2}
    paid = {"reward_model": str(home / "reward"), "critic": "reward-model", "missing_eos_penalty": 1.0}
    many["ppo reward-model"] = ROUND | to | paid | {"beta": 0.05}
    return {name: METHODS[name.split()[0]](**options) for name, options in many.items()}


def double() -> None:
    """Models and critics are in float64, which no option says; and a process may be without a row."""
    checks.check_processes = lambda config: None
    for owner, name in MADE:
        made = getattr(owner, name)
        setattr(owner, name, lambda *given, made=made: (made(*given) or given[0]).double())


def one(config: Run, stop: bool = False) -> None:
    """A run; with ``stop``, one that the last process asks to stop after its first round, and that then goes on."""
    last = processes.rank() == processes.world() - 1
    with suppress(run.Interrupted):
        run.train(config, lambda record: stop and last and record["step"] == 1)
    if stop:
        if processes.main_process():
            shutil.copytree(config.folder, f"{config.folder} stopped")
        processes.wait()
        run.train(config, resume=True)


def main(home: Path, out: Path) -> None:
    """All cases; in several processes, some with cut weights, and some stopped and gone on with."""
    torch.set_num_threads(1)
    processes.join()
    double()
    for name, config in cases(home).items():
        one(replace(config, out=out / name))
        if processes.world() > 1 and name in CUT:
            one(replace(config, shard=True, out=out / f"{name} cut"))
    for name in STOPPED if processes.world() > 1 else ():
        config = replace(cases(home)[name.removesuffix(" cut")], shard=name.endswith(" cut"))
        one(replace(config, out=out / f"{name} gone on"), stop=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
