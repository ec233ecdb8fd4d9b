"""GRPO: the group as baseline, and what came after it, one group, one completion or one token at a time.

A function that takes a list is given the scored rewards of one group, or the *chosen* tokens of one completion.
"""

from __future__ import annotations

from collections.abc import Sequence

from .core import k2, k3
from .numbers import (
    Dual,
    Number,
    absolute,
    bounded_exp,
    clip,
    dual,
    exp,
    log,
    maximum,
    mean,
    minimum,
    sigmoid,
    sqrt,
    stop,
    total,
)

# ------------------------------------------------------------------------------------------------- advantages (stage 5)


def deviation(rewards: Sequence[Dual], correction: int) -> Dual:
    """The root of the sum of squares around the mean, over n - correction; exactly 0 for equal rewards."""
    if all(r.same(rewards[0]) for r in rewards):
        return dual(0)
    centre = mean(rewards)
    return sqrt(total((r - centre) * (r - centre) for r in rewards) / (len(rewards) - correction))


def group_advantages(rewards: Sequence[Dual], divide_by_std: bool, correction: int, eps: float) -> list[Dual]:
    """A_i = r_i - mean r    (GRPO.1)

    A_i = (r_i - mean r) / (std r + eps)    (GRPO.2)

    Exactly 0 for rewards that are all equal, or fewer than two.
    """
    if all(r.same(rewards[0]) for r in rewards):
        return [dual(0) for _ in rewards]
    centred = [stop(r - mean(rewards)) for r in rewards]
    if not divide_by_std:
        return centred
    return [c / (stop(deviation(rewards, correction)) + dual(eps)) for c in centred]


# ------------------------------------------------------------------------------------------------ ratios and surrogates


def sequence_log_ratio(log_ratios: Sequence[Dual]) -> Dual:
    """log s = (1 / |y|) sum_t log rho_t    (GRPO.4)"""
    return mean(log_ratios)


def sequence_log_ratio_of_token(whole: Dual, own: Dual) -> Dual:
    """log s_t = sg[log s] + log pi - sg[log pi]: the sequence's value, the token's gradient    (GRPO.5)"""
    return stop(whole) + own - stop(own)


def cispo(
    log_prob: Number,
    log_ratio: Number,
    advantage: Number,
    epsilon: float | None,
    epsilon_high: float | None,
    cap: float | None,
) -> Dual:
    """L_t = -sg[ clip(rho_t, 1 - epsilon, 1 + epsilon_high) ] A_t log pi    (GRPO.8)

    L_t = -sg[ min(rho_t, cap) ] A_t log pi    (GRPO.9)
    """
    low = dual("-inf") if epsilon is None else 1 - dual(epsilon)
    high = dual(cap) if epsilon_high is None else 1 + dual(epsilon_high)
    weight = clip(bounded_exp(log_ratio), low, high)
    return -stop(weight) * stop(advantage) * log_prob


def sapo(log_ratio: Number, advantage: Number, tau_positive: float, tau_negative: float) -> Dual:
    """L_t = -(4 / tau) sigmoid(tau (rho_t - 1)) A_t; tau by the sign of A_t    (GRPO.10)"""
    tau = dual(tau_positive if dual(advantage) > 0 else tau_negative)
    return -(4 / tau) * sigmoid(tau * (bounded_exp(log_ratio) - 1)) * stop(advantage)


def gmpo_log_ratio(
    log_ratios: Sequence[Dual], advantages: Sequence[Dual], epsilon: float, epsilon_high: float | None
) -> Dual:
    """c_t = min(log rho_t, epsilon_high) where A > 0, else max(log rho_t, -epsilon);  (1 / |y|) sum_t c_t (GRPO.11)"""
    high = epsilon if epsilon_high is None else epsilon_high
    return mean(
        [
            minimum(u, dual(high)) if a > 0 else maximum(u, -dual(epsilon))
            for u, a in zip(log_ratios, advantages, strict=True)
        ]
    )


def vespo(log_prob: Number, log_w: Number, advantage: Number, k: float, lam: float) -> Dual:
    """L_t = -sg[ W^k exp(lambda (1 - W)) ] A_t log pi;  W = prod_t rho_t    (GRPO.12)"""
    weight = exp(dual(k) * log_w + dual(lam) * (1 - bounded_exp(log_w)))
    return -stop(weight) * stop(advantage) * log_prob


def divergence(p: Dual, q: Dual, kind: str) -> Dual:
    """Between "this token" and "another": |p - q|, or q log(q / p) + (1 - q) log((1 - q) / (1 - p))    (GRPO.13)"""
    if kind == "tv":
        return absolute(p - q)
    return q * log(q / p) + (1 - q) * log((1 - q) / (1 - p))


