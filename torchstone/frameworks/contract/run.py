"""One gradient of a batch as a framework makes it: cut, handed out piece by piece, added up."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch, Split, cut
from torchstone.frameworks.contract.hand import FormError, Given, Hand, Piece
from torchstone.frameworks.contract.world import World

WHOLE = cut(1, 1)
ORDER = "its arguments stand in another order"


@dataclass(frozen=True)
class Outcome:
    """``gradient`` [B T] of the log-probs, None where the loss has none; ``remarks`` on the form of what it returns."""

    value: float
    gradient: Tensor | None
    lacks: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def slope(self) -> Tensor:
        """The gradient, which is there."""
        assert self.gradient is not None
        return self.gradient


def run(
    hand: Hand, target: Any, settings: Mapping[str, Any], batch: Batch, split: Split = WHOLE, number: int = 0
) -> Outcome:
    """The gradient that the optimizer sees for this batch in this split.

    Args:
        number: a seed, for each piece.

    Raises FormError: the loss cannot be called so. What the loss itself raises goes on.
    """
    world, leaf = World(split.ranks), batch.log_probs.clone().requires_grad_()
    rescale = 1 / (hand.unit.scale(split.micro_batches, split.ranks) * _count(hand, batch))
    gradient, values, free = torch.zeros_like(leaf), list[float](), list[bool]()
    lacks, remarks = list[str](), list[str]()

    def on_rank(rank: int) -> None:
        for rows in split.pieces[rank]:
            own = batch.each(lambda x, rows=rows: x[rows].clone())
            part = leaf.detach()[rows].clone().requires_grad_()
            piece = Piece(replace(own, log_probs=part * 1), batch, split.ranks, split.micro_batches, settings, world)
            seed(number)
            loss = torch.zeros((), dtype=part.dtype)
            function = hand.bind(target, piece)
            for given in hand.calls(piece):
                if given.misplaced(function):
                    by_place = listed(list(given.arguments)[: given.positional])
                    remarks.append(f"{ORDER}: {hand.name} passes {by_place} by place")
                found, remark = hand.read(_called(hand, given, function, lacks))
                remarks.extend([remark] * bool(remark))
                loss = loss + _number(hand, found)
            if loss.requires_grad:
                (slope,) = torch.autograd.grad(loss * rescale, part, allow_unused=True)
                free.append(slope is not None)
                gradient[rows] = 0.0 if slope is None else slope
            values.append(float(loss.detach()) * rescale)

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        world.run(on_rank)
    unique = tuple(dict.fromkeys(lacks)), tuple(dict.fromkeys(remarks))
    return Outcome(sum(values), gradient if any(free) else None, *unique)


def seed(number: int) -> None:
    """The same random numbers for every piece."""
    torch.manual_seed(number)
    random.seed(number)


def _count(hand: Hand, batch: Batch) -> int:
    """What the framework divides by after the loss."""
    counts = {"tokens": int(batch.mask.sum()), "completions": len(batch.mask)}
    return counts.get(hand.unit.divided_by, 1)


def _called(hand: Hand, given: Given, function: Any, lacks: list[str]) -> Any:
    given = Given({**given.arguments, **getattr(function, "passes", {})}, given.positional)
    missing, needed = given.fit(function)
    names = list(given.arguments)
    if needed or set(missing) & set(names[: given.positional]) or len(missing) > len(names) // 2:
        parts = [f"{hand.name} hands it no {listed(needed)}"] * bool(needed)
        parts += [f"it does not take {listed(missing)}"] * bool(missing)
        raise FormError("; ".join(parts))
    lacks.extend(missing)
    return given.call(function, missing)


def _number(hand: Hand, found: Any) -> Tensor:
    if not isinstance(found, Tensor):
        raise FormError(f"its loss is of type {type(found).__name__}, where {hand.name} wants a tensor")
    if found.numel() != 1:
        raise FormError(f"its loss has the shape {tuple(found.shape)}, where {hand.name} wants one number")
    return found.reshape(())


def listed(names: list[str]) -> str:
    """Names in words."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
