"""token_mean: every token of the batch weighs the same."""

from __future__ import annotations

from ..shared.common import TRL, bug
from ..shared.means import (
    NO_TOKENS,
    by_tokens,
    by_tokens_with_padding,
    divided_by_both,
    mean_objective,
    padding_summed,
    span,
)

OBJECTIVE = mean_objective(
    "token_mean",
    "CORE.5",
    "Every token weighs the same.",
    ("DAPO, arXiv:2503.14476v2, eq. 12",),
    by_tokens,
    {
        "padded_width": bug(
            "Divided by rows times columns, padding included.",
            "The loss falls with every column of padding.",
            {"denominator": lambda n, mask: len(mask) * len(mask[0]) if n is None else n},
            pitfalls=("C36",),
        ),
        "gaps_counted": bug(
            "The sum leaves gaps out, the denominator counts them.",
            "Answers with much tool output are scaled down.",
            {"denominator": lambda n, mask: sum(map(span, mask)) if n is None else n},
            pitfalls=("C06",),
            links=(f"{TRL}/pull/6439",),
        ),
        "padding_summed": padding_summed(by_tokens_with_padding),
        "divided_by_both": divided_by_both(lambda mask: sum(map(sum, mask))),
        "zero_by_zero": NO_TOKENS,
    },
    split=(6, 16),
)
