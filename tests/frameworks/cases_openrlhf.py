"""OpenRLHF 0.11.2: for each row the settings with which its own code runs, from the rewards to the gradients.

The actor's loss is that of `ActorPPOTrainer.training_step`, advantages are those of `RemoteExperienceMaker`; both get
the batch's numbers instead of a model's. OpenRLHF casts to float32 in compute_approx_kl (models/utils.py:93, 124) and
for the statistics that normalise advantages (experience_maker.py:326). Here `.float()` gives float64, so that formulas
are compared to the last digits.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from batch import PolicyBatch, PreferenceBatch, leaf, value_and_grads
from cases import Case, Model, Output, sides, spread_out
from torch import Tensor

from torchstone.frameworks.arguments import per_token
from torchstone.frameworks.loading import casts_to_float64
from torchstone.frameworks.openrlhf import functions as openrlhf
from torchstone.frameworks.openrlhf import load
from torchstone.frameworks.openrlhf.rows import VERSION

load.load()
ACTOR, TRAINER = "openrlhf.trainer.ray.ppo_actor", "openrlhf.trainer.dpo_trainer"
POLICY = ("prefix", "gaps", "empty", "far")
OFF = {"is_correction_level": "off", "is_correction_mode": "mask", "is_correction_gating": "ratio"}
Result = tuple[Tensor, dict[str, Tensor]]


class Captured:
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


def actor_loss(
    batch: PolicyBatch, advantages: Tensor, correction: dict[str, Any], kl: dict[str, Any], **actor: Any
) -> Result:
    """ActorPPOTrainer.training_step (openrlhf/trainer/ray/ppo_actor.py:259-357): PolicyLoss, KL, entropy.

    Args:
        batch: sampler_log_probs are OpenRLHF's rollout_log_probs
        advantages: [B] or [B T]
        correction: --algo.advantage.is_correction_*; its threshold is (low, high)
        kl: --algo.kl.*: use_loss, estimator
        actor: --actor.*
    """
    usual = {"eps_clip_low_high": (0.2, 0.2), "dual_clip": None, "loss_agg_mode": "token-mean", "entropy_coef": None}
    advantage = {**OFF, "is_correction_threshold": (0.5, 5.0), **correction}
    kl = {"use_loss": False, "init_coef": 0.01, "estimator": "k1", "unbiased_gradient": False, **kl}
    args = load.arguments(
        actor={**usual, "policy_loss_type": "ppo", "aux_loss_coef": 0.0, **actor},
        algo={"advantage": advantage, "kl": kl},
    )
    leaves = {"log_probs": leaf(batch.log_probs), "entropies": leaf(batch.entropies)}
    experience = load.experience(
        batch.mask,
        action_log_probs=batch.old_log_probs,
        base_action_log_probs=batch.ref_log_probs,
        rollout_log_probs=batch.sampler_log_probs,
        advantages=per_token(advantages, batch.log_probs),
    )
    strategy, ppo_actor = Captured(args), load.module(ACTOR)
    model = Model(leaves["log_probs"], SimpleNamespace(entropy=leaves["entropies"]))
    schedule = SimpleNamespace(get_last_lr=lambda: [0.0])
    off = {"NaiveReplayBuffer": lambda *_: None, "torch_dist_barrier_and_cuda_sync": lambda: None}  # they want a GPU
    with casts_to_float64(), patch.multiple(ppo_actor, **off):
        trainer = ppo_actor.ActorPPOTrainer(strategy, model, None, None, schedule)
        trainer.training_step(experience, kl_ctl=kl["init_coef"], step=0, loss_batch_info=None)
    return value_and_grads(strategy.loss, **leaves)


def estimated(
    batch: PolicyBatch, estimator: str = "group_norm", reward: Any = None, **knobs: Any
) -> tuple[Tensor, Tensor]:
    """Advantages and returns with OpenRLHF's default bound of the reward; its KL is there unless it is in the loss."""
    given = {"ref": batch.ref_log_probs, "values": batch.old_values if estimator == "gae" else None, **knobs}
    reward = {"clip_range": (-10, 10), **(reward or {})}
    with casts_to_float64():
        return openrlhf.advantages(batch.rewards, batch.mask, batch.old_log_probs, estimator, reward=reward, **given)


