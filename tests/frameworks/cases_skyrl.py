"""SkyRL 0.3.0: for each row the settings with which SkyRL's own code runs, from the rewards to the gradients.

Advantages go through its trainer's `apply_reward_kl_penalty`, `compute_advantages_and_returns` and
`_normalize_advantages`, losses through its worker's `_forward_backward_micro`, with a real `AlgorithmConfig`: all on
one process, in one micro-batch, and with the batch's numbers in place of a model's. SkyRL casts to float32 in
`safe_exp_delta` (torch_utils.py:187-192), through which most of its ratios go; here that is float64.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from batch import GROUP, TOKENS, PolicyBatch, leaf, value_and_grads
from cases import Case, Model, Output, near_the_engine, spread_out
from torch import Tensor

from torchstone.frameworks.loading import float32_is_float64
from torchstone.frameworks.skyrl import load
from torchstone.frameworks.skyrl.rows import VERSION

load.load()
core, worker, trainer = load.core(), load.worker(), load.trainer()
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch  # noqa: E402
from skyrl.train.config import AlgorithmConfig  # noqa: E402

POLICY = ("prefix", "gaps", "empty", "far")
NO_GAPS = ("prefix", "far")
Result = tuple[Tensor, dict[str, Tensor]]


class Captured:
    """A strategy that keeps the loss instead of stepping on it."""

    def backward(self, loss: Tensor, *_: Any) -> None:
        self.loss = loss


@contextmanager
def on_a_cpu_in_float64() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(float32_is_float64(load.TORCH))
        stack.enter_context(patch.object(torch.cuda, "current_device", lambda: "cpu"))
        stack.enter_context(patch.object(torch, "autocast", lambda **_: nullcontext()))
        yield


def settings(**knobs: Any) -> Any:
    """SkyRL's defaults with these changes: ``dppo={...}`` changes fields of its nested settings.

    The KL is on by default, and a mean over completions: it is off here where the policy's loss is another mean.
    """
    found = AlgorithmConfig(temperature=1.0)
    found.use_kl_loss = knobs.get("loss_reduction") == "sequence_mean"
    for name, value in knobs.items():
        fields = value if isinstance(value, dict) else {name: value}
        for field, x in fields.items():
            of = getattr(found, name) if fields is value else found
            assert hasattr(of, field)
            setattr(of, field, x)
    return found


def lengths(batch: PolicyBatch) -> Tensor:
    """[B] tokens up to the last chosen one, tool output included; a completion without one fills its row."""
    width = batch.mask.shape[1]
    return torch.where(batch.mask.any(1), width - batch.mask.long().flip(1).argmax(1), width)


def aligned(x: Tensor, batch: PolicyBatch, back: bool = False) -> Tensor:
    """Rows [B T] moved right until the last token is in the last column, as SkyRL lays them out; or moved back."""
    shifts = (batch.mask.shape[1] - lengths(batch)).tolist()
    return torch.stack([row.roll(-n if back else n) for row, n in zip(x, shifts, strict=True)])


def rollout(batch: PolicyBatch) -> Any:
    """What the trainer holds before it takes advantages. Rewards stand on last tokens; response_mask hides padding."""
    rows, width = batch.mask.shape
    steps, rewards = torch.arange(width), torch.zeros_like(batch.log_probs)
    rewards[:, -1] = batch.rewards.flatten()
    tokens = {
        "action_log_probs": batch.old_log_probs, "base_action_log_probs": batch.ref_log_probs,
        "rollout_logprobs": batch.sampler_log_probs, "values": batch.old_values,
        "loss_mask": batch.mask.to(batch.log_probs.dtype),
    }  # fmt: skip
    data = TrainingInputBatch(
        {name: aligned(x, batch) for name, x in tokens.items()}
        | {"rewards": rewards, "response_mask": (steps >= width - lengths(batch)[:, None]).long()}
        | {"sequences": torch.zeros(rows, 1 + width).long(), "attention_mask": torch.ones(rows, 1 + width).long()}
    )
    uids = [f"prompt {row // GROUP}" for row in range(rows)]
    data.metadata = {"uids": uids, "avg_response_length": 1.0, "response_length": width}
    return data


def trained_by(config: Any) -> tuple[Any, SimpleNamespace]:
    """Its trainer's class, and what its methods here read of an instance."""
    controller = core.get_kl_controller(config) if config.use_kl_in_reward else None  # train/trainer.py:308-309
    cfg = SimpleNamespace(
        trainer=SimpleNamespace(algorithm=config, micro_train_batch_size_per_gpu=12),
        generator=SimpleNamespace(step_wise_trajectories=False),
    )
    return trainer.RayPPOTrainer, SimpleNamespace(cfg=cfg, all_metrics={}, reward_kl_controller=controller)


