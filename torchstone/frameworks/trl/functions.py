"""TRL: its utilities, and the losses of its trainers, which are made here without a model.

A trainer's ``__init__`` is not run. A real config of TRL's gives the settings, and the methods that would reach a model
return the numbers of the case; the loss then runs as TRL wrote it.
"""

from __future__ import annotations

import importlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import Framework, theirs

UTILS = "trl.trainer.utils"
GRPO = "trl.trainer.grpo_trainer:GRPOTrainer._compute_loss"
ROLLOUT = "trl.trainer.grpo_trainer:GRPOTrainer._generate_and_score_completions"
RLOO = "trl.trainer.rloo_trainer:RLOOTrainer._generate_and_score_completions"
DPO = "trl.trainer.dpo_trainer:DPOTrainer._compute_loss"
REWARD = "trl.trainer.reward_trainer:RewardTrainer.compute_loss"
GMPO = "trl.experimental.gmpo.gmpo_trainer:GMPOTrainer._compute_loss"


def _prepare() -> None:
    quiet()
    for of in (UTILS + ":pad", GRPO, RLOO, DPO, REWARD):
        theirs(of)


FRAMEWORK = Framework("TRL", "trl", "trl", "https://github.com/huggingface/trl", prepare=_prepare)
peer = FRAMEWORK.peer


def _accelerator() -> Any:
    """Made anew: each config that TRL makes resets the state that accelerators share."""
    return theirs("accelerate:Accelerator")(cpu=True)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """torch's default dtype inside: TRL makes a few constants with it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def _made(cls: Any, *knobs: tuple[str, Any]) -> Any:
    """A real config for one CPU process. The output folder is named, never written."""
    return cls(output_dir=tempfile.gettempdir(), use_cpu=True, bf16=False, report_to="none", **dict(knobs))


def _config(cls: Any, **knobs: Any) -> Any:
    return _made(cls, *sorted(knobs.items()))


# ----------------------------------------------------------------------------------------------------------- utilities


@peer("token log-probs", "token_log_probs", f"{UTILS}:selective_log_softmax")
def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return theirs(f"{UTILS}:selective_log_softmax")(logits, targets)


@peer("entropy", "token_entropies", f"{UTILS}:entropy_from_logits")
def token_entropies(logits: Tensor) -> Tensor:
    return theirs(f"{UTILS}:entropy_from_logits")(logits)


# ----------------------------------------------------------------------------------------------------------- advantages


class _Rollout:
    """Mixed in before a trainer: its doors to a model return the numbers of the case."""

    def _calculate_rewards(self, *_: Any) -> Tensor:
        given: Tensor = self.given  # type: ignore[attr-defined]
        return given.reshape(-1, 1)

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        table: Tensor = self.table  # type: ignore[attr-defined]
        return table, torch.zeros_like(table), None


def _model() -> Any:
    return SimpleNamespace(training=True, is_gradient_checkpointing=False)


def _stub(trainer: Any, config: Any) -> Any:
    """The attributes that TRL's own ``__init__`` would set, as far as rollout and loss read them."""
    trainer.args, trainer.accelerator, trainer.model, trainer.ref_model = config, _accelerator(), _model(), None
    trainer.num_generations = trainer.num_generations_eval = config.num_generations
    trainer.epsilon_low = config.epsilon
    trainer.epsilon_high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    same = "beta num_iterations max_completion_length mask_truncated_completions loss_type importance_sampling_level"
    same += " scale_rewards multi_objective_aggregation use_vllm top_entropy_quantile off_policy_mask_threshold"
    same += " entropy_coef use_adaptive_entropy vllm_importance_sampling_correction vllm_importance_sampling_mode"
    same += " vllm_importance_sampling_clip_min vllm_importance_sampling_clip_max reward_clip_range"
    same += " normalize_advantages"
    for name in same.split():
        if hasattr(config, name):
            setattr(trainer, name, getattr(config, name))
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    trainer._entropy_bonus_enabled = False
    trainer.reward_funcs, trainer.reward_func_names, trainer.reward_weights = [None], ["reward"], torch.ones(1)
    trainer.environments = trainer.environment_factories = trainer.pad_to_multiple_of = None
    trainer.tools = trainer._standalone_tools = []
    trainer._tokenizer = SimpleNamespace(pad_token_id=0)
    trainer.aux_loss_enabled = trainer.log_multimodal = trainer._is_vlm = False
    trainer._metrics = {"train": defaultdict(list)}
    trainer._logs = {key: defaultdict(list) for key in ("rewards", "extra")} | defaultdict(list)
    trainer._logs.update(prompt=[], completion=[], advantages=[])
    trainer._pending_extra_logs, trainer._pending_metrics = defaultdict(list), defaultdict(list)
    return trainer


