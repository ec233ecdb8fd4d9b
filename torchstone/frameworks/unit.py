"""The unit in which a framework wants a loss: how it adds up what its micro-batches and ranks return.

A loss whose denominators are those of the whole batch adds up to the batch's loss, however the batch is split. A
framework that averages instead divides that sum by the number of pieces; ``Unit.scale`` undoes it. Each framework's
facts, with the lines of its code that they rest on, are in ``NAME/unit.py``; its plug multiplies by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AddedUp = Literal["summed", "averaged"]
DividedBy = Literal["the loss", "tokens", "completions", "advantages"]


@dataclass(frozen=True)
class Unit:
    """How one framework adds up a loss.

    ``version``: the one that was looked at, as in the names of rows: "trl-1.16.0". ``how``: "run", or "read at COMMIT".
    ``micro_batches``, ``ranks``: what it does with what they return, for one optimizer step. ``wants``: in one sentence
    what a loss has to return there. ``divided_by``: who divides by the count of the whole step: "the loss", which is
    told the count; the framework, afterwards, by its "tokens" or its "completions"; or the framework beforehand, in the
    "advantages" that it hands to the loss. All but the first want a sum without a denominator.
    """

    framework: str
    version: str
    how: str
    micro_batches: AddedUp
    ranks: AddedUp
    wants: str
    divided_by: DividedBy = "the loss"

    def scale(self, micro_batches: int, ranks: int) -> int:
        """What a loss with the denominators of the whole batch is multiplied with, so that the pieces make the whole.

            scale = (micro_batches, if they are averaged, or 1) x (ranks, if they are averaged, or 1)

        Args:
            micro_batches: of one rank, in one optimizer step.
            ranks: data-parallel processes.
        """
        pieces = {"micro_batches": micro_batches, "ranks": ranks}
        for name, count in pieces.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {count!r}")
        return (micro_batches if self.micro_batches == "averaged" else 1) * (ranks if self.ranks == "averaged" else 1)
