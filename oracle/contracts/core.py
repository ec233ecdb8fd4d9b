"""KL estimators and reductions: arguments, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import core
from ..contract import Alternative, Case, Flag, Group, Inputs, Objective, Step
from ..numbers import Dual, bounded_exp, dual, stop
from .common import CONSTANT_LOG_PROBS, EDGES, INF, LOG_PROBS, MASK, NAN, Argument, full, hidden

# ------------------------------------------------------------------------------------------------------ KL estimators

RAGGED = [[True, True, True], [True, False, False]]
GAPS = [[True, False, True], [False, True, True]]
POLICY = [[-1.25, -0.5, -2.0], [-0.75, -3.0, -1.5]]
REFERENCE = [[-1.5, -0.25, -1.0], [-2.25, -0.5, -1.5]]


def per_token(inputs: Inputs, settings: Mapping[str, Any], steps: Mapping[str, Step]) -> dict[str, Any]:
    """The estimate at each chosen token; anything elsewhere."""
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], inputs["mask"], strict=True)
    return {
        "kl": [
            [steps["kl"](p, q) if m else None for p, q, m in zip(*row, strict=True)]
            for row in rows
        ]
    }  # fmt: skip


def reversed_k1(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return stop(ref_log_prob) - log_prob


def reversed_k3(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    u = dual(log_prob) - stop(ref_log_prob)
    return bounded_exp(u) - 1 - u


REVERSED = Flag(
    "bug",
    "Policy and reference are swapped.",
    "The mean is no longer KL(policy || reference); as a price in the reward, k1 then pays for leaving the reference.",
    ("https://github.com/natolambert/rlhf-book",),
    ("C32", "R01"),
)
KL_CASES = (
    Case("two rows, all chosen", {"log_probs": POLICY, "ref_log_probs": REFERENCE, "mask": full(2, 3)}),
    Case("ragged", {"log_probs": POLICY, "ref_log_probs": REFERENCE, "mask": RAGGED}, ("ragged_mask",)),
    Case(
        "NaN and inf in the padding",
        {"log_probs": hidden(POLICY, GAPS, NAN), "ref_log_probs": hidden(REFERENCE, GAPS, INF), "mask": GAPS},
        ("gaps_in_mask", "nan_under_mask"),
    ),
)


def estimator(name: str, tag: str, about: str, alternatives: Mapping[str, Alternative]) -> Objective:
    return Objective(
        name=name,
        about=about,
        tags=(tag,),
        source=("Schulman, Approximating KL Divergence, 2020, http://joschu.net/blog/kl-approx.html",),
        arguments={"log_probs": LOG_PROBS, "ref_log_probs": CONSTANT_LOG_PROBS, "mask": MASK},
        returns={"kl": Argument("B T", "nats")},
        settings={},
        compute=per_token,
        steps={"kl": getattr(core, name.removeprefix("kl_"))},
        alternatives=alternatives,
        edges=EDGES,
        groups=(Group({}, KL_CASES),),
    )


OBJECTIVES = [
    estimator(
        "kl_k1",
        "KL.1",
        "The log-ratio: an estimate of KL(policy || reference) from samples of the policy.",
        {"reversed_kl": Alternative(REVERSED, {"kl": reversed_k1})},
    ),
    estimator(
        "kl_k3",
        "KL.3",
        "exp(u) - 1 - u: an estimate of KL(policy || reference) that is never negative.",
        {"reversed_kl": Alternative(REVERSED, {"kl": reversed_k3})},
    ),
]
