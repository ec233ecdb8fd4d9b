"""hinge_loss: a margin is enough."""

from __future__ import annotations

from ... import dpo
from ...contract import Case, Setting
from ..shared.common import bug, variant
from ..shared.pairs import each, four, judged, objective

OBJECTIVE = objective(
    "hinge_loss", "A margin is enough.", ("DPO.9",), "Liu et al., arXiv:2309.06657, eq. 10", each(dpo.hinge, "delta"),
    {
        "margin_of_zero": judged(bug, "delta is left out.", "Training stops as soon as pairs are ranked right.",
                                 lambda w, v: dpo.hinge(w, v, 0)),
        "squared": judged(variant, "The square of the hinge.", "Far pairs dominate.",
                          lambda w, v, d: dpo.hinge(w, v, d) * dpo.hinge(w, v, d), "delta"),
    },
    {"delta": Setting("The margin, in reward units.", (1,))}, ({"delta": 1}, {"delta": 0.125}),
    extra=(Case("without references: SLiC", four([-4.5, -19.0], [-7.0, -5.5]), ("no_reference",)),),
)  # fmt: skip
