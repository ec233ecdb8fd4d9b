"""Learning from preference pairs: sequence log-probs, the DPO family and reward models, one pair at a time."""

from __future__ import annotations

from collections.abc import Sequence

from .core import Mask, Matrix, Row, chosen, divided
from .numbers import Dual, Number, bounded_exp, dual, exp, log, log_sigmoid, maximum, mean, mpf, sigmoid, stop, total

# ---------------------------------------- from tokens to completions


def sequence_log_prob(log_probs: Sequence[Dual], marks: Sequence[bool], average: bool) -> Dual:
    """log pi(y | x) = sum_t log pi(y_t | x, y_<t)    [/ |y|, with average]; 0 of no token    (DPO.1)"""
    tokens = chosen(log_probs, marks)
    return mean(tokens) if average else total(tokens)


def shared_length_log_prob(
    log_probs: Sequence[Dual], marks: Sequence[bool], others: Sequence[bool], alpha: Number
) -> Dual:
    """sum_{t <= l} log p_t + alpha sum_{t > l} log p_t,  l = min(|y|, |y'|), y' the other completion    (DPO.30)"""
    tokens = chosen(log_probs, marks)
    shared = min(len(tokens), sum(others))
    return total(tokens[:shared]) + alpha * total(tokens[shared:])


def implicit_reward(log_prob: Number, ref_log_prob: Number, beta: Number) -> Dual:
    """r = beta (log pi - log pi_ref); the reference is a constant    (DPO.2)"""
    return beta * (dual(log_prob) - stop(ref_log_prob))


def pair_mean(losses: Sequence[Dual], denominator: Number | None = None) -> Dual:
    """sum_i L_i / N; N counts pairs, and is that of the whole batch if given. 0 of nothing."""
    return divided(total(losses), len(losses) if denominator is None else denominator)


# ---------------------------------------- losses of one pair; win and lose are the two implicit rewards


def logistic(h: Dual, s: Number) -> Dual:
    """-(1 - s) log sigmoid(h) - s log sigmoid(-h)"""
    return -(1 - dual(s)) * log_sigmoid(h) - s * log_sigmoid(-h)


def dpo(win: Dual, lose: Dual, label_smoothing: Number = 0) -> Dual:
    """-(1 - s) log sigmoid(h) - s log sigmoid(-h),  h = r_w - r_l    (DPO.3, DPO.4)"""
    return logistic(win - lose, label_smoothing)


def ipo(win: Dual, lose: Dual, beta: Number) -> Dual:
    """(h / beta - 1 / (2 beta))^2    (DPO.7)"""
    gap = (win - lose) / beta - 1 / (2 * dual(beta))
    return gap * gap


def robust(win: Dual, lose: Dual, e: Number) -> Dual:
    """(-(1 - e) log sigmoid(h) + e log sigmoid(-h)) / (1 - 2 e)    (DPO.8)"""
    h = win - lose
    return (-(1 - dual(e)) * log_sigmoid(h) + e * log_sigmoid(-h)) / (1 - 2 * dual(e))


def hinge(win: Dual, lose: Dual, delta: Number) -> Dual:
    """max(0, delta - h)    (DPO.9)"""
    return maximum(0, delta - (win - lose))


def simpo(win: Dual, lose: Dual, gamma: Number) -> Dual:
    """-log sigmoid(h - gamma), the rewards being beta times mean log-probs    (DPO.10)"""
    return -log_sigmoid(win - lose - gamma)


LOG_ODDS_BOUND = 20


def log_odds(log_p: Dual) -> Dual:
    """log P - log(1 - P), of slope 1 / (1 - P); beyond 20 its tangent    (DPO.11)"""
    bound = log_sigmoid(LOG_ODDS_BOUND)
    if log_p > bound:
        return LOG_ODDS_BOUND + (log_p - bound) * (1 + exp(LOG_ODDS_BOUND))
    return log_p - log(1 - exp(log_p))


def apo_zero(win: Dual, lose: Dual) -> Dual:
    """1 - sigmoid(r_w) + sigmoid(r_l)    (DPO.15)"""
    return 1 - sigmoid(win) + sigmoid(lose)


