"""What a framework hands to a loss, in its own form: the part of each ``NAME/hand.py`` that all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import WIDTH, Batch, made
from torchstone.frameworks.contract.world import World
from torchstone.frameworks.unit import Unit


class FormError(ValueError):
    """The target cannot be called as the framework calls it; the message says how it does."""


@dataclass(frozen=True)
class Piece:
    """One micro-batch. ``batch``: its rows, whose ``log_probs`` want a gradient; ``whole``: the batch uncut."""

    batch: Batch
    whole: Batch
    ranks: int
    micro_batches: int
    settings: Mapping[str, Any]
    world: World

    def sequences(self, **prompt: float) -> list[dict[str, Tensor]]:
        """For each row these tensors of the batch, up to its last token, behind a prompt token with these values."""
        lengths: list[int] = self.batch.completion.sum(1).tolist()
        tensors = {name: (getattr(self.batch, name), value) for name, value in prompt.items()}
        return [
            {name: torch.cat([x.new_full((1,), value), x[row, :n]]) for name, (x, value) in tensors.items()}
            for row, n in enumerate(lengths)
        ]


@dataclass(frozen=True)
class Given:
    """The arguments of one call, by the framework's names for them; the first ``positional`` are passed by place."""

    arguments: Mapping[str, Any]
    positional: int = 0

    def call(self, function: Callable[..., Any], framework: str) -> tuple[Any, list[str], list[str]]:
        """What it returns; the arguments that it lacks; and those by place, where it has them in another order.

        Raises FormError: it needs what it is not handed, or has no place for most of what it is.
        """
        own = inspect.signature(function).parameters.values()
        kinds, by_place = {p.kind for p in own}, [p.name for p in own if p.kind in (p.POSITIONAL_ONLY, NAMED)]
        places, words = list(self.arguments)[: self.positional], list(self.arguments)[self.positional :]
        free = {p.name: p for p in own if p.kind in (NAMED, p.KEYWORD_ONLY) and p.name not in by_place[: len(places)]}
        extra = [] if inspect.Parameter.VAR_POSITIONAL in kinds else places[len(by_place) :]
        lacks = [] if inspect.Parameter.VAR_KEYWORD in kinds else [name for name in words if name not in free]
        needed = [name for name, p in free.items() if p.default is p.empty and name not in words]
        if needed or extra or len(lacks) > len(self.arguments) // 2:
            parts = [f"{framework} hands it no {listed(needed)}"] * bool(needed)
            parts += [f"it does not take {listed(extra or lacks)}"] * bool(extra or lacks)
            raise FormError("; ".join(parts))
        swapped = any(name != at and name in places for name, at in zip(by_place, places, strict=False))
        named = {name: self.arguments[name] for name in words if name not in lacks}
        result = function(*(self.arguments[name] for name in places), **named)
        return result, lacks, places if swapped else []


NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


@dataclass(frozen=True)
class Hand:
    """How one framework calls a loss.

    ``form``: the signature as a person writes it there. ``calls``: the calls of one micro-batch, whose losses it adds
    up. ``read``: the loss in what comes back, and what is wrong with its form ("" if nothing). ``lines``: what a person
    writes to mend a finding. ``bind``: the callable behind the target, for one micro-batch. ``ranks``: whether it has
    several. ``even``: whether all micro-batches have as many rows. ``advantages``: handed a token, a row, or not at
    all. ``made``: the batch, from a seed. ``stand_ins``: modules of it that a loss may import though they are not
    installed here, with what stands in for their names. ``modes``: a setting, and values of it that are tried beside
    the default. ``padded``: whether rows are padded to one length. ``max_length``: the most tokens that
    a completion may have there. ``cut``: whether the framework cuts a batch; where
    the user alone does, what the cut changes is told and is no fault.
    """

    name: str
    unit: Unit
    form: str
    calls: Callable[[Piece], list[Given]]
    read: Callable[[Any], tuple[Any, str]]
    lines: Mapping[str, str]
    bind: Callable[[Any, Piece], Callable[..., Any]] = lambda target, piece: target
    ranks: bool = True
    even: bool = False
    advantages: Literal["token", "row", "none"] = "token"
    made: Callable[..., Batch] = made
    stand_ins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    modes: tuple[str, tuple[str, ...]] = ("", ())
    padded: bool = True
    max_length: int = WIDTH
    cut: bool = True


def pair(framework: str) -> Callable[[Any], tuple[Any, str]]:
    """``Hand.read`` of ``loss, metrics``, the form that most frameworks unpack."""

    def read(result: Any) -> tuple[Any, str]:
        several = isinstance(result, (tuple, list))
        if several and len(result) == 2:
            return result[0], ""
        found = f"{len(result)} values" if several else "a tensor alone"
        loss = result[0] if several and result else result
        return loss, f"it returns {found}, where {framework} unpacks `loss, metrics`"

    return read


def listed(names: Sequence[str]) -> str:
    """Names in words."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
