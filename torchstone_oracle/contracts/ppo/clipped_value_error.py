"""clipped_value_error: half the squared error of the critic, clipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, absolute, clip, dual, maximum, minimum, stop
from ..shared import policy_cases
from ..shared.common import EDGES, MASK, NAN, TORCHRL_0_14_1, Marks, Settings, full, hidden
from .clipped_surrogate import MASK_MULTIPLIED


def value_errors(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    old = inputs.get("old_values") or [[None] * len(row) for row in inputs["mask"]]
    rows = zip(inputs["values"], old, inputs["returns"], inputs["mask"], strict=True)
    return {
        "losses": [
            [steps["select"](steps["error"](v, o, r, settings["epsilon"]), m) for v, o, r, m in zip(*row, strict=True)]
            for row in rows
        ]
    }


def near(v: Dual, o: Dual | None, epsilon: float | None) -> Dual:
    """The value held near the old one."""
    if o is None or epsilon is None:
        return v
    return stop(o) + clip(v - stop(o), -dual(epsilon), dual(epsilon))


def towards(v: Dual, o: Dual | None, epsilon: float | None) -> Dual:
    """The value moved towards the old one, by at most epsilon."""
    if o is None or epsilon is None:
        return v
    return v + clip(stop(o) - v, -dual(epsilon), dual(epsilon))


def square(x: Dual) -> Dual:
    return x * x


VALUE_ERRORS = {
    "minimum_of_both": Alternative(
        Flag("bug", "The smaller of both errors.", "A critic that has moved far has no gradient back to its target."),
        {"error": lambda v, o, r, e: minimum(square(v - r), square(near(v, o, e) - r)) / 2},
    ),
    "clipped_only": Alternative(
        Flag("bug", "Only the clipped error.", "A critic that has moved far has no gradient at all."),
        {"error": lambda v, o, r, e: square(near(v, o, e) - r) / 2},
    ),
    "mean_of_both": Alternative(
        Flag("bug", "The mean of both errors, not the larger one.", "The clip holds the critic back by half."),
        {"error": lambda v, o, r, e: (square(v - r) + square(near(v, o, e) - r)) / 4},
    ),
    "sum_of_both": Alternative(
        Flag("bug", "The sum of both errors, not the larger one.", "Inside the clip every error counts twice."),
        {"error": lambda v, o, r, e: (square(v - r) + square(near(v, o, e) - r)) / 2},
    ),
    "no_half": Alternative(
        Flag(
            "variant",
            "Without the factor 1/2 (PPO's eq. 9).",
            "The critic's coefficient means twice as much.",
            ("https://arxiv.org/abs/1707.06347",),
        ),
        {"error": lambda v, o, r, e: maximum(square(v - r), square(near(v, o, e) - r))},
    ),
    "not_clipped": Alternative(
        Flag("variant", "The plain squared error.", "The critic may move as far as one batch takes it."),
        {"error": lambda v, o, r, e: square(v - r) / 2},
    ),
    "relative_clip": Alternative(
        Flag("bug", "The clip is a share of the old value, not a distance.", "Values near 0 can hardly move."),
        {
            "error": lambda v, o, r, e: (
                maximum(square(v - r), square(near(v, o, None if e is None or o is None else absolute(o) * e) - r)) / 2
            )
        },
    ),
    "absolute_error": Alternative(
        Flag("bug", "The absolute error in place of the squared one.", "Small errors pull as hard as large ones."),
        {"error": lambda v, o, r, e: maximum(absolute(v - r), absolute(near(v, o, e) - r)) / 2},
    ),
    "smooth_l1": Alternative(
        Flag(
            "variant",
            "Smooth L1 in place of the square, without a clip (torchrl 0.14.1).",
            "Errors above 1 pull with constant force.",
            (TORCHRL_0_14_1,),
        ),
        {"error": lambda v, o, r, e: square(v - r) / 2 if absolute(v - r) < 1 else absolute(v - r) - dual("0.5")},
    ),
    "around_the_return": Alternative(
        Flag(
            "bug",
            "Return and old value are exchanged in the clip: the value is held near the return.",
            "The clip bounds nothing, and where it acts the target is the old value.",
            pitfalls=("C50",),
        ),
        {"error": lambda v, o, r, e: maximum(square(v - r), square(near(v, r, e) - (v if o is None else stop(o)))) / 2},
    ),
    "around_the_new_value": Alternative(
        Flag(
            "bug",
            "The clip is around the new value: it is moved towards the old one by at most epsilon.",
            "The further the critic has moved, the less the clip holds it.",
            pitfalls=("C50",),
        ),
        {"error": lambda v, o, r, e: maximum(square(v - r), square(towards(v, o, e) - r)) / 2},
    ),
    "larger_of_the_signed_errors": Alternative(
        Flag(
            "bug",
            "The larger error is chosen before the square, by its sign: of two errors below 0 the one nearer to 0.",
            "Where the critic is too low, the more hopeful of the two errors is taken.",
            pitfalls=("C50",),
        ),
        {"error": lambda v, o, r, e: square(maximum(v - r, near(v, o, e) - r)) / 2},
    ),
    "old_value_as_target": Alternative(
        Flag("bug", "The target is the old value.", "The critic learns to stay where it was.", pitfalls=("C50",)),
        {"error": lambda v, o, r, e: square(v - (stop(o) if o is not None else v)) / 2},
    ),
}
VALUES = [[0.5, 1.5, -0.25], [-1.0, 0.75, 2.0]]
OLD_VALUES = [[0.25, 0.5, -0.125], [-0.5, 1.5, 1.875]]
RETURNS = [[1.0, 0.25, -0.5], [0.25, 2.0, 0.5]]


def value_case(comment: str, mask: Marks, *flags: str, junk: Any = None, old: bool = True) -> Case:
    inputs: Inputs = {"values": VALUES, "returns": RETURNS, "mask": mask}
    if old:
        inputs["old_values"] = OLD_VALUES
    if junk is not None:
        inputs |= {k: hidden(inputs[k], mask, junk) for k in inputs if k != "mask"}
    return Case(comment, inputs, flags)


VALUE_CASES = (
    value_case("moved towards the target and away from it, far and near", full(2, 3)),
    value_case("ragged, with junk", policy_cases.RAGGED, "ragged_mask", "junk_under_mask", junk=8.0),
    value_case("NaN under the mask", policy_cases.GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    value_case("an empty row", [[True, True, False], [False] * 3], "empty_row"),
    value_case("no chosen token at all", [[False] * 3] * 2, "all_masked"),
    Case(
        "the critic has not moved",
        {"values": OLD_VALUES, "old_values": OLD_VALUES, "returns": RETURNS, "mask": full(2, 3)},
    ),
    Case(
        "near the return and far from the old value, and the reverse",
        {
            "values": [[0.9375, 0.125], [0.25, -0.5]],
            "old_values": [[0.0, 0.0], [1.0, -0.375]],
            "returns": [[1.0, 1.0], [0.125, 0.5]],
            "mask": full(2, 2),
        },
    ),
    Case(
        "one token", {"values": [[1.0]], "old_values": [[0.5]], "returns": [[0.25]], "mask": [[True]]}, ("one_token",)
    ),
)
OBJECTIVE = Objective(
    name="clipped_value_error",
    about="Half the squared error of the critic, optionally clipped around its old prediction.",
    tags=("PPO.10",),
    source=(
        "Schulman et al., PPO, arXiv:1707.06347v2, eq. 9 (which has no half and no clip)",
        "the clip: OpenAI's baselines (Huang et al., The 37 Implementation Details of PPO, 2022, detail 9)",
    ),
    arguments={
        "values": Argument("B T", "reward", gradient=True),
        "old_values": Argument("B T", "reward"),
        "returns": Argument("B T", "reward"),
        "mask": MASK,
    },
    returns={"losses": Argument("B T", "reward squared")},
    settings={
        "epsilon": Setting("how far the value may move from the old one; None: no clip", (0.2, 0.5, None), free=True)
    },
    compute=value_errors,
    steps={"error": ppo.clipped_value_error, "select": lambda x, m: x if m else None},
    alternatives={**VALUE_ERRORS, "mask_multiplied": MASK_MULTIPLIED},
    edges=EDGES,
    groups=(
        Group({"epsilon": 0.2}, VALUE_CASES),
        Group({"epsilon": 0.5}, VALUE_CASES[:2]),
        Group(
            {"epsilon": None},
            (
                value_case("all chosen", full(2, 3), old=False),
                value_case("ragged", policy_cases.RAGGED, "ragged_mask", old=False),
            ),
        ),
    ),
)
