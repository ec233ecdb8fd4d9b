"""Which rows slime can run, and what it has to be told for one."""

from __future__ import annotations

from torchstone.frameworks.refusals import changed
from torchstone.recipes import PolicyRecipe
from torchstone.recipes.choices import Recipe

ABSENT = {
    "critic": "values are not there yet when rewards are made: --advantage-estimator ppo is slime's own",
    "greedy": "slime samples no greedy completion beside the group",
    "optimal-token": "slime keeps no norm of a token's score",
}


def loss_refusal(row: Recipe) -> str:
    """Why slime cannot give this row's loss; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        return "a loss is handed the tensors of sampled completions; it takes policy rows"
    if row.reduction.name == "group-token-mean":
        return (
            "a micro-batch holds pieces of groups, and a group's token count does not reach a loss; "
            f"name it {changed(row, 'reduction=token-mean')}"
        )
    if row.value.name != "none":
        return f"its critic is another model with slime's own loss; name it {changed(row, 'value=none')}"
    return ""


def advantages_refusal(row: Recipe) -> str:
    """Why slime cannot give this row's advantages; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        return "it takes policy rows"
    if row.advantage.name in ABSENT:
        return ABSENT[row.advantage.name]
    if row.reward_kl.name != "none":
        return f"log-probs are not there yet when rewards are made; name it {changed(row, 'reward_kl=none')}"
    return ""


def refusal(row: Recipe) -> str:
    """Why slime cannot run this row; "" where it can."""
    return loss_refusal(row) or advantages_refusal(row)
