"""kto_reference_point: what gains and losses are measured against."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Group, Inputs, Objective
from ...core import Row
from ...numbers import Dual, stop, total
from ..shared.common import Settings, Steps, bug
from ..shared.pairs import CONSTANT, NATS, PAIR_EDGES
from .implicit_rewards import ROW_CASES


def reference_point(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    return {"reference_point": steps["point"](inputs["log_probs"], inputs["ref_log_probs"])}


def gaps(p: Row, q: Row) -> Row:
    return [stop(a) - b for a, b in zip(p, q, strict=True)]


def each_clamped(p: Row, q: Row) -> Dual:
    return total(x if x > 0 else Dual(0) for x in gaps(p, q)) / len(p)


OBJECTIVE = Objective(
    "kto_reference_point", "What KTO measures gains and losses against: a mean log-ratio, at least 0.", ("DPO.13",),
    ("Ethayarajh et al., arXiv:2402.01306v5, section 4.1",), {"log_probs": NATS, "ref_log_probs": CONSTANT},
    {"reference_point": Argument("", "nats")}, {}, reference_point, {"point": dpo.kto_reference_point},
    {
        "not_clamped": bug("A negative mean is not set to 0.", "Gains are measured from below the reference.",
                           {"point": lambda p, q: total(gaps(p, q)) / len(p)}),
        "each_clamped": bug("Each log-ratio is set to at least 0 before the mean.", "The point is too high.",
                            {"point": each_clamped}),
        "sign_flipped": bug("The reference's log-probs minus the policy's.", "The point is 0 where it should not be.",
                            {"point": lambda p, q: dpo.kto_reference_point([stop(x) for x in q], p)}),
        "sum_over_pairs": bug("The sum, not the mean.", "The point grows with the batch.",
                              {"point": lambda p, q: dpo.kto_reference_point(p, q) * len(p)}),
        "with_gradient": bug("The point is not a constant.", "The gradient of the mean enters that of every loss.",
                             {"point": lambda p, q: total(a - b for a, b in zip(p, q, strict=True)) / len(p)
                              if (total(gaps(p, q))) > 0 else Dual(0)}),
    },
    PAIR_EDGES, (Group({}, ROW_CASES),),
)  # fmt: skip
