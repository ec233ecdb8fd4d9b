"""REINFORCE: returns, baselines and the loss, one token, one completion or one group at a time.

A function that takes ``rewards`` is given the scored rewards of one group; one that takes ``rewards`` and ``mask``, one
completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from .core import divided
from .numbers import Dual, Number, dual, exp, log, mean, sqrt, stop, total

Row = list[Dual]


# ------------------------------------------------------------------------------------------------ returns (stage 5)


def discounted_returns(rewards: Sequence[Number], mask: Sequence[bool], gamma: Number) -> list[Dual | None]:
    """G_t = r_t + gamma G_{t+1}, t over the chosen tokens: what is not chosen costs no discount    (REINFORCE.1)"""
    returns: list[Dual | None] = []
    after = Dual(0)
    for r, chosen in zip(reversed(rewards), reversed(mask), strict=True):
        if chosen:
            after = stop(r) + dual(gamma) * after
        returns.insert(0, after if chosen else None)
    return returns


# --------------------------------------------------------------- what would have come without this sample? (a group)


def all_equal(rewards: Sequence[Dual]) -> bool:
    """A group that says nothing about which of its samples is better; one of fewer than two says nothing either."""
    return all(r.same(rewards[0]) for r in rewards)


def leave_one_out_advantages(rewards: Sequence[Dual]) -> Row:
    """A_i = r_i - (1 / (n - 1)) sum_{j != i} r_j    (REINFORCE.5)"""
    if all_equal(rewards):
        return [Dual(0) for _ in rewards]
    return [stop(rewards[i] - mean(siblings(rewards, i))) for i in range(len(rewards))]


def siblings(rewards: Sequence[Dual], i: int) -> Row:
    return [r for j, r in enumerate(rewards) if j != i]


def greedy_advantages(rewards: Sequence[Dual], greedy_reward: Dual) -> Row:
    """A_i = r_i - r(greedy)    (REINFORCE.6)"""
    return [stop(r - greedy_reward) for r in rewards]


def length_weighted_advantages(rewards: Sequence[Dual], lengths: Sequence[Dual]) -> Row:
    """A_i = r_i - sum_j l_j r_j / sum_j l_j    (REINFORCE.7)"""
    if all_equal(rewards) or total(lengths).same(0):
        return [Dual(0) for _ in rewards]
    return [stop(r - weighted_mean(rewards, lengths)) for r in rewards]


def weighted_mean(xs: Sequence[Dual], weights: Sequence[Dual]) -> Dual:
    return total(w * x for w, x in zip(weights, xs, strict=True)) / total(weights)


def centred(rewards: Sequence[Dual]) -> Row:
    """r_i - mean r, and exactly 0 where all are equal."""
    if all_equal(rewards):
        return [Dual(0) for _ in rewards]
    return [stop(r - mean(rewards)) for r in rewards]


def gpg_advantages(groups: Sequence[Sequence[Dual]]) -> list[Row]:
    """A_i = alpha (r_i - mean r), alpha = B / (B - M); M of the B groups say nothing    (REINFORCE.8)"""
    telling = sum(not all_equal(rewards) for rewards in groups)
    return [[divided(a * len(groups), telling) for a in centred(rewards)] for rewards in groups]


def max_likelihood_advantages(rewards: Sequence[Dual], eps: Number = 0) -> Row:
    """A_i = (r_i - mean r) / mean r, 0 where mean r = 0    (REINFORCE.9)

    The paper has no eps; its authors' code adds one to the mean.
    """
    return [divided(a, mean(rewards) + eps) if mean(rewards) > 0 else Dual(0) for a in centred(rewards)]


def deviation(xs: Sequence[Dual], correction: int) -> Dual:
    """The root of the sum of squares around the mean, over n - correction; exactly 0 where all are equal."""
    if all_equal(xs):
        return Dual(0)
    return sqrt(divided(total((x - mean(xs)) * (x - mean(xs)) for x in xs), len(xs) - correction))


def batch_scaled_advantages(
    groups: Sequence[Sequence[Dual]], within_groups: bool, correction: int, eps: Number
) -> list[Row]:
    """A_i = (r_i - mean r) / (S + eps), S the deviation over the batch of r_j, or of r_j - mean r    (REINFORCE.11)"""
    spread = [a for rewards in groups for a in (centred(rewards) if within_groups else rewards)]
    scale = deviation(spread, correction)
    return [[divided(a, scale + dual(eps)) for a in centred(rewards)] for rewards in groups]


def gdpo_advantages(rewards: Sequence[Sequence[Dual]], weights: Sequence[Dual], correction: int, eps: Number) -> Row:
    """Of one group; ``rewards[i]`` are the K of sample i.

    A_i = sum_k w_k (r_ik - mean r_k) / (std r_k + eps)    (REINFORCE.12)
    """
    columns = [list(column) for column in zip(*rewards, strict=True)]
    scaled = [[divided(a, deviation(r, correction) + dual(eps)) for a in centred(r)] for r in columns]
    return [total(stop(w) * a for w, a in zip(weights, row, strict=True)) for row in zip(*scaled, strict=True)]


def whiten_completions(advantages: Sequence[Dual], correction: int, eps: Number) -> Row:
    """Of all scored completions of the batch: (A - mean A) / (std A + eps)    (REINFORCE.13)"""
    return [divided(a, deviation(advantages, correction) + dual(eps)) for a in centred(advantages)]


def pass_at_k_advantages(rewards: Sequence[Dual], k: int, eps: Number) -> Row:
    """Of one group, by listing every set of k: the mean over the sets with sample i of (best - R), over sigma + eps.

    R = 1 - C(m, k) / C(n, k), and the rest of (REINFORCE.14), is this counted in closed form.
    """
    n = len(rewards)
    sets = list(combinations(range(n), k))
    best = [dual(int(any(rewards[i] > 0 for i in one))) for one in sets]
    if not sets or all_equal(best):
        return [Dual(0) for _ in rewards]
    centre = mean(best)
    sigma = sqrt(mean([(b - centre) * (b - centre) for b in best]))
    gains = [mean([b - centre for b, one in zip(best, sets, strict=True) if i in one]) for i in range(n)]
    return [stop(gain / (sigma + dual(eps))) for gain in gains]


def best_margin_advantages(rewards: Sequence[Dual], divide_by_std: bool, correction: int, eps: Number) -> Row:
    """max_j r_j - max_{j != i} r_j    [/ (std r + eps)]    (REINFORCE.15)"""
    if len(rewards) < 2 or all_equal(rewards):
        return [Dual(0) for _ in rewards]
    margins = [stop(largest(rewards) - largest(siblings(rewards, i))) for i in range(len(rewards))]
    return [m / (deviation(rewards, correction) + dual(eps)) for m in margins] if divide_by_std else margins


def largest(xs: Sequence[Dual]) -> Dual:
    return max(xs, key=lambda x: x.value)


def step_group_advantages(
    returns: Sequence[Dual], groups: Sequence[int], divide_by_std: bool, correction: int, eps: Number
) -> Row:
    """R_i - mean R_j    [/ (std R_j + eps)], j over the turns of i's group    (REINFORCE.17)"""
    found = []
    for r, own in zip(returns, groups, strict=True):
        there = [other for other, g in zip(returns, groups, strict=True) if g == own]
        centred_one = Dual(0) if all_equal(there) else stop(r - mean(there))
        spread = deviation(there, correction) + dual(eps)
        found.append(divided(centred_one, spread) if divide_by_std else centred_one)
    return found


