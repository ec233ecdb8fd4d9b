"""exo_loss: the KL from the policy's preference to the label's."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ..shared.common import bug
from ..shared.pairs import WRONG, each, judged, objective

OBJECTIVE = objective(
    "exo_loss", "The KL from the policy's preference to the label's.", ("DPO.20",), "arXiv:2402.00856, eq. 16",
    each(dpo.exo, "label_smoothing"),
    {"conservative_dpo": judged(bug, "The KL in DPO's direction.", WRONG, dpo.dpo, "label_smoothing")},
    {"label_smoothing": Setting("The label's own doubt.", (0.1,))},
    ({"label_smoothing": 0.125}, {"label_smoothing": 0.25}),
)  # fmt: skip
