"""TRL 1.16.0's own losses, run on the batches of batch.py: the value, and the gradient by every token's log-prob.

No loss of TRL is retyped. A trainer is made without a model: a subclass whose `__init__` sets the attributes that TRL's
`__init__` would, from a real config (so that names and defaults are TRL's), and whose few methods that reach a model
(generation, scoring, log-probs) return the batch's numbers. Rollout code and loss then run as TRL wrote them; checks of
settings that sit in TRL's own `__init__` do not.

Every function takes the batch and TRL's own config names, and returns `(value, {leaf: gradient})`. Leaves: "log_probs"
and "entropies" of a PolicyBatch, "chosen" and "rejected" of a PreferenceBatch, "chosen_rewards" and "rejected_rewards"
for the reward model. All of it is float64 except where a note says that TRL casts. torch's default dtype is float64
inside, since TRL builds a few constants with it (sampler log-probs, EXO's epsilon, VESPO's k and lambda); in a real run
those are float32.

| function | objective | settings (TRL's names) | their defaults |
|---|---|---|---|
| grpo_advantages | group, batch, no scaling | scale_rewards, multi_objective_aggregation | "group", std + 1e-4 |
| grpo_sampler_weights | old / sampler weights | vllm_importance_sampling_mode | "sequence_mask" |
| | | vllm_importance_sampling_clip_min, ..._clip_max | None, 3.0 |
| grpo | GRPO, BNPO, Dr. GRPO, DAPO, CISPO, SAPO, LUSPO, VESPO | loss_type | "dapo" |
| | GSPO (no "sequence_token") | importance_sampling_level="sequence" | "token" |
| | clip, two-sided clip | epsilon, epsilon_high, delta | 0.2, None = epsilon, None |
| | KL in the loss | beta, use_bias_correction_kl | 0.0, True |
| | entropy bonus, entropy mask | entropy_coef, top_entropy_quantile | 0.0, 1.0 |
| | off-policy sequence mask | off_policy_mask_threshold | None |
| gmpo | GMPO (experimental) | epsilon, epsilon_high, beta | 0.4, None = epsilon, 0.0 |
| rloo_advantages, rloo | RLOO | beta, epsilon, epsilon_high | 0.05, 0.2, None = epsilon |
| | | reward_clip_range, normalize_advantages | None, False |
| dpo | 15 losses and mixtures | loss_type, loss_weights, beta, ... | "sigmoid", None = 1, 0.1 |
| kto | KTO, APO-zero unpaired | loss_type, beta, desirable_weight, undesirable_weight | "kto", 0.1, 1, 1 |
| cpo | CPO, SimPO, AlphaPO (experimental) | loss_type, beta, cpo_alpha | "sigmoid", 0.1, 1.0 |
| | | simpo_gamma, alpha | 0.5, 0.0 |
| orpo | ORPO (experimental) | beta | 0.1; the odds ratio is float32 |
| tpo | TPO (experimental), contrastive part | loss_type, beta, tpo_l_gamma | "sigmoid", 0.01, 0.5 |
| reward_model | Bradley-Terry | center_rewards_coefficient; margin (a column) | None, none |

TRL 1.16.0 has no BCO, PPO, PRM or Nash-MD trainer.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from batch import (
    GROUP,
    ROWS,
    PolicyBatch,
    PreferenceBatch,
    cast,
    leaf,
    log_sum_sq_probs,
    two_token_logits,
    value_and_grads,
)
from torch import Tensor
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer

Result = tuple[Tensor, dict[str, Tensor]]


@contextmanager
def float64() -> Iterator[None]:
    """torch's default dtype is float64 inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make_config(cls: type, **knobs: Any) -> Any:
    """A real config for one CPU process. The output folder is named, never written."""
    return cls(output_dir=tempfile.gettempdir(), use_cpu=True, bf16=False, report_to="none", **knobs)


def stub_model(name: str) -> SimpleNamespace:
    """What TRL asks of a model besides its outputs."""
    return SimpleNamespace(name=name, training=True, is_gradient_checkpointing=False)


# --------------------------------------------------------------------------------------------------------------- policy


