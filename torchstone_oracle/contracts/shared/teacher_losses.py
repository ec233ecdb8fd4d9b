"""What goes wrong in a loss of the teacher's log-ratio: what is back-propagated, the ratio, what is reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core
from ...contract import Alternative, Step
from ...numbers import Dual, absolute, bounded_exp, clip, dual, exp, mean, minimum, stop
from . import policy_reductions
from .common import SLIME_624B824, TINKER_9DFCC3A, TORCHRL_0_14_1, VERL_0_9_1, bug, variant


def back_propagated(estimate: Callable[[Dual, Dual], Dual]) -> Step:
    return lambda p, q, a, o: estimate(p, q)


def not_detached(p: Dual, q: Dual, a: Dual, o: Any) -> Dual:
    return -(a * p) if o is None else -bounded_exp(p - stop(o)) * a


SURROGATES: dict[str, Alternative] = {
    "k1_back_propagated": bug(
        "log pi - log pi_T is the loss: a gradient flows through it.",
        "Its gradient is that of log pi, whatever the teacher says: 0 on average.",
        {"surrogate": back_propagated(core.k1)},
        pitfalls=("C33",),
    ),
    "k2_back_propagated": variant(
        "Half the squared log-ratio is the loss: a gradient flows through it.",
        "At gamma 0 and on policy the gradient is the same; the value is not, and no ratio corrects for old samples.",
        {"surrogate": back_propagated(core.k2)},
        pitfalls=("C33",),
    ),
    "k3_back_propagated": bug(
        "k3 is the loss: a gradient flows through it. What is called reverse KL is the forward one.",
        "The expected gradient is that of KL(teacher || policy).",
        {"surrogate": back_propagated(core.k3)},
        pitfalls=("C33",),
        links=(VERL_0_9_1, TORCHRL_0_14_1),
    ),
    "reversed_k3_back_propagated": bug(
        "k3 with policy and teacher exchanged is the loss: exp(log pi - log pi_T) - 1 - (log pi - log pi_T).",
        "On samples of the policy its mean is not a KL; tokens that the policy finds far likelier rule the update.",
        {"surrogate": lambda p, q, a, o: bounded_exp(p - stop(q)) - 1 - (p - stop(q))},
        pitfalls=("C32", "C33"),
        links=(TORCHRL_0_14_1,),
    ),
    "absolute_back_propagated": variant(
        "|log pi - log pi_T| is the loss.",
        "Each token is pulled with the same force, however far it is from the teacher.",
        {"surrogate": lambda p, q, a, o: absolute(p - stop(q))},
        links=(VERL_0_9_1,),
    ),
    "square_back_propagated": variant(
        "The squared log-ratio is the loss, without the half of k2.",
        "Twice the gradient of k2: twice the learning rate.",
        {"surrogate": lambda p, q, a, o: (p - stop(q)) * (p - stop(q))},
        pitfalls=("C33",),
    ),
    "advantage_not_detached": bug(
        "A gradient flows through the advantage too.",
        "A term log pi times its own gradient is added: the policy is pulled towards certainty or away from it.",
        {"signal": lambda p, q, o: q - p, "surrogate": not_detached},
        pitfalls=("C22",),
    ),
    "advantage_negated": bug(
        "+A log pi, or +rho A: the minus sign is missing.",
        "The policy runs away from the teacher.",
        {"surrogate": lambda p, q, a, o: a * p if o is None else bounded_exp(p - stop(o)) * a},
        pitfalls=("C29", "C30"),
    ),
    "no_advantage": bug(
        "-log pi: what was sampled is imitated.",
        "The teacher has no say.",
        {"surrogate": lambda p, q, a, o: -p},
    ),
    "probability": bug(
        "-A pi in place of -A log pi, and of the ratio.",
        "Unlikely tokens have hardly any gradient.",
        {"surrogate": lambda p, q, a, o: -a * exp(p)},
    ),
    "value_of_the_ratio": variant(
        "-A exp(log pi - its own value): the ratio is 1, and the present policy is taken for the one that sampled.",
        "On policy the same gradient; the value is -A. Off policy nothing corrects for old samples.",
        {"surrogate": lambda p, q, a, o: -bounded_exp(p - stop(p)) * a},
        pitfalls=("C15",),
    ),
    "no_ratio": variant(
        "-A log pi where another policy sampled: no ratio.",
        "Off policy the gradient is biased.",
        {"surrogate": lambda p, q, a, o: -a * p},
    ),
    "inverted_ratio": bug(
        "pi_old / pi in place of pi / pi_old.",
        "The step goes the wrong way.",
        {"surrogate": lambda p, q, a, o: -a * (p if o is None else bounded_exp(stop(o) - p))},
    ),
    "ratio_to_the_teacher": bug(
        "pi / pi_T in place of pi / pi_old.",
        "Tokens that the teacher would not say weigh most, however they were sampled.",
        {"surrogate": lambda p, q, a, o: -a * bounded_exp(p - stop(q))},
    ),
    "log_ratio_as_ratio": bug(
        "exp is missing: the log-ratio to the old policy is used as the ratio.",
        "The gradient is right on policy only; the value is 0 there.",
        {"surrogate": lambda p, q, a, o: -a * (p if o is None else p - stop(o))},
        pitfalls=("C17",),
    ),
    "ratio_times_log_prob": variant(
        "The ratio is a constant weight of -A log pi (as in CISPO).",
        "The same gradient; another value.",
        {"surrogate": lambda p, q, a, o: -a * p * (1 if o is None else stop(bounded_exp(p - stop(o))))},
    ),
    "clipped_ratio": variant(
        "PPO's clip at 1 +- 0.2 (verl 0.9.1, with dual clip; tinker-cookbook 9dfcc3a, if loss_fn is ppo).",
        "Tokens that have moved by more than a fifth have no gradient.",
        {"surrogate": lambda p, q, a, o: -a * p if o is None else ppo_clip(p, a, o)},
        links=(VERL_0_9_1, TINKER_9DFCC3A),
    ),
    "detached": bug(
        "No gradient flows through the policy's log-probs.",
        "Nothing is learnt.",
        {"surrogate": lambda p, q, a, o: stop(-a * p if o is None else -bounded_exp(p - o) * a)},
    ),
}


def ppo_clip(p: Dual, a: Dual, o: Any) -> Dual:
    ratio = bounded_exp(p - stop(o))
    return -minimum(ratio * a, clip(ratio, dual("0.8"), dual("1.2")) * a)


SAMPLERS_SIGNAL = variant(
    "The log-ratio is taken from the policy that sampled, and not from the present one.",
    "The advantages of stale samples say where the old policy was wrong.",
    {"signal": lambda p, q, o: q - (stop(p) if o is None else stop(o))},
    links=(TINKER_9DFCC3A, SLIME_624B824),
)
SUMMED = variant(
    "The sum over all chosen tokens: nothing is divided.",
    "The gradient grows with the batch.",
    {"reduce": policy_reductions.plain_sum},
    pitfalls=("C08", "R07"),
    links=(TINKER_9DFCC3A,),
)
KL_METRICS: dict[str, Alternative] = {
    "kl_metric_negated": bug("log pi_T - log pi is reported as the KL.", "The KL to the teacher seems to be below 0.",
                             {"kl_metric": lambda p, q: q - p}, pitfalls=("C32",)),
    "kl_metric_is_k3": variant("k3 is reported as the KL.", "Never below 0, and the same on average.",
                               {"kl_metric": lambda p, q: core.k3(p, q)}),
    "kl_metric_unmasked": bug("The reported KL is averaged over padding too.", "It depends on what lies there.",
                              {"kl_mean": lambda x, mask: mean([v for row in x for v in row])}, pitfalls=("C36",)),
}  # fmt: skip
