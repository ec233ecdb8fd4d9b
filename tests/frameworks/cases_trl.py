"""TRL 1.16.0: for each row the settings with which TRL's own code runs, by its own rollout where it is a policy row."""

from functools import partial
from typing import Any

import torch
import trl_losses as trl
from batch import PolicyBatch, PreferenceBatch, log_sum_sq_probs
from cases import Case, Output

from torchstone.dpo.variants import kto_reference_point, wpo_weights

VERSION = "trl-1.16.0"
POLICY = ("prefix", "gaps", "empty", "far")
MAX_LENGTH = 512  # GRPOConfig's max_completion_length


def grpo(batch: PolicyBatch, **knobs: Any) -> Output:
    value, gradients = trl.grpo(batch, **knobs)
    return Output(value, gradients, trl.grpo_advantages(batch, **knobs), {"max_length": MAX_LENGTH})


def gmpo(batch: PolicyBatch) -> Output:
    """A row without a token would add -A to the value: its advantage is set to 0."""
    advantages = trl.grpo_advantages(batch).masked_fill(~batch.mask.any(1), 0)
    given = {} if batch.mask.any(1).all() else {"advantages": advantages}
    return Output(*trl.gmpo(batch, advantages=advantages), None if given else advantages, given)


def rloo(batch: PolicyBatch) -> Output:
    return Output(*trl.rloo(batch), trl.rloo_advantages(batch))


def dpo(batch: PreferenceBatch, **knobs: Any) -> Output:
    return Output(*trl.dpo(batch, **knobs))


def wpo(batch: PreferenceBatch) -> Output:
    sides = ((batch.chosen, batch.chosen_mask), (batch.rejected, batch.rejected_mask))
    chosen, rejected = (wpo_weights(x, log_sum_sq_probs(x), mask) for x, mask in sides)
    return Output(*trl.dpo(batch, use_weighting=True), given={"weights": chosen * rejected})


def kto(batch: PreferenceBatch, **knobs: Any) -> Output:
    log_probs, references = (torch.where(batch.kl_mask, x, 0).sum(1) for x in (batch.kl, batch.ref_kl))
    point = kto_reference_point(log_probs, references) if not knobs else 0.0
    return Output(*trl.kto(batch, **knobs), given={"reference_point": point})


def cpo(batch: PreferenceBatch, **knobs: Any) -> Output:
    return Output(*trl.cpo(batch, **knobs))


def orpo(batch: PreferenceBatch) -> Output:
    return Output(*trl.orpo(batch))


def vllm(mode: str) -> dict[str, Any]:
    return {"use_vllm": True, "vllm_importance_sampling_mode": mode}


SETTINGS: dict[str, dict[str, Any]] = {
    "dapo": {},
    "grpo": {"loss_type": "grpo"},
    "grpo-kl": {"loss_type": "grpo", "beta": 0.04},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dr_grpo-unscaled": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "lite-ppo": {"scale_rewards": "batch"},
    "gspo": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
    "luspo": {"loss_type": "luspo"},
    "cispo": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
    "intellect-2": {"delta": 4.0},
    "deepseek-v3.2": {"off_policy_mask_threshold": 0.5, "beta": 0.001},
    "tis": vllm("token_truncate"),
    "tis-sequence": vllm("sequence_truncate"),
    "icepop": vllm("token_mask"),
    "mis": vllm("sequence_mask"),
}
PAIRS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "cdpo": {"label_smoothing": 0.1},
    "robust_dpo": {"loss_type": ["robust"], "label_smoothing": 0.1},
    "ipo": {"loss_type": ["ipo"]},
    "rso": {"loss_type": ["hinge"]},
    "exo": {"loss_type": ["exo_pair"], "label_smoothing": 1e-3},
    "nca": {"loss_type": ["nca_pair"]},
    "bco": {"loss_type": ["bco_pair"]},
    "sppo": {"loss_type": ["sppo_hard"]},
    "aot": {"loss_type": ["aot"]},
    "aot_unpaired": {"loss_type": ["aot_unpaired"]},
    "apo_zero": {"loss_type": ["apo_zero"]},
    "apo_down": {"loss_type": ["apo_down"]},
    "discopop": {"loss_type": ["discopop"]},
    "dpo-norm": {"loss_type": ["sigmoid_norm"]},
    "iterative-rpo": {"loss_type": ["sigmoid", "sft"]},
}
FREE: dict[str, dict[str, Any]] = {"cpo": {}, "simpo": {"loss_type": "simpo"}, "slic": {"loss_type": "hinge"}}

CASES = {
    **{f"{name}@{VERSION}": Case(partial(grpo, **knobs), POLICY) for name, knobs in SETTINGS.items()},
    f"gmpo@{VERSION}": Case(gmpo, POLICY),
    f"rloo@{VERSION}": Case(rloo, ("prefix", "far"), note="RLOOTrainer has no tool mask."),
    **{f"{name}@{VERSION}": Case(partial(dpo, **knobs), ("pairs",)) for name, knobs in PAIRS.items()},
    f"wpo@{VERSION}": Case(wpo, ("pairs",)),
    f"kto@{VERSION}": Case(kto, ("pairs",)),
    **{f"{name}@{VERSION}": Case(partial(cpo, **knobs), ("pairs",)) for name, knobs in FREE.items()},
    f"orpo@{VERSION}": Case(orpo, ("pairs",), rtol=1e-6, note="The odds are float32 (orpo_trainer.py:691-692)."),
}
SAME = {
    f"{name}@{VERSION}" for name in ("dpo", "robust_dpo", "nca", "apo_zero", "apo_down", "kto", "aot", "aot_unpaired")
}
