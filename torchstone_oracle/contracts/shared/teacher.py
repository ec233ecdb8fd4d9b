"""What the teacher says of the sampled tokens, as advantages and as a loss: the computation, and its cases.

Each word is a step that an alternative may replace:

    teacher (its log-probs, held constant) -> signal -> row (with gap) -> batch -> surrogate -> reduce -> sign
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import core, distill, ppo
from ...contract import Argument, Case, Flag, Inputs, Setting, Step
from ...numbers import Dual, bounded_exp, dual, stop
from .common import INF, LOG_PROBS, NAN, Marks, Numbers, Settings, Steps, full, hidden, marks, plus
from .policy import POLICY_EDGES, as_asked

Logs = Sequence[Dual]
SOURCE = (
    "Agarwal et al., On-Policy Distillation of Language Models (GKD), arXiv:2306.13649",
    "the sampled form: Lu and Thinking Machines Lab, On-Policy Distillation, 2025, "
    "https://thinkingmachines.ai/blog/on-policy-distillation",
)


def earned_by(inputs: Inputs, settings: Settings, steps: Steps) -> list[list[Dual | None]]:
    """Of each row: what each chosen token earns; None elsewhere."""
    result = []
    for b, on in enumerate(inputs["mask"]):
        signals = [
            steps["signal"](p, q, o)
            for p, q, o in zip(inputs["log_probs"][b], steps["teacher"](inputs, b), old(inputs, b), strict=True)
        ]
        result.append(steps["row"](signals, on, settings["gamma"], steps["gap"]))
    return steps["batch"](result, inputs["mask"])


def old(inputs: Inputs, b: int) -> Sequence[Any]:
    """The log-probs of the policy that sampled; None where it is the present one."""
    given = inputs.get("old_log_probs")
    return [None] * len(inputs["log_probs"][b]) if given is None else given[b]


def advantages_alone(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    return {"advantages": earned_by(inputs, settings, steps)}


def whole_loss(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """The loss. Every entry is computed, the masked ones too, with their own signal: ``reduce`` selects."""
    earned, mask = earned_by(inputs, settings, steps), inputs["mask"]
    losses, kls, moved = [], [], []
    for b in range(len(mask)):
        places = list(zip(inputs["log_probs"][b], steps["teacher"](inputs, b), earned[b], old(inputs, b), strict=True))
        losses.append([
            steps["surrogate"](p, q, steps["signal"](p, q, o) if a is None else a, o) for p, q, a, o in places
        ])  # fmt: skip
        kls.append([steps["kl_metric"](p, q) for p, q, _, _ in places])
        moved.append([steps["approx_kl"](ppo.log_ratio(p, p if o is None else o)) for p, _, _, o in places])
    outputs = {
        "loss": steps["sign"](steps["reduce"](losses, mask, settings)),
        "kl": stop(steps["kl_mean"](kls, mask)),
    }
    return outputs | ({"approx_kl": stop(core.token_mean(moved, mask))} if "old_log_probs" in inputs else {})


# The right steps.


def teacher(inputs: Inputs, b: int) -> Logs:
    return [stop(q) for q in inputs["teacher_log_probs"][b]]


def signal(log_prob: Dual, teacher_log_prob: Dual, old_log_prob: Any) -> Dual:
    """distill.log_ratio, with the teacher held constant, or not, by the step before."""
    return teacher_log_prob - stop(log_prob)


def from_the_right(signals: Logs, on: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    """distill.teacher_advantages, with a choice of what happens where no token was chosen; nothing is detached."""
    result: list[Dual | None] = []
    after = Dual(0)
    for d, chosen in zip(reversed(signals), reversed(on), strict=True):
        after = d + dual(gamma) * after if chosen else gap(d, after, gamma)
        result.insert(0, after if chosen else None)
    return result


def policy_gradient(log_prob: Dual, teacher_log_prob: Dual, advantage: Dual, old_log_prob: Any) -> Dual:
    return distill.policy_gradient(log_prob, advantage, old_log_prob)


ADVANTAGE_STEPS: dict[str, Step] = {
    "teacher": teacher,
    "signal": signal,
    "row": from_the_right,
    "gap": lambda d, after, gamma: after,
    "batch": lambda earned, mask: earned,
}
LOSS_STEPS: dict[str, Step] = ADVANTAGE_STEPS | {
    "surrogate": policy_gradient,
    "reduce": as_asked,
    "sign": lambda loss: loss,
    "kl_metric": lambda p, q: dual(p) - q,
    "kl_mean": core.token_mean,
    "approx_kl": lambda u: bounded_exp(u) - 1 - u,
}
TEACHER_LOG_PROBS = Argument("B T", "nats, of the teacher; a constant", gradient=True)
ARGUMENTS = {"log_probs": LOG_PROBS, "teacher_log_probs": TEACHER_LOG_PROBS}
GAMMA = Setting("0: each token earns its own log-ratio alone; above: the discounted sum of what follows, too.",
                (0.0, 1.0, 0.9, 0.99), free=True)  # fmt: skip
TEACHER_EDGES = POLICY_EDGES | {
    "same_distribution": Flag(
        "edge",
        "The policy gives each token the teacher's probability: every advantage is 0.",
        "A policy that has learnt everything is still moved.",
    )
}

# ------------------------------------------------------------------------------------------------------------ the cases

POLICY = [[-1.25, -0.5, -2.0, -0.75], [-0.75, -3.0, -1.5, -0.25]]
TEACHER = [[-0.5, -0.75, -3.0, -0.5], [-2.25, -0.5, -1.25, -1.0]]
OLD = plus(POLICY, [[0.25, -0.5, 0.125, 0.5], [-0.375, 0.25, -0.25, 0.0625]])
SQUARE = [[-1.0, -0.25, -2.5], [-0.125, -4.0, -0.5], [-2.0, -1.75, -0.75]]
SQUARE_TEACHER = [[-0.5, -0.75, -1.5], [-1.0, -3.0, -1.25], [-0.25, -2.0, -1.25]]
SQUARE_OLD = plus(SQUARE, [[0.25, -0.25, 0.5], [-0.5, 0.375, 0.125], [0.125, -0.125, -0.25]])
RAGGED, GAPS, EMPTY = marks("1110 1100"), marks("1011 0101"), marks("1101 0000")


def taught(
    comment: str, mask: Marks, *flags: str, policy: Numbers = POLICY, teacher: Numbers = TEACHER,
    old: Numbers | None = None, junk: tuple[float, float, float] | None = None, **more: Any,
) -> Case:  # fmt: skip
    """``junk``: what lies under False in the policy's, the teacher's and the old log-probs."""
    inputs: Inputs = {"log_probs": policy, "teacher_log_probs": teacher}
    if old is not None:
        inputs["old_log_probs"] = old
    if junk is not None:
        inputs = {k: hidden(x, mask, j) for (k, x), j in zip(inputs.items(), junk, strict=False)}
    return Case(comment, inputs | {"mask": mask}, flags, **more)


def usual(sampled: bool, far: bool = True) -> tuple[Case, ...]:
    """``sampled``: another policy sampled, and its log-probs are given. ``far``: tokens far off too."""

    def make(*rest: Any, old: Numbers = OLD, **more: Any) -> Case:
        return taught(*rest, old=old if sampled else None, **more)

    square: dict[str, Any] = {"policy": SQUARE, "teacher": SQUARE_TEACHER, "old": SQUARE_OLD}
    cases = [
        make("two rows, all chosen", full(2, 4)),
        make("lengths 3 and 2", RAGGED, "ragged_mask"),
        make("tool output inside", GAPS, "gaps_in_mask"),
        make("junk in the padding", RAGGED, "ragged_mask", "junk_under_mask", junk=(-7.5, -2.0, -4.0)),
        make("junk in the gaps", GAPS, "gaps_in_mask", "junk_under_mask", junk=(-0.5, -6.0, -1.0)),
        make("NaN in the padding", RAGGED, "ragged_mask", "nan_under_mask", junk=(NAN, NAN, NAN)),
        make("inf and -inf in the gaps", GAPS, "gaps_in_mask", "nan_under_mask", junk=(-INF, INF, NAN)),
        make("NaN in the teacher's padding alone", RAGGED, "ragged_mask", "nan_under_mask", junk=(-1.0, NAN, -1.0)),
        make("an empty row", EMPTY, "empty_row"),
        make("no token at all", marks("0000 0000"), "all_masked"),
        make("three rows of three", full(3, 3), "rows_equal_columns", **square),
        make("one token", [[True]], "one_token", policy=[[-0.5]], teacher=[[-1.75]], old=[[-0.75]]),
        make("the policy is the teacher", full(2, 4), "same_distribution", teacher=POLICY),
    ]
    if far:
        cases.append(make("the teacher 12 nats below and above", full(1, 2), policy=[[-0.5, -13.0]],
                          teacher=[[-12.5, -1.0]], old=[[-0.75, -13.5]]))  # fmt: skip
    return tuple(cases)
