"""WPO's weight of a completion, and the normaliser in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import core, dpo
from ..contract import Argument, Case, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, dual, exp, log, mean, total
from .common import CONSTANT_LOG_PROBS, EDGES, INF, MASK, NAN, Flag, bug, full, hidden, marks, variant

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]
SOURCE = ("Zhou et al. (WPO), arXiv:2406.11827v2, eq. 2 and section 3",)

# ------------------------------------------------------------------------------------------------------ log_sum_squares

LOGITS = [[[1.0, 0.0, -1.0], [0.5, 0.5, 0.5]], [[2.0, -2.0, 0.25], [0.0, 3.0, -1.5]]]
EXCLUDED = [[[1.0, -INF, 0.0], [-INF, 0.5, -INF]], [[0.0, 0.0, -INF], [2.0, 1.0, 0.0]]]


def normalisers(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    def at(logits: list[Dual]) -> Dual:
        return dual(steps["normaliser"](core.log_softmax(logits, steps["temperature"](settings["temperature"]))))

    return {"log_normalisers": [[at(logits) for logits in row] for row in inputs["logits"]]}


LOG_SUM_SQUARES = Objective(
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

# ---------------------------------------------------------------------------------------------------------- wpo_weights

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


WPO_WEIGHTS = Objective(
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

OBJECTIVES: list[Objective] = [LOG_SUM_SQUARES, WPO_WEIGHTS]
