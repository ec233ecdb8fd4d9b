"""gdpo_advantages: several rewards, each scaled within its group before they are added (GDPO)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core, reinforce
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...numbers import Dual, dual, mp, sqrt, total
from ..shared.common import EDGES, NAN, SCORED, TRL, VERL_0_9_1, Row, Settings, Steps, bug, full, marks, variant

Several = list[list[Dual]]  # of each scored sample of a group, its K rewards
Scale = Callable[[Row, Row, Settings], list[Dual]]  # of one reward in a group, given the same reward of the batch


def advantages(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Each group's advantages from its scored rewards; 0 for what was not scored."""
    rewards = inputs["rewards"]
    K = len(rewards[0][0])
    weights = [dual(w) for w in inputs.get("weights") or [1] * K]
    scored = steps["scored"](inputs)
    batch = [sample for row, on in zip(rewards, scored, strict=True) for sample, m in zip(row, on, strict=True) if m]
    found = []
    for row, on in zip(rewards, scored, strict=True):
        group = [steps["given"](sample) for sample, m in zip(row, on, strict=True) if m]
        made = iter(steps["group"](group, batch, steps["weights"](weights), settings))
        found.append([dual(steps["sign"](next(made))) if m else Dual(0) for m in on])
    return {"advantages": found}


def each_by_its_own(group: Several, batch: Several, weights: Row, settings: Settings) -> list[Dual]:
    return reinforce.gdpo_advantages(group, weights, settings["correction"], settings["eps"])


def by(scale: Scale) -> Callable[..., list[Dual]]:
    """Each reward centred and scaled by itself, then added."""

    def made(group: Several, batch: Several, weights: Row, settings: Settings) -> list[Dual]:
        columns = zip(zip(*group, strict=True), zip(*batch, strict=True), strict=True)
        scaled = [scale(list(own), list(every), settings) for own, every in columns]
        return [total(w * a for w, a in zip(weights, row, strict=True)) for row in zip(*scaled, strict=True)]

    return made


def summed_first(group: Several, batch: Several, weights: Row, settings: Settings) -> list[Dual]:
    """GRPO on the weighted sum."""
    sums = [[total(w * r for w, r in zip(weights, sample, strict=True))] for sample in group]
    return reinforce.gdpo_advantages(sums, [dual(1)], settings["correction"], settings["eps"])


def of_the_batch(own: Row, every: Row, settings: Settings) -> list[Dual]:
    spread = reinforce.deviation(every, settings["correction"]) + dual(settings["eps"])
    return [core.divided(a, spread) for a in reinforce.centred(own)]


def eps_inside(own: Row, every: Row, settings: Settings) -> list[Dual]:
    spread = reinforce.deviation(own, settings["correction"])
    return [core.divided(a, sqrt(spread * spread + dual(settings["eps"]))) for a in reinforce.centred(own)]


def squared(own: Row, every: Row, settings: Settings) -> list[Dual]:
    spread = reinforce.deviation(own, settings["correction"])
    return [core.divided(a, spread * spread + dual(settings["eps"])) for a in reinforce.centred(own)]


def asked(inputs: Inputs) -> list[list[bool]]:
    return inputs.get("scored") or full(len(inputs["rewards"]), len(inputs["rewards"][0]))


def nobody_asked(inputs: Inputs) -> list[list[bool]]:
    return full(len(inputs["rewards"]), len(inputs["rewards"][0]))


def nan_as_zero(sample: Row) -> list[Dual]:
    return [Dual(0) if mp.isnan(r.value) else r for r in sample]


TWO = [[[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]]]
FOUR = [
    [[1.0, 0.25], [0.0, -3.0], [1.0, 4.0], [0.0, 0.5]],
    [[0.0, 8.0], [1.0, 7.5], [0.0, 9.0], [0.0, 7.0]],
]
TIED = [[[1.0, 0.5, 0.0], [1.0, -0.5, 2.0], [1.0, 0.25, 1.0]], [[0.0, 2.0, 2.0], [1.0, 2.0, 2.0], [1.0, 2.0, 2.0]]]
HIDDEN = [[[1.0, 0.25], [NAN, NAN], [1.0, 4.0], [0.0, 0.5]], [[0.0, 8.0], [1.0, 7.5], [NAN, 9.0], [NAN, NAN]]]
SOME = marks("1011 1100")


