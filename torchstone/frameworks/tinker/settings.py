"""Which rows a loss for tinker's ``forward_backward_custom`` can be."""

from __future__ import annotations

from torchstone.frameworks.refusals import likelihood_refusal, of_the_whole_batch
from torchstone.recipes import PolicyRecipe
from torchstone.recipes.choices import Recipe


def refusal(row: Recipe) -> str:
    """Why tinker cannot run this row; "" where it can. Advantages are made in the user's own program."""
    if not isinstance(row, PolicyRecipe):
        return "the plug hands a loss the tensors of sampled completions; it takes policy rows"
    if reason := of_the_whole_batch(row):
        return reason
    if row.value.name != "none":
        return "its server has no critic"
    if row.entropy.name != "none":
        return "log-probs of the sampled tokens come back, and no entropies"
    return likelihood_refusal(row)
