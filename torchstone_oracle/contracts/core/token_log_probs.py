"""token_log_probs: the log-prob of each target under the logits at its place."""

from __future__ import annotations

from typing import Any

from ...contract import Argument, Case, Group, Inputs, Objective
from ..shared.common import INF, Settings, Steps, bug
from ..shared.logits import (
    LOGITS,
    LOGITS_2,
    SCORE_ALTERNATIVES,
    SCORE_EDGES,
    SCORE_STEPS,
    TARGETS_2,
    TEMPERATURE,
    _scores,
    aligned,
    at_temperature,
)


def scored(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Column t of the logits scores column t of the targets."""
    rows = zip(at_temperature(inputs["logits"], settings, steps), inputs["targets"], strict=True)
    return {"log_probs": [_scores(steps["align"](z, y), settings, steps) for z, y in rows]}


def predictions(comment: str, logits: Any, targets: list[list[int]], *flags: str, **more: Any) -> Case:
    return Case(comment, {"logits": logits, "targets": targets}, flags, **more)


TOKEN_CASES = (
    predictions("two rows of three positions, three tokens", LOGITS_2, TARGETS_2),
    predictions("one row, four tokens", [[[1.0, 0.0, 0.0, -1.0], [0.5, 2.0, -3.0, 0.0]]], [[3, 1]]),
    predictions("equal logits: -log 4 everywhere", [[[0.5] * 4, [-8.0] * 4]], [[0, 3]]),
    predictions("tokens that cannot be chosen", [[[0.5, -INF, 2.0], [-INF, 1.0, -INF]]], [[0, 1]], "minus_inf_logits"),
    predictions(
        "logits of 96", [[[96.0, 95.0, 94.0], [-96.0, -97.0, -95.0]]], [[1, 0]], "extreme_logits"
    ),
    predictions("as many rows as positions and tokens", [x[:3] for x in [*LOGITS_2, LOGITS_2[0][::-1]]],
                [*TARGETS_2, [0, 1, 2]], "rows_equal_columns"),
    predictions("one position", [[[0.0, 1.0]]], [[0]], "one_token"),
    predictions("one position more than targets", LOGITS_2, [x[:2] for x in TARGETS_2], "length_mismatch",
                result="invalid"),
)  # fmt: skip
OBJECTIVE = Objective(
    name="token_log_probs",
    about="The log-probability of each target under the distribution that was sampled.",
    tags=("CORE.2",),
    source=("The definition of the softmax",),
    arguments={"logits": LOGITS, "targets": Argument("B T", "token ids, aligned with the logits", kind="int")},
    returns={"log_probs": Argument("B T", "nats")},
    settings={"temperature": TEMPERATURE},
    compute=scored,
    steps={"align": aligned, **SCORE_STEPS},
    alternatives=SCORE_ALTERNATIVES
    | {
        "shifted_twice": bug(
            "The targets are shifted once more: column t is scored with target t + 1, the last with the first.",
            "Every token is scored as if it stood one place earlier: log-probs of noise.",
            {"align": lambda logits, targets: aligned(logits, [*targets[1:], targets[0]])},
            pitfalls=("C54",),
        ),
        "one_late": bug(
            "Column t is scored with target t - 1, the first with the last.",
            "Every token is scored by the logits that have already seen it.",
            {"align": lambda logits, targets: aligned(logits, [targets[-1], *targets[:-1]])},
            pitfalls=("C54",),
        ),
    },
    edges=SCORE_EDGES,
    groups=(
        Group({"temperature": 1.0}, TOKEN_CASES),
        Group({"temperature": 0.5}, TOKEN_CASES[:2] + TOKEN_CASES[3:5]),
        Group({"temperature": 2.0}, TOKEN_CASES[1:2]),
    ),
)
