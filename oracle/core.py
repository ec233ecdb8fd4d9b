"""Masks, log-probs, KL estimators and reductions, one number at a time."""

from __future__ import annotations

from .numbers import Dual, Number, bounded_exp, dual, stop

Matrix = list[list[Dual]]
Mask = list[list[bool]]


# -------------------------------------------------------------------- how far is the policy from a reference? (a token)


def k1(log_prob: Number, ref_log_prob: Number) -> Dual:
    """log pi - log pi_ref    (KL.1)"""
    return dual(log_prob) - stop(ref_log_prob)


def k2(log_prob: Number, ref_log_prob: Number) -> Dual:
    """(log pi - log pi_ref)^2 / 2    (KL.2)"""
    u = dual(log_prob) - stop(ref_log_prob)
    return u * u / 2


def k3(log_prob: Number, ref_log_prob: Number) -> Dual:
    """exp(u) - 1 - u,  u = log pi_ref - log pi    (KL.3)"""
    u = stop(ref_log_prob) - log_prob
    return bounded_exp(u) - 1 - u
