"""whiten_completions: advantages with mean 0 and deviation 1 over the completions of the batch (GDPO)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core, reinforce
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...numbers import Dual, dual, sqrt, stop
from ..shared.common import EDGES, NAN, SCORED, Row, Settings, Steps, bug, full, marks, variant


def whitened(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """All scored completions at once; 0 for what was not scored."""
    given = inputs["advantages"]
    scored = steps["scored"](inputs)
    made = [
        iter(steps["batch"]([x for x, m in zip(row, on, strict=True) if m], every, settings))
        for every in [[x for row, on in zip(given, scored, strict=True) for x, m in zip(row, on, strict=True) if m]]
        for row, on in zip(given, scored, strict=True)
    ]
    return {"advantages": [[next(found) if m else Dual(0) for m in on] for found, on in zip(made, scored, strict=True)]}


def of_the_batch(group: Row, every: Row, settings: Settings) -> list[Dual]:
    """This group's, of the whole batch's."""
    found = reinforce.whiten_completions(every, settings["correction"], settings["eps"])
    return [next(a for x, a in zip(every, found, strict=True) if x is y) for y in group]


def by(scale: Callable[[Row, Settings], Dual], centred: bool = True) -> Callable[..., list[Dual]]:
    def made(group: Row, every: Row, settings: Settings) -> list[Dual]:
        moved = dict(zip(map(id, every), reinforce.centred(every), strict=True))
        return [core.divided(moved[id(x)] if centred else stop(x), scale(every, settings)) for x in group]

    return made


def full_of(inputs: Inputs) -> list[list[bool]]:
    return full(len(inputs["advantages"]), len(inputs["advantages"][0]))


def spread(every: Row, settings: Settings) -> Dual:
    return reinforce.deviation(every, settings["correction"])


def of_the_group(group: Row, every: Row, settings: Settings) -> list[Dual]:
    return reinforce.whiten_completions(group, settings["correction"], settings["eps"])


def with_eps(every: Row, settings: Settings) -> Dual:
    return spread(every, settings) + dual(settings["eps"])


def eps_inside(every: Row, settings: Settings) -> Dual:
    return sqrt(spread(every, settings) * spread(every, settings) + dual(settings["eps"]))


SUMS = [[1.5, -0.5, 0.25, -1.25], [3.0, -1.0, -1.5, -0.5]]


def case(comment: str, advantages: Any, *flags: str, **more: Any) -> Case:
    return Case(comment, {"advantages": advantages, **more}, flags)


CASES = (
    case("two groups of four", SUMS),
    case("a tied group and another", [[0.0, 0.0], [1.5, -0.5], [0.25, 0.75]]),
    case("three groups of three", [[1.0, 0.0, 0.25], [2.0, 3.0, -1.0], [0.5, 0.5, 4.0]], "rows_equal_columns"),
    case("all are equal", [[0.1] * 4, [0.1] * 4], "tie_that_rounds"),
    case("groups of one", [[0.75], [1.0], [-2.0]]),
    case("all were scored", SUMS, scored=full(2, 4)),
    case("64 where not scored", [[1.5, 64.0, 0.25, -1.25], [3.0, -1.0, 64.0, 64.0]], "unscored",
         scored=marks("1011 1100")),
    case("NaN where not scored", [[1.5, NAN], [NAN, -1.0], [0.5, 0.0]], "unscored", scored=marks("10 01 11")),
    case("none was scored", [[NAN, NAN]], "none_scored", scored=marks("00")),
)  # fmt: skip

OBJECTIVE = Objective(
    name="whiten_completions",
    about="Advantages with mean 0 and deviation 1 over the completions of the batch (GDPO).",
    tags=("REINFORCE.13",),
    source=("GDPO, arXiv:2601.05242v1, eq. 6",),
    arguments={"advantages": Argument("P G", "any"), "scored": SCORED},
    returns={"advantages": Argument("P G", "none")},
    settings={
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to the deviation", (1e-4, 1e-8, 0.0), free=True),
    },
    compute=whitened,
    steps={"batch": of_the_batch, "scored": lambda inputs: inputs.get("scored") or full_of(inputs)},
    alternatives={
        "of_the_group": bug(
            "Mean and deviation of each group.",
            "Every group has the same scale again, whatever the sum of its rewards.",
            {"batch": of_the_group},
        ),
        "not_centred": bug(
            "The mean is not taken off.", "A batch of groups that lean one way pushes that way.",
            {"batch": by(with_eps, centred=False)},
        ),
        "not_divided": bug(
            "The mean is taken off, and nothing is divided.",
            "The step grows with the number of rewards.",
            {"batch": by(lambda every, settings: Dual(1))},
        ),
        "eps_inside_the_root": variant(
            "sqrt(variance + eps), as masked_whiten has it.", "Batches of little spread are held back more.",
            {"batch": by(eps_inside)},
        ),
        "scored_ignored": bug(
            "`scored` is not looked at.",
            "A placeholder counts as an advantage, and NaN turns the whole batch into NaN.",
            {"scored": lambda inputs: full_of(inputs)},
            pitfalls=("C53",),
        ),
    },
    edges={
        **{k: EDGES[k] for k in ("rows_equal_columns", "tie_that_rounds", "unscored")},
        "none_scored": Flag("edge", "No completion was scored.", "0 / 0: the update is NaN.", pitfalls=("C53",)),
    },
    groups=(
        Group({"correction": 1, "eps": 1e-4}, CASES),
        *(Group({"correction": c, "eps": e}, CASES[:3]) for c, e in ((0, 1e-4), (1, 0.0), (1, 0.25))),
    ),
)  # fmt: skip