@cache
def _class(name: str) -> Any:
    """A trainer whose rollout is one token a completion."""
    trl = importlib.import_module("trl")

    base = getattr(trl, name) if name != "GMPOTrainer" else theirs("trl.experimental.gmpo:GMPOTrainer")

    def generate(self: Any, prompts: list[str]) -> tuple[Any, ...]:
        ids = [[1]] * len(prompts)
        return (ids, ids, prompts) if name == "RLOOTrainer" else (ids, ids, None, prompts, None, {}, None, [])

    return type(f"_{name}", (_Rollout, base), {"__init__": lambda self: None, "_generate": generate})


def _advantages(name: str, rewards: Tensor, **knobs: Any) -> Tensor:
    trl = importlib.import_module("trl")

    rows = rewards.numel()
    sizes = {"per_device_train_batch_size": rows, "num_generations": rewards.shape[1], "num_iterations": 2}
    config = _config(getattr(trl, name.replace("Trainer", "Config")), **sizes, **knobs)
    with _default(rewards.dtype):
        trainer = _stub(_class(name)(), config)
        trainer.given, trainer.table = rewards, torch.zeros(rows, 1, dtype=rewards.dtype)
        found: Tensor = trainer._generate_and_score_completions([{"prompt": "x"}] * rows)["advantages"]
    return found


@peer("group advantages (GRPO)", "group_advantages", ROLLOUT, 'scale_rewards="group" or "none"; eps is 1e-4')
def group_advantages(rewards: Tensor, divide_by_std: bool) -> Tensor:
    return _advantages("GRPOTrainer", rewards, scale_rewards="group" if divide_by_std else "none")


@peer("leave-one-out advantages (RLOO)", "leave_one_out_advantages", RLOO, "beta=0")
def rloo(rewards: Tensor) -> Tensor:
    return _advantages("RLOOTrainer", rewards, beta=0.0)


# --------------------------------------------------------------------------------------------------------------- policy


def _policy(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, ref: Any = None,
    trainer: str = "GRPOTrainer", **knobs: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """``_compute_loss`` on one micro-batch that is the whole batch; the clip metrics as it logs them."""
    trl = importlib.import_module("trl")

    cls = trl.GRPOConfig if trainer == "GRPOTrainer" else theirs("trl.experimental.gmpo:GMPOConfig")
    made = _stub(_class(trainer)(), _config(cls, per_device_train_batch_size=2, num_generations=2, **knobs))
    made.table = log_probs
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old_log_probs, "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = made._compute_loss(made.model, inputs)
    metrics = made._metrics["train"]
    logged = {k: torch.tensor(metrics[k][-1]) for k in ("clip_ratio/low_mean", "clip_ratio/high_mean") if k in metrics}
    return {"loss": loss, **logged}


def _clip(epsilon: float, epsilon_high: float | None) -> dict[str, Any]:
    return {"epsilon": epsilon, "epsilon_high": epsilon_high, "beta": 0.0}


@peer("GRPO's loss", "grpo_loss", GRPO, 'loss_type="grpo", use_bias_correction_kl=False')
def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, beta: float, ref_log_probs: Any = None,
) -> Any:  # fmt: skip
    knobs: dict[str, Any] = {
        "epsilon": epsilon,
        "epsilon_high": epsilon_high,
        "beta": beta,
        "use_bias_correction_kl": False,
    }
    return _policy(log_probs, old_log_probs, advantages, mask, ref_log_probs, loss_type="grpo", **knobs)


