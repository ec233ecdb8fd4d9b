"""What goes wrong in a divergence from the teacher: direction, mixture, logs."""

from __future__ import annotations

from typing import Any

from ... import core, distill
from ...contract import Alternative, Inputs, Step
from ...numbers import Dual, dual, exp, log, maximum, stop, total
from .common import NEMO_RL_7EA279A, TRL_1_16_0, bug, variant
from .divergence_scales import HINTON, NORMALISATIONS, TEMPERATURES, Logs
from .estimators import FLIPPED

DISTILLM = "https://arxiv.org/abs/2402.03898"

# ------------------------------------------------------------------------------------------------ direction and mixture


def inside(change: Step) -> Step:
    """change(policy, teacher, beta, kl, mix) between the ends; the ends as they are defined."""

    def divergence(policy: Logs, teacher: Logs, beta: Any, kl: Step, mix: Step) -> Dual:
        if beta in (0, 1):
            return distill.jsd(policy, teacher, beta, kl, mix)
        return dual(change(policy, teacher, dual(beta), kl, mix))

    return divergence


def at_both_ends(end: int) -> Step:
    """One direction at beta 0 and at beta 1; between them all is right."""
    return lambda p, t, beta, kl, mix: distill.jsd(p, t, end if beta in (0, 1) else beta, kl, mix)


def formula_everywhere(policy: Logs, teacher: Logs, beta: Any, kl: Step, mix: Step) -> Dual:
    m = mix(policy, teacher, beta)
    return dual(dual(beta) * kl(teacher, m) + (1 - dual(beta)) * kl(policy, m))


def constant_at_the_reverse_end(policy: Logs, teacher: Logs, beta: Any, kl: Step, mix: Step) -> Dual:
    return constant_weights(policy, teacher) if beta == 1 else distill.jsd(policy, teacher, beta, kl, mix)


def geometric(policy: Logs, teacher: Logs, beta: Any) -> Logs:
    return [dual(beta) * t + (1 - dual(beta)) * p for p, t in zip(policy, teacher, strict=True)]


def geometric_normalised(policy: Logs, teacher: Logs, beta: Any) -> Logs:
    return core.log_softmax(geometric(policy, teacher, beta), 1)


