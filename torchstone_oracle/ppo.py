"""PPO: shaped rewards, generalised advantages, the clip and the critic's error, one completion or one token at a time.

A function that takes a list is given the *chosen* tokens of one completion, in order: what lies between and after them
does not exist for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .core import k1
from .numbers import Dual, Number, bounded_exp, clip, dual, maximum, mean, minimum, stop, total

# ---------------------------------------------------------------------------------------------------- rewards (stage 4)


def shaped_rewards(score: Number, log_probs: Sequence[Dual], ref_log_probs: Sequence[Dual], beta: Number) -> list[Dual]:
    """r_t = -beta (log pi - log pi_ref) + [t is last] score    (PPO.1)"""
    rewards = [-dual(beta) * stop(k1(p, q)) for p, q in zip(log_probs, ref_log_probs, strict=True)]
    if rewards:
        rewards[-1] = rewards[-1] + stop(score)
    return rewards


def adaptive_kl(beta: Number, kl: Number, target: Number, gain: Number, max_error: Number) -> Dual:
    """e = clip(KL / target - 1, -e_max, e_max),  beta (1 + K e)    (PPO.2)"""
    error = clip(dual(kl) / target - 1, -dual(max_error), dual(max_error))
    return dual(beta) * (1 + dual(gain) * error)


# ------------------------------------------------------------------------------------------------- advantages (stage 5)


def gae(rewards: Sequence[Dual], values: Sequence[Dual], gamma: Number, lam: Number) -> tuple[list[Dual], list[Dual]]:
    """From the last chosen token backwards. Nothing follows the last one: no value, no advantage.

    delta_t = r_t + gamma V_{t+1} - V_t    (PPO.3)
    A_t = delta_t + gamma lam A_{t+1}    (PPO.4)
    R_t = A_t + V_t    (PPO.5)
    """
    advantages: list[Dual] = []
    next_value, next_advantage = dual(0), dual(0)
    for reward, value in reversed(list(zip(rewards, values, strict=True))):
        delta = stop(reward) + dual(gamma) * next_value - stop(value)
        next_advantage = delta + dual(gamma) * dual(lam) * next_advantage
        next_value = stop(value)
        advantages.insert(0, next_advantage)
    return advantages, [a + stop(v) for a, v in zip(advantages, values, strict=True)]


def decoupled_gae(
    rewards: Sequence[Dual], values: Sequence[Dual], gamma: Number, lam: Number, value_lam: Number
) -> tuple[list[Dual], list[Dual]]:
    """A_t = GAE_t(gamma, lam), R_t = GAE_t(gamma, value_lam) + V_t    (PPO.16)"""
    return gae(rewards, values, gamma, lam)[0], gae(rewards, values, gamma, value_lam)[1]


def length_lam(length: int, alpha: Number) -> Dual:
    """max(0, 1 - 1 / (alpha |y|))    (PPO.17)"""
    return maximum(1 - 1 / (dual(alpha) * length), dual(0)) if length else dual(0)


def variance(xs: Sequence[Dual]) -> Dual:
    """The mean square of what is left when the mean is taken away."""
    centre = mean(xs)
    return mean([(x - centre) * (x - centre) for x in xs])


def explained_variance(values: Sequence[Dual], returns: Sequence[Dual]) -> Dual:
    """1 - Var[R - V] / Var[R], and 0 if the returns do not vary    (PPO.6)"""
    if variance(returns).same(0):
        return dual(0)
    return 1 - variance([r - v for r, v in zip(returns, values, strict=True)]) / variance(returns)


# ------------------------------------------------------------------------------------------------------- loss (stage 6)


def log_ratio(log_prob: Number, old_log_prob: Number) -> Dual:
    """log rho_t = log pi - log pi_old    (PPO.7)"""
    return dual(log_prob) - stop(old_log_prob)


def upper(epsilon: float, epsilon_high: float | None) -> float:
    """How far above 1 the ratio may go: as far as below, unless said otherwise."""
    return epsilon if epsilon_high is None else epsilon_high


def clipped_surrogate(
    log_ratio: Number,
    advantage: Number,
    epsilon: float,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
) -> Dual:
    """L_t = -min( r A, clip(r, 1 - epsilon, 1 + epsilon_high) A )    (PPO.8)

    A < 0, with a dual clip c:  L_t <- min( L_t, -c A )    (PPO.9)
    """
    advantage = stop(advantage)
    ratio = bounded_exp(log_ratio)
    clipped = clip(ratio, 1 - dual(epsilon), 1 + dual(upper(epsilon, epsilon_high)))
    loss = -minimum(ratio * advantage, clipped * advantage)
    if dual_clip is not None and advantage < 0:
        loss = minimum(loss, -dual(dual_clip) * advantage)
    return loss


def is_clipped_low(log_ratio: Number, advantage: Number, epsilon: float) -> bool:
    """Below the clip *and* the clip removes the gradient: a bad token that has become rare enough."""
    return dual(advantage) < 0 and bounded_exp(log_ratio) < 1 - dual(epsilon)


def is_clipped_high(log_ratio: Number, advantage: Number, epsilon: float, epsilon_high: float | None = None) -> bool:
    """Above the clip *and* the clip removes the gradient: a good token that has become likely enough."""
    return dual(advantage) > 0 and bounded_exp(log_ratio) > 1 + dual(upper(epsilon, epsilon_high))


def approx_kl(log_ratio: Number) -> Dual:
    """KL(pi_old || pi) at a token that pi_old sampled: k3, r - 1 - log r    (KL.3)"""
    return stop(bounded_exp(log_ratio) - 1 - log_ratio)


def clipped_value_error(value: Number, old_value: Number | None, target: Number, epsilon: float | None) -> Dual:
    """max( (V - R)^2, (V_old + clip(V - V_old, -epsilon, epsilon) - R)^2 ) / 2    (PPO.10)"""
    error = dual(value) - stop(target)
    if epsilon is None or old_value is None:
        return error * error / 2
    near = stop(old_value) + clip(dual(value) - stop(old_value), -dual(epsilon), dual(epsilon)) - stop(target)
    return maximum(error * error, near * near) / 2


def importance_surrogate(log_ratio: Number, advantage: Number) -> Dual:
    """L_t = -r A    (PPO.12)"""
    return -bounded_exp(log_ratio) * stop(advantage)


def likelihood_surrogate(log_prob: Number, right: bool) -> Dual:
    """L_t = -[y is right] log pi(y_t | x, y_<t)    (PPO.18)"""
    return -dual(log_prob) if right else dual(0)


# --------------------------------------------------------------------- weights for samples of another program (stage 6)


def importance_ratios(log_ratios: Sequence[Dual], level: str) -> list[Dual]:
    """One w a token: exp(u_t), exp(sum u), exp(mean u), or 1;  u = log pi_old - log pi_sampler    (PPO.13)"""
    if level == "one":
        return [dual(1) for _ in log_ratios]
    if level == "sequence":
        log_ratios = [total(log_ratios)] * len(log_ratios)
    if level == "sequence-mean":
        log_ratios = [mean(log_ratios)] * len(log_ratios)
    return [stop(bounded_exp(u)) for u in log_ratios]
