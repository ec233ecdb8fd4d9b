"""next_token_mask: the mask of the positions that predict the chosen tokens."""

from __future__ import annotations

from itertools import pairwise

from ... import core
from ...contract import Argument, Case, Group, Objective
from ..shared.common import EDGES, VERL, bug, marks

OBJECTIVE = Objective(
    name="next_token_mask",
    about="From 'this token was chosen' to 'this prediction counts': column t speaks of token t + 1.",
    tags=("CORE.1",),
    source=("The rule of torchstone/core/README.md: column t scores token t + 1",),
    arguments={"chosen": Argument("B S", "True at each token, prompt included, that the policy chose", kind="bool")},
    returns={"mask": Argument("B S-1", "True where the prediction counts", kind="bool")},
    settings={},
    compute=lambda inputs, settings, steps: {"mask": [steps["row"](row) for row in inputs["chosen"]]},
    steps={"row": core.next_token_mask},
    alternatives={
        "not_shifted": bug(
            "Column t speaks of token t: the last column is cut off instead of the first.",
            "The first chosen token is not trained, and the one after the last is.",
            {"row": lambda row: list(row[:-1])},
            pitfalls=("C54",),
            links=(f"{VERL}/pull/3287",),
        ),
        "first_token_lost": bug(
            "A prediction counts only where both the token and the one before it were chosen.",
            "The first token of every completion is never trained.",
            {"row": lambda row: [a and b for a, b in pairwise(row)]},
            pitfalls=("C54",),
            links=(f"{VERL}/pull/3287",),
        ),
        "one_more": bug(
            "A prediction counts where the token or the one before it was chosen.",
            "The token after each stretch is trained: padding, or the first of a tool's output.",
            {"row": lambda row: [a or b for a, b in pairwise(row)]},
            pitfalls=("C54",),
        ),
        "inverted": bug(
            "True and False are swapped.",
            "Prompt and padding are trained, and nothing else.",
            {"row": lambda row: [not m for m in row[1:]]},
            pitfalls=("C59",),
        ),
    },
    edges={k: EDGES[k] for k in ("gaps_in_mask", "rows_equal_columns", "one_token", "empty_row")},
    groups=(
        Group(
            {},
            (
                Case("a prompt of two, then three chosen", {"chosen": marks("00111")}),
                Case("prompt, completion, padding", {"chosen": marks("001110 011000")}),
                Case("tool output between two stretches", {"chosen": marks("011001 001011")}, ("gaps_in_mask",)),
                Case("no prompt: nothing predicts the first token", {"chosen": marks("1110")}),
                Case("a row without a chosen token", {"chosen": marks("0000 0110")}, ("empty_row",)),
                Case("three rows of four tokens", {"chosen": marks("0011 0110 0001")}, ("rows_equal_columns",)),
                Case("two tokens", {"chosen": marks("01 10")}, ("one_token",)),
            ),
        ),
    ),
)  # fmt: skip
