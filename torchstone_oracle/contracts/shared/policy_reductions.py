"""What goes wrong in a loss of a policy: from tokens to one number."""

from __future__ import annotations

from ... import core
from ...contract import Alternative, Flag
from ...numbers import Dual, dual, mean, total
from . import policy
from .common import OPEN_INSTRUCT, TRL, TRL_1_16_0, VERL, Marks, Matrix, Settings, entries


def token_mean(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.token_mean(x, marks)


def sequence_mean(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.sequence_mean(x, marks)


def sequence_sum(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.sequence_sum(x, marks)


def plain_sum(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return total(v for row in entries(x, marks) for v in row)


def padded_width(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Sum over B T: the padding is not summed, but counted."""
    return plain_sum(x, marks, settings) / (len(x) * len(x[0]))


def width_only(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Sum over T, with no 1 / B."""
    return plain_sum(x, marks, settings) / len(x[0])


def unmasked_mean(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Mean over every entry, whatever it is."""
    return mean([v for row in x for v in row])


def mask_multiplied(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The right reduction of x * mask, where 0 * nan is nan."""
    product = [[v * int(m) for v, m in zip(row, on, strict=True)] for row, on in zip(x, marks, strict=True)]
    masked = [[v for v, m in zip(row, on, strict=True) if not m] for row, on in zip(product, marks, strict=True)]
    return policy.as_asked(product, marks, settings) + total(v for row in masked for v in row)


def zero_over_zero(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The count of an empty row, or batch, is divided by."""
    rows = entries(x, marks)
    if settings["reduce"] == "sequence_mean":
        return total(total(row) / dual(len(row)) for row in rows) / len(rows)
    count = sum(len(row) for row in rows) if settings["reduce"] == "token_mean" else sum(1 for row in rows if row)
    return policy.as_asked(x, marks, settings) if count else dual(0) / dual(0)


def empty_rows_counted(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Means over rows divide by B, a row without a chosen token among them."""
    kept = sum(1 for row in marks if any(row))
    return policy.as_asked(x, marks, settings) * kept / len(marks)


def row_loss_times_length(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """One loss a row, put back on each of its tokens, then averaged: a row of L tokens counts L times too often."""
    return total(total(row) * len(row) for row in entries(x, marks)) / max(1, sum(len(r) for r in entries(x, marks)))


EMPTY_ROWS_AT_1 = Alternative(
    Flag(
        "variant",
        "A row without a chosen token counts in the mean over rows, with a ratio of 1.",
        "Every other completion is scaled down when one is filtered out, and its advantage stays in the loss.",
        (TRL_1_16_0,),
        ("C61",),
    ),
    {"reduce": unmasked_mean},
)
TOKEN_MEAN = Flag(
    "variant",
    "Every token of the batch weighs the same (DAPO).",
    "Long completions have more say than under a mean of row means.",
    ("https://arxiv.org/abs/2503.14476", f"{TRL}/pull/2881"),
    ("C01",),
)
SEQUENCE_MEAN = Flag(
    "variant",
    "Mean in each row, then over rows (GRPO as published).",
    "A token of a long completion weighs less: long wrong answers are punished less per token.",
    ("https://arxiv.org/abs/2402.03300", "https://arxiv.org/abs/2503.20783"),
    ("C01", "C10"),
)
SEQUENCE_SUM = Flag(
    "variant",
    "Sum in each row, then mean over rows.",
    "The loss grows with the length, and with it the step: the learning rate means something else.",
    ("https://arxiv.org/abs/2503.20783", "https://arxiv.org/abs/2602.05261"),
    ("C07",),
)
VARIANTS = {
    "token_mean": Alternative(TOKEN_MEAN, {"reduce": token_mean}),
    "sequence_mean": Alternative(SEQUENCE_MEAN, {"reduce": sequence_mean}),
    "sequence_sum": Alternative(SEQUENCE_SUM, {"reduce": sequence_sum}),
}
BUGS = {
    "padded_width": Alternative(
        Flag(
            "bug",
            "Divided by rows x columns of the padded batch: padding is not summed, but counted.",
            "The step depends on the longest completion that happens to be in the batch.",
            (f"{TRL}/pull/6439", f"{TRL}/issues/6369"),
            ("C06", "C08"),
        ),
        {"reduce": padded_width},
    ),
    "width_only": Alternative(
        Flag(
            "bug",
            "Divided by the padded width, and not by the number of rows.",
            "Twice the batch is twice the step; micro-batches change the gradient.",
            (f"{VERL}/pull/4510", f"{VERL}/pull/4769", f"{TRL}/issues/3138"),
            ("C08", "R07"),
        ),
        {"reduce": width_only},
    ),
    "unmasked_mean": Alternative(
        Flag(
            "bug",
            "The mean is taken over all entries, padding and tool output included.",
            "The policy is trained on tokens that it never chose.",
            pitfalls=("C36", "C58"),
        ),
        {"reduce": unmasked_mean},
    ),
    "mask_multiplied": Alternative(
        Flag(
            "bug",
            "What is masked is multiplied by 0, not left out.",
            "One NaN or inf in the padding turns the whole update into NaN.",
            (f"{VERL}/pull/2377",),
            ("C60",),
        ),
        {"reduce": mask_multiplied},
    ),
    "zero_over_zero": Alternative(
        Flag(
            "bug",
            "A count of no tokens is divided by.",
            "A completion, or a batch, without a chosen token turns the whole update into NaN.",
            (f"{VERL}/pull/782", f"{OPEN_INSTRUCT}/pull/1685"),
            ("C61", "R13"),
        ),
        {"reduce": zero_over_zero},
    ),
    "empty_rows_counted": Alternative(
        Flag(
            "variant",
            "A row without a chosen token counts in the mean over rows.",
            "Every other completion is scaled down when one is filtered out.",
            (TRL_1_16_0,),
            ("C61",),
        ),
        {"reduce": empty_rows_counted},
    ),
    "row_loss_times_length": Alternative(
        Flag(
            "bug",
            "One loss per sequence is spread over its tokens and multiplied by the mask once more.",
            "A completion of L tokens counts L times too often, its gradient L^2 times.",
            (f"{TRL}/issues/3823", f"{TRL}/issues/6654", "https://github.com/unslothai/unsloth-zoo/issues/1282"),
            ("C09", "C25"),
        ),
        {"reduce": row_loss_times_length},
    ),
}
