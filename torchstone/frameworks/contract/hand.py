"""What a framework hands to a loss, in its own form: the part of each ``NAME/hand.py`` that all of them share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from torchstone.frameworks.contract.batch import Batch, made
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


@dataclass(frozen=True)
class Given:
    """The arguments of one call, by the framework's names for them; the first ``positional`` are passed by place."""

    arguments: Mapping[str, Any]
    positional: int = 0

    def fit(self, function: Callable[..., Any]) -> tuple[list[str], list[str]]:
        """Names that the function lacks, and names that it needs and that nothing is handed for."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return [], []
        kinds = inspect.Parameter
        by_place = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        names = list(self.arguments)
        places, words = names[: self.positional], names[self.positional :]
        if len(by_place) < len(places) and not any(p.kind == kinds.VAR_POSITIONAL for p in parameters):
            return places[len(by_place) :], []
        taken = {p.name for p in by_place[: len(places)]}
        free = {p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)} - taken
        swallows = any(p.kind == kinds.VAR_KEYWORD for p in parameters)
        needed = [p.name for p in parameters if p.default is kinds.empty and p.name in free]
        return [w for w in words if w not in free and not swallows], [n for n in needed if n not in words]

    def misplaced(self, function: Callable[..., Any]) -> list[str]:
        """Names that the function has at another place than the one they are passed at."""
        places = list(self.arguments)[: self.positional]
        try:
            own = list(inspect.signature(function).parameters)[: len(places)]
        except (TypeError, ValueError):
            return []
        return [name for name, at in zip(own, places, strict=False) if name != at and name in places]

    def call(self, function: Callable[..., Any], without: list[str]) -> Any:
        """Call it, without the arguments that it lacks."""
        names = list(self.arguments)
        values = [self.arguments[k] for k in names[: self.positional]]
        return function(*values, **{k: self.arguments[k] for k in names[self.positional :] if k not in without})


@dataclass(frozen=True)
class Hand:
    """How one framework calls a loss.

    ``form``: the signature as a person writes it there. ``calls``: the calls of one micro-batch, whose losses it adds
    up. ``read``: the loss in what comes back, and what is wrong with its form ("" if nothing). ``lines``: what a person
    writes to mend a finding. ``bind``: the callable behind the target, for one micro-batch. ``ranks``: whether it has
    several. ``even``: whether all micro-batches have as many rows. ``advantages``: handed a token, a row, or not at
    all. ``made``: the batch, from a seed. ``stand_ins``: modules of it that a loss may import though they are not
    installed here, with what stands in for their names. ``modes``: settings that are tried beside the default.
    ``padded``: whether rows are padded to one length. ``cut``: whether the framework cuts a batch; where the user alone
    does, what the cut changes is told and is no fault.
    """

    name: str
    unit: Unit
    form: str
    calls: Callable[[Piece], list[Given]]
    read: Callable[[Any], tuple[Tensor, str]]
    lines: Mapping[str, str]
    bind: Callable[[Any, Piece], Callable[..., Any]] = lambda target, piece: target
    ranks: bool = True
    even: bool = False
    advantages: Literal["token", "row", "none"] = "token"
    made: Callable[..., Batch] = made
    stand_ins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    modes: tuple[Mapping[str, Any], ...] = ()
    padded: bool = True
    cut: bool = True


def passing(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """The function, for which the framework passes more by name."""

    @functools.wraps(function)
    def of(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    of.passes = more  # type: ignore[attr-defined]
    return of


def pair(result: Any, framework: str) -> tuple[Any, str]:
    """The loss in ``loss, metrics``, the form that most frameworks unpack."""
    if isinstance(result, (tuple, list)) and len(result) == 2:
        return result[0], ""
    loss = result[0] if isinstance(result, (tuple, list)) and result else result
    found = f"{len(result)} values" if isinstance(result, (tuple, list)) else "a tensor alone"
    return loss, f"it returns {found}, where {framework} unpacks `loss, metrics`"
