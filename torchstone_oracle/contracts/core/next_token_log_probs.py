"""next_token_log_probs: the log-probs of a sequence's own tokens, read one position earlier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...contract import Argument, Case, Group, Inputs, Objective
from ...numbers import dual
from ..shared.common import INF, VERL, Settings, Steps, bug
from ..shared.logits import (
    LOGITS,
    LOGITS_2,
    SCORE_ALTERNATIVES,
    SCORE_EDGES,
    SCORE_STEPS,
    TARGETS_2,
    TEMPERATURE,
    WRONG_DIMENSION,
    Ids,
    _scores,
    aligned,
    at_temperature,
    over_positions,
)


def next_scored(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Column t of the logits scores token t + 1."""
    rows = zip(at_temperature(inputs["logits"], settings, steps), inputs["tokens"], strict=True)
    return {"log_probs": [_scores(steps["align"](z, y), settings, steps) for z, y in rows]}


def next_aligned(logits: Sequence[Any], tokens: Ids) -> list[tuple[Any, int]]:
    return list(zip(logits[:-1], tokens[1:], strict=True))


def sequences(comment: str, logits: Any, tokens: list[list[int]], *flags: str, **more: Any) -> Case:
    return Case(comment, {"logits": logits, "tokens": tokens}, flags, **more)


NEXT_CASES = (
    sequences("two rows of three tokens", LOGITS_2, TARGETS_2),
    sequences("one row of four", [[*LOGITS_2[0], [4.0, 0.0, -4.0]]], [[1, 2, 0, 1]]),
    sequences("what the last position says is not used", [[[0.5, 1.0], [-1.0, 0.0], [9.0, -9.0]]], [[0, 1, 1]]),
    sequences(
        "tokens that cannot be chosen",
        [[[0.5, -INF, 2.0], [-INF, 1.0, -INF], [0.0, 1.0, 0.5]]], [[2, 0, 1]], "minus_inf_logits",
    ),
    sequences(
        "logits of 96",
        [[[96.0, 95.0, 94.0], [-96.0, -97.0, -95.0], [0.0, 0.0, 0.0]]], [[0, 1, 0]], "extreme_logits",
    ),
    sequences(
        "as many rows as tokens", [*LOGITS_2, LOGITS_2[0][::-1]], [*TARGETS_2, [0, 1, 2]], "rows_equal_columns"
    ),
    sequences("two tokens", [[[0.0, 1.0], [0.5, 0.25]]], [[1, 0]], "one_token"),
    sequences("a position less than tokens", [x[:2] for x in LOGITS_2], TARGETS_2, "length_mismatch",
              result="invalid"),
)  # fmt: skip


def normalised_before_the_cut(logits: Sequence[Any], tokens: Ids) -> list[tuple[Any, int]]:
    return next_aligned(over_positions(logits), tokens)


OBJECTIVE = Objective(
    name="next_token_log_probs",
    about="The log-probability of each token given those before it: column t scores token t + 1.",
    tags=("CORE.1", "CORE.2"),
    source=("The chain rule of probability, read from left to right",),
    arguments={
        "logits": Argument("B S V", LOGITS.unit, gradient=True),
        "tokens": Argument("B S", "token ids", kind="int"),
    },
    returns={"log_probs": Argument("B S-1", "nats")},
    settings={"temperature": TEMPERATURE},
    compute=next_scored,
    steps={"align": next_aligned, **SCORE_STEPS},
    alternatives=SCORE_ALTERNATIVES
    | {
        "softmax_over_all_positions": bug(
            *WRONG_DIMENSION, {"align": normalised_before_the_cut, "score": lambda logits, y: dual(logits[y])}
        ),
        "not_shifted": bug(
            "Column t scores token t: the last column was cut off both.",
            "The model is asked for the token that it has just read.",
            {"align": lambda logits, tokens: aligned(logits[:-1], tokens[:-1])},
            pitfalls=("C54",),
            links=(f"{VERL}/pull/3287", "https://github.com/EleutherAI/gpt-neox/issues/1285"),
        ),
        "not_shifted_first_cut": bug(
            "Token t + 1 is scored at position t + 1: the first column was cut off both.",
            "The model is asked for the token that it has just read.",
            {"align": lambda logits, tokens: aligned(logits[1:], tokens[1:])},
            pitfalls=("C54",),
        ),
        "shifted_backwards": bug(
            "Token t is scored at position t + 1.",
            "The model is asked for what came before: the shift went the wrong way.",
            {"align": lambda logits, tokens: aligned(logits[1:], tokens[:-1])},
            pitfalls=("C54",),
        ),
    },
    edges=SCORE_EDGES,
    groups=(
        Group({"temperature": 1.0}, NEXT_CASES),
        Group({"temperature": 0.5}, NEXT_CASES[:2] + NEXT_CASES[3:5]),
        Group({"temperature": 2.0}, NEXT_CASES[1:2]),
    ),
)  # fmt: skip