def apo_down(win: Dual, lose: Dual) -> Dual:
    """sigmoid(r_w) + 1 - sigmoid(r_w - r_l)    (DPO.16)"""
    return sigmoid(win) + 1 - sigmoid(win - lose)


def exo(win: Dual, lose: Dual, e: Number) -> Dual:
    """sigmoid(h) log(sigmoid(h) / (1 - e)) + sigmoid(-h) log(sigmoid(-h) / e)    (DPO.20)"""
    h = win - lose
    return sigmoid(h) * (log_sigmoid(h) - log(1 - dual(e))) + sigmoid(-h) * (log_sigmoid(-h) - log(e))


def nca(win: Dual, lose: Dual) -> Dual:
    """-log sigmoid(r_w) - log sigmoid(-r_w) / 2 - log sigmoid(-r_l) / 2    (DPO.21)"""
    return -log_sigmoid(win) - log_sigmoid(-win) / 2 - log_sigmoid(-lose) / 2


def bco(win: Dual, lose: Dual, shift: Number) -> Dual:
    """-log sigmoid(r_w - d) - log sigmoid(-(r_l - d))    (DPO.22)"""
    return -log_sigmoid(win - shift) - log_sigmoid(-(lose - shift))


def bco_reward_shift(rewards: Sequence[Number], desirable: Sequence[bool]) -> Dual:
    """d = (mean of r over the good + mean of r over the bad) / 2; a constant, a kind without any is 0    (DPO.33)"""
    kinds = [[stop(r) for r, up in zip(rewards, desirable, strict=True) if up == kind] for kind in (True, False)]
    return (mean(kinds[0]) + mean(kinds[1])) / 2


def bco_alone(r: Dual, desirable: bool, shift: Number) -> Dual:
    """-log sigmoid(r - d) if desirable, else -log sigmoid(-(r - d))    (DPO.34, one completion)"""
    return -log_sigmoid(r - shift if desirable else shift - r)


def power_reward(x: Dual, alpha: Number) -> Dual:
    """(1 - exp(-alpha x)) / alpha, exponents beyond 20 as their tangent; x at alpha 0    (DPO.35)"""
    return x if dual(alpha).same(0) else (1 - bounded_exp(-alpha * x)) / alpha


def divergence_reward(s: Dual, divergence: str, alpha: Number | None) -> Dual:
    """f'(exp(s)) less its value at s = 0    (DPO.36, g)"""
    if divergence == "js":
        return log(2) + log_sigmoid(s)
    return power_reward(s, {"reverse-kl": 0, "forward-kl": 1}.get(divergence, alpha))


def f_dpo(win: Dual, lose: Dual, beta: Number, divergence: str, alpha: Number | None) -> Dual:
    """-log sigmoid(beta g(s_w) - beta g(s_l)),  s = r / beta    (DPO.36)"""
    g_w, g_l = (divergence_reward(r / beta, divergence, alpha) for r in (win, lose))
    return -log_sigmoid(beta * (g_w - g_l))


def alphapo(win: Dual, lose: Dual, beta: Number, gamma: Number, alpha: Number) -> Dual:
    """-log sigmoid(beta g(l_w) - beta g(l_l) - gamma),  l = r / beta    (DPO.37)"""
    return -log_sigmoid(beta * (power_reward(win / beta, alpha) - power_reward(lose / beta, alpha)) - gamma)


def moved_reference(ref: Dual, parameter: Dual, alpha: Number) -> Dual:
    """(1 - alpha) theta_ref + alpha theta; a constant    (DPO.32)"""
    return stop((1 - dual(alpha)) * ref + alpha * parameter)


def mpo(win: Dual, lose: Dual, w_p: Number, w_q: Number, shift: Number) -> Dual:
    """-w_p log sigmoid(h) - w_q (log sigmoid(r_w - d) + log sigmoid(-(r_l - d)))    (DPO.31)"""
    return -w_p * log_sigmoid(win - lose) - w_q * (log_sigmoid(win - shift) + log_sigmoid(-(lose - shift)))


