"""kl_exact: the KL of whole distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core
from ...contract import Argument, Case, Group, Inputs, Objective, Step
from ...numbers import Dual, dual, exp, log, stop, total
from ..shared.common import INF, bug, variant
from ..shared.estimators import DETACHED, FLIPPED, swapped
from ..shared.logits import LOGIT_EDGES, LOGITS, NO_TEMPERATURE, TEMPERATURE, TEMPERATURE_INVERTED, zero_times_inf


def exact(inputs: Inputs, settings: Mapping[str, Any], steps: Mapping[str, Step]) -> dict[str, Any]:
    def at(logits: list[Dual], ref_logits: list[Dual]) -> Dual:
        scaled = [[steps["scale"](z, settings["temperature"]) for z in zs] for zs in (logits, ref_logits)]
        return dual(steps["result"](steps["kl"](*scaled), len(logits)))

    rows = zip(inputs["logits"], inputs["ref_logits"], strict=True)
    return {"kl": [[at(z, w) for z, w in zip(*row, strict=True)] for row in rows]}


def kl_of(logits: list[Dual], ref_logits: list[Dual]) -> Dual:
    return core.kl_exact(logits, ref_logits, 1)


def reversed_exact(logits: list[Dual], ref_logits: list[Dual]) -> Dual:
    pairs = zip(core.log_softmax(logits, 1), core.log_softmax(ref_logits, 1), strict=True)
    return total(stop(exp(q)) * (stop(q) - p) for p, q in pairs if exp(q) > 0)


def unguarded_exact(logits: list[Dual], ref_logits: list[Dual]) -> Dual:
    pairs = zip(core.log_softmax(logits, 1), core.log_softmax(ref_logits, 1), strict=True)
    return total(exp(p) * (p - stop(q)) for p, q in pairs)


def reference_dropped(logits: list[Dual], ref_logits: list[Dual]) -> Dual:
    return -core.entropy(logits, 1)


def cross_entropy(logits: list[Dual], ref_logits: list[Dual]) -> Dual:
    pairs = zip(core.log_softmax(logits, 1), core.log_softmax(ref_logits, 1), strict=True)
    return total(-exp(p) * stop(q) for p, q in pairs if exp(p) > 0)


TWO = [[[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]]]
TWO_REFERENCE = [[[1.0, 0.25, 0.5], [1.0, -1.0, 0.5]]]
FOUR = [
    [[0.0, 1.0, 2.0], [-1.0, 0.5, 0.25]],
    [[3.0, 0.0, 0.0], [0.75, -0.5, -1.0]],
]
FOUR_REFERENCE = [
    [[1.0, 1.0, 0.5], [2.0, 0.5, -0.25]],
    [[0.0, 2.0, -1.0], [0.75, -0.5, -1.0]],
]


def distributions(comment: str, logits: Any, ref_logits: Any, *flags: str) -> Case:
    return Case(comment, {"logits": logits, "ref_logits": ref_logits}, flags)


EXACT_CASES = (
    distributions("two positions", TWO, TWO_REFERENCE),
    distributions("two rows of two; the last position has the reference's distribution", FOUR, FOUR_REFERENCE),
    distributions("first the reference's logits, shifted: 0", TWO, [[[4.5, 3.0, 6.0], TWO_REFERENCE[0][1]]]),
    distributions(
        "a token that the policy cannot choose", [[[0.5, -INF, 2.0]]], [[[1.0, 0.25, 0.5]]], "minus_inf_logits"
    ),
    distributions(
        "a token that neither can choose", [[[0.5, -INF, 2.0]]], [[[1.0, -INF, 0.5]]], "minus_inf_logits"
    ),
    distributions("logits of 96", [[[96.0, 95.0, 94.0]]], [[[-96.0, -97.0, -95.0]]], "extreme_logits"),
    distributions("one position, two tokens", [[[0.0, 1.0]]], [[[0.5, 0.25]]], "one_token"),
)  # fmt: skip

OBJECTIVE = Objective(
    name="kl_exact",
    about="KL(policy || reference) of each position's whole next-token distribution.",
    tags=("KL.4",),
    source=("Kullback and Leibler, On Information and Sufficiency, 1951, eq. 2.4",),
    arguments={"logits": LOGITS, "ref_logits": Argument("B T V", "as logits, of the frozen reference")},
    returns={"kl": Argument("B T", "nats")},
    settings={"temperature": TEMPERATURE},
    compute=exact,
    steps={"scale": lambda z, temperature: dual(z) / temperature, "kl": kl_of, "result": lambda kl, size: kl},
    alternatives={
        "reversed_kl": swapped(reversed_exact),
        "no_temperature": NO_TEMPERATURE,
        "temperature_inverted": TEMPERATURE_INVERTED,
        "zero_times_inf": zero_times_inf(kl=unguarded_exact),
        "reference_dropped": bug(
            "The reference is left out: minus the entropy.",
            "It drives the policy to the uniform distribution instead of to the reference.",
            {"kl": reference_dropped},
        ),
        "cross_entropy": bug(
            "Cross entropy instead of KL: the policy's own entropy is not taken off.",
            "It drives the policy to always choose the reference's favourite token.",
            {"kl": cross_entropy},
        ),
        "mean_over_vocabulary": bug(
            "The mean over the vocabulary instead of the sum, as reduction='mean' gives.",
            "The KL is too small by the size of the vocabulary: in effect there is none.",
            {"result": lambda kl, size: kl / size},
        ),
        "bits": variant("In bits instead of nats.", "1.44 times as large.", {"result": lambda kl, size: kl / log(2)}),
        "sign_flipped": bug(
            FLIPPED.flag.about,
            FLIPPED.flag.effect,
            {"result": lambda kl, size: -kl},
            pitfalls=FLIPPED.flag.pitfalls,
            links=FLIPPED.flag.links,
        ),
        "detached": bug(
            "No gradient flows through it, or only through the log-ratio and not through the probabilities, which adds "
            "up to exactly 0.",
            DETACHED.flag.effect,
            {"result": lambda kl, size: stop(kl)},
            pitfalls=("C33",),
        ),
    },
    edges=LOGIT_EDGES,
    groups=(
        Group({"temperature": 1.0}, EXACT_CASES),
        Group({"temperature": 0.5}, EXACT_CASES[:2] + EXACT_CASES[3:4]),
        Group({"temperature": 2.0}, EXACT_CASES[1:2]),
    ),
)
