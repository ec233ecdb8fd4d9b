"""fixed_length_mean: row sums over a constant length, then the mean over rows."""

from __future__ import annotations

from typing import Any

from ... import core
from ...contract import Setting
from ...core import Mask
from ...numbers import Dual
from ..shared.common import VERL, Settings, bug
from ..shared.means import ALL_ROWS, NO_TOKENS, by_width, mean_objective


def by_length(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    return core.fixed_length_mean(x, mask, settings["length"], denominator)


def by_longest(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    """Row sums over the longest row of the batch."""
    return core.fixed_length_mean(x, mask, max(map(sum, mask)) or 1, denominator)


OBJECTIVE = mean_objective(
    "fixed_length_mean",
    "CORE.8",
    "The sum in each row over one constant length, then the mean over rows: no length bias.",
    ("Dr. GRPO, arXiv:2503.20783v2, listing 1",),
    by_length,
    {
        "padded_width": bug(
            "The length is the padded width of the batch, not a constant.",
            "The loss depends on the longest answer that happens to be in the batch.",
            {"reduce": by_width},
            pitfalls=("C08", "R07"),
            links=(f"{VERL}/pull/4510",),
        ),
        "longest_row": bug(
            "The length is that of the longest row of the batch, not a constant.",
            "The loss depends on the longest answer that happens to be in the batch.",
            {"reduce": by_longest},
            pitfalls=("C08",),
        ),
        "empty_rows_counted": ALL_ROWS,
        "zero_by_zero": NO_TOKENS,
    },
    more={"length": Setting("The constant L, in tokens: the longest completion that generation allows.", (8, 5))},
    numbers={"length": 8},
)
