"""OpenRLHF 0.11.2's own losses and advantages, run on the batches of batch.py: the value, and the gradients.

Nothing of OpenRLHF is retyped. `import openrlhf` wants flash-attn, deepspeed and vllm, so the packages that import them
are empty here, with the installed folder as their path: every module that computes something is the installed file.
The actor's loss is that of `ActorPPOTrainer.training_step`, advantages are those of `RemoteExperienceMaker`; both get
the batch's numbers instead of a model's. Arguments are OpenRLHF's command line, without its dotted prefixes.

| function | objective | settings | defaults worth knowing |
|---|---|---|---|
| policy_loss | PPO, dual clip | eps_clip_low_high, dual_clip | (0.2, 0.2), None |
| | GSPO | policy_loss_type="gspo" | "ppo"; "gspo" forces a mean over rows |
| | reduction | loss_agg_mode, global_batch | "token-mean" (or "seq-mean-token-mean") |
| | sampler mismatch | is_correction_level, ..._mode, ..._gating, ..._threshold | "off", "mask", "ratio", (0.5, 5.0) |
| | KL in the loss | use_loss, init_coef, estimator, unbiased_gradient | False, 0.01, "k1", False |
| | entropy bonus | entropy_coef | None |
| value_loss | clipped value error | value_clip, token_level_loss | 0.5, True (the trainer has no other) |
| advantages | gae, reinforce, reinforce_baseline, rloo | estimator, gamma, lambd, no_std_norm | -, 1, 1, False |
| | group_norm (GRPO), dr_grpo, flash_reinforce | clip_range of the reward | (-10, 10) |
| | KL in the reward | kl_coef, kl_estimator, use_loss | 0.01: on; "k1", False |
| | overlong punishment | overlong_buffer_len, max_new_tokens | None |
| approx_kl | one KL per token | estimator, unbiased_gradient, old | "k1", False |
| aggregate | one number from a loss per token | token_level_loss | True |
| dpo | DPO, cDPO, IPO, with an NLL term | beta, label_smoothing, ipo, nll_loss_coef | 0.1, 0, False, 0 |
| reward_model | Bradley-Terry, LogExp | loss ("sigmoid", "logexp"), margin | "sigmoid", none |

OpenRLHF 0.11.2 has no KTO, no PRM and no other preference loss. It casts to float32 in compute_approx_kl
(models/utils.py:93, 124) and for the statistics that normalise advantages (experience_maker.py:326). Here `.float()`
gives float64 unless `keep_casts=True`, so that formulas can be compared to the last digits.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from batch import GROUP, PolicyBatch, PreferenceBatch, leaf, value_and_grads
from torch import Tensor

Result = tuple[Tensor, dict[str, Tensor]]


def _load() -> SimpleNamespace:
    """The installed files, below packages whose own __init__ is not run; deepspeed and what needs it are empty."""
    root = Path(find_spec("openrlhf").origin).parent

    def empty(name: str, folder: str | None = None, **names: Any) -> ModuleType:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(names)
        if folder is not None:
            module.__path__ = [str(root / folder)]
        return module

    empty("deepspeed")
    empty("openrlhf.utils", "utils", get_tokenizer=None)
    empty("openrlhf.utils.deepspeed", DeepspeedStrategy=None)
    offload = {"offload_deepspeed_states": None, "reload_deepspeed_states": None}
    empty("openrlhf.utils.deepspeed.deepspeed_utils", **offload)
    models = empty("openrlhf.models", "models", Actor=None, get_llm_for_sequence_regression=None)
    empty("openrlhf.trainer.ray", "trainer/ray")
    empty("openrlhf.trainer.ray.launcher", BaseModelActor=object, RayActorGroup=None)
    loss = importlib.import_module("openrlhf.models.loss")
    models.__dict__.update((name, value) for name, value in vars(loss).items() if not name.startswith("_"))
    files = "models.loss models.utils trainer.dpo_trainer trainer.ray.ppo_actor trainer.ppo_utils.experience_maker"
    files += " trainer.ppo_utils.kl_controller trainer.ppo_utils.length_penalty"
    found = {name.split(".")[-1]: importlib.import_module(f"openrlhf.{name}") for name in files.split()}
    del sys.modules["deepspeed"]  # others ask whether it is installed
    return SimpleNamespace(**found)


openrlhf = _load()
openrlhf.experience_maker.ray = SimpleNamespace(put=lambda x: x, get=lambda x: x)  # one process
openrlhf.ppo_actor.torch_dist_barrier_and_cuda_sync = lambda: None
openrlhf.ppo_actor.NaiveReplayBuffer = lambda *_: None  # it wants a GPU; the experience is handed over directly
for _name in ("experience_maker", "length_penalty"):  # they report every call
    getattr(openrlhf, _name).logger.setLevel(logging.WARNING)
Experience = openrlhf.experience_maker.Experience


@contextmanager
def _casts(keep: bool) -> Iterator[None]:
    """`tensor.float()` gives float64 inside, unless keep."""
    if keep:
        yield
        return
    before = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = before


def _args(**sections: Any) -> SimpleNamespace:
    """OpenRLHF's nested arguments: what every run here has, and the sections given."""
    off = ("dynamic_batch_enable", "async_enable", "colocate_all", "colocate_actor_ref", "colocate_critic_reward")
    train = SimpleNamespace(max_epochs=1, **dict.fromkeys(off, False))
    ds = SimpleNamespace(packing_samples=False, ring_attn_size=1, tensor_parallel_size=1)
    return SimpleNamespace(train=train, ds=ds, vllm=SimpleNamespace(sync_backend="gloo"), **sections)


