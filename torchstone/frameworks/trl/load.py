"""TRL's trainers without a model: a real config of TRL's, and the numbers that its models would have computed.

A trainer's ``__init__`` is not run. Its attributes are set here from the config, so that names and defaults are TRL's,
and its few methods that reach a model return given numbers. Rollout code and loss then run as TRL wrote them; checks of
settings that sit in TRL's own ``__init__`` do not.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import default_dtype, quiet
from torchstone.frameworks.registry import theirs

EXPERIMENTAL = {
    "GMPO": "gmpo", "CPO": "cpo", "ORPO": "orpo", "GKD": "gkd", "GOLD": "gold", "SDPO": "sdpo", "SDFT": "sdft",
    "IWOPD": "iw_opd", "TPO": "tpo",
}  # fmt: skip
HOMES = {kind: f"trl.experimental.{room}" for kind, room in EXPERIMENTAL.items()}


def load() -> None:
    """Import what the functions of this room call."""
    quiet()
    for of in ("trl.trainer.utils:pad", "trl:GRPOTrainer", "trl:RLOOTrainer", "trl:DPOTrainer", "trl:RewardTrainer"):
        theirs(of)


def _of(kind: str, part: str) -> Any:
    return theirs(f"{HOMES.get(kind, 'trl')}:{kind}{part}")


@cache
def _config(kind: str, *knobs: tuple[str, Any]) -> Any:
    """A real config for one CPU process. The output folder is named, never written."""
    fixed = {"output_dir": tempfile.gettempdir(), "use_cpu": True, "bf16": False, "report_to": "none"}
    return _of(kind, "Config")(**fixed, **dict(knobs))


def _made(kind: str, doors: type, knobs: dict[str, Any], copied: str) -> Any:
    """A trainer with the attributes that every trainer has, and with those of its config that ``copied`` names.

    The accelerator is made anew: each config that TRL makes resets the state that accelerators share.
    """
    trainer = _class(kind, doors)()
    trainer.args = config = _config(kind, *sorted(knobs.items()))
    trainer.accelerator = theirs("accelerate:Accelerator")(cpu=True)
    trainer.aux_loss_enabled, trainer._metrics = False, {"train": defaultdict(list)}
    for name in copied.split():
        if hasattr(config, name):
            setattr(trainer, name, getattr(config, name))
    return trainer


@cache
def _class(kind: str, doors: type) -> type:
    return type(f"{kind}TrainerWithoutAModel", (doors, _of(kind, "Trainer")), {"kind": kind})


# --------------------------------------------------------------------------------------------------------------- policy


@dataclass(frozen=True)
class Numbers:
    """What a trainer of policies finds in place of its models, all [B T] but the rewards.

    ``policy``: log-probs of the policy (in a rollout, of the one that samples); ``reference`` and ``sampler``: of the
    reference, and as vLLM reported them. A hole in the mask is TRL's tool output. ``rewards``: one a completion,
    [P G], or several, [P G K].
    """

    policy: Tensor
    mask: Tensor
    rewards: Tensor | None = None
    reference: Tensor | None = None
    sampler: Tensor | None = None
    entropies: Tensor | None = None


class _Doors:
    """Mixed in before a trainer: its doors to a model return its ``numbers``."""

    kind: str
    numbers: Numbers
    use_vllm = False

    def __init__(self) -> None:
        pass

    def _calculate_rewards(self, *_: Any) -> Tensor:
        assert self.numbers.rewards is not None
        return self.numbers.rewards.reshape(len(self.numbers.mask), -1)

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> tuple[Any, Any, None]:
        entropies = self.numbers.entropies
        zeros = torch.zeros_like(self.numbers.policy) if entropies is None else entropies
        return getattr(self.numbers, model.name), zeros, None

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        """Each completion ends after its last chosen token; without one, it is one token of tool output."""
        lengths = [int(row.nonzero().max()) + 1 if row.any() else 1 for row in self.numbers.mask]
        masks = [row[:n].int().tolist() for row, n in zip(self.numbers.mask, lengths, strict=True)]
        ids, first = [[1] * n for n in lengths], [[1]] * len(lengths)
        if self.kind == "RLOO":
            return first, ids, prompts
        tool_masks = None if all(map(all, masks)) else masks
        sampler = None
        if self.use_vllm and self.numbers.sampler is not None:
            sampler = [row[:n] for row, n in zip(self.numbers.sampler.tolist(), lengths, strict=True)]
        return first, ids, tool_masks, prompts, sampler, {}, None, []


COPIED = """
    beta num_iterations max_completion_length mask_truncated_completions num_generations loss_type scale_rewards
    importance_sampling_level multi_objective_aggregation use_vllm top_entropy_quantile off_policy_mask_threshold
    entropy_coef use_adaptive_entropy vllm_importance_sampling_correction vllm_importance_sampling_mode
    vllm_importance_sampling_clip_min vllm_importance_sampling_clip_max reward_clip_range normalize_advantages
