"""What the families share: masks, log-probabilities, KL, the means and two tools for advantages."""

from __future__ import annotations

from . import kl, logits, reductions

OBJECTIVES = [*logits.OBJECTIVES, *kl.OBJECTIVES, *reductions.OBJECTIVES]
