"""A row of the table as a loss for tinker: ``client.forward_backward_custom(data, tinker_loss("dr_grpo", ...))``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.frameworks.refusals import allowed, warn_of_version
from torchstone.frameworks.tinker.settings import refusal
from torchstone.frameworks.tinker.unit import UNIT

KEYS = {"old_log_probs": "old_logprobs", "sampler_log_probs": "logprobs", "ref_log_probs": "ref_logprobs"}


def tinker_loss(
    recipe: str, *, group_size: int | None = None, max_length: int | None = None, denominator: int | None = None
) -> Callable[[Sequence[Any], Sequence[Tensor]], tuple[Tensor, dict[str, float]]]:
    """A loss in tinker's form: ``f(data, logprobs)``.

    Each datum's ``loss_fn_inputs`` has ``advantages`` and ``mask``, as tinker-cookbook's, and where the row takes them
    ``logprobs`` (the sampler's), ``old_logprobs`` (of ``forward`` before the update; where there are none, the
    sampler's) and ``ref_logprobs``, each as long as the datum's log-probs.

    Args:
        recipe: a row's name, or its name with changes.
        group_size, max_length: where the row takes them; prompt p's data are p * group_size and the next ones.
        denominator: tokens, groups or completions (the row's reduction says which) of all calls of one ``optim_step``;
            None: of this call.
    Raises ValueError: the row is unknown, or tinker cannot run it; then, of the loss: a datum lacks what the row takes.
    Warns: another version of tinker than was tested.
    """
    warn_of_version(UNIT)
    row = allowed("tinker", recipe, refusal)

    def loss(data: Sequence[Any], logprobs: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
        inputs = [datum.loss_fn_inputs for datum in data]
        keys = {ours: key for ours, key in KEYS.items() if ours in row.takes("loss")}
        if row.sampler.name != "weights" and not any("old_logprobs" in found for found in inputs):
            keys = {ours: "logprobs" if key == "old_logprobs" else key for ours, key in keys.items()}
        for key in ("advantages", "mask", *keys.values()):
            if any(key not in found for found in inputs):
                raise ValueError(f"data: the recipe {row.name} needs {key} in each datum's loss_fn_inputs, got none")

        def padded(key: str) -> Tensor:
            return pad_sequence([found[key].to_torch() for found in inputs], batch_first=True)

        known = {ours: padded(key) for ours, key in keys.items()}
        known |= row.used("loss", {"group_size": group_size, "max_length": max_length})
        log_probs, mask = pad_sequence(list(logprobs), batch_first=True), padded("mask") > 0
        value, metrics = row.loss(log_probs, padded("advantages"), mask, denominator=denominator, **known)
        return value, {name: float(mean) for name, mean in metrics.items()}

    return loss
