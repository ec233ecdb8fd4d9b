"""robust_dpo_loss: DPO with labels that are flipped at a known rate."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ..shared.common import bug, variant
from ..shared.pairs import WRONG, each, judged, objective

OBJECTIVE = objective(
    "robust_dpo_loss", "DPO's loss on clean labels, estimated from labels that are flipped at a known rate.", ("DPO.8",),  # noqa: E501
    "Ray Chowdhury et al., arXiv:2403.00409", each(dpo.robust, "flip_rate"),
    {
        "conservative": judged(variant, "cDPO: a weighted mean of both labels.", WRONG, dpo.dpo, "flip_rate"),
        "not_divided": judged(bug, "The division by 1 - 2 e is missing.", "The learning rate depends on e.",
                              lambda w, v, e: dpo.robust(w, v, e) * (1 - 2 * e), "flip_rate"),
    },
    {"flip_rate": Setting("The probability that a label is flipped.", (0.1,))},
    ({"flip_rate": 0.1}, {"flip_rate": 0.25}),
)  # fmt: skip
