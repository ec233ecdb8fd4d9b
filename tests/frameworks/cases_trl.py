"""TRL 1.16.0: for each row the settings with which TRL's own code runs, by its own rollout where it is a policy row.

All of it is float64 except where a note says that TRL casts. torch's default dtype is float64 inside, since TRL builds
a few constants with it (sampler log-probs, EXO's epsilon, VESPO's k and lambda); in a real run those are float32.
"""

import importlib
from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from batch import GROUP, PolicyBatch, PreferenceBatch, leaf, log_sum_sq_probs, two_token_logits, value_and_grads
from cases import Case, Output, kto_point, sides
from torch import Tensor

from torchstone.dpo.variants import wpo_weights
from torchstone.frameworks.loading import default_dtype, float32_is_float64
from torchstone.frameworks.trl import functions as trl
from torchstone.frameworks.trl import load
from torchstone.frameworks.trl.rows import VERSION

POLICY = ("prefix", "gaps", "empty", "far")
MAX_LENGTH = 512  # GRPOConfig's max_completion_length


def policy(batch: PolicyBatch, kind: str = "GRPO", fed: Tensor | None = None, **knobs: Any) -> Output:
    """A trainer's rollout, and its loss on the advantages of it; ``fed``: on these instead.

    knobs: of the trainer's config. use_vllm=True multiplies by the sampler weights.
    """
    numbers = load.Numbers(
        batch.old_log_probs, batch.mask, batch.rewards, batch.ref_log_probs, batch.sampler_log_probs, batch.entropies
    )
    trainer = load.policy_trainer(kind, numbers, **trl.sizes(len(batch.mask), GROUP), **knobs)
    inputs = load.rollout(trainer)
    advantages = inputs["advantages"]
    leaves = {"log_probs": leaf(batch.log_probs), "entropies": leaf(batch.entropies)}
    trainer.numbers = replace(numbers, policy=leaves["log_probs"], entropies=leaves["entropies"])
    with default_dtype(torch.float64):
        loss = trainer._compute_loss(trainer.model, inputs if fed is None else inputs | {"advantages": fed})
    return Output(*value_and_grads(loss, **leaves), advantages, {"max_length": MAX_LENGTH})


def gdpo(batch: PolicyBatch) -> Output:
    """Three rewards of different scale, weighted; reward_weights is float32 in TRL, and these are exact there."""
    several = torch.stack((batch.rewards, batch.rewards.flip(1) ** 3, (batch.rewards > 0.5).double()), 2)
    how = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": (1.0, 0.5, 2.0)}
    output = policy(replace(batch, rewards=several), **how)
    weights = torch.tensor(how["reward_weights"], dtype=torch.float64)
    return output._replace(given={**output.given, "rewards": several, "reward_weights": weights})


def gmpo(batch: PolicyBatch) -> Output:
    """A row without a token would add -A to the value: its advantage is set to 0."""
    advantages = policy(batch).advantages.masked_fill(~batch.mask.any(1), 0)
    output = policy(batch, "GMPO", advantages)
    given = {} if batch.mask.any(1).all() else {"advantages": advantages}
    return Output(*output[:2], None if given else advantages, given)


def a_star_po(batch: PolicyBatch) -> Output:
    """A2POTrainer.compute_loss, handed sums of log-probs; brought to the row by its factor and its constant."""
    a2po = importlib.import_module("trl.experimental.a2po.a2po_trainer")
    log_probs, worth = leaf(batch.log_probs), batch.greedy_rewards
    whole = [torch.where(batch.mask, x, 0).sum(1) for x in (log_probs, batch.ref_log_probs)]
    trainer = object.__new__(a2po.A2POTrainer)
    trainer.args, trainer.model = SimpleNamespace(beta2=1e-3), SimpleNamespace(training=True)  # A2POConfig's default
    trainer._metrics, trainer._get_sequence_logps = {"train": defaultdict(list)}, lambda *_: whole[0]
    inputs = dict.fromkeys(("input_ids", "attention_mask", "logits_to_keep"))
    inputs |= {"ref_logps": whole[1], "rewards": batch.rewards.flatten(), "v_star": worth.repeat_interleave(GROUP)}
    advantages = inputs["rewards"] - inputs["v_star"]
    loss = (trainer.compute_loss(None, inputs) - advantages.square().mean()) / (2 * 1e-3)
    return Output(*value_and_grads(loss, log_probs=log_probs), advantages, {"prompt_values": worth})


