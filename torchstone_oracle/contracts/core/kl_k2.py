"""kl_k2: half the squared log-ratio as an estimate of the KL."""

from __future__ import annotations

from ... import core
from ...numbers import Dual
from ..shared.common import bug
from ..shared.estimators import FLIPPED, estimator


def undivided_square(log_prob: Dual, ref_log_prob: Dual) -> Dual:
    return core.k2(log_prob, ref_log_prob) * 2


OBJECTIVE = estimator(
    "kl_k2",
    "KL.2",
    "Half the squared log-ratio: as a loss term, its gradient is that of KL(policy || reference).",
    {
        "no_half": bug("The factor 1/2 is missing.", "The coefficient is doubled.", {"kl": undivided_square}),
        "sign_flipped": FLIPPED,
    },
)
