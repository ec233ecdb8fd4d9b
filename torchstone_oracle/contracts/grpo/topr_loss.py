"""topr_loss: good completions in full, bad ones by their ratio, at most 1."""

from __future__ import annotations

from ... import grpo
from ...contract import Alternative, Argument, Flag, Group, Objective, Setting
from ...numbers import Dual, bounded_exp, clip, dual, stop
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Settings, bug, variant, without
from .gspo_loss import GSPO_CASES, gspo_ratio
from .vespo_loss import product


def pair(settings: Settings, side: str) -> tuple[float, float]:
    return settings[f"low_{side}"], settings[f"high_{side}"]


def topr(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return grpo.topr(log_prob, u, a, pair(settings, "positive"), pair(settings, "negative"))


def weighed(bounds_of: str, log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    low, high = pair(settings, bounds_of)
    return -stop(clip(bounded_exp(u), dual(low), dual(high))) * a * log_prob


def with_gradient(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    low, high = pair(settings, "negative" if a < 0 else "positive")
    return -clip(bounded_exp(u), dual(low), dual(high)) * a * log_prob


TOPR_ALTERNATIVES = {
    "sides_swapped": bug(
        "The bounds for good and bad completions have changed places.",
        "What is bad and rare is pushed down without end; what is good and rare is not learned.",
        {"surrogate": lambda p, u, a, s: grpo.topr(p, u, a, pair(s, "negative"), pair(s, "positive"))},
    ),
    "one_pair_for_both": bug(
        "The negative bounds are used for good completions too.",
        "Good completions that the policy would not draw teach nothing.",
        {"surrogate": lambda p, u, a, s: weighed("negative", p, u, a, s)},
    ),
    "no_weight_for_bad": variant(
        "Bad completions count in full too: REINFORCE on samples of another policy.",
        "Their log-probs fall without end.",
        {"surrogate": lambda p, u, a, s: -a * p if a < 0 else topr(p, u, a, s)},
    ),
    "weight_not_detached": bug(
        "The gradient flows through the weight too.",
        "A term of no meaning, which grows with the length, is added to the gradient.",
        {"surrogate": with_gradient},
        pitfalls=("C22",),
    ),
    "token_weight": variant(
        "Each token has a weight of its own ratio, as in ROLL 8eb27cc2.",
        "A completion that the policy would no longer draw keeps most of its weight.",
        {"level": policy.each_token},
    ),
    "length_normalised": bug(
        "W is the geometric mean of the ratios, as in GSPO.",
        "Stale completions keep nearly their full weight.",
        {"level": gspo_ratio},
    ),
    "sum_over_padding": Alternative(
        Flag("bug", "W takes in the padding.", "The weight depends on what lies in the padding.", pitfalls=("C36",)),
        {"level": lambda us, advantages, marks, s: policy_ratios.sequence_product(us, advantages, [True] * len(us), s)},
    ),
}
OBJECTIVE = Objective(
    name="topr_loss",
    about="The completion's ratio, bounded by the sign of its advantage, times log pi, summed over a completion.",
    tags=("GRPO.26", "CORE.7"),
    source=("Le Roux et al., TOPR, arXiv:2503.14286v2, eq. 7 and 8",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": policy.reduction("sequence_sum"),
        "low_positive": Setting("the least weight, A >= 0", (1.0,), free=True),
        "high_positive": Setting("the largest weight, A >= 0", (1.0,), free=True),
        "low_negative": Setting("the least weight, A < 0", (0.0,), free=True),
        "high_negative": Setting("the largest weight, A < 0", (1.0,), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"level": product, "surrogate": topr},
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_sum"),
        **without(policy_reductions.BUGS, "plain_sum"),
        **without(policy_ratios.RATIO, "old_one_later"),
        **without(policy_ratios.ADVANTAGES, "negated_advantages"),
        **TOPR_ALTERNATIVES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {
                "reduce": "sequence_sum",
                "low_positive": 1.0,
                "high_positive": 1.0,
                "low_negative": 0.0,
                "high_negative": 1.0,
            },
            (*policy_cases.NEAR_CASES, *GSPO_CASES),
        ),
        Group(
            {
                "reduce": "sequence_sum",
                "low_positive": 0.5,
                "high_positive": 1.5,
                "low_negative": 0.25,
                "high_negative": 0.875,
            },
            (*policy_cases.few(False)[:3], *GSPO_CASES),
        ),
    ),
)
