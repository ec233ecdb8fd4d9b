"""What ``torchstone cost`` predicts, against what a training step and a rollout of a tiny Llama really take.

    python benchmarks/cost_check.py          about a minute; prints a table, writes benchmarks/results/cost_check.json

Each case runs in a process of its own, on the CPU. Weights, gradients, optimiser: the bytes of the tensors that are
there. Peak: the allocator's events during the third step (or the rollout), as torch.profiler records them, added up, on
top of what was there before. RSS: how far the system saw the process grow, for comparison; it knows pages, not tensors.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torchstone.cost import formulas as paper

SHAPE = paper.Shape(layers=4, hidden=256, heads=4, kv_heads=2, head_size=64, mlp=704, vocab=4096)
BASE: dict[str, Any] = {
    "prompts": 8, "group_size": 2, "prompt_tokens": 32, "completion_tokens": 96, "micro_batch": 8,
    "sample_batch": 16, "precision": "fp32", "checkpointing": False, "tile": 2**20,
}  # fmt: skip
GIVES_BACK = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # freed is freed
CASES: dict[str, dict[str, Any]] = {
    "update": {},
    "update, one micro-batch": {"prompts": 4},
    "update, bf16": {"precision": "bf16"},
    "update, checkpoints": {"checkpointing": True},
    "update, linear_log_probs": {"tiled": True},
    "update, linear_log_probs, V 32768": {"tiled": True, "vocab": 32768},
    "update, whole logits, V 32768": {"vocab": 32768},
    "update, checkpoints, V 512": {"checkpointing": True, "vocab": 512},
    "update, checkpoints, V 32768": {"checkpointing": True, "vocab": 32768},
    "update, with a reference": {"reference": True},
    "update, dpo": {"method": "dpo"},
    "rollout": {},
    "rollout, bf16": {"precision": "bf16"},
    "rollout, longer": {"completion_tokens": 224},
}


def plan_of(case: str) -> paper.Plan:
    options: dict[str, Any] = {"reference": False} | BASE | CASES[case]
    shape = replace(SHAPE, vocab=options.pop("vocab", SHAPE.vocab))
    method = options.pop("method", "grpo")
    return paper.plan(method, shape, **options)


def measure(case: str) -> dict[str, int]:
    """In the child: bytes of states, the peak on top of them, and the growth of the process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan = plan_of(case)
    build(plan)  # and away: what imports and first calls take is no part of it
    start = resident("VmRSS")
    model, frozen = build(plan), build(plan) if plan.reference else None
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, plan.policy.vocab, (plan.rows, plan.length))
    run = partial(step, plan, model, optimizer, tokens)
    run()
    run()  # now Adam's state is there
    if case.startswith("rollout"):
        run = partial(rollout, plan, model, tokens[:, : plan.prompt_tokens])
        run()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    run()
    grown = resident("VmHWM") - start
    states = size(model.parameters()) + sum(size(state.values()) for state in optimizer.state.values())
    states += size(frozen.parameters()) if frozen else 0
    settings = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
    with torch.profiler.profile(**settings) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return {"states": states, "peak": states + peak, "rss": grown}


def size(tensors: Any) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def build(plan: paper.Plan) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    s = plan.policy
    config = LlamaConfig(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.mlp, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, max_position_embeddings=1024,
        tie_word_embeddings=s.tied, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16 if plan.precision == "bf16" else torch.float32)
    if plan.checkpointing:
        model.gradient_checkpointing_enable()
        return model.train()  # there is no dropout in it
    return model.eval()


def step(plan: paper.Plan, model: Any, optimizer: Any, tokens: Any) -> None:
    """One update by the policy gradient or DPO, in micro-batches; only completion tokens get logits."""
    import torch

    from torchstone.core import linear_log_probs, next_token_log_probs
    from torchstone.dpo import dpo_loss

    T = plan.completion_tokens
    for rows in tokens.split(plan.micro_batch):
        if plan.tiled:
            hidden = model.model(input_ids=rows, use_cache=False).last_hidden_state[:, -(T + 1) : -1]
            log_probs = linear_log_probs(hidden, model.lm_head.weight, rows[:, -T:], temperature=1.0)
        else:
            logits = model(input_ids=rows, use_cache=False, logits_to_keep=T + 1).logits
            log_probs = next_token_log_probs(logits, rows[:, -(T + 1) :], temperature=1.0)
            del logits
        if plan.method == "dpo":
            chosen, rejected = log_probs.sum(1).chunk(2)
            dpo_loss(chosen, rejected, torch.zeros_like(chosen), torch.zeros_like(rejected), beta=0.1).value.backward()
        else:
            (-log_probs.mean()).backward()
        del log_probs
    optimizer.step()
    optimizer.zero_grad()


def rollout(plan: paper.Plan, model: Any, prompts: Any) -> None:
    model.generate(
        prompts[: plan.sample_batch], max_new_tokens=plan.completion_tokens, do_sample=True, top_k=0, pad_token_id=0
    )


def main() -> None:
    import torch
    import transformers

    results: dict[str, Any] = {}
    mib = 2**20
    print(f"{'MiB':<36}{'states':>16}{'peak':>22}{'':>10}{'RSS':>8}")
    print(f"{'':<36}{'paper':>8}{'there':>8}{'paper':>12}{'measured':>10}{'differs':>10}{'grew':>8}")
    for case in CASES:
        plan = plan_of(case)
        rows = paper.memory(plan)
        states = sum(row.value for row in rows if row.when == "always")
        peak = paper.peaks(plan)["sampling" if case.startswith("rollout") else "updating"]
        out = subprocess.run(
            [sys.executable, __file__, case], capture_output=True, text=True, check=True, env=GIVES_BACK
        )
        got = json.loads(out.stdout.splitlines()[-1])
        results[case] = {"paper": {"states": states, "peak": peak}, "measured": got}
        differs = f"{100 * (peak / got['peak'] - 1):+.1f}%"
        print(
            f"{case:<36}{states / mib:>8.1f}{got['states'] / mib:>8.1f}{peak / mib:>12.1f}"
            f"{got['peak'] / mib:>10.1f}{differs:>10}{got['rss'] / mib:>8.0f}"
        )
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    path = Path(__file__).parent / "results" / "cost_check.json"
    path.parent.mkdir(exist_ok=True)
    record = {"versions": versions, "machine": platform.machine(), "device": "cpu", "cases": results}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
