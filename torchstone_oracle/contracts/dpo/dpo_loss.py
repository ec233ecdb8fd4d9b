"""dpo_loss: logistic regression on the difference of two implicit rewards."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Setting
from ...numbers import Dual, Number, dual, log_sigmoid, mp, sigmoid
from ..shared.common import TRL, bug, variant
from ..shared.pairs import each, judged, objective


def underflowing(x: Dual) -> Dual:
    """log(sigmoid(x)) in float64: sigmoid is 0 below -745, and the slope inf * 0."""
    return Dual(mp.ninf, dict.fromkeys(x.slopes, mp.nan)) if x < -745 else log_sigmoid(x)


def by_hand(win: Dual, lose: Dual, s: Any) -> Dual:
    h = win - lose
    right = (1 - dual(s)) * underflowing(h)
    return -right - s * underflowing(-h) if s else -right


def beta_outside(win: Dual, lose: Dual, s: Any, beta: Any) -> Dual:
    return beta * dpo.logistic((win - lose) / beta, s)


def wrong_smoothing(win: Dual, lose: Dual, s: Any) -> Dual:
    h = win - lose
    return -(1 - dual(s)) * log_sigmoid(h) + s * log_sigmoid(-h)


def each_alone(win: Dual, lose: Dual, s: Any) -> Dual:
    right, flipped = log_sigmoid(win) + log_sigmoid(-lose), log_sigmoid(-win) + log_sigmoid(lose)
    return -(1 - dual(s)) * right - s * flipped


def first_whole(win: Dual, lose: Dual, s: Any) -> Dual:
    h = win - lose
    return -log_sigmoid(h) - s * log_sigmoid(-h)


def one_minus_probability(win: Dual, lose: Dual) -> Dual:
    return 1 - sigmoid(win - lose)


def minus_probability(win: Dual, lose: Dual, s: Number) -> Dual:
    h = win - lose
    return -(1 - dual(s)) * sigmoid(h) - s * sigmoid(-h)


def hinge_of_one(win: Dual, lose: Dual) -> Dual:
    return dpo.hinge(win, lose, 1)


SMOOTHING = Setting("The share of labels believed to be flipped.", (0, 0.1))
HINGE = judged(variant, "The hinge loss max(0, 1 - h).", "Pairs that are apart by 1 have no gradient.", hinge_of_one,
               links=("https://arxiv.org/abs/2309.06657",))  # fmt: skip
IPO = judged(variant, "IPO's squared distance from 1 / (2 beta).", "The margin is pulled to a finite target.", dpo.ipo,
             "beta", pitfalls=("C70", "R16"), links=("https://arxiv.org/abs/2310.12036",))  # fmt: skip
OBJECTIVE = objective(
    "dpo_loss", "Logistic regression on the difference of two implicit rewards.", ("DPO.3", "DPO.4"),
    "Rafailov et al., arXiv:2305.18290v3, eq. 7", each(dpo.dpo, "label_smoothing"),
    {
        "log_of_sigmoid": judged(
            bug, "log(sigmoid(h)) in two steps.", "A pair that is far on the wrong side gives inf and a NaN gradient.",
            by_hand, "label_smoothing", pitfalls=("C68", "R20"),
            links=("https://github.com/thinking-machines-lab/tinker-cookbook/pull/188",)),
        "beta_outside": judged(
            bug, "beta multiplies the loss, not the log-ratios.",
            "Only the learning rate changes with beta: the strength of the KL constraint stays at 1.",
            beta_outside, "label_smoothing", "beta"),
        "label_smoothing_ignored": bug(
            "label_smoothing is accepted and not used.", "Noisy labels are trusted fully, and the margin has no end.",
            settings={"label_smoothing": 0}, pitfalls=("C72", "R15"), links=(f"{TRL}/issues/1035",)),
        "label_smoothing_sign": judged(
            bug, "The term of the flipped label has the wrong sign.",
            "Pairs that are apart are pushed further apart, without bound.", wrong_smoothing, "label_smoothing",
            pitfalls=("C72",)),
        "first_term_unweighted": judged(
            bug, "The term of the label as given has weight 1 in place of 1 - label_smoothing.",
            "The flipped label is added on top: the loss is too large, and its least value lies at a wider margin.",
            first_whole, "label_smoothing", pitfalls=("C72",)),
        "robust": judged(
            variant, "Robust DPO: the unbiased estimate, divided by 1 - 2 s.",
            "It does not stop at a margin, and has no lower bound.", dpo.robust, "label_smoothing",
            pitfalls=("C72",), links=("https://arxiv.org/abs/2403.00409",)),
        "hinge": HINGE,
        "ipo": IPO,
        "each_reward_alone": judged(
            bug, "Each implicit reward has a sigmoid of its own; their difference belongs into one.",
            "The two completions are not compared: both rewards are pulled away from 0, whatever the other one is.",
            each_alone, "label_smoothing", pitfalls=("C70",)),
        "minus_probability": judged(
            bug, "-sigmoid(h): the log of the sigmoid is missing.",
            "Pairs that are far on the wrong side have almost no gradient.", minus_probability, "label_smoothing"),
        "one_minus_probability": judged(
            variant, "1 - sigmoid(h), without a logarithm.",
            "Pairs that are far on the wrong side have almost no gradient.", one_minus_probability),
    },
    {"label_smoothing": SMOOTHING}, ({"label_smoothing": 0}, {"label_smoothing": 0.1}), extremes=True, plain_dpo=False,
    metric=True,
)  # fmt: skip