class _Rollout:
    """Mixed in before a TRL trainer: its three doors to a model return the batch's numbers.

    During the rollout the policy's log-probs are the old ones; `loss` swaps in the leaves.
    """

    def __init__(self, batch: PolicyBatch, config: Any):
        self.batch, self.args = batch, config
        self.accelerator = Accelerator(cpu=True)
        self.model, self.ref_model = stub_model("policy"), stub_model("reference")
        self.tables = {"policy": batch.old_log_probs, "reference": batch.ref_log_probs}
        self.entropies = batch.entropies
        # plain copies of the config, as TRL's __init__ makes them
        self.num_generations = self.num_generations_eval = config.num_generations
        self.epsilon_low = config.epsilon
        self.epsilon_high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        for name in ("beta", "num_iterations", "max_completion_length", "mask_truncated_completions"):
            setattr(self, name, getattr(config, name))
        self.current_gradient_accumulation_steps = config.gradient_accumulation_steps
        self.reward_funcs, self.reward_func_names, self.reward_weights = [None], ["reward"], torch.ones(1)
        # switched off, or only logged
        self.environments = self.environment_factories = self.pad_to_multiple_of = None
        self.tools = self._standalone_tools = []
        self._tokenizer = SimpleNamespace(pad_token_id=0)
        self.aux_loss_enabled = self.log_multimodal = self._is_vlm = False
        self._metrics = {"train": defaultdict(list)}
        self._logs = {key: defaultdict(list) for key in ("rewards", "extra")} | defaultdict(list)
        self._logs.update(prompt=[], completion=[], advantages=[])
        self._pending_extra_logs, self._pending_metrics = defaultdict(list), defaultdict(list)

    def _calculate_rewards(self, *_: Any) -> Tensor:
        return self.batch.rewards.reshape(ROWS, 1)

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return self.tables[model.name], self.entropies, None

    def completions(self) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids and masks of each completion, cut after its last chosen token; TRL pads them again.

        A completion without a chosen token is one token of tool output.
        """
        lengths = [int(row.nonzero().max()) + 1 if row.any() else 1 for row in self.batch.mask]
        masks = [row[:length].int().tolist() for row, length in zip(self.batch.mask, lengths, strict=True)]
        return [[1] * len(mask) for mask in masks], masks

    def rollout(self) -> dict[str, Tensor]:
        """TRL's `_generate_and_score_completions`: masks, advantages, sampler weights, log-probs."""
        with float64():
            return self._generate_and_score_completions([{"prompt": "x"}] * ROWS)

    def loss(self, inputs: dict[str, Tensor]) -> Result:
        """TRL's `_compute_loss` and its gradients."""
        self.entropies = leaf(self.batch.entropies)
        self.tables["policy"] = leaf(self.batch.log_probs)
        with float64():
            loss = self._compute_loss(self.model, inputs)
        return value_and_grads(loss, log_probs=self.tables["policy"], entropies=self.entropies)


class _GRPO(_Rollout, GRPOTrainer):
    def __init__(self, batch: PolicyBatch, config: Any):
        super().__init__(batch, config)
        same = "loss_type importance_sampling_level scale_rewards multi_objective_aggregation use_vllm"
        same += " top_entropy_quantile off_policy_mask_threshold entropy_coef use_adaptive_entropy"
        same += " vllm_importance_sampling_correction vllm_importance_sampling_mode"
        same += " vllm_importance_sampling_clip_min vllm_importance_sampling_clip_max"
        for name in same.split():
            setattr(self, name, getattr(config, name))
        self._entropy_bonus_enabled = config.entropy_coef != 0.0

    def _generate(self, prompts: list[str]) -> tuple:
        ids, masks = self.completions()
        tool_masks = None if all(all(mask) for mask in masks) else masks
        rows = zip(self.batch.sampler_log_probs.tolist(), ids, strict=True)
        sampler = [row[: len(x)] for row, x in rows] if self.use_vllm else None
        return [[1]] * ROWS, ids, tool_masks, prompts, sampler, {}, None, []


class _GMPO(_GRPO, GMPOTrainer):
    _compute_loss = GMPOTrainer._compute_loss


class _RLOO(_Rollout, RLOOTrainer):
    def __init__(self, batch: PolicyBatch, config: Any):
        super().__init__(batch, config)
        if batch.mask[:, :-1].lt(batch.mask[:, 1:]).any():
            raise ValueError("RLOOTrainer has no tool mask: its loss would count the holes")
        self.reward_clip_range, self.normalize_advantages = config.reward_clip_range, config.normalize_advantages

    def _generate(self, prompts: list[str]) -> tuple:
        return [[1]] * ROWS, self.completions()[0], prompts


