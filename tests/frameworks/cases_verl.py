"""verl 0.9.1: for each row the settings with which verl's own code runs, from the rewards to the gradients.

Losses run through `ppo_loss` and `value_loss` (verl/workers/utils/losses.py), which is what verl's actor and critic
call, with real `ActorConfig` and `CriticConfig` objects; advantages through the trainer's `compute_advantage`.
float32 inside verl: overlong_rewards, and what `FLOAT32` says. Its other `.float()` are casts of masks.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from batch import GROUP, TOKENS, PolicyBatch, leaf, value_and_grads
from cases import NOTHING, Case, Output, near_the_engine, spread_out
from torch import Tensor

from torchstone.frameworks.verl import functions as verl
from torchstone.frameworks.verl import load
from torchstone.frameworks.verl.rows import VERSION

load.load()
from tensordict import TensorDict  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.config import AlgoConfig, KLControlConfig, RolloutCorrectionConfig  # noqa: E402
from verl.trainer.ppo import rollout_corr_helper  # noqa: E402
from verl.utils import tensordict_utils  # noqa: E402
from verl.workers.config import CriticConfig  # noqa: E402
from verl.workers.reward_manager.dapo import DAPORewardManager  # noqa: E402
from verl.workers.utils import losses  # noqa: E402

core_algos, ray_trainer = load.core(), load.trainer()
POLICY = ("prefix", "gaps", "empty", "far")
ESTIMATOR = ("norm_adv_by_std_in_grpo", "use_kl_in_reward")  # settings of the algorithm; the others are the actor's
Result = tuple[Tensor, dict[str, Tensor]]


def inputs(mask: Tensor, **tensors: Tensor | None) -> TensorDict:
    """What an engine hands to ppo_loss: a prompt of one token, T response tokens, and the counts of the global batch.

    The counts are the trainer's: tokens that the mask keeps (workers/engine/fsdp/transformer_impl.py:730), rows of the
    mini-batch (trainer/ppo/ray_trainer.py:1352-1362).
    """
    given = {name: x for name, x in tensors.items() if x is not None}
    given |= {"prompts": torch.zeros(len(mask), 1), "responses": torch.zeros(mask.shape), "response_mask": mask}
    given["attention_mask"] = torch.ones(len(mask), 1 + mask.shape[1], dtype=torch.long)
    data = TensorDict(given, batch_size=len(mask))
    counts = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": len(mask)}
    tensordict_utils.assign_non_tensor(data, **counts)
    return data


def model_output(x: Tensor) -> Tensor:
    """[B T] as a model returns it: prompt and response in one row of tokens, each at the position that predicts it."""
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1).flatten()


def last(batch: PolicyBatch) -> Tensor:
    """[B] the position of each completion's last chosen token."""
    return batch.mask.shape[1] - 1 - batch.mask.long().flip(1).argmax(1)


def attention(batch: PolicyBatch) -> Tensor:
    """[B 1+T] a prompt of one token, then everything up to the last chosen token."""
    response = torch.arange(batch.mask.shape[1]) <= last(batch)[:, None]
    return torch.cat([torch.ones(len(response), 1), response], 1).long()


def proto(batch: PolicyBatch, **more: Tensor) -> DataProto:
    """The rollout as the trainer holds it: masks are int64, uid names the prompt."""
    tensors = {"response_mask": batch.mask.long(), "old_log_probs": batch.old_log_probs}
    tensors |= {"ref_log_prob": batch.ref_log_probs, "rollout_log_probs": batch.sampler_log_probs} | more
    uid = np.array([f"prompt {row // GROUP}" for row in range(len(batch.mask))], dtype=object)
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uid})


def policy_loss(
    batch: PolicyBatch, advantages: Tensor, correction: dict[str, Any] | None = None,
    loss_mode: str | dict[str, Any] = "vanilla", **knobs: Any,
) -> Result:  # fmt: skip
    """ppo_loss (verl/workers/utils/losses.py:57-144): a loss of get_policy_loss_fn, less entropy, plus KL.

    Args:
        batch: with gaps, the holes are 0 in response_mask
        advantages: [B T]
        correction: of RolloutCorrectionConfig. It weights tokens and takes some out of the mask first, as the trainer
            does (trainer/ppo/ray_trainer.py:1650-1660)
        loss_mode: of PolicyLossConfig, or several of its settings
        knobs: of ActorConfig
    """
    leaves = {"log_probs": leaf(batch.log_probs), "entropies": leaf(batch.entropies)}
    weights, mask = (None, batch.mask.long()) if correction is None else corrected(batch, correction)
    config = verl.config({"loss_mode": loss_mode} if isinstance(loss_mode, str) else loss_mode, **knobs)
    data = inputs(
        mask,
        old_log_probs=batch.old_log_probs,
        advantages=advantages * batch.mask,
        rollout_is_weights=weights,
        ref_log_prob=batch.ref_log_probs if config.use_kl_loss else None,
    )
    output = {"log_probs": model_output(leaves["log_probs"])}
    if config.entropy_coeff:
        output["entropy"] = model_output(leaves["entropies"])
    return value_and_grads(losses.ppo_loss(config, output, data)[0], **leaves)


