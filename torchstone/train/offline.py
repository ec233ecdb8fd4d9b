"""DPO: the same stages, but the completions and which of two is better are there before the training starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchstone.dpo import dpo_loss, sequence_log_probs
from torchstone.train.learner import Learner
from torchstone.train.model import Policy
from torchstone.train.options import DPO
from torchstone.train.rollout import given, sample, slices
from torchstone.train.tasks import Row, Task, score, take


def learn_offline(config: DPO, pairs: list[Row], learner: Learner, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each step. N pairs a step: rows of prompt, chosen, rejected, ref_chosen, ref_rejected."""
    N, policy = min(config.pairs, len(pairs)), learner.policy
    pairs = encode(config, policy, pairs)
    while learner.step < steps:
        learner.begin_round(config.lr, steps)

        # 1 prompts and 2 completions: given
        batch = take(pairs, N, learner.step, config.seed)
        for piece in slices(0, N, max(1, config.micro_batch // 2)):
            # 3 log-probs [N] of whole completions; those of the reference were computed once, with the pairs
            chosen, rejected = pair_log_probs(config, policy, batch[piece])
            ref = [torch.tensor([row[k] for row in batch[piece]]).to(chosen) for k in ("ref_chosen", "ref_rejected")]
            # 4 rewards and 5 advantages: none, the loss itself ranks the pair
            # 6 loss: a scalar
            smoothing = config.label_smoothing
            loss = dpo_loss(chosen, rejected, *ref, beta=config.beta, label_smoothing=smoothing, denominator=N)
            learner.backward(loss)
        # 7 update
        learner.update(config.max_grad_norm)

        yield learner.end_round()


def encode(config: DPO, policy: Policy, pairs: list[Row]) -> list[Row]:
    """The pairs, their three texts as token ids; those of the completions have the end token."""
    prompts = policy.encode_prompts([row["prompt"] for row in pairs], config.system)
    chosen, rejected = (policy.encode_completions([row[kind] for row in pairs]) for kind in ("chosen", "rejected"))
    texts = zip(pairs, prompts, chosen, rejected, strict=True)
    return [row | {"prompt": p, "chosen": c, "rejected": r} for row, p, c, r in texts]


def pair_log_probs(config: DPO, policy: Policy, pairs: list[Row]) -> tuple[Tensor, Tensor]:
    """log pi(y | x) in nats of the chosen [N] and of the rejected [N] completions of encoded pairs."""
    prompts = [row["prompt"] for row in pairs for _ in range(2)]  # side by side, so that it is read once
    batch = given(policy, prompts, [row[kind] for row in pairs for kind in ("chosen", "rejected")])  # [2N S]
    log_probs = policy(*batch.inputs, config.temperature).log_probs  # [2N T]
    chosen, rejected = sequence_log_probs(log_probs, batch.mask, average=False).view(-1, 2).unbind(1)
    return chosen, rejected


@torch.no_grad()
def add_reference(config: DPO, start: Policy, pairs: list[Row]) -> list[Row]:
    """The pairs with ``ref_chosen`` and ``ref_rejected``: log pi_ref(y | x) under the start model, in nats."""
    out, ids = [], encode(config, start, pairs)
    for piece in slices(0, len(pairs), max(1, config.micro_batch // 2)):
        scores = zip(pairs[piece], *(x.tolist() for x in pair_log_probs(config, start, ids[piece])), strict=True)
        out += [row | {"ref_chosen": chosen, "ref_rejected": rejected} for row, chosen, rejected in scores]
    return out


def sample_pairs(config: DPO, task: Task, start: Policy) -> list[Row]:
    """Rank G completions of each prompt by the task's checker; pair the best with the worst, and so on inwards."""
    G, pairs = config.group_size, []
    prompts = take(task.rows, max(1, config.samples // G), 0, config.seed)
    for call in slices(0, len(prompts), max(1, config.micro_batch // G)):
        torch.manual_seed(config.seed * 1_000_003 + call.start)
        rows = [row for row in prompts[call] for _ in range(G)]
        ids = start.encode_prompts([row["prompt"] for row in rows], config.system)
        rollout = sample(start, ids, config.max_new_tokens, config.temperature)
        rewards, ended = score(task, rows, rollout.completions), (~rollout.cut_off).tolist()
        for group in slices(0, len(rows), G):
            scored = zip(rewards[group], rollout.completions[group], ended[group], strict=True)
            ranked = sorted((reward, text) for reward, text, end in scored if end)  # a pair's texts end where they end
            for (low, rejected), (high, chosen) in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False):
                if high > low:
                    pairs.append({"prompt": rows[group.start]["prompt"], "chosen": chosen, "rejected": rejected})
    return pairs