def dpo(batch: PreferenceBatch, **knobs: Any) -> Output:
    leaves, mask = sides(batch)
    pairs = (*leaves.values(), batch.ref_chosen, batch.ref_rejected)
    loss = trl.dpo(*pairs, mask=mask, log_sum_sq_probs=log_sum_sq_probs, **knobs)
    return Output(*value_and_grads(loss, **leaves))


def f_dpo(batch: PreferenceBatch, **knobs: Any) -> Output:
    """The power of the alpha-divergence is float32, and its bound has no entry for float64: both are float64 here."""
    with float32_is_float64("trl.trainer.dpo_trainer"):
        return dpo(batch, **knobs)


def wpo(batch: PreferenceBatch) -> Output:
    both = ((batch.chosen, batch.chosen_mask), (batch.rejected, batch.rejected_mask))
    chosen, rejected = (wpo_weights(x, log_sum_sq_probs(x), mask) for x, mask in both)
    return dpo(batch, use_weighting=True)._replace(given={"weights": chosen * rejected})


def kto(batch: PreferenceBatch, **knobs: Any) -> Output:
    """KTOTrainer._compute_loss: chosen rows desirable, rejected rows not; the mismatched completions are its KL's."""
    leaves, mask = sides(batch)
    policy = torch.cat([*leaves.values()]), batch.kl
    reference = torch.cat([batch.ref_chosen, batch.ref_rejected]), batch.ref_kl
    tables = [
        load.Tables(*(load.head_output(x, m) for x, m in zip(both, (mask, batch.kl_mask), strict=True)))
        for both in (policy, reference)
    ]
    inputs = {"label": torch.arange(len(mask)) < len(batch.chosen), **load.completion_inputs(mask)}
    inputs |= load.completion_inputs(batch.kl_mask, "KL_", token=1)
    with default_dtype(torch.float64):
        trainer = load.preference_trainer("KTO", *tables, **knobs)
        loss = trainer._compute_loss(tables[0], inputs, False)
    return Output(*value_and_grads(loss, **leaves), given={"reference_point": 0.0 if knobs else kto_point(batch)})


def concatenated(batch: PreferenceBatch, kind: str, **knobs: Any) -> Output:
    """get_batch_loss_metrics of CPO's and ORPO's trainer: a prompt of one token, then the completion; all ids are 0."""
    leaves, _ = sides(batch)
    logits = two_token_logits(torch.cat([*leaves.values()]))  # position t predicts token t + 1
    model = load.Tables(load.SimpleNamespace(logits=torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)))
    inputs = {}
    for side, mask in (("chosen", batch.chosen_mask), ("rejected", batch.rejected_mask)):
        completion = load.with_prompt(mask)
        inputs[f"{side}_input_ids"] = torch.zeros_like(completion)
        inputs[f"{side}_attention_mask"] = torch.cat([torch.ones_like(completion[:, :1]), mask], 1).long()
        inputs[f"{side}_labels"] = torch.where(completion.bool(), 0, -100)
    with default_dtype(torch.float64):
        loss, _ = load.preference_trainer(kind, model, **knobs).get_batch_loss_metrics(model, inputs)
    return Output(*value_and_grads(loss, **leaves))


