"""kl_k3: exp(u) - 1 - u as an estimate of the KL."""

from __future__ import annotations

from ... import core
from ...numbers import Dual, bounded_exp, dual, stop
from ..shared.common import bug
from ..shared.estimators import FLIPPED, estimator, straight_through, swapped, value_and_gradient


def reversed_k3(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    u = dual(log_prob) - stop(ref_log_prob)
    return bounded_exp(u) - 1 - u


def without_one(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return core.k3(log_prob, ref_log_prob) + 1


def exp_reversed(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    u = stop(ref_log_prob) - log_prob
    return bounded_exp(-u) - 1 - u


def with_plus_u(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    u = stop(ref_log_prob) - log_prob
    return bounded_exp(u) - 1 + u


def k3_value_k2_gradient(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return value_and_gradient(core.k3(log_prob, ref_log_prob), core.k2(log_prob, ref_log_prob))


OBJECTIVE = estimator(
    "kl_k3",
    "KL.3",
    "exp(u) - 1 - u: an estimate of KL(policy || reference) that is never negative.",
    {
        "reversed_kl": swapped(reversed_k3),
        "sign_flipped": FLIPPED,
        "one_not_subtracted": bug(
            "exp(u) - u: the 1 is missing.",
            "It reports 1 nat a token where nothing has moved.",
            {"kl": without_one},
        ),
        "exp_reversed": bug(
            "exp(-u) - 1 - u: the ratio in the exponential is the other way round (swapped), the linear term is right.",
            "It is no longer 0 only where the two agree, and may be negative.",
            {"kl": exp_reversed},
        ),
        "u_added": bug(
            "exp(u) - 1 + u: the linear term has the wrong sign.",
            "It pushes the policy away from tokens that the reference likes less.",
            {"kl": with_plus_u},
        ),
        "k2_gradient": straight_through("k3", k3_value_k2_gradient),
    },
)
