"""Advantages of the samples of one prompt: the computation, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ... import core, reinforce
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...core import Mask
from ...numbers import Dual, dual, mean, mp, sqrt, stop
from .common import EDGES, NAN, REWARDS, SCORED, TRL, Row, Settings, Steps, bug, full, hidden, marks, variant

Sampled = list[tuple[int, int, Dual]]  # of each sample that was scored: its row, its column, its reward


def scored_rewards(inputs: Inputs) -> list[Sampled]:
    """Of each prompt, the samples that were scored."""
    scored = inputs.get("scored") or full(len(inputs["rewards"]), len(inputs["rewards"][0]))
    return [
        [(p, i, r) for i, (r, m) in enumerate(zip(*row, strict=True)) if m]
        for p, row in enumerate(zip(inputs["rewards"], scored, strict=True))
    ]


def per_group(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Each group's advantages from its scored rewards; 0 for what was not scored."""
    groups = steps["groups"](inputs)
    every = [[r for _, _, r in group] for group in groups]
    advantages = [[Dual(0) for _ in row] for row in inputs["rewards"]]
    for rewards, group in zip(every, groups, strict=True):
        more = [steps["other"](inputs[k], group) for k in ("lengths", "greedy_rewards") if k in inputs]
        for (p, i, _), a in zip(group, steps["group"](rewards, every, settings, *more), strict=True):
            advantages[p][i] = dual(steps["result"](a))
    return {"advantages": advantages}


def of_each(x: Any, group: Sampled) -> list[Dual]:
    """What each sample of a group has besides its reward: x is [P G], or [P]."""
    return [x[p][i] if isinstance(x[p], list) else x[p] for p, i, _ in group]


def wrong_order(inputs: Inputs) -> list[Sampled]:
    """The samples in a row, dealt out to P groups one by one: as if all prompts came first, then all again."""
    samples = [sample for group in scored_rewards(inputs) for sample in group]
    n, size = len(inputs["rewards"]), len(inputs["rewards"][0])
    return [[s for s in samples if (s[0] * size + s[1]) % n == k] for k in range(n)]


def unscored_as_zero(inputs: Inputs) -> list[Sampled]:
    """NaN is taken for a reward of 0, and `scored` is not looked at."""
    return [[(p, i, Dual(0) if mp.isnan(r.value) else r) for p, i, r in group] for group in scored_ignored(inputs)]


def scored_ignored(inputs: Inputs) -> list[Sampled]:
    return [[(p, i, r) for i, r in enumerate(row)] for p, row in enumerate(inputs["rewards"])]


def flat_of(every: list[list[Dual]]) -> list[Dual]:
    return [r for rewards in every for r in rewards]


def minus(rewards: Row, baseline: Any) -> list[Dual]:
    """The rewards less one baseline, or less one each."""
    if not isinstance(baseline, list):
        baseline = [baseline] * len(rewards)
    return [stop(r - b) for r, b in zip(rewards, baseline, strict=True)]


def deviation(rewards: Row) -> Dual:
    return sqrt(core.variance(list(rewards), 1)) if not reinforce.all_equal(rewards) else Dual(1)


GROUP_STEPS: dict[str, Step] = {
    "groups": scored_rewards,
    "other": of_each,
    "result": lambda advantage: advantage,
}
SIGN = bug(
    "The sign is flipped.",
    "Bad completions are made more likely.",
    {"result": lambda advantage: -advantage},
    pitfalls=("C29",),
)
UNSCORED = {
    "unscored_as_zero": bug(
        "An unscored completion counts as one with reward 0.",
        "A checker that failed is taken for a bad answer, and its siblings look better than they are.",
        {"groups": unscored_as_zero},
        pitfalls=("C53",),
        links=(f"{TRL}/pull/5353",),
    ),
    "scored_ignored": bug(
        "`scored` is not looked at: NaN rewards enter the mean.",
        "One unscored completion turns its group into NaN, and a checker's placeholder is taken for a reward.",
        {"groups": scored_ignored},
        pitfalls=("C53",),
        links=(f"{TRL}/pull/5353",),
    ),
}
BATCH_MEAN = bug(
    "The mean over the whole batch instead of the group.",
    "Easy prompts are always reinforced and hard ones never, whatever the answer.",
    {"group": lambda rewards, every, settings, *more: minus(rewards, mean(flat_of(every)))},
    pitfalls=("C41",),
    links=("https://github.com/ServiceNow/PipelineRL/issues/54",),
)
WRONG_ORDER = bug(
    "The rewards were laid out the other way round: samples of other prompts are taken for siblings.",
    "Every sample is compared with answers to other questions.",
    {"groups": wrong_order},
    pitfalls=("C41",),
)
GROUP_MEAN = {"group": lambda rewards, every, settings, *more: reinforce.centred(rewards)}
LEAVE_ONE_OUT = {"group": lambda rewards, every, settings, *more: reinforce.leave_one_out_advantages(rewards)}
NO_BASELINE = bug(
    "No baseline: the reward itself.",
    "Right on average, and far noisier; with rewards above 0 every sample is reinforced.",
    {"group": lambda rewards, every, settings, *more: [stop(r) for r in rewards]},
    pitfalls=("R11",),
)
DIVIDED_BY_STD = variant(
    "Divided by the group's deviation, as in GRPO.",
    "Prompts that are nearly solved, or nearly hopeless, weigh more.",
    {
        "group": lambda rewards, every, settings, *more: [
            a / deviation(rewards) for a in reinforce.leave_one_out_advantages(rewards)
        ]
    },
    links=("https://arxiv.org/abs/2402.03300",),
)

