"""What goes wrong with the teacher's log-ratio: direction, estimator, discount, gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from ...contract import Alternative, Inputs, Step
from ...numbers import (
    Dual,
    absolute,
    bounded_exp,
    clip,
    dual,
    exp,
    log,
    maximum,
    mean,
    mpf,
    sqrt,
    stop,
    total,
)
from .common import SLIME_624B824, TINKER_9DFCC3A, VERL_0_9_1, Marks, bug, chosen, variant
from .teacher import from_the_right, teacher

Logs = Sequence[Dual]


def of_k1(change: Callable[[Dual], Any]) -> Step:
    """change(log pi - log pi_T), a constant, as the signal."""
    return lambda p, q, o: dual(change(stop(p) - q))


SIGNALS: dict[str, Alternative] = {
    "wrong_direction": bug(
        "log pi - log pi_T: the log-ratio the other way round, as a KL has it, and not its negative.",
        "Tokens that the teacher dislikes are reinforced: the policy runs away from the teacher.",
        {"signal": of_k1(lambda k: k)},
        pitfalls=("C30", "C32"),
    ),
    "k2_as_advantage": bug(
        "-k2 as the advantage: minus half the squared log-ratio.",
        "Every token is punished, most of all those that the teacher would say more often.",
        {"signal": of_k1(lambda k: -(k * k) / 2)},
        pitfalls=("C33",),
    ),
    "k3_as_advantage": bug(
        "-k3 as the advantage: never above 0.",
        "Tokens that the teacher would say more often are punished too: the expected step can raise the KL.",
        {"signal": of_k1(lambda k: -(bounded_exp(-k) - 1 + k))},
        pitfalls=("C33",),
        links=(VERL_0_9_1,),
    ),
    "absolute_as_advantage": bug(
        "-|log pi - log pi_T| as the advantage.",
        "Every token is punished by how far the two differ, whichever of them likes it more.",
        {"signal": of_k1(lambda k: -absolute(k))},
    ),
    "penalty_clamped_at_0": bug(
        "The penalty log pi - log pi_T is held at 0 or above: a KL is not negative.",
        "Its samples are: tokens that the teacher would say more often are not reinforced.",
        {"signal": of_k1(lambda k: -maximum(k, 0))},
        pitfalls=("C80",),
    ),
    "only_good": bug(
        "max(log pi_T - log pi, 0) as the advantage.",
        "What the teacher would not say is not unlearnt.",
        {"signal": of_k1(lambda k: maximum(-k, 0))},
    ),
    "clipped_at_5": variant(
        "The log-ratio is held within 5 nats on both sides.",
        "The few tokens that the teacher would never say no longer rule the update.",
        {"signal": of_k1(lambda k: clip(-k, -5, 5))},
    ),
    "ratio_as_advantage": variant(
        "pi_T / pi - 1 as the advantage.",
        "The policy gradient of KL(teacher || policy), with the variance of an importance weight.",
        {"signal": of_k1(lambda k: bounded_exp(-k) - 1)},
    ),
    "probabilities_subtracted": bug(
        "pi_T - pi in place of the difference of their logs.",
        "Tokens that both find unlikely have hardly any weight.",
        {"signal": lambda p, q, o: exp(q) - exp(stop(p))},
    ),
    "teacher_probability": bug(
        "pi_T of the sampled token in place of the log-ratio.",
        "Never below 0: what the teacher would not say is raised too, and nothing pays for entropy.",
        {"signal": lambda p, q, o: exp(q)},
    ),
    "own_log_prob_missing": bug(
        "log pi_T alone: the policy's own log-prob is not taken off.",
        "The policy collapses on the teacher's favourite token, as nothing pays for entropy.",
        {"signal": lambda p, q, o: dual(q)},
    ),
    "teacher_ignored": bug(
        "-log pi alone: the teacher's log-prob is missing.",
        "The policy becomes uniform.",
        {"signal": lambda p, q, o: -stop(p)},
    ),
    "half": bug("Half the log-ratio.", "The step is half as long.", {"signal": of_k1(lambda k: -k / 2)}),
    "bits": variant("In bits instead of nats.", "1.44 times as large.", {"signal": of_k1(lambda k: -k / log(2))}),
}


def sum_of_all(signals: Logs, on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    whole = total(chosen(signals, on))
    return [whole if m else None for m in on]


def mean_of_all(signals: Logs, on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    whole = mean(chosen(signals, on))
    return [whole if m else None for m in on]


def own_left_out(signals: Logs, on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    earned = from_the_right(signals, on, gamma, gap)
    return [None if a is None else a - d for a, d in zip(earned, signals, strict=True)]


def from_the_left(signals: Logs, on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    return from_the_right(signals[::-1], on[::-1], gamma, gap)[::-1]


def from_start(signals: Logs, on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    earned, age = [], 0
    for a in from_the_right(signals, on, gamma, gap):
        earned.append(None if a is None else a * mpf(gamma) ** age)
        age += a is not None
    return earned


def with_gamma(gamma_for: Callable[[Any], Any]) -> Step:
    return lambda signals, on, gamma, gap: from_the_right(signals, on, gamma_for(gamma), gap)


def next_alone(signals: Sequence[Dual], on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    """The token's signal and gamma times that of the next chosen one."""
    at = [t for t, chosen in enumerate(on) if chosen]
    after = dict(pairwise(at))
    return [
        (signals[t] + (dual(gamma) * signals[after[t]] if t in after else 0)) if chosen else None
        for t, chosen in enumerate(on)
    ]


