"""adaptive_entropy: the coefficient of the entropy bonus follows a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import clip, dual
from ..shared.common import TRL_1_16_0, Settings, bug, variant


def coefficient(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """c <- clip(c + delta if H < target else c - delta, low, high);  the bonus: c if H < target, else 0    (PPO.19)"""
    coef, target, delta, low, high = (dual(settings[k]) for k in ("coef", "target", "delta", "low", "high"))
    below = steps["below"](inputs["entropy"], target)
    after = steps["bound"](steps["step"](coef, delta, below), low, high)
    return {"coef": after, "bonus": steps["applied"](after, below)}


CASES = tuple(
    Case(f"entropy {entropy:g}", {"entropy": entropy}, flags)
    for entropy, flags in ((0.125, ()), (0.375, ()), (0.25, ("on_target",)), (0.0, ()))
)
RUNS_AWAY = "The entropy collapses, or runs away."
ALTERNATIVES: dict[str, Alternative] = {
    "inverted": bug("The coefficient grows above the target.", RUNS_AWAY,
                    {"step": lambda c, delta, below: c - delta if below else c + delta}),
    "inclusive": variant("At the target it grows too.", "No difference but there.",
                         {"below": lambda h, target: h <= target}, links=(TRL_1_16_0,)),
    "always_on": variant("The bonus stays on above the target.", "The entropy rises beyond what is wanted.",
                         {"applied": lambda c, below: c}),
    "not_bounded": bug("The coefficient has no bounds.", "It falls below 0 while the entropy is high: a price on it.",
                       {"bound": lambda c, low, high: c}),
    "relative": bug("The step is a share of the coefficient.", "From 0 it never leaves 0.",
                    {"step": lambda c, delta, below: c * (1 + delta if below else 1 - delta)}),
    "only_up": bug("Above the target it stays where it is.", "It only ever grows.",
                   {"step": lambda c, delta, below: c + delta if below else c}),
    "fixed": variant("The coefficient does not change.", "The entropy goes where it goes.",
                     {"step": lambda c, delta, below: c}),
}  # fmt: skip
OBJECTIVE = Objective(
    name="adaptive_entropy",
    about="The coefficient of the entropy bonus after one step of the controller, and what the next step adds.",
    tags=("PPO.19",),
    source=("He et al., Skywork-OR1, arXiv:2505.22312, section 3.2.5, by the authors' code",),
    arguments={"entropy": Argument("", "nats")},
    returns={"coef": Argument("", "loss per nat"), "bonus": Argument("", "loss per nat")},
    settings={
        "coef": Setting("the present coefficient", (0.0,)),
        "target": Setting("the entropy wanted", (0.2,)),
        "delta": Setting("the step", (1e-4, 5e-3), free=True),
        "low": Setting("the least coefficient", (0.0,), free=True),
        "high": Setting("the largest coefficient", (5e-3, 1.0), free=True),
    },
    compute=coefficient,
    steps={
        "below": lambda h, target: h < target,
        "step": lambda c, delta, below: c + delta if below else c - delta,
        "bound": clip,
        "applied": lambda c, below: c if below else dual(0),
    },
    alternatives=ALTERNATIVES,
    edges={"on_target": Flag("edge", "The entropy is what was wanted.", "Published code does not agree there.")},
    groups=(
        Group({"coef": 0.125, "target": 0.25, "delta": 0.0625, "low": 0.03125, "high": 0.5}, CASES),
        Group({"coef": 0.0625, "target": 0.5, "delta": 0.125, "low": 0.0, "high": 0.15625}, CASES),
    ),
)
