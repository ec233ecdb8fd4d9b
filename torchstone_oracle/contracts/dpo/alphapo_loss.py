"""alphapo_loss: SimPO with a power of the probability as the reward."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ...numbers import Dual, Number
from ..shared.common import bug, variant
from ..shared.pairs import TWO_ONLY, each, judged, objective

NAMES = ("beta", "gamma", "alpha")


def simpo(win: Dual, lose: Dual, beta: Number, gamma: Number, alpha: Number) -> Dual:
    return dpo.simpo(win, lose, gamma)


def beta_inside(win: Dual, lose: Dual, beta: Number, gamma: Number, alpha: Number) -> Dual:
    return dpo.simpo(dpo.power_reward(win, alpha), dpo.power_reward(lose, alpha), gamma)


def not_divided(win: Dual, lose: Dual, beta: Number, gamma: Number, alpha: Number) -> Dual:
    scaled = [alpha * beta * dpo.power_reward(r / beta, alpha) for r in (win, lose)]
    return dpo.simpo(scaled[0], scaled[1], gamma)


OBJECTIVE = objective(
    "alphapo_loss", "SimPO with a power of the probability as the reward.", ("DPO.35", "DPO.37"),
    "arXiv:2501.03884v4, by an account", each(dpo.alphapo, *NAMES),
    {
        "simpo": judged(bug, "alpha is not used: SimPO.", "The run has the name of one objective and the result of "
                        "another.", simpo, *NAMES),
        "gamma_times_beta": judged(variant, "gamma stands inside of beta.", "The margin is beta times as large.",
                                   lambda w, v, b, g, a: dpo.alphapo(w, v, b, g * b, a), *NAMES, pitfalls=("C74",)),
        "gamma_added": judged(bug, "gamma is added to the difference.", "The margin asked for is negative.",
                              lambda w, v, b, g, a: dpo.alphapo(w, v, b, -g, a), *NAMES),
        "alpha_sign_flipped": judged(bug, "The power is p^alpha, not p^-alpha.", "Unlikely completions are pushed less "
                                     "where they should be pushed more.",
                                     lambda w, v, b, g, a: dpo.alphapo(w, v, b, g, -a), *NAMES),
        "not_divided_by_alpha": judged(bug, "The power is not divided by alpha.", "beta means something else at each "
                                       "alpha.", not_divided, *NAMES),
        "beta_inside_the_power": judged(bug, "beta multiplies the log-prob, not the reward.", "The shape depends on "
                                        "beta.", beta_inside, *NAMES),
    },
    {"gamma": Setting("The margin, in reward units.", (0.5,)), "alpha": Setting("The shape; 0 is SimPO.", (0.25,))},
    ({"gamma": 0.5, "alpha": 0.25}, {"gamma": 1.5, "alpha": 0.25}, {"gamma": 0.5, "alpha": -0.5}),
    TWO_ONLY, reference=False,
)  # fmt: skip
