"""linear_recurrence: y_t = x_t + a_t y_(t+1), from the right."""

from __future__ import annotations

from typing import Any

from ... import core
from ...contract import Argument, Case, Group, Inputs, Objective
from ...numbers import Dual, stop
from ..shared.common import EDGES, Settings, Steps, bug
from ..shared.means import X_SQUARE


def recurrence(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["inputs"], inputs["decays"], strict=True)
    return {"x": [steps["row"](values, decays) for values, decays in rows]}


def forwards(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    return core.linear_recurrence(values[::-1], decays[::-1])[::-1]


def decay_on_input(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    """x_t = decays_t (inputs_t + x_{t+1})"""
    return core.linear_recurrence([d * v for v, d in zip(values, decays, strict=True)], decays)


def next_decay(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    """x_t = inputs_t + decays_{t+1} x_{t+1}"""
    return core.linear_recurrence(values, [*decays[1:], Dual(0)])


def without_own(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    """x_t - inputs_t"""
    return [x - v for x, v in zip(core.linear_recurrence(values, decays), values, strict=True)]


SERIES = [[1.0, -0.5, 2.0, 0.25], [0.5, 3.0, -1.0, 4.0]]
DECAYS = [[0.5, 0.75, 0.25, 0.5], [1.0, 0.0, 0.5, -2.0]]


def series(comment: str, values: Any, decays: Any, *flags: str) -> Case:
    return Case(comment, {"inputs": values, "decays": decays}, flags)


OBJECTIVE = Objective(
    name="linear_recurrence",
    about="Sum from the right, with a decay per position: what returns and GAE are made of.",
    tags=("CORE.10",),
    source=("Bellman's recursion, G_t = r_t + gamma G_{t+1}, with a gamma for each t",),
    arguments={
        "inputs": Argument("B T", "any", gradient=True),
        "decays": Argument("B T", "1; 0 starts anew, 1 steps over a position", gradient=True),
    },
    returns={"x": Argument("B T", "that of inputs")},
    settings={},
    compute=recurrence,
    steps={"row": core.linear_recurrence},
    alternatives={
        "forwards": bug(
            "Sums from the left: x_t = inputs_t + decays_t x_{t-1}.",
            "Tokens are paid for what came before them, which they cannot change.",
            {"row": forwards},
        ),
        "decay_on_input": bug(
            "The decay multiplies the own input too: x_t = decays_t (inputs_t + x_{t+1}).",
            "Every reward is discounted once too often.",
            {"row": decay_on_input},
        ),
        "next_decay": bug(
            "x_t = inputs_t + decays_{t+1} x_{t+1}: the decay is that of the next position.",
            "A new start acts one position early.",
            {"row": next_decay},
        ),
        "own_input_left_out": bug(
            "x_t = decays_t x_{t+1}, without inputs_t.",
            "A token's own reward is not its own.",
            {"row": without_own},
        ),
        "no_decay": bug(
            "All decays are 1.",
            "gamma and lambda have no effect; sequences run into one another.",
            {"row": lambda values, decays: core.linear_recurrence(values, [Dual(1) for _ in decays])},
        ),
        "decays_detached": bug(
            "No gradient flows through the decays.",
            "Only matters where the decays are learnt.",
            {"row": lambda values, decays: core.linear_recurrence(values, [stop(d) for d in decays])},
        ),
    },
    edges={k: EDGES[k] for k in ("rows_equal_columns", "one_token")},
    groups=(
        Group(
            {},
            (
                series("one row, one decay", SERIES[:1], [[0.5] * 4]),
                series("two rows, a decay each position", SERIES, DECAYS),
                series("decays of 0 and 1: sums that start anew", SERIES, [[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]]),
                series("the last decay meets nothing", [[1.0, 2.0]], [[0.5, 64.0]]),
                series("three rows of three", X_SQUARE, [d[:3] for d in [*DECAYS, DECAYS[0]]], "rows_equal_columns"),
                series("one position", [[-1.5]], [[0.5]], "one_token"),
            ),
        ),
    ),
)  # fmt: skip
