"""reinforce_surrogate: minus log pi times the advantage, for each token."""

from __future__ import annotations

from typing import Any

from ... import reinforce
from ...contract import Alternative, Argument, Case, Group, Inputs, Objective
from ...core import Mask
from ...numbers import absolute, dual, exp, maximum, stop
from ..shared.common import (
    EDGES,
    INF,
    LOG_PROBS,
    MASK,
    NAN,
    WILLIAMS,
    Settings,
    Steps,
    bug,
    full,
    hidden,
    marks,
    variant,
)


def at(x: Any, b: int, t: int, rows: int = 0) -> Any:
    """Entry (b, t) of a number, of one number a sequence, or of one a token."""
    if not isinstance(x, list):
        return x
    return x[b][t] if isinstance(x[b], list) else x[b]


def along_columns(x: Any, b: int, t: int, rows: int = 0) -> Any:
    """The same, but where B = T one number a sequence [B] is laid along the columns: entry t."""
    if isinstance(x, list) and not isinstance(x[b], list):
        return x[t] if rows == len(x) else x[b]
    return at(x, b, t)


def per_chosen(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """-A log pi at each chosen token; anything elsewhere."""
    log_probs, mask = inputs["log_probs"], inputs["mask"]
    width = len(mask[0])
    return {
        "loss": [
            [
                steps["surrogate"](log_probs[b][t], steps["spread"](inputs["advantages"], b, t, width)) if m else None
                for t, m in enumerate(row)
            ]
            for b, row in enumerate(mask)
        ]
    }


SURROGATES: dict[str, Alternative] = {
    "sign_flipped": bug(
        "The minus sign is missing.",
        "The optimiser minimises: good completions are made less likely.",
        {"surrogate": lambda p, a: stop(a) * p},
        pitfalls=("C29",),
    ),
    "probability": bug(
        "-A pi instead of -A log pi.",
        "Unlikely tokens, which exploration needs, have hardly any gradient.",
        {"surrogate": lambda p, a: -stop(a) * exp(p)},
    ),
    "ratio": variant(
        "-A exp(log pi - its own value): the ratio at 1.",
        "The same gradient; the value is -A, which is what PPO code reports on policy.",
        {"surrogate": lambda p, a: -stop(a) * exp(p - stop(p))},
        pitfalls=("C15",),
    ),
    "no_advantage": bug(
        "-log pi: the advantage is missing.",
        "Every sample is imitated, good or bad.",
        {"surrogate": lambda p, a: -dual(p)},
        pitfalls=("C29",),
    ),
    "absolute_advantage": bug(
        "-|A| log pi.",
        "Bad completions are reinforced like good ones.",
        {"surrogate": lambda p, a: -absolute(stop(a)) * p},
    ),
    "only_good": bug(
        "-max(A, 0) log pi.",
        "Bad completions are not punished.",
        {"surrogate": lambda p, a: -maximum(stop(a), 0) * p},
    ),
    "detached": bug(
        "No gradient flows through the log-probs.",
        "Nothing is trained.",
        {"surrogate": lambda p, a: -stop(a) * stop(p)},
    ),
}
WRONG_AXIS = bug(
    "One advantage a sequence is laid along the columns instead of the rows, where B = T lets it.",
    "Tokens get the advantage of another completion, in batches of this one shape only.",
    {"spread": along_columns},
    pitfalls=("C09",),
)

P = [[-0.5, -1.25, -2.0], [-0.25, -3.0, -0.75]]
A = [[1.0, -0.5, 2.0], [-1.0, 0.25, 3.0]]
P_3 = [*P, [-1.5, -0.125, -1.0]]
A_3 = [*A, [0.5, -2.0, 1.5]]
P_RAGGED = marks("111 100")
P_GAPS = marks("101 011")
WEIGHED = Argument("B", "reward units, or 1 if normalised; [B] one a sequence, or [B T] one a token; a constant")


def weighed(comment: str, log_probs: Any, advantages: Any, mask: Mask, *flags: str) -> Case:
    return Case(comment, {"log_probs": log_probs, "advantages": advantages, "mask": mask}, flags)


OBJECTIVE = Objective(
    name="reinforce_surrogate",
    about="-A log pi at each chosen token: the loss whose gradient is the policy gradient.",
    tags=("REINFORCE.2", "REINFORCE.3"),
    source=(f"{WILLIAMS}, theorem 1",),
    arguments={"log_probs": LOG_PROBS, "advantages": WEIGHED, "mask": MASK},
    returns={"loss": Argument("B T", "unit of the advantages x nats")},
    settings={},
    compute=per_chosen,
    steps={"surrogate": reinforce.reinforce_surrogate, "spread": at},
    alternatives={**SURROGATES, "wrong_axis": WRONG_AXIS},
    edges=EDGES,
    groups=(
        Group(
            {},
            (
                weighed("an advantage a token, all chosen", P, A, full(2, 3)),
                weighed("an advantage a sequence, all chosen", P, [2.0, -1.5], full(2, 3)),
                weighed("ragged", P, A, P_RAGGED, "ragged_mask"),
                weighed("gaps, an advantage a sequence", P, [2.0, -1.5], P_GAPS, "gaps_in_mask"),
                weighed("64 in the gaps", hidden(P, P_GAPS, 64.0), hidden(A, P_GAPS, -64.0), P_GAPS, "gaps_in_mask",
                        "junk_under_mask"),
                weighed("NaN and -inf in the gaps", hidden(P, P_GAPS, -INF), hidden(A, P_GAPS, NAN), P_GAPS,
                        "gaps_in_mask", "nan_under_mask"),
                weighed("a row without a token", P, [NAN, 2.0], marks("000 110"), "empty_row", "nan_under_mask"),
                weighed("no token at all", P, A, marks("000 000"), "all_masked"),
                weighed("three rows of three, an advantage a sequence", P_3, [2.0, -1.5, 0.5], full(3, 3),
                        "rows_equal_columns"),
                weighed("three rows of three, an advantage a token", P_3, A_3, full(3, 3), "rows_equal_columns"),
                weighed("one token", [[-0.5]], [-3.0], [[True]], "one_token"),
                weighed("advantages of 0", P, [0.0, 0.0], full(2, 3)),
                weighed("a token of log-probability -1000", [[-1000.0, -0.5]], [[2.0, 1.0]], full(1, 2)),
            ),
        ),
    ),
)  # fmt: skip