def dppo(
    log_prob: Number,
    log_ratio: Number,
    advantage: Number,
    kind: str,
    epsilon: float,
    epsilon_high: float | None,
    cap: float | None,
) -> Dual:
    """L_t = -sg[ (1 - drop_t) min(rho_t, cap) ] A_t log pi    (GRPO.13)

    drop_t = D_t > epsilon_high and p > q where A_t > 0, else D_t > epsilon and p < q
    """
    p, q = stop(exp(log_prob)), stop(exp(log_prob - log_ratio))
    far = divergence(p, q, kind)
    if dual(advantage) > 0:
        dropped = p > q and far > dual(epsilon if epsilon_high is None else epsilon_high)
    else:
        dropped = p < q and far > dual(epsilon)
    weight = dual(0) if dropped else minimum(bounded_exp(log_ratio), dual("inf" if cap is None else cap))
    return -stop(weight) * stop(advantage) * log_prob


def quadratic(log_ratio: Number, advantage: Number, tau: float) -> Dual:
    """L = -A s + (tau / 2) s^2    (GRPO.24)"""
    s = dual(log_ratio)
    return -stop(advantage) * s + dual(tau) / 2 * s * s


def centred(rows: Sequence[Sequence[Dual]]) -> list[Dual]:
    """c_i = s_i - mean_j s_j, s the sum of a row of log-ratios; j over the rows that have one    (GRPO.25)"""
    sums = [total(row) for row in rows]
    others = [s for s, row in zip(sums, rows, strict=True) if row]
    return [s - mean(others) for s in sums]


def topr(
    log_prob: Number,
    log_w: Number,
    advantage: Number,
    positive: tuple[Number, Number],
    negative: tuple[Number, Number],
) -> Dual:
    """L_t = -sg[ clip(W, low, high) ] A_t log pi;  the bounds by the sign of A_t    (GRPO.26)"""
    low, high = negative if dual(advantage) < 0 else positive
    return -stop(clip(bounded_exp(log_w), dual(low), dual(high))) * stop(advantage) * log_prob


def real(scores: Sequence[Dual], right: Sequence[bool], tau: float) -> Dual:
    """log(1 + sum_right exp(-s / tau)) + log(1 + sum_wrong exp(s / tau)), and 0 without both kinds    (GRPO.27)"""
    if all(right) or not any(right):
        return dual(0)
    good = total(exp(-s / dual(tau)) for s, r in zip(scores, right, strict=True) if r)
    bad = total(exp(s / dual(tau)) for s, r in zip(scores, right, strict=True) if not r)
    return log(1 + good) + log(1 + bad)


# --------------------------------------------------------------------------------------------------- rewards and groups


def overlong_penalty(length: Number, max_length: int, cache: int) -> Dual:
    """clip((L_max - L_cache - |y|) / L_cache, -1, 0)    (GRPO.6)"""
    return stop(clip((max_length - cache - dual(length)) / cache, -1, 0))


def is_mixed(rewards: Sequence[Dual]) -> bool:
    """max_i r_i > min_i r_i    (GRPO.7)"""
    return any(not r.same(rewards[0]) for r in rewards)


# ----------------------------------------------------------------------------------------------------------- another KL


def k3_with_k2_gradient(log_prob: Number, ref_log_prob: Number) -> Dual:
    """sg[k3] + k2 - sg[k2]    (GRPO.14)"""
    pull = k2(log_prob, ref_log_prob)
    return stop(k3(log_prob, ref_log_prob)) + pull - stop(pull)


def ratio_weighted_kl(log_prob: Number, log_ratio: Number, ref_log_prob: Number) -> Dual:
    """rho_t k3, with gradient through rho_t    (GRPO.15)"""
    return bounded_exp(log_ratio) * k3(log_prob, ref_log_prob)


# ----------------------------------------------------------------------------------------------------------- who counts


def chord_weight(log_prob: Number) -> Dual:
    """w_t = p (1 - p)    (GRPO.28)"""
    p = stop(exp(log_prob))
    return p * (1 - p)


def off_policy_weight(log_ratios: Sequence[Dual], advantage: Number, limit: float) -> Dual:
    """0 where A < 0 and (1 / |y|) sum_t log(pi_old / pi) > limit, else 1    (GRPO.16)"""
    behind = -mean(log_ratios)
    return dual(0) if dual(advantage) < 0 and behind > dual(limit) else dual(1)


def group_token_mean(rows: Sequence[Sequence[Dual]], group_size: int, denominator: Number | None = None) -> Dual:
    """sum_p ( sum_{i in p} sum_t x_it / sum_{i in p} |y_i| ) / N;  N counts groups with a token    (GRPO.17)"""
    groups = [rows[i : i + group_size] for i in range(0, len(rows), group_size)]
    tokens = [[x for row in group for x in row] for group in groups]
    n = dual(sum(1 for xs in tokens if xs) if denominator is None else denominator)
    return total(mean(xs) for xs in tokens) / n if n > 0 else dual(0)
