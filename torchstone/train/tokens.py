"""Stage 6 of a recipe that judges whole minibatches: which of the tokens teach, before the minibatch is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from torchstone.train.methods import Batch
from torchstone.train.model import Outputs


def weigh(method: Any, batch: Batch, rows: slice, now: Outputs, seed: int) -> Batch:
    """The batch with the weight of each token in these rows, a minibatch.

    Args:
        method: of a recipe that needs ``token_weights``.
        now: what the policy says of these rows before the step.
        seed: of what the row draws; the same in every process.
    """
    part, weights = batch[rows], torch.zeros_like(batch.old.log_probs)
    generator = torch.Generator().manual_seed(seed)
    known: dict[str, Any] = {
        "old_log_probs": part.old.log_probs, "sampler_log_probs": part.old.log_probs, "entropies": now.entropies,
        "draws": torch.rand(part.mask.shape, generator=generator).to(part.mask.device),
    }  # fmt: skip
    recipe = method.recipe
    used = recipe.used("token_weights", known)
    weights[rows] = recipe.token_weights(now.log_probs, part.advantages, part.mask, **used)
    return replace(batch, token_weights=weights)
