"""Every row that verl can run, on random batches cut at random over ranks and micro-batches, against the whole batch.

As a program, with the rows of verl's dialect also against verl's own losses, and with verl in a worker of Ray's:
    python tests/frameworks/engine_verl.py [ROW ...]
"""

import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from batch import policy_batch
from test_plug_verl import (
    OF_THE_ALGORITHM,
    OWN,
    PLUGGED,
    ROWS,
    TOKENS,
    corrected,
    gradient,
    largest,
    needed,
    of_the_whole,
)
from verl.trainer.config import RolloutCorrectionConfig

from torchstone.frameworks.verl.rows import VERSION

SEEDS = 5


def cut(completions: int, ranks: int, micro_batches: int, seed: int) -> list[list[slice]]:
    """Micro-batches of each rank, of random sizes of at least 1."""
    ends = sorted(random.Random(seed).sample(range(1, completions), ranks * micro_batches - 1))
    pieces = [slice(a, b) for a, b in zip([0, *ends], [*ends, completions], strict=True)]
    return [pieces[i : i + micro_batches] for i in range(0, len(pieces), micro_batches)]


def difference(name: str, seed: int) -> tuple[float, float]:
    """The gradient's largest difference from the whole batch's and, for a row of verl's, from its own loss's."""
    row, batch, settings = ROWS[name], policy_batch(seed), needed(ROWS[name])
    torch.manual_seed(seed)
    per_token = batch.token_advantages if "@" not in name else batch.advantages[:, None].expand_as(batch.mask)
    if name.startswith("grpo-passk"):  # no advantage of its is below 0, where verl's dual clip acts
        per_token = per_token.abs()
    batch, weights = replace(batch, token_advantages=per_token, advantages=None), None
    if row.sampler.name == "weights":
        weights, _ = corrected(batch, settings["policy"]["rollout_correction"])
    splits = [cut(len(batch.mask), ranks, pieces, seed) for ranks in (1, 2, 3, 4) for pieces in (1, 2, 3)]
    ours = [gradient(batch, split, weights=weights, **settings) for split in splits]
    whole = max(largest(x, of_the_whole(row, batch)) for x in ours)
    knobs = OWN.get(name.removesuffix(f"@{VERSION}")) if name.endswith(VERSION) else None
    if knobs is None:
        return whole, 0.0
    knobs = {k: v for k, v in knobs.items() if k not in OF_THE_ALGORITHM}
    if correction := knobs.pop("correction", None):
        weights, _ = corrected(batch, RolloutCorrectionConfig(**correction))
    mode = knobs.pop("loss_mode", "vanilla")
    own = {"policy": mode if isinstance(mode, dict) else {"loss_mode": mode}, "loss_scale_factor": TOKENS, **knobs}
    pairs = list(zip(ours, splits, strict=True))
    if name.startswith("gmpo"):  # verl's own changes with the split: compared on the batch in one piece
        pairs = pairs[:1]
    return whole, max(largest(x, gradient(batch, split, weights=weights, **own)) for x, split in pairs)


def in_a_worker_of_ray() -> list[str]:
    """What verl's registry has in a worker whose environment names a row."""
    import ray

    def look() -> list[str]:
        from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

        return [name for name in POLICY_LOSS_REGISTRY if name in ("torchstone:gspo", "torchstone:mine")]

    named = {"env_vars": {"TORCHSTONE_RECIPES": "mine=gspo:reduction=token-mean"}}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=named)
    try:
        return ray.get(ray.remote(look).remote())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    worst = (0.0, 0.0)
    for name in sys.argv[1:] or PLUGGED:
        found = [difference(name, seed) for seed in range(SEEDS)]
        whole, own = (max(x[i] for x in found) for i in (0, 1))
        worst = max(worst[0], whole), max(worst[1], own)
        print(
            f"{name:<40} whole batch {whole:.1e}{f'  own loss {own:.1e}' if name.endswith(VERSION) else ''}", flush=True
        )
    print(
        f"{len(sys.argv[1:] or PLUGGED)} rows, {SEEDS} batches, 12 splits each: at most {worst[0]:.1e}, {worst[1]:.1e}"
    )
    os.environ["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}"
    workers = in_a_worker_of_ray()
    print("in a worker of Ray's:", *workers)
    sys.exit(max(worst) > 1e-9 or len(workers) < 2)
