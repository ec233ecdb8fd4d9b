"""apo_zero_loss: the chosen becomes likelier, the rejected unlikelier."""

from __future__ import annotations

from ... import dpo
from ..shared.common import variant
from ..shared.pairs import each, judged, objective

OBJECTIVE = objective(
    "apo_zero_loss", "The chosen becomes likelier, the rejected unlikelier.", ("DPO.15",), "arXiv:2408.06266, eq. 7",
    each(dpo.apo_zero), {"apo_down": judged(variant, "APO down.", "Both likelihoods fall.", dpo.apo_down)},
)  # fmt: skip