def _experience(batch: PolicyBatch, **more: Any) -> Any:
    """The whole rollout as one of OpenRLHF's micro-batches; a prompt of one token stands before each completion."""
    rows, width = batch.mask.shape
    sequences = torch.zeros(rows, 1 + width, dtype=torch.long)
    tensors = {"sequences": sequences, "attention_mask": torch.ones_like(sequences), "action_mask": batch.mask}
    return Experience(**tensors, index=list(range(rows)), **more)


class _Captured:
    """A strategy that keeps the loss instead of stepping on it."""

    ring_attn_group = None

    def __init__(self, args: Any):
        self.args = args

    def backward(self, loss: Tensor, *_: Any) -> None:
        self.loss = loss

    def optimizer_step(self, *_: Any, **__: Any) -> None:
        pass

    def get_grad_norm(self, *_: Any) -> float:
        return 0.0


class _Model:
    """Returns the numbers it was made with."""

    def __init__(self, *output: Any):
        self.output = output

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.output

    def train(self) -> None:
        pass


_schedule = SimpleNamespace(get_last_lr=lambda: [0.0])


def policy_loss(
    batch: PolicyBatch,
    *,
    advantages: Tensor | None = None,
    eps_clip_low_high: tuple[float, float] = (0.2, 0.2),
    dual_clip: float | None = None,
    loss_agg_mode: str = "token-mean",
    policy_loss_type: str = "ppo",
    entropy_coef: float | None = None,
    is_correction_level: str = "off",
    is_correction_mode: str = "mask",
    is_correction_gating: str = "ratio",
    is_correction_threshold: tuple[float, float] = (0.5, 5.0),
    use_loss: bool = False,
    init_coef: float = 0.01,
    estimator: str = "k1",
    unbiased_gradient: bool = False,
    global_batch: dict[str, Any] | None = None,
    keep_casts: bool = False,
) -> Result:
    """ActorPPOTrainer.training_step (openrlhf/trainer/ray/ppo_actor.py:259-357): PolicyLoss, KL, entropy.

    Args:
        batch: sampler_log_probs are OpenRLHF's rollout_log_probs
        advantages: [B] or [B T]; batch.advantages when None
        eps_clip_low_high, dual_clip, loss_agg_mode, policy_loss_type, entropy_coef: --actor.*
        is_correction_*: --algo.advantage.*; level "token" or "seq", mode "mask" or "clip", gating "ratio",
            "binary_kl" or "tv"; the threshold is (low, high), and (0.0, delta) for the two divergences
        use_loss, init_coef, estimator, unbiased_gradient: --algo.kl.*; a token mean whatever loss_agg_mode says
        global_batch: dp_size, batch_num_tokens and global_batch_size, for a micro-batch; this batch's when None
            (utils/loss_utils.py:18-51)
        keep_casts: keep OpenRLHF's casts to float32

    Returns: the loss, and its gradients "log_probs" and "entropies".
    """
    actor = SimpleNamespace(
        eps_clip_low_high=eps_clip_low_high,
        dual_clip=dual_clip,
        loss_agg_mode=loss_agg_mode,
        policy_loss_type=policy_loss_type,
        entropy_coef=entropy_coef,
        aux_loss_coef=0.0,
    )
    advantage = SimpleNamespace(
        is_correction_level=is_correction_level,
        is_correction_mode=is_correction_mode,
        is_correction_gating=is_correction_gating,
        is_correction_threshold=is_correction_threshold,
    )
    kl = SimpleNamespace(use_loss=use_loss, init_coef=init_coef)
    kl.estimator, kl.unbiased_gradient = estimator, unbiased_gradient
    strategy = _Captured(_args(actor=actor, algo=SimpleNamespace(advantage=advantage, kl=kl)))
    log_probs, entropies = leaf(batch.log_probs), leaf(batch.entropies)
    given = batch.advantages if advantages is None else advantages
    experience = _experience(
        batch,
        action_log_probs=batch.old_log_probs,
        base_action_log_probs=batch.ref_log_probs,
        rollout_log_probs=batch.sampler_log_probs,
        advantages=given if given.ndim == 2 else given[:, None].expand_as(batch.mask),
    )
    model = _Model(log_probs, SimpleNamespace(entropy=entropies))
    with _casts(keep_casts):
        trainer = openrlhf.ppo_actor.ActorPPOTrainer(strategy, model, None, None, _schedule)
        trainer.training_step(experience, kl_ctl=init_coef, step=0, loss_batch_info=global_batch)
    return value_and_grads(strategy.loss, log_probs=log_probs, entropies=entropies)


