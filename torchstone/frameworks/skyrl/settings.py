"""Which rows SkyRL can run, and the settings that it needs for one."""

from __future__ import annotations

from typing import Any

from torchstone.frameworks.refusals import (
    changed,
    couples_groups,
    in_proportion,
    likelihood_refusal,
    of_the_whole_batch,
)
from torchstone.recipes import PolicyRecipe
from torchstone.recipes.choices import Recipe

REDUCTIONS = {
    "token-mean": "token_mean",
    "sequence-mean": "sequence_mean",
    "sequence-sum": "seq_mean_token_sum_norm",
    "fixed-length": "seq_mean_token_sum_norm",
    "group-token-mean": "prompt_mean",
}
KLS = ("k1", "k2", "k3")


def loss_refusal(row: Recipe) -> str:
    """Why no setting of SkyRL's gives this row's loss; "" where one does."""
    if not isinstance(row, PolicyRecipe):
        return "a loss is handed the tensors of sampled completions; it takes policy rows"
    if reason := of_the_whole_batch(row):
        return reason
    if row.reduction.numbers.get("empty_rows") == "skipped":
        return (
            "its trainer counts completions without a token too; "
            f"name it {changed(row, 'reduction.empty_rows=counted')}"
        )
    if couples_groups(row):
        return "a micro-batch holds pieces of groups, and the row compares completions within one"
    if not in_proportion(row):
        return (
            "its trainer divides the advantages by what the loss is averaged over, and the row's loss is not a multiple"
        )
    if row.anchor.name == "reference":
        return "its own KL term alone sees the reference, and the row's ratio is taken to it"
    if row.loss_kl.name not in ("none", *KLS):
        return f"its own KL term, which alone sees the reference, has no {row.loss_kl.name}"
    if row.loss_kl.name != "none" and row.reduction.name != "sequence-mean":
        return (
            f"its own KL term, which alone sees the reference, is a mean over completions, and the row's "
            f"{row.reduction.name}; name it {changed(row, 'loss_kl=none')}"
        )
    if row.entropy.name != "none":
        return (
            "its own entropy term, which alone sees the entropies, is a mean over a micro-batch, whatever the batch; "
            f"name it {changed(row, 'entropy=none')}"
        )
    if row.value.name != "none":
        return f"its critic is another model with SkyRL's own loss; name it {changed(row, 'value=none')}"
    return likelihood_refusal(row)


def advantages_refusal(row: Recipe) -> str:
    """Why SkyRL cannot give this row's advantages; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        return "it takes policy rows"
    verb = "reach an estimator"
    absent = {
        "greedy": f"greedy rewards do not {verb}",
        "prompt-value": f"values of prompts do not {verb}",
        "optimal-token": f"norms of a token's score do not {verb}",
        "each-by-std": f"several rewards a completion do not {verb}",
    }
    if row.advantage.name in absent:
        return absent[row.advantage.name]
    if row.penalty.name != "none":
        return f"the longest completion does not {verb}; name it {changed(row, 'penalty=none')}"
    if row.reward_kl.name != "none":
        return f"log-probs do not {verb}; name it {changed(row, 'reward_kl=none')}"
    return ""


def refusal(row: Recipe) -> str:
    """Why SkyRL cannot run this row; "" where it can."""
    return loss_refusal(row) or advantages_refusal(row)


def settings(row: PolicyRecipe) -> dict[str, Any]:
    """What ``trainer.algorithm`` has to say for this row's loss."""
    found: dict[str, Any] = {
        "loss_reduction": REDUCTIONS[row.reduction.name],
        "use_kl_loss": row.loss_kl.name != "none",
        "use_entropy_loss": False,
    }
    if row.loss_kl.name != "none":
        found |= {"kl_loss_coef": row.loss_kl.numbers["beta"], "kl_estimator_type": row.loss_kl.name}
    if row.reduction.name == "sequence-sum":
        found["max_seq_len"] = 1
    return found


CORRECTIONS = (
    "tis_ratio_type sequence_mask_metric outlier_token_is_threshold_low outlier_token_is_threshold_high "
    "token_mask_is_threshold_low token_mask_is_threshold_high"
)


def check(row: PolicyRecipe, config: Any) -> None:
    """Raise ``ValueError`` where ``trainer.algorithm`` says something else than the row."""
    for name, value in settings(row).items():
        if getattr(config, name) != value:
            raise ValueError(f"{name}: the recipe {row.name} needs {value!r}, got {getattr(config, name)!r}")
    for name in CORRECTIONS.split():
        value = getattr(config.off_policy_correction, name)
        if value is not None:
            more = changed(row, "sampler=weights+...")
            raise ValueError(
                f"off_policy_correction.{name}: expected None, since the row weighs: {more}; got {value!r}"
            )
