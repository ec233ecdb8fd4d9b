"""kto_loss: thumbs up and down against a reference point."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting
from ...numbers import Dual, dual, mean, stop, total
from ..shared.common import Settings, Steps, bug
from ..shared.pairs import BETA, CONSTANT, DENOMINATOR, LOSS, NATS, NO_BETA, OWN_COUNT, PAIR_EDGES, SUMMED


def kto(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    z = settings["reference_point"]
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], inputs["desirable"], strict=True)
    weights = settings["desirable_weight"], settings["undesirable_weight"]
    losses = [
        steps["weight"](up, *weights) * steps["judge"](steps["ratio"](p, q), steps["label"](up), settings["beta"], z)
        for p, q, up in rows
    ]
    return {"loss": steps["batch"](losses, inputs["desirable"], settings["denominator"], steps["reduce"])}


def all_alike(losses: list[Dual], desirable: list[bool], denominator: Any, reduce: Any) -> Dual:
    return dual(reduce(losses, denominator))


def each_kind_alone(losses: list[Dual], desirable: list[bool], denominator: Any, reduce: Any) -> Dual:
    kinds = [[x for x, up in zip(losses, desirable, strict=True) if up == kind] for kind in (True, False)]
    return total(mean(kind) for kind in kinds if kind)


THUMBS: dict[str, Any] = {
    "log_probs": [-3.0, -5.5, -4.25],
    "ref_log_probs": [-4.5, -5.0, -3.0],
    "desirable": [True, False, True],
}
FAR_THUMBS = {"log_probs": [-2.0, -202.0], "ref_log_probs": [-102.0, -2.0], "desirable": [True, False]}
MORE_THUMBS = Case(
    "five thumbs",
    {
        "log_probs": [-2.0, -7.25, -1.5, -4.0, -3.75],
        "ref_log_probs": [-2.75, -4.5, -3.0, -5.25, -3.5],
        "desirable": [False, True, True, False, True],
    },
)
KTO_CASES = (
    Case("three thumbs", THUMBS),
    Case("only desirable", {**THUMBS, "desirable": [True] * 3}),
    Case("only undesirable", {**THUMBS, "desirable": [False] * 3}),
    Case("one completion", {k: x[:1] for k, x in THUMBS.items()}),
    Case("log-ratios of 100 and -200", FAR_THUMBS),
)


def kto_numbers(
    z: float, up: float = 1, down: float = 1.5, denominator: int | None = None, beta: float = 0.1
) -> dict[str, Any]:
    return {"beta": beta, "reference_point": z, "desirable_weight": up, "undesirable_weight": down,
            "denominator": denominator}  # fmt: skip


OBJECTIVE = Objective(
    "kto_loss", "Thumbs up and down against a reference point.", ("DPO.14",), ("arXiv:2402.01306v5, eq. 8",),
    {"log_probs": NATS, "ref_log_probs": CONSTANT, "desirable": Argument("N", "True for a thumb up", kind="bool")},
    LOSS, {"beta": BETA, **{k: Setting(k.replace("_", " ") + ".") for k in
           ("reference_point", "desirable_weight", "undesirable_weight")}, "denominator": DENOMINATOR}, kto,
    {"ratio": lambda p, q: dual(p) - stop(q), "label": lambda desirable: desirable,
     "weight": lambda up, a, b: a if up else b,
     "judge": dpo.kto, "reduce": dpo.pair_mean, "batch": all_alike},
    {
        "reference_ignored": bug("The reference's log-probs are not used.", "Nothing holds the model near it.",
                                 {"ratio": lambda p, q: dual(p)}, pitfalls=("C73",)),
        "labels_flipped": bug("Thumbs up and down are exchanged (or sigmoid for 1 - sigmoid), not the weights.",
                              "Bad answers are learnt.",
                              {"label": lambda up: not up}),
        "weights_swapped": bug("The two weights are exchanged.", "The rarer kind counts less, not more.",
                               {"weight": lambda up, a, b: b if up else a}),
        "weights_ignored": bug("The weights are accepted and not used.", "The commoner kind dominates.",
                               {"weight": lambda up, a, b: 1}),
        "reference_point_ignored": bug("z is taken to be 0.", "Gains are measured from the reference.",
                                       settings={"reference_point": 0}),
        "reference_point_added": bug("z has the wrong sign.", "The further the policy is away, the more it gains.",
                                     {"judge": lambda u, up, beta, z: dpo.kto(u, up, beta, -z)}),
        "reference_point_without_beta": bug(
            "beta multiplies the log-ratio alone: sigmoid(beta u - z).", "At a small beta z outweighs every log-ratio.",
            {"judge": lambda u, up, beta, z: dpo.kto(u, up, beta, dual(z) / beta)}),
        "reference_point_of_desirable_alone": bug(
            "z is left out of the loss of thumbs down: 1 - sigmoid(-beta u).", "The two are judged from two places.",
            {"judge": lambda u, up, beta, z: dpo.kto(u, up, beta, z if up else 0)}),
        "mean_of_each_kind": bug(
            "Thumbs up and down are averaged each by itself, and the means added.",
            "The rarer kind weighs more, whatever its weight says.", {"batch": each_kind_alone}),
        "undesirable_like_desirable": bug(
            "Thumbs down have the loss of thumbs up: 1 - sigmoid(beta (u - z)) in both branches.",
            "Bad answers are learnt, as good ones are.", {"judge": lambda u, up, beta, z: dpo.kto(u, True, beta, z)}),
        "beta_missing": Alternative(NO_BETA.flag, {"judge": lambda u, up, beta, z: dpo.kto(u, up, 1, z)}),
        "sum_over_pairs": SUMMED, "denominator_ignored": OWN_COUNT,
    }, PAIR_EDGES,
    (Group(kto_numbers(0, 1, 1), (KTO_CASES[0], MORE_THUMBS, *KTO_CASES[1:3])),
     Group(kto_numbers(0.5, 1, 1), (KTO_CASES[0], MORE_THUMBS)),
     Group(kto_numbers(0.5), KTO_CASES), Group(kto_numbers(0), KTO_CASES[:1]),
     Group(kto_numbers(2, 1.25, 0.5), KTO_CASES[:2]), Group(kto_numbers(0.5, beta=0.3), KTO_CASES[:1]),
     Group(kto_numbers(0, denominator=5), (Case("of 5", THUMBS, ("micro_batch",)),))),
)  # fmt: skip
