"""DPO: the same stages, but the completions and which of two is better are there before the training starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.data.tasks import Example, Task, places, take
from torchstone.dpo import dpo_loss, sequence_log_probs
from torchstone.rewards.calling import State
from torchstone.rewards.judging import judged
from torchstone.train.learner import Learner
from torchstone.train.model import Policy
from torchstone.train.options import DPOOptions, Pairs, Run
from torchstone.train.processes import divided, share
from torchstone.train.rollout import Rollout, as_rollout, check_room, sample, slices, uniforms

KEPT = 10_000  # pairs whose token ids stay in memory: of texts of 1,000 tokens 36 kB each


def learn_offline(
    config: DPOOptions, pairs: Sequence[Example], learner: Learner, steps: int
) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each step. N pairs a step: each has prompt, chosen, rejected, ref_chosen, ref_rejected."""
    N, policy = min(config.pairs, len(pairs)), learner.policy
    encoded = encoder(config, policy, pairs, N)
    while learner.step < steps:
        learner.begin_round(config.lr, steps)

        # 1 prompts and 2 completions: given
        batch = encoded(learner.step)
        for piece in learner.share(cut_pairs(config, batch)):
            # 3 log-probs [N] of whole completions; those of the reference were computed once, with the pairs
            chosen, rejected = pair_log_probs(config, policy, batch[piece])
            ref = [torch.tensor([pair[k] for pair in batch[piece]]).to(chosen) for k in ("ref_chosen", "ref_rejected")]
            # 4 rewards and 5 advantages: none, the loss itself ranks the pair
            # 6 loss: a scalar
            smoothing = config.label_smoothing
            loss = dpo_loss(chosen, rejected, *ref, beta=config.beta, label_smoothing=smoothing, denominator=N)
            learner.backward(loss)
        # 7 update
        learner.update(config.max_grad_norm)

        yield learner.end_round()


def encoder(config: Run, policy: Policy, pairs: Sequence[Example], N: int) -> Callable[[int], list[Example]]:
    """What gives the encoded pairs of a step; of the first ``KEPT`` pairs that it meets, the ids are kept."""
    kept: dict[int, Example] = {}

    def of_step(step: int) -> list[Example]:
        rows = places(len(pairs), N, step, config.seed)
        new = list(dict.fromkeys(i for i in rows if i not in kept))
        made = dict(zip(new, encode(config, policy, [pairs[i] for i in new]) if new else (), strict=True))
        found = [kept[i] if i in kept else made[i] for i in rows]
        kept.update(made if len(kept) < KEPT else {})
        return found

    return of_step


def encode(config: Run, policy: Policy, pairs: Sequence[Example]) -> list[Example]:
    """The pairs, their three texts as token ids; those of the completions have the end token."""
    prompts = policy.encode_prompts([pair["prompt"] for pair in pairs], config.system)
    chosen, rejected = (policy.encode_completions([pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    check_room(policy, prompts, [max(map(len, both)) for both in zip(chosen, rejected, strict=True)])
    texts = zip(pairs, prompts, chosen, rejected, strict=True)
    return [pair | {"prompt": p, "chosen": c, "rejected": r} for pair, p, c, r in texts]


def cut_pairs(config: Run, pairs: list[Example]) -> list[slice]:
    """Encoded pairs in micro-batches: a pair is two completions."""
    width = max(len(pair["prompt"]) + max(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs)
    return share(0, len(pairs), max(1, config.rows_at_once(width) // 2))


def pair_log_probs(config: DPOOptions, policy: Policy, pairs: list[Example]) -> tuple[Tensor, Tensor]:
    """log pi(y | x) in nats of the chosen [N] and of the rejected [N] completions of encoded pairs."""
    batch = side_by_side(policy, pairs)
    log_probs = policy(*batch.inputs, config.temperature).log_probs  # [2N T]
    chosen, rejected = sequence_log_probs(log_probs, batch.mask, average=False).view(-1, 2).unbind(1)
    return chosen, rejected


def side_by_side(policy: Policy, pairs: Sequence[Example]) -> Rollout:
    """The completions of encoded pairs, chosen above rejected: 2N rows; their prompt is then read once."""
    prompts = [pair["prompt"] for pair in pairs for _ in range(2)]
    return as_rollout(policy, prompts, [pair[side] for pair in pairs for side in ("chosen", "rejected")])


@torch.no_grad()
def add_reference(config: DPOOptions, start: Policy, pairs: Sequence[Example]) -> Iterator[Example]:
    """The pairs with ``ref_chosen`` and ``ref_rejected``: log pi_ref(y | x) under the start model, in nats."""
    for some in (pairs[rows] for rows in slices(0, len(pairs), 1000)):
        ids = encode(config, start, some)
        parts = cut_pairs(config, ids)
        every = divided(parts, partial(_lists, config, start, ids), start.is_cut)
        for piece, log_probs in zip(parts, every, strict=True):
            for pair, chosen, rejected in zip(some[piece], *log_probs, strict=True):
                yield pair | {"ref_chosen": chosen, "ref_rejected": rejected}


def _lists(config: DPOOptions, policy: Policy, pairs: list[Example], piece: slice) -> list[list[float]]:
    return [log_probs.tolist() for log_probs in pair_log_probs(config, policy, pairs[piece])]


def sample_pairs(config: Pairs, task: Task, start: Policy) -> list[Example]:
    """Sample G completions of each prompt, have them judged by the task's function, and pair them."""
    G, pairs = config.group_size, []
    examples = take(task.examples, max(1, config.samples // G), 0, config.seed)
    for call in slices(0, len(examples), max(1, config.micro_batch // G)):
        noise = torch.cat([uniforms(config.seed, p, G, config.max_new_tokens) for p in range(call.start, call.stop)])
        repeated = [example for example in examples[call] for _ in range(G)]
        ids = start.encode_prompts([example["prompt"] for example in repeated], config.system)
        rollout = sample(start, ids, config.max_new_tokens, config.temperature, noise)
        earned = judged(task, repeated, rollout.completions, rollout, State()).rewards
        ends = zip(rollout.completions, (~rollout.cut_off).tolist(), strict=True)  # a pair's texts end where they end
        ranked = [
            (reward, text) if end and not math.isnan(reward) else None
            for reward, (text, end) in zip(earned, ends, strict=True)
        ]
        for group in slices(0, len(ranked), G):
            pairs += pair_up(repeated[group.start]["prompt"], [one for one in ranked[group] if one])
    return pairs


def pair_up(prompt: str, judged: list[tuple[float, str]]) -> list[Example]:
    """The best of a prompt's completions with the worst, and so on inwards, where their rewards differ."""
    ranked = sorted(judged)
    both = zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for (low, rejected), (high, chosen) in both
        if high > low
    ]