def _policy_config(cls: type, **knobs: Any) -> Any:
    """Batch sizes of the batch; num_iterations=2, since with 1 TRL takes the policy's own log-probs as the old ones."""
    return make_config(
        cls, **{"per_device_train_batch_size": ROWS, "num_generations": GROUP, "num_iterations": 2, **knobs}
    )


def grpo_advantages(batch: PolicyBatch, **knobs: Any) -> Tensor:
    """GRPOTrainer._generate_and_score_completions (trl/trainer/grpo_trainer.py:2753-2817): [B], of batch.rewards."""
    return _GRPO(batch, _policy_config(GRPOConfig, **knobs)).rollout()["advantages"]


def grpo_sampler_weights(batch: PolicyBatch, **knobs: Any) -> Tensor:
    """The same method with use_vllm=True (grpo_trainer.py:2660-2703): [B T] in token modes, [B 1] in sequence modes."""
    return _GRPO(batch, _policy_config(GRPOConfig, use_vllm=True, **knobs)).rollout()["importance_sampling_ratio"]


def _policy_loss(trainer: _Rollout, advantages: Tensor | None) -> Result:
    inputs = trainer.rollout()
    if advantages is not None:
        inputs["advantages"] = advantages
    return trainer.loss(inputs)


def grpo(batch: PolicyBatch, *, advantages: Tensor | None = None, **knobs: Any) -> Result:
    """GRPOTrainer._compute_loss (trl/trainer/grpo_trainer.py:3020-3290) after its own rollout code (2324-2936).

    Args:
        batch: with gaps, the holes are TRL's tool_mask
        advantages: [B] or [B T] instead of TRL's own of batch.rewards
        knobs: of GRPOConfig. num_iterations=1 makes the ratio 1 (on policy); use_vllm=True multiplies by the sampler
            weights. max_completion_length (Dr. GRPO's divisor) is 512 by default
    """
    return _policy_loss(_GRPO(batch, _policy_config(GRPOConfig, **knobs)), advantages)


def gmpo(batch: PolicyBatch, *, advantages: Tensor | None = None, **knobs: Any) -> Result:
    """GMPOTrainer._compute_loss (trl/experimental/gmpo/gmpo_trainer.py:43-155); epsilon bounds the log-ratio."""
    return _policy_loss(_GMPO(batch, _policy_config(GMPOConfig, **knobs)), advantages)


def rloo_advantages(batch: PolicyBatch, **knobs: Any) -> Tensor:
    """RLOOTrainer._generate_and_score_completions (trl/trainer/rloo_trainer.py:1647-1708): [B], KL in the reward."""
    return _RLOO(batch, _policy_config(RLOOConfig, **knobs)).rollout()["advantages"]


def rloo(batch: PolicyBatch, *, advantages: Tensor | None = None, **knobs: Any) -> Result:
    """RLOOTrainer._compute_loss (trl/trainer/rloo_trainer.py:1794-1861). No tool mask: a batch without gaps only."""
    return _policy_loss(_RLOO(batch, _policy_config(RLOOConfig, **knobs)), advantages)


# ----------------------------------------------------------------------------------------------------------- preference


def _pairs(batch: PreferenceBatch) -> tuple[dict[str, Tensor], Tensor]:
    """The leaves, and the mask [2N T], chosen rows first."""
    leaves = {"chosen": leaf(batch.chosen), "rejected": leaf(batch.rejected)}
    return leaves, torch.cat([batch.chosen_mask, batch.rejected_mask])


def _with_prompt(mask: Tensor) -> Tensor:
    """The mask [N T+1] with a prompt of one token in front."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()


def _head_output(log_probs: Tensor, mask: Tensor) -> SimpleNamespace:
    """What a model with TRL's fused LM head returns: every field is zero where the label is -100."""
    zeros = torch.zeros_like(log_probs.detach())
    return SimpleNamespace(
        log_probs=torch.where(mask, log_probs, 0.0),
        log_sum_sq_probs=torch.where(mask, log_sum_sq_probs(log_probs.detach()), 0.0),
        entropy=zeros,
        mean_logits=zeros,
        is_top1=mask,
    )


class _Model(torch.nn.Module):
    """A model whose output depends on the first token id only: tables[id] is what it returns."""

    is_gradient_checkpointing = False

    def __init__(self, *tables: Any):
        super().__init__()
        self.tables = tables

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return self.tables[int(input_ids[0, 0])]