def estimated(batch: PolicyBatch, config: Any) -> Any:
    """The rollout with advantages and returns (train/trainer.py:1109-1220), a KL in the reward before (1381-1436)."""
    of, this = trained_by(config)
    data = rollout(batch)
    if config.use_kl_in_reward:
        data = of.apply_reward_kl_penalty(this, data)
    return of.compute_advantages_and_returns(this, data)


def policy_loss(batch: PolicyBatch, data: Any, config: Any) -> Result:
    """PolicyWorkerBase._forward_backward_micro (workers/worker.py:821-1029) after the trainer's _normalize_advantages
    (train/trainer.py:1438-1479): the loss of the registry, with its KL."""
    of, this = trained_by(config)
    bounds = [(start, start + GROUP) for start in range(0, len(batch.mask), GROUP)]
    data = of._normalize_advantages(this, data, [(0, len(batch.mask))], bounds)
    leaves = {"log_probs": leaf(batch.log_probs), "entropies": leaf(batch.entropies)}
    present, entropies = (aligned(x, batch) for x in leaves.values())
    strategy = Captured()
    this = SimpleNamespace(
        model=Model(present, {"entropy": torch.cat([entropies, torch.zeros_like(entropies[:, :1])], 1)}),
        policy_loss_fn=core.PolicyLossRegistry.get(config.policy_loss_type),
        **of_a_worker(config, strategy),
    )
    experience = worker.BaseBatchIterator.batch_to_experience(data)
    worker.PolicyWorkerBase._forward_backward_micro(this, experience, microbatch_weight=1.0)
    return value_and_grads(strategy.loss, **leaves)


def value_loss(batch: PolicyBatch, data: Any, config: Any) -> Result:
    """CriticWorkerBase._forward_backward_micro (workers/worker.py:1332-1390)."""
    values, strategy = leaf(batch.values), Captured()
    model = Model(aligned(values, batch), None)
    this = SimpleNamespace(model=model, critic_loss_fn=core.ppo_critic_loss, **of_a_worker(config, strategy))
    worker.CriticWorkerBase._forward_backward_micro(this, worker.BaseBatchIterator.batch_to_experience(data))
    return value_and_grads(strategy.loss, values=values)


def of_a_worker(config: Any, strategy: Captured) -> dict[str, Any]:
    """What either worker reads of itself, on one process."""
    return {
        "cfg": SimpleNamespace(algorithm=config), "mesh_rank": SimpleNamespace(dp_size=1), "strategy": strategy,
        "optimizer": None, "scheduler": SimpleNamespace(get_last_lr=lambda: [0.0]),
    }  # fmt: skip


def policy(batch: PolicyBatch, earned: Tensor | None = None, **knobs: Any) -> Output:
    """The estimator's advantages, and the worker's loss on them, or on these instead: ``earned`` [B T]."""
    config = settings(**knobs)
    with on_a_cpu_in_float64():
        data = estimated(batch, config)
        found, given = aligned(data["advantages"], batch, back=True), {"max_length": TOKENS}
        if earned is not None:
            data["advantages"], given = aligned(earned, batch), given | {"advantages": earned}
        return Output(*policy_loss(batch, data, config), found, given)


def gspo(batch: PolicyBatch, **knobs: Any) -> Output:
    """The loss on advantages of single tokens: on those of completions GSPO and GSPO-token have one gradient."""
    return policy(batch, batch.token_advantages, **knobs)


def small(batch: PolicyBatch) -> PolicyBatch:
    """Rewards and values so small that an eps of 1e-8 below the root shows."""
    return replace(batch, rewards=batch.rewards / 100, old_values=batch.values / 100)


def whitened(batch: PolicyBatch, **knobs: Any) -> Output:
    batch = small(batch)
    output = policy(batch, **knobs)
    return output._replace(given={"rewards": batch.rewards, "values": batch.old_values})


def maxrl(batch: PolicyBatch) -> Output:
    """Rewards of a million, beside which the 1e-6 in SkyRL's divisor is nothing: the row has none."""
    batch = replace(batch, rewards=1e6 * batch.rewards)
    return policy(batch, advantage_estimator="maxrl")._replace(given={"rewards": batch.rewards})


def dppo(batch: PolicyBatch, **knobs: Any) -> Output:
    """SkyRL's value has -A rho where the row has -A sg[rho] log pi, of the same gradient: the latter is put together
    of that gradient and the log-probs, in which it is linear."""
    output = policy(batch, policy_loss_type="dppo", dppo=knobs)
    return output._replace(value=(output.gradients["log_probs"] * batch.log_probs)[batch.mask].sum())


