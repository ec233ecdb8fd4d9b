"""approx_kl: the KL to the old policy that is watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core, ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Step
from ...numbers import bounded_exp, dual, mean, stop, total
from ..shared import policy, policy_reductions
from ..shared.common import (
    CONSTANT_LOG_PROBS,
    FORMER_PPO_OF_TRL,
    MASK,
    OPENRLHF,
    OPENRLHF_0_11_2,
    TORCHRL_0_14_1,
    VERL_0_9_1,
    Matrix,
    Settings,
    entries,
)
from .clipped_surrogate import TOKEN_CASES

APPROX_KLS = {
    "k1_as_approx_kl": Alternative(
        Flag(
            "variant",
            "mean(log pi_old - log pi) is reported (k1).",
            "Noisier, and sometimes negative.",
            (VERL_0_9_1, OPENRLHF_0_11_2),
        ),
        {"approx_kl": lambda u: -stop(u)},
    ),
    "half_square_as_approx_kl": Alternative(
        Flag(
            "variant",
            "Half the squared log-ratio is reported (k2).",
            "Close to the KL while that is small.",
            (FORMER_PPO_OF_TRL,),
        ),
        {"approx_kl": lambda u: stop(u * u / 2)},
    ),
    "negative_ratio_as_approx_kl": Alternative(
        Flag(
            "bug",
            "mean(-ratio) is reported in place of mean(-log ratio).",
            "-1 on policy: a stop criterion or a controller acts on nonsense.",
            (f"{OPENRLHF}/commit/feeb0283",),
            ("C35",),
        ),
        {"approx_kl": lambda u: -stop(bounded_exp(u))},
    ),
    "reversed_approx_kl": Alternative(
        Flag(
            "bug",
            "exp(-u) - 1 + u, with u = log pi - log pi_old: pi and pi_old are swapped.",
            "Its mean is not the KL.",
            (),
            ("C32",),
        ),
        {"approx_kl": lambda u: stop(bounded_exp(-u) - 1 + u)},
    ),
}


def log_ratios(inputs: Inputs, steps: Mapping[str, Step]) -> Matrix:
    return [
        [steps["log_ratio"](p, q) for p, q in zip(*rows, strict=True)]
        for rows in zip(inputs["log_probs"], inputs["old_log_probs"], strict=True)
    ]


def mean_kl(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    x = [[steps["approx_kl"](u) for u in row] for row in log_ratios(inputs, steps)]
    return {"kl": stop(steps["mean"](x, inputs["mask"]))}


MEANS = {
    "unmasked": Alternative(
        Flag(
            "bug",
            "Padding is counted, whatever lies in it.",
            "The curve depends on how much padding there is.",
            (),
            ("C36",),
        ),
        {"mean": lambda x, marks: mean([v for row in x for v in row])},
    ),
    "padding_as_zero": Alternative(
        Flag(
            "bug",
            "Padding counts as 0 in the mean.",
            "The curve falls when completions get shorter.",
            (FORMER_PPO_OF_TRL, TORCHRL_0_14_1),
            ("C36",),
        ),
        {"mean": lambda x, marks: total(v for row in entries(x, marks) for v in row) / (len(x) * len(x[0]))},
    ),
    "mean_of_row_means": Alternative(
        Flag("variant", "Mean in each row, then over rows.", "Short completions weigh more in the curve."),
        {"mean": core.sequence_mean},
    ),
    "zero_over_zero": Alternative(
        policy_reductions.BUGS["zero_over_zero"].flag,
        {"mean": lambda x, marks: core.token_mean(x, marks) if any(map(any, marks)) else dual(0) / dual(0)},
    ),
}
WATCHED = tuple(
    Case(c.comment, {k: v for k, v in c.inputs.items() if k != "advantages"}, c.flags)
    for c in TOKEN_CASES
    if c.result == "valid"
)
CONSTANTS = {"log_probs": CONSTANT_LOG_PROBS, "old_log_probs": CONSTANT_LOG_PROBS}
OBJECTIVE = Objective(
    name="approx_kl",
    about="How far the policy has moved since it sampled: k3 of KL(pi_old || pi), averaged over tokens. A metric.",
    tags=("PPO.7", "KL.3", "CORE.5"),
    source=("Schulman, Approximating KL Divergence, 2020, http://joschu.net/blog/kl-approx.html",),
    arguments={**CONSTANTS, "mask": MASK},
    returns={"kl": Argument("", "nats")},
    settings={},
    compute=mean_kl,
    steps={"log_ratio": ppo.log_ratio, "approx_kl": ppo.approx_kl, "mean": core.token_mean},
    alternatives={
        **APPROX_KLS,
        "reversed_k1": Alternative(
            Flag("bug", "mean(log pi - log pi_old).", "Minus the KL: a stop criterion never fires.", (), ("C32",)),
            {"approx_kl": lambda u: stop(u)},
        ),
        **MEANS,
    },
    edges=policy.POLICY_EDGES,
    groups=(Group({}, WATCHED),),
)
