"""One gradient of a batch as a framework makes it: cut, handed out piece by piece, added up."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch, Split, cut
from torchstone.frameworks.contract.hand import FormError, Hand, Piece, listed
from torchstone.frameworks.contract.world import World

WHOLE = cut(1, 1)
Form = tuple[list[str], list[str], list[str], list[str]]


@dataclass(frozen=True)
class Outcome:
    """``gradient`` [B T] of the log-probs, None where the loss has none. Of its form: arguments that it ``lacks``,
    arguments by place that it has in another ``order``, ``remarks`` on what it returns, and the names of arguments
    that it has ``changed``."""

    value: float
    gradient: Tensor | None
    lacks: list[str]
    order: list[str]
    remarks: list[str]
    changed: list[str]

    @property
    def slope(self) -> Tensor:
        """The gradient, which is there."""
        assert self.gradient is not None
        return self.gradient


def run(
    hand: Hand, target: Any, settings: Mapping[str, Any], batch: Batch, split: Split = WHOLE, seed: int = 0
) -> Outcome:
    """The gradient that the optimizer sees for this batch in this split; each piece draws from the same seed.

    Raises FormError: the loss cannot be called so. What the loss itself raises goes on.
    """
    world, gradient, values, free = World(split.ranks), torch.zeros_like(batch.log_probs), list[float](), list[bool]()
    form: Form = [], [], [], []
    count = {"tokens": int(batch.mask.sum()), "completions": len(batch.mask)}.get(hand.unit.divided_by, 1)
    rescale = 1 / (hand.unit.scale(split.micro_batches, split.ranks) * count)

    def on_rank(rank: int) -> None:
        for rows in split.pieces[rank]:
            leaf = batch.log_probs[rows].clone().requires_grad_()
            own = replace(batch.each(lambda x, rows=rows: x[rows].clone()), log_probs=leaf * 1)
            torch.manual_seed(seed)
            random.seed(seed)
            loss = _loss(hand, target, Piece(own, batch, split.ranks, split.micro_batches, settings, world), form)
            values.append(float(loss.detach()) * rescale)
            if loss.requires_grad:
                (slope,) = torch.autograd.grad(loss * rescale, leaf, allow_unused=True)
                free.append(slope is not None)
                gradient[rows] = 0.0 if slope is None else slope

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        world.run(on_rank)
    return Outcome(sum(values), gradient if any(free) else None, *(list(dict.fromkeys(x)) for x in form))


def _loss(hand: Hand, target: Any, piece: Piece, form: Form) -> Tensor:
    """The loss of one micro-batch; what is odd of its form is added to ``form``."""
    total, function = torch.zeros((), dtype=piece.batch.log_probs.dtype), hand.bind(target, piece)
    for given in hand.calls(piece):
        before = {name: (x, x._version) for name, x in _tensors("", given.arguments, 4)}
        result, lacks, order = given.call(function, hand.name)
        changed = [name for name, (x, version) in before.items() if x._version != version]
        found, remark = hand.read(result)
        if not isinstance(found, Tensor):
            raise FormError(f"its loss is of type {type(found).__name__}, where {hand.name} wants a tensor")
        if found.numel() != 1:
            raise FormError(f"its loss has the shape {tuple(found.shape)}, where {hand.name} wants one number")
        for known, more in zip(
            form, (lacks, [listed(order)] * bool(order), [remark] * bool(remark), changed), strict=True
        ):
            known.extend(more)
        total = total + found.reshape(())
    return total


def _tensors(name: str, x: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors among arguments, in what they hold too, by name."""
    if isinstance(x, Tensor):
        yield name, x
    elif depth and isinstance(x, (Mapping, list, tuple, SimpleNamespace)):
        inner = vars(x) if isinstance(x, SimpleNamespace) else x
        parts = inner.items() if isinstance(inner, Mapping) else ((f"{name}[{i}]", y) for i, y in enumerate(inner))
        for key, part in parts:
            yield from _tensors(str(key), part, depth - 1)
