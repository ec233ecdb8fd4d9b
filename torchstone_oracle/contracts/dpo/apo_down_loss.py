"""apo_down_loss: both become unlikelier, the rejected more so."""

from __future__ import annotations

from ... import dpo
from ..shared.common import variant
from ..shared.pairs import each, judged, objective

OBJECTIVE = objective(
    "apo_down_loss", "Both become unlikelier, the rejected more so.", ("DPO.16",), "arXiv:2408.06266, eq. 8",
    each(dpo.apo_down), {"apo_zero": judged(variant, "APO zero.", "The chosen likelihood rises.", dpo.apo_zero)},
)  # fmt: skip
