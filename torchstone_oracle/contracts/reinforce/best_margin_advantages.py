"""best_margin_advantages: leave-one-out of the group's best reward."""

from __future__ import annotations

from typing import Any

from ... import core, reinforce
from ...contract import Flag, Group, Setting
from ...numbers import Dual, dual, stop
from ..shared.common import VERL_0_9_1, Row, Settings, bug, variant
from ..shared.groups import LEAVE_ONE_OUT, WRONG_ORDER, group_cases, group_objective, groups_of


def asked(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    return reinforce.best_margin_advantages(rewards, settings["divide_by_std"], settings["correction"], settings["eps"])


def scaled(margins: Row, rewards: Row, settings: Settings) -> list[Dual]:
    spread = reinforce.deviation(rewards, settings["correction"]) + dual(settings["eps"])
    return [core.divided(m, spread) for m in margins] if settings["divide_by_std"] else list(margins)


def always(divide: bool) -> dict[str, Any]:
    return {"group": lambda rewards, every, settings: asked(rewards, every, {**settings, "divide_by_std": divide})}


def over_the_mean(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    best = reinforce.largest(rewards) if rewards else dual(0)
    margins = [a if r.same(best) else Dual(0) for r, a in zip(rewards, reinforce.centred(rewards), strict=True)]
    return scaled(margins, rewards, settings)


def less_the_best(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    """r_i - max r: what a sample lacks, not what it adds."""
    return scaled([stop(r - reinforce.largest(rewards)) for r in rewards], rewards, settings)


CASES = (
    *group_cases(),
    groups_of("one that is best, by different margins", [[1.0, 0.25, 0.0], [-5.0, -1.0, -4.0]]),
    groups_of("two that are equally good", [[2.0, 3.0, 3.0], [1.0, 1.0, 0.0]], "two_best"),
)
FEW = (CASES[0], CASES[3], *CASES[-2:])

OBJECTIVE = group_objective(
    "best_margin_advantages",
    "REINFORCE.15",
    "What the group's best reward would lose without a sample: leave-one-out for the best.",
    ("Tang et al., arXiv:2503.19595, by accounts", VERL_0_9_1),
    asked,
    {
        "never_divided": variant(
            "The margin, whatever is asked (the paper).", "Groups weigh by their margins.", always(False),
            links=("https://arxiv.org/abs/2503.19595",),
        ),
        "always_divided": variant(
            "By the group's deviation, whatever is asked.", "Small margins weigh like large ones.", always(True),
            links=(VERL_0_9_1,),
        ),
        "leave_one_out": variant("Leave-one-out for the mean (RLOO).", "Every sample is pushed.", LEAVE_ONE_OUT),
        "over_the_mean": bug(
            "The best over the group's mean, not over the second.",
            "Two equally good samples are both raised, though neither was needed.",
            {"group": over_the_mean},
        ),
        "less_the_best": bug(
            "The reward less the group's best.",
            "All but the best are pushed down, and the best is left alone.",
            {"group": less_the_best},
        ),
        "wrong_order": WRONG_ORDER,
    },
    CASES,
    edges={"two_best": Flag("edge", "Two samples are equally good.", "One of them is raised by chance.")},
    settings={
        "divide_by_std": Setting("True: verl's default; False: the paper", (True, False), free=True),
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to the deviation", (1e-6, 1e-4, 0.0), free=True),
    },
    first={"divide_by_std": True, "correction": 1, "eps": 1e-4},
    groups=(
        Group({"divide_by_std": False, "correction": 1, "eps": 1e-4}, FEW),
        Group({"divide_by_std": True, "correction": 0, "eps": 1e-6}, FEW),
    ),
)  # fmt: skip
