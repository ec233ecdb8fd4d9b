"""log_sum_squares: the normaliser of WPO's weights."""

from __future__ import annotations

from typing import Any

from ... import core, dpo
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...numbers import Dual, dual, exp, log, total
from ..shared.common import EDGES, INF, Settings, Steps, bug, variant

SOURCE = ("Zhou et al. (WPO), arXiv:2406.11827v2, eq. 2 and section 3",)

LOGITS = [[[1.0, 0.0, -1.0], [0.5, 0.5, 0.5]], [[2.0, -2.0, 0.25], [0.0, 3.0, -1.5]]]
EXCLUDED = [[[1.0, -INF, 0.0], [-INF, 0.5, -INF]], [[0.0, 0.0, -INF], [2.0, 1.0, 0.0]]]


def normalisers(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    def at(logits: list[Dual]) -> Dual:
        return dual(steps["normaliser"](core.log_softmax(logits, steps["temperature"](settings["temperature"]))))

    return {"log_normalisers": [[at(logits) for logits in row] for row in inputs["logits"]]}


OBJECTIVE = Objective(
    name="log_sum_squares",
    about="The log-probability that two draws from the policy are the same token: WPO's normaliser.",
    tags=("DPO.17",),
    source=SOURCE,
    arguments={"logits": Argument("B T V", "logits of the policy; a constant")},
    returns={"log_normalisers": Argument("B T", "nats")},
    settings={"temperature": Setting("The temperature that the tokens were sampled at.", (1.0, 0.5, 2.0), free=True)},
    compute=normalisers,
    steps={"normaliser": dpo.log_sum_squares, "temperature": lambda t: t},
    alternatives={
        "no_temperature": bug("Logits are not divided by the temperature.", "The weight is that of another policy.",
                              {"temperature": lambda t: 1}, pitfalls=("C56",)),
        "largest_probability": variant("log max_v pi(v): greedy alignment.", "Weights are smaller, at most 1.",
                                       {"normaliser": lambda ps: max(ps, key=lambda p: p.value)}),
        "without_the_log": bug("sum_v pi(v)^2 itself.", "The weight is divided by a number that hardly varies.",
                               {"normaliser": lambda ps: total(exp(2 * p) for p in ps)}),
        "half": bug("log sqrt(sum_v pi(v)^2): the norm in place of its square.", "Weights above 1 where pi is flat.",
                    {"normaliser": lambda ps: log(total(exp(2 * p) for p in ps)) / 2}),
        "negative_entropy": bug("sum_v pi(v) log pi(v).", "The weight has another scale for flat distributions.",
                                {"normaliser": lambda ps: total(exp(p) * p for p in ps if p > -INF)}),
    },
    edges=EDGES | {"minus_inf_logits": Flag("edge", "Tokens that cannot be chosen: their logit is -inf.",
                                            "NaN, from 0 * inf.")},
    groups=tuple(
        Group({"temperature": temperature}, (
            Case("three tokens to choose from", {"logits": LOGITS}),
            Case("with excluded tokens", {"logits": EXCLUDED}, ("minus_inf_logits",)),
        ))
        for temperature in (1.0, 0.5, 2.0)
    ),
)  # fmt: skip