"""


def policy_trainer(kind: str, numbers: Numbers, **knobs: Any) -> Any:
    """A trainer of ``kind`` "GRPO", "RLOO" or "GMPO" that reads these numbers; ``knobs`` are its config's.

    Raises ValueError: RLOO's trainer has no tool mask, and would count the holes of this one.
    """
    if kind == "RLOO" and numbers.mask[:, :-1].lt(numbers.mask[:, 1:]).any():
        raise ValueError("mask: expected rows without holes, since RLOOTrainer has no tool mask, got one with holes")
    trainer = _made(kind, _Doors, knobs, COPIED)
    config, trainer.numbers = trainer.args, numbers
    trainer.model, trainer.ref_model = (
        SimpleNamespace(name=name, training=True, is_gradient_checkpointing=False) for name in ("policy", "reference")
    )
    trainer.num_generations_eval = config.num_generations
    trainer.epsilon_low = config.epsilon
    trainer.epsilon_high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    trainer._entropy_bonus_enabled = getattr(config, "entropy_coef", 0.0) != 0.0
    K = numbers.rewards.shape[2] if numbers.rewards is not None and numbers.rewards.ndim == 3 else 1
    trainer.reward_funcs, trainer.reward_func_names = [None] * K, [f"reward {k}" for k in range(K)]
    trainer.reward_weights = torch.tensor(getattr(config, "reward_weights", None) or [1.0] * K)
    # switched off, or only logged
    trainer.environments = trainer.environment_factories = trainer.pad_to_multiple_of = None
    trainer.tools = trainer._standalone_tools = []
    trainer._tokenizer = SimpleNamespace(pad_token_id=0)
    trainer.log_multimodal = trainer._is_vlm = False
    trainer._logs = {key: defaultdict(list) for key in ("rewards", "extra")} | defaultdict(list)
    trainer._logs.update(prompt=[], completion=[], advantages=[])
    trainer._pending_extra_logs, trainer._pending_metrics = defaultdict(list), defaultdict(list)
    return trainer


def rollout(trainer: Any) -> dict[str, Tensor]:
    """TRL's ``_generate_and_score_completions``: masks, advantages, sampler weights, log-probs."""
    with default_dtype(trainer.numbers.policy.dtype):
        found: dict[str, Tensor] = trainer._generate_and_score_completions(
            [{"prompt": "x"}] * len(trainer.numbers.mask)
        )
    return found


# ----------------------------------------------------------------------------------------------------------- preference


class Tables(torch.nn.Module):
    """A model whose output depends on the first token id only: it is the table of that number."""

    is_gradient_checkpointing = False

    def __init__(self, *tables: Any):
        super().__init__()
        self.tables = tables

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        """The table that the first token names; the only one, where there is one."""
        return self.tables[int(input_ids[0, 0]) if len(self.tables) > 1 else 0]


class _NoInit:
    def __init__(self) -> None:
        pass


def head_output(
    log_probs: Tensor, mask: Tensor, log_sum_sq_probs: Callable[[Tensor], Tensor] = torch.zeros_like
) -> SimpleNamespace:
    """What a model with TRL's fused LM head returns for log-probs [N T]: all are zero where the label is -100."""
    zeros = torch.zeros_like(log_probs.detach())
    return SimpleNamespace(
        log_probs=torch.where(mask, log_probs, 0.0), entropy=zeros, mean_logits=zeros, is_top1=mask, aux_loss=None,
        log_sum_sq_probs=torch.where(mask, log_sum_sq_probs(log_probs.detach()), 0.0),
    )  # fmt: skip


def with_prompt(mask: Tensor) -> Tensor:
    """The mask [N T+1] with a prompt of one token in front."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()


def completion_inputs(mask: Tensor, prefix: str = "", token: int = 0) -> dict[str, Tensor]:
    """The inputs of completions [N T] after a prompt of one token; all ids are ``token``."""
    completion = with_prompt(mask)
    inputs = {"input_ids": torch.full_like(completion, token), "attention_mask": torch.ones_like(completion)}
    return {f"{prefix}{name}": x for name, x in (inputs | {"completion_mask": completion}).items()}


COPIED_BY_PAIRS = """
    beta loss_type label_smoothing ld_alpha f_divergence_type f_alpha_divergence_coef use_weighting
    desirable_weight undesirable_weight alpha cpo_alpha simpo_gamma tpo_alpha tpo_l_gamma
"""


def preference_trainer(kind: str, model: Tables, reference: Tables | None = None, **knobs: Any) -> Any:
    """A trainer of ``kind`` "DPO", "KTO", "CPO", "ORPO", "TPO" or "Reward" with these models.

    ``knobs`` are its config's.
    """
    trainer = _made(kind, _NoInit, knobs, COPIED_BY_PAIRS)
    trainer.model, trainer.ref_model, trainer.is_encoder_decoder = model, reference, False
    trainer.pad_token_id = trainer.padding_value = trainer._total_train_tokens = 0
    trainer._tp_size, trainer.precompute_ref_logps = 1, getattr(trainer.args, "precompute_ref_log_probs", False)
    trainer.calculate_KL = kind == "KTO" and trainer.loss_type == "kto"  # as KTOTrainer.__init__ decides
    if kind == "DPO":
        trainer.loss_types = trainer.args.loss_type
        trainer.loss_weights = trainer.args.loss_weights or [1.0] * len(trainer.loss_types)
    return trainer
