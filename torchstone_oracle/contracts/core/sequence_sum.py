"""sequence_sum: the sum in each row, then the mean over rows."""

from __future__ import annotations

from ..shared.common import bug
from ..shared.means import ALL_ROWS, NO_TOKENS, by_row_sums, by_width, mean_objective

OBJECTIVE = mean_objective(
    "sequence_sum",
    "CORE.7",
    "The sum in each row, then the mean over rows: a sequence's log-probability is a sum over its tokens.",
    ("REINFORCE, doi:10.1007/BF00992696, eq. 11",),
    by_row_sums,
    {
        "padded_width": bug(
            "Each row's sum is divided by the padded width of the batch.",
            "The learning rate depends on the longest answer of the batch.",
            {"reduce": by_width},
            pitfalls=("C08",),
        ),
        "empty_rows_counted": ALL_ROWS,
        "zero_by_zero": NO_TOKENS,
    },
)
