"""overlong_penalties: a penalty that grows before the longest length allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import grpo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import clip, dual, maximum, minimum
from ..shared.common import Settings


def penalties(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    most, cache = settings["max_length"], settings["cache"]
    return {"penalties": [[steps["penalty"](n, most, cache) for n in row] for row in inputs["lengths"]]}


OBJECTIVE = Objective(
    name="overlong_penalties",
    about="A penalty that grows from 0 to -1 over the last tokens before the longest completion allowed.",
    tags=("GRPO.6",),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 13",),
    arguments={"lengths": Argument("P G", "tokens")},
    returns={"penalties": Argument("P G", "reward")},
    settings={
        "max_length": Setting("L_max, the longest completion allowed", (20480,)),
        "cache": Setting("L_cache, the last tokens before it", (4096,)),
    },
    compute=penalties,
    steps={"penalty": grpo.overlong_penalty},
    alternatives={
        "no_floor": Alternative(
            Flag("bug", "Not bounded at -1.", "One runaway completion ruins its group."),
            {"penalty": lambda n, most, cache: minimum((most - cache - n) / cache, dual(0))},
        ),
        "no_ceiling": Alternative(
            Flag("bug", "Short completions get a bonus: not bounded at 0.", "The policy learns to say nothing."),
            {"penalty": lambda n, most, cache: maximum((most - cache - n) / cache, dual(-1))},
        ),
        "positive": Alternative(
            Flag("bug", "The penalty's sign is flipped.", "The policy is paid for rambling to the limit."),
            {"penalty": lambda n, most, cache: -grpo.overlong_penalty(n, most, cache)},
        ),
        "after_the_limit": Alternative(
            Flag(
                "bug",
                "The slope starts at max_length in place of max_length - cache.",
                "What generation cuts off is never punished.",
            ),
            {"penalty": lambda n, most, cache: clip((most - n) / cache, -1, 0)},
        ),
        "hard": Alternative(
            Flag("variant", "-1 from max_length on, no slope.", "Reward noise: a token more or less is worth 1."),
            {"penalty": lambda n, most, cache: dual(-1) if n >= most else dual(0)},
        ),
        "divided_by_max_length": Alternative(
            Flag("bug", "The slope is over max_length.", "The penalty at the limit is far from -1."),
            {"penalty": lambda n, most, cache: clip((most - cache - n) / most, -1, 0)},
        ),
        "gentle": Alternative(
            Flag(
                "variant",
                "A slope of 0.3 and no floor (LUSPO).",
                "The penalty at the limit is -0.3.",
                ("https://arxiv.org/abs/2602.05261",),
            ),
            {"penalty": lambda n, most, cache: minimum((most - cache - n) / cache * dual("0.3"), dual(0))},
        ),
    },
    edges={"at_the_bounds": Flag("edge", "Lengths exactly at the ends of the slope.", "Off by one token.")},
    groups=(
        Group(
            {"max_length": 20480, "cache": 4096},
            (
                Case(
                    "around the published limits",
                    {"lengths": [[100.0, 16384.0, 18432.0], [20480.0, 20481.0, 24576.0]]},
                    ("at_the_bounds",),
                ),
                Case("on the slope", {"lengths": [[16385.0, 17408.0, 19456.0, 20479.0]]}),
            ),
        ),
        Group(
            {"max_length": 16, "cache": 4},
            (
                Case(
                    "small enough to check by hand",
                    {"lengths": [[1.0, 12.0, 13.0, 14.0], [15.0, 16.0, 17.0, 20.0]]},
                    ("at_the_bounds",),
                ),
                Case("short ones", {"lengths": [[0.0, 2.0], [8.0, 11.0]]}),
            ),
        ),
        Group(
            {"max_length": 8, "cache": 8}, (Case("the slope starts at once", {"lengths": [[0.0, 1.0, 4.0, 8.0, 9.0]]}),)
        ),
    ),
)
