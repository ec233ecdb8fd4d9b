"""importance_surrogate: the ratio times the advantage, without a clip."""

from __future__ import annotations

from ... import ppo
from ...contract import Alternative, Argument, Flag, Group, Objective
from ...numbers import Dual, bounded_exp, stop
from ..shared import policy, policy_ratios, policy_surrogates
from ..shared.common import Settings, without
from .clipped_surrogate import MASK_MULTIPLIED, TOKEN_ARGUMENTS, TOKEN_CASES


def constant_surrogate(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return stop(ppo.importance_surrogate(u, a))


OBJECTIVE = Objective(
    name="importance_surrogate",
    about="The loss per token that PPO clips, without the clip.",
    tags=("PPO.7", "PPO.12"),
    source=("Schulman et al., PPO, arXiv:1707.06347v2, eq. 6",),
    arguments=TOKEN_ARGUMENTS,
    returns={"losses": Argument("B T", "that of the advantages")},
    settings={},
    compute=policy.token_losses,
    steps=policy.STEPS | {"surrogate": policy_surrogates.no_clip},
    alternatives={
        **policy_ratios.RATIO,
        **policy_ratios.LEVELS,
        **without(policy_ratios.ADVANTAGES, "whitened_advantages", "negated_advantages"),
        "clipped": Alternative(
            Flag("variant", "PPO's clip, epsilon 0.2.", "Tokens far off lose their gradient."),
            {"surrogate": lambda p, u, a, s: ppo.clipped_surrogate(u, a, 0.2)},
        ),
        "no_ratio": policy_surrogates.ALTERNATIVES["no_ratio"],
        "detached": Alternative(
            policy_surrogates.ALTERNATIVES["detached_surrogate"].flag, {"surrogate": constant_surrogate}
        ),
        "ratio_detached_times_log_prob": Alternative(
            Flag(
                "variant",
                "sg[r] A log pi: the same gradient, another value.",
                "None on the update; the logged loss is another number.",
            ),
            {"surrogate": lambda p, u, a, s: -stop(bounded_exp(u)) * a * p},
        ),
        "log_ratio_as_ratio": Alternative(
            policy_surrogates.ALTERNATIVES["log_ratio_as_ratio"].flag, {"surrogate": lambda p, u, a, s: -u * a}
        ),
        "mask_multiplied": MASK_MULTIPLIED,
        "negated": policy_surrogates.NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(Group({}, TOKEN_CASES),),
)
