"""New batches like those of the vectors: one row more, and numbers that nothing equals by chance."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from torchstone.conformance.name.changes import floats
from torchstone.conformance.vectors import Argument, Case, Numbers, Vectors

ROWS = ("B", "N", "P")  # dimensions that may have any size


def fresh(objective: Any, vectors: Vectors, case: Case, seed: int) -> Case | None:
    """A case with the settings of this one, a row more, and numbers near the old ones; None where it has none.

    Args:
        objective: the oracle's: its numbers are the right ones.
        vectors: shapes and kinds.
        case: an ordinary one.
        seed: of the numbers.
    """
    assert case.expected is not None
    r, more = random.Random(seed), case.settings.get("group_size", 1)
    inputs = {k: _grown(x, vectors.arguments[k], more, r) for k, x in case.inputs.items()}
    try:
        outputs, slopes = objective.run(inputs, dict(case.settings))
    except Exception:
        return None
    right = Numbers({k: floats(outputs[k]) for k in case.expected.outputs}, {k: floats(g) for k, g in slopes.items()})
    own = -1000 * abs(case.id) - 10 * (case.id < 0) - seed  # no case has this id, and no twin of one
    return replace(case, id=own, inputs=inputs, flags=(), alternatives={}, expected=right)


def _grown(x: Any, argument: Argument, more: int, r: random.Random) -> Any:
    """Each number moved a little, and rows added that are like the first ones."""
    rows = isinstance(x, list) and bool(x) and argument.shape.split()[:1] != [] and argument.shape.split()[0] in ROWS
    longer = [*x, *(x[i % len(x)] for i in range(more))] if rows else x
    return longer if argument.kind != "float" or _whole(x) else _moved(longer, r)


def _moved(x: Any, r: random.Random) -> Any:
    if isinstance(x, list):
        return [_moved(part, r) for part in x]
    if x is None:
        return x
    return x * (1 + 0.2 * r.uniform(-1, 1)) if math.isfinite(x) else r.uniform(-1, 0)  # NaN under a mask says nothing


def _whole(x: Any) -> bool:
    """Are all numbers whole, as labels are?"""
    return all(map(_whole, x)) if isinstance(x, list) else x is None or (math.isfinite(x) and float(x).is_integer())
