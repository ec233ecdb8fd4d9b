"""OpenRLHF: its losses, its estimators and its experience maker's functions.

``import openrlhf.models`` wants flash-attn and deepspeed. Where they are not installed, the packages that import them
are empty here, with the installed folder as their path: every module that computes something is the installed file.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import Framework

LOSS = "openrlhf.models.loss"
UTILS = "openrlhf.models.utils"
MAKER = "openrlhf.trainer.ppo_utils.experience_maker"
CONTROL = "openrlhf.trainer.ppo_utils.kl_controller"
LENGTH = "openrlhf.trainer.ppo_utils.length_penalty"


def _prepare() -> None:
    quiet()
    try:
        for name in (LOSS, UTILS, MAKER, CONTROL, LENGTH):
            importlib.import_module(name)
    except ImportError:
        _stub()
    import logging

    for name in (MAKER, LENGTH):
        importlib.import_module(name).logger.setLevel(logging.ERROR)  # they report every call


def _stub() -> None:
    """Empty packages in place of those that need a GPU's libraries."""
    spec = find_spec("openrlhf")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    for name in [k for k in sys.modules if k.startswith("openrlhf.")]:
        del sys.modules[name]

    def empty(name: str, folder: str | None = None, **names: Any) -> ModuleType:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(names)
        if folder is not None:
            module.__path__ = [str(root / folder)]
        return module

    had = sys.modules.get("deepspeed")
    empty("deepspeed")
    empty("openrlhf.utils", "utils", get_tokenizer=None)
    empty("openrlhf.utils.deepspeed", DeepspeedStrategy=None)
    names = {"offload_deepspeed_states": None, "reload_deepspeed_states": None}
    empty("openrlhf.utils.deepspeed.deepspeed_utils", **names)
    models = empty("openrlhf.models", "models", Actor=None, get_llm_for_sequence_regression=None)
    empty("openrlhf.trainer.ray", "trainer/ray")
    empty("openrlhf.trainer.ray.launcher", BaseModelActor=object, RayActorGroup=None)
    loss = importlib.import_module(LOSS)
    models.__dict__.update((name, value) for name, value in vars(loss).items() if not name.startswith("_"))
    for name in (UTILS, MAKER, CONTROL, LENGTH):
        importlib.import_module(name)
    del sys.modules["deepspeed"]  # others ask whether it is installed
    if had is not None:
        sys.modules["deepspeed"] = had


FRAMEWORK = Framework("OpenRLHF", "openrlhf", "openrlhf", "https://github.com/OpenRLHF/OpenRLHF", prepare=_prepare)
peer = FRAMEWORK.peer


def _of(module: str) -> Any:
    return importlib.import_module(module)


# ------------------------------------------------------------------------------------------------ log-probs, reductions


@peer("token log-probs", "token_log_probs", f"{UTILS}:log_probs_from_logits", "without flash-attn")
def token_log_probs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return _of(UTILS).log_probs_from_logits(logits, targets, temperature)


@peer("entropy", "token_entropies", f"{UTILS}:compute_entropy", "not compiled")
def token_entropies(logits: Tensor) -> Tensor:
    entropy = _of(UTILS).compute_entropy
    return getattr(entropy, "_torchdynamo_orig_callable", entropy)(logits)


@peer("mean over tokens", "token_mean", f"{UTILS}:masked_mean")
def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return _of(UTILS).masked_mean(x, mask)


