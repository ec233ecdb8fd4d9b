"""implicit_rewards: beta times the log-ratio to the reference."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective
from ..shared.common import Settings, Steps, bug
from ..shared.pairs import BETA, CONSTANT, NATS, PAIR_EDGES, WITH_REFERENCE

ROWS = {"log_probs": [-4.5, -9.25, -6.0], "ref_log_probs": [-5.25, -8.5, -7.5]}
LOWER = {"log_probs": [-5.25, -8.5, -7.5], "ref_log_probs": [-4.5, -8.25, -6.0]}
SINGLE = {"log_probs": [-3.5], "ref_log_probs": [-4.25]}
EQUAL = {"log_probs": [-3.5, -6.0], "ref_log_probs": [-3.5, -6.0]}
ROW_CASES = (
    Case("two above the reference, one below", ROWS), Case("mostly below the reference", LOWER),
    Case("one completion", SINGLE), Case("policy and reference agree", EQUAL, ("at_reference",)),
)  # fmt: skip


def implicit(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], strict=True)
    return {"rewards": [steps["reward"](p, q, settings["beta"]) for p, q in rows]}


OBJECTIVE = Objective(
    "implicit_rewards", "The reward that a policy is optimal for, up to a constant per prompt.", ("DPO.2",),
    ("Rafailov et al., arXiv:2305.18290v3, eq. 5",), {"log_probs": NATS, "ref_log_probs": CONSTANT},
    {"rewards": Argument("N", "reward")}, {"beta": BETA}, implicit, {"reward": dpo.implicit_reward},
    {**WITH_REFERENCE,
     "sign_flipped": bug("The reference's log-prob minus the policy's.", "The ranking is upside down.",
                         {"reward": lambda p, q, beta: -dpo.implicit_reward(p, q, beta)}, pitfalls=("C76",))},
    PAIR_EDGES, (Group({"beta": 0.1}, ROW_CASES), Group({"beta": 0.5}, ROW_CASES[:2])),
)  # fmt: skip