def optimism(chosen: Dual, rejected: Dual, chosen_is_from_reference: bool) -> Dual:
    """log pi(y~), y~ the completion that the reference wrote    (DPO.38)"""
    return chosen if chosen_is_from_reference else rejected


def dpop(win: Dual, lose: Dual, penalty: Number) -> Dual:
    """-log sigmoid(r_w - r_l - penalty max(0, -r_w)); at 0 the charge has no slope    (DPO.39)"""
    charge = -win if win < 0 else Dual(0)
    return -log_sigmoid(win - lose - penalty * charge)


def sppo(win: Dual, lose: Dual, beta: Number, p_w: Number, p_l: Number) -> Dual:
    """((r_w - (P_w - 1/2)) / beta)^2 + ((r_l - (P_l - 1/2)) / beta)^2    (DPO.23)"""
    a = (win - (stop(p_w) - mpf("0.5"))) / beta
    b = (lose - (stop(p_l) - mpf("0.5"))) / beta
    return a * a + b * b


def discopop(win: Dual, lose: Dual, tau: Number) -> Dual:
    """-(1 - g) log sigmoid(h) + g exp(-h),  g = sigmoid(h / tau)    (DPO.24)"""
    h = win - lose
    g = sigmoid(h / tau)
    return -(1 - g) * log_sigmoid(h) + g * exp(-h)


def ascending(xs: Sequence[Dual]) -> Row:
    return sorted(xs, key=lambda x: x.value)


# ---------------------------------------- thumbs up and down, no pairs


def kto_reference_point(log_probs: Sequence[Number], ref_log_probs: Sequence[Number]) -> Dual:
    """z = max(0, mean_i(log pi - log pi_ref)) over mismatched pairs; a constant    (DPO.13)"""
    return stop(maximum(0, mean([dual(p) - q for p, q in zip(log_probs, ref_log_probs, strict=True)])))


def kto(u: Dual, desirable: bool, beta: Number, z: Number) -> Dual:
    """1 - sigmoid(beta (u - z)) if desirable, else 1 - sigmoid(beta (z - u))    (DPO.14, without its weight)"""
    gain = beta * (u - stop(z))
    return 1 - sigmoid(gain if desirable else -gain)


# ---------------------------------------- WPO's weights


def log_sum_squares(log_probs: Sequence[Dual]) -> Dual:
    """log c = log sum_v pi(v)^2; a constant    (DPO.17)"""
    return stop(log(total(exp(2 * p) for p in log_probs)))


def wpo_weight(log_probs: Sequence[Dual], log_normalisers: Sequence[Dual] | None, marks: Sequence[bool]) -> Dual:
    """exp(mean_t(log pi(y_t) - log c_t)); a constant, and 1 of no token    (DPO.18)"""
    given = chosen(log_probs, marks)
    below = [Dual(0)] * len(given) if log_normalisers is None else chosen(log_normalisers, marks)
    return stop(exp(mean([p - c for p, c in zip(given, below, strict=True)])))


# ---------------------------------------- likelihoods and reward models


def negative(log_probs: Matrix, mask: Mask) -> list[list[Dual | None]]:
    """-log pi(y_t | x, y_<t) at the tokens that count    (DPO.26, before reduce)"""
    return [[-x if m else None for x, m in zip(*rows, strict=True)] for rows in zip(log_probs, mask, strict=True)]


def cross_entropy(z: Dual, c: Number) -> Dual:
    """-c log sigmoid(z) - (1 - c) log sigmoid(-z)    (DPO.28, DPO.29, at one token)"""
    return -stop(c) * log_sigmoid(z) - (1 - stop(c)) * log_sigmoid(-z)


def bradley_terry(win: Dual, lose: Dual, margin: Number) -> Dual:
    """-log sigmoid(r_w - r_l - margin)    (DPO.5, DPO.6)"""
    return -log_sigmoid(win - lose - stop(margin))


def centring(win: Dual, lose: Dual) -> Dual:
    """(r_w + r_l)^2, that holds the zero of the rewards    (DPO.27)"""
    return (win + lose) * (win + lose)
