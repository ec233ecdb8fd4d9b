"""The form of a case: what a framework computes on a batch, to hold one dialect row against.

A module `cases_NAME.py` has `CASES: dict[str, Case]`, from the row's name ("grpo@trl-1.16.0") to its case, and
`SAME: set[str]`, the rows whose choices are all those of the published row. test_dialects.py collects them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from batch import DistillBatch, PolicyBatch, PreferenceBatch, distill_batch, leaf, policy_batch, preference_batch
from torch import Tensor

from torchstone.dpo.variants import kto_reference_point

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Output(NamedTuple):
    """What the framework computed.

    `given` are arguments for the recipe's own calls, by their names there: they take the place of the batch's tensors,
    or are what the batch does not hold (max_length, denominator, weights, reference_point, returns, ...). Without an
    "advantages" among them the loss is fed the recipe's own, so that the row is held from the rewards to the gradient.
    """

    value: Tensor
    gradients: dict[str, Tensor]  # by leaf: "log_probs", "entropies", "values"; "chosen", "rejected"
    advantages: Tensor | None = None  # [B] or [B T]; None where the framework computes none
    given: Mapping[str, Any] = NOTHING


@dataclass(frozen=True)
class Case:
    """How to run the framework, and how near the recipe must come.

    `batches` are those that the framework can take, of BATCHES. Within `rtol`, relative to the largest entry of the
    tensor; 1e-6 only where the framework casts to float32 itself, and `note` says where it does.
    """

    run: Callable[[Any], Output]
    batches: tuple[str, ...]
    rtol: float = 1e-10
    note: str = ""


def with_an_empty_row(batch: Any, row: int) -> Any:
    """Masks with gaps, and a completion in which the policy chose nothing."""
    mask = batch.mask.clone()
    mask[row] = False
    return replace(batch, mask=mask)


def far_off(seed: int) -> PolicyBatch:
    """The log-ratios of policy_batch twice as large: ratios from 0.06 to 13, beyond every two-sided or dual clip."""
    batch = policy_batch(seed)
    return replace(batch, log_probs=2 * batch.log_probs - batch.old_log_probs)


def long_and_wide(seed: int) -> PolicyBatch:
    """Completions 160 times as long, whose log-probs lie up to 12 nats lower: 2 of 10,000 tokens are more than one.

    The smallest draws have good tokens with a ratio just beyond 1.2, then those whose covariance of log-prob and
    advantage is nearest to 4.5.
    """
    batch, generator = policy_batch(seed), torch.Generator().manual_seed(seed)
    tiled = {name: x.repeat(1, 160) for name, x in vars(batch).items() if x.shape == batch.mask.shape}
    lower, noise = torch.rand(2, *tiled["mask"].shape, generator=generator, dtype=torch.float64)
    for name, x in tiled.items():
        if name.endswith("log_probs"):
            tiled[name] = x - 12 * lower - 0.001 * noise
    r, p = batch.rewards, tiled["log_probs"]
    earned = ((r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True)).view(-1, 1)
    beyond = (p - tiled["old_log_probs"]).exp()
    stopped = (earned > 0) & (beyond > 1.2) & (beyond < 1.25)
    draws = ((p - p[tiled["mask"]].mean()) * earned - 4.5).abs() + 9 * ~stopped
    return replace(batch, **tiled | {"draws": draws})


def spread_out(batch: PolicyBatch) -> PolicyBatch:
    """Sampler and trainer further apart: rows by a mean factor of 0.27 to 11, and again by 1.3 between tokens."""
    rows, tokens = batch.mask.shape
    drift = torch.linspace(-1.3, 2.4, rows, dtype=torch.float64)[:, None] + 0.25 * torch.arange(tokens).sin()
    return replace(batch, sampler_log_probs=batch.old_log_probs - drift)


def near_the_engine(batch: PolicyBatch, centres: tuple[float, ...], level: str) -> PolicyBatch:
    """``centres``: rows' log-ratios to the engine, in turn, as a mean or a sum of tokens, each up to 1 away from it."""
    tokens = batch.mask.sum(1, keepdim=True).clamp(min=1)
    noise = torch.arange(batch.mask.numel(), dtype=torch.float64).view(batch.mask.shape).sin()
    noise -= (noise * batch.mask).sum(1, keepdim=True) / tokens
    of_rows = torch.tensor(centres, dtype=torch.float64)[torch.arange(len(noise)) % len(centres), None]
    drift = noise + (of_rows / tokens if level == "sum" else of_rows)
    return replace(batch, sampler_log_probs=batch.old_log_probs - drift)


class Model:
    """Returns the numbers it was made with, in place of the policy's or the critic's."""

    def __init__(self, *output: Any):
        self.output = output

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.output

    def train(self) -> None:
        pass


def sides(batch: PreferenceBatch) -> tuple[dict[str, Tensor], Tensor]:
    """The leaves of a batch of pairs, and its mask [2N T], chosen rows first."""
    leaves = {"chosen": leaf(batch.chosen), "rejected": leaf(batch.rejected)}
    return leaves, torch.cat([batch.chosen_mask, batch.rejected_mask])


def kto_point(batch: PreferenceBatch) -> Tensor:
    """KTO's reference point, from the batch's mismatched completions."""
    return kto_reference_point(*(torch.where(batch.kl_mask, x, 0).sum(1) for x in (batch.kl, batch.ref_kl)))


def pairs(seed: int) -> PreferenceBatch:
    return preference_batch(seed)


def a_teacher_that_agrees(seed: int) -> DistillBatch:
    """All log-ratios to the teacher near 1e-9, so that what is added to their sum shows."""
    batch = distill_batch(seed)
    teacher, now = batch.logits + 1e-9 * batch.teacher_logits, batch.sampled(batch.logits)
    return replace(batch, teacher_logits=teacher, old_log_probs=now, sampler_log_probs=now)


def a_policy_that_is_surer(seed: int) -> DistillBatch:
    """In every other place a policy with more mass on the likeliest tokens: a KL of these alone is below 0."""
    batch = distill_batch(seed)
    how_sure = torch.where(torch.arange(batch.mask.shape[1]) % 2 == 0, 0.7, 1.4)[:, None]
    return replace(batch, teacher_logits=how_sure * batch.logits + 0.05 * batch.teacher_logits)


BATCHES: dict[str, Callable[[int], PolicyBatch | PreferenceBatch | DistillBatch]] = {
    "prefix": policy_batch,  # right-padded completions
    "gaps": lambda seed: policy_batch(seed, gaps=True),  # tool output inside completions
    "empty": lambda seed: with_an_empty_row(policy_batch(seed, gaps=True), 8),
    "long": long_and_wide,
    "far": far_off,  # ratios beyond 3 and 4
    "pairs": pairs,
    "distill": distill_batch,  # right-padded completions
    "distill-gaps": lambda seed: distill_batch(seed, gaps=True),
    "distill-empty": lambda seed: with_an_empty_row(distill_batch(seed, gaps=True), 4),
    "distill-near": a_teacher_that_agrees,
    "distill-sure": a_policy_that_is_surer,
    "distill-far": lambda seed: distill_batch(seed, spread=3.0),  # teacher and policy up to e^15 apart
}
