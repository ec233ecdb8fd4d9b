"""simpo_loss: the mean log-prob is the reward, with a margin."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ..shared.common import bug, variant
from ..shared.pairs import TWO_ONLY, each, judged, objective

OBJECTIVE = objective(
    "simpo_loss", "The mean log-prob is the reward, with a margin.", ("DPO.10",), "Meng et al., arXiv:2405.14734v3, eq. 6",  # noqa: E501
    each(dpo.simpo, "gamma"),
    {
        "gamma_times_beta": judged(variant, "gamma stands inside of beta.", "The margin is beta times as large.",
                                   lambda w, v, g, b: dpo.simpo(w, v, g * b), "gamma", "beta", pitfalls=("C74",),
                                   links=("https://github.com/princeton-nlp/SimPO/issues/4",)),
        "gamma_added": judged(bug, "gamma is added to the difference.", "The margin asked for is negative.",
                              lambda w, v, g: dpo.simpo(w, v, -g), "gamma"),
    },
    {"gamma": Setting("The margin, in reward units.", (0.5, 1))}, ({"gamma": 0.5}, {"gamma": 1.5}),
    TWO_ONLY, reference=False,
)  # fmt: skip