def value_loss(batch: PolicyBatch, *, value_clip: float | None = 0.5, token_level_loss: bool = True) -> Result:
    """ValueLoss (openrlhf/models/loss.py:262-298): half the error, values clipped around old_values."""
    values = leaf(batch.values)
    loss_fn = openrlhf.loss.ValueLoss(clip_eps=value_clip, token_level_loss=token_level_loss)
    return value_and_grads(loss_fn(values, batch.old_values, batch.returns, batch.mask), values=values)


class _Maker(openrlhf.experience_maker.RemoteExperienceMaker):
    """Its groups of models are the numbers that they would return."""

    def _dispatch_forward(self, group: Tensor, *_: Any, **__: Any) -> list[list[Tensor]]:
        return [[group]]


def advantages(
    batch: PolicyBatch,
    estimator: str,
    *,
    gamma: float = 1.0,
    lambd: float = 1.0,
    kl_coef: float = 0.01,
    kl_estimator: str = "k1",
    use_loss: bool = False,
    clip_range: tuple[float, float] | None = (-10, 10),
    no_std_norm: bool = False,
    max_new_tokens: int | None = None,
    overlong_buffer_len: float | None = None,
    overlong_penalty_factor: float = 1.0,
    keep_casts: bool = False,
) -> tuple[Tensor, Tensor]:
    """make_experience and compute_advantages_and_returns (openrlhf/trainer/ppo_utils/experience_maker.py:113-340).

    Args:
        batch: old_values are the critic's; a completion's length is that of its mask
        estimator: gae, reinforce, reinforce_baseline, rloo, group_norm, dr_grpo, flash_reinforce
        gamma, lambd: gamma is 1 for all but gae and reinforce
        kl_coef, kl_estimator: --algo.kl.init_coef and .estimator, the KL in the reward; kl_coef=0 is no KL
        use_loss: the KL is in the loss instead, and not here
        clip_range: of the reward, after the baseline and the scale
        no_std_norm: gae, reinforce, reinforce_baseline: centre, do not scale
        max_new_tokens, overlong_buffer_len, overlong_penalty_factor: DAPO's punishment (ppo_utils/length_penalty.py)
        keep_casts: keep OpenRLHF's casts to float32

    Returns: advantages [B T] and returns [B T], not masked.
    """
    advantage = SimpleNamespace(estimator=estimator, gamma=gamma, lambd=lambd, no_std_norm=no_std_norm)
    kl = SimpleNamespace(use_loss=use_loss, estimator=kl_estimator)
    reward = SimpleNamespace(clip_range=clip_range, overlong_buffer_len=overlong_buffer_len)
    reward.overlong_penalty_factor = overlong_penalty_factor
    rollout = SimpleNamespace(n_samples_per_prompt=GROUP, max_new_tokens=max_new_tokens)
    args = _args(algo=SimpleNamespace(advantage=advantage, kl=kl), reward=reward, rollout=rollout)
    critic = batch.old_values if estimator == "gae" else None
    controller = openrlhf.kl_controller.FixedKLController(kl_coef)
    groups = (batch.old_log_probs, critic, None, batch.ref_log_probs)
    maker = _Maker(*groups, controller, SimpleNamespace(args=args), None)
    samples = [_experience(batch, rewards=batch.rewards.flatten().clone(), response_length=batch.lengths)]
    with _casts(keep_casts):
        (experience,) = maker.compute_advantages_and_returns(maker.make_experience(samples))
    return experience.advantages, experience.returns