@peer("GRPO's loss", "grpo_loss", GRPO, 'its defaults: loss_type="dapo", use_bias_correction_kl=True')
def grpo_loss_by_default(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, beta: float, ref_log_probs: Any = None,
) -> Any:  # fmt: skip
    knobs: dict[str, Any] = {"epsilon": epsilon, "epsilon_high": epsilon_high, "beta": beta}
    return _policy(log_probs, old_log_probs, advantages, mask, ref_log_probs, **knobs)


@peer("DAPO's loss", "dapo_loss", GRPO, 'loss_type="dapo", its default')
def dapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Any:  # fmt: skip
    return _policy(log_probs, old_log_probs, advantages, mask, **_clip(epsilon, epsilon_high))


@peer("Dr. GRPO's loss", "dr_grpo_loss", GRPO, 'loss_type="dr_grpo", max_completion_length')
def dr_grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None, length: int,
) -> Any:  # fmt: skip
    knobs: dict[str, Any] = {**_clip(epsilon, epsilon_high), "loss_type": "dr_grpo", "max_completion_length": length}
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)


@peer("GSPO's loss", "gspo_loss", GRPO, 'importance_sampling_level="sequence", loss_type="grpo"')
def gspo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Any:  # fmt: skip
    knobs: dict[str, Any] = {
        **_clip(epsilon, epsilon_high),
        "importance_sampling_level": "sequence",
        "loss_type": "grpo",
    }
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)["loss"]


@peer("CISPO's loss", "cispo_loss", GRPO, 'loss_type="cispo", epsilon_high = 1 + ours')
def cispo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon_high: float | None,
    cap: float | None,
) -> Any:  # fmt: skip
    high = 1 + epsilon_high if cap is None and epsilon_high is not None else cap
    return _policy(log_probs, old_log_probs, advantages, mask, loss_type="cispo", epsilon_high=high)["loss"]


@peer("SAPO's loss", "sapo_loss", GRPO, 'loss_type="sapo"')
def sapo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, tau_positive: float, tau_negative: float
) -> Any:
    knobs: dict[str, Any] = {
        "sapo_temperature_pos": tau_positive,
        "sapo_temperature_neg": tau_negative,
        "loss_type": "sapo",
    }
    return _policy(log_probs, old_log_probs, advantages, mask, **knobs)["loss"]


@peer("VESPO's loss", "vespo_loss", GRPO, 'loss_type="vespo"; a token mean, so times tokens / rows')
def vespo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, k_positive: float,
    lambda_positive: float, k_negative: float, lambda_negative: float,
) -> Any:  # fmt: skip
    knobs: dict[str, Any] = {"vespo_k_pos": k_positive, "vespo_lambda_pos": lambda_positive, "vespo_k_neg": k_negative}
    knobs |= {"vespo_lambda_neg": lambda_negative, "loss_type": "vespo"}
    loss = _policy(log_probs, old_log_probs, advantages, mask, **knobs)["loss"]
    return loss * mask.sum().clamp(min=1) / len(mask)


@peer("GMPO's loss", "gmpo_loss", GMPO, "trl.experimental")
def gmpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float,
    epsilon_high: float | None,
) -> Any:  # fmt: skip
    knobs = _clip(epsilon, epsilon_high)
    return _policy(log_probs, old_log_probs, advantages, mask, trainer="GMPOTrainer", **knobs)["loss"]


# ----------------------------------------------------------------------------------------------------------- preference


class _Outputs(torch.nn.Module):
    """A model that returns what it was made with."""

    is_gradient_checkpointing = False

    def __init__(self, output: Any):
        super().__init__()
        self.output = output

    def forward(self, **_: Any) -> Any:
        return self.output


