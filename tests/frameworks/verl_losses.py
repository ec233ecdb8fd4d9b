"""verl 0.9.1's own losses and advantages, run on the batches of batch.py: the value, and the gradients.

Nothing of verl is retyped. Losses run through `ppo_loss` and `value_loss` (verl/workers/utils/losses.py), which is what
verl's actor and critic call, with real `ActorConfig` and `CriticConfig` objects; advantages through the trainer's
`compute_advantage`. Every function takes the batch and verl's own config names, and has verl's defaults.

| function | objective | settings (verl's names) | defaults worth knowing |
|---|---|---|---|
| policy_loss | PPO, dual clip | clip_ratio_low, clip_ratio_high, clip_ratio_c | 0.2, 0.2, 3.0; no clip_ratio |
| | GSPO, SAPO, GMPO, CISPO | loss_mode: gspo, sapo (tau_pos, tau_neg), geo_mean, cispo | "vanilla"; 1.0, 1.05 |
| | REINFORCE, DRO | loss_mode: gpg, dro (dro_beta) | None, which raises |
| | DPPO | loss_mode: dppo_tv, dppo_kl | clip_ratio_low, _high: the divergence |
| | KL-Cov | loss_mode: kl_cov (kl_cov_ratio, ppo_kl_coef) | 0.0002, 0.1 |
| | Clip-Cov | loss_mode: clip_cov (clip_cov_ratio, clip_cov_lb, clip_cov_ub) | 0.0002, 1.0, 5.0 |
| | reduction | loss_agg_mode, loss_scale_factor, global_batch | "token-mean", padded width |
| | KL in the loss | use_kl_loss, kl_loss_type, kl_loss_coef | False, "low_var_kl", 0.001 |
| | entropy bonus | entropy_coeff | 0 |
| | sampler mismatch, bypass modes | rollout_correction={...} | None; rollout_is "sequence" |
| value_loss | clipped value error | cliprange_value, loss_agg_mode | 0.5, "token-mean" |
| advantages | 14 estimators | gamma, lam, norm_adv_by_std_in_grpo | 1.0, 1.0, True |
| | KL in the reward | use_kl_in_reward, kl_penalty, kl_coef | False, "kl" = k1, 0.001 |
| kl_penalty | one KL per token | k1, abs, k2, k3, k1+, abs+, k3+ (also kl, mse, low_var_kl) | |
| agg_loss | one number from a loss per token | loss_agg_mode and the counts | the mask's own counts |
| rollout_weights | weights, mask | rollout_is, rollout_is_threshold, rollout_rs, ... | "sequence", 2.0, None |
| overlong_rewards | DAPO's soft overlong punishment | max_resp_len, len, penalty_factor | 1.0 |

float32 inside verl: `grpo_vectorized` (group_mean_std, verl/utils/groupwise.py:191-212), `gdpo` with components
(core_algos.py:430-447) and overlong_rewards. The rest stays float64: verl's other `.float()` are casts of masks.
"""

import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from batch import GROUP, PolicyBatch, leaf, log_sum_sq_probs, value_and_grads
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch import Tensor

warnings.filterwarnings("ignore", message=".*engine is not available.*")
from verl import DataProto  # noqa: E402
from verl.trainer.config import AlgoConfig, KLControlConfig, RolloutCorrectionConfig  # noqa: E402
from verl.trainer.ppo import core_algos, rollout_corr_helper  # noqa: E402
from verl.utils import tensordict_utils  # noqa: E402
from verl.workers.config import ActorConfig, CriticConfig, PolicyLossConfig  # noqa: E402
from verl.workers.utils import losses  # noqa: E402


def _trainer_module() -> ModuleType:
    """verl.trainer.ppo.ray_trainer, without the data loader and the LLM server that it imports: no loss uses them."""
    absent = {"torchdata.stateful_dataloader": "StatefulDataLoader"}
    absent["verl.workers.rollout.llm_server"] = "LLMServerManager"
    modules = {"torchdata": ModuleType("torchdata")}
    for module, name in absent.items():
        modules[module] = ModuleType(module)
        setattr(modules[module], name, object)
    modules = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(modules)
    try:
        from verl.trainer.ppo import ray_trainer
    finally:
        for name in modules:
            del sys.modules[name]
    return ray_trainer


ray_trainer = _trainer_module()
Result = tuple[Tensor, dict[str, Tensor]]