DIRECTIONS: dict[str, Alternative] = {
    "teacher_and_policy_swapped": bug(
        "Teacher and policy have changed places; the same as beta and 1 - beta exchanged.",
        "What was to seek one of the teacher's modes covers them all, or the reverse.",
        {"divergence": lambda p, t, beta, kl, mix: distill.jsd(t, p, beta, kl, mix)},
        pitfalls=("C32", "C82"),
        links=("https://github.com/THUDM/slime/pull/2254",),
    ),
    "ends_exchanged": bug(
        "beta 0 and beta 1 have changed places; between them all is right.",
        "What is called reverse KL is the forward one.",
        {"divergence": lambda p, t, beta, kl, mix: distill.jsd(p, t, 1 - beta if beta in (0, 1) else beta, kl, mix)},
        pitfalls=("C32", "C82"),
    ),
    "forward_at_both_ends": bug(
        "KL(teacher || policy) at beta 0 and at beta 1 too: the reverse end is the forward one.",
        "What is called reverse KL is the forward one.",
        {"divergence": at_both_ends(0)},
        pitfalls=("C82",),
    ),
    "reverse_at_both_ends": bug(
        "KL(policy || teacher) at beta 1 and at beta 0 too: the forward end is the reverse one.",
        "What is called forward KL is the reverse one.",
        {"divergence": at_both_ends(1)},
        pitfalls=("C82",),
    ),
    "formula_at_the_ends": bug(
        "The formula of the mixture is used at beta 0 and 1 too, where it is 0.",
        "Nothing is learnt from the teacher.",
        {"divergence": formula_everywhere},
    ),
    "reverse_weights_detached": bug(
        "At beta 1 the policy's probabilities are held constant: only the logs that they weigh have a gradient.",
        "What is left of the reverse KL's gradient is 0 on average: the value is right, and nothing is learnt.",
        {"divergence": constant_at_the_reverse_end},
        pitfalls=("C33",),
    ),
    "always_forward_kl": variant(
        "KL(teacher || policy), whatever beta is.",
        "The policy spreads over all that the teacher may say.",
        {"beta": lambda beta: 0},
    ),
    "always_reverse_kl": variant(
        "KL(policy || teacher), whatever beta is.",
        "The policy settles on one of the things that the teacher may say.",
        {"beta": lambda beta: 1},
    ),
    "always_half": variant(
        "The symmetric Jensen-Shannon divergence, whatever beta is.",
        "A divergence of at most log 2: far off there is hardly any gradient.",
        {"beta": lambda beta: 0.5},
    ),
    "mixture_weights_exchanged": bug(
        "M = (1 - beta) teacher + beta policy; the two KLs have their right weights.",
        "Close to beta 0 or 1 the gradient is far smaller than meant.",
        {"mix": lambda p, t, beta: distill.mixture(p, t, 1 - dual(beta))},
    ),
    "kl_weights_exchanged": bug(
        "(1 - beta) KL(teacher || M) + beta KL(policy || M); the mixture is right.",
        "Close to beta 0 or 1 the gradient is far larger than meant.",
        {
            "divergence": inside(
                lambda p, t, beta, kl, mix: (1 - beta) * kl(t, mix(p, t, beta)) + beta * kl(p, mix(p, t, beta))
            )
        },
    ),
    "exchanged_between_the_ends": bug(
        "Between the ends teacher and policy have changed places, as beta and 1 - beta; the ends are right.",
        "A beta near 0 is close to the reverse KL and one near 1 to the forward: the ends are no limits of it.",
        {
            "divergence": inside(
                lambda p, t, beta, kl, mix: (1 - beta) * kl(t, mix(p, t, 1 - beta)) + beta * kl(p, mix(p, t, 1 - beta))
            )
        },
        pitfalls=("C82",),
    ),
    "mixture_first": bug(
        "Between the ends beta KL(M || teacher) + (1 - beta) KL(M || policy): the mixture stands first.",
        "Unbounded, unlike the divergence that it stands for.",
        {
            "divergence": inside(
                lambda p, t, beta, kl, mix: beta * kl(mix(p, t, beta), t) + (1 - beta) * kl(mix(p, t, beta), p)
            )
        },
        pitfalls=("C32",),
    ),
    "teacher_weight_for_both": bug(
        "beta KL(teacher || M) + beta KL(policy || M).",
        "Right at beta 0.5 alone; close to beta 0 hardly anything is learnt.",
        {"divergence": inside(lambda p, t, beta, kl, mix: beta * (kl(t, mix(p, t, beta)) + kl(p, mix(p, t, beta))))},
    ),
    "policy_weight_for_both": bug(
        "(1 - beta) KL(teacher || M) + (1 - beta) KL(policy || M).",
        "Right at beta 0.5 alone; close to beta 1 hardly anything is learnt.",
        {
            "divergence": inside(
                lambda p, t, beta, kl, mix: (1 - beta) * (kl(t, mix(p, t, beta)) + kl(p, mix(p, t, beta)))
            )
        },
    ),
    "kl_weights_missing": bug(
        "KL(teacher || M) + KL(policy || M), without weights.",
        "Twice as large or more.",
        {"divergence": inside(lambda p, t, beta, kl, mix: kl(t, mix(p, t, beta)) + kl(p, mix(p, t, beta)))},
    ),
    "policy_term_missing": bug(
        "beta KL(teacher || M) alone.",
        "The policy is not told to stop saying what the teacher would not.",
        {"divergence": inside(lambda p, t, beta, kl, mix: beta * kl(t, mix(p, t, beta)))},
    ),
    "teacher_term_missing": bug(
        "(1 - beta) KL(policy || M) alone.",
        "The policy is not told of what the teacher says and it does not.",
        {"divergence": inside(lambda p, t, beta, kl, mix: (1 - beta) * kl(p, mix(p, t, beta)))},
    ),
    "skew_kl": variant(
        "KL(teacher || M) with weight 1: the skewed KL of DistiLLM.",
        "Close to KL(teacher || policy), and finite.",
        {"divergence": inside(lambda p, t, beta, kl, mix: kl(t, mix(p, t, beta)))},
        links=(DISTILLM,),
    ),
    "skew_reverse_kl": variant(
        "KL(policy || M) with weight 1: the skewed reverse KL of DistiLLM, with its weights in M.",
        "Close to KL(policy || teacher), and finite.",
        {"divergence": inside(lambda p, t, beta, kl, mix: kl(p, mix(p, t, beta)))},
        links=(DISTILLM,),
    ),
    "mixed_kl": variant(
        "(1 - beta) KL(teacher || policy) + beta KL(policy || teacher): no mixture at all.",
        "Unbounded, unlike the divergence that it stands for.",
        {"divergence": inside(lambda p, t, beta, kl, mix: (1 - beta) * kl(t, p) + beta * kl(p, t))},
        links=(NEMO_RL_7EA279A,),
    ),
    "mixture_at_half": bug(
        "M is the even mixture whatever beta is.",
        "beta only weighs the two terms.",
        {"mix": lambda p, t, beta: distill.mixture(p, t, 0.5)},
    ),
    "mixture_of_logs": bug(
        "M is the mean of log-probs and not of probabilities: it does not sum to 1.",
        "Not a divergence: it may be above 0 where policy and teacher agree on most, and what only one of them may "
        "say counts without bound.",
        {"mix": geometric},
    ),
    "mixture_of_logits": bug(
        "M is the softmax of the mean of logits and not the mean of probabilities.",
        "What only one of the two may say is not in M: that term is unbounded.",
        {"mix": geometric_normalised},
    ),
}

