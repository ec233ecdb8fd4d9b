"""The cases that losses of a policy are tried on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...contract import Case, Inputs
from .common import INF, NAN, Marks, Numbers, full, hidden, plus

OLD = [[-1.5, -0.5, -2.0], [-1.75, -1.75, -1.25]]
MOVED = [[0.5, -0.5, 0.125], [1.25, -0.5, -0.0625]]  # above, below and inside the clip, in both rows
NEW = plus(OLD, MOVED)
REFERENCE = plus(NEW, [[0.5, -0.25, 0.75], [-1.0, 0.25, -0.125]])
GOOD_AND_BAD = [1.0, -0.75]
RAGGED = [[True, True, True], [True, False, False]]
GAPS = [[True, False, True], [False, True, True]]
EMPTY = [[True, True, False], [False, False, False]]

SQUARE_OLD = [[-1.0, -0.5, -2.0], [-0.75, -1.75, -1.25], [-0.25, -1.5, -0.5]]
SQUARE = plus(SQUARE_OLD, [[0.25, -0.5, 0.125], [0.5, -0.25, -0.0625], [-0.125, 0.75, -0.75]])
SQUARE_REFERENCE = plus(SQUARE, [[0.5, -0.25, 0.0], [-0.5, 0.25, 0.125], [0.25, -0.125, 0.5]])

LONG_OLD = [[-1.25, -0.5, -2.0, -0.75], [-1.0, -1.5, -0.25, -2.5], [-0.5, -1.75, -1.25, -1.0]]
LONG = plus(LONG_OLD, [[0.25, -0.125, 0.0, -0.5], [0.5, 0.0625, -0.375, 0.125], [-0.25, 0.125, 0.25, -0.0625]])
LONG_REFERENCE = plus(LONG, [[-0.25, 0.5, 0.125, 0.25], [0.25, -0.5, 0.0, 0.125], [0.375, -0.125, 0.25, 0.5]])
LONG_MASK = [[True, True, True, True], [True, True, False, False], [True, False, True, True]]


def case(
    comment: str,
    new: Numbers,
    old: Numbers,
    advantages: Sequence[float],
    mask: Marks,
    *flags: str,
    reference: Numbers | None = None,
    junk: tuple[float, float, float] | None = None,
    per_token: bool = False,
    **more: Any,
) -> Case:
    """One case; ``junk`` for what lies under the mask in the new, old and reference log-probs."""
    inputs: Inputs = {"log_probs": new, "old_log_probs": old, "mask": mask, "advantages": list(advantages)}
    if reference is not None:
        inputs["ref_log_probs"] = reference
    if per_token:
        inputs["advantages"] = [[a] * len(row) for a, row in zip(advantages, mask, strict=True)]
    if junk is not None:
        names = [k for k in ("log_probs", "old_log_probs", "ref_log_probs") if k in inputs]
        inputs |= {k: hidden(inputs[k], mask, j) for k, j in zip(names, junk, strict=False)}
        if per_token:
            inputs["advantages"] = hidden(inputs["advantages"], mask, junk[1])
    return Case(comment, inputs, flags, **more)


def usual(with_reference: bool, per_token: bool = False) -> tuple[Case, ...]:
    """What every loss of a policy is tried on."""

    def make(comment: str, new: Numbers, old: Numbers, reference: Numbers, *rest: Any, **more: Any) -> Case:
        return case(
            comment, new, old, *rest, reference=reference if with_reference else None, per_token=per_token, **more
        )

    two = (NEW, OLD, REFERENCE)
    square = (SQUARE, SQUARE_OLD, SQUARE_REFERENCE)
    sides, nan, far = "every_side_of_the_clip", "nan_under_mask", "far_log_ratio"
    cases = [
        make("a good and a bad row, ratios above, below and inside the clip", *two, GOOD_AND_BAD, full(2, 3), sides),
        make("the same ratios, the bad row first", *two, [-0.75, 0.5], full(2, 3), sides),
        make("on policy", OLD, OLD, REFERENCE, GOOD_AND_BAD, full(2, 3), "on_policy"),
        make(
            "three rows of unequal length", LONG, LONG_OLD, LONG_REFERENCE, [1.5, -0.5, -1.0], LONG_MASK, "ragged_mask"
        ),
        make("ragged, with junk", *two, [-1.0, 0.5], RAGGED, "ragged_mask", "junk_under_mask", junk=(-3.0, -1.0, -2.0)),
        make("gaps, with junk", *two, GOOD_AND_BAD, GAPS, "gaps_in_mask", "junk_under_mask", junk=(-0.5, -2.5, -4.0)),
        make("NaN under the mask", *two, GOOD_AND_BAD, GAPS, "gaps_in_mask", nan, junk=(NAN, NAN, NAN)),
        make("inf and NaN under the mask", *two, GOOD_AND_BAD, RAGGED, "ragged_mask", nan, junk=(INF, NAN, -INF)),
        make("an empty row", *two, GOOD_AND_BAD, EMPTY, "empty_row"),
        make("no chosen token at all", *two, GOOD_AND_BAD, [[False] * 3] * 2, "all_masked"),
        make("as many rows as columns", *square, [1.0, -0.5, 0.25], full(3, 3), "rows_equal_columns", sides),
        make("one token", [[-1.0]], [[-1.5]], [[-0.5]], [-0.5], full(1, 1), "one_token"),
    ]
    for gap in (25.0, 100.0, 1000.0):
        for a in (1.0, -1.0):
            comment = f"a log-ratio of {gap:g}, advantage {a:g}"
            new, old = [[-0.5, -1.0]], [[-0.5 - gap, -1.125]]
            cases.append(make(comment, new, old, new, [a], full(1, 2), far, result="acceptable", properties=True))
    if with_reference:
        near = [[-4.0, -1.0]]
        cases.append(
            make("3 nats below the reference", near, near, [[-1.0, -1.25]], [0.5], full(1, 2), "far_from_reference")
        )
        for gap in (25.0, 100.0, 1000.0):
            comment = f"{gap:g} nats below the reference"
            new = [[-1.0 - gap, -1.0]]
            cases.append(
                make(comment, new, new, [[-1.0, -1.25]], [0.5], full(1, 2), far, result="acceptable", properties=True)
            )
    return tuple(cases)


def few(with_reference: bool, per_token: bool = False) -> tuple[Case, ...]:
    """For other values of the settings."""
    kept = ("a good and a bad row", "the same ratios", "three rows", "on policy")
    return tuple(c for c in usual(with_reference, per_token) if c.comment.startswith(kept))


NEAR_CASES = tuple(c for c in usual(False) if "far_log_ratio" not in c.flags)  # smooth weights underflow far off
BETWEEN_THE_BOUNDS = case(
    "ratios between 1 + epsilon and 1 + epsilon_high, and below 1 - epsilon_high",
    plus(OLD, [[0.21875, 0.25, 0.125], [-0.25, -0.34375, 0.0625]]),
    OLD,
    GOOD_AND_BAD,
    full(2, 3),
    "every_side_of_the_clip",
)
BETWEEN_TOKENS = case(
    BETWEEN_THE_BOUNDS.comment,
    BETWEEN_THE_BOUNDS.inputs["log_probs"],
    OLD,
    GOOD_AND_BAD,
    full(2, 3),
    "every_side_of_the_clip",
    per_token=True,
)