class _Preference:
    """Mixed in before a TRL trainer: no model, one CPU process, metrics kept and ignored."""

    def __init__(self, config: Any, model: _Model | None = None, ref_model: _Model | None = None):
        self.args, self.model, self.ref_model = config, model, ref_model
        self.accelerator = Accelerator(cpu=True)
        self.aux_loss_enabled = self.is_encoder_decoder = False
        self.pad_token_id = self.padding_value = 0
        self._metrics, self._total_train_tokens, self._tp_size = {"train": defaultdict(list)}, 0, 1
        for name in ("beta", "loss_type", "label_smoothing"):
            setattr(self, name, getattr(config, name, None))


class _DPO(_Preference, DPOTrainer):
    def __init__(self, config: Any, model: _Model, ref_model: _Model):
        super().__init__(config, model, ref_model)
        self.loss_types = config.loss_type
        self.loss_weights = config.loss_weights or [1.0] * len(config.loss_type)
        self.precompute_ref_logps = config.precompute_ref_log_probs
        for name in ("ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting"):
            setattr(self, name, getattr(config, name))


def dpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """DPOTrainer._compute_loss (trl/trainer/dpo_trainer.py:1285-1612).

    Args:
        batch: of pairs
        knobs: of DPOConfig: loss_type (a name or a list: sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair,
            sppo_hard, aot, aot_unpaired, apo_zero, apo_down, discopop, sft, sigmoid_norm), loss_weights, beta,
            label_smoothing, f_divergence_type, f_alpha_divergence_coef, ld_alpha, use_weighting (WPO), discopop_tau.
            f_divergence_type="alpha_divergence" runs in float32: TRL knows no bound for float64 there (1375)
    """
    if knobs.get("f_divergence_type") == "alpha_divergence":
        batch = cast(batch, torch.float32)
    leaves, mask = _pairs(batch)
    policy = _Model(_head_output(torch.cat([*leaves.values()]), mask))
    reference = _Model(_head_output(torch.cat([batch.ref_chosen, batch.ref_rejected]), mask))
    completion_mask = _with_prompt(mask)
    inputs = {"input_ids": torch.zeros_like(completion_mask), "completion_mask": completion_mask}
    inputs["attention_mask"] = torch.ones_like(completion_mask)
    with float64():
        trainer = _DPO(make_config(DPOConfig, **knobs), policy, reference)
        return value_and_grads(trainer._compute_loss(policy, inputs, False), **leaves)


class _KTO(_Preference, KTOTrainer):
    def __init__(self, config: Any, model: _Model, ref_model: _Model):
        super().__init__(config, model, ref_model)
        self.precompute_ref_logps = config.precompute_ref_log_probs
        self.calculate_KL = config.loss_type == "kto"  # as KTOTrainer.__init__ decides
        self.desirable_weight, self.undesirable_weight = config.desirable_weight, config.undesirable_weight


def kto(batch: PreferenceBatch, **knobs: Any) -> Result:
    """KTOTrainer._compute_loss (trl/trainer/kto_trainer.py:1370-1563): chosen rows desirable, rejected rows not.

    Args:
        batch: its kl, ref_kl and kl_mask are the mismatched completions of the KL estimate
        knobs: of KTOConfig: loss_type (kto, apo_zero_unpaired), beta, desirable_weight, undesirable_weight
    """
    leaves, mask = _pairs(batch)
    reference = torch.cat([batch.ref_chosen, batch.ref_rejected])
    policy_tables = _head_output(torch.cat([*leaves.values()]), mask), _head_output(batch.kl, batch.kl_mask)
    ref_tables = _head_output(reference, mask), _head_output(batch.ref_kl, batch.kl_mask)
    policy, ref_model = _Model(*policy_tables), _Model(*ref_tables)
    inputs = {"label": torch.arange(len(mask)) < len(batch.chosen)}
    for token, prefix, side in ((0, "", mask), (1, "KL_", batch.kl_mask)):
        inputs[f"{prefix}completion_mask"] = _with_prompt(side)
        inputs[f"{prefix}input_ids"] = torch.full_like(_with_prompt(side), token)
        inputs[f"{prefix}attention_mask"] = torch.ones_like(_with_prompt(side))
    with float64():
        trainer = _KTO(make_config(KTOConfig, **knobs), policy, ref_model)
        return value_and_grads(trainer._compute_loss(policy, inputs, False), **leaves)


def _logits_model(leaves: dict[str, Tensor]) -> _Model:
    """Logits [2N T+1 2] whose log_softmax at token 0 are the leaves; position t predicts token t + 1."""
    logits = two_token_logits(torch.cat([*leaves.values()]))
    return _Model(SimpleNamespace(logits=torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)))


