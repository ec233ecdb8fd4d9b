"""What a row needs of verl's configuration, and why verl cannot run some of them.

A policy loss gets log-probs, old ones, advantages, a mask, the sampler's weights, and the actor's configuration. What
else a row has, verl computes itself or not at all: its KL, its entropy bonus and its critic are then verl's own terms,
and this room holds their settings against the row's numbers.
"""

from __future__ import annotations

from typing import Any

from torchstone.recipes.choices import NONE
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
TOLD = (
    "the trainer's setting algorithm.rollout_correction reaches a loss only by "
    "'+actor_rollout_ref.actor.policy_loss.rollout_correction=${algorithm.rollout_correction}'"
)


def loss_refusal(row: PolicyRecipe) -> str:
    """Why no setting of verl's gives this row's loss; "" where one does."""
    if row.reduction.name not in MODES:
        return (
            "a micro-batch of verl's holds pieces of groups, and a group's token count does not reach a loss; name it "
            f"{changed(row, 'reduction=token-mean')}"
        )
    if row.sampler.name == "off-policy-mask":
        return "the sampler's log-probs do not reach a loss of verl's, only weights made of them"
    if row.sampler.name == "weights":
        gate, level = row.sampler.numbers.get("gate"), row.sampler.numbers["level"]
        if level not in ("token", "sequence") or gate not in (None, level) or _threshold(row) is None:
            return "verl weighs tokens or sequences, bounded above, or dropped by the weight's own bounds; not this way"
    if row.loss_kl.name not in ("none", *KLS):
        return f"verl's own KL term, which alone sees the reference, has no {row.loss_kl.name}"
    if "none" not in (row.loss_kl.name, row.reward_kl.name):
        return "it has two KLs, one in the reward and one in the loss"
    return ""


def advantages_refusal(row: PolicyRecipe) -> str:
    """Why no setting of verl's gives this row's advantages; "" where one does."""
    verls = {
        "critic": "values do not reach an estimator: adv_estimator=gae with critic.enable=True is verl's own",
        "greedy": "verl samples greedy completions for adv_estimator=remax alone",
        "optimal-token": "verl keeps what a token's score needs for adv_estimator=optimal_token_baseline alone",
    }
    if row.advantage.name in verls:
        return verls[row.advantage.name]
    if row.penalty.name != "none":
        return (
            "the longest completion does not reach an estimator; let verl's reward manager dapo take the penalty "
            f"(overlong_buffer), and name it {changed(row, 'penalty=none')}"
        )
    if row.reward_kl.name == "per-token" and row.advantage.name != "reward":
        return "verl adds a token's KL to its reward before an estimator sees it, which then has a baseline for both"
    return ""


def refuse(setting: str, row: PolicyRecipe, reason: str) -> None:
    """Raise ``ValueError`` if there is a reason."""
    if reason:
        raise ValueError(f"{setting}: verl cannot run {row.name}: {reason}")


def changed(row: PolicyRecipe, change: str) -> str:
    """How the changed row is written in TORCHSTONE_RECIPES."""
    return f"TORCHSTONE_RECIPES='mine={row.name}{'+' if ':' in row.name else ':'}{change}'"