def corrected(batch: PolicyBatch, correction: dict[str, Any]) -> tuple[Tensor | None, Tensor]:
    """compute_rollout_correction_and_add_to_batch: weights [B T] or None, and the mask that is left."""
    correct = rollout_corr_helper.compute_rollout_correction_and_add_to_batch
    data, _ = correct(proto(batch), RolloutCorrectionConfig(**correction))
    return data.batch.get("rollout_is_weights", None), data.batch["response_mask"]


def value_loss(batch: PolicyBatch) -> Result:
    """value_loss (verl/workers/utils/losses.py:147-205): half the error of compute_value_loss (core_algos.py:2125)."""
    values = leaf(batch.values)
    config = CriticConfig(strategy="fsdp", ppo_micro_batch_size_per_gpu=1)
    data = inputs(batch.mask.long(), values=batch.old_values, returns=batch.returns)
    return value_and_grads(losses.value_loss(config, {"values": model_output(values)}, data)[0], values=values)


def advantages(
    batch: PolicyBatch, adv_estimator: str, several: Mapping[str, Tensor] = NOTHING, **knobs: Any
) -> tuple[Tensor, Tensor]:
    """compute_advantage (verl/trainer/ppo/ray_trainer.py:187-282), after apply_kl_penalty (78-117) where switched on.

    Each completion's reward stands on its last chosen token; the critic's values are old_values; remax's baselines are
    greedy_rewards. Advantages and returns [B T]; outside the mask, gae's advantages and several returns are not 0.

    several: rewards by their keys in what compute_score returns, [P G] each.
    knobs: of AlgoConfig.
    """
    scores = torch.zeros_like(batch.log_probs)
    scores[torch.arange(len(scores)), last(batch)] = batch.rewards.flatten()
    scored = {"token_level_scores": scores, "token_level_rewards": scores, "values": batch.old_values}
    data = proto(batch, **scored, prompts=torch.zeros(len(scores), 1), attention_mask=attention(batch))
    data.non_tensor_batch |= {key: x.flatten().numpy() for key, x in several.items()}
    if adv_estimator == "remax":
        data.batch["reward_baselines"] = batch.greedy_rewards.repeat_interleave(GROUP)
    config = AlgoConfig(adv_estimator=adv_estimator, kl_ctrl=KLControlConfig(kl_coef=0.001), **knobs)
    if config.use_kl_in_reward:
        controller = core_algos.get_kl_controller(config.kl_ctrl)
        data, _ = ray_trainer.apply_kl_penalty(data, kl_ctrl=controller, kl_penalty=config.kl_penalty)
    copied = {name: getattr(config, name) for name in ("gamma", "lam", "norm_adv_by_std_in_grpo")}
    data = ray_trainer.compute_advantage(data, adv_estimator=adv_estimator, num_repeat=GROUP, config=config, **copied)
    return data.batch["advantages"], data.batch["returns"]


def overlong_rewards(batch: PolicyBatch, longest: int, cache: int) -> Tensor:
    """DAPORewardManager (verl/workers/reward_manager/dapo.py:58-154): rewards [P G] plus the overlong one, float32.

    The batch's rewards are the scores; a completion ends at its last chosen token, holes count. ``longest``:
    max_resp_len, ``cache``: overlong_buffer.len.
    """
    rows, width = batch.mask.shape
    tensors = {"prompts": torch.zeros(rows, 1).long(), "responses": torch.zeros(rows, width).long()}
    scores = iter(batch.rewards.flatten().tolist())
    manager = DAPORewardManager(
        SimpleNamespace(decode=lambda *_, **__: "", eos_token="</s>"),
        num_examine=0,
        compute_score=lambda **_: next(scores),
        max_resp_len=longest,
        overlong_buffer_cfg=SimpleNamespace(enable=True, len=cache, penalty_factor=1.0, log=False),
    )
    rules = np.array([{"ground_truth": ""}] * rows, dtype=object)
    sources = np.array([""] * rows, dtype=object)
    given = {"tensors": tensors | {"attention_mask": attention(batch)}}
    data = DataProto.from_dict(**given, non_tensors={"reward_model": rules, "data_source": sources})
    return manager(data).sum(1).view_as(batch.rewards)


