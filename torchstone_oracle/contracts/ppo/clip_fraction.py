"""clip_fraction: the share of tokens that the clip holds back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core, ppo
from ...contract import Alternative, Argument, Flag, Group, Inputs, Objective, Step
from ...numbers import bounded_exp, stop
from ..shared import policy, policy_cases, policy_surrogates
from ..shared.common import MASK, Settings
from .approx_kl import CONSTANTS, MEANS, log_ratios
from .clipped_surrogate import FEW_TOKENS, TOKEN_ARGUMENTS, TOKEN_CASES


def share_of_clipped(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    x = [
        [steps["clipped"](u, steps["advantage"](inputs, b, t), settings) for t, u in enumerate(row)]
        for b, row in enumerate(log_ratios(inputs, steps))
    ]
    return {"fraction": stop(steps["mean"](x, inputs["mask"]))}


OBJECTIVE = Objective(
    name="clip_fraction",
    about="The share of tokens whose gradient the clip removes: above it where A > 0, below it where A < 0. A metric.",
    tags=("PPO.8", "CORE.5"),
    source=("Schulman et al., PPO, arXiv:1707.06347v2, eq. 7",),
    arguments={**CONSTANTS, "advantages": TOKEN_ARGUMENTS["advantages"], "mask": MASK},
    returns={"fraction": Argument("", "share of tokens")},
    settings={"epsilon": policy.EPSILON, "epsilon_high": policy.EPSILON_HIGH},
    compute=share_of_clipped,
    steps={
        "log_ratio": ppo.log_ratio,
        "advantage": policy.STEPS["advantage"],
        "clipped": lambda u, a, s: policy.STEPS["low"](u, a, s) + policy.STEPS["high"](u, a, s),
        "mean": core.token_mean,
    },
    alternatives={
        "counts_out_of_range": Alternative(
            policy_surrogates.OUT_OF_RANGE.flag,
            {
                "clipped": lambda u, a, s: (
                    policy_surrogates.OUT_OF_RANGE.steps["low"](u, a, s)
                    + policy_surrogates.OUT_OF_RANGE.steps["high"](u, a, s)
                )
            },
        ),
        "logs_the_ratio": Alternative(
            Flag(
                "bug",
                "The mean ratio is reported under the clip fraction's name.",
                "The curve stays near 1, whatever is clipped.",
                ("https://github.com/pytorch/rl/commit/4bce3716b",),
                ("C17",),
            ),
            {"clipped": lambda u, a, s: bounded_exp(u)},
        ),
        "only_above": Alternative(
            Flag("variant", "Only the upper side is counted.", "Half of the story."), {"clipped": policy.STEPS["high"]}
        ),
        "only_below": Alternative(
            Flag("variant", "Only the lower side is counted.", "Half of the story."), {"clipped": policy.STEPS["low"]}
        ),
        "wrong_side": Alternative(
            Flag("bug", "Counts where the clip does not act.", "The curve falls when the clip bites.", (), ("C17",)),
            {"clipped": lambda u, a, s: policy.STEPS["low"](u, -a, s) + policy.STEPS["high"](u, -a, s)},
        ),
        **MEANS,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"epsilon": 0.2, "epsilon_high": None}, tuple(c for c in TOKEN_CASES if c.result == "valid")),
        Group({"epsilon": 0.2, "epsilon_high": 0.28}, (policy_cases.BETWEEN_TOKENS, FEW_TOKENS[0])),
        Group({"epsilon": 0.1, "epsilon_high": None}, (policy_cases.BETWEEN_TOKENS,)),
        Group({"epsilon": 0.1, "epsilon_high": 0.4}, FEW_TOKENS[:1]),
    ),
)
