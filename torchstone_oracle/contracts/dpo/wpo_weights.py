"""wpo_weights: how likely the policy itself would have written a completion."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective
from ...numbers import Dual, dual, exp, mean, total
from ..shared.common import CONSTANT_LOG_PROBS, EDGES, MASK, NAN, Settings, Steps, bug, full, hidden, marks, variant
from .log_sum_squares import SOURCE

LOG_PROBS = [[-1.25, -0.5, -2.0], [-0.75, -3.0, -1.5]]
LOG_C = [[-0.5, -0.25, -1.5], [-1.0, -2.0, -0.5]]
RAGGED, GAPS, EMPTY = marks("111 100"), marks("101 011"), marks("110 000")


def weights(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    given = inputs.get("log_normalisers")
    rows = zip(inputs["log_probs"], given or [None] * len(inputs["log_probs"]), inputs["mask"], strict=True)
    return {"weights": [dual(steps["weight"](*steps["normaliser"](p, c), marked)) for p, c, marked in rows]}


def mean_ratio(log_probs: list[Dual], log_c: list[Dual] | None, marked: list[bool]) -> Dual:
    """The mean of the tokens' weights, in place of the weight of the mean."""
    moved = [p - (log_c[t] if log_c else 0) for t, p in enumerate(log_probs) if marked[t]]
    return mean([exp(u) for u in moved]) if moved else Dual(1)


def summed(log_probs: list[Dual], log_c: list[Dual] | None, marked: list[bool]) -> Dual:
    return exp(total(p - (log_c[t] if log_c else 0) for t, p in enumerate(log_probs) if marked[t]))


def over_width(log_probs: list[Dual], log_c: list[Dual] | None, marked: list[bool]) -> Dual:
    kept = [p - (log_c[t] if log_c else 0) for t, p in enumerate(log_probs) if marked[t]]
    return exp(total(kept) / len(marked))


def case(comment: str, mask: list[list[bool]], *flags: str, junk: float | None = None, alone: bool = False) -> Case:
    named = {"log_probs": LOG_PROBS} | ({} if alone else {"log_normalisers": LOG_C})
    shown = named if junk is None else {k: hidden(x, mask, junk) for k, x in named.items()}
    return Case(comment, {**shown, "mask": mask}, flags)


OBJECTIVE = Objective(
    name="wpo_weights",
    about="How likely it is that the policy itself would have written this completion; a constant.",
    tags=("DPO.18",),
    source=SOURCE,
    arguments={"log_probs": CONSTANT_LOG_PROBS, "log_normalisers": CONSTANT_LOG_PROBS, "mask": MASK},
    returns={"weights": Argument("B", "a probability, or relative to one")},
    settings={},
    compute=weights,
    steps={"weight": dpo.wpo_weight, "normaliser": lambda p, c: (p, c)},
    alternatives={
        "normaliser_ignored": variant("c is 1: the geometric mean of the probabilities.", "Flat policies weigh less.",
                                      {"normaliser": lambda p, c: (p, None)}),
        "normaliser_added": bug("log c is added.", "What the policy would not write weighs most.",
                                {"normaliser": lambda p, c: (p, c and [-x for x in c])}),
        "summed": bug("The sum over tokens in place of the mean.", "Long completions weigh nothing.",
                      {"weight": summed}),
        "mean_of_token_weights": bug("The mean of the tokens' weights.", "Likely tokens make up for unlikely ones.",
                                     {"weight": mean_ratio}),
        "padded_width": bug("Divided by the padded width.", "Short completions weigh more beside long ones.",
                            {"weight": over_width}, pitfalls=("C08",)),
    },
    edges=EDGES,
    groups=(Group({}, (
        case("two rows, all chosen", full(2, 3)),
        case("without a normaliser", full(2, 3), alone=True),
        case("ragged, with junk", RAGGED, "ragged_mask", "junk_under_mask", junk=-6.0),
        case("NaN in the gaps", GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
        case("a row without a token: weight 1", EMPTY, "empty_row"),
        case("ragged, without a normaliser", RAGGED, "ragged_mask", alone=True),
    )),),
)  # fmt: skip
