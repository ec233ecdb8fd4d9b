"""sapo_loss: a smooth gate in place of the clip."""

from __future__ import annotations

from ... import grpo, ppo
from ...contract import Alternative, Flag, Group, Objective, Setting
from ...numbers import Dual, bounded_exp, dual, sigmoid
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Settings, without
from .cispo_loss import WIDE


def sapo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return grpo.sapo(u, a, settings["tau_positive"], settings["tau_negative"])


def tau(a: Dual, settings: Settings) -> Dual:
    return dual(settings["tau_positive"] if a > 0 else settings["tau_negative"])


SAPO_SURROGATES = {
    "advantages_missing": Alternative(
        Flag(
            "bug",
            "The gate is not multiplied by the advantage.",
            "Every token counts as good: the policy reinforces whatever it sampled.",
            ("https://github.com/unslothai/unsloth-zoo/pull/869",),
            ("C29",),
        ),
        {"surrogate": lambda p, u, a, s: sapo(p, u, dual(1), s)},
    ),
    "tau_swapped": Alternative(
        Flag(
            "bug", "The two temperatures have changed places.", "The gate closes faster for good tokens than for bad."
        ),
        {"surrogate": lambda p, u, a, s: grpo.sapo(u, a, s["tau_negative"], s["tau_positive"])},
    ),
    "one_tau": Alternative(
        Flag("variant", "One temperature, the positive one, for both signs.", "Bad tokens are gated more slowly."),
        {"surrogate": lambda p, u, a, s: grpo.sapo(u, a, s["tau_positive"], s["tau_positive"])},
    ),
    "not_scaled": Alternative(
        Flag("bug", "The factor 4 / tau is missing.", "The step is tau / 4 of what it should be: about a quarter."),
        {"surrogate": lambda p, u, a, s: sapo(p, u, a, s) * tau(a, s) / 4},
    ),
    "scaled_by_tau": Alternative(
        Flag("bug", "4 tau in place of 4 / tau.", "The step differs with the square of tau."),
        {"surrogate": lambda p, u, a, s: sapo(p, u, a, s) * tau(a, s) * tau(a, s)},
    ),
    "gate_of_the_ratio": Alternative(
        Flag(
            "bug", "sigmoid(tau r): the ratio is not compared with 1.", "The gate closes at ratio 0: always half shut."
        ),
        {"surrogate": lambda p, u, a, s: -(4 / tau(a, s)) * sigmoid(tau(a, s) * bounded_exp(u)) * a},
    ),
    "gate_of_the_log_ratio": Alternative(
        Flag(
            "bug",
            "sigmoid(tau log r): nats in place of ratio - 1.",
            "The gate is symmetric in nats: it stays open longer.",
        ),
        {"surrogate": lambda p, u, a, s: -(4 / tau(a, s)) * sigmoid(tau(a, s) * u) * a},
    ),
    "gate_as_weight": Alternative(
        Flag(
            "bug",
            "The gate's weight times the ratio, as a value: r 4 p (1 - p) A, differentiated once more.",
            "The gradient changes sign far from 1.",
        ),
        {
            "surrogate": lambda p, u, a, s: (
                -bounded_exp(u)
                * 4
                * sigmoid(tau(a, s) * (bounded_exp(u) - 1))
                * (1 - sigmoid(tau(a, s) * (bounded_exp(u) - 1)))
                * a
            )
        },
    ),
    "ppo_clip": Alternative(
        Flag("variant", "PPO's hard clip, epsilon 0.2.", "Tokens out of range lose their gradient at once."),
        {"surrogate": lambda p, u, a, s: ppo.clipped_surrogate(u, a, 0.2)},
    ),
    "no_clip": policy_surrogates.ALTERNATIVES["no_clip"],
}
OBJECTIVE = Objective(
    name="sapo_loss",
    about="A soft gate in place of the clip; row mean, then mean.",
    tags=("GRPO.10", "CORE.6"),
    source=("Gao et al., SAPO, arXiv:2511.20347v2, eq. 5 and 6",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": policy.LOSS},
    settings={
        "reduce": policy.reduction("sequence_mean"),
        "tau_positive": Setting("how fast the gate closes for good tokens", (1.0, 2.0), free=True),
        "tau_negative": Setting("how fast the gate closes for bad tokens", (1.05, 4.0), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"surrogate": sapo},
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_mean"),
        **policy_reductions.BUGS,
        **policy_ratios.RATIO,
        **policy_ratios.LEVELS,
        **without(policy_ratios.ADVANTAGES, "negated_advantages", "mask_as_advantages"),
        **SAPO_SURROGATES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "tau_positive": 1.0, "tau_negative": 1.05}, (*policy_cases.NEAR_CASES, WIDE)),
        Group({"reduce": "sequence_mean", "tau_positive": 2.0, "tau_negative": 4.0}, policy_cases.few(False)[:3]),
    ),
)
