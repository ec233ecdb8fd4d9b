"""mixed_groups: which groups have more than one reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import grpo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Step
from ...numbers import dual
from ..shared.common import NAN, Settings, chosen


def kept_groups(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    rewards = inputs["rewards"]
    scored = inputs.get("scored") or [[True] * len(row) for row in rewards]
    return {"keep": [bool(steps["keep"](steps["members"](*row))) for row in zip(rewards, scored, strict=True)]}


NOT_MIXED = "Prompts that teach nothing stay in the batch, or prompts that teach are thrown away."
OBJECTIVE = Objective(
    name="mixed_groups",
    about="Which prompts' groups hold more than one reward.",
    tags=("GRPO.7",),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 11",),
    arguments={
        "rewards": Argument("P G", "reward"),
        "scored": Argument("P G", "False where a completion could not be scored", kind="bool"),
    },
    returns={"keep": Argument("P", "True for the groups to keep")},
    settings={},
    compute=kept_groups,
    steps={"members": chosen, "keep": grpo.is_mixed},
    alternatives={
        "inverted": Alternative(
            Flag("bug", "True for the groups to drop.", NOT_MIXED, pitfalls=("C44",)),
            {"keep": lambda rs: not grpo.is_mixed(rs)},
        ),
        "any_success": Alternative(
            Flag("bug", "Only groups without any reward above 0 are dropped.", NOT_MIXED),
            {"keep": lambda rs: any(r > 0 for r in rs)},
        ),
        "any_failure": Alternative(
            Flag("bug", "Only groups whose rewards are all 1 are dropped.", NOT_MIXED),
            {"keep": lambda rs: any(r < 1 for r in rs)},
        ),
        "right_and_wrong": Alternative(
            Flag(
                "variant",
                "Counts right answers, 0 < right < G: for rewards of 0 and 1 only.",
                "Groups that differ in partial credit are dropped.",
                ("https://arxiv.org/abs/2503.14476",),
            ),
            {"keep": lambda rs: 0 < sum(r.same(1) for r in rs) < len(rs)},
        ),
        "unscored_as_zero": Alternative(
            Flag("bug", "An unscored completion counts as reward 0.", NOT_MIXED, pitfalls=("C53",)),
            {"members": lambda row, on: [r if m else dual(0) for r, m in zip(row, on, strict=True)]},
        ),
        "unscored_not_left_out": Alternative(
            Flag("bug", "The NaN of an unscored completion differs from everything.", NOT_MIXED, pitfalls=("C53",)),
            {"members": lambda row, on: row},
        ),
    },
    edges={
        "unscored": Flag("edge", "Completions without a reward.", NOT_MIXED, pitfalls=("C53",)),
        "equal_rewards": Flag("edge", "Groups whose rewards are all equal.", NOT_MIXED, pitfalls=("C44",)),
    },
    groups=(
        Group(
            {},
            (
                Case("0 and 1", {"rewards": [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]}),
                Case("partial credit", {"rewards": [[0.25, 0.5], [0.5, 0.5], [-1.0, 2.0]]}),
                Case(
                    "0.1 eight times, and all but once", {"rewards": [[0.1] * 8, [0.1] * 7 + [0.2]]}, ("equal_rewards",)
                ),
                Case(
                    "some not scored",
                    {
                        "rewards": [[1.0, NAN, 0.0], [1.0, NAN, 1.0], [NAN, NAN, NAN], [0.5, 0.25, NAN]],
                        "scored": [[True, False, True], [True, False, True], [False] * 3, [True, True, False]],
                    },
                    ("unscored",),
                ),
            ),
        ),
    ),
)
