"""bco_reward_shift: half way between the rewards of good and of bad completions."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective
from ...core import Row
from ...numbers import Dual, dual, mean, total
from ..shared.common import Settings, Steps, bug, variant
from ..shared.pairs import PAIR_EDGES


def shift(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    return {"reward_shift": steps["shift"](inputs["rewards"], inputs["desirable"])}


def with_gradient(rewards: Row, desirable: list[bool]) -> Dual:
    kinds = [[r for r, up in zip(rewards, desirable, strict=True) if up == kind] for kind in (True, False)]
    return (mean(kinds[0]) + mean(kinds[1])) / 2


CASES = (
    Case("three good, one bad", {"rewards": [0.25, 0.5, 0.75, -0.5], "desirable": [True, True, True, False]}),
    Case("one good, four bad", {"rewards": [-1.0, 0.375, -0.75, 0.125, -2.0], "desirable": [i == 1 for i in range(5)]}),
    Case("two of each", {"rewards": [0.5, 1.25, -0.25, 2.0], "desirable": [False, True, True, False]}),
)  # fmt: skip
REWARDS = Argument("M", "reward units, of whole completions", gradient=True)

OBJECTIVE = Objective(
    "bco_reward_shift", "Half way between the rewards of good and of bad completions.", ("DPO.33",),
    ("arXiv:2404.04656, eq. 7",), {"rewards": REWARDS, "desirable": Argument("M", "True for a thumb up", kind="bool")},
    {"reward_shift": Argument("", "reward")}, {}, shift, {"shift": dpo.bco_reward_shift},
    {
        "pooled": variant("The mean over all completions.", "The commoner kind draws the shift to its side.",
                          {"shift": lambda r, up: dpo.bco_reward_shift(r, [True] * len(r)) * 2}),
        "sum_of_means": bug("The two means are added, not averaged.", "The shift is twice as far off.",
                            {"shift": lambda r, up: dpo.bco_reward_shift(r, up) * 2}),
        "half_the_difference": bug("The bad ones' mean is subtracted.", "A margin stands where a middle should.",
                                   {"shift": lambda r, up: dpo.bco_reward_shift(
                                       [x if u else -dual(x) for x, u in zip(r, up, strict=True)], up)}),
        "sum_over_completions": bug("Sums in place of means.", "The shift grows with the batch.",
                                    {"shift": lambda r, up: total(dual(x.value) for x in r) / 2}),
        "with_gradient": bug("The shift is not a constant.", "Its gradient takes half of what each reward is given.",
                             {"shift": with_gradient}),
    },
    PAIR_EDGES, (Group({}, CASES),),
)  # fmt: skip
