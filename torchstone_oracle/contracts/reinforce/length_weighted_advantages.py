"""length_weighted_advantages: the reward less the length-weighted mean (OPO)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core, reinforce
from ...contract import Argument, Flag, Step
from ...numbers import Dual, dual, mean, total
from ..shared.common import Row, Settings, bug, variant
from ..shared.groups import (
    BATCH_MEAN,
    GROUP_MEAN,
    LEAVE_ONE_OUT,
    NO_BASELINE,
    SCORES,
    WRONG_ORDER,
    group_cases,
    group_objective,
    groups_of,
    minus,
)

LENGTHS = [3.0, 1.0, 4.0, 2.0, 6.0, 5.0, 2.0, 1.0, 7.0, 3.0, 2.0, 4.0]


def lengths(p: int, g: int) -> dict[str, Any]:
    return {"lengths": [[LENGTHS[(3 * i + j) % 12] for j in range(g)] for i in range(p)]}


def weighted_by(weight: Callable[[Dual], Any]) -> Step:
    def group(rewards: Row, every: Any, settings: Settings, lengths: Row) -> list[Dual]:
        return reinforce.length_weighted_advantages(rewards, [dual(weight(n)) for n in lengths])

    return group


def weighted_siblings(rewards: Row, every: Any, settings: Settings, lengths: Row) -> list[Dual]:
    """sum over j != i of l_j r_j, by the sum of their l_j"""
    n = range(len(rewards))
    if reinforce.all_equal(rewards):
        return [Dual(0) for _ in n]
    pairs = [(reinforce.siblings(rewards, i), reinforce.siblings(lengths, i)) for i in n]
    return minus(rewards, [core.divided(total(w * r for r, w in zip(*p, strict=True)), total(p[1])) for p in pairs])


def weighted_over_n(rewards: Row, every: Any, settings: Settings, lengths: Row) -> list[Dual]:
    """sum_j l_j r_j / n"""
    return minus(rewards, mean([r * w for r, w in zip(rewards, lengths, strict=True)]))


def reward_per_token(rewards: Row, every: Any, settings: Settings, lengths: Row) -> list[Dual]:
    """sum_j r_j / sum_j l_j"""
    return minus(rewards, core.divided(total(rewards), total(lengths)))


OBJECTIVE = group_objective(
    "length_weighted_advantages",
    "REINFORCE.7",
    "Each sample's reward minus the group's mean reward, where a sample weighs as much as it has tokens (OPO).",
    ("OPO, arXiv:2505.23585v2",),
    lambda rewards, every, settings, lengths: reinforce.length_weighted_advantages(rewards, lengths),
    {
        "own_reward_included": variant(
            "The plain mean of the group is the baseline; lengths are not used.",
            "As in Dr. GRPO: noisier where lengths differ much.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant(
            "The siblings' plain mean is the baseline.", "As in RLOO: noisier where lengths differ much.", LEAVE_ONE_OUT
        ),
        "weighted_siblings": variant(
            "The siblings' weighted mean is the baseline: the own sample is left out.",
            "No bias by 1 - 1/n; not what the paper has.",
            {"group": weighted_siblings},
        ),
        "inverse_lengths": bug(
            "Samples weigh by one over their length.",
            "The baseline follows the short answers, whose gradient varies least: more noise, not less.",
            {"group": weighted_by(lambda n: core.divided(Dual(1), n))},
        ),
        "squared_lengths": bug(
            "Samples weigh by the square of their length.", "The longest answer is the baseline.",
            {"group": weighted_by(lambda n: n * n)},
        ),
        "divided_by_n": bug(
            "The weighted sum is divided by the number of samples, not by the sum of the lengths.",
            "The baseline is too large by the mean length: everything is pushed away.",
            {"group": weighted_over_n},
        ),
        "reward_per_token": bug(
            "The baseline is the sum of rewards over the sum of lengths.",
            "The baseline is near 0.",
            {"group": reward_per_token},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
        "no_baseline": NO_BASELINE,
    },
    (
        *group_cases(lengths),
        groups_of("equal lengths: the group's mean", SCORES, more={"lengths": [[2.0] * 4] * 2}),
        groups_of("a completion without a token weighs 0", SCORES[:1], more={"lengths": [[2.0, 0.0, 1.0, 3.0]]}),
        groups_of("no completion has a token: 0", SCORES[:1], "empty_lengths", more={"lengths": [[0.0] * 4]}),
    ),
    arguments={"lengths": Argument("P G", "tokens")},
    edges={"empty_lengths": Flag("edge", "All lengths are 0.", "0 / 0: the update is NaN.", pitfalls=("C61",))},
)  # fmt: skip