@peer("mean over tokens", "token_mean", f"{LOSS}:aggregate_loss", "token_level_loss=True")
def token_mean(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return _of(LOSS).aggregate_loss(x, mask, True, batch_num_tokens=denominator)


@peer("mean of row means", "sequence_mean", f"{LOSS}:aggregate_loss", "token_level_loss=False")
def sequence_mean(x: Tensor, mask: Tensor, denominator: Any = None) -> Tensor:
    return _of(LOSS).aggregate_loss(x, mask, False, global_batch_size=denominator)


# ------------------------------------------------------------------------------------------------------------------- KL


def _kl(name: str) -> Any:
    def kl(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        return _of(UTILS).compute_approx_kl(log_probs, ref_log_probs, kl_estimator=name)

    return kl


for _name in ("k1", "k2", "k3"):
    peer(f"KL, {_name}", f"kl_{_name}", f"{UTILS}:compute_approx_kl", f'kl_estimator="{_name}"')(_kl(_name))


@peer("KL, k3 with its unbiased gradient", "kl_k3_with_k2_gradient", f"{UTILS}:compute_approx_kl",
      'kl_estimator="k3", unbiased_gradient=True, on policy',
      "The value is held within [-10, 10], as k3 is; the gradient of k2 is not.")  # fmt: skip
def k3_with_unbiased_gradient(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    return _of(UTILS).compute_approx_kl(log_probs, ref_log_probs, kl_estimator="k3", unbiased_gradient=True)


@peer("adaptive KL weight", "adaptive_kl", f"{CONTROL}:AdaptiveKLController", "n_steps / horizon = 0.1")
def adaptive_kl(kl: Any, beta: float, target: float) -> float:
    controller = _of(CONTROL).AdaptiveKLController(beta, target, 10)
    controller.update(float(kl), 1)
    return float(controller.value)


@peer("KL in the reward", "shaped_rewards", f"{UTILS}:compute_reward", "with kl = log_probs - ref_log_probs")
def shaped_rewards(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    return _of(UTILS).compute_reward(scores, beta, log_probs - ref_log_probs, mask)


# ----------------------------------------------------------------------------------------------------------- advantages


def _maker() -> Any:
    maker = _of(MAKER).RemoteExperienceMaker
    return maker.__new__(maker)


@peer("GAE", "gae", f"{MAKER}:RemoteExperienceMaker.get_advantages_and_returns", "before its whitening")
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> dict[str, Tensor]:
    found = _maker().get_advantages_and_returns(values, rewards, mask, gamma, lam)
    return {"advantages": found[0], "returns": found[1]}


@peer("discounted returns", "discounted_returns", f"{MAKER}:RemoteExperienceMaker.get_cumulative_returns")
def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    return _maker().get_cumulative_returns(rewards, mask, gamma)


def _advantages(rewards: Tensor, estimator: str, mask: Tensor | None = None, **advantage: Any) -> Tensor:
    """compute_advantages_and_returns on completions of one token, without a KL and without a clip of the reward."""
    maker = _maker()
    advantage = {"estimator": estimator, "gamma": 1.0, "lambd": 1.0, "no_std_norm": False} | advantage
    reward = SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None)
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=SimpleNamespace(**advantage)),
        reward=reward,
        rollout=SimpleNamespace(n_samples_per_prompt=rewards.shape[1], max_new_tokens=None),
    )
    maker.strategy, maker.kl_ctl = SimpleNamespace(args=args), SimpleNamespace(value=0.0)
    maker.advantage_estimator, maker.args = estimator, args
    flat = rewards.reshape(-1).clone()
    experience = _of(MAKER).Experience(
        index=list(range(len(flat))), rewards=flat, kl=torch.zeros(len(flat), 1, dtype=flat.dtype),
        action_mask=torch.ones(len(flat), 1, dtype=torch.bool), info={},
    )  # fmt: skip
    (done,) = maker.compute_advantages_and_returns([experience])
    found: Tensor = done.advantages
    return found


COMPUTE = f"{MAKER}:RemoteExperienceMaker.compute_advantages_and_returns"


@peer("group advantages (GRPO, Dr. GRPO)", "group_advantages", COMPUTE, 'estimator="group_norm" or "dr_grpo"',
      "Eight equal rewards of 0.1 get -0.83 each in float32: the mean's rounding error over its epsilon of 1e-9. "
      "Its command line refuses groups of one.")  # fmt: skip
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    return _advantages(rewards, "group_norm" if divide_by_std else "dr_grpo")


@peer(
    "leave-one-out advantages (RLOO)",
    "leave_one_out_advantages",
    COMPUTE,
    'estimator="rloo"',
    "Its command line refuses groups of one.",
)
def rloo(rewards: Tensor) -> Tensor:
    return _advantages(rewards, "rloo")


@peer("overlong penalty (DAPO)", "overlong_penalties", f"{LENGTH}:apply_overlong_penalty")
def overlong_penalties(lengths: Tensor, max_length: int, cache: int) -> Tensor:
    rewards = torch.zeros(lengths.numel(), dtype=torch.float64)
    experience = SimpleNamespace(response_length=lengths.reshape(-1), rewards=rewards)
    _of(LENGTH).apply_overlong_penalty([experience], max_length, cache)
    return rewards.reshape(lengths.shape)


# --------------------------------------------------------------------------------------------------------------- losses


def _policy(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, **knobs: Any) -> Tensor:
    given = advantages[:, None] * torch.ones_like(log_probs) if advantages.ndim == 1 else advantages
    found: Tensor = _of(LOSS).PolicyLoss(**knobs)(log_probs, old_log_probs, given, mask)[0]
    return found


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"clip_eps_low": epsilon, "clip_eps_high": epsilon if epsilon_high is None else epsilon_high}