def policy(batch: PolicyBatch, adv_estimator: str = "grpo", **knobs: Any) -> Output:
    """The estimator's advantages, and the actor's loss on them."""
    settings = {name: knobs.pop(name) for name in ESTIMATOR if name in knobs}
    found, _ = advantages(batch, adv_estimator, **settings)
    return Output(*policy_loss(batch, found, **knobs), found, {"max_length": TOKENS})


def gdpo(batch: PolicyBatch) -> Output:
    """Two rewards and weights so small that an eps of 1e-6 beside a deviation, and of 1e-8 below the root, show."""
    several = {"first": batch.rewards / 100, "second": batch.rewards.flip(1) ** 3 / 100}
    weights = [1e-3, 5e-4]
    keys = {"gdpo_reward_keys": [*several], "gdpo_reward_weights": weights}
    found, _ = advantages(batch, "gdpo", several, **keys)
    given = {"rewards": torch.stack([*several.values()], 2), "reward_weights": torch.tensor(weights).double()}
    return Output(*policy_loss(batch, found.double()), found.double(), given)


def clip_cov(batch: PolicyBatch) -> Output:
    """The draw is the batch's: of the candidates, which verl has in the batch's order, those with the smallest numbers.

    Candidates: between the bounds, and not stopped by the clip (core_algos.py:1808-1820).
    """
    found, _ = advantages(batch, "grpo")
    given, moved = torch.where(batch.mask, found, 0), (batch.log_probs - batch.old_log_probs).exp()
    spare = torch.where(given > 0, moved > 1.2, moved < 0.8) & (given != 0)
    means = [x[batch.mask].mean() for x in (given, batch.log_probs)]
    cov = (given - means[0]) * (batch.log_probs - means[1])
    draws = batch.draws[batch.mask & ~spare & (cov > 1) & (cov < 5)]

    def randperm(count: int) -> Tensor:
        assert count == len(draws)
        return draws.argsort()

    with patch.object(torch, "randperm", randperm):
        return Output(*policy_loss(batch, found, loss_mode="clip_cov"), found)


def gpg(batch: PolicyBatch) -> Output:
    """Rewards of 0 and 1, of which verl counts the ones; two in each group, so that every group teaches."""
    rewards = (batch.rewards > 0.5).to(batch.rewards.dtype)
    output = policy(replace(batch, rewards=rewards), "gpg", loss_mode="gpg")
    return output._replace(given={**output.given, "rewards": rewards})


def gspo(batch: PolicyBatch) -> Output:
    """The loss on advantages of single tokens: on those of completions GSPO and GSPO-token have one gradient."""
    loss = policy_loss(batch, batch.token_advantages, loss_mode="gspo")
    return Output(*loss, advantages(batch, "grpo")[0], {"advantages": batch.token_advantages})


def dro(batch: PolicyBatch) -> Output:
    """verl's value has -A log pi where the row has -A (log pi - log pi_old): the constant between them is taken off."""
    output = policy(batch, loss_mode={"loss_mode": "dro", "dro_beta": 0.1})
    constant = (output.advantages * batch.old_log_probs)[batch.mask].sum() / batch.mask.sum()
    return output._replace(value=output.value + constant)


def dapo(batch: PolicyBatch) -> Output:
    """Rewards in steps of 1/4096, as are the penalties: verl's float32 rewards hold their sums exactly."""
    rounded = (batch.rewards * 4096).round() / 4096
    shaped = overlong_rewards(replace(batch, rewards=rounded), longest=4096, cache=4096).double()
    found, _ = advantages(replace(batch, rewards=shaped), "grpo")
    return Output(*policy_loss(batch, found, clip_ratio_high=0.28), found, {"rewards": rounded, "max_length": 4096})


def small(batch: PolicyBatch) -> PolicyBatch:
    """Rewards and values so small that an eps of 1e-8 below the root shows."""
    return replace(batch, rewards=batch.rewards / 100, values=batch.values / 100)


def whitened(batch: PolicyBatch, adv_estimator: str) -> Output:
    batch = small(batch)
    return policy(batch, adv_estimator)._replace(given={"rewards": batch.rewards})