def sampler(batch: PolicyBatch, **correction: Any) -> Output:
    batch = spread_out(batch)
    output = policy(batch, off_policy_correction=correction)
    return output._replace(given={"sampler_log_probs": batch.sampler_log_probs})


def masking(batch: PolicyBatch, centres: tuple[float, ...], level: str, **correction: Any) -> Output:
    batch = near_the_engine(batch, centres, level)
    output = policy(batch, off_policy_correction=correction)
    return output._replace(given={"sampler_log_probs": batch.sampler_log_probs})


GSPO = {"policy_loss_type": "gspo", "loss_reduction": "sequence_mean"}
EXAMPLE = {"policy_loss_type": "dual_clip", "eps_clip_high": 0.28, "clip_ratio_c": 10.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr_grpo": {"grpo_norm_by_std": False, "loss_reduction": "seq_mean_token_sum_norm", "max_seq_len": TOKENS},
    "dapo": {**EXAMPLE, "loss_reduction": "token_mean_legacy"},
    "dapo-prompt-mean": {**EXAMPLE, "loss_reduction": "prompt_mean"},
    "rloo": {"advantage_estimator": "rloo"},
    "rloo-kl": {"advantage_estimator": "rloo", "use_kl_in_reward": True},
    "cispo": {"policy_loss_type": "cispo"},
    "importance-sampling": {"policy_loss_type": "importance_sampling"},
}
KLS: dict[str, dict[str, Any]] = {
    "grpo-kl": {"loss_reduction": "sequence_mean"},
    "sapo": {"policy_loss_type": "sapo", "loss_reduction": "sequence_mean"},
}
GAE = {"advantage_estimator": "gae"}
WHITENED: dict[str, dict[str, Any]] = {
    "reinforce++": {"advantage_estimator": "reinforce++"},
    "ppo": GAE,
    "ppo-kl": {**GAE, "use_kl_in_reward": True},
    "ppo-dual-clip": {**GAE, "policy_loss_type": "dual_clip"},
}
SAMPLER: dict[str, dict[str, Any]] = {
    "tis": {"tis_ratio_type": "token"},
    "tis-sequence": {"tis_ratio_type": "sequence"},
    "icepop": {"tis_ratio_type": "token", "token_mask_is_threshold_low": 0.5, "token_mask_is_threshold_high": 5.0},
}
GEOMETRIC = {"centres": (0.007, -0.007, 0.09, -0.012, 0.012, -0.007), "level": "mean"}
PRODUCT = {"centres": (-1.2, -0.8, -0.6, 0.4, 0.6, 0.8), "level": "sum"}  # 0.30, 0.45, 0.55, 1.5, 1.8, 2.2
MASKING: dict[str, dict[str, Any]] = {
    "seq-mis": {"tis_ratio_type": "sequence", "sequence_mask_metric": "product", **PRODUCT},
    "geo-rs": {"sequence_mask_metric": "geometric", **GEOMETRIC},
    "geo-rs-token-tis": {"tis_ratio_type": "token", "sequence_mask_metric": "geometric", **GEOMETRIC},
}

NO_FAR = "Beyond 10 SkyRL cuts k3, which the batch of far ratios reaches."
FLOAT32 = "n / (n - 1) is float32 (ppo_utils.py:140). Tool output counts in SkyRL's whitening, and not in the row's."
LINEAR = "Up to the value, which is another function of the same gradient."

CASES = {
    **{f"{name}@{VERSION}": Case(partial(policy, **x), POLICY) for name, x in SETTINGS.items()},
    **{f"{name}@{VERSION}": Case(partial(policy, **x), POLICY[:3], note=NO_FAR) for name, x in KLS.items()},
    **{f"{name}@{VERSION}": Case(partial(whitened, **x), NO_GAPS, 1e-7, FLOAT32) for name, x in WHITENED.items()},
    **{f"{name}@{VERSION}": Case(partial(sampler, **x), POLICY) for name, x in SAMPLER.items()},
    **{f"{name}@{VERSION}": Case(partial(masking, **x), POLICY) for name, x in MASKING.items()},
    f"gspo@{VERSION}": Case(partial(gspo, **GSPO), POLICY[:3], note=NO_FAR),
    f"maxrl@{VERSION}": Case(maxrl, POLICY),
    f"clip-cov@{VERSION}": Case(partial(policy, policy_loss_type="clip_cov"), (*POLICY, "long")),
    f"dppo@{VERSION}": Case(dppo, POLICY, note=LINEAR),
    f"dppo-kl@{VERSION}": Case(partial(dppo, dppo_type="binary_kl"), POLICY, note=LINEAR),
}
SAME = {f"tis@{VERSION}"}
