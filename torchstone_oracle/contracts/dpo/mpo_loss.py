"""mpo_loss: a comparison of two completions and a judgement of each, weighed."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ...numbers import Dual, Number
from ..shared.common import LLAMA_FACTORY_FF6D4D1, TRL_1_16_0, bug, variant
from ..shared.pairs import each, judged, objective

NAMES = ("preference_coef", "quality_coef", "reward_shift")


def without_shift(win: Dual, lose: Dual, w_p: Number, w_q: Number, shift: Number) -> Dual:
    return dpo.mpo(win, lose, w_p, w_q, 0)


def over_their_sum(win: Dual, lose: Dual, w_p: Number, w_q: Number, shift: Number) -> Dual:
    return dpo.mpo(win, lose, w_p, w_q, shift) / (w_p + w_q)


def exchanged(win: Dual, lose: Dual, w_p: Number, w_q: Number, shift: Number) -> Dual:
    return dpo.mpo(win, lose, w_q, w_p, shift)


def comparison_alone(win: Dual, lose: Dual, w_p: Number, w_q: Number, shift: Number) -> Dual:
    return dpo.mpo(win, lose, w_p, 0, shift)


def shift_in_the_comparison(win: Dual, lose: Dual, w_p: Number, w_q: Number, shift: Number) -> Dual:
    return dpo.mpo(win - shift, lose, w_p, 0, 0) + dpo.mpo(win, lose, 0, w_q, shift)


OBJECTIVE = objective(
    "mpo_loss", "A comparison of the two completions and a judgement of each, weighed.", ("DPO.31",),
    "arXiv:2411.10442, section 4.1", each(dpo.mpo, *NAMES),
    {"shift_ignored": judged(variant, "No shift.", "Rewards that drift saturate one judgement.", without_shift, *NAMES,
                             links=(TRL_1_16_0,)),
     "divided_by_the_weights": judged(
         variant, "The sum is divided by the sum of the two weights.",
         "A third term beside it counts more: the ratio of the weights alone is kept.", over_their_sum, *NAMES,
         links=(LLAMA_FACTORY_FF6D4D1,)),
     "weights_exchanged": judged(bug, "The two weights are exchanged.", "The judgements outweigh the comparison.",
                                 exchanged, *NAMES),
     "judgements_missing": judged(bug, "The comparison alone.", "Both likelihoods may fall together.",
                                  comparison_alone, *NAMES),
     "shift_in_the_comparison": judged(
         bug, "The shift is taken from the chosen reward in the comparison too.",
         "The comparison asks for a margin that moves with the rewards.", shift_in_the_comparison, *NAMES)},
    {"preference_coef": Setting("w_p, the weight of the comparison.", (0.8,)),
     "quality_coef": Setting("w_q, the weight of the judgements.", (0.2,)),
     "reward_shift": Setting("d, a constant.", (0,))},
    ({"preference_coef": 0.75, "quality_coef": 0.25, "reward_shift": 0.25},
     {"preference_coef": 1, "quality_coef": 0.5, "reward_shift": 0.125}),
)  # fmt: skip