DISCOUNTS: dict[str, Alternative] = {
    "each_token_alone": variant(
        "The log-ratio of the token alone, whatever gamma is: gamma 0.",
        "What a token makes likely later is not credited to it: the gradient of each token's KL given its prefix.",
        settings={"gamma": 0.0},
        links=(VERL_0_9_1, SLIME_624B824),
    ),
    "undiscounted": variant(
        "All that follows counts in full, whatever gamma is: gamma 1.",
        "The gradient of the sequences' KL, with the variance of a long sum.",
        settings={"gamma": 1.0},
    ),
    "one_step_ahead": bug(
        "Only the log-ratio of the next token is added, not all that follows: the sum stops after one step.",
        "What a token makes likely further on is not credited to it.",
        {"row": next_alone},
    ),
    "gaps_cost_discount": bug(
        "Tool output and other gaps cost a discount each.",
        "The longer a tool's answer, the less the tokens before it are credited with what comes after.",
        {"gap": lambda d, after, gamma: dual(gamma) * after},
        pitfalls=("C48",),
        links=(TINKER_9DFCC3A,),
    ),
    "reset_at_gaps": bug(
        "The sum starts anew at each gap.",
        "What comes before a tool call is not credited with what comes after.",
        {"gap": lambda d, after, gamma: Dual(0)},
        pitfalls=("C48",),
    ),
    "mask_ignored_in_sum": bug(
        "The log-ratios under False count in the sum.",
        "Tool output and padding are held against the tokens before them.",
        {"gap": lambda d, after, gamma: d + dual(gamma) * after},
        pitfalls=("C47", "C59"),
    ),
    "multiplied_by_mask": bug(
        "Log-ratios under False are multiplied by 0 instead of left out: 0 * nan is nan.",
        "One NaN in the padding turns the advantages before it into NaN.",
        {"gap": lambda d, after, gamma: after + dual(gamma) * (d * 0)},
        pitfalls=("C60",),
    ),
    "sum_of_the_completion": variant(
        "Every token has the sum of all log-ratios of its completion, whatever gamma is.",
        "Right on average at gamma 1, and noisier: tokens are held to what came before them too.",
        {"row": sum_of_all},
    ),
    "mean_of_the_completion": variant(
        "Every token has the mean log-ratio of its completion, whatever gamma is.",
        "No token is told apart from its neighbours: what the teacher says of each is lost.",
        {"row": mean_of_all},
    ),
    "own_left_out": bug(
        "A token's own log-ratio is not in its advantage: off by one.",
        "The token is credited with what follows and not with itself; at gamma 0 nothing is learnt.",
        {"row": own_left_out},
    ),
    "from_the_left": bug(
        "The sum of what came before instead of what follows.",
        "Tokens are credited with what they cannot change.",
        {"row": from_the_left},
    ),
    "discounted_from_start": variant(
        "Discounted from the first token on: gamma^t times the sum.",
        "Late tokens are hardly trained.",
        {"row": from_start},
        links=("https://arxiv.org/abs/1906.07073",),
    ),
    "gamma_squared": bug(
        "gamma is applied twice.",
        "The horizon is half as long as meant.",
        {"row": with_gamma(lambda gamma: mpf(gamma) * mpf(gamma))},
    ),
    "one_minus_gamma": bug(
        "1 - gamma in place of gamma.",
        "With gamma 0 everything that follows counts in full, with gamma 1 nothing.",
        {"row": with_gamma(lambda gamma: 1 - mpf(gamma))},
    ),
}


