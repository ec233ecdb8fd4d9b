"""Divergences of the policy's whole distribution from the teacher's: the computation of one position, and its cases.

Each word is a step that an alternative may replace:

    scale, scale_teacher -> normalise, normalise_teacher -> teacher (held constant) -> keep -> divergence -> result

``divergence`` is given ``kl`` and ``mix``, the KL of two lists of log-probs and their mixture.
"""

from __future__ import annotations

from typing import Any

from ... import core, distill
from ...contract import Argument, Case, Flag, Inputs, Setting, Step
from ...numbers import Dual, dual, stop
from .common import EDGES, INF, Settings, Steps
from .logits import LOGIT_EDGES, LOGITS

Logs = list[Dual]


def of_position(logits: Logs, teacher_logits: Logs, settings: Settings, steps: Steps) -> Dual:
    """The divergence of one position."""
    tau = settings["temperature"]
    policy = steps["normalise"]([steps["scale"](z, tau) for z in logits])
    teacher = steps["normalise_teacher"]([steps["scale_teacher"](z, tau) for z in teacher_logits])
    policy, teacher = steps["keep"](policy, [steps["teacher"](q) for q in teacher], settings, steps)
    value = steps["divergence"](policy, teacher, steps["beta"](settings["beta"]), steps["kl"], steps["mix"])
    return dual(steps["result"](value, len(policy), tau))


def per_position(inputs: Inputs, settings: Settings, steps: Steps) -> list[list[Dual]]:
    """The divergence at every position, masked ones too."""
    return [
        [of_position(z, steps["teacher_at"](inputs, b, t), settings, steps) for t, z in enumerate(row)]
        for b, row in enumerate(inputs["logits"])
    ]


def every_position(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    return {"jsd": per_position(inputs, settings, steps)}


def divided(z: Dual, temperature: Any) -> Dual:
    return dual(z) / temperature


def constant(log_prob: Dual) -> Dual:
    return stop(log_prob)


STEPS: dict[str, Step] = {
    "teacher_at": lambda inputs, b, t: inputs["teacher_logits"][b][t],
    "scale": divided,
    "scale_teacher": divided,
    "normalise": lambda z: core.log_softmax(z, 1),
    "normalise_teacher": lambda z: core.log_softmax(z, 1),
    "teacher": constant,
    "keep": lambda policy, teacher, settings, steps: (policy, teacher),
    "beta": lambda beta: beta,
    "divergence": distill.jsd,
    "kl": distill.kl,
    "mix": distill.mixture,
    "result": lambda value, size, temperature: value,
}
ARGUMENTS = {
    "logits": LOGITS,
    "teacher_logits": Argument("B T V", "as logits, of the teacher; a constant", gradient=True),
}
SOURCE = ("Agarwal et al., On-Policy Distillation of Language Models (GKD), arXiv:2306.13649",)
BETA = Setting("0 is KL(teacher || policy), 1 is KL(policy || teacher), between them the generalised Jensen-Shannon "
               "divergence.", (0.5, 0.0, 1.0, 0.1, 0.9), free=True)  # fmt: skip
TEMPERATURE = Setting("Both logits are divided by it; the result is not multiplied by its square.", (1.0, 0.5, 2.0),
                      free=True)  # fmt: skip

DIVERGENCE_EDGES = LOGIT_EDGES | {
    "minus_inf_logits": Flag(
        "edge",
        "Tokens that one or both cannot choose: their logit is -inf, and they add what the mathematics says.",
        "0 * -inf is nan: the first token that a logit mask excludes turns the loss into NaN.",
        pitfalls=("C60",),
    ),
    "same_distribution": Flag(
        "edge",
        "The policy has the teacher's distribution: exactly 0, and no gradient.",
        "A policy that has learnt everything is still moved.",
    ),
    "infinite_divergence": Flag(
        "edge",
        "One of the two can choose what the other cannot, at beta 0 or 1: the KL is inf.",
        "inf in the loss, unless the two vocabularies are cut to what both can choose.",
    ),
    **{k: EDGES[k] for k in ("rows_equal_columns", "one_token")},
}

TWO = [[[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]]]
TWO_TEACHER = [[[1.0, 0.25, 0.5], [-1.0, 1.5, 0.75]]]
ROWS = [[[0.25, 1.0, -2.0, 0.5]], [[-0.75, 1.25, 0.0, 2.0]]]
ROWS_TEACHER = [[[1.0, 0.5, -0.75, 1.75]], [[0.25, -0.5, 1.5, 1.0]]]
SQUARE_LOGITS = [[[0.0, 1.0, 2.0], [-1.0, 0.5, 0.25]], [[3.0, 0.25, 0.0], [0.75, -0.5, -1.0]]]
SQUARE_TEACHER = [[[1.0, 0.75, 0.5], [2.0, 0.5, -0.25]], [[0.0, 2.0, -1.0], [-0.75, 0.5, 1.0]]]


def distributions(comment: str, logits: Any, teacher_logits: Any, *flags: str, **more: Any) -> Case:
    return Case(comment, {"logits": logits, "teacher_logits": teacher_logits}, flags, **more)


PLAIN_CASES = (
    distributions("two positions", TWO, TWO_TEACHER),
    distributions("the other way round", TWO_TEACHER, TWO),
    distributions("two rows of one position, four tokens", ROWS, ROWS_TEACHER),
)
NEITHER = distributions(
    "a token that neither can choose", [[[0.5, -INF, 2.0]]], [[[1.0, -INF, 0.5]]], "minus_inf_logits"
)
NOT_POLICY = distributions(
    "a token that the policy cannot choose", [[[0.5, -INF, 2.0]]], [[[1.0, 0.25, 0.5]]], "minus_inf_logits"
)
NOT_TEACHER = distributions(
    "a token that the teacher cannot choose", [[[0.5, 0.25, 2.0]]], [[[1.0, -INF, 0.5]]], "minus_inf_logits"
)


def infinite(case: Case) -> Case:
    return Case(case.comment, case.inputs, (*case.flags, "infinite_divergence"), "acceptable")


SAME = distributions("the teacher's logits, shifted", TWO, [[[z + 4.0 for z in zs] for zs in TWO[0]]],
                     "same_distribution")  # fmt: skip
EXTREME = distributions("logits of 96", [[[96.0, 95.0, 94.0]]], [[[-96.0, -97.0, -95.0]]], "extreme_logits")
SQUARE = distributions("two rows of two", SQUARE_LOGITS, SQUARE_TEACHER, "rows_equal_columns")
THREE = distributions("three positions, two tokens", [[[0.5, -1.0], [1.0, 0.25], [-0.5, 1.5]]],
                      [[[1.0, 0.75], [-1.0, 0.5], [0.25, -0.75]]])  # fmt: skip
SINGLE = distributions("one position, two tokens", [[[0.0, 1.0]]], [[[0.5, 0.25]]], "one_token")
