"""leave_one_out_advantages: the reward less the mean of the other samples (RLOO)."""

from __future__ import annotations

from typing import Any

from ... import reinforce
from ...numbers import Dual, stop, total
from ..shared.common import Row, Settings, bug, variant
from ..shared.groups import (
    BATCH_MEAN,
    DIVIDED_BY_STD,
    DIVIDED_BY_STD_AND_EPS,
    GROUP_MEAN,
    NO_BASELINE,
    WRONG_ORDER,
    flat_of,
    group_cases,
    group_objective,
    minus,
)


def by_others_over_n(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    n = len(rewards)
    return minus(rewards, [total(reinforce.siblings(rewards, i)) / n for i in range(n)])


def by_factor_inverted(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    n = len(rewards)
    return [a * (n - 1) / n for a in reinforce.centred(rewards)]


def by_sum_of_others(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    return minus(rewards, [total(reinforce.siblings(rewards, i)) for i in range(len(rewards))])


def by_the_others(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    n = len(rewards)
    return [stop(total(reinforce.siblings(rewards, i)) / (n - 1)) if n > 1 else Dual(0) for i in range(n)]


def by_others_of_batch(rewards: Row, every: list[list[Dual]], settings: Settings) -> list[Dual]:
    n, batch = len(flat_of(every)), total(flat_of(every))
    return minus(rewards, [(batch - r) / (n - 1) for r in rewards])


OBJECTIVE = group_objective(
    "leave_one_out_advantages",
    "REINFORCE.5",
    "Each sample's reward minus the mean reward of its siblings (RLOO).",
    ("Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019", "RLOO, arXiv:2402.14740v2, section 2.3"),
    lambda rewards, every, settings: reinforce.leave_one_out_advantages(rewards),
    {
        "own_reward_included": variant(
            "The group's mean, own reward included, is the baseline.",
            "Too small by 1 - 1/n, as in Dr. GRPO: a smaller learning rate, and another one for each group size.",
            GROUP_MEAN,
        ),
        "divided_by_n": bug(
            "The sum over the siblings is divided by n instead of n - 1.",
            "The baseline is too near 0: with rewards above 0 all samples are reinforced.",
            {"group": by_others_over_n},
        ),
        "factor_inverted": bug(
            "(r - mean) (n - 1) / n in place of (r - mean) n / (n - 1): the factor is upside down.",
            "Own reward and baseline are mixed twice: too small by (1 - 1/n)^2, most so in small groups.",
            {"group": by_factor_inverted},
        ),
        "sum_of_others": bug(
            "The sum over the siblings instead of their mean.",
            "The baseline grows with the group: nearly all samples are pushed away.",
            {"group": by_sum_of_others},
        ),
        "baseline_alone": bug(
            "The mean reward of the siblings: the baseline, from which no reward was subtracted.",
            "A completion is reinforced for what the others were paid.",
            {"group": by_the_others},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
        "batch_leave_one_out": bug(
            "All other samples of the batch are taken for siblings.",
            "Easy prompts are always reinforced and hard ones never, whatever the answer.",
            {"group": by_others_of_batch},
            pitfalls=("C41",),
            links=("https://github.com/ServiceNow/PipelineRL/issues/54",),
        ),
        "no_baseline": NO_BASELINE,
        "divided_by_std": DIVIDED_BY_STD,
        "divided_by_std_and_eps": DIVIDED_BY_STD_AND_EPS,
    },
    group_cases(),
)  # fmt: skip
