"""OpenRLHF 0.11.2: for each row the settings with which its own code runs, from the rewards to the gradients.

The harness replaces OpenRLHF's casts to float32 by casts to float64 (openrlhf_losses.py).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import openrlhf_losses as openrlhf
from batch import PolicyBatch, PreferenceBatch
from cases import Case, Output, spread_out

VERSION = "openrlhf-0.11.2"
POLICY = ("prefix", "gaps", "empty", "far")


def policy(batch: PolicyBatch, advantage: str = "group_norm", **knobs: Any) -> Output:
    """The estimator's advantages, and the actor's loss on them."""
    advantages, _ = openrlhf.advantages(batch, advantage, use_loss=knobs.get("use_loss", False))
    return Output(*openrlhf.policy_loss(batch, advantages=advantages, **knobs), advantages)


def ppo(batch: PolicyBatch, **knobs: Any) -> Output:
    """Actor and critic: the sum of two losses that step apart. The batch's values are those of the rollout."""
    advantages, returns = openrlhf.advantages(replace(batch, old_values=batch.values), "gae")
    value, gradients = openrlhf.policy_loss(batch, advantages=advantages, **knobs)
    error, of_values = openrlhf.value_loss(replace(batch, returns=returns))
    return Output(value + error, gradients | of_values, advantages)


def sampler(batch: PolicyBatch, **knobs: Any) -> Output:
    batch = spread_out(batch)
    return policy(batch, **knobs)._replace(given={"sampler_log_probs": batch.sampler_log_probs})


def dapo(batch: PolicyBatch) -> Output:
    advantages, _ = openrlhf.advantages(batch, "group_norm", max_new_tokens=4096, overlong_buffer_len=4096)
    loss = openrlhf.policy_loss(batch, advantages=advantages, eps_clip_low_high=(0.2, 0.28))
    return Output(*loss, advantages, {"max_length": 4096})


def dpo(batch: PreferenceBatch, **knobs: Any) -> Output:
    return Output(*openrlhf.dpo(batch, **knobs))


SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr_grpo": {"advantage": "dr_grpo"},
    "rloo": {"advantage": "rloo"},
    "reinforce++": {"advantage": "reinforce"},
    "reinforce++-baseline": {"advantage": "reinforce_baseline"},
    "gspo": {"policy_loss_type": "gspo"},
    "flash-reinforce": {"advantage": "flash_reinforce"},
}
SAMPLER: dict[str, dict[str, Any]] = {
    "tis": {"is_correction_level": "token", "is_correction_mode": "clip"},
    "icepop": {"is_correction_level": "token"},
    "seq-mask-tis": {"is_correction_level": "seq"},
}
PAIRS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "cdpo": {"label_smoothing": 0.1},
    "ipo": {"ipo": True},
    "iterative-rpo": {"nll_loss_coef": 1.0},
}
K3 = {"use_loss": True, "estimator": "k3"}

CASES = {
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY) for name, knobs in SETTINGS.items()},
    **{f"{name}@{VERSION}": Case(partial(sampler, **knobs), POLICY) for name, knobs in SAMPLER.items()},
    f"grpo-kl@{VERSION}": Case(partial(policy, **K3), POLICY[:3], note="Beyond 10 k3 is cut, which far ratios reach."),
    f"ppo@{VERSION}": Case(ppo, POLICY, note="With gaps only at gamma = lambda = 1: test_frameworks.py."),
    f"ppo-dual-clip@{VERSION}": Case(partial(ppo, dual_clip=3.0), POLICY),
    f"dapo@{VERSION}": Case(dapo, POLICY),
    **{f"{name}@{VERSION}": Case(partial(dpo, **knobs), ("pairs",)) for name, knobs in PAIRS.items()},
}
SAME = {f"{name}@{VERSION}" for name in PAIRS}
