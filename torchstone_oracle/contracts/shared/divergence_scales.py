"""What goes wrong in a divergence before it is taken: the temperature, and from logits to log-probs."""

from __future__ import annotations

from typing import Any

from ... import core
from ...contract import Alternative
from ...numbers import Dual, dual, exp
from .common import bug, variant
from .logits import NO_TEMPERATURE

Logs = list[Dual]
HINTON = "https://arxiv.org/abs/1503.02531"


def as_it_is(z: Dual, temperature: Any) -> Dual:
    return dual(z)


def multiplied(z: Dual, temperature: Any) -> Dual:
    return dual(z) * temperature


def twice(z: Logs) -> Logs:
    return core.log_softmax([exp(p) for p in core.log_softmax(z, 1)], 1)


TEMPERATURES: dict[str, Alternative] = {
    "no_temperature": bug(
        "The temperature is left out on both sides.",
        "The teacher is imitated as sharp as it is.",
        settings=NO_TEMPERATURE.settings,
        pitfalls=("C56",),
    ),
    "temperature_inverted": bug(
        "Logits are multiplied by the temperature.",
        "What was to soften the teacher sharpens it.",
        {"scale": multiplied, "scale_teacher": multiplied},
        pitfalls=("C56",),
    ),
    "temperature_on_policy_alone": bug(
        "Only the policy's logits are divided by the temperature.",
        "A policy that equals the teacher has a gradient: it learns to be too sharp by the temperature, or too flat.",
        {"scale_teacher": as_it_is},
        pitfalls=("C56",),
    ),
    "temperature_on_teacher_alone": bug(
        "Only the teacher's logits are divided by the temperature.",
        "The policy learns the softened teacher: what it samples at temperature 1 is too flat.",
        {"scale": as_it_is},
        pitfalls=("C56",),
    ),
    "times_temperature_squared": variant(
        "Times the square of the temperature, as in Hinton et al.",
        "The gradient's size no longer depends on the temperature: the learning rate means something else.",
        {"result": lambda value, size, tau: value * dual(tau) * tau},
        links=(HINTON,),
    ),
    "times_temperature": variant(
        "Times the temperature.",
        "The learning rate means something else.",
        {"result": lambda value, size, tau: value * tau},
    ),
}
NORMALISATIONS: dict[str, Alternative] = {
    "softmax_twice": bug(
        "softmax is taken of what is a softmax already, on both sides.",
        "Both distributions are nearly uniform: hardly any gradient.",
        {"normalise": twice, "normalise_teacher": twice},
    ),
    "softmax_twice_of_policy": bug(
        "softmax is taken twice of the policy's logits.",
        "However large its logits, the policy's distribution stays nearly uniform: the loss does not fall.",
        {"normalise": twice},
    ),
    "softmax_twice_of_teacher": bug(
        "softmax is taken twice of the teacher's logits.",
        "The policy learns to be nearly uniform.",
        {"normalise_teacher": twice},
    ),
    "policy_not_normalised": bug(
        "The policy's logits are taken for log-probs.",
        "Raising all logits lowers the loss without end.",
        {"normalise": lambda z: [dual(x) for x in z]},
    ),
    "teacher_not_normalised": bug(
        "The teacher's logits are taken for log-probs.",
        "Its weights do not sum to 1: each position weighs as its logits happen to lie.",
        {"normalise_teacher": lambda z: [dual(x) for x in z]},
    ),
}
