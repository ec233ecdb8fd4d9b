"""explained_variance: the share of the returns' variance that the critic predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Step
from ...numbers import Dual, dual, mean, stop
from ..shared import policy_cases
from ..shared.common import EDGES, MASK, NAN, Marks, Matrix, Settings, entries, full, hidden


def explained(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    values, returns = (steps["select"](inputs[k], inputs["mask"]) for k in ("values", "returns"))
    return {"explained_variance": stop(steps["share"](values, returns))}


def flat_entries(x: Matrix, marks: Marks) -> list[Dual]:
    return [v for row in entries(x, marks) for v in row]


def everything(x: Matrix, marks: Marks) -> list[Dual]:
    return [v for row in x for v in row]


def mean_square(xs: Sequence[Dual]) -> Dual:
    return mean([x * x for x in xs])


def difference(a: Sequence[Dual], b: Sequence[Dual]) -> list[Dual]:
    return [x - y for x, y in zip(a, b, strict=True)]


def uncentred(values: Sequence[Dual], returns: Sequence[Dual]) -> Dual:
    if ppo.variance(returns).same(0):
        return dual(0)
    return 1 - mean_square(difference(returns, values)) / ppo.variance(returns)


V = [[0.5, 0.25, 0.75], [-0.25, 0.5, -0.5]]
R = [[1.0, 0.25, 1.25], [-0.5, 0.0, -1.0]]


def variance_case(comment: str, values: Any, returns: Any, mask: Marks, *flags: str, junk: Any = None) -> Case:
    if junk is not None:
        values, returns = hidden(values, mask, junk), hidden(returns, mask, -junk)
    return Case(comment, {"values": values, "returns": returns, "mask": mask}, flags)


OBJECTIVE = Objective(
    name="explained_variance",
    about="How much of the returns' variance the critic predicts: 1 is all, 0 no better than a constant.",
    tags=("PPO.6",),
    source=("1 - Var[R - V] / Var[R], as in OpenAI's baselines",),
    arguments={"values": Argument("B T", "reward"), "returns": Argument("B T", "reward"), "mask": MASK},
    returns={"explained_variance": Argument("", "none")},
    settings={},
    compute=explained,
    steps={"select": flat_entries, "share": ppo.explained_variance},
    alternatives={
        "unmasked": Alternative(
            Flag("bug", "Padding is counted.", "The number depends on how much padding there is.", (), ("C36",)),
            {"select": everything},
        ),
        "unexplained": Alternative(
            Flag("bug", "Var[R - V] / Var[R]: not taken from 1.", "A perfect critic is reported as 0."),
            {"share": lambda v, r: ppo.variance(difference(r, v)) / ppo.variance(r)},
        ),
        "swapped": Alternative(
            Flag("bug", "Divided by the variance of the values.", "A constant critic looks infinitely bad."),
            {"share": lambda v, r: dual(0) if ppo.variance(v).same(0) else ppo.explained_variance(r, v)},
        ),
        "uncentred": Alternative(
            Flag("variant", "1 - mean square error / Var[R] (R squared).", "A constant offset of the critic counts."),
            {"share": uncentred},
        ),
        "zero_over_zero": Alternative(
            Flag("bug", "Returns that do not vary are divided by.", "NaN in the logs.", (), ("C61",)),
            {"share": lambda v, r: 1 - ppo.variance(difference(r, v)) / ppo.variance(r)},
        ),
    },
    edges={
        **EDGES,
        "equal_returns": Flag("edge", "Returns that do not vary: 0.", "0 / 0 is NaN."),
    },
    groups=(
        Group(
            {},
            (
                variance_case("two rows, all chosen", V, R, full(2, 3)),
                variance_case("a perfect critic", R, R, full(2, 3)),
                variance_case("off by a constant", [[x + 0.5 for x in row] for row in R], R, full(2, 3)),
                variance_case("a critic that is worse than none", [[-x for x in row] for row in R], R, full(2, 3)),
                variance_case(
                    "ragged, with junk", V, R, policy_cases.RAGGED, "ragged_mask", "junk_under_mask", junk=4.0
                ),
                variance_case(
                    "NaN under the mask", V, R, policy_cases.GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN
                ),
                variance_case("returns that do not vary", V, [[0.5] * 3] * 2, full(2, 3), "equal_returns"),
                variance_case("no chosen token at all", V, R, [[False] * 3] * 2, "all_masked"),
            ),
        ),
    ),
)
