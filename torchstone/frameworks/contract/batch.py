"""The batch that is cut: float64 numbers of completions of unequal lengths, and the ways of cutting it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

ROWS, WIDTH = 16, 8
LENGTHS = (8, 3, 7, 6, 8, 7, 8, 8, 2, 3, 8, 5, 4, 6, 3, 2)  # of the completions, tool output included
FAR = (0.4, 1.0, 1.5, 2.0)  # log-ratios of some tokens, up and down
SPLITS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 8), (8, 1))  # ranks, and micro-batches of each


@dataclass(frozen=True)
class Batch:
    """What a trainer knows of completions, each [B T].

    ``mask``: True where the policy chose the token. ``completion``: True up to the last token; what the mask leaves out
    of it is tool output. ``advantages`` are one number a completion, at all of its positions.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    sampler_log_probs: Tensor
    ref_log_probs: Tensor
    advantages: Tensor
    mask: Tensor
    completion: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Split:
    """``pieces[rank][i]``: the rows of a rank's i-th micro-batch."""

    ranks: int
    micro_batches: int
    pieces: tuple[tuple[slice, ...], ...]

    @property
    def words(self) -> str:
        """Such as "2 ranks with 1 micro-batch"."""
        many = "s" * (self.ranks > 1), "es" * (self.micro_batches > 1)
        return f"{self.ranks} rank{many[0]} with {self.micro_batches} micro-batch{many[1]}"


def made(seed: int = 0) -> Batch:
    """The batch: advantages of both signs, tool output in every other long completion, and ratios that tell bounds
    apart, on both sides: some between 1.2 and 1.28, some beyond 2, 3 and 5."""
    draws = torch.Generator().manual_seed(seed)
    some = lambda low, high, *shape: low + (high - low) * torch.rand(*shape, generator=draws, dtype=torch.float64)  # noqa: E731
    steps, lengths = torch.arange(WIDTH), torch.tensor(LENGTHS)[:, None]
    completion = steps < lengths
    tool = (steps == 1) & (lengths > 3) & (torch.arange(ROWS)[:, None] % 2 == 0)
    log_probs = some(-3.0, -0.3, ROWS, WIDTH)
    places = torch.arange(ROWS * WIDTH).view(ROWS, WIDTH)
    far = torch.where(places % 5 == 3, torch.tensor(FAR).double()[places // 5 % len(FAR)], 0.0) * signs_of(WIDTH, 2)
    far = far + torch.where(torch.arange(ROWS)[:, None] % 8 == 5, 0.35, 0.0)  # whole completions beyond a clip
    near = lambda: (log_probs + far + some(-0.3, 0.3, ROWS, WIDTH)).clamp(max=-0.05)  # noqa: E731
    old, sampler, ref = near(), near(), near()
    advantages = (signs_of(ROWS, 3) * some(0.4, 1.6, ROWS))[:, None].expand(-1, WIDTH).clone()
    return Batch(log_probs, old, sampler, ref, advantages, completion & ~tool, completion)


def made_with_one_old(seed: int = 0) -> Batch:
    """The same where a framework knows of one kind of old log-probs: the sampler's."""
    batch = made(seed)
    return replace(batch, old_log_probs=batch.sampler_log_probs)


def signs_of(count: int, every: int) -> Tensor:
    """1, but -1 at one in ``every``."""
    return torch.where(torch.arange(count) % every == 0, -1.0, 1.0).double()


def splits(ranks: bool, even: bool) -> list[Split]:
    """All ways of cutting, for several ranks or for one."""
    return [cut(r, m, even) for r, m in SPLITS if r == 1 or ranks]


def cut(ranks: int, micro_batches: int, even: bool = False) -> Split:
    """The rows in order: each rank has as many; its micro-batches are of unequal sizes unless ``even``."""
    size = ROWS // ranks // micro_batches
    uneven = 0 if even or micro_batches == 1 else size // 2
    sizes = [size + (uneven if i % 2 else -uneven) for i in range(micro_batches)]
    slices = [slice(a, b) for a, b in pairwise(accumulate([0] + sizes * ranks))]
    return Split(ranks, micro_batches, tuple(zip(*[iter(slices)] * micro_batches, strict=True)))
