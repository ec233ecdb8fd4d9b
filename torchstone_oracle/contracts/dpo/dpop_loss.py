"""dpop_loss: DPO in which a chosen completion below the reference is charged."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ...numbers import Dual, Number
from ..shared.common import bug, variant
from ..shared.pairs import each, judged, objective


def charge(win: Dual) -> Dual:
    return -win if win < 0 else Dual(0)


def outside_of_beta(win: Dual, lose: Dual, penalty: Number, beta: Number) -> Dual:
    return dpo.dpop(win, lose, penalty / beta)


def outside_of_the_sigmoid(win: Dual, lose: Dual, penalty: Number, beta: Number) -> Dual:
    return dpo.dpo(win, lose) + penalty * charge(win) / beta


def of_both_signs(win: Dual, lose: Dual, penalty: Number, beta: Number) -> Dual:
    return dpo.dpo(win + penalty * win, lose)


def of_the_rejected(win: Dual, lose: Dual, penalty: Number, beta: Number) -> Dual:
    return dpo.dpo(win - penalty * charge(lose), lose)


def rewarded(win: Dual, lose: Dual, penalty: Number, beta: Number) -> Dual:
    return dpo.dpop(win, lose, -penalty)


NAMES = ("penalty_coef", "beta")
OBJECTIVE = objective(
    "dpop_loss", "DPO in which a chosen completion below the reference is charged.", ("DPO.39",),
    "arXiv:2402.13228v2, eq. 3, by accounts", each(dpo.dpop, "penalty_coef"),
    {
        "penalty_outside_beta": judged(variant, "The charge is on log-probs, not on rewards: outside of beta.",
                                       "It is 1 / beta times as large.", outside_of_beta, *NAMES),
        "penalty_outside_the_sigmoid": judged(
            variant, "The charge is added to the loss.", "It pushes as hard where the pair is ranked right by far.",
            outside_of_the_sigmoid, *NAMES),
        "not_clamped": judged(bug, "The charge has no max(0, .): above the reference it is a gain.",
                              "The chosen completion's reward is multiplied, wherever it is.", of_both_signs, *NAMES),
        "of_the_rejected": judged(bug, "The rejected completion is charged.",
                                  "What should fall is held up, and what should be held up is not.",
                                  of_the_rejected, *NAMES),
        "penalty_sign_flipped": judged(bug, "The charge is added to the comparison.",
                                       "The chosen completion is driven below the reference.", rewarded, *NAMES),
    },
    {"penalty_coef": Setting("lambda; 0 is DPO.", (50, 5))}, ({"penalty_coef": 5.0}, {"penalty_coef": 0.5}),
)  # fmt: skip