def optimal_token_advantages(returns: Sequence[Dual | None], spent: Sequence[Dual | None]) -> list[Dual | None]:
    """Of one step t of a group, one entry a row; None for a row without a token at t.

    A_it = G_it - sum_j W_jt G_jt / sum_j W_jt, W the energy spent up to t    (REINFORCE.10)
    """
    there = [(i, g, w) for i, (g, w) in enumerate(zip(returns, spent, strict=True)) if g is not None and w is not None]
    advantages = length_weighted_advantages([g for _, g, _ in there], [w for _, _, w in there])
    found = {i: a for (i, _, _), a in zip(there, advantages, strict=True)}
    return [found.get(i) for i in range(len(returns))]


def energy_spent(energies: Sequence[Number], mask: Sequence[bool]) -> list[Dual | None]:
    """W_t = sum_{s <= t} w_s over the chosen tokens of one completion."""
    return [total(energies[s] for s in range(t + 1) if mask[s]) if mask[t] else None for t in range(len(mask))]


def soft_value(rewards: Sequence[Dual], beta: Number) -> Dual:
    """V = beta log( (1 / N) sum_i exp(r_i / beta) ), and 0 of nothing    (REINFORCE.16)"""
    if not rewards:
        return Dual(0)
    return stop(dual(beta) * log(mean([exp(r / dual(beta)) for r in rewards])))


# ---------------------------------------------------------------------------------------------- the loss (stage 6)


def reinforce_surrogate(log_prob: Number, advantage: Number) -> Dual:
    """-A log pi(y_t | x, y_<t)    (REINFORCE.3)

    Its gradient is that of -J, by grad J = E[sum_t A_t grad log pi(y_t)]    (REINFORCE.2)
    """
    return -stop(advantage) * log_prob


def reinforce_token_loss(
    log_prob: Number, return_: Number, baseline: Number, entropy: Number, entropy_coef: Number
) -> Dual:
    """-(G_t - b_t) log pi - c_H H_t, to be reduced    (REINFORCE.4)"""
    return reinforce_surrogate(log_prob, stop(return_) - stop(baseline)) - dual(entropy_coef) * entropy
