"""What a row needs of verl's configuration, and why verl cannot run some of them.

A policy loss gets log-probs, old ones, advantages, a mask, the sampler's weights, and the actor's configuration. What
else a row has, verl computes itself or not at all: its KL, its entropy bonus and its critic are then verl's own terms,
and their settings are held against the row's numbers.
"""

from __future__ import annotations

import warnings
from functools import reduce
from typing import Any

from torch import Tensor

from torchstone.frameworks.refusals import changed, couples_groups, likelihood_refusal, of_the_whole_batch
from torchstone.recipes.choices import NONE, Recipe
from torchstone.recipes.distill import DistillRecipe
from torchstone.recipes.online import PolicyRecipe

MODES = {
    "token-mean": "token-mean",
    "sequence-mean": "seq-mean-token-mean",
    "sequence-sum": "seq-mean-token-sum",
    "fixed-length": "seq-mean-token-sum-norm",
}
KLS = {"k1": ("kl", "k1"), "k2": ("mse", "k2"), "k3": ("low_var_kl", "k3"), "k3-k2-gradient": ("low_var_kl+", "k3+")}
UNREAD = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "tau_pos": 1.0,
          "tau_neg": 1.05}  # fmt: skip
CORRECTION = "policy_loss.rollout_correction"
TOLD = (
    "the trainer's setting algorithm.rollout_correction reaches a loss only by "
    "'+actor_rollout_ref.actor.policy_loss.rollout_correction=${algorithm.rollout_correction}'"
)
Settings = dict[
    str, tuple[tuple[Any, ...], str]
]  # by the setting: the values that serve, verl's own word first; and why


def refusal(row: Recipe) -> str:
    """Why verl cannot run this row, its loss and its advantages; "" where it can."""
    if not isinstance(row, PolicyRecipe):
        of = "its registry of losses for distillation" if isinstance(row, DistillRecipe) else "losses on pairs"
        return f"verl has no plug for {of}"
    if reason := loss_refusal(row):
        return reason
    reason = advantages_refusal(row)
    return f"its loss runs, not its advantages: {reason}" if reason else ""


def loss_refusal(row: PolicyRecipe) -> str:
    """Why no setting of verl's gives this row's loss; "" where one does."""
    if reason := of_the_whole_batch(row):
        return reason
    if row.reduction.name not in MODES:
        return (
            "a micro-batch of verl's holds pieces of groups, and a group's token count does not reach a loss; "
            f"name it {named(row, 'reduction=token-mean')}"
        )
    if couples_groups(row):
        return "a micro-batch of verl's holds pieces of groups, and the row compares completions within one"
    if row.anchor.name == "reference":
        return "verl's own KL term alone sees the reference, and its ratio is taken to it"
    if row.sampler.name == "off-policy-mask":
        return "the sampler's log-probs do not reach a loss of verl's, only weights made of them"
    if row.sampler.name == "weights":
        gate, level = row.sampler.numbers.get("gate"), row.sampler.numbers["level"]
        if level not in ("token", "sequence") or gate not in (None, level) or threshold(row) is None:
            return "verl weighs tokens or sequences, bounded above, or dropped by the weight's own bounds; not this way"
    if row.loss_kl.name not in ("none", *KLS):
        return f"verl's own KL term, which alone sees the reference, has no {row.loss_kl.name}"
    if "none" not in (row.loss_kl.name, row.reward_kl.name):
        return "it has two KLs, one in the reward and one in the loss"
    return likelihood_refusal(row)


def advantages_refusal(row: PolicyRecipe) -> str:
    """Why no setting of verl's gives this row's advantages; "" where one does."""
    verls = {
        "critic": "values do not reach an estimator: adv_estimator=gae with critic.enable=True is verl's own",
        "greedy": "verl samples greedy completions for adv_estimator=remax alone",
        "prompt-value": "values of prompts do not reach an estimator",
        "each-by-std": "an estimator is handed one reward a completion; adv_estimator=gdpo is verl's own",
        "optimal-token": "verl keeps what a token's score needs for adv_estimator=optimal_token_baseline alone",
    }
    if row.advantage.name in verls:
        return verls[row.advantage.name]
    if row.penalty.name != "none":
        return (
            "the longest completion does not reach an estimator; let verl's reward manager dapo take the penalty "
            f"(overlong_buffer), and name it {named(row, 'penalty=none')}"
        )
    if row.reward_kl.name == "per-token" and row.advantage.name != "reward":
        return "verl adds a token's KL to its reward before an estimator sees it, which then has a baseline for both"
    return ""


def refuse(setting: str, row: PolicyRecipe, reason: str) -> None:
    """Raise ``ValueError`` if there is a reason."""
    if reason:
        raise ValueError(f"{setting}: verl cannot run {row.name}: {reason}")


def named(row: PolicyRecipe, change: str) -> str:
    """The row with one more change, named for verl."""
    return f"TORCHSTONE_RECIPES='mine={changed(row, change)[1:-1]}'"


