"""wpo_loss: DPO with a weight for each pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ... import dpo
from ...contract import Argument, Group, Inputs, Step
from ...core import Row
from ...numbers import Dual, stop, total
from ..shared.common import Settings, bug, variant
from ..shared.pairs import FOUR, objective


def weighted(weigh: Callable[[Any, Row], Any]) -> Step:
    """WPO: DPO's loss of each pair times its weight."""

    def losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
        rows = zip(win, lose, inputs["weights"], strict=True)
        return [weigh(w, inputs["weights"]) * dpo.dpo(a, b) for a, b, w in rows]

    return losses


WEIGHTS = {"weights": [0.5, 1.25, 0.125, 2.0]}
OBJECTIVE = objective(
    "wpo_loss", "DPO in which pairs that the policy would not have written count less.", ("DPO.19",),
    "Zhou et al., arXiv:2406.11827v2, eq. 1", weighted(lambda w, all_w: stop(w)),
    {"clamped": variant("Weights of at most 1.", "Pairs that the policy would rather write count as any other.",
                        {"losses": weighted(lambda w, all_w: stop(w) if w < 1 else Dual(1))}),
     "divided_by_weights": bug("The mean is weighted: divided by the sum of weights.", "The size of the step changes.",
                               {"losses": weighted(lambda w, all_w: stop(w) * len(all_w) / stop(total(all_w)))}),
     "squared_weights": bug("The weights are applied twice.", "Few pairs decide.",
                            {"losses": weighted(lambda w, all_w: stop(w) * stop(w))})},
    arguments={**FOUR, "weights": Argument("N", "1")},
)  # fmt: skip
OBJECTIVE = replace(OBJECTIVE, groups=tuple(
    Group(g.settings, tuple(
        replace(c, inputs={**c.inputs, "weights": WEIGHTS["weights"][: len(c.inputs["chosen_log_probs"])]})
        for c in g.cases)) for g in OBJECTIVE.groups))  # fmt: skip
