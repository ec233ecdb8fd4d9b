"""discopop_loss: logistic for wrong pairs, exponential for right ones."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ...numbers import exp
from ..shared.common import bug, variant
from ..shared.pairs import each, judged, objective

OBJECTIVE = objective(
    "discopop_loss", "Logistic for wrong pairs, exponential for right ones.", ("DPO.24",), "arXiv:2406.08414v3, eq. 5",
    each(dpo.discopop, "tau"),
    {"gate_reversed": judged(bug, "The two losses are exchanged.", "Wrong pairs get an exponential gradient.",
                             lambda w, v, t: dpo.discopop(w, v, -t), "tau"),
     "gate_without_tau": judged(bug, "tau is left out.", "The change from one loss to the other is smooth.",
                                lambda w, v: dpo.discopop(w, v, 1)),
     "exponential": judged(variant, "The exponential loss alone.", "Wrong pairs dominate.",
                           lambda w, v: exp(-(w - v)))},
    {"tau": Setting("In reward units.", (0.05,))}, ({"tau": 0.05}, {"tau": 0.5}),
)  # fmt: skip
