"""verl 0.9.1: for each row the settings with which verl's own code runs, from the rewards to the gradients."""

from dataclasses import replace
from functools import partial
from typing import Any

import verl_losses as verl
from batch import TOKENS, PolicyBatch
from cases import Case, Output, spread_out

VERSION = "verl-0.9.1"
POLICY = ("prefix", "gaps", "empty", "far")
ESTIMATOR = ("norm_adv_by_std_in_grpo", "use_kl_in_reward")  # settings of the algorithm; the others are the actor's


def policy(batch: PolicyBatch, adv_estimator: str = "grpo", **knobs: Any) -> Output:
    """The estimator's advantages, and the actor's loss on them."""
    settings = {name: knobs.pop(name) for name in ESTIMATOR if name in knobs}
    advantages, _ = verl.advantages(batch, adv_estimator, **settings)
    return Output(*verl.policy_loss(batch, advantages=advantages, **knobs), advantages, {"max_length": TOKENS})


def gpg(batch: PolicyBatch) -> Output:
    """Rewards of 0 and 1, of which verl counts the ones; two in each group, so that every group teaches."""
    rewards = (batch.rewards > 0.5).to(batch.rewards.dtype)
    output = policy(replace(batch, rewards=rewards), "gpg", loss_mode="gpg")
    return output._replace(given={**output.given, "rewards": rewards})


def gspo(batch: PolicyBatch) -> Output:
    """The loss on advantages of single tokens: on those of completions GSPO and GSPO-token have one gradient."""
    advantages, _ = verl.advantages(batch, "grpo")
    loss = verl.policy_loss(batch, advantages=batch.token_advantages, loss_mode="gspo")
    return Output(*loss, advantages, {"advantages": batch.token_advantages})


def dapo(batch: PolicyBatch) -> Output:
    """Rewards in steps of 1/4096, as are the penalties: verl's float32 rewards hold their sums exactly."""
    rounded = (batch.rewards * 4096).round() / 4096
    shaped = verl.overlong_rewards(replace(batch, rewards=rounded), max_resp_len=4096, len=4096).double()
    advantages, _ = verl.advantages(replace(batch, rewards=shaped), "grpo")
    loss = verl.policy_loss(batch, advantages=advantages, clip_ratio_high=0.28)
    return Output(*loss, advantages, {"rewards": rounded, "max_length": 4096})


def small(batch: PolicyBatch) -> PolicyBatch:
    """Rewards and values so small that an eps of 1e-8 below the root shows."""
    return replace(batch, rewards=batch.rewards / 100, values=batch.values / 100)


def whitened(batch: PolicyBatch, adv_estimator: str) -> Output:
    batch = small(batch)
    return policy(batch, adv_estimator)._replace(given={"rewards": batch.rewards})


def ppo(batch: PolicyBatch, **settings: Any) -> Output:
    """Actor and critic: the sum of two losses that verl steps on apart. The batch's values are those of the rollout."""
    batch = small(batch)
    advantages, returns = verl.advantages(replace(batch, old_values=batch.values), "gae", **settings)
    value, gradients = verl.policy_loss(batch, advantages=advantages)
    error, of_values = verl.value_loss(replace(batch, returns=returns))
    given = {"rewards": batch.rewards, "values": batch.values}
    return Output(value + error, gradients | of_values, advantages, given)


def sampler(batch: PolicyBatch, **knobs: Any) -> Output:
    batch = spread_out(batch)
    output = policy(batch, rollout_correction=knobs)
    return output._replace(given={"sampler_log_probs": batch.sampler_log_probs})


SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr_grpo": {"norm_adv_by_std_in_grpo": False, "loss_agg_mode": "seq-mean-token-sum-norm"},
    "sapo": {"loss_mode": "sapo"},
    "gmpo": {"loss_mode": "geo_mean"},
    "cispo": {"loss_mode": "cispo"},
    "dppo": {"loss_mode": "dppo_tv"},
    "dppo-kl": {"loss_mode": "dppo_kl"},
    "rloo": {"adv_estimator": "rloo"},
    "rloo-kl": {"adv_estimator": "rloo", "use_kl_in_reward": True},
    "remax": {"adv_estimator": "remax"},
    "opo": {"adv_estimator": "opo"},
}
SAMPLER: dict[str, dict[str, Any]] = {
    "tis": {"rollout_is": "token"},
    "tis-sequence": {"rollout_is": "sequence"},
    "icepop": {"rollout_is": "token", "rollout_is_threshold": "0.5_5.0"},
}
KLS = {"grpo-kl": {"use_kl_loss": True}, "grpo-kl+": {"use_kl_loss": True, "kl_loss_type": "k3+"}}
WHITENED = {
    "reinforce++": {"adv_estimator": "reinforce_plus_plus"},
    "reinforce++-baseline": {"adv_estimator": "reinforce_plus_plus_baseline"},
}

FLOAT32 = "n / (n - 1) is float32 (torch_functional.py:324); in float64 within 1e-10: test_frameworks.py."
NO_FAR = "Beyond 10 verl cuts k3, which the batch of far ratios reaches."

CASES = {
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY) for name, knobs in SETTINGS.items()},
    **{f"{name}@{VERSION}": Case(partial(sampler, **knobs), POLICY) for name, knobs in SAMPLER.items()},
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY[:3], note=NO_FAR) for name, knobs in KLS.items()},
    **{f"{name}@{VERSION}": Case(partial(whitened, **x), POLICY, 1e-7, FLOAT32) for name, x in WHITENED.items()},
    f"ppo@{VERSION}": Case(ppo, POLICY, 1e-7, FLOAT32),
    f"ppo-kl@{VERSION}": Case(partial(ppo, use_kl_in_reward=True), POLICY, 1e-7, FLOAT32),
    f"gpg@{VERSION}": Case(gpg, POLICY, 1e-6, "alpha is float32 (core_algos.py:811)."),
    f"gspo@{VERSION}": Case(gspo, POLICY),
    f"dapo@{VERSION}": Case(dapo, ("prefix", "far"), note="verl counts tool output as length, Torchstone does not."),
}
SAME: set[str] = set()