def case(comment: str, rewards: Any, *flags: str, result: str = "valid", **more: Any) -> Case:
    return Case(comment, {"rewards": rewards, **more}, flags, result)


CASES = (
    case("two rewards, two groups of two", TWO),
    case("a right answer, and a number of another scale", FOUR),
    case("weights", FOUR, weights=[1.0, 0.25]),
    case("rewards that tie in a group, with weights", TIED, "tie_of_one", weights=[0.5, 2.0, 1.0]),
    case("one reward", [[[1.0], [0.0], [0.5]], [[2.0], [2.5], [-1.0]]]),
    case("0.1 eight times beside another", [[[0.1, float(i % 3)] for i in range(8)]], "tie_that_rounds"),
    case("as many rewards as samples as prompts", TWO, "rows_equal_columns", weights=[2.0, -0.5]),
    case("all were scored", FOUR, scored=full(2, 4)),
    case("NaN where not scored", HIDDEN, "unscored", scored=SOME),
    case("groups of one", [[[0.75, 1.0]], [[1.0, 0.5]]], "group_of_one", result="invalid"),
)

OBJECTIVE = Objective(
    name="gdpo_advantages",
    about="Several rewards, each on its own scale within the group before they are added (GDPO).",
    tags=("REINFORCE.12",),
    source=("GDPO, arXiv:2601.05242v1, eq. 4, 5 and 7",),
    arguments={
        "rewards": Argument("P G K", "each reward's own; [p][g] are those of the g-th sample of prompt p"),
        "weights": Argument("K", "none"),
        "scored": SCORED,
    },
    returns={"advantages": Argument("P G", "none")},
    settings={
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to each deviation", (1e-4, 1e-6, 0.0), free=True),
    },
    compute=advantages,
    steps={
        "group": each_by_its_own,
        "weights": lambda weights: weights,
        "scored": asked,
        "given": lambda sample: sample,
        "sign": lambda advantage: advantage,
    },
    alternatives={
        "summed_first": variant(
            "The weighted sum is scaled, not each reward (GRPO on a sum).",
            "The reward that varies most drowns the others, and completions of one sum cannot be told apart.",
            {"group": summed_first},
            links=("https://arxiv.org/abs/2402.03300", f"{TRL}/tree/v1.16.0"),
        ),
        "not_divided": variant(
            "Each reward is centred, and not divided.",
            "As summed first without a deviation: scales are the rewards' own.",
            {"group": by(lambda own, every, settings: reinforce.centred(own))},
        ),
        "of_the_batch": variant(
            "Each reward over its deviation in the whole batch.",
            "Groups keep their weight relative to one another.",
            {"group": by(of_the_batch)},
        ),
        "eps_inside_the_root": variant(
            "sqrt(variance + eps).", "Rewards of little spread are held back more.", {"group": by(eps_inside)}
        ),
        "variance_as_deviation": bug(
            "The root is missing.", "A reward of little spread drowns the others.", {"group": by(squared)}
        ),
        "weights_ignored": bug(
            "Each reward weighs 1.",
            "The setting is without effect.",
            {"weights": lambda weights: [dual(1) for _ in weights]},
        ),
        "sign_flipped": bug(
            "The sign is flipped.",
            "Bad completions are made more likely.",
            {"sign": lambda advantage: -advantage},
            pitfalls=("C29",),
        ),
        "unscored_as_zero": bug(
            "An unscored completion counts as one with rewards 0.",
            "A checker that failed is taken for a bad answer, and its siblings look better than they are.",
            {"scored": nobody_asked, "given": nan_as_zero},
            pitfalls=("C53",),
        ),
    },
    edges={
        **{k: EDGES[k] for k in ("tie_that_rounds", "rows_equal_columns", "unscored", "group_of_one")},
        "tie_of_one": Flag(
            "edge",
            "A reward that ties in its group adds exactly 0, whatever its scale.",
            "0 / 0 turns the other rewards into NaN too.",
            (VERL_0_9_1,),
            ("C44",),
        ),
    },
    groups=(
        Group({"correction": 1, "eps": 1e-4}, CASES),
        *(Group({"correction": c, "eps": e}, (*CASES[:4], CASES[5])) for c, e in ((0, 1e-4), (1, 0.0), (0, 1e-6))),
    ),
)