def tpo(batch: PreferenceBatch, **knobs: Any) -> Output:
    """TPOTrainer._compute_loss on chosen, rejected and gold rows; the gold ones are the first of KTO's mismatched."""
    leaves, mask = sides(batch)
    gold_mask = batch.kl_mask[: len(batch.chosen)]
    leaves["gold_log_probs"] = leaf(batch.kl[: len(batch.chosen)])
    logits = two_token_logits(torch.cat([*leaves.values()]))  # position t predicts token t + 1
    model = load.Tables(load.SimpleNamespace(logits=torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)))
    inputs = load.completion_inputs(torch.cat([mask, gold_mask]))
    with default_dtype(torch.float64):
        loss = load.preference_trainer("TPO", model, **knobs)._compute_loss(model, inputs, False)
    given = {"gold_log_probs": leaves["gold_log_probs"].detach(), "gold_mask": gold_mask}
    return Output(*value_and_grads(loss, **leaves), given=given)


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
    "scalerl": {"scale_rewards": "batch", "loss_type": "cispo", "epsilon_high": 5.0},
    "gspo": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
    "luspo": {"loss_type": "luspo"},
    "cispo": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
    "intellect-2": {"delta": 4.0},
    "high-entropy": {"top_entropy_quantile": 0.2},
    "deepseek-v3.2": {
        "use_vllm": True,
        "vllm_importance_sampling_correction": False,
        "off_policy_mask_threshold": 0.5,
        "beta": 0.001,
    },
    "tis": vllm("token_truncate"),
    "tis-sequence": vllm("sequence_truncate"),
    "icepop": vllm("token_mask"),
    "seq-mis": vllm("sequence_mask"),
}
PAIRS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "cdpo": {"label_smoothing": 0.1},
    "robust_dpo": {"loss_type": ("robust",), "label_smoothing": 0.1},
    "ipo": {"loss_type": ("ipo",)},
    "rso": {"loss_type": ("hinge",)},
    "exo": {"loss_type": ("exo_pair",), "label_smoothing": 1e-3},
    "nca": {"loss_type": ("nca_pair",)},
    "bco": {"loss_type": ("bco_pair",)},
    "sppo": {"loss_type": ("sppo_hard",)},
    "aot": {"loss_type": ("aot",)},
    "aot_unpaired": {"loss_type": ("aot_unpaired",)},
    "apo_zero": {"loss_type": ("apo_zero",)},
    "apo_down": {"loss_type": ("apo_down",)},
    "discopop": {"loss_type": ("discopop",)},
    "dpo-norm": {"loss_type": ("sigmoid_norm",)},
    "iterative-rpo": {"loss_type": ("sigmoid", "sft")},
    "ld-dpo": {"ld_alpha": 0.5},
    "f-dpo": {"f_divergence_type": "js_divergence"},
    "f-dpo-forward": {"f_divergence_type": "forward_kl"},
    "tr-dpo": {"sync_ref_model": True},
    "mpo": {"loss_type": ("sigmoid", "bco_pair", "sft"), "loss_weights": (0.8, 0.2, 1.0)},
    "rpo": {"loss_type": ("sigmoid", "sft"), "loss_weights": (1.0, 0.005), "beta": 0.01},
}
ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}
FREE: dict[str, dict[str, Any]] = {
    "cpo": {},
    "simpo": {"loss_type": "simpo"},
    "slic": {"loss_type": "hinge"},
    "alphapo": {"loss_type": "alphapo", "alpha": 0.25, "beta": 2.5, "simpo_gamma": 0.1},
}

CASES = {
    **{f"{name}@{VERSION}": Case(partial(policy, **knobs), POLICY) for name, knobs in SETTINGS.items()},
    f"gmpo@{VERSION}": Case(gmpo, POLICY),
    f"gdpo@{VERSION}": Case(gdpo, POLICY),
    f"a*-po@{VERSION}": Case(a_star_po, POLICY, note="Times 2 tau, and a constant more."),
    f"rloo@{VERSION}": Case(partial(policy, kind="RLOO"), ("prefix", "far"), note="RLOOTrainer has no tool mask."),
    **{f"{name}@{VERSION}": Case(partial(dpo, **knobs), ("pairs",)) for name, knobs in PAIRS.items()},
    f"f-dpo-alpha@{VERSION}": Case(partial(f_dpo, **ALPHA), ("pairs",)),
    f"wpo@{VERSION}": Case(wpo, ("pairs",)),
    f"kto@{VERSION}": Case(kto, ("pairs",)),
    **{f"{name}@{VERSION}": Case(partial(concatenated, kind="CPO", **x), ("pairs",)) for name, x in FREE.items()},
    f"triple-po@{VERSION}": Case(tpo, ("pairs",)),
    f"orpo@{VERSION}": Case(
        partial(concatenated, kind="ORPO"),
        ("pairs",),
        rtol=1e-6,
        note="The odds are float32 (orpo_trainer.py:691-692).",
    ),
}
SAME = {
    f"{name}@{VERSION}" for name in ("dpo", "ld-dpo", "triple-po", "robust_dpo", "apo_zero", "apo_down", "kto", "f-dpo")
}