def _preference(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, loss_type: str, **knobs: Any
) -> Tensor:
    """``DPOTrainer._compute_loss`` on completions of one token, whose log-prob is the completion's."""
    trl = importlib.import_module("trl")

    def output(x: Tensor) -> SimpleNamespace:
        zeros = torch.zeros_like(x.detach())
        return SimpleNamespace(
            log_probs=x, log_sum_sq_probs=zeros, entropy=zeros, mean_logits=zeros, is_top1=zeros > 1, aux_loss=None
        )

    config = _config(trl.DPOConfig, loss_type=(loss_type,), **knobs)
    trainer = trl.DPOTrainer.__new__(trl.DPOTrainer)
    policy = _Outputs(output(torch.cat([chosen, rejected])[:, None]))
    trainer.args, trainer.model, trainer.accelerator = config, policy, _accelerator()
    trainer.ref_model = _Outputs(output(torch.cat([ref_chosen, ref_rejected])[:, None]))
    trainer.aux_loss_enabled = trainer.precompute_ref_logps = False
    trainer._metrics, trainer._total_train_tokens, trainer._tp_size = {"train": defaultdict(list)}, 0, 1
    trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
    for name in [
        "beta",
        "label_smoothing",
        "ld_alpha",
        "f_divergence_type",
        "f_alpha_divergence_coef",
        "use_weighting",
    ]:
        setattr(trainer, name, getattr(config, name))
    ids = torch.zeros(2 * len(chosen), 2, dtype=torch.long)
    mask = torch.cat([ids[:, :1], ids[:, 1:] + 1], 1)
    inputs = {"input_ids": ids, "completion_mask": mask, "attention_mask": torch.ones_like(ids)}
    with _default(chosen.dtype):
        found: Tensor = trainer._compute_loss(policy, inputs, False)
    return found


def _enter(what: str, objective: str, loss_type: str, setting: str = "") -> None:
    """One loss type of DPOTrainer; ``setting`` is what we call its label_smoothing."""

    def loss(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor, beta: float,
    ) -> Tensor:  # fmt: skip
        given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
        return _preference(*given, loss_type, beta=beta)

    def smooth(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor, beta: float, label_smoothing: float,
    ) -> Tensor:  # fmt: skip
        given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
        return _preference(*given, loss_type, beta=beta, label_smoothing=label_smoothing)

    def flip(
        chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
        ref_rejected_log_probs: Tensor, beta: float, flip_rate: float,
    ) -> Tensor:  # fmt: skip
        given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
        return _preference(*given, loss_type, beta=beta, label_smoothing=flip_rate)

    targets: dict[str, Any] = {"": loss, "label_smoothing": smooth, "flip_rate": flip}
    peer(what, objective, DPO, f'loss_type="{loss_type}"')(targets[setting])


_enter("DPO's loss", "dpo_loss", "sigmoid")
_enter("hinge", "hinge_loss", "hinge")
_enter("IPO, completions of one token", "ipo_loss", "ipo")
_enter("EXO", "exo_loss", "exo_pair", "label_smoothing")
_enter("NCA", "nca_loss", "nca_pair")
_enter("robust DPO", "robust_dpo_loss", "robust", "flip_rate")
_enter("BCO", "bco_loss", "bco_pair")
_enter("SPPO", "sppo_loss", "sppo_hard")
_enter("APO-zero", "apo_zero_loss", "apo_zero")
_enter("APO-down", "apo_down_loss", "apo_down")
_enter("DiscoPOP", "discopop_loss", "discopop")


@peer("AOT", "aot_loss", DPO, 'loss_type="aot" (paired) or "aot_unpaired"')
def aot_loss(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor, ref_rejected_log_probs: Tensor,
    beta: float, label_smoothing: float, paired: bool,
) -> Tensor:  # fmt: skip
    given = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    return _preference(*given, "aot" if paired else "aot_unpaired", beta=beta, label_smoothing=label_smoothing)


@peer("reward model (Bradley-Terry)", "bradley_terry_loss", REWARD, "center_rewards_coefficient")
def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, centre: float, margin: Any = None) -> Tensor:
    trl = importlib.import_module("trl")

    trainer = trl.RewardTrainer.__new__(trl.RewardTrainer)
    model = _Outputs(SimpleNamespace(logits=torch.cat([chosen_rewards, rejected_rewards])[:, None]))
    trainer.args = _config(trl.RewardConfig, center_rewards_coefficient=centre or None)
    trainer.model, trainer.accelerator, trainer.aux_loss_enabled = model, _accelerator(), False
    trainer._metrics, trainer._total_train_tokens = {"train": defaultdict(list)}, 0
    trainer._tp_size = 1
    ids = torch.zeros(2 * len(chosen_rewards), 1, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids + 1} | ({} if margin is None else {"margin": margin})
    with _default(chosen_rewards.dtype):
        found: Tensor = trainer.compute_loss(model, inputs)
    return found
