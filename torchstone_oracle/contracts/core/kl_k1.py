"""kl_k1: the log-ratio as an estimate of the KL."""

from __future__ import annotations

from ... import core
from ...numbers import Dual, bounded_exp, exp, stop
from ..shared.common import OPENRLHF, bug
from ..shared.estimators import estimator, straight_through, swapped, value_and_gradient


def reversed_k1(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return stop(ref_log_prob) - log_prob


def minus_ratio(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return -bounded_exp(stop(ref_log_prob) - log_prob)


def weighted(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return exp(log_prob) * core.k1(log_prob, ref_log_prob)


def k1_value_k2_gradient(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return value_and_gradient(core.k1(log_prob, ref_log_prob), core.k2(log_prob, ref_log_prob))


OBJECTIVE = estimator(
    "kl_k1",
    "KL.1",
    "The log-ratio: an estimate of KL(policy || reference) from samples of the policy.",
    {
        "reversed_kl": swapped(reversed_k1),
        "minus_ratio": bug(
            "The ratio with a minus sign instead of its log.",
            "It reports -1, not 0, where nothing has moved.",
            {"kl": minus_ratio},
            pitfalls=("C35",),
            links=(f"{OPENRLHF}/commit/feeb0283",),
        ),
        "weighted_by_probability": bug(
            "pi (log pi - log pi_ref): weighted by the probability of the token, as in a sum over the vocabulary.",
            "The token was sampled, which is a weight already: likely tokens count twice, rare ones not at all.",
            {"kl": weighted},
        ),
        "k2_gradient": straight_through("k1", k1_value_k2_gradient),
    },
)
