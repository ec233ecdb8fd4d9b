"""sequence_mean: the mean in each row, then over rows."""

from __future__ import annotations

from typing import Any

from ... import core
from ...core import Mask
from ...numbers import Dual, total
from ..shared.common import TRL, Settings, bug
from ..shared.means import (
    ALL_ROWS,
    EMPTY_ROWS,
    by_rows,
    by_rows_with_padding,
    by_width,
    divided_by_both,
    mean_objective,
    padding_summed,
    span,
)


def by_span(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    """Row sums over the length of the row up to its last True, gaps included."""
    n = core.rows_that_count(mask) if denominator is None else denominator
    rows = zip(x, mask, strict=True)
    return core.divided(total(core.divided(total(core.chosen(*row)), span(row[1])) for row in rows), n)


OBJECTIVE = mean_objective(
    "sequence_mean",
    "CORE.6",
    "Every sequence weighs the same: the mean in each row, then the mean over rows.",
    ("GRPO, arXiv:2402.03300v3, eq. 3",),
    by_rows,
    {
        "padded_width": bug(
            "Each row's sum is divided by the padded width of the batch instead of its own length.",
            "Short answers are scaled by the longest one that happens to be in the batch.",
            {"reduce": by_width},
            pitfalls=("C08", "C36"),
        ),
        "gaps_counted": bug(
            "A row's sum leaves gaps out, its length counts them.",
            "Answers with much tool output are scaled down.",
            {"reduce": by_span},
            pitfalls=("C06",),
            links=(f"{TRL}/pull/6439",),
        ),
        "padding_summed": padding_summed(by_rows_with_padding),
        "divided_by_both": divided_by_both(core.rows_that_count),
        "empty_rows_counted": ALL_ROWS,
        "zero_by_zero": EMPTY_ROWS,
    },
)