def shifted(by: int) -> Step:
    def at(inputs: Inputs, b: int) -> Logs:
        row = teacher(inputs, b)
        return [row[(t + by) % len(row)] for t in range(len(row))]

    return at


OTHERS: dict[str, Alternative] = {
    "teacher_one_later": bug(
        "The teacher's log-probs are those of one position later.",
        "Each token is compared with what the teacher says of the next one.",
        {"teacher": shifted(1)},
        pitfalls=("C54",),
    ),
    "teacher_one_earlier": bug(
        "The teacher's log-probs are those of one position earlier.",
        "Each token is compared with what the teacher says of the one before.",
        {"teacher": shifted(-1)},
        pitfalls=("C54",),
    ),
    "teacher_of_another_row": bug(
        "The teacher's log-probs belong to another completion: one was sorted or filtered, the other was not.",
        "The policy learns what the teacher says of other texts.",
        {"teacher": lambda inputs, b: teacher(inputs, b - 1)},
        pitfalls=("C20",),
    ),
}
TEACHER_NOT_DETACHED = variant(
    "A gradient flows into the teacher's log-probs too.",
    "None where the caller runs the teacher without gradients, as most do; else the teacher moves too.",
    {"teacher": lambda inputs, b: inputs["teacher_log_probs"][b]},
)


def whitened(earned: list[list[Dual | None]], mask: Marks, correction: int = 1) -> list[list[Dual | None]]:
    every = [a for row in earned for a in row if a is not None]
    if len(every) < 2:
        return earned
    centre = mean(every)
    spread = sqrt(total((a - centre) * (a - centre) for a in every) / (len(every) - correction)) + dual("1e-8")
    return [[None if a is None else (a - centre) / spread for a in row] for row in earned]


def centred(earned: list[list[Dual | None]], mask: Marks) -> list[list[Dual | None]]:
    centre = mean([a for row in earned for a in row if a is not None])
    return [[None if a is None else a - centre for a in row] for row in earned]


BATCHES: dict[str, Alternative] = {
    "whitened_advantages": variant(
        "The advantages are whitened over the batch's tokens.",
        "How far the policy is from the teacher no longer matters: the step is as long at the end as at the start.",
        {"batch": whitened},
    ),
    "whitened_by_n": variant(
        "The advantages are whitened over the batch's tokens, the deviation over n and not n - 1.",
        "As whitened_advantages, and a little longer in small batches.",
        {"batch": lambda earned, mask: whitened(earned, mask, 0)},
    ),
    "centred_advantages": variant(
        "The mean over the batch's tokens is taken off the advantages.",
        "Less noise at gamma 0, as the mean log-ratio is no credit to any token.",
        {"batch": centred},
    ),
}


NOT_DETACHED = variant(
    "A gradient flows through the advantages.",
    "None where the caller computes or holds them without one; else the loss has a term log pi times its own gradient.",
    {"signal": lambda p, q, o: q - p},
)
