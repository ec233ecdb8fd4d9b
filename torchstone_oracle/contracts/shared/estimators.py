"""KL from a sampled token: the computation, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Step
from ...numbers import Dual, absolute, clip, dual, stop
from .common import (
    CONSTANT_LOG_PROBS,
    EDGES,
    INF,
    LOG_PROBS,
    MASK,
    NAN,
    OPEN_INSTRUCT,
    OPENRLHF,
    OPENRLHF_0_11_2,
    RLHF_BOOK,
    RLHF_BOOK_A66B0BF,
    VERL,
    VERL_0_9_1,
    bug,
    full,
    hidden,
    marks,
    variant,
)

SCHULMAN = "http://joschu.net/blog/kl-approx.html"


def per_token(inputs: Inputs, settings: Mapping[str, Any], steps: Mapping[str, Step]) -> dict[str, Any]:
    """The estimate at each chosen token; anything elsewhere."""
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], inputs["mask"], strict=True)
    return {
        "kl": [
            [steps["result"](steps["kl"](p, q)) if m else None for p, q, m in zip(*row, strict=True)]
            for row in rows
        ]
    }  # fmt: skip


def absolute_k1(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return absolute(core.k1(log_prob, ref_log_prob))


def value_and_gradient(value: Dual, gradient: Dual) -> Dual:
    return stop(value) + gradient - stop(gradient)


def swapped(kl: Step) -> Alternative:
    return bug(
        "Policy and reference are swapped.",
        "The mean is no longer KL(policy || reference); as a price in the reward, k1 pays for leaving.",
        {"kl": kl},
        pitfalls=("C32", "R01"),
        links=(RLHF_BOOK_A66B0BF,),
    )


def straight_through(name: str, kl: Step) -> Alternative:
    return variant(
        f"The value of {name} with the gradient of k2.",
        "The value is reported as before; as a loss term the gradient is that of KL(policy || reference).",
        {"kl": kl},
        pitfalls=("C33",),
        links=(VERL_0_9_1,),
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
        links=(VERL_0_9_1,),
    ),
}
CLAMPED = variant(
    "The estimate is held within [-10, 10].",
    "Beyond, the gradient is 0: just where the policy is furthest from the reference, nothing pulls it back.",
    {"result": lambda kl: clip(kl, -10, 10)},
    pitfalls=("C38", "R06"),
    links=(VERL_0_9_1, OPENRLHF_0_11_2),
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
        (f"{RLHF_BOOK}/pull/525",),
        ("C38",),
    ),
    "on_policy": Flag(
        "edge",
        "Policy and reference are the same: the estimate is exactly 0.",
        "A run seems to start away from its reference.",
        (f"{OPENRLHF}/commit/feeb0283",),
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