def actor_settings(row: PolicyRecipe) -> Settings:
    """What ``actor_rollout_ref.actor`` has to say for this row."""
    kl, sampler, needed = row.loss_kl, row.sampler, Settings()
    mode = MODES[row.reduction.name]
    if kl.name != "none":
        needed["use_kl_loss"] = (True,), f"{row.name} has {kl} in its loss, which verl adds"
        needed["kl_loss_coef"] = (kl.numbers["beta"],), f"the beta of {row.name}"
        needed["kl_loss_type"] = KLS[kl.name], f"{row.name} has {kl}"
    elif row.reward_kl.name != "none":
        needed["use_kl_loss"] = (False,), f"{row.name} has its KL in the reward: {row.reward_kl}"
    if row.entropy.name != "none":
        needed["entropy_coeff"] = (row.entropy.numbers["coef"],), f"the coef of {row.name}"
    own_terms = kl.name != "none" or row.entropy.name != "none"  # else it is not read: verl's default serves too
    needed["loss_agg_mode"] = (mode,) if own_terms else (mode, "token-mean"), f"{row.name} has {row.reduction}"
    if row.anchor.name == "sampler":
        needed[f"{CORRECTION}.bypass_mode"] = (True,), f"{row.name} takes its ratio to the sampler; {TOLD}"
    elif "old_log_probs" in row.takes("loss"):
        why = f"{row.name} takes its ratio to the trainer; or name it {named(row, 'anchor=sampler')}"
        needed[f"{CORRECTION}.bypass_mode"] = (False, None), why
    if sampler.name == "weights":
        needed[f"{CORRECTION}.rollout_is"] = (sampler.numbers["level"],), TOLD
        needed[f"{CORRECTION}.rollout_is_threshold"] = (threshold(row), bounds(threshold(row))), TOLD
        needed[f"{CORRECTION}.rollout_is_batch_normalize"] = (False,), TOLD
    return needed


def algorithm_settings(row: PolicyRecipe) -> Settings:
    """What ``algorithm`` has to say for this row."""
    kl = row.reward_kl
    if kl.name == "none":
        why = f"{row.name} has its KL in the loss: {row.loss_kl}"
        return {"use_kl_in_reward": ((False, None), why)} if row.loss_kl.name != "none" else {}
    return {
        "use_kl_in_reward": ((True,), f"{row.name} has {kl} in the reward, which verl pays"),
        "kl_ctrl.type": (("fixed",), f"{row.name} has {kl}"),
        "kl_ctrl.kl_coef": ((kl.numbers["beta"],), f"the beta of {row.name}"),
        "kl_penalty": (KLS[str(kl.numbers["estimator"])], f"{row.name} has {kl}"),
    }


def actor_row(row: PolicyRecipe, config: Any, weighted: bool) -> PolicyRecipe:
    """The row without the terms that verl adds itself, once its configuration says the row's numbers for them.

    Args:
        row: as it was asked for.
        config: verl's ``ActorConfig``.
        weighted: whether verl hands weights of the sampler.
    Raises ValueError: a term would be missing, added twice, or another than the row's.
    Warns: a bound of verl's own losses is set, which the row does not read.
    """
    if row.sampler.name == "weights" and not weighted:
        raise ValueError(
            f"rollout_is_weights: the recipe {row.name} has {row.sampler}, got None; set algorithm.rollout_correction."
            f"rollout_is={row.sampler.numbers['level']}, rollout_is_threshold={threshold(row)} and "
            "actor_rollout_ref.rollout.calculate_log_probs=True"
        )
    check("actor", actor_settings(row), config)
    for name in (k for k, default in UNREAD.items() if config.get(k) not in (default, None)):
        warnings.warn(f"actor.{name}={config.get(name)} is not read: the recipe {row.name} is the loss", stacklevel=3)
    left: PolicyRecipe = row.but(loss_kl=NONE, entropy=NONE, value=NONE, sampler=NONE)
    return left


def estimator_row(row: PolicyRecipe, config: Any) -> PolicyRecipe:
    """The row without the KL in the reward, once verl's ``config.algorithm`` says the same KL.

    Raises ValueError: the KL would be missing, paid twice, or another than the row's.
    """
    check("algorithm", algorithm_settings(row), config)
    left: PolicyRecipe = row.but(reward_kl=NONE)
    return left


def counts(row: PolicyRecipe, mask: Tensor, info: Any) -> dict[str, Any]:
    """What the row divides by, over all micro-batches and ranks: verl's ``config.global_batch_info`` has it.

    Raises ValueError: verl does not say it, or counts rows ``[B T]`` without a token, which the row does not.
    """
    if row.reduction.numbers.get("empty_rows") == "skipped" and not mask.any(1).all():
        raise ValueError(
            f"response_mask: {row.name} leaves rows without a token out of its count, and verl counts them all; "
            f"name it {named(row, 'reduction.empty_rows=counted')}; got rows without a token"
        )
    names = {"denominator": "batch_num_tokens" if row.reduction.name == "token-mean" else "global_batch_size"}
    if "max_length" in row.takes("loss"):
        names["max_length"] = "loss_scale_factor"
    for name in names.values():
        if info.get(name) is None:
            where = "actor.loss_scale_factor" if name == "loss_scale_factor" else name
            raise ValueError(f"{where}: {row.name} divides by it, got None")
    return {argument: info[name] for argument, name in names.items()}


def check(section: str, needed: Settings, config: Any) -> None:
    """Raise ``ValueError`` where this section of verl's configuration does not say what is needed."""
    for setting, (serve, why) in needed.items():
        got = reduce(lambda part, key: None if part is None else part.get(key), setting.split("."), config)
        if got not in serve and (not setting.endswith("threshold") or bounds(got) not in serve):
            raise ValueError(f"{section}.{setting}: expected {serve[0]!r}, got {got!r}; {why}")


def threshold(row: PolicyRecipe) -> str | None:
    """verl's rollout_is_threshold for the row's weights; None where it has no such form."""
    low, high, gate, kept_max = (row.sampler.numbers.get(k) for k in ("low", "high", "gate", "kept_max"))
    if gate is None:
        return None if high is None or low is not None else f"{high}"
    return None if low is None or high is None or kept_max is not None else f"{low}_{high}"


def bounds(threshold: Any) -> tuple[float, ...]:
    """verl's rollout_is_threshold as numbers: ``"0.5_5.0"`` is (0.5, 5.0)."""
    return tuple(float(x) for x in str(threshold).split("_")) if threshold is not None else ()