def _tokens(x: Tensor, mask: Tensor) -> Tensor:
    """[B] or [B T] as verl stores it: [B T], 0 outside the mask."""
    return (x[:, None] if x.ndim == 1 else x) * mask


def _inputs(mask: Tensor, global_batch: dict[str, Any] | None, **tensors: Tensor | None) -> TensorDict:
    """What an engine hands to ppo_loss: a prompt of one token, T response tokens, and the counts of the global batch.

    The counts are the trainer's: tokens that the mask keeps (workers/engine/fsdp/transformer_impl.py:730), rows of the
    mini-batch (trainer/ppo/ray_trainer.py:1352-1362).
    """
    rows = len(mask)
    given = {name: x for name, x in tensors.items() if x is not None}
    given |= {"prompts": torch.zeros(rows, 1), "responses": torch.zeros(mask.shape), "response_mask": mask}
    given["attention_mask"] = torch.ones(rows, 1 + mask.shape[1], dtype=torch.long)
    data = TensorDict(given, batch_size=rows)
    counts = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": rows}
    tensordict_utils.assign_non_tensor(data, **counts | (global_batch or {}))
    return data


def _model_output(x: Tensor) -> Tensor:
    """[B T] as a model returns it: prompt and response in one row of tokens, each at the position that predicts it."""
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1).flatten()


def _last(batch: PolicyBatch) -> Tensor:
    """[B] the position of each completion's last chosen token."""
    return batch.mask.shape[1] - 1 - batch.mask.long().flip(1).argmax(1)


def _attention(batch: PolicyBatch) -> Tensor:
    """[B 1+T] a prompt of one token, then everything up to the last chosen token."""
    response = torch.arange(batch.mask.shape[1]) <= _last(batch)[:, None]
    return torch.cat([torch.ones(len(response), 1), response], 1).long()


def _proto(batch: PolicyBatch, **more: Tensor) -> DataProto:
    """The rollout as the trainer holds it: masks are int64, uid names the prompt."""
    tensors = {"response_mask": batch.mask.long(), "old_log_probs": batch.old_log_probs}
    tensors |= {"ref_log_prob": batch.ref_log_probs, "rollout_log_probs": batch.sampler_log_probs} | more
    uid = np.array([f"prompt {row // GROUP}" for row in range(len(batch.mask))], dtype=object)
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uid})


def rollout_weights(batch: PolicyBatch, **knobs: Any) -> tuple[Tensor | None, Tensor]:
    """compute_rollout_correction_and_add_to_batch (verl/trainer/ppo/rollout_corr_helper.py:1013-1067).

    Args:
        batch: the ratio is that of old_log_probs and sampler_log_probs
        knobs: of RolloutCorrectionConfig: rollout_is (None, "token", "sequence"; "sequence" when omitted),
            rollout_is_threshold (2.0: at most that; "0.5_2.0": zero outside), rollout_is_batch_normalize,
            rollout_rs ("token_k1", "seq_sum_k1", "seq_mean_k3", ..., several joined by commas), rollout_rs_threshold
            (of k1: bounds on sampler / pi_old)

    Returns: weights [B T] or None; the mask [B T] that is left, int64.
    """
    data, _ = rollout_corr_helper.compute_rollout_correction_and_add_to_batch(
        _proto(batch), RolloutCorrectionConfig(**knobs)
    )
    return data.batch.get("rollout_is_weights", None), data.batch["response_mask"]