def actor_row(row: PolicyRecipe, config: Any, weighted: bool) -> PolicyRecipe:
    """The row without the terms that verl adds itself, once its configuration says the row's numbers for them.

    Args:
        row: as it was asked for.
        config: verl's ``ActorConfig``.
        weighted: whether verl hands weights of the sampler.
    Raises ValueError: a term would be missing, added twice, or another than the row's.
    """
    mode, name = MODES[row.reduction.name], row.name
    kl, entropy = row.loss_kl, row.entropy.numbers.get("coef", 0)
    told = config.policy_loss.get("rollout_correction")
    if (kl.name != "none") != config.use_kl_loss and (kl.name != "none" or row.reward_kl.name != "none"):
        has = f"{kl} in its loss, which verl adds" if kl.name != "none" else f"its KL in the reward: {row.reward_kl}"
        _expect("use_kl_loss", kl.name != "none", config.use_kl_loss, f"since {name} has {has}")
    if kl.name != "none":
        _expect("kl_loss_coef", kl.numbers["beta"], config.kl_loss_coef, f"the beta of {name}")
        if config.kl_loss_type not in KLS[kl.name]:
            _expect("kl_loss_type", KLS[kl.name][0], config.kl_loss_type, f"since {name} has {kl}")
    if row.entropy.name != "none":
        _expect("entropy_coeff", entropy, config.entropy_coeff, f"the coef of {name}")
    own_terms = kl.name != "none" or row.entropy.name != "none"
    if config.loss_agg_mode != mode and (own_terms or config.loss_agg_mode != "token-mean"):
        _expect("loss_agg_mode", mode, config.loss_agg_mode, f"since {name} has {row.reduction}")
    if "old_log_probs" in row.takes("loss") or row.anchor.name == "sampler":
        away = row.anchor.name == "sampler"
        hint = TOLD if away else f"or name it {changed(row, 'anchor=sampler')}"
        _expect("rollout_correction.bypass_mode", away, bool(told and told.bypass_mode), f"since {name} takes its "
                f"ratio to the {row.anchor.name}; {hint}")  # fmt: skip
    if row.sampler.name == "weights":
        if not weighted:
            raise ValueError(
                f"rollout_is_weights: the recipe {name} has {row.sampler}, got None; set algorithm.rollout_correction."
                f"rollout_is={row.sampler.numbers['level']}, rollout_is_threshold={_threshold(row)} and "
                "actor_rollout_ref.rollout.calculate_log_probs=True"
            )
        _expect("rollout_correction.rollout_is", row.sampler.numbers["level"], told and told.rollout_is, TOLD)
        _expect("rollout_correction.rollout_is_threshold", _bounds(_threshold(row)),
                told and _bounds(told.rollout_is_threshold), TOLD)  # fmt: skip
        _expect("rollout_correction.rollout_is_batch_normalize", False, told and told.rollout_is_batch_normalize, TOLD)
    left: PolicyRecipe = row.but(loss_kl=NONE, entropy=NONE, value=NONE, sampler=NONE)
    return left


def estimator_row(row: PolicyRecipe, config: Any) -> PolicyRecipe:
    """The row without the KL in the reward, once verl's configuration says the same KL.

    Raises ValueError: the KL would be missing, paid twice, or another than the row's.
    """
    kl, used = row.reward_kl, bool(config.get("use_kl_in_reward"))
    if (kl.name != "none") != used and (kl.name != "none" or row.loss_kl.name != "none"):
        where = f"{kl} in the reward, which verl pays" if kl.name != "none" else f"its KL in the loss: {row.loss_kl}"
        _expect("algorithm.use_kl_in_reward", not used, used, f"since {row.name} has {where}")
    if kl.name != "none":
        control = config.kl_ctrl
        _expect("algorithm.kl_ctrl.type", "fixed", control.type, f"since {row.name} has {kl}")
        _expect("algorithm.kl_ctrl.kl_coef", kl.numbers["beta"], control.kl_coef, f"the beta of {row.name}")
        names = KLS[str(kl.numbers["estimator"])]
        if config.kl_penalty not in names:
            _expect("algorithm.kl_penalty", names[0], config.kl_penalty, f"since {row.name} has {kl}")
    left: PolicyRecipe = row.but(reward_kl=NONE)
    return left


def _expect(setting: str, expected: Any, got: Any, why: str) -> None:
    if expected != got:
        raise ValueError(f"{setting}: expected {expected!r}, got {got!r}; {why}")


def _threshold(row: PolicyRecipe) -> str | None:
    """verl's rollout_is_threshold for the row's weights; None where it has no such form."""
    low, high, gate = (row.sampler.numbers.get(k) for k in ("low", "high", "gate"))
    if gate is None:
        return None if high is None or low is not None else f"{high}"
    return None if low is None or high is None else f"{low}_{high}"


def _bounds(threshold: Any) -> list[float]:
    return [float(x) for x in str(threshold).split("_")]
