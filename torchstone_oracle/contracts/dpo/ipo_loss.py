"""ipo_loss: a finite target for the log-ratio difference."""

from __future__ import annotations

from ... import dpo
from ..shared.common import bug, variant
from ..shared.pairs import each, judged, objective

OBJECTIVE = objective(
    "ipo_loss", "A finite target for the log-ratio difference.", ("DPO.7",), "Azar et al., arXiv:2310.12036v2, eq. 17",
    each(dpo.ipo, "beta"),
    {
        "one_over_beta": judged(bug, "The target is 1 / beta, not 1 / (2 beta).", "Margins are twice as large.",
                                lambda w, v, b: ((w - v) / b - 1 / b) * ((w - v) / b - 1 / b), "beta"),
        "margin_times_beta": judged(bug, "The rewards' difference is not divided by beta.",
                                    "The target in nats is 1 / (2 beta^2): far larger margins are asked for.",
                                    lambda w, v, b: (w - v - 1 / (2 * b)) * (w - v - 1 / (2 * b)), "beta",
                                    pitfalls=("C70",)),
        "half": judged(variant, "Half of the square.", "Half the learning rate.",
                       lambda w, v, b: dpo.ipo(w, v, b) / 2, "beta"),
    },
    extremes=True,
)  # fmt: skip
