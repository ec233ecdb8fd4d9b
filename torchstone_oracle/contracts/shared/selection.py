"""What the choices among tokens share: the chosen places of a batch in its order, and the cases' numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ...contract import Flag, Inputs
from .common import EDGES, Marks

Place = tuple[int, int]


def places(mask: Marks) -> list[Place]:
    """Where the mask is True, row by row."""
    return [(b, t) for b, row in enumerate(mask) for t, m in enumerate(row) if m]


def every_place(mask: Marks) -> list[Place]:
    """All of them, the padding too."""
    return [(b, t) for b, row in enumerate(mask) for t in range(len(row))]


def spread(found: Mapping[Place, Any], mask: Marks) -> list[list[Any]]:
    """[B T], and anything where nothing was found."""
    return [[found.get((b, t)) for t in range(len(row))] for b, row in enumerate(mask)]


def kept(chosen: Collection[Place], mask: Marks) -> list[list[Any]]:
    """[B T]: whether a place of the mask is among these."""
    return spread({at: at in chosen for at in places(mask)}, mask)


def at(inputs: Inputs, name: str, place: Place) -> Any:
    return inputs[name][place[0]][place[1]]


def row_by_row(choose: Callable[..., Collection[Place]]) -> Callable[..., Collection[Place]]:
    """The same choice on each completion by itself."""

    def of_rows(of: Sequence[Place], *more: Any) -> set[Place]:
        rows = sorted({b for b, _ in of})
        return {place for b in rows for place in choose([p for p in of if p[0] == b], *more)}

    return of_rows


PARTS = "The batch is cut into micro-batches first, here one a row."
OF_PARTS = "Which tokens teach depends on how the batch was cut, and every part gives up as many."
SELECTION_EDGES = EDGES | {
    "ties": Flag(
        "edge", "Several tokens have the same number, and it decides.", "Some of them stay and others go, by chance."
    ),
    "on_policy": Flag("edge", "The policy is still the one that sampled.", "Tokens are dropped before anything moved."),
}