# --------------------------------------------------------------------------------------- what is a log, and what is not


def unguarded(p: Logs, q: Logs) -> Dual:
    return total(exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def cross_entropy(p: Logs, q: Logs) -> Dual:
    return total(-exp(a) * b for a, b in zip(p, q, strict=True) if exp(a) > 0)


def logs_as_weights(p: Logs, q: Logs) -> Dual:
    return total(a * (a - b) for a, b in zip(p, q, strict=True))


def logs_as_probabilities(p: Logs, q: Logs) -> Dual:
    """F.kl_div(q, p) without log_target: p log p - p q of numbers p below 0."""
    return total(a * log(a) - a * b for a, b in zip(p, q, strict=True))


def probabilities_as_logs(p: Logs, q: Logs) -> Dual:
    """F.kl_div(q, exp(p), log_target=True)"""
    return total(exp(exp(a)) * (exp(a) - b) for a, b in zip(p, q, strict=True))


def probabilities_as_input(p: Logs, q: Logs) -> Dual:
    """F.kl_div(exp(q), exp(p))"""
    return total(exp(a) * (a - exp(b)) for a, b in zip(p, q, strict=True) if exp(a) > 0)


def clamped(p: Logs, q: Logs) -> Dual:
    return total(maximum(exp(a) * (a - b), 0) for a, b in zip(p, q, strict=True) if exp(a) > 0)


def constant_weights(p: Logs, q: Logs) -> Dual:
    return total(stop(exp(a)) * (a - b) for a, b in zip(p, q, strict=True) if exp(a) > 0)


LOGS: dict[str, Alternative] = {
    "kl_arguments_swapped": bug(
        "KL(q || p) wherever KL(p || q) belongs: F.kl_div(input, target) is KL(target || input).",
        "The opposite direction at beta 0 and 1; between them another divergence.",
        {"kl": lambda p, q: distill.kl(q, p)},
        pitfalls=("C32",),
    ),
    "zero_times_inf": bug(
        "Tokens of probability 0 add 0 * -inf, which is nan.",
        "The first token that a logit mask excludes turns the loss into NaN.",
        {"kl": unguarded},
        pitfalls=("C60",),
        links=(TRL_1_16_0,),
    ),
    "cross_entropy": variant(
        "Cross entropy in place of KL: the entropy of the first distribution is not taken off.",
        "At beta 0 the gradient is the same; elsewhere it drives the policy to always choose one token.",
        {"kl": cross_entropy},
    ),
    "exp_missing": bug(
        "The log-prob is the weight: log p (log p - log q). exp is missing.",
        "Unlikely tokens weigh most.",
        {"kl": logs_as_weights},
    ),
    "log_target_missing": bug(
        "F.kl_div is given log-probs as its target without log_target=True: the log of a number below 0.",
        "NaN from the first step.",
        {"kl": logs_as_probabilities},
    ),
    "probabilities_as_log_target": bug(
        "F.kl_div with log_target=True is given probabilities as its target: exp is taken of them.",
        "All tokens weigh about the same: the teacher's preference is hardly seen.",
        {"kl": probabilities_as_logs},
    ),
    "probabilities_as_input": bug(
        "F.kl_div is given probabilities in place of log-probs as its input.",
        "The gradient is p times the probability: unlikely tokens are not moved.",
        {"kl": probabilities_as_input},
    ),
    "each_term_clamped": bug(
        "The term of each token is held at 0 or above.",
        "The terms below 0 are what makes the sum a divergence: without them there is a gradient at the optimum.",
        {"kl": clamped},
        pitfalls=("C80",),
    ),
    "weights_detached": bug(
        "The probabilities that weigh the log-ratios are held constant.",
        "At beta 1 what is left has gradient 0; between the ends a part of the gradient is lost.",
        {"kl": constant_weights},
        pitfalls=("C33",),
    ),
}

# --------------------------------------------------------------------------------- squares, and what is made of the sum


def mean_square(policy: Logs, teacher: Logs, beta: Any, kl: Step, mix: Step) -> Dual:
    return total((p - t) * (p - t) for p, t in zip(policy, teacher, strict=True)) / len(policy)


SQUARES: dict[str, Alternative] = {
    "mean_square_of_logits": variant(
        "The mean squared difference of logits, whatever beta is.",
        "No divergence: logits are only known up to a constant, and unlikely tokens count like likely ones.",
        {
            "normalise": lambda z: [dual(x) for x in z],
            "normalise_teacher": lambda z: [dual(x) for x in z],
            "divergence": mean_square,
        },
        links=(HINTON,),
    ),
    "mean_square_of_log_probs": variant(
        "The mean squared difference of log-probs, whatever beta is.",
        "No divergence: unlikely tokens count like likely ones.",
        {"divergence": mean_square},
    ),
}


def one_later(inputs: Inputs, b: int, t: int) -> Logs:
    row = inputs["teacher_logits"][b]
    return row[(t + 1) % len(row)]


RESULTS: dict[str, Alternative] = {
    "mean_over_vocabulary": bug(
        "The mean over the vocabulary in place of the sum, as reduction='mean' gives.",
        "Too small by the size of the vocabulary: in effect nothing is learnt.",
        {"result": lambda value, size, tau: value / size},
    ),
    "bits": variant("In bits instead of nats.", "1.44 times as large.",
                    {"result": lambda value, size, tau: value / log(2)}),
    "sign_flipped": bug(
        FLIPPED.flag.about,
        "The policy runs away from the teacher.",
        {"result": lambda value, size, tau: -value},
        pitfalls=FLIPPED.flag.pitfalls,
    ),
    "detached": bug("No gradient flows through it.", "Nothing is learnt.",
                    {"result": lambda value, size, tau: stop(value)}, pitfalls=("C33",)),
    "teacher_not_detached": variant(
        "A gradient flows into the teacher's logits too.",
        "None where the caller runs the teacher without gradients, as most do; else the teacher moves to the policy.",
        {"teacher": dual},
    ),
    "teacher_one_later": bug(
        "The teacher's logits are those of one position later.",
        "Each token is compared with what the teacher says of the next one.",
        {"teacher_at": one_later},
        pitfalls=("C54",),
    ),
    "teacher_one_earlier": bug(
        "The teacher's logits are those of one position earlier.",
        "Each token is compared with what the teacher says of the one before.",
        {"teacher_at": lambda inputs, b, t: inputs["teacher_logits"][b][t - 1]},
        pitfalls=("C54",),
    ),
    "teacher_of_another_row": bug(
        "The teacher's logits belong to another completion: one was sorted or filtered, the other was not.",
        "The policy learns what the teacher says of other texts.",
        {"teacher_at": lambda inputs, b, t: inputs["teacher_logits"][b - 1][t]},
        pitfalls=("C20",),
    ),
}  # fmt: skip
ALTERNATIVES = DIRECTIONS | RESULTS | LOGS | TEMPERATURES | NORMALISATIONS | SQUARES
