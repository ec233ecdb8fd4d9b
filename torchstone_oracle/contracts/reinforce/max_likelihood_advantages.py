"""max_likelihood_advantages: centred rewards over their mean (MaxRL)."""

from __future__ import annotations

from typing import Any

from ... import core, reinforce
from ...contract import Case, Flag, Group, Setting
from ...numbers import Dual, mean
from ..shared.common import NAN, Row, Settings, bug, full, hidden, marks, variant
from ..shared.groups import (
    BATCH_MEAN,
    GROUP_MEAN,
    LEAVE_ONE_OUT,
    WITHOUT_NAN,
    WRONG_ORDER,
    deviation,
    group_objective,
    groups_of,
)


def by_siblings_mean(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    """(r_i - b_i) / b_i, b the siblings' mean"""
    found = reinforce.leave_one_out_advantages(rewards)
    means = [mean(reinforce.siblings(rewards, i)) for i in range(len(rewards))]
    return [core.divided(a, b) for a, b in zip(found, means, strict=True)]


def hopeless_pushed_away(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    if rewards and mean(rewards).same(0):
        return [Dual(-1) for _ in rewards]
    return reinforce.max_likelihood_advantages(rewards, settings["eps"])


def by_failures(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    return [core.divided(a, 1 - mean(rewards)) for a in reinforce.centred(rewards)]


SUCCESSES = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]


def binary_cases() -> tuple[Case, ...]:
    return (
        groups_of("one success in four, three in four", SUCCESSES),
        groups_of("two in four", [[1.0, 0.0, 0.0, 1.0]]),
        groups_of("all right, all wrong, and both", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
        groups_of("no success: 0", [[0.0, 0.0, 0.0]], "empty_success"),
        groups_of("three groups of three", [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], "rows_equal_columns"),
        groups_of("partial credit", [[0.5, 0.25, 0.0, 1.0]]),
        groups_of("0.1 eight times", [[0.1] * 8], "tie_that_rounds"),
        groups_of("0.7 twelve times", [[0.7] * 12], "tie_that_rounds"),
        groups_of("all were scored", SUCCESSES, scored=full(2, 4)),
        groups_of("NaN where not scored", [[1.0, NAN, 0.0, 0.0], [1.0, 0.0, NAN, NAN]], "unscored", scored=WITHOUT_NAN),
        groups_of("64 where not scored", hidden(SUCCESSES, WITHOUT_NAN, 64.0), "unscored", scored=WITHOUT_NAN),
        groups_of("none was scored", [[NAN, NAN], [1.0, 0.0]], "unscored", scored=marks("00 11")),
        groups_of("groups of one", [[1.0], [0.0]], "group_of_one", result="invalid"),
    )  # fmt: skip


OBJECTIVE = group_objective(
    "max_likelihood_advantages",
    "REINFORCE.9",
    "Each sample's reward against its group's mean, divided by that mean (MaxRL).",
    ("MaxRL, arXiv:2602.02710, algorithm 1",),
    lambda rewards, every, settings: reinforce.max_likelihood_advantages(rewards, settings["eps"]),
    {
        "not_divided": variant(
            "The group's mean is taken off, and nothing is divided.",
            "The gradient of the success rate, as in Dr. GRPO, not of its log: hard prompts weigh little.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant("The siblings' mean is the baseline, not divided.", "As in RLOO.", LEAVE_ONE_OUT),
        "divided_by_std": variant(
            "Divided by the group's deviation (n - 1), as in GRPO.",
            "Prompts that are nearly solved weigh as much as those that are nearly hopeless.",
            {
                "group": lambda rewards, every, settings: [
                    a / deviation(rewards) for a in reinforce.centred(rewards)
                ]
            },
            links=("https://arxiv.org/abs/2402.03300",),
        ),
        "divided_by_siblings_mean": bug(
            "Baseline and divisor are the siblings' mean.",
            "A single success has nothing to be divided by: the rarest successes are lost.",
            {"group": by_siblings_mean},
        ),
        "divided_by_failures": bug(
            "Divided by the rate of failure.",
            "Easy prompts weigh more, hard ones less: the reverse.",
            {"group": by_failures},
        ),
        "no_success_pushed_away": variant(
            "In a group without a success every sample gets -1.",
            "One order more of log p; a push away from every sample of a hopeless prompt.",
            {"group": hopeless_pushed_away},
            links=("https://arxiv.org/abs/2602.02710",),
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
    },
    binary_cases(),
    edges={"empty_success": Flag("edge", "A group without a success.", "0 / 0: the update is NaN.", pitfalls=("C61",))},
    settings={"eps": Setting("Added to the mean that is divided by; the paper has none.", (0.0, 1e-6), free=True)},
    first={"eps": 0.0},
    groups=(Group({"eps": 1e-6}, binary_cases()[:4]),),
)  # fmt: skip
