"""bco_unpaired_loss: thumbs up and down told apart by a classifier."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective, Setting
from ...numbers import Dual, dual, total
from ..shared.common import Settings, Steps, bug, variant
from ..shared.pairs import BETA, CONSTANT, LOSS, NATS, NO_BETA, NO_REFERENCE, PAIR_EDGES, REFERENCE_ADDED
from .kto_loss import FAR_THUMBS, MORE_THUMBS, THUMBS

COUNTS = ("desirable_denominator", "undesirable_denominator")


def unpaired(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], inputs["desirable"], strict=True)
    losses = [
        (steps["judge"](steps["reward"](p, q, settings["beta"]), steps["label"](up), settings["reward_shift"]), up)
        for p, q, up in rows
    ]
    return {"loss": steps["batch"](losses, [settings[k] for k in COUNTS])}


def each_kind(losses: list[tuple[Dual, bool]], counts: list[Any]) -> Dual:
    """mean over the good + mean over the bad; 0 of a kind without any"""
    kinds = [[x for x, up in losses if up == kind] for kind in (True, False)]
    return dpo.pair_mean(kinds[0], counts[0]) + dpo.pair_mean(kinds[1], counts[1])


def one_mean(losses: list[tuple[Dual, bool]], counts: list[Any]) -> Dual:
    return dpo.pair_mean([x for x, _ in losses], None if None in counts else sum(counts))


def case(comment: str, inputs: Inputs, *flags: str) -> Case:
    return Case(comment, inputs, flags)


CASES = (
    case("three thumbs", THUMBS), MORE_THUMBS, case("only desirable", {**THUMBS, "desirable": [True] * 3}),
    case("only undesirable", {**THUMBS, "desirable": [False] * 3}),
    case("log-ratios of 100 and -200", FAR_THUMBS),
)  # fmt: skip


def numbers(shift: float, beta: float = 0.1, good: int | None = None, bad: int | None = None) -> dict[str, Any]:
    return {"beta": beta, "reward_shift": shift, COUNTS[0]: good, COUNTS[1]: bad}


OBJECTIVE = Objective(
    "bco_unpaired_loss", "Thumbs up and down told apart by a classifier of the reward.", ("DPO.34",),
    ("arXiv:2404.04656, eq. 8",),
    {"log_probs": NATS, "ref_log_probs": CONSTANT, "desirable": Argument("N", "True for a thumb up", kind="bool")},
    LOSS, {"beta": BETA, "reward_shift": Setting("d, a constant.", (0,)),
           COUNTS[0]: Setting("Good completions in the whole batch; None counts those given."),
           COUNTS[1]: Setting("Bad completions in the whole batch; None counts those given.")}, unpaired,
    {"reward": dpo.implicit_reward, "label": lambda desirable: desirable, "judge": dpo.bco_alone, "batch": each_kind},
    {
        "reference_ignored": NO_REFERENCE, "reference_added": REFERENCE_ADDED, "beta_missing": NO_BETA,
        "labels_flipped": bug("Thumbs up and down are exchanged.", "Bad answers are learnt.",
                              {"label": lambda up: not up}),
        "one_mean": variant("One mean over all completions.", "The commoner kind decides.", {"batch": one_mean}),
        "shift_added": bug("The shift is added.", "The judgements are further from balance.",
                           {"judge": lambda r, up, d: dpo.bco_alone(r, up, -dual(d))}),
        "shift_ignored": variant("No shift.", "Rewards that drift saturate one term.",
                                 {"judge": lambda r, up, d: dpo.bco_alone(r, up, 0)}),
        "shift_of_desirable_alone": bug("The shift is left out of the loss of thumbs down.",
                                        "The two kinds are judged from two places.",
                                        {"judge": lambda r, up, d: dpo.bco_alone(r, up, d if up else 0)}),
        "sum_over_completions": bug("Sums in place of means.", "The learning rate grows with the batch.",
                                    {"batch": lambda losses, counts: total(x for x, _ in losses)}),
        "denominators_ignored": bug("The given counts are not used.",
                                    "The gradient depends on how the batch was split over steps or devices.",
                                    {"batch": lambda losses, counts: each_kind(losses, [None, None])},
                                    pitfalls=("C02", "C04")),
        "undesirable_like_desirable": bug("Thumbs down have the loss of thumbs up.", "Bad answers are learnt.",
                                          {"judge": lambda r, up, d: dpo.bco_alone(r, True, d)}),
    }, PAIR_EDGES,
    (Group(numbers(0), CASES), Group(numbers(0.25), CASES[:2]), Group(numbers(-0.5, 0.3), CASES[:2]),
     Group(numbers(0.25, good=3, bad=2), (case("of 3 and 2", THUMBS, "micro_batch"),)),
     Group(numbers(0.25, good=5, bad=4), (case("of 5 and 4", MORE_THUMBS.inputs, "micro_batch"),))),
)  # fmt: skip
