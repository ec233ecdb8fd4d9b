"""greedy_advantages: the reward less that of the greedy completion (ReMax)."""

from __future__ import annotations

from typing import Any

from ... import reinforce
from ...contract import Argument
from ...numbers import Dual, maximum, mean
from ..shared.common import Row, Settings, bug, variant
from ..shared.groups import (
    GROUP_MEAN,
    LEAVE_ONE_OUT,
    NO_BASELINE,
    Sampled,
    group_cases,
    group_objective,
    groups_of,
    minus,
    of_each,
)


def of_each_column(x: Any, group: Sampled) -> list[Dual]:
    """[P] along the columns of [P G], where P = G lets it."""
    return [x[i] for _, i, _ in group] if len(group) == len(x) else of_each(x, group)


def greedy(p: int, g: int) -> dict[str, Any]:
    return {"greedy_rewards": [0.5, -1.0, 2.0][:p]}


def greedy_group(rewards: Row, every: Any, settings: Settings, greedy: Row) -> list[Dual]:
    """One greedy reward for each sample: that of its prompt."""
    return [reinforce.greedy_advantages([r], g)[0] for r, g in zip(rewards, greedy, strict=True)]


GREEDY_CASES = group_cases(greedy, "valid")
OBJECTIVE = group_objective(
    "greedy_advantages",
    "REINFORCE.6",
    "Each sample's reward minus that of the greedy completion of the same prompt (ReMax).",
    ("ReMax, arXiv:2310.10505",),
    greedy_group,
    {
        "greedy_added": bug(
            "The greedy reward is added.",
            "The baseline doubles the noise instead of taking it away.",
            {"group": lambda rewards, every, settings, greedy: minus(rewards, [-g for g in greedy])},
        ),
        "no_baseline": NO_BASELINE,
        "own_reward_included": variant(
            "The group's mean is the baseline; the greedy reward is not used.",
            "With one sample a prompt, nothing is trained.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant(
            "The siblings' mean is the baseline; the greedy reward is not used.",
            "Another baseline of the same mean.",
            LEAVE_ONE_OUT,
        ),
        "wrong_axis": bug(
            "The greedy rewards are laid along the samples instead of the prompts, where P = G lets it.",
            "Samples are compared with the greedy answer to another question, in batches of this one shape only.",
            {"other": of_each_column},
            pitfalls=("C09",),
        ),
        "greedy_in_mean": variant(
            "The baseline is the mean over the group and the greedy completion.",
            "A baseline that saw its own sample: a smaller gradient.",
            {"group": lambda rewards, every, settings, greedy: minus(rewards, mean([*rewards, *greedy[:1]]))},
        ),
        "only_improvements": bug(
            "What is worse than the greedy completion gets 0.",
            "Bad samples are not punished: the expected gradient is another one.",
            {"group": lambda rewards, every, settings, greedy: [maximum(a, 0) for a in minus(rewards, greedy)]},
        ),
    },
    (
        *GREEDY_CASES[:4],
        groups_of("ties with the greedy completion: 0", [[0.1, 0.7, 0.1]], "tie_that_rounds",
                  more={"greedy_rewards": [0.1]}),
        *GREEDY_CASES[7:],
    ),
    arguments={"greedy_rewards": Argument("P", "reward units, of the greedy completion of each prompt")},
)  # fmt: skip
