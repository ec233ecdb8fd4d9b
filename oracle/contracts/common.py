"""Flags, masks and inputs that many objectives share."""

from __future__ import annotations

from typing import Any

from ..contract import Argument, Flag

NAN, INF = float("nan"), float("inf")

LOG_PROBS = Argument("B T", "nats", gradient=True)
CONSTANT_LOG_PROBS = Argument("B T", "nats")
MASK = Argument("B T", "True where the policy chose the token", kind="bool")

EDGES = {
    "ragged_mask": Flag(
        "edge",
        "Completions of different lengths.",
        "What lies in the padding enters the mean: short completions are scaled by the batch's longest one.",
        pitfalls=("C36", "C45"),
    ),
    "gaps_in_mask": Flag(
        "edge",
        "Tokens that the policy did not choose, such as tool output, inside a completion.",
        "Text that a tool wrote is trained on as if the policy had written it.",
        pitfalls=("C06", "C48"),
    ),
    "junk_under_mask": Flag(
        "edge",
        "Finite numbers under False in the mask that must not matter.",
        "The loss depends on what happens to lie in the padding.",
        pitfalls=("C19", "C36"),
    ),
    "nan_under_mask": Flag(
        "edge",
        "NaN or inf under False in the mask. 0 * nan is nan: select first, never multiply by the mask.",
        "One NaN in the padding turns the whole update into NaN, and the model is lost.",
        ("https://github.com/volcengine/verl/pull/2377",),
        ("C60",),
    ),
    "empty_row": Flag(
        "edge",
        "A completion without any chosen token.",
        "0 / 0 gives NaN, or the row is counted and everything else is scaled down.",
        pitfalls=("C61", "R13"),
    ),
    "all_masked": Flag(
        "edge",
        "A batch without any chosen token: the loss is 0, with gradient 0.",
        "0 / 0 gives NaN, and the model is lost.",
        pitfalls=("C61", "R13"),
    ),
    "rows_equal_columns": Flag(
        "edge",
        "As many rows as columns, so that one number a row and one a column cannot be told apart by broadcasting.",
        "Advantages of other completions are silently used, in batches of this one shape only.",
        pitfalls=("C09",),
    ),
    "one_token": Flag("edge", "A single token.", "A dimension is squeezed away, or a deviation of one number is taken."),
    "far_log_ratio": Flag(
        "edge",
        "A log-ratio beyond 20 nats. Only that everything is finite, and the gradient's sign, are checked.",
        "exp overflows: a finite loss with a NaN gradient, which a check of the loss does not see.",
        ("https://github.com/OpenRLHF/OpenRLHF/issues/1293",),
        ("C27", "R04", "R05"),
    ),
}


def full(rows: int, columns: int) -> list[list[bool]]:
    return [[True] * columns for _ in range(rows)]


def hidden(x: list[list[Any]], mask: list[list[bool]], junk: Any) -> list[list[Any]]:
    """x with ``junk`` wherever the mask is False."""
    return [[v if m else junk for v, m in zip(row, marks, strict=True)] for row, marks in zip(x, mask, strict=True)]
