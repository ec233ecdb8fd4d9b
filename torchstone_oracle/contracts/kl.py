"""KL estimators: arguments, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import core
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, absolute, bounded_exp, clip, dual, exp, log, stop, total
from .common import (
    CONSTANT_LOG_PROBS,
    EDGES,
    INF,
    LOG_PROBS,
    MASK,
    NAN,
    OPEN_INSTRUCT,
    OPENRLHF,
    RLHF_BOOK,
    TRL,
    VERL,
    bug,
    full,
    hidden,
    marks,
    variant,
)

SCHULMAN = "http://joschu.net/blog/kl-approx.html"

# ------------------------------------------------------------------------------------- estimators, from a sampled token


def per_token(inputs: Inputs, settings: Mapping[str, Any], steps: Mapping[str, Step]) -> dict[str, Any]:
    """The estimate at each chosen token; anything elsewhere."""
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], inputs["mask"], strict=True)
    return {
        "kl": [
            [steps["result"](steps["kl"](p, q)) if m else None for p, q, m in zip(*row, strict=True)]
            for row in rows
        ]
    }  # fmt: skip


def reversed_k1(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return stop(ref_log_prob) - log_prob


def reversed_k3(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    u = dual(log_prob) - stop(ref_log_prob)
    return bounded_exp(u) - 1 - u


def minus_ratio(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return -bounded_exp(stop(ref_log_prob) - log_prob)


def undivided_square(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return core.k2(log_prob, ref_log_prob) * 2


def without_one(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return core.k3(log_prob, ref_log_prob) + 1


def with_plus_u(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    u = stop(ref_log_prob) - log_prob
    return bounded_exp(u) - 1 + u


def absolute_k1(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return absolute(core.k1(log_prob, ref_log_prob))


def k1_value_k2_gradient(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return _value_and_gradient(core.k1(log_prob, ref_log_prob), core.k2(log_prob, ref_log_prob))


def k3_value_k2_gradient(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return _value_and_gradient(core.k3(log_prob, ref_log_prob), core.k2(log_prob, ref_log_prob))


def _value_and_gradient(value: Dual, gradient: Dual) -> Dual:
    return stop(value) + gradient - stop(gradient)


def swapped(kl: Step) -> Alternative:
    return bug(
        "Policy and reference are swapped.",
        "The mean is no longer KL(policy || reference); as a price in the reward, k1 pays for leaving.",
        {"kl": kl},
        pitfalls=("C32", "R01"),
        links=(RLHF_BOOK,),
    )


def straight_through(name: str, kl: Step) -> Alternative:
    return variant(
        f"The value of {name} with the gradient of k2.",
        "The value is reported as before; as a loss term the gradient is that of KL(policy || reference).",
        {"kl": kl},
        pitfalls=("C33",),
        links=(VERL,),
    )


IS = {
    "is_k1": variant(
        "It is k1, the log-ratio itself.",
        "As a loss term its gradient is 0 on average: noise that does not hold the policy.",
        {"kl": core.k1},
        pitfalls=("C33", "R02"),
        links=(f"{OPEN_INSTRUCT}/pull/534",),
    ),
    "is_k2": variant(
        "It is k2, half the squared log-ratio.",
        "As a loss term its gradient is that of KL(policy || reference); its value is not the KL.",
        {"kl": core.k2},
        pitfalls=("C33", "R02"),
        links=(SCHULMAN,),
    ),
    "is_k3": variant(
        "It is k3, exp(u) - 1 - u.",
        "Never negative, the same mean; as a loss term its gradient is that of KL(reference || policy).",
        {"kl": core.k3},
        pitfalls=("C33", "R02"),
        links=(SCHULMAN,),
    ),
    "is_absolute": variant(
        "It is |log-ratio|.",
        "Not an estimate of the KL: its mean is of first order where the KL is of second, so it pulls hard close by.",
        {"kl": absolute_k1},
        links=(VERL,),
    ),
}
CLAMPED = variant(
    "The estimate is held within [-10, 10].",
    "Beyond, the gradient is 0: just where the policy is furthest from the reference, nothing pulls it back.",
    {"result": lambda kl: clip(kl, -10, 10)},
    pitfalls=("C38", "R06"),
    links=(VERL, OPENRLHF),
)
DETACHED = bug(
    "No gradient flows through it.",
    "As a loss term it changes the number that is logged, and nothing else.",
    {"result": stop},
    pitfalls=("C33",),
)
FLIPPED = bug(
    "The sign is flipped.",
    "Subtracted where it should be added: the more the policy leaves the reference, the better the loss.",
    {"result": lambda kl: -kl},
    pitfalls=("C30", "C31"),
    links=(f"{VERL}/pull/179",),
)
ESTIMATOR_EDGES = EDGES | {
    "tiny_log_ratio": Flag(
        "edge",
        "Log-ratios of 2^-12, as after one small step: exp(u) - 1 - u loses all its digits in float32; expm1(u) - u "
        "keeps half of them.",
        "The reported KL is negative or 0 at the start of a run.",
        (RLHF_BOOK,),
        ("C38",),
    ),
    "on_policy": Flag(
        "edge",
        "Policy and reference are the same: the estimate is exactly 0.",
        "A run seems to start away from its reference.",
        (OPENRLHF,),
        ("C35",),
    ),
}

POLICY = [[-1.25, -0.5, -2.0], [-0.75, -3.0, -1.5]]
REFERENCE = [[-1.5, -0.25, -1.0], [-2.25, -0.5, -1.5]]
SQUARE = [[-1.0, -0.25, -2.5], [-0.125, -4.0, -0.5], [-2.0, -1.75, -0.75]]
SQUARE_REFERENCE = [[-0.5, -0.75, -2.5], [-1.0, -3.0, -1.5], [-0.25, -2.0, -1.25]]
GAPS = marks("101 011")


def compared(
    comment: str, mask: list[list[bool]], policy: list[list[float]] | None = None,
    reference: list[list[float]] | None = None, flags: tuple[str, ...] = (), **more: Any,
) -> Case:  # fmt: skip
    inputs = {"log_probs": policy or POLICY, "ref_log_probs": reference or REFERENCE, "mask": mask}
    return Case(comment, inputs, flags, **more)


def far(distance: float) -> list[Case]:
    """The policy far below the reference, and far above it."""
    away = -distance - 0.5
    return [
        compared(
            f"{distance:g} nats {where} the reference",
            full(1, 2),
            [[policy, -1.25]],
            [[reference, -1.0]],
            ("far_log_ratio",),
            result="acceptable",
            properties=True,
        )
        for where, policy, reference in (("below", away, -0.5), ("above", -0.5, away))
    ]


KL_CASES = (
    compared("two rows, all chosen", full(2, 3)),
    compared("two rows, all chosen, the other way round", full(2, 3), REFERENCE, POLICY),
    compared("policy and reference are the same", full(2, 3), POLICY, POLICY, ("on_policy",)),
    compared("ragged", marks("111 100"), flags=("ragged_mask",)),
    compared("a gap", GAPS, flags=("gaps_in_mask",)),
    compared(
        "junk in the padding",
        marks("110 100"),
        hidden(POLICY, marks("110 100"), 64.0),
        hidden(REFERENCE, marks("110 100"), -64.0),
        ("ragged_mask", "junk_under_mask"),
    ),
    compared(
        "NaN and inf in the padding",
        GAPS,
        hidden(POLICY, GAPS, NAN),
        hidden(REFERENCE, GAPS, INF),
        ("gaps_in_mask", "nan_under_mask"),
    ),
    compared("an empty row", marks("000 110"), flags=("empty_row",)),
    compared("no token at all", marks("000 000"), flags=("all_masked",)),
    compared("three rows of three", full(3, 3), SQUARE, SQUARE_REFERENCE, ("rows_equal_columns",)),
    compared("three rows of three, ragged", marks("111 110 100"), SQUARE, SQUARE_REFERENCE, ("rows_equal_columns",)),
    compared("one token", [[True]], [[-0.5]], [[-1.75]], ("one_token",)),
    compared("3 nats apart, both ways", full(1, 2), [[-4.0, -0.5]], [[-1.0, -3.5]]),
    compared("12 nats apart, both ways", full(1, 2), [[-12.5, -0.5]], [[-0.5, -12.5]]),
    *far(25), *far(100), *far(1000),
    compared(
        "2^-12 nats apart, both ways",
        full(1, 2),
        [[-0.5, -0.5]],
        [[-0.499755859375, -0.500244140625]],
        ("tiny_log_ratio",),
        result="acceptable",
        tolerance={"float32": "2e-4"},
    ),
)  # fmt: skip


def estimator(name: str, tag: str, about: str, alternatives: Mapping[str, Alternative]) -> Objective:
    return Objective(
        name=name,
        about=about,
        tags=(tag,),
        source=(f"Schulman, Approximating KL Divergence, 2020, {SCHULMAN}",),
        arguments={"log_probs": LOG_PROBS, "ref_log_probs": CONSTANT_LOG_PROBS, "mask": MASK},
        returns={"kl": Argument("B T", "nats")},
        settings={},
        compute=per_token,
        steps={"kl": getattr(core, name.removeprefix("kl_")), "result": dual},
        alternatives={
            **{k: a for k, a in IS.items() if k != f"is_{name[3:]}"},
            "clamped": CLAMPED,
            "detached": DETACHED,
            **alternatives,
        },
        edges=ESTIMATOR_EDGES,
        groups=(Group({}, KL_CASES),),
    )


# ------------------------------------------------------------------------------ the KL itself, from whole distributions


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


LOGITS = Argument("B T V", "nats, up to a constant; finite or -inf", gradient=True)
TEMPERATURE = Setting("What the tokens were sampled at: logits are divided by it.", (1.0, 0.5, 2.0))
NO_TEMPERATURE = bug(
    "The sampling temperature is left out.",
    "Policy, reference and sampler are scored under other distributions than the one sampled from: ratios are biased.",
    settings={"temperature": 1.0},
    pitfalls=("C56",),
    links=(f"{TRL}/pull/3029", f"{OPENRLHF}/pull/857", f"{VERL}/pull/3133"),
)
TEMPERATURE_INVERTED = bug(
    "Logits are multiplied by the temperature.",
    "A hotter sampler is scored as a colder one.",
    {"scale": lambda z, temperature: dual(z) * temperature},
    pitfalls=("C56",),
)


def zero_times_inf(**steps: Step) -> Alternative:
    return bug(
        "Tokens of probability 0 add 0 * -inf, which is nan.",
        "The first token that a logit mask excludes turns the loss into NaN.",
        steps,
        pitfalls=("C60",),
    )


LOGIT_EDGES = {
    "minus_inf_logits": Flag(
        "edge",
        "Tokens that cannot be chosen: their logit is -inf, and they add exactly 0.",
        "A sampler that masks tokens turns the loss into NaN.",
        pitfalls=("C60",),
    ),
    "extreme_logits": Flag(
        "edge",
        "Logits of 96: in float32 their exp overflows unless the largest is taken out first.",
        "inf / inf gives NaN; in half precision logits of 12 are enough.",
        (f"{OPENRLHF}/pull/620",),
        ("C28",),
    ),
    "rows_equal_columns": EDGES["rows_equal_columns"],
    "one_token": EDGES["one_token"],
}

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

KL_EXACT = Objective(
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


OBJECTIVES = [
    estimator(
        "kl_k1",
        "KL.1",
        "The log-ratio: an estimate of KL(policy || reference) from samples of the policy.",
        {
            "reversed_kl": swapped(reversed_k1),
            "minus_ratio": bug(
                "The ratio with a minus sign instead of its log.",
                "It reports -1, not 0, where nothing has moved.",
                {"kl": minus_ratio},
                pitfalls=("C35",),
                links=(OPENRLHF,),
            ),
            "k2_gradient": straight_through("k1", k1_value_k2_gradient),
        },
    ),
    estimator(
        "kl_k2",
        "KL.2",
        "Half the squared log-ratio: as a loss term, its gradient is that of KL(policy || reference).",
        {
            "no_half": bug("The factor 1/2 is missing.", "The coefficient is doubled.", {"kl": undivided_square}),
            "sign_flipped": FLIPPED,
        },
    ),
    estimator(
        "kl_k3",
        "KL.3",
        "exp(u) - 1 - u: an estimate of KL(policy || reference) that is never negative.",
        {
            "reversed_kl": swapped(reversed_k3),
            "sign_flipped": FLIPPED,
            "one_not_subtracted": bug(
                "exp(u) - u: the 1 is missing.",
                "It reports 1 nat a token where nothing has moved.",
                {"kl": without_one},
            ),
            "u_added": bug(
                "exp(u) - 1 + u: the linear term has the wrong sign.",
                "It pushes the policy away from tokens that the reference likes less.",
                {"kl": with_plus_u},
            ),
            "k2_gradient": straight_through("k3", k3_value_k2_gradient),
        },
    ),
    KL_EXACT,
]