def policy_loss(
    batch: PolicyBatch,
    *,
    advantages: Tensor | None = None,
    rollout_correction: dict[str, Any] | None = None,
    global_batch: dict[str, Any] | None = None,
    **knobs: Any,
) -> Result:
    """ppo_loss (verl/workers/utils/losses.py:57-144): a loss of get_policy_loss_fn, less entropy, plus KL.

    Args:
        batch: with gaps, the holes are 0 in response_mask
        advantages: [B] or [B T]; batch.advantages when None
        rollout_correction: of RolloutCorrectionConfig. It weights tokens and takes some out of the mask first, as the
            trainer does (trainer/ppo/ray_trainer.py:1650-1660). With bypass_mode=True the sampler's log-probs are the
            old ones and loss_mode is "bypass_mode" (core_algos.py:2413-2549), with loss_type "ppo_clip" or "reinforce"
        global_batch: over the trainer's counts: dp_size, batch_num_tokens, global_batch_size. None for the last two
            is what the bare functions do
        knobs: of ActorConfig and of its PolicyLossConfig (loss_mode, kl_cov_ratio, dro_beta, ...)

    Returns: the loss, and its gradients "log_probs" and "entropies".

    clip_cov draws torch.randperm among its candidates; with clip_cov_ratio=1.0 it takes them all, whatever the seed.
    """
    log_probs, entropies = leaf(batch.log_probs), leaf(batch.entropies)
    policy_fields = PolicyLossConfig.__dataclass_fields__
    policy = OmegaConf.create({name: knobs.pop(name) for name in list(knobs) if name in policy_fields})
    old, weights, mask = batch.old_log_probs, None, batch.mask.long()
    if rollout_correction is not None and rollout_correction.get("bypass_mode"):
        data = _proto(batch)
        rollout_corr_helper.apply_bypass_mode(data, RolloutCorrectionConfig(**rollout_correction), policy)
        old = data.batch["old_log_probs"]
    elif rollout_correction is not None:
        weights, mask = rollout_weights(batch, **rollout_correction)
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=GROUP,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(**policy),
        **knobs,
    )
    given = batch.advantages if advantages is None else advantages
    data = _inputs(
        mask,
        global_batch,
        old_log_probs=old,
        advantages=_tokens(given, batch.mask),
        rollout_is_weights=weights,
        ref_log_prob=batch.ref_log_probs if config.use_kl_loss else None,
    )
    output = {"log_probs": _model_output(log_probs)}
    if config.entropy_coeff:
        output["entropy"] = _model_output(entropies)
    loss, _ = losses.ppo_loss(config, output, data)
    return value_and_grads(loss, log_probs=log_probs, entropies=entropies)


def value_loss(batch: PolicyBatch, *, global_batch: dict[str, Any] | None = None, **knobs: Any) -> Result:
    """value_loss (verl/workers/utils/losses.py:147-205): half of compute_value_loss's error (core_algos.py:2125-2185).

    Args:
        batch: values are clipped around old_values
        global_batch: as in policy_loss
        knobs: of CriticConfig: cliprange_value, loss_agg_mode, loss_scale_factor
    """
    values = leaf(batch.values)
    config = CriticConfig(strategy="fsdp", ppo_micro_batch_size_per_gpu=1, **knobs)
    data = _inputs(batch.mask.long(), global_batch, values=batch.old_values, returns=batch.returns)
    loss, _ = losses.value_loss(config, {"values": _model_output(values)}, data)
    return value_and_grads(loss, values=values)


def advantages(
    batch: PolicyBatch,
    adv_estimator: str,
    *,
    kl_coef: float = 0.001,
    components: dict[str, Tensor] | None = None,
    sum_pi_squared: Tensor | None = None,
    rollout_correction: dict[str, Any] | None = None,
    **knobs: Any,
) -> tuple[Tensor, Tensor]:
    """compute_advantage (verl/trainer/ppo/ray_trainer.py:187-282), after apply_kl_penalty (78-117) where switched on.

    Each completion's reward stands on its last chosen token; the critic's values are old_values.

    Args:
        batch: a rollout
        adv_estimator: gae, grpo, grpo_vectorized (float32), grpo_passk, reinforce_plus_plus,
            reinforce_plus_plus_baseline, remax (its baselines are greedy_rewards), rloo, rloo_vectorized, opo, gpg,
            optimal_token_baseline, tir_optimal_token_baseline, gdpo
        kl_coef: algorithm.kl_ctrl.kl_coef, with use_kl_in_reward=True
        components: gdpo's rewards by name, each [P G], float32, without a KL; without them it takes batch.rewards
        sum_pi_squared: [B T] for the optimal token baselines; of a vocabulary of two when None
        rollout_correction: weights for the optimal token baselines, and the mask that is left
        knobs: of AlgoConfig: gamma, lam, norm_adv_by_std_in_grpo, use_kl_in_reward, kl_penalty, gdpo_reward_weights

    Returns: advantages [B T] and returns [B T]. Outside the mask, gae's advantages and several returns are not 0.
    """
    scores = torch.zeros_like(batch.log_probs)
    scores[torch.arange(len(scores)), _last(batch)] = batch.rewards.flatten()
    data = _proto(
        batch,
        token_level_scores=scores,
        token_level_rewards=scores,
        values=batch.old_values,
        sum_pi_squared=log_sum_sq_probs(batch.old_log_probs).exp() if sum_pi_squared is None else sum_pi_squared,
        prompts=torch.zeros(len(scores), 1),
        attention_mask=_attention(batch),
    )
    if adv_estimator == "remax":
        data.batch["reward_baselines"] = batch.greedy_rewards.repeat_interleave(GROUP)
    if rollout_correction is not None:
        correction = RolloutCorrectionConfig(**rollout_correction)
        data, _ = rollout_corr_helper.compute_rollout_correction_and_add_to_batch(data, correction)
    if components is not None:
        knobs["gdpo_reward_keys"] = list(components)
        data.non_tensor_batch.update({name: x.flatten().numpy() for name, x in components.items()})
    config = AlgoConfig(adv_estimator=adv_estimator, kl_ctrl=KLControlConfig(kl_coef=kl_coef), **knobs)
    if config.use_kl_in_reward:
        controller = core_algos.get_kl_controller(config.kl_ctrl)
        data, _ = ray_trainer.apply_kl_penalty(data, kl_ctrl=controller, kl_penalty=config.kl_penalty)
    if adv_estimator == "gdpo" and components is None:  # the trainer wants names; the function itself does not
        uid, rewards = data.non_tensor_batch["uid"], data.batch["token_level_rewards"]
        return core_algos.compute_gdpo_outcome_advantage(rewards, data.batch["response_mask"], uid)
    data = ray_trainer.compute_advantage(
        data,
        adv_estimator=adv_estimator,
        gamma=config.gamma,
        lam=config.lam,
        num_repeat=GROUP,
        norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
        config=config,
    )
    return data.batch["advantages"], data.batch["returns"]