def policy(
    batch: PolicyBatch, advantage: str = "group_norm", correction: Any = None, kl: Any = None, **actor: Any
) -> Output:
    """The estimator's advantages, and the actor's loss on them."""
    advantages, _ = estimated(batch, advantage, kl=kl)
    return Output(*actor_loss(batch, advantages, correction or {}, kl or {}, **actor), advantages)


def ppo(batch: PolicyBatch, **actor: Any) -> Output:
    """Actor and critic: the sum of two losses that step apart. The batch's values are those of the rollout."""
    advantages, returns = estimated(replace(batch, old_values=batch.values), "gae")
    value, gradients = actor_loss(batch, advantages, {}, {}, **actor)
    values = leaf(batch.values)
    error = openrlhf.clipped_value_error(values, batch.old_values, returns, batch.mask, 0.5)
    error, of_values = value_and_grads(error, values=values)
    return Output(value + error, gradients | of_values, advantages)


def sampler(batch: PolicyBatch, **correction: Any) -> Output:
    batch = spread_out(batch)
    return policy(batch, correction=correction)._replace(given={"sampler_log_probs": batch.sampler_log_probs})


def dapo(batch: PolicyBatch) -> Output:
    advantages, _ = estimated(batch, reward={"overlong_buffer_len": 4096}, max_new_tokens=4096)
    loss = actor_loss(batch, advantages, {}, {}, eps_clip_low_high=(0.2, 0.28))
    return Output(*loss, advantages, {"max_length": 4096})


def dpo(
    batch: PreferenceBatch,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    ipo: bool = False,
    nll_loss_coef: float = 0.0,
) -> Output:
    """DPOTrainer.concatenated_forward (openrlhf/trainer/dpo_trainer.py:306-328) and DPOLoss (models/loss.py:329-364).

    The sum `loss + nll * nll_loss_coef` is dpo_trainer.py:175-179, which stands inside the training loop and is written
    here again. The NLL is the mean over rows of each chosen completion's mean.
    """
    leaves, _ = sides(batch)
    trainer = object.__new__(load.module(TRAINER).DPOTrainer)
    trainer.tokenizer, trainer.strategy = SimpleNamespace(pad_token_id=0), SimpleNamespace(ring_attn_group=None)
    masks = [torch.cat([torch.ones_like(m[:, :1]), m], 1).long() for m in (batch.chosen_mask, batch.rejected_mask)]
    inputs = (masks[0], masks[0], masks[1], masks[1], [1] * len(masks[0]))
    policy, reference = (*leaves.values(),), (batch.ref_chosen, batch.ref_rejected)
    (chosen, rejected, _, nll), (ref_chosen, ref_rejected, _, _) = (
        trainer.concatenated_forward(Model(torch.cat(both), {}), *inputs) for both in (policy, reference)
    )
    loss, _, _ = load.module(load.LOSS).DPOLoss(beta, label_smoothing, ipo)(chosen, rejected, ref_chosen, ref_rejected)
    return Output(*value_and_grads(loss + nll * nll_loss_coef, **leaves))


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
    "rpo": {"beta": 0.5, "nll_loss_coef": 0.2},
}
K3 = {"kl": {"use_loss": True, "estimator": "k3"}}

CASES = {
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY) for name, knobs in SETTINGS.items()},
    **{f"{name}@{VERSION}": Case(partial(sampler, **knobs), POLICY) for name, knobs in SAMPLER.items()},
    f"grpo-kl@{VERSION}": Case(partial(policy, **K3), POLICY[:3], note="Beyond 10 k3 is cut, which far ratios reach."),
    f"ppo@{VERSION}": Case(ppo, POLICY, note="With gaps only at gamma = lambda = 1: test_remarks.py."),
    f"ppo-dual-clip@{VERSION}": Case(partial(ppo, dual_clip=3.0), POLICY),
    f"dapo@{VERSION}": Case(dapo, POLICY),
    **{f"{name}@{VERSION}": Case(partial(dpo, **knobs), ("pairs",)) for name, knobs in PAIRS.items()},
}
SAME = {f"{name}@{VERSION}" for name in PAIRS.keys() - {"rpo"}}