def approx_kl(
    batch: PolicyBatch,
    estimator: str = "k1",
    *,
    unbiased_gradient: bool = False,
    old: bool = True,
    keep_casts: bool = False,
) -> Result:
    """compute_approx_kl (openrlhf/models/utils.py:69-128): [B T], and the gradient of its sum over all positions.

    Args:
        batch: log_probs against ref_log_probs
        estimator: k1, k2, k3
        unbiased_gradient: the gradient is weighted by min(pi / pi_old, 10), if old; else by 1
        old: hand it old_log_probs
        keep_casts: keep OpenRLHF's casts to float32
    """
    log_probs = leaf(batch.log_probs)
    old_log_probs = batch.old_log_probs if old else None
    with _casts(keep_casts):
        kl = openrlhf.utils.compute_approx_kl(
            log_probs, batch.ref_log_probs, old_log_probs, kl_estimator=estimator, unbiased_gradient=unbiased_gradient
        )
    _, grads = value_and_grads(kl.sum(), log_probs=log_probs)
    return kl.detach(), grads


def aggregate(x: Tensor, mask: Tensor, token_level_loss: bool = True, **counts: Any) -> Result:
    """aggregate_loss (openrlhf/models/loss.py:11-39) of a loss per token, x [B T]; the gradient is named "x".

    Args:
        x: a loss per token
        mask: [B T]
        token_level_loss: False for seq-mean-token-mean
        counts: dp_size, batch_num_tokens, global_batch_size
    """
    x = leaf(x)
    return value_and_grads(openrlhf.loss.aggregate_loss(x, mask, token_level_loss, **counts), x=x)


def dpo(
    batch: PreferenceBatch,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    ipo: bool = False,
    nll_loss_coef: float = 0.0,
) -> Result:
    """DPOTrainer.concatenated_forward (openrlhf/trainer/dpo_trainer.py:306-328) and DPOLoss (models/loss.py:329-371).

    The sum `loss + nll * nll_loss_coef` is dpo_trainer.py:175-179, which stands inside the training loop and is written
    here again. The NLL is the mean over rows of each chosen completion's mean.
    """
    leaves = {"chosen": leaf(batch.chosen), "rejected": leaf(batch.rejected)}
    trainer = object.__new__(openrlhf.dpo_trainer.DPOTrainer)
    trainer.tokenizer = SimpleNamespace(pad_token_id=0)
    trainer.strategy = SimpleNamespace(ring_attn_group=None)
    masks = [torch.cat([torch.ones_like(m[:, :1]), m], 1).long() for m in (batch.chosen_mask, batch.rejected_mask)]
    inputs = (masks[0], masks[0], masks[1], masks[1], [1] * len(masks[0]))
    policy = _Model(torch.cat([*leaves.values()]), {})
    reference = _Model(torch.cat([batch.ref_chosen, batch.ref_rejected]), {})
    chosen, rejected, _, nll = trainer.concatenated_forward(policy, *inputs)
    ref_chosen, ref_rejected, _, _ = trainer.concatenated_forward(reference, *inputs)
    loss_fn = openrlhf.loss.DPOLoss(beta, label_smoothing, ipo)
    loss, _, _ = loss_fn(chosen, rejected, ref_chosen, ref_rejected)
    return value_and_grads(loss + nll * nll_loss_coef, **leaves)


def reward_model(batch: PreferenceBatch, *, loss: str = "sigmoid", margin: Tensor | None = None) -> Result:
    """PairWiseLoss, or LogExpLoss with loss="logexp" (openrlhf/models/loss.py:301-326).

    Args:
        batch: its chosen_rewards and rejected_rewards are the leaves
        loss: "sigmoid" or "logexp", the names of --model.loss_type
        margin: [N]; "logexp" ignores it
    """
    leaves = {"chosen_rewards": leaf(batch.chosen_rewards), "rejected_rewards": leaf(batch.rejected_rewards)}
    loss_fn = {"sigmoid": openrlhf.loss.PairWiseLoss, "logexp": openrlhf.loss.LogExpLoss}[loss]()
    return value_and_grads(loss_fn(*leaves.values(), margin), **leaves)