def kl_penalty(batch: PolicyBatch, kl_penalty: str) -> Result:
    """kl_penalty (verl/trainer/ppo/core_algos.py:2188-2251): [B T], and the gradient of its sum over all positions."""
    log_probs = leaf(batch.log_probs)
    kl = core_algos.kl_penalty(log_probs, batch.ref_log_probs, kl_penalty)
    _, grads = value_and_grads(kl.sum(), log_probs=log_probs)
    return kl.detach(), grads


def agg_loss(x: Tensor, mask: Tensor, loss_agg_mode: str, **counts: Any) -> Result:
    """agg_loss (verl/trainer/ppo/core_algos.py:1140-1206) of a loss per token, x [B T]; the gradient is named "x".

    Args:
        x: a loss per token
        mask: [B T]
        loss_agg_mode: token-mean, token-sum, seq-mean-token-sum, seq-mean-token-sum-norm, seq-mean-token-mean
        counts: dp_size, batch_num_tokens, global_batch_size, loss_scale_factor; taken from the mask when omitted
    """
    x = leaf(x)
    return value_and_grads(core_algos.agg_loss(x, mask, loss_agg_mode, **counts), x=x)


def overlong_rewards(batch: PolicyBatch, *, max_resp_len: int, len: int, penalty_factor: float = 1.0) -> Tensor:
    """DAPORewardManager (verl/workers/reward_manager/dapo.py:58-154): rewards [P G] plus the overlong one, float32.

    Args:
        batch: its rewards are the scores; a completion ends at its last chosen token, holes count
        max_resp_len: of reward_kwargs
        len, penalty_factor: of overlong_buffer
    """
    from verl.workers.reward_manager.dapo import DAPORewardManager

    rows, width = batch.mask.shape
    tensors = {"prompts": torch.zeros(rows, 1).long(), "responses": torch.zeros(rows, width).long()}
    tensors["attention_mask"] = _attention(batch)
    scores = iter(batch.rewards.flatten().tolist())
    manager = DAPORewardManager(
        SimpleNamespace(decode=lambda *_, **__: "", eos_token="</s>"),
        num_examine=0,
        compute_score=lambda **_: next(scores),
        max_resp_len=max_resp_len,
        overlong_buffer_cfg=SimpleNamespace(enable=True, len=len, penalty_factor=penalty_factor, log=False),
    )
    rules = np.array([{"ground_truth": ""}] * rows, dtype=object)
    sources = np.array([""] * rows, dtype=object)
    data = DataProto.from_dict(tensors=tensors, non_tensors={"reward_model": rules, "data_source": sources})
    return manager(data).sum(1).view_as(batch.rewards)
