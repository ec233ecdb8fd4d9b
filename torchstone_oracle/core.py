"""Masks, log-probs, KL estimators and reductions, one number at a time."""

from __future__ import annotations

from collections.abc import Sequence

from .numbers import Dual, Number, bounded_exp, dual, exp, log, mean, sqrt, stop, total

Row = list[Dual]
Matrix = list[list[Dual]]
Mask = list[list[bool]]


# ------------------------------------------------------------------------- which tokens did the policy choose? (a row)


def completion_mask(completion: Sequence[int], eos_ids: Sequence[int]) -> list[bool]:
    """True up to and including the first end token: the policy chose to stop, and that choice is trained."""
    mask, ended = [], False
    for token in completion:
        mask.append(not ended)
        if token in eos_ids:
            ended = True
    return mask


def next_token_mask(chosen: Sequence[bool]) -> list[bool]:
    """Column t speaks of token t + 1."""
    return [chosen[t + 1] for t in range(len(chosen) - 1)]


# ------------------------------------------------------------------------ from logits to log-probabilities (a position)


def log_softmax(logits: Sequence[Number], temperature: Number) -> Row:
    """z_v / tau - log sum_w exp(z_w / tau): the log-probability of every token v."""
    scaled = [dual(z) / temperature for z in logits]
    log_sum = log(total(exp(z) for z in scaled))
    return [z - log_sum for z in scaled]


def token_log_prob(logits: Sequence[Number], target: int, temperature: Number) -> Dual:
    """log pi(y) = z_y / tau - log sum_v exp(z_v / tau)    (CORE.2)"""
    return log_softmax(logits, temperature)[target]


def next_token_log_probs(logits: Sequence[Sequence[Number]], tokens: Sequence[int], temperature: Number) -> Row:
    """Of one row; column t: log pi(y_{t+1} | y_<=t)    (CORE.1)"""
    return [token_log_prob(logits[t], tokens[t + 1], temperature) for t in range(len(tokens) - 1)]


def entropy(logits: Sequence[Number], temperature: Number) -> Dual:
    """-sum_v pi(v) log pi(v), where a token that cannot be chosen adds 0    (CORE.3)"""
    log_probs = log_softmax(logits, temperature)
    return -total(exp(p) * p for p in log_probs if exp(p) > 0)


def kl_exact(logits: Sequence[Number], ref_logits: Sequence[Number], temperature: Number) -> Dual:
    """sum_v pi(v) (log pi(v) - log pi_ref(v)), where a token that cannot be chosen adds 0    (KL.4)"""
    pairs = zip(log_softmax(logits, temperature), log_softmax(ref_logits, temperature), strict=True)
    return total(exp(p) * (p - stop(q)) for p, q in pairs if exp(p) > 0)


# ------------------------------------------------------------------- how far is the policy from a reference? (a token)


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


# ------------------------------------------------- from one number a token to one number: four means, four denominators


def chosen(row: Sequence[Dual | None], marks: Sequence[bool]) -> Row:
    """The entries of a row that count. What lies under False is not even looked at."""
    return [dual(x) for x, m in zip(row, marks, strict=True) if m and x is not None]


def rows_that_count(mask: Mask) -> int:
    return sum(any(marks) for marks in mask)


def divided(x: Dual, n: Number) -> Dual:
    """x / n; 0 if there is nothing to divide by, with slope 0."""
    return x / n if dual(n) > 0 else Dual(0)


def token_mean(x: Sequence[Sequence[Dual | None]], mask: Mask, denominator: Number | None = None) -> Dual:
    """sum_bt x_bt / N; N counts tokens    (CORE.5)"""
    n = sum(map(sum, mask)) if denominator is None else denominator
    return divided(total(total(chosen(*row)) for row in zip(x, mask, strict=True)), n)


def sequence_mean(x: Sequence[Sequence[Dual | None]], mask: Mask, denominator: Number | None = None) -> Dual:
    """sum_b (sum_t x_bt / |y_b|) / N; N counts rows with a token    (CORE.6)"""
    n = rows_that_count(mask) if denominator is None else denominator
    return divided(total(mean(chosen(*row)) for row in zip(x, mask, strict=True)), n)


def sequence_sum(x: Sequence[Sequence[Dual | None]], mask: Mask, denominator: Number | None = None) -> Dual:
    """sum_b (sum_t x_bt) / N; N counts rows with a token    (CORE.7)"""
    n = rows_that_count(mask) if denominator is None else denominator
    return divided(total(total(chosen(*row)) for row in zip(x, mask, strict=True)), n)


def fixed_length_mean(
    x: Sequence[Sequence[Dual | None]], mask: Mask, length: Number, denominator: Number | None = None
) -> Dual:
    """sum_b (sum_t x_bt / L) / N; L is a constant, N counts rows with a token    (CORE.8)"""
    n = rows_that_count(mask) if denominator is None else denominator
    return divided(total(total(chosen(*row)) / length for row in zip(x, mask, strict=True)), n)


# ----------------------------------------------------------------------------------------- two tools for advantages


def masked_whiten(
    x: Sequence[Sequence[Number]], mask: Mask, correction: int, eps: Number, keep_mean: bool = False
) -> Matrix:
    """(x - mean) / sqrt(var + eps) at the tokens that count, 0 elsewhere    (CORE.9)"""
    counted = [stop(v) for row, marks in zip(x, mask, strict=True) for v, m in zip(row, marks, strict=True) if m]
    centre = mean(counted)
    deviation = sqrt(variance(counted, correction) + eps)
    return [
        [whitened(v, centre, deviation, keep_mean) if m else Dual(0) for v, m in zip(row, marks, strict=True)]
        for row, marks in zip(x, mask, strict=True)
    ]


def variance(xs: Sequence[Dual], correction: int) -> Dual:
    """sum (x - mean)^2 / (n - correction); 0 of a single number."""
    centre = mean(xs)
    return divided(total((x - centre) * (x - centre) for x in xs), len(xs) - correction)


def whitened(x: Number, centre: Dual, deviation: Dual, keep_mean: bool) -> Dual:
    """Where all are equal they deviate by 0, whatever they are divided by."""
    centred = stop(x) - centre
    scaled = Dual(0) if centred.same(0) else centred / deviation
    return scaled + centre if keep_mean else scaled


def linear_recurrence(inputs: Sequence[Number], decays: Sequence[Number]) -> Row:
    """x_t = inputs_t + decays_t x_{t+1}, from the right; x_{T+1} = 0. Of one row.    (CORE.10)"""
    x: Row = []
    after = Dual(0)
    for value, decay in zip(reversed(inputs), reversed(decays), strict=True):
        after = dual(value) + dual(decay) * after
        x.insert(0, after)
    return x