@peer("clipped policy loss (PPO)", "ppo_loss", f"{LOSS}:PolicyLoss.forward", "token_level_loss=True, its default")
def ppo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, dual_clip: float | None = None,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "dual_clip": dual_clip}
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)


@peer("GRPO's loss", "grpo_loss", f"{LOSS}:PolicyLoss.forward", "token_level_loss=False, beta 0")
def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    return _policy(log_probs, old_log_probs, advantages, mask, token_level_loss=False, **_clip(epsilon, epsilon_high))


@peer("DAPO's loss", "dapo_loss", f"{LOSS}:PolicyLoss.forward", "token_level_loss=True, its default")
def dapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    return _policy(log_probs, old_log_probs, advantages, mask, **_clip(epsilon, epsilon_high))


@peer("GSPO's loss", "gspo_loss", f"{LOSS}:PolicyLoss.forward", 'policy_loss_type="gspo"')
def gspo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Tensor:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "policy_loss_type": "gspo"}
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)


@peer("clipped value loss", "clipped_value_error", f"{LOSS}:ValueLoss.forward")
def clipped_value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, epsilon: float | None
) -> Tensor:
    return _of(LOSS).ValueLoss(epsilon)(values, old_values, returns, mask)


@peer("SFT loss", "sft_loss", f"{LOSS}:SFTLoss.forward", "token_level_loss=True, its default")
def sft_loss(log_probs: Tensor, mask: Tensor) -> Tensor:
    return _of(LOSS).SFTLoss()(log_probs, mask)


@peer("reward model (Bradley-Terry)", "bradley_terry_loss", f"{LOSS}:PairWiseLoss.forward")
def pairwise(chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Any = None) -> Tensor:
    return _of(LOSS).PairWiseLoss()(chosen_rewards, rejected_rewards, margin)


@peer("reward model, LogExp", "bradley_terry_loss", f"{LOSS}:LogExpLoss.forward")
def log_exp(chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Any = None) -> Tensor:
    return _of(LOSS).LogExpLoss()(chosen_rewards, rejected_rewards, margin)


@peer("DPO's loss", "dpo_loss", f"{LOSS}:DPOLoss.forward")
def dpo_loss(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor, ref_rejected_log_probs: Tensor,
    beta: float, label_smoothing: float,
) -> Any:  # fmt: skip
    given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    loss, chosen, rejected = _of(LOSS).DPOLoss(beta, label_smoothing)(*given)
    return {"loss": loss, "rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean()}
