"""kl_k3_with_k2_gradient: the value of k3 with the gradient of k2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core, grpo, ppo
from ...contract import Alternative, Argument, Flag, Group, Inputs, Objective, Step
from ...numbers import Dual, stop
from ..shared import policy, policy_cases, policy_kl
from ..shared.common import EDGES, Settings
from .sequence_log_ratios import row_cases


def kl_per_token(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    for b, marks in enumerate(inputs["mask"]):
        row: list[Dual | None] = []
        for t, m in enumerate(marks):
            p, q = inputs["log_probs"][b][t], inputs["ref_log_probs"][b][t]
            old = inputs["old_log_probs"][b][t] if "old_log_probs" in inputs else p
            row.append(steps["kl"](p, q, steps["log_ratio"](p, old)) if m else None)
        result.append(row)
    return {"kl": result}


KL_RIGHT = {
    "kl_k3_with_k2_gradient": lambda p, q, u: grpo.k3_with_k2_gradient(p, q),
    "ratio_weighted_kl": lambda p, q, u: grpo.ratio_weighted_kl(p, u, q),
}
PLAIN_K3 = Alternative(
    Flag(
        "variant",
        "k3 alone.",
        "Its gradient is that of KL(reference || policy), and on samples of an older policy its value is biased.",
        ("http://joschu.net/blog/kl-approx.html", "https://arxiv.org/abs/2512.02556"),
        ("C33", "R02"),
    ),
    {"kl": lambda p, q, u: core.k3(p, q)},
)
OBJECTIVE = Objective(
    name="kl_k3_with_k2_gradient",
    about="The value of k3 with the gradient of k2.",
    tags=("GRPO.14",),
    source=("KL.2 and KL.3; verl 0.9.1 names it k3+",),
    arguments={k: policy.ARGUMENTS[k] for k in ("log_probs", "ref_log_probs", "mask")},
    returns={"kl": Argument("B T", "nats")},
    settings={},
    compute=kl_per_token,
    steps={"kl": KL_RIGHT["kl_k3_with_k2_gradient"], "log_ratio": ppo.log_ratio},
    alternatives={
        "k3": PLAIN_K3,
        "k2": policy_kl.ALTERNATIVES["k2"],
        "value_of_both": Alternative(
            Flag("bug", "sg[k3] + k2: k2's value is not taken away.", "The reported KL is the sum of two."),
            {"kl": lambda p, q, u: stop(core.k3(p, q)) + core.k2(p, q)},
        ),
        "k2_with_k3_gradient": Alternative(
            Flag("bug", "The other way round: k2's value, k3's gradient.", "The pull is k3's, the report k2's."),
            {"kl": lambda p, q, u: stop(core.k2(p, q)) + core.k3(p, q) - stop(core.k3(p, q))},
        ),
        "detached": policy_kl.ALTERNATIVES["kl_detached"],
        "reversed_kl": Alternative(
            policy_kl.ALTERNATIVES["reversed_kl"].flag,
            {"kl": lambda p, q, u: stop(policy_kl.reversed_k3(p, q, u)) + core.k2(p, q) - stop(core.k2(p, q))},
        ),
    },
    edges=EDGES,
    groups=(Group({}, row_cases(("log_probs", "ref_log_probs", "mask"), policy_cases.usual(True))),),
)
