"""A loss where it is plugged in: its gradients on the batch uncut and in each split, and what a finding is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch, Split
from torchstone.frameworks.contract.hand import Hand
from torchstone.frameworks.contract.run import WHOLE, Outcome, run

CLOSE = 1e-4  # relative: a loss may calculate in float32
ALIKE = {"padding": "mask", "tool": "mask", "sum": "mean", "weights": "beside"}  # mended by another's line
MENDED = {  # in every framework, where a hand has no line of its own
    "gradient": "no .detach(), .item() or no_grad between the log-probs and the loss",
    "state": "all that it needs as its arguments",
    "nan": "select before the arithmetic: torch.where(mask, log_probs, 0)",
    "shift": "log-probs, advantages and mask as they are: {framework} hands them aligned",
    "beside": "take statistics of the whole batch where the advantages are made, before it is cut",
    "sign": "loss = -loss",
    "ratio": "(log_probs - old_log_probs).exp(), the new over the old",
    "inplace": "a new tensor: x = x - y, not x -= y",
    "empty": "the row's tokens, at least 1: mask.sum(1).clamp(min=1)",
}


@dataclass(frozen=True)
class Finding:
    """``name``: one word, for ``--accept``. ``said``: a sentence about "it". ``change``: a line that mends it.

    A finding that is no ``fault`` is told and does not count.
    """

    name: str
    said: str
    change: str = ""
    fault: bool = True


@dataclass(frozen=True)
class Seen:
    """One split. ``weight`` [B]: the gradient of each row over that of the batch uncut, NaN where that is 0; ``clean``:
    it is a multiple; ``off``: the share of tokens whose gradient is another."""

    split: Split
    weight: Tensor
    clean: bool
    off: float


@dataclass(frozen=True)
class Findings:
    """``seen``: in each split. ``whole``: the batch uncut."""

    findings: tuple[Finding, ...]
    seen: tuple[Seen, ...]
    whole: Outcome

    @property
    def faults(self) -> list[Finding]:
        """Those that count."""
        return [f for f in self.findings if f.fault]


@dataclass(frozen=True)
class Plugged:
    """A loss where it is plugged in."""

    hand: Hand
    target: Any
    settings: Mapping[str, Any]
    batch: Batch

    @cached_property
    def whole(self) -> Outcome:
        """What it gives for the batch uncut."""
        return self.run()

    def run(self, split: Split = WHOLE, seed: int = 0, **changes: Tensor) -> Outcome:
        """What it gives for the batch with these changes."""
        return run(self.hand, self.target, self.settings, replace(self.batch, **changes), split, seed)

    def moved(self, slope: Tensor, than: Tensor | None = None) -> Tensor:
        """Where this gradient is another than that of the batch uncut [B T]."""
        change = (slope - (self.whole.slope if than is None else than)).abs()
        return ~(change <= CLOSE * self.whole.slope.abs().max())  # a NaN is another

    def keeps(self, other: Outcome) -> bool:
        """Whether the loss and its gradient are those of the batch uncut."""
        value = self.whole.value
        return not self.moved(other.slope).any() and abs(other.value - value) <= CLOSE * max(abs(value), 1e-6)

    def seen(self, split: Split) -> Seen:
        """One split, held against the batch uncut."""
        whole, cut = self.whole.slope, self.run(split).gradient
        cut = torch.zeros_like(whole) if cut is None else cut
        size = whole.square().sum(1)
        weight = ((cut * whole).sum(1) / size).where(size > 1e-9 * size.max(), float("nan"))
        clean = not self.moved(cut, weight.nan_to_num(0)[:, None] * whole).any()
        return Seen(split, weight, clean, float(self.moved(cut)[self.batch.mask].double().mean()))

    def told(self, name: str, said: str, fault: bool = True) -> Finding:
        """The finding, with the line that mends it in this framework."""
        key = ALIKE.get(name, name)
        line = self.hand.lines.get(key) or MENDED.get(key, "").format(framework=self.hand.name)
        return Finding(name, said, line, fault)
