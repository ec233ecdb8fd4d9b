"""decoupled_gae: one lambda for the policy's advantages, another for the critic's targets (VC-PPO)."""

from __future__ import annotations

from typing import Any

from ... import ppo
from ...contract import Argument, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual
from ..shared.common import EDGES, MASK, Settings, Steps, bug, chosen, variant
from .gae import GAE_CASES, GAMMA

Found = dict[str, list[list[Dual | None]]]


def advantages_and_returns(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Row by row: GAE by the policy's lambda, and what the critic learns by its own."""
    found: Found = {"advantages": [], "returns": []}
    for rewards, values, on in zip(inputs["rewards"], inputs["values"], inputs["mask"], strict=True):
        given = chosen(rewards, on), chosen(values, on), settings["gamma"]
        for name in found:
            row = iter(steps[name](*given, settings["lam"], settings["value_lam"]))
            found[name].append([next(row) if m else None for m in on])
    return found


def advantages(rewards: Any, values: Any, gamma: Any, lam: Any, value_lam: Any) -> list[Dual]:
    return ppo.decoupled_gae(rewards, values, gamma, lam, value_lam)[0]


def returns(rewards: Any, values: Any, gamma: Any, lam: Any, value_lam: Any) -> list[Dual]:
    return ppo.decoupled_gae(rewards, values, gamma, lam, value_lam)[1]


def swapped(of: Step) -> Step:
    return lambda rewards, values, gamma, lam, value_lam: of(rewards, values, gamma, value_lam, lam)


def advantages_plus_values(rewards: Any, values: Any, gamma: Any, lam: Any, value_lam: Any) -> list[Dual]:
    return ppo.gae(rewards, values, gamma, lam)[1]


def by_value_lam(rewards: Any, values: Any, gamma: Any, lam: Any, value_lam: Any) -> list[Dual]:
    return ppo.gae(rewards, values, gamma, value_lam)[0]


CASES = tuple(case for case in GAE_CASES if set(case.flags) <= EDGES.keys())

OBJECTIVE = Objective(
    name="decoupled_gae",
    about="Generalised advantages by one lambda, and the critic's targets by another (VC-PPO).",
    tags=("PPO.16",),
    source=("VC-PPO, arXiv:2503.01491, by accounts",),
    arguments={"rewards": Argument("B T", "reward"), "values": Argument("B T", "reward"), "mask": MASK},
    returns={"advantages": Argument("B T", "reward"), "returns": Argument("B T", "reward")},
    settings={
        "gamma": GAMMA,
        "lam": Setting("of the advantages", (0.95, 0.9), free=True),
        "value_lam": Setting("of what the critic learns", (1.0,), free=True),
    },
    compute=advantages_and_returns,
    steps={"advantages": advantages, "returns": returns},
    alternatives={
        "one_lambda": variant(
            "The critic's target is the advantage plus the value, as in GAE: value_lam is not looked at.",
            "The critic of a long completion learns from itself, hardly from the reward.",
            {"returns": advantages_plus_values},
            links=("https://arxiv.org/abs/1506.02438",),
        ),
        "swapped": bug(
            "Each lambda stands in the other's place.",
            "The policy's gradient is as noisy as the return, and the critic learns from itself.",
            {"advantages": swapped(advantages), "returns": swapped(returns)},
        ),
        "advantages_from_returns": bug(
            "The advantage is the critic's target less its value.",
            "The policy's lambda is not looked at: its gradient is as noisy as the return.",
            {"advantages": by_value_lam},
        ),
        "value_not_added": bug(
            "The critic's target is its own GAE: the value is not added back.",
            "The critic learns its own error, and values shrink to 0.",
            {"returns": by_value_lam},
            pitfalls=("C50",),
        ),
    },
    edges={k: EDGES[k] for k in sorted({flag for case in CASES for flag in case.flags})},
    groups=(
        Group({"gamma": 1.0, "lam": 0.95, "value_lam": 1.0}, CASES),
        *(
            Group({"gamma": gamma, "lam": lam, "value_lam": value_lam}, tuple(CASES[i] for i in (0, 3, 5)))
            for gamma, lam, value_lam in ((0.9, 0.5, 0.9), (1.0, 0.75, 0.5))
        ),
    ),
)
