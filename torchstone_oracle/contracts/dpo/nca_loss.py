"""nca_loss: each reward's own value is fitted."""

from __future__ import annotations

from ... import dpo
from ...numbers import log_sigmoid
from ..shared.common import bug, variant
from ..shared.pairs import each, judged, objective
from .bco_loss import bco_without_shift

OBJECTIVE = objective(
    "nca_loss", "Each reward's own value is fitted.", ("DPO.21",), "Chen et al., arXiv:2402.05369v3, table 1",
    each(dpo.nca),
    {"bco": judged(variant, "BCO without a shift.", "Nothing holds the chosen reward at a finite value.",
                   bco_without_shift),
     "halves_missing": judged(bug, "The two noise terms have weight 1.", "Chosen rewards are pulled to 0.",
                              lambda w, v: -log_sigmoid(w) - log_sigmoid(-w) - log_sigmoid(-v))},
)  # fmt: skip
