"""What all losses of a policy share: the computation, its right steps, arguments and settings.

A loss of this family is read from left to right, and each word is a step that an alternative may replace:

    log_ratio -> level -> surrogate -> (+ kl_weight * kl) -> reduce -> sign

with ``old`` (whose log-probs are the old ones) and ``advantage`` (which number belongs to which token) at its left end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import core, ppo
from ...contract import Argument, Flag, Inputs, Setting, Step
from ...numbers import Dual, dual, stop
from .common import (
    CONSTANT_LOG_PROBS,
    EDGES,
    LOG_PROBS,
    MASK,
    OPENRLHF_0_11_2,
    TRL,
    VERL,
    VERL_0_9_1,
    Marks,
    Matrix,
    Row,
    Settings,
)


def places(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> list[list[tuple[Dual, Dual, Dual, Dual]]]:
    """At every position, masked ones too: log-prob, its own log-ratio, the log-ratio that counts, the advantage."""
    result = []
    for b, row in enumerate(inputs["log_probs"]):
        advantages = [steps["advantage"](inputs, b, t) for t in range(len(row))]
        own = [steps["log_ratio"](p, q) for p, q in zip(row, steps["old"](inputs, b), strict=True)]
        counts = steps["level"](own, advantages, inputs["mask"][b], settings)
        result.append(list(zip(row, own, counts, advantages, strict=True)))
    return result


def token_losses(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The loss of each chosen token; anything elsewhere."""
    found = places(inputs, settings, steps)
    return {
        "losses": [
            [steps["select"](steps["surrogate"](p, u, a, settings), m) for (p, _, u, a), m in zip(*row, strict=True)]
            for row in zip(found, inputs["mask"], strict=True)
        ]
    }


def policy_loss(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The loss. Every entry is computed, the masked ones too: ``reduce`` selects."""
    found, marks = places(inputs, settings, steps), inputs["mask"]
    losses = [[steps["surrogate"](p, u, a, settings) for p, _, u, a in row] for row in found]
    loss = steps["reduce"](losses, marks, settings)
    if inputs.get("ref_log_probs") is not None:
        kls = kl_of(inputs, found, steps)
        loss = loss + steps["kl_weight"](settings["beta"]) * steps["kl_reduce"](steps["reduce"], kls, marks, settings)
    return {"loss": steps["sign"](loss)}


def kl_of(inputs: Inputs, found: list[list[tuple[Dual, Dual, Dual, Dual]]], steps: Mapping[str, Step]) -> Matrix:
    return [
        [steps["kl"](p, q, u) for (p, u, _, _), q in zip(*row, strict=True)]
        for row in zip(found, inputs["ref_log_probs"], strict=True)
    ]


def policy_loss_and_metrics(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The loss, and what frameworks report with it."""
    found, marks = places(inputs, settings, steps), inputs["mask"]
    lows = [[steps["low"](u, a, settings) for _, _, u, a in row] for row in found]
    highs = [[steps["high"](u, a, settings) for _, _, u, a in row] for row in found]
    outputs = policy_loss(inputs, settings, steps) | {
        "clip_ratio/low_mean": core.token_mean(lows, marks),
        "clip_ratio/high_mean": core.token_mean(highs, marks),
    }
    if inputs.get("ref_log_probs") is not None:
        outputs["kl"] = stop(steps["kl_metric"](kl_of(inputs, found, steps), marks))
    return outputs


# The right steps.


def old_log_probs(inputs: Inputs, b: int) -> Row:
    return [stop(q) for q in inputs["old_log_probs"][b]]


def advantage(inputs: Inputs, b: int, t: int) -> Dual:
    """One a sequence [B] or one a token [B T]."""
    given = inputs["advantages"][b]
    return stop(given[t] if isinstance(given, list) else given)


def each_token(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """Every token keeps its own ratio."""
    return list(log_ratios)


def clipped(log_prob: Dual, log_ratio: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.clipped_surrogate(log_ratio, a, settings["epsilon"], settings["epsilon_high"], settings.get("dual_clip"))


def clipped_low(log_ratio: Dual, a: Dual, settings: Settings) -> Dual:
    return dual(int(ppo.is_clipped_low(log_ratio, a, settings["epsilon"])))


def clipped_high(log_ratio: Dual, a: Dual, settings: Settings) -> Dual:
    return dual(int(ppo.is_clipped_high(log_ratio, a, settings["epsilon"], settings["epsilon_high"])))


def k3(log_prob: Dual, ref_log_prob: Dual, log_ratio: Dual) -> Dual:
    return core.k3(log_prob, ref_log_prob)


def as_asked(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The reduction that the setting names."""
    if settings["reduce"] == "fixed_length_mean":
        return core.fixed_length_mean(x, marks, settings["length"])
    reductions = {"token_mean": core.token_mean, "sequence_mean": core.sequence_mean, "sequence_sum": core.sequence_sum}
    return reductions[settings["reduce"]](x, marks)


STEPS: dict[str, Step] = {
    "old": old_log_probs,
    "advantage": advantage,
    "log_ratio": ppo.log_ratio,
    "level": each_token,
    "surrogate": clipped,
    "kl": k3,
    "kl_weight": lambda beta: dual(beta),
    "kl_reduce": lambda reduce, x, marks, settings: reduce(x, marks, settings),
    "reduce": as_asked,
    "select": lambda loss, m: loss if m else None,
    "sign": lambda loss: loss,
    "low": clipped_low,
    "high": clipped_high,
    "kl_metric": core.token_mean,
}

ARGUMENTS = {
    "log_probs": LOG_PROBS,
    "old_log_probs": CONSTANT_LOG_PROBS,
    "advantages": Argument("B", "reward, or none"),
    "mask": MASK,
    "ref_log_probs": CONSTANT_LOG_PROBS,
}
WITHOUT_REFERENCE = {k: a for k, a in ARGUMENTS.items() if k != "ref_log_probs"}
LOSS = Argument("", "that of the advantages")
METRICS = {
    "clip_ratio/low_mean": Argument("", "share of tokens"),
    "clip_ratio/high_mean": Argument("", "share of tokens"),
}
EPSILON = Setting("how far below 1 the ratio may go, and above if epsilon_high is None", (0.2, 0.1, 0.3), free=True)
EPSILON_HIGH = Setting("how far above 1 the ratio may go; the bound is 1 + epsilon_high", (None, 0.28), free=True)
POLICY_EDGES = {
    **EDGES,
    "on_policy": Flag(
        "edge",
        "The policy is still the one that sampled: every ratio is 1 and the clip is idle.",
        "A ratio that is not 1 here comes from dropout, another precision or another temperature, and clips at random.",
        (f"{VERL}/pull/3119", f"{TRL}/issues/454"),
        ("C16", "C35"),
    ),
    "every_side_of_the_clip": Flag(
        "edge",
        "Good and bad tokens with ratios above, inside and below the clip.",
        "Half of the ways to write a clip wrongly show on one side of it only.",
        ("https://arxiv.org/abs/1707.06347",),
    ),
    "far_from_reference": Flag(
        "edge",
        "A log-ratio to the reference of 3 nats: k3 is above 10.",
        "Where the value is clamped, the pull back to the reference is gone.",
        (VERL_0_9_1, OPENRLHF_0_11_2),
        ("R06",),
    ),
}


def reduction(name: str, free: bool = False) -> Setting:
    usual = ("token_mean", "sequence_mean", "sequence_sum") if free else (name,)
    return Setting("from tokens to one number: a function of torchstone.core", usual, free)
