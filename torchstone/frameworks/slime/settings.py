"""Which rows slime can run, and what it has to be told for one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchstone.frameworks.refusals import changed, couples_groups, likelihood_refusal, of_the_whole_batch
from torchstone.recipes import PolicyRecipe
from torchstone.recipes.choices import Recipe

ABSENT = {
    "critic": "values are not there yet when rewards are made: --advantage-estimator ppo is slime's own",
    "greedy": "slime samples no greedy completion beside the group",
    "prompt-value": "values of prompts are not there when rewards are made",
    "each-by-std": "a sample of slime's has one reward",
    "optimal-token": "slime keeps no norm of a token's score",
}


def loss_refusal(row: Recipe) -> str:
    """Why slime cannot give this row's loss; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        return "a loss is handed the tensors of sampled completions; it takes policy rows"
    if reason := of_the_whole_batch(row):
        return reason
    if row.reduction.name == "group-token-mean":
        return (
            "a micro-batch holds pieces of groups, and a group's token count does not reach a loss; "
            f"name it {changed(row, 'reduction=token-mean')}"
        )
    if couples_groups(row):
        return "a micro-batch holds pieces of groups, and the row compares completions within one"
    if row.value.name != "none":
        return f"its critic is another model with slime's own loss; name it {changed(row, 'value=none')}"
    return likelihood_refusal(row)


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


def loss_settings(row: PolicyRecipe) -> dict[str, Any]:
    """What slime's arguments have to be for this row's loss."""
    return {
        "calculate_per_token_loss": row.reduction.name == "token-mean",
        "context_parallel_size": 1,  # else a rank has pieces of completions
        "use_kl_loss": "ref_log_probs" in row.takes("loss"),  # makes the reference's log-probs
        "entropy_coef": row.entropy.numbers.get("coef", 0.0),  # with 0 its entropies have no gradient
        "use_tis": False,  # of its own policy loss, as use_opsm: neither is read beside a custom loss
        "use_opsm": False,
    }


def rewards_settings(row: PolicyRecipe) -> dict[str, Any]:
    """What slime's arguments have to be for this row's advantages: they are handed on as they are."""
    return {"advantage_estimator": "grpo", "normalize_advantages": False}


def check(row: PolicyRecipe, wanted: dict[str, Any], args: Any) -> None:
    """Raise ``ValueError`` where an argument is another."""
    for name, value in wanted.items():
        if getattr(args, name) != value:
            raise ValueError(f"{name}: the recipe {row.name} needs {value}, got {getattr(args, name)}")


def check_rows(row: PolicyRecipe, rollout_mask_sums: Any, mask: Tensor) -> None:
    """Raise ``ValueError`` where slime counts a micro-batch's completions otherwise than the row."""
    lengths = mask.sum(1)
    by_token = row.reduction.name == "token-mean"
    if (by_token or row.reduction.numbers.get("empty_rows") == "skipped") and not lengths.all():
        counted = "as one token each" if by_token else "as the others"
        raise ValueError(
            f"loss_masks: slime counts completions without a token {counted}, which {row.name} leaves out, got some"
        )
    if not by_token and lengths.tolist() != [int(total) for total in rollout_mask_sums]:
        raise ValueError(
            f"rollout_mask_sums: expected one sample a rollout, since slime divides by rollouts and {row.name} by "
            f"completions; got {[int(total) for total in rollout_mask_sums]}, completions of {lengths.tolist()} tokens"
        )