def _concatenated(batch: PreferenceBatch) -> dict[str, Tensor]:
    """The inputs of CPO and ORPO: a prompt of one token, then the completion; all token ids are 0."""
    inputs = {}
    for side, mask in (("chosen", batch.chosen_mask), ("rejected", batch.rejected_mask)):
        completion = _with_prompt(mask)
        attention = torch.cat([torch.ones_like(completion[:, :1]), completion[:, 1:]], 1)
        inputs[f"{side}_input_ids"] = torch.zeros_like(completion)
        inputs[f"{side}_attention_mask"] = attention
        inputs[f"{side}_labels"] = torch.where(completion.bool(), 0, -100)
    return inputs


class _CPO(_Preference, CPOTrainer):
    def __init__(self, config: Any, model: _Model):
        super().__init__(config, model)
        self.alpha, self.simpo_gamma = config.alpha, config.simpo_gamma
        self.cpo_alpha = config.cpo_alpha


def cpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """CPOTrainer.get_batch_loss_metrics (trl/experimental/cpo/cpo_trainer.py:678-917).

    Args:
        batch: of pairs; no reference enters
        knobs: of CPOConfig: loss_type (sigmoid, hinge, ipo, simpo), beta, label_smoothing, cpo_alpha (weight of the NLL
            of the chosen completions, a mean over the batch's tokens), simpo_gamma, alpha (AlphaPO)
    """
    leaves, _ = _pairs(batch)
    with float64():
        trainer = _CPO(make_config(CPOConfig, **knobs), _logits_model(leaves))
        loss, _ = trainer.get_batch_loss_metrics(trainer.model, _concatenated(batch))
    return value_and_grads(loss, **leaves)


class _ORPO(_Preference, ORPOTrainer):
    pass


def orpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """ORPOTrainer.get_batch_loss_metrics (trl/experimental/orpo/orpo_trainer.py:670-877).

    The odds-ratio term is cast to float32 (`.float()`, 691-692); the NLL is not. TRL's NLL covers the prompt as well;
    the prompt here is one token, which nothing predicts, so it is the token mean over the chosen completions.
    """
    leaves, _ = _pairs(batch)
    with float64():
        trainer = _ORPO(make_config(ORPOConfig, **knobs), _logits_model(leaves))
        loss, _ = trainer.get_batch_loss_metrics(trainer.model, _concatenated(batch))
    return value_and_grads(loss, **leaves)


class _TPO(_Preference, TPOTrainer):
    def __init__(self, config: Any, model: _Model):
        super().__init__(config, model)
        self.tpo_alpha, self.tpo_l_gamma = config.tpo_alpha, config.tpo_l_gamma


def tpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """TPOTrainer._compute_loss (trl/experimental/tpo/tpo_trainer.py:637-780) with tpo_alpha=0: no gold responses."""
    leaves, mask = _pairs(batch)
    completion_mask = _with_prompt(mask)
    inputs = {"input_ids": torch.zeros_like(completion_mask), "completion_mask": completion_mask}
    inputs["attention_mask"] = torch.ones_like(completion_mask)
    with float64():
        trainer = _TPO(make_config(TPOConfig, tpo_alpha=0.0, **knobs), _logits_model(leaves))
        return value_and_grads(trainer._compute_loss(trainer.model, inputs, False), **leaves)


class _Reward(_Preference, RewardTrainer):
    pass


def reward_model(batch: PreferenceBatch, *, margin: Tensor | None = None, **knobs: Any) -> Result:
    """RewardTrainer.compute_loss (trl/trainer/reward_trainer.py:778-817).

    Args:
        batch: its chosen_rewards and rejected_rewards are the leaves
        margin: [N] the data set's column of that name
        knobs: of RewardConfig: center_rewards_coefficient
    """
    leaves = {"chosen_rewards": leaf(batch.chosen_rewards), "rejected_rewards": leaf(batch.rejected_rewards)}
    model = _Model(SimpleNamespace(logits=torch.cat([*leaves.values()])[:, None]))
    ids = torch.zeros(2 * len(batch.chosen), 1, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids + 1} | ({} if margin is None else {"margin": margin})
    with float64():
        trainer = _Reward(make_config(RewardConfig, **knobs), model)
        return value_and_grads(trainer.compute_loss(model, inputs), **leaves)
