"""importance_weights: weights for samples of another program, bounded and gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, clip, dual, minimum
from ..shared import policy, policy_cases
from ..shared.common import (
    CONSTANT_LOG_PROBS,
    LIGER,
    MASK,
    NAN,
    OPENRLHF_0_11_1,
    TRL,
    VERL,
    Marks,
    Row,
    Settings,
    full,
    hidden,
    plus,
)


def weights_of_tokens(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    low, high = settings["low"], settings["high"]
    least, most = dual(0 if low is None else low), dual("inf" if high is None else high)
    kept_max = dual("inf" if settings["kept_max"] is None else settings["kept_max"])
    for old, sampler, on in zip(inputs["old_log_probs"], inputs["sampler_log_probs"], inputs["mask"], strict=True):
        at = [t for t, m in enumerate(on) if m]
        us = [steps["log_ratio"](old[t], sampler[t]) for t in at]
        weights = steps["weigh"](us, settings["level"])
        if settings["gate"] is None:
            bounded = [steps["truncate"](w, least, most) for w in weights]
        else:
            judged = steps["judge"](us, settings["gate"])
            capped = [steps["cap"](w, kept_max) for w in weights]
            bounded = [steps["keep"](w, s, least, most) for w, s in zip(capped, judged, strict=True)]
        found = dict(zip(at, bounded, strict=True))
        result.append([found.get(t) for t in range(len(on))])
    return {"weights": result}


def inside_or_nothing(w: Dual, s: Dual, low: Dual, high: Dual) -> Dual:
    return w if low <= s <= high else dual(0)


def other_level(us: Row, level: str) -> list[Dual]:
    if level == "one":
        return ppo.importance_ratios(us, level)
    return ppo.importance_ratios(us, "sequence" if level == "token" else "token")


def mean_or_sum(us: Row, level: str) -> list[Dual]:
    return ppo.importance_ratios(us, {"sequence": "sequence-mean", "sequence-mean": "sequence"}.get(level, level))


MISMATCH = Alternative(
    Flag(
        "bug",
        "The weight of a token where that of the sequence is asked, or the reverse.",
        "Either the variance of whole products, or a bias that was meant to be removed.",
        (f"{TRL}/issues/3867", f"{VERL}/pull/2953"),
        ("C63",),
    ),
    {"weigh": other_level},
)
TRAINER = [[-1.0, -0.5, -2.0], [-1.75, -1.75, -1.25]]
SAMPLER = plus(TRAINER, [[-1.0, 0.25, -0.25], [1.0, 0.125, -0.0625]])


def weight_case(comment: str, mask: Marks, *flags: str, junk: Any = None) -> Case:
    old, sampler = TRAINER, SAMPLER
    if junk is not None:
        old, sampler = hidden(old, mask, junk), hidden(sampler, mask, -1.0)
    return Case(comment, {"old_log_probs": old, "sampler_log_probs": sampler, "mask": mask}, flags)


EXTREME = Case(
    "an extreme token in a sequence that is kept",
    {"old_log_probs": [[-0.5, -3.0, -1.0]], "sampler_log_probs": [[-3.0, -0.75, -1.125]], "mask": full(1, 3)},
    ("extreme_ratio",),
)
WEIGHT_CASES = (
    weight_case("two rows, all chosen", full(2, 3)),
    EXTREME,
    Case(
        "the sampler agrees",
        {"old_log_probs": TRAINER, "sampler_log_probs": TRAINER, "mask": full(2, 3)},
        ("on_policy",),
    ),
    weight_case("ragged, with junk", policy_cases.RAGGED, "ragged_mask", "junk_under_mask", junk=-6.0),
    weight_case("NaN under the mask", policy_cases.GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    weight_case("an empty row", [[True, True, False], [False] * 3], "empty_row"),
    weight_case("no chosen token at all", [[False] * 3] * 2, "all_masked"),
)


def bounds_of(
    level: str, gate: str | None, low: float | None, high: float | None, kept_max: float | None = None
) -> dict[str, Any]:
    return {"level": level, "gate": gate, "low": low, "high": high, "kept_max": kept_max}


OBJECTIVE = Objective(
    name="importance_weights",
    about="What a token's loss is multiplied by where the sampler computes other log-probs than the trainer.",
    tags=("PPO.13", "PPO.14", "PPO.15"),
    source=(
        "Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training, 2025",
        "Ring-1T (IcePop), arXiv:2510.18855v2",
        "Li et al., When Speed Kills Stability, 2025 (by the author's page in verl 1dda039b9)",
    ),
    arguments={"old_log_probs": CONSTANT_LOG_PROBS, "sampler_log_probs": CONSTANT_LOG_PROBS, "mask": MASK},
    returns={"weights": Argument("B T", "none")},
    settings={
        "level": Setting(
            "of the weight: token, sequence (product), sequence-mean, or one: no weight but the gate's",
            ("token", "sequence", "sequence-mean", "one"),
        ),
        "gate": Setting(
            "None truncates; else the level of the ratio that decides what is masked", (None, "token", "sequence")
        ),
        "low": Setting("lower bound of the ratio", (None, 0.5)),
        "high": Setting("upper bound of the ratio", (2.0, 3.0, 5.0), free=True),
        "kept_max": Setting("the largest weight of what passes the gate", (None, 2.0)),
    },
    compute=weights_of_tokens,
    steps={
        "log_ratio": ppo.log_ratio,
        "weigh": ppo.importance_ratios,
        "judge": ppo.importance_ratios,
        "truncate": clip,
        "cap": minimum,
        "keep": inside_or_nothing,
    },
    alternatives={
        "inverted": Alternative(
            Flag("bug", "sampler / trainer in place of trainer / sampler.", "The mismatch is doubled, not removed."),
            {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)},
        ),
        "sampler_not_used": Alternative(
            Flag(
                "bug",
                "The trainer's log-probs are compared with themselves: every weight is 1.",
                "The correction is on, and corrects nothing.",
                (f"{TRL}/pull/4857", f"{LIGER}/issues/1082"),
                ("C64", "C66"),
            ),
            {"log_ratio": lambda p, q: dual(0)},
        ),
        "other_level": MISMATCH,
        "mean_in_place_of_sum": Alternative(
            Flag(
                "bug",
                "The mean of the log-ratios where the sum is asked, or the reverse.",
                "0.57 in place of 0.99 for the same sequence: bounds mean something else.",
                (f"{TRL}/issues/5814", f"{TRL}/pull/5815"),
                ("C63",),
            ),
            {"weigh": mean_or_sum},
        ),
        "gate_at_another_level": Alternative(
            Flag(
                "bug",
                "Tokens are judged by the sequence's ratio where their own is asked, or the reverse.",
                "Whole completions are thrown away for one token, or none ever is.",
                (f"{TRL}/issues/3867",),
                ("C63",),
            ),
            {"judge": other_level},
        ),
        "masked_where_truncation_is_asked": Alternative(
            Flag(
                "variant",
                "What is out of bounds gets weight 0, not the bound.",
                "Samples are thrown away.",
                (f"{TRL}/issues/4772",),
                ("C63",),
            ),
            {"truncate": lambda w, low, high: inside_or_nothing(w, w, low, high)},
        ),
        "truncated_where_masking_is_asked": Alternative(
            Flag(
                "variant",
                "What is out of bounds is held at the bound, not dropped.",
                "Samples from far off stay.",
                (f"{TRL}/issues/4772",),
                ("C63",),
            ),
            {"keep": lambda w, s, low, high: clip(w, low, high)},
        ),
        "not_bounded": Alternative(
            Flag(
                "bug",
                "The documented bound is not there.",
                "One token can outweigh the batch.",
                (OPENRLHF_0_11_1, f"{VERL}/pull/3274"),
                ("C65", "R23"),
            ),
            {"truncate": lambda w, low, high: w, "keep": lambda w, s, low, high: w},
        ),
        "survivors_truncated": Alternative(
            Flag(
                "variant",
                "What passes the gate is also held within the bounds.",
                "Extreme tokens of an accepted sequence weigh less.",
                (OPENRLHF_0_11_1,),
                ("C65", "R23"),
            ),
            {"keep": lambda w, s, low, high: clip(w, low, high) if low <= s <= high else dual(0)},
        ),
        "survivors_weigh_one": Alternative(
            Flag(
                "variant",
                "What passes the gate has weight 1: a filter without a weight.",
                "What is kept is not corrected.",
                (),
                ("C63",),
            ),
            {"keep": lambda w, s, low, high: dual(1) if low <= s <= high else dual(0)},
        ),
        "survivors_not_capped": Alternative(
            Flag(
                "bug",
                "What passes the gate has its weight in full where a cap is asked.",
                "A token of extreme weight in a completion whose mean is near 1 outweighs the batch.",
                (),
                ("C65",),
            ),
            {"cap": lambda w, cap: w},
        ),
        "lower_bound_ignored": Alternative(
            Flag("bug", "Only the upper bound is used.", "Tokens that the trainer finds unlikely stay.", (), ("C65",)),
            {
                "truncate": lambda w, low, high: minimum(w, high),
                "keep": lambda w, s, low, high: w if s <= high else dual(0),
            },
        ),
    },
    edges={
        **policy.POLICY_EDGES,
        "extreme_ratio": Flag(
            "edge",
            "A token of extreme ratio inside a sequence whose own ratio is within bounds.",
            "Whether the token is bounded shows only here.",
            (OPENRLHF_0_11_1,),
            ("C65", "R23"),
        ),
    },
    groups=(
        Group(bounds_of("token", None, None, 2.0), WEIGHT_CASES),
        Group(bounds_of("token", None, 0.5, 2.0), WEIGHT_CASES[:2]),
        Group(bounds_of("sequence", None, None, 2.0), (*WEIGHT_CASES[:2], *WEIGHT_CASES[3:6])),
        Group(bounds_of("sequence-mean", None, None, 1.25), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "token", 0.5, 5.0), (*WEIGHT_CASES[:2], *WEIGHT_CASES[3:6])),
        Group(bounds_of("token", "token", 0.5, 2.0), WEIGHT_CASES[:2]),
        Group(bounds_of("sequence", "sequence", None, 3.0), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "sequence-mean", 0.75, 1.5), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "sequence", 0.5, 2.0), WEIGHT_CASES[:2]),
        Group(bounds_of("one", "sequence-mean", 0.75, 1.5), WEIGHT_CASES[:4]),
        Group(bounds_of("one", "token", 0.5, 2.0), WEIGHT_CASES[:1]),
        Group(bounds_of("token", "sequence-mean", 0.75, 1.5, 2.0), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "sequence-mean", 0.75, 1.5, 1.25), WEIGHT_CASES[:1]),
    ),
)
