"""Which rows prime-rl's trainer and orchestrator can run."""

from __future__ import annotations

from torchstone.frameworks.refusals import changed, couples_groups, likelihood_refusal, of_the_whole_batch
from torchstone.recipes import PolicyRecipe
from torchstone.recipes.choices import Recipe

ALGORITHMS = {"group-mean": "grpo", "max-likelihood": "max_rl"}  # its orchestrator's, by our advantages


def loss_refusal(row: Recipe) -> str:
    """Why prime-rl's trainer cannot give this row's loss; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        return "a loss is handed one sequence, with the tensors of a sampled completion; it takes policy rows"
    if reason := of_the_whole_batch(row):
        return reason
    if row.reduction.name != "token-mean":
        return (
            "its trainer divides by the tokens of the whole step, and a loss is handed one sequence and no count, so "
            f"{row.reduction.name} cannot be said; name it {changed(row, 'reduction=token-mean')}"
        )
    if row.sampler.name == "weights":
        return (
            "a loss gets one kind of old log-probs, the engine's, so weights between the trainer's and the engine's "
            f"would all be 1; name it {changed(row, 'sampler=none')}"
        )
    if row.loss_kl.name != "none":
        return f"no algorithm with a reward ships the reference's log-probs; name it {changed(row, 'loss_kl=none')}"
    if couples_groups(row):
        return "a loss is handed one sequence, and the row compares those of a group"
    if row.anchor.name == "reference":
        return "no algorithm with a reward ships the reference's log-probs, and its ratio is taken to them"
    if row.value.name != "none":
        return "it has no critic"
    if row.entropy.name != "none":
        return "entropies do not reach a loss"
    return likelihood_refusal(row)


def advantages_refusal(row: Recipe) -> str:
    """Why prime-rl's orchestrator cannot give this row's advantages; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        return "it takes policy rows"
    if row.advantage.name not in ALGORITHMS:
        known = " and ".join(f"{ours} (algo.type {theirs})" for ours, theirs in ALGORITHMS.items())
        return (
            f"its orchestrator makes the advantages, by an algorithm of its own: {known}; "
            f"name it {changed(row, 'advantage=group-mean')}"
        )
    for column in ("penalty", "reward_kl", "normalise"):
        if getattr(row, column).name != "none":
            return (
                f"its orchestrator makes the advantages, without {column} {getattr(row, column).name}; "
                f"name it {changed(row, f'{column}=none')}"
            )
    return ""


def refusal(row: Recipe) -> str:
    """Why prime-rl cannot run this row; "" where it can."""
    return loss_refusal(row) or advantages_refusal(row)
