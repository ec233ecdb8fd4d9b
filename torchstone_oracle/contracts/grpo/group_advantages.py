"""group_advantages: the reward against its group's mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import grpo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual, mean, mp, sqrt, stop
from ..shared.common import (
    EDGES,
    NAN,
    OPENRLHF,
    OPENRLHF_0_11_2,
    PRIME_RL,
    RLHF_BOOK_A66B0BF,
    TRL,
    TRL_1_16_0,
    VERL_0_9_1,
    Marks,
    Matrix,
    Row,
    Settings,
    chosen,
)


def advantages_of_groups(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The advantage of every sample, from the statistics of its group's scored rewards."""
    rewards = inputs["rewards"]
    scored = inputs.get("scored") or [[True] * len(row) for row in rewards]
    result = []
    for p, row in enumerate(rewards):
        counted = group(rewards, scored, p, 0)
        if steps["teaches_nothing"](counted):
            result.append([dual(0)] * len(row))
            continue
        advantages = []
        for g, r in enumerate(row):
            baseline = steps["baseline"](rewards, scored, p, g)
            spread = steps["deviation"](rewards, scored, p, g, settings["correction"])
            if not steps["divides"](settings["divide_by_std"]):
                advantage = r - baseline
            else:
                advantage = steps["quotient"](r, baseline, spread, settings["eps"])
            advantages.append(stop(steps["sign"](advantage)) if scored[p][g] else dual(0))
        result.append(advantages)
    return {"advantages": result}


def group(rewards: Matrix, scored: Marks, p: int, g: int) -> Row:
    """The scored rewards of the sample's own prompt."""
    return chosen(rewards[p], scored[p])


