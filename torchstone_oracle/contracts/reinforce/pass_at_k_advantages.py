"""pass_at_k_advantages: what a sample adds to sets of k, of which one right answer is enough (Pass@k training)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ... import reinforce
from ...contract import Flag, Group, Setting
from ...numbers import Dual
from ..shared.common import NAN, Row, Settings, bug, full, hidden, marks, variant, without
from ..shared.groups import BATCH_MEAN, WITHOUT_NAN, WRONG_ORDER, group_objective, groups_of

ONE_AND_THREE = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]


def asked(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    return reinforce.pass_at_k_advantages(rewards, settings["k"], settings["eps"])


def of_one(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    return reinforce.pass_at_k_advantages(rewards, 1, settings["eps"])


def not_divided(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    """The gains alone: eps 0 takes out sigma, which is the deviation of the sets' best."""
    scaled = reinforce.pass_at_k_advantages(rewards, settings["k"], 0)
    larger = reinforce.pass_at_k_advantages(rewards, settings["k"], 1)  # gain / (sigma + 1)
    return [a * b / (a - b) if not a.same(0) else Dual(0) for a, b in zip(scaled, larger, strict=True)]


def wrong_as_zero(rewards: Row, every: Any, settings: Settings) -> list[Dual]:
    found = asked(rewards, every, settings)
    return [a if r > 0 else Dual(0) for r, a in zip(rewards, found, strict=True)]


CASES = (
    groups_of("one success in four, three in four", ONE_AND_THREE),
    groups_of("two in four, two in four", [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]),
    groups_of("all right, and all wrong", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], "settled"),
    groups_of("three groups of three", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], "rows_equal_columns"),
    groups_of("one in seven", [[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]]),
    groups_of("0.1 eight times", [[0.1] * 8], "tie_that_rounds"),
    groups_of("all were scored", ONE_AND_THREE, scored=full(2, 4)),
    groups_of("NaN where not scored", [[1.0, NAN, 0.0, 0.0], [1.0, 0.0, NAN, NAN]], "unscored", scored=WITHOUT_NAN),
    groups_of("64 where not scored", hidden(ONE_AND_THREE, WITHOUT_NAN, 64.0), "unscored", scored=WITHOUT_NAN),
    groups_of("none was scored", [[NAN, NAN, NAN], [1.0, 0.0, 0.0]], "unscored", scored=marks("000 111")),
    groups_of("groups of one", [[1.0], [0.0]], "group_of_one", result="invalid"),
)
FEW = (*CASES[:2], CASES[4])

BOTH = group_objective(
    "pass_at_k_advantages",
    "REINFORCE.14",
    "What a sample adds to sets of k, of which one right answer is enough (Pass@k training).",
    ("Pass@k training, arXiv:2508.10751, by its authors' code (RUCAIBox/Passk_Training c3ba575)",),
    asked,
    {
        "k_of_one": variant(
            "k is 1: each sample stands for itself (GRPO, with the deviation over n).",
            "Prompts that are solved now and then are still pushed.",
            {"group": of_one},
            links=("https://arxiv.org/abs/2402.03300",),
        ),
        "not_divided": variant(
            "The gain in solved sets, not divided by their deviation.",
            "Prompts weigh by how often their sets differ.",
            {"group": not_divided},
        ),
        "wrong_answers_left_alone": bug(
            "A wrong answer gets 0.",
            "Nothing is pushed down: the advantages of a group no longer add up to 0.",
            {"group": wrong_as_zero},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
    },
    CASES,
    edges={"settled": Flag("edge", "All sets have a right answer, or none has.", "0 / 0: NaN.", pitfalls=("C44",))},
    settings={
        "k": Setting("samples of a set", (2, 4, 3)),
        "eps": Setting("added to the deviation of the sets", (1e-6, 0.0), free=True),
    },
    first={"k": 2, "eps": 1e-6},
    groups=(Group({"k": 3, "eps": 1e-6}, FEW), Group({"k": 2, "eps": 0.25}, FEW)),
)

# NaN is no right answer: that it counts as 0 and that `scored` is not looked at are one mistake here
OBJECTIVE = replace(BOTH, alternatives=without(BOTH.alternatives, "unscored_as_zero"))
