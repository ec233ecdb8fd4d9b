"""adaptive_kl: the coefficient of the KL follows a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import clip, dual, exp
from ..shared.common import Settings


def coefficient(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    beta, target, gain, most = (dual(settings[k]) for k in ("beta", "target", "gain", "max_error"))
    error = steps["bound"](steps["error"](inputs["kl"], target), most)
    return {"beta": steps["update"](beta, gain, error)}


KL_CASES = tuple(
    Case(f"KL {kl:g}", {"kl": kl}, flags)
    for kl, flags in (
        (6.0, ("on_target",)),
        (6.25, ()),
        (5.5, ()),
        (12.0, ("far_from_target",)),
        (1.0, ("far_from_target",)),
        (0.0, ("far_from_target",)),
    )
)
OBJECTIVE = Objective(
    name="adaptive_kl",
    about="The KL's price after one step of the controller that steers the KL to a target.",
    tags=("PPO.2",),
    source=("Ziegler et al., arXiv:1909.08593v2, section 2.2",),
    arguments={"kl": Argument("", "nats")},
    returns={"beta": Argument("", "reward per nat")},
    settings={
        "beta": Setting("the present price", (0.125,)),
        "target": Setting("the KL wanted", (6.0,)),
        "gain": Setting("K_beta", (0.1,), free=True),
        "max_error": Setting("bound of the error", (0.2,), free=True),
    },
    compute=coefficient,
    steps={
        "error": lambda kl, target: kl / target - 1,
        "bound": lambda error, most: clip(error, -most, most),
        "update": lambda beta, gain, error: beta * (1 + gain * error),
    },
    alternatives={
        "inverted": Alternative(
            Flag("bug", "The price falls when the KL is too large.", "The policy runs away."),
            {"update": lambda beta, gain, error: beta * (1 - gain * error)},
        ),
        "not_bounded": Alternative(
            Flag("bug", "The error is not bounded.", "One odd batch makes the price jump."),
            {"bound": lambda error, most: error},
        ),
        "not_relative": Alternative(
            Flag("bug", "KL - target, not divided by the target.", "The controller's speed depends on the target."),
            {"error": lambda kl, target: kl - target},
        ),
        "target_over_kl": Alternative(
            Flag("bug", "target / KL - 1.", "Inverted, and infinite at a KL of 0."),
            {"error": lambda kl, target: target / kl - 1},
        ),
        "gain_ignored": Alternative(
            Flag("bug", "beta (1 + error): no gain.", "The price moves by up to a fifth each step."),
            {"update": lambda beta, gain, error: beta * (1 + error)},
        ),
        "added": Alternative(
            Flag("bug", "beta + gain * error: not proportional to beta.", "The price can fall below 0."),
            {"update": lambda beta, gain, error: beta + gain * error},
        ),
        "fixed": Alternative(
            Flag("variant", "The price does not change.", "The KL goes where it goes."),
            {"update": lambda beta, gain, error: beta},
        ),
        "exponential": Alternative(
            Flag("variant", "beta exp(gain * error).", "The same to first order."),
            {"update": lambda beta, gain, error: beta * exp(gain * error)},
        ),
    },
    edges={
        "on_target": Flag("edge", "The KL is what was wanted.", "The price must not move."),
        "far_from_target": Flag(
            "edge", "An error beyond the bound.", "Without the bound one batch moves the price far."
        ),
    },
    groups=(
        Group({"beta": 0.125, "target": 6.0, "gain": 0.1, "max_error": 0.2}, KL_CASES),
        Group({"beta": 0.5, "target": 2.0, "gain": 0.05, "max_error": 0.25}, KL_CASES[:2]),
    ),
)
