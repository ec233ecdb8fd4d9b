"""batch_scaled_advantages: centred rewards over one deviation of the batch (Lite PPO, ScaleRL)."""

from __future__ import annotations

from collections.abc import Callable

from ... import core, reinforce
from ...contract import Flag, Group, Setting, Step
from ...numbers import Dual, dual, mean, sqrt, stop
from ..shared.common import TRL_1_16_0, Row, Settings, bug, variant
from ..shared.groups import GROUP_MEAN, WRONG_ORDER, flat_of, group_cases, group_objective, groups_of

Every = list[list[Dual]]


def over(scale: Callable[[Row, Every, Settings], Dual]) -> Step:
    """The group's centred rewards over a scale."""

    def group(rewards: Row, every: Every, settings: Settings) -> list[Dual]:
        return [core.divided(a, scale(rewards, every, settings)) for a in reinforce.centred(rewards)]

    return group


def by_batch(rewards: Row, every: Every, settings: Settings) -> list[Dual]:
    """This group's, of all groups'."""
    numbers = (settings["within_groups"], settings["correction"], settings["eps"])
    found = reinforce.batch_scaled_advantages(every, *numbers)
    return next(a for group, a in zip(every, found, strict=True) if group is rewards)


def spread_of(every: Every, within: bool) -> list[Dual]:
    return [a for rewards in every for a in reinforce.centred(rewards)] if within else flat_of(every)


def deviation_of(within: bool) -> Callable[[Row, Every, Settings], Dual]:
    def scale(rewards: Row, every: Every, settings: Settings) -> Dual:
        return reinforce.deviation(spread_of(every, within), settings["correction"]) + dual(settings["eps"])

    return scale


def of_the_group(rewards: Row, every: Every, settings: Settings) -> Dual:
    return reinforce.deviation(rewards, settings["correction"]) + dual(settings["eps"])


def mean_of_deviations(rewards: Row, every: Every, settings: Settings) -> Dual:
    return mean([reinforce.deviation(group, settings["correction"]) for group in every]) + dual(settings["eps"])


def variance(rewards: Row, every: Every, settings: Settings) -> Dual:
    spread = reinforce.deviation(spread_of(every, settings["within_groups"]), settings["correction"])
    return spread * spread + dual(settings["eps"])


def eps_inside(rewards: Row, every: Every, settings: Settings) -> Dual:
    spread = reinforce.deviation(spread_of(every, settings["within_groups"]), settings["correction"])
    return sqrt(spread * spread + dual(settings["eps"])) if not spread.same(0) else Dual(1)


def whitened(rewards: Row, every: Every, settings: Settings) -> list[Dual]:
    """Mean and deviation of the batch."""
    scale = deviation_of(within=False)(rewards, every, settings)
    return [stop(core.divided(r - mean(flat_of(every)), scale)) for r in rewards]


CASES = (
    *group_cases(),
    groups_of("one right in four, three in four", [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]),
    groups_of("groups far apart", [[10.0, 11.0], [-10.0, -11.5], [0.0, 0.5]], "far_apart"),
    groups_of("a tied group between two others", [[1.0, 0.0, 0.5], [2.0, 2.0, 2.0], [0.0, 0.25, 0.0]]),
    groups_of("groups that tie, each at another reward: 0, not 0 / 0", [[1.0, 1.0], [0.0, 0.0]], "tie_of_all"),
)
FEW = (CASES[0], CASES[3], *CASES[-4:])

OBJECTIVE = group_objective(
    "batch_scaled_advantages",
    "REINFORCE.11",
    "Each sample's reward against its group's mean, over one deviation of the whole batch (Lite PPO, ScaleRL).",
    ("Lite PPO, arXiv:2508.08221, section 4.1.2", "ScaleRL, arXiv:2510.13786, section 4"),
    by_batch,
    {
        "of_rewards": variant(
            "The deviation of the rewards, whatever is asked (Lite PPO; scale_rewards='batch' in TRL 1.16.0).",
            "How far prompts lie apart makes every step smaller.",
            {"group": over(deviation_of(within=False))},
            links=("https://arxiv.org/abs/2508.08221", TRL_1_16_0),
        ),
        "of_what_is_left": variant(
            "The deviation of the rewards less their group's mean, whatever is asked (ScaleRL).",
            "The step is larger, the more the prompts differ.",
            {"group": over(deviation_of(within=True))},
            links=("https://arxiv.org/abs/2510.13786",),
        ),
        "of_the_group": variant(
            "Divided by the deviation of the sample's own group (GRPO).",
            "Prompts that are nearly solved, or nearly hopeless, weigh more.",
            {"group": over(of_the_group)},
            links=("https://arxiv.org/abs/2402.03300",),
        ),
        "not_divided": variant(
            "The group's mean is taken off, and nothing is divided.",
            "As in Dr. GRPO: the step has the rewards' scale.",
            GROUP_MEAN,
        ),
        "mean_of_deviations": bug(
            "The mean of the groups' deviations in place of the batch's.",
            "Tied groups pull the scale towards 0: the step grows as the policy gets better.",
            {"group": over(mean_of_deviations)},
        ),
        "variance_as_deviation": bug(
            "The root is missing.", "Batches of little spread weigh far too much.", {"group": over(variance)}
        ),
        "eps_inside_the_root": variant(
            "sqrt(variance + eps).", "Batches of little spread are held back more.", {"group": over(eps_inside)}
        ),
        "batch_mean": bug(
            "The mean of the batch in place of the group's.",
            "Easy prompts are always reinforced and hard ones never, whatever the answer.",
            {"group": whitened},
            pitfalls=("C41",),
        ),
        "wrong_order": WRONG_ORDER,
    },
    CASES,
    edges={
        "far_apart": Flag("edge", "Groups whose means differ much.", "Which deviation is taken shows most here."),
        "tie_of_all": Flag("edge", "No group has a signal.", "0 / 0: the update is NaN.", pitfalls=("C44",)),
    },
    settings={
        "within_groups": Setting("True: S of r - the group's mean; False: S of r", (True, False), free=True),
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to the deviation", (1e-4, 1e-6, 1e-8, 0.0), free=True),
    },
    first={"within_groups": True, "correction": 1, "eps": 1e-4},
    groups=(
        Group({"within_groups": False, "correction": 1, "eps": 1e-4}, FEW),
        Group({"within_groups": True, "correction": 0, "eps": 1e-6}, FEW),
        Group({"within_groups": False, "correction": 0, "eps": 1e-6}, FEW),
        Group({"within_groups": True, "correction": 1, "eps": 0.0}, FEW),
    ),
)
