"""gpg_advantages: centred rewards, scaled by the share of groups that teach something (GPG)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core, reinforce
from ...contract import Flag, Step
from ...numbers import Dual, mpf
from ..shared.common import VERL_0_9_1, Row, Settings, bug, variant
from ..shared.groups import (
    BATCH_MEAN,
    DIVIDED_BY_STD,
    GROUP_MEAN,
    LEAVE_ONE_OUT,
    WRONG_ORDER,
    flat_of,
    group_cases,
    group_objective,
    groups_of,
)


def scaled(factor: Callable[[list[list[Dual]]], Any]) -> Step:
    """The group's centred rewards times a factor of the whole batch."""

    def group(rewards: Row, every: list[list[Dual]], settings: Settings) -> list[Dual]:
        return [a * factor(every) for a in reinforce.centred(rewards)]

    return group


def telling(every: list[list[Dual]]) -> int:
    return sum(not reinforce.all_equal(rewards) for rewards in every)


def gpg_group(rewards: Row, every: list[list[Dual]], settings: Settings) -> list[Dual]:
    """This group's, of all groups'."""
    return next(a for group, a in zip(every, reinforce.gpg_advantages(every), strict=True) if group is rewards)


def over_nonzero(every: list[list[Dual]]) -> Dual:
    rewards = flat_of(every)
    return core.divided(Dual(len(rewards)), sum(not r.same(0) for r in rewards))


def with_a_success(every: list[list[Dual]]) -> Dual:
    return core.divided(Dual(len(every)), sum(any(r > 0 for r in rewards) for rewards in every))


OBJECTIVE = group_objective(
    "gpg_advantages",
    "REINFORCE.8",
    "Each sample's reward against its group's mean, scaled up for the groups of the batch that teach nothing (GPG).",
    ("GPG, arXiv:2504.02546v4, eq. 6-8, with F_norm = 1",),
    gpg_group,
    {
        "no_alpha": variant(
            "Not scaled: the group's mean is the baseline, and that is all.",
            "As in Dr. GRPO: the step shrinks when many groups tie.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant("The siblings' mean is the baseline, not scaled.", "As in RLOO.", LEAVE_ONE_OUT),
        "alpha_of_nonzero_rewards": variant(
            "alpha is the number of samples by that of samples whose reward is not 0.",
            "With rewards 0 or 1 it is one over the mean reward; with rewards 1 or -1 it is 1.",
            {"group": scaled(over_nonzero)},
            links=(VERL_0_9_1,),
        ),
        "alpha_of_hopeless_groups": bug(
            "Only groups without a success are taken out of the count, not those that are all right.",
            "The step shrinks as the policy gets better.",
            {"group": scaled(with_a_success)},
        ),
        "alpha_inverted": bug(
            "alpha is (B - M) / B.",
            "The groups that teach nothing shrink the step twice.",
            {"group": scaled(lambda every: mpf(telling(every)) / len(every))},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
        "divided_by_std": DIVIDED_BY_STD,
    },
    (
        *group_cases(),
        groups_of("two of three groups tie", [[1.0, 1.0], [1.0, 0.0], [0.5, 0.5]]),
        groups_of("all groups tie: 0, not 0 / 0", [[1.0, 1.0], [0.0, 0.0]], "tie_of_all"),
    ),
    edges={"tie_of_all": Flag("edge", "No group has a signal.", "0 / 0: the update is NaN.", pitfalls=("C44",))},
)  # fmt: skip
