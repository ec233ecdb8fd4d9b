"""soft_values: what a prompt is worth to the best policy that pays for its KL to the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import reinforce
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual, exp, log, maximum, mean, mp, total
from ..shared.common import NAN, REWARDS, SCORED, Row, Settings, bug, variant


def values_of_prompts(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    rewards = inputs["rewards"]
    scored = inputs.get("scored") or [[True] * len(row) for row in rewards]
    members = [steps["members"](row, on) for row, on in zip(rewards, scored, strict=True)]
    return {"values": [steps["value"](row, settings["beta"]) for row in members]}


def among(row: Row, on: list[bool]) -> Row:
    return [r for r, m in zip(row, on, strict=True) if m]


def unscored_as_zero(row: Row, on: list[bool]) -> Row:
    return [dual(0) if mp.isnan(r.value) else r for r in row]


def best(rewards: Row, beta: float) -> Dual:
    found = rewards[0] if rewards else dual(0)
    for r in rewards[1:]:
        found = maximum(found, r)
    return found


def sum_in_place_of_mean(rewards: Row, beta: float) -> Dual:
    return dual(beta) * log(total(exp(r / dual(beta)) for r in rewards)) if rewards else dual(0)


def times_beta(rewards: Row, beta: float) -> Dual:
    """beta taken for its inverse inside the exponential."""
    return dual(beta) * log(mean([exp(r * dual(beta)) for r in rewards])) if rewards else dual(0)


def centre(rewards: Row, beta: float) -> Dual:
    return mean(rewards)


FEWER = "A prompt without a scored sample, or with some."
OBJECTIVE = Objective(
    name="soft_values",
    about="beta times the log of the mean of exp(r / beta), over the scored samples of a prompt.",
    tags=("REINFORCE.16",),
    source=("Brantley et al., A*-PO, arXiv:2505.20686", "Kimi k1.5, arXiv:2501.12599, section 2.3.2"),
    arguments={"rewards": REWARDS, "scored": SCORED},
    returns={"values": Argument("P", "reward units")},
    settings={"beta": Setting("reward units per nat of the KL to what drew the samples", (0.5, 1.0), free=True)},
    compute=values_of_prompts,
    steps={"members": among, "value": reinforce.soft_value},
    alternatives={
        "mean": variant(
            "The mean of the rewards: the limit of a large beta.",
            "Prompts that are rarely solved are worth less than they are.",
            {"value": centre},
        ),
        "best": variant(
            "The best reward: the limit of a small beta.",
            "No sample is better than its prompt: every advantage is 0 or below.",
            {"value": best},
        ),
        "sum_in_place_of_mean": bug(
            "log sum exp, without - log N.",
            "Every prompt is worth beta log N too much: the more samples are drawn, the worse they all look.",
            {"value": sum_in_place_of_mean},
        ),
        "beta_inverted": bug(
            "exp(beta r) in place of exp(r / beta).",
            "A small beta gives the mean, not the best.",
            {"value": times_beta},
        ),
        "not_times_beta": bug(
            "log mean exp(r / beta), not times beta.",
            "Not in reward units: the advantage takes one from the other.",
            {"value": lambda rewards, beta: reinforce.soft_value(rewards, beta) / dual(beta)},
        ),
        "negated": bug(
            "The sign is flipped.",
            "The baseline is added to the reward.",
            {"value": lambda rewards, beta: -reinforce.soft_value(rewards, beta)},
        ),
        "unscored_as_zero": bug(
            "An unscored completion counts as one with reward 0.",
            "A checker that failed is taken for a bad answer.",
            {"members": unscored_as_zero},
            pitfalls=("C53",),
        ),
        "scored_ignored": bug(
            "`scored` is not looked at: NaN rewards enter the mean.",
            "One unscored completion turns its prompt's value into NaN.",
            {"members": lambda row, on: row},
            pitfalls=("C53",),
        ),
    },
    edges={
        "unscored": Flag("edge", "Completions without a reward.", FEWER, pitfalls=("C53",)),
        "one_sample": Flag(
            "edge", "One sample: its reward is the value.", "A group is asked for where none is needed."
        ),
        "far_apart": Flag(
            "edge",
            "Rewards hundreds of beta apart, or far from 0.",
            "exp(r / beta) overflows: infinity or NaN, where the answer is near the best reward.",
        ),
    },
    groups=(
        Group(
            {"beta": 0.5},
            (
                Case("two prompts, four samples", {"rewards": [[1.0, 0.0, 0.5, 0.0], [0.0, 2.0, -1.0, 0.25]]}),
                Case("0 and 1", {"rewards": [[0.0, 1.0]]}),
                Case("one sample", {"rewards": [[0.75], [-2.0]]}, ("one_sample",)),
                Case(
                    "some not scored",
                    {
                        "rewards": [[1.0, NAN, -0.5], [0.5, 0.25, 1.5], [NAN, 3.0, NAN]],
                        "scored": [[True, False, True], [True, True, True], [False, True, False]],
                    },
                    ("unscored",),
                ),
                Case(
                    "none of a prompt scored",
                    {"rewards": [[NAN, NAN], [1.0, 0.25]], "scored": [[False, False], [True, True]]},
                    ("unscored",),
                ),
                Case("far from 0", {"rewards": [[1000.0, 999.5, 0.0], [-1000.0, -1001.0, -3000.0]]}, ("far_apart",)),
            ),
        ),
        Group(
            {"beta": 2.0},
            (Case("two prompts, four samples", {"rewards": [[1.0, 0.0, 0.5, 0.0], [0.0, 2.0, -1.0, 0.25]]}),),
        ),
    ),
)