def group_mean(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return average(group(rewards, scored, p, g))


def all_equal(counted: Row) -> bool:
    return all(r.same(counted[0]) for r in counted)


def average(xs: Row) -> Dual:
    """The mean; of equal numbers the number itself, without a rounding error in the last digit."""
    return xs[0] if len(xs) and all_equal(xs) else mean(xs)


def group_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return grpo.deviation(group(rewards, scored, p, g), correction)


ADVANTAGE_STEPS: dict[str, Step] = {
    "teaches_nothing": all_equal,
    "baseline": group_mean,
    "deviation": group_deviation,
    "divides": lambda asked: asked,
    "quotient": lambda r, baseline, spread, eps: (r - baseline) / (spread + dual(eps)),
    "sign": lambda advantage: advantage,
}


def never(counted: Row) -> bool:
    """No look at ties: the statistics decide."""
    return False


def everything(rewards: Matrix, scored: Marks, p: int, g: int) -> Row:
    return [r for row, on in zip(rewards, scored, strict=True) for r in chosen(row, on)]


def batch_mean(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return average(everything(rewards, scored, p, g))


def batch_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return grpo.deviation(everything(rewards, scored, p, g), correction)


def column(rewards: Matrix, scored: Marks, p: int, g: int) -> Row:
    """The g-th sample of every prompt."""
    return [row[g] for row, on in zip(rewards, scored, strict=True) if on[g]]


def column_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return grpo.deviation(column(rewards, scored, p, g), correction)


def first_group_mean(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return group_mean(rewards, scored, 0, g)


def first_group_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return group_deviation(rewards, scored, 0, g, correction)


def mean_of_the_others(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return mean([r for i, r in enumerate(rewards[p]) if scored[p][i] and i != g])


def all_members(rewards: Matrix, p: int) -> Row:
    """The unscored ones too, with reward 0."""
    return [dual(0) if mp.isnan(r.value) else r for r in rewards[p]]


def variance(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    spread = group_deviation(rewards, scored, p, g, correction)
    return spread * spread


GROUP_ALTERNATIVES = {
    "not_divided": Alternative(
        Flag(
            "variant",
            "r - mean, whatever is asked (Dr. GRPO).",
            "Prompts of mixed difficulty weigh by the spread of their rewards.",
            ("https://arxiv.org/abs/2503.20783",),
        ),
        {"divides": lambda asked: False},
    ),
    "always_divided": Alternative(
        Flag(
            "bug",
            "Divided by the deviation, whatever is asked.",
            "Nearly hopeless and nearly solved prompts weigh more, which was to be avoided.",
            (f"{TRL}/pull/3992",),
            ("C40",),
        ),
        {"divides": lambda asked: True},
    ),
    "condition_inverted": Alternative(
        Flag(
            "bug",
            "Divided when not asked, and not divided when asked.",
            "The run is the other algorithm than its configuration says.",
            (f"{TRL}/pull/3992", f"{PRIME_RL}/pull/1188"),
            ("C40",),
        ),
        {"divides": lambda asked: not asked},
    ),
    "precedence": Alternative(
        Flag(
            "bug",
            "r - mean / (std + eps): parentheses are missing.",
            "Rewards are not centred: the group's mean is only scaled.",
            (f"{PRIME_RL}/pull/390",),
            ("C39",),
        ),
        {
            "quotient": lambda r, baseline, spread, eps: r - baseline / (spread + dual(eps)),
            "teaches_nothing": never,
        },
    ),
    "eps_inside_the_root": Alternative(
        Flag(
            "variant",
            "sqrt(variance + eps).",
            "With an eps of 1e-4 groups of little spread are held back more.",
        ),
        {"quotient": lambda r, baseline, spread, eps: (r - baseline) / sqrt(spread * spread + dual(eps))},
    ),
    "variance_as_deviation": Alternative(
        Flag("bug", "The root is missing.", "Groups of little spread weigh far too much.", pitfalls=("C41",)),
        {"deviation": variance},
    ),
    "batch_deviation": Alternative(
        Flag(
            "variant",
            "The group's mean, and the deviation of the whole batch (scale_rewards=batch in TRL 1.16.0).",
            "Easy and hard prompts keep their weight relative to one another.",
            (TRL_1_16_0,),
        ),
        {"deviation": batch_deviation},
    ),
    "batch_mean": Alternative(
        Flag(
            "bug",
            "The mean of the whole batch, and the group's deviation.",
            "Every sample of an easy prompt counts as good, every one of a hard prompt as bad.",
            (f"{PRIME_RL}/pull/1188",),
            ("C41",),
        ),
        {"baseline": batch_mean, "teaches_nothing": never},
    ),
    "whole_batch": Alternative(
        Flag(
            "bug",
            "Mean and deviation of the whole batch.",
            "Every sample of an easy prompt counts as good, every one of a hard prompt as bad.",
            ("https://github.com/ServiceNow/PipelineRL/issues/54",),
            ("C41",),
        ),
        {"baseline": batch_mean, "deviation": batch_deviation, "teaches_nothing": never},
    ),
    "statistics_of_columns": Alternative(
        Flag(
            "bug",
            "Groups are columns: rewards were reshaped to [G P].",
            "Completions are compared with those of other prompts.",
            pitfalls=("C41",),
        ),
        {"baseline": lambda *at: average(column(*at)), "deviation": column_deviation, "teaches_nothing": never},
    ),
    "statistics_of_the_first_group": Alternative(
        Flag(
            "bug",
            "The first group's mean and deviation are used for all.",
            "All other prompts are compared with the first one.",
            pitfalls=("C41",),
        ),
        {"baseline": first_group_mean, "deviation": first_group_deviation, "teaches_nothing": never},
    ),
    "no_mean": Alternative(
        Flag("bug", "The mean is not subtracted.", "With 0/1 rewards nothing is ever pushed down."),
        {"baseline": lambda *at: dual(0), "teaches_nothing": never},
    ),
    "leave_one_out": Alternative(
        Flag(
            "variant",
            "The baseline is the mean of the other samples (RLOO).",
            "G / (G - 1) times as large: the expected gradient is the true one.",
            ("https://arxiv.org/abs/2402.14740",),
        ),
        {"baseline": mean_of_the_others},
    ),
    "unscored_as_zero": Alternative(
        Flag(
            "bug",
            "A completion that could not be scored enters the statistics with reward 0.",
            "The baseline sinks whenever the checker fails, and mediocre completions look good.",
            (f"{TRL}/pull/5353",),
            ("C53",),
        ),
        {
            "teaches_nothing": never,
            "baseline": lambda rewards, scored, p, g: average(all_members(rewards, p)),
            "deviation": lambda rewards, scored, p, g, correction: grpo.deviation(all_members(rewards, p), correction),
        },
    ),
    "unscored_not_left_out": Alternative(
        Flag(
            "bug",
            "The NaN of a completion that could not be scored enters its group's statistics.",
            "The whole group, and with it the update, turns into NaN.",
            (f"{TRL}/pull/5353",),
            ("C53",),
        ),
        {
            "teaches_nothing": never,
            "baseline": lambda rewards, scored, p, g: mean(rewards[p]),
            "deviation": lambda rewards, scored, p, g, correction: grpo.deviation(rewards[p], correction),
        },
    ),
    "negated": Alternative(
        Flag("bug", "mean - r.", "What was rewarded is unlearned."), {"sign": lambda advantage: -advantage}
    ),
}


def rewards_case(comment: str, rewards: Any, *flags: str, scored: Any = None, **more: Any) -> Case:
    return Case(comment, {"rewards": rewards, **({} if scored is None else {"scored": scored})}, flags, **more)


def constant(value: float, size: int) -> list[list[float]]:
    return [[value] * size]


HARMLESS = {"float32": "1e-3"}  # an eps of 1e-4 leaves up to 6e-4 of a tie, one of 1e-6 up to 0.06
MIXED = (
    rewards_case("one right answer in four", [[1.0, 0.0, 0.0, 0.0]], "one_right_in_four"),
    rewards_case("two prompts of different difficulty", [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]], "two_prompts"),
    rewards_case("two prompts of different scale", [[0.5, -0.25, 1.0, 0.125], [4.0, 8.0, 2.0, 6.0]], "two_prompts"),
)
REWARD_CASES = (
    *MIXED,
    rewards_case(
        "as many prompts as samples", [[0.5, 1.0, 0.0], [2.0, -1.0, 0.25], [0.0, 0.75, 0.5]], "rows_equal_columns"
    ),
    rewards_case("two samples", [[1.0, 0.25], [0.0, -0.5], [0.5, 0.75]]),
    rewards_case(
        "an equal group between two others", [[1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.25, 0.0]], "equal_rewards"
    ),
    rewards_case(
        "one sample could not be scored",
        [[1.0, NAN, 0.0, 0.5], [0.25, 1.0, 0.0, 0.0]],
        "unscored",
        scored=[[True, False, True, True], [True, True, True, True]],
    ),
    rewards_case(
        "a group with one scored sample, a group with none, an equal group",
        [[NAN, 0.75, NAN], [NAN, NAN, NAN], [0.5, NAN, 0.5], [1.0, 0.0, NAN]],
        "unscored",
        scored=[[False, True, False], [False, False, False], [True, False, True], [True, True, False]],
    ),
    rewards_case("a group of one", [[0.75], [0.25]], "group_of_one", result="invalid"),
)
LARGE = rewards_case("1000, a little more, a little less", [[1000.25, 999.5, 1000.0, 1000.5]], "large_mean")
TIES = tuple(
    rewards_case(
        f"{size} rewards of {value:.4g}", constant(value, size), "equal_rewards", "float_ties", tolerance=HARMLESS
    )
    for value in (0.1, 0.7, 1 / 3)
    for size in (8, 12)
)
GROUP_EDGES = {
    "large_mean": EDGES["large_mean"],
    "one_right_in_four": Flag(
        "edge",
        "[1, 0, 0, 0]: 1.5 with n - 1 and 1.732 with n, before eps.",
        "Two programs that both divide by the deviation differ by 15% in their step.",
        pitfalls=("R19",),
    ),
    "two_prompts": Flag(
        "edge",
        "Groups of different mean and spread.",
        "Whose statistics are used shows only here.",
        pitfalls=("C41",),
    ),
    "equal_rewards": Flag(
        "edge",
        "A group whose rewards are all equal: it teaches nothing, and its advantages are 0.",
        "0 / 0 gives NaN where eps is 0.",
        pitfalls=("C42", "C44"),
    ),
    "float_ties": Flag(
        "edge",
        "Equal rewards whose float32 mean is not exactly one of them, such as 8 times 0.1.",
        "A rounding error divided by a small eps: a random push of all samples of the group, in one direction.",
        (OPENRLHF_0_11_2, VERL_0_9_1, RLHF_BOOK_A66B0BF),
        ("C42", "R03"),
    ),
    "unscored": Flag(
        "edge",
        "Completions without a reward: advantage 0, and no part in any statistic.",
        "NaN spreads over the group, or a failing checker biases the baseline.",
        (f"{TRL}/pull/5353",),
        ("C53",),
    ),
    "group_of_one": Flag(
        "edge",
        "One sample a prompt has nothing to be compared with: an error.",
        "NaN, the raw reward, or a run that silently trains on nothing.",
        (f"{OPENRLHF}/pull/1250", VERL_0_9_1),
        ("C43", "R11", "R12"),
    ),
    "rows_equal_columns": EDGES["rows_equal_columns"],
}

OBJECTIVE = Objective(
    name="group_advantages",
    about="Each sample's reward against the mean, and if asked the deviation, of its prompt's group.",
    tags=("GRPO.1", "GRPO.2"),
    source=(
        "Shao et al., DeepSeekMath, arXiv:2402.03300v3, section 4.1.2",
        "Liu et al., Dr. GRPO, arXiv:2503.20783v2, section 3.2",
    ),
    arguments={
        "rewards": Argument("P G", "reward"),
        "scored": Argument("P G", "False where a completion could not be scored", kind="bool"),
    },
    returns={"advantages": Argument("P G", "none if divided, else reward")},
    settings={
        "divide_by_std": Setting("True: GRPO as published; False: Dr. GRPO", (True, False), free=True),
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to the deviation", (1e-4, 1e-6, 1e-8, 1e-9, 0.0), free=True),
    },
    compute=advantages_of_groups,
    steps=ADVANTAGE_STEPS,
    alternatives=GROUP_ALTERNATIVES,
    edges=GROUP_EDGES,
    groups=(
        Group({"divide_by_std": True, "correction": 1, "eps": 1e-4}, (*REWARD_CASES, LARGE, *TIES)),
        *(
            Group({"divide_by_std": True, "correction": c, "eps": e}, (*MIXED, LARGE, *TIES))
            for c, e in ((1, 1e-6), (1, 1e-8), (1, 1e-9), (1, 0.0), (0, 1e-4), (0, 1e-6), (0, 1e-8), (0, 0.0))
        ),
        Group({"divide_by_std": False, "correction": 1, "eps": 1e-4}, REWARD_CASES),
    ),
)