DIVIDED_BY_STD_AND_EPS = variant(
    "Divided by the group's deviation plus 1e-4 (TRL's eps), as in GRPO.",
    "Prompts that are nearly solved, or nearly hopeless, weigh more.",
    {
        "group": lambda rewards, every, settings, *more: [
            a / ((dual(0) if reinforce.all_equal(rewards) else deviation(rewards)) + dual("1e-4"))
            for a in reinforce.leave_one_out_advantages(rewards)
        ]
    },
    links=("https://arxiv.org/abs/2402.03300",),
)

SCORES = [[1.0, 0.0, 0.5, 0.0], [0.0, 2.0, -1.0, 4.0]]
SCORES_3 = [[1.0, 0.0, 0.25], [2.0, 3.0, -1.0], [0.5, 0.5, 4.0]]
WITH_NAN = [[1.0, NAN, 0.5, 0.0], [0.0, 2.0, NAN, NAN]]
WITHOUT_NAN = marks("1011 1100")


def groups_of(
    comment: str, rewards: Any, *flags: str, scored: Mask | None = None, more: Mapping[str, Any] | None = None,
    result: str = "valid",
) -> Case:  # fmt: skip
    inputs = {"rewards": rewards, **(more or {}), **({"scored": scored} if scored else {})}
    return Case(comment, inputs, flags, result)


def group_cases(more: Callable[[int, int], dict[str, Any]] = lambda p, g: {}, one: str = "invalid") -> tuple[Case, ...]:
    """``more(P, G)``: what the objective takes besides rewards. ``one``: the result for a group of one."""
    return (
        groups_of("two groups of four", SCORES, more=more(2, 4)),
        groups_of("right and wrong answers", [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], more=more(3, 2)),
        groups_of("one group of five", [[0.0, 0.0, 1.0, 0.0, 1.0]], more=more(1, 5)),
        groups_of("three groups of three", SCORES_3, "rows_equal_columns", more=more(3, 3)),
        groups_of("0.1 eight times", [[0.1] * 8], "tie_that_rounds", more=more(1, 8)),
        groups_of("0.7 twelve times", [[0.7] * 12], "tie_that_rounds", more=more(1, 12)),
        groups_of("1/3 seven times", [[1 / 3] * 7], "tie_that_rounds", more=more(1, 7)),
        groups_of("all were scored", SCORES, scored=full(2, 4), more=more(2, 4)),
        groups_of("NaN where not scored", WITH_NAN, "unscored", scored=WITHOUT_NAN, more=more(2, 4)),
        groups_of("64 where not scored", hidden(SCORES, WITHOUT_NAN, 64.0), "unscored", scored=WITHOUT_NAN,
                  more=more(2, 4)),
        groups_of("one left that was scored", [[NAN, 2.0, NAN], [1.0, 0.0, NAN]], "unscored", scored=marks("010 110"),
                  more=more(2, 3)),
        groups_of("none was scored", [[NAN, NAN], [1.0, 0.0]], "unscored", scored=marks("00 11"), more=more(2, 2)),
        groups_of("groups of one", [[0.75], [1.0]], *(("group_of_one",) if one == "invalid" else ()), more=more(2, 1),
                  result=one),
    )  # fmt: skip


def group_objective(
    name: str, tag: str, about: str, source: tuple[str, ...], group: Step, alternatives: Mapping[str, Alternative],
    cases: tuple[Case, ...], arguments: Mapping[str, Argument] | None = None, edges: Mapping[str, Flag] | None = None,
    settings: Mapping[str, Setting] | None = None, groups: tuple[Group, ...] = (), first: Settings | None = None,
) -> Objective:  # fmt: skip
    return Objective(
        name=name,
        about=about,
        tags=(tag,),
        source=source,
        arguments={"rewards": REWARDS, **(arguments or {}), "scored": SCORED},
        returns={"advantages": Argument("P G", "reward units")},
        settings=settings or {},
        compute=per_group,
        steps={"group": group, **GROUP_STEPS},
        alternatives={**alternatives, "sign_flipped": SIGN, **UNSCORED},
        edges={**EDGES, **(edges or {})},
        groups=(Group(first or {}, cases), *groups),
    )
