"""A row of the table as prime-rl's custom loss, by its import path: ``torchstone.frameworks.prime_rl.plug.loss``."""

from __future__ import annotations

from prime_rl.trainer.rl.loss import LossInputs, LossOutputs

from torchstone.core.inputs import require
from torchstone.frameworks.prime_rl.settings import loss_refusal
from torchstone.frameworks.refusals import allowed, in_proportion


def loss(inputs: LossInputs, *, recipe: str) -> LossOutputs:
    """The row's loss, summed over the tokens of one sequence.

    Args:
        inputs: of one sequence. Its old log-probs are the engine's, which sampled.
        recipe: a row's name, or its name with changes: ``[trainer.loss.kwargs] recipe = "..."``.
    Raises ValueError: the row is unknown, or needs what prime-rl does not hand to a loss (settings.py).
    """
    row = allowed("prime-rl", recipe, loss_refusal)
    old, advantages = inputs.inference_logprobs[None], inputs.advantages[None]
    if inputs.loss_weights is not None:  # a surrogate is proportional to its advantage, for a weight >= 0
        told = f"None, since the loss of {recipe} is not a multiple of the advantage"
        require(in_proportion(row), "loss_weights", told, inputs.loss_weights)
        advantages = advantages * inputs.loss_weights
    known = row.used("loss", {"old_log_probs": old, "sampler_log_probs": old})
    value, metrics = row.loss(inputs.trainer_logprobs[None], advantages, inputs.loss_mask[None], denominator=1, **known)
    return LossOutputs(value, {name: mean.total / mean.count.clamp(min=1) for name, mean in metrics.items()})
