"""On-policy distillation: what the teacher says of a token, one completion or one position at a time.

A distribution is the list of its log-probabilities; -inf is a token that cannot be chosen. The teacher is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .core import log_softmax
from .numbers import Dual, Number, bounded_exp, dual, exp, log, mp, stop, total
from .reinforce import discounted_returns

Logs = Sequence[Dual]
Divergence = Callable[[Logs, Logs], Dual]
Mixture = Callable[[Logs, Logs, Number], Logs]

# ------------------------------------------------------------------------ what was sampled (a completion, a token)


def log_ratio(log_prob: Number, teacher_log_prob: Number) -> Dual:
    """d_t = log pi_T(y_t) - log pi(y_t), a constant: minus the sample of KL(pi || pi_T)."""
    return stop(teacher_log_prob) - stop(log_prob)


def teacher_advantages(
    log_probs: Logs, teacher_log_probs: Logs, mask: Sequence[bool], gamma: Number
) -> list[Dual | None]:
    """A_t = sum_{s >= t} gamma^(s - t) d_s, s over the chosen tokens    (DISTILL.1)"""
    pairs = zip(log_probs, teacher_log_probs, mask, strict=True)
    return discounted_returns([log_ratio(p, q) if m else dual(0) for p, q, m in pairs], mask, gamma)


def policy_gradient(log_prob: Number, advantage: Number, old_log_prob: Number | None = None) -> Dual:
    """L_t = -A_t log pi(y_t);  -rho_t A_t, rho_t = pi / pi_old, where another policy sampled    (DISTILL.4)

    The advantage is a constant.
    """
    if old_log_prob is None:
        return -dual(advantage) * log_prob
    return -bounded_exp(dual(log_prob) - stop(old_log_prob)) * advantage


# ---------------------------------------------------------------------------------- the whole vocabulary (a position)


def log_or_never(probability: Dual) -> Dual:
    """log p, and -inf, a constant, where p is 0."""
    return log(probability) if probability > 0 else dual(mp.ninf)


def kl(p: Logs, q: Logs) -> Dual:
    """sum_v p(v) (log p(v) - log q(v)), where a token of probability 0 adds 0."""
    return total(exp(a) * (a - b) for a, b in zip(p, q, strict=True) if exp(a) > 0)


def mixture(policy: Logs, teacher: Logs, beta: Number) -> list[Dual]:
    """log M,  M(v) = beta pi_T(v) + (1 - beta) pi(v)"""
    pairs = zip(policy, teacher, strict=True)
    return [log_or_never(dual(beta) * exp(t) + (1 - dual(beta)) * exp(p)) for p, t in pairs]


def jsd(policy: Logs, teacher: Logs, beta: Number, kl: Divergence = kl, mixture: Mixture = mixture) -> Dual:
    """beta KL(pi_T || M) + (1 - beta) KL(pi || M);  KL(pi_T || pi) at beta 0, KL(pi || pi_T) at 1    (DISTILL.2)

    The ends are a definition: the formula goes to 0 there, as beta and 1 - beta do.
    """
    if beta == 0:
        return kl(teacher, policy)
    if beta == 1:
        return kl(policy, teacher)
    mixed = mixture(policy, teacher, beta)
    return dual(beta) * kl(teacher, mixed) + (1 - dual(beta)) * kl(policy, mixed)


def jsd_exact(logits: Sequence[Number], teacher_logits: Sequence[Number], beta: Number, temperature: Number) -> Dual:
    """DISTILL.2 of softmax(z / tau) on both sides."""
    teacher = [stop(t) for t in log_softmax(teacher_logits, temperature)]
    return jsd(log_softmax(logits, temperature), teacher, beta)


# ---------------------------------------------------------------------------------------- k tokens of it (a position)


def likeliest(logs: Sequence[Number], k: int) -> list[int]:
    """The k tokens of highest probability, the highest first."""
    return sorted(range(len(logs)), key=lambda v: dual(logs[v]).value, reverse=True)[:k]


def with_tail(logs: Logs, kept: Sequence[int]) -> list[Dual]:
    """The kept tokens, and one more that holds all other mass."""
    others = total(exp(p) for v, p in enumerate(logs) if v not in kept)
    return [*(logs[v] for v in kept), log_or_never(others)]


def renormalised(logs: Logs, kept: Sequence[int]) -> list[Dual]:
    """The kept tokens alone, rescaled to sum 1."""
    log_sum = log(total(exp(logs[v]) for v in kept))
    return [logs[v] - log_sum for v in kept]


def dropped(logs: Logs, kept: Sequence[int]) -> list[Dual]:
    """The kept tokens alone, as they are: they sum to less than 1."""
    return [logs[v] for v in kept]


RESTS = {"tail": with_tail, "renormalise": renormalised, "drop": dropped}


def jsd_top_k(policy: Logs, teacher: Logs, beta: Number, k: int, of: str, rest: str) -> Dual:
    """DISTILL.2 on the k tokens that one of the two finds likeliest, and what is made of the rest    (DISTILL.3)"""
    kept = likeliest(teacher if of == "teacher" else policy, k)
    return jsd(RESTS[rest](policy, kept), RESTS[rest](teacher, kept), beta)