def ppo(batch: PolicyBatch, **settings: Any) -> Output:
    """Actor and critic: the sum of two losses that verl steps on apart. The batch's values are those of the rollout."""
    batch = small(batch)
    found, returns = advantages(replace(batch, old_values=batch.values), "gae", **settings)
    value, gradients = policy_loss(batch, found)
    error, of_values = value_loss(replace(batch, returns=returns))
    given = {"rewards": batch.rewards, "values": batch.values}
    return Output(value + error, gradients | of_values, found, given)


def sampler(batch: PolicyBatch, **knobs: Any) -> Output:
    batch = spread_out(batch)
    return policy(batch, correction=knobs)._replace(given={"sampler_log_probs": batch.sampler_log_probs})


def rejecting(batch: PolicyBatch, centres: tuple[float, ...], level: str, **knobs: Any) -> Output:
    """Completions leave the mask."""
    batch = near_the_engine(batch, centres, level)
    left = int(corrected(batch, knobs)[1].sum())
    assert 0 < left < int(batch.mask.sum())
    given = {"sampler_log_probs": batch.sampler_log_probs, "denominator": left}
    return policy(batch, correction=knobs)._replace(given=given)


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
    "grpo-passk": {"adv_estimator": "grpo_passk"},
}
SAMPLER: dict[str, dict[str, Any]] = {
    "tis": {"rollout_is": "token"},
    "tis-sequence": {"rollout_is": "sequence"},
    "icepop": {"rollout_is": "token", "rollout_is_threshold": "0.5_5.0"},
}
GEOMETRIC = {
    "centres": (5e-4, -1e-3, 0.01, -5e-4, 1e-3, -0.01), "level": "mean",
    "rollout_rs": "seq_mean_k1", "rollout_rs_threshold": "0.999_1.001",
}  # fmt: skip
PRODUCT = {
    "centres": (-1.2, -0.8, -0.6, 0.4, 0.6, 0.8), "level": "sum",  # 0.30, 0.45, 0.55, 1.5, 1.8, 2.2
    "rollout_rs": "seq_sum_k1", "rollout_rs_threshold": "0.5_2.0",
}  # fmt: skip
REJECTING: dict[str, dict[str, Any]] = {
    "seq-mis": {"rollout_is": "sequence", **PRODUCT},
    "geo-rs": {"rollout_is": None, **GEOMETRIC},
    "geo-rs-token-tis": {"rollout_is": "token", **GEOMETRIC},
}
KLS = {"grpo-kl": {"use_kl_loss": True}, "grpo-kl+": {"use_kl_loss": True, "kl_loss_type": "k3+"}}
WHITENED = {
    "reinforce++": {"adv_estimator": "reinforce_plus_plus"},
    "reinforce++-baseline": {"adv_estimator": "reinforce_plus_plus_baseline"},
}

FLOAT32 = "n / (n - 1) is float32 (torch_functional.py:324); in float64 within 1e-10: test_remarks.py."
NO_FAR = "Beyond 10 verl cuts k3, which the batch of far ratios reaches."

CASES = {
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY) for name, knobs in SETTINGS.items()},
    **{f"{name}@{VERSION}": Case(partial(sampler, **knobs), POLICY) for name, knobs in SAMPLER.items()},
    **{f"{name}@{VERSION}": Case(partial(rejecting, **knobs), POLICY) for name, knobs in REJECTING.items()},
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY[:3], note=NO_FAR) for name, knobs in KLS.items()},
    **{f"{name}@{VERSION}": Case(partial(whitened, **x), POLICY, 1e-7, FLOAT32) for name, x in WHITENED.items()},
    f"ppo@{VERSION}": Case(ppo, POLICY, 1e-7, FLOAT32),
    f"ppo-kl@{VERSION}": Case(partial(ppo, use_kl_in_reward=True), POLICY, 1e-7, FLOAT32),
    f"gpg@{VERSION}": Case(gpg, POLICY, 1e-6, "alpha is float32 (core_algos.py:811)."),
    f"gspo@{VERSION}": Case(gspo, POLICY),
    f"clip-cov@{VERSION}": Case(clip_cov, (*POLICY, "long")),
    f"kl-cov@{VERSION}": Case(partial(policy, loss_mode="kl_cov"), (*POLICY, "long")),
    f"dro@{VERSION}": Case(dro, POLICY, note="Up to a constant in the value."),
    f"gdpo@{VERSION}": Case(gdpo, POLICY, 2e-6, "Rewards, and so the advantages, are float32 (core_algos.py:427)."),
    f"dapo@{VERSION}": Case(dapo, ("prefix", "far"), note="verl counts tool output as length, Torchstone does not."),
}
SAME: set[str] = set()
