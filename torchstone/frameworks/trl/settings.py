"""What the plugs into TRL ask before they train: the version, the row, and settings that the row decides."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from importlib import import_module
from inspect import getsource
from typing import Any

from torchstone.frameworks.refusals import changed, couples_groups, of_the_whole_batch
from torchstone.frameworks.trl.unit import VERSION
from torchstone.recipes import DistillRecipe, PolicyRecipe, PreferenceRecipe, find
from torchstone.recipes.choices import TENSORS, Choice, Recipe

HOOKS = {  # the methods that a plug replaces or calls, by trainer
    "GRPOTrainer": "_compute_loss _generate_and_score_completions _calculate_rewards "
    "_get_per_token_logps_and_entropies",
    "DPOTrainer": "_compute_loss compute_ref_log_probs get_batch_samples _precompute_ref_logps",
    "DistillationTrainer": "_compute_loss compute_loss _generate_and_score_completions",
}
READ = {  # what the plugs read in a trainer, its batch and its config: one that is missing may have been renamed
    "GRPOTrainer": "prompt_ids prompt_mask completion_ids completion_mask tool_mask old_per_token_logps "
    "ref_per_token_logps sampling_per_token_logps advantages num_generations_eval reward_weights steps_per_generation "
    "current_gradient_accumulation_steps _logs _metrics aux_loss_enabled router_aux_loss_coef use_vllm "
    "max_completion_length vllm_importance_sampling_correction vllm_importance_sampling_mode "
    "vllm_importance_sampling_clip_min vllm_importance_sampling_clip_max",
    "DPOTrainer": "input_ids completion_mask ref_chosen_logps ref_rejected_logps precompute_ref_logps "
    "precompute_ref_log_probs use_weighting log_probs log_sum_sq_probs ref_model _metrics aux_loss_enabled "
    "router_aux_loss_coef",
    "DistillationTrainer": "prompt_ids prompt_mask completion_ids completion_mask tool_mask teacher_model "
    "model_kwarg_keys _forward_redirection _metrics use_vllm max_completion_length",
}
RUNS = {PolicyRecipe: "GRPOTrainer", PreferenceRecipe: "DPOTrainer", DistillRecipe: "DistillationTrainer"}
SCALED = {"GRPOTrainer": True, "DPOTrainer": False, "DistillationTrainer": True}  # loss_is_scaled_for_ga: see unit.py
ABSENT = {  # what rows need and TRL has not
    **dict.fromkeys(("values", "old_values", "returns"), "TRL has no critic since PPOTrainer went"),
    "greedy_rewards": "GRPOTrainer samples no greedy completion beside the group",
    "prompt_values": "GRPOTrainer's batches have none; TRL has A2POTrainer",
    "energies": "TRL keeps no norm of a token's score",
    "expert_log_probs": "GRPOTrainer has no second batch, of an expert's answers",
    "right": "GRPOTrainer does not say which answers are right",
    "reference_point": "DPOTrainer has no mismatched completions to estimate it from; TRL has KTOTrainer",
    "gold_log_probs": "DPOTrainer has two completions of a prompt; TRL has TPOTrainer",
    "chosen_is_from_reference": "DPOTrainer's data do not say who wrote a completion",
    "reward_shift": "DPOTrainer keeps no running mean of rewards (objective=bce or logistic-and-bce needs none)",
}
# Settings of TRL's that name its own loss: a row stands in its place, so they are not read.
REPLACED = {
    "GRPOTrainer": "loss_type epsilon epsilon_high delta importance_sampling_level scale_rewards sapo_temperature_neg "
    "sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg use_bias_correction_kl",
    "DPOTrainer": "loss_type label_smoothing discopop_tau beta",
    "DistillationTrainer": "beta",
}
# Settings of TRL's that add something to a loss: where to say it in a row.
ADDED = {
    "GRPOTrainer": {
        "beta": "a KL is the row's",
        "entropy_coef": "an entropy bonus is the row's",
        "off_policy_mask_threshold": "the mask is the row's",
        "use_adaptive_entropy": "no row has a coefficient that follows the entropy",
        "top_entropy_quantile": "TRL judges one micro-batch, and a row of high-entropy tokens the whole batch",
        "multi_objective_aggregation": "several rewards are the row's: gdpo scales each, others take their sum",
        "use_liger_kernel": "rows were tested without Liger's kernels",
    },
    "DPOTrainer": {
        "loss_weights": "a row is one objective",
        "ld_alpha": "a completion's tail is weighed by the row: recipe=\"ld-dpo\"",
        "f_divergence_type": "the divergence is the row's: recipe=\"f-dpo\"",
        "f_alpha_divergence_coef": "it is 1 - alpha of the row: recipe=\"f-dpo\"",
        "use_weighting": "the weights are the row's: recipe=\"wpo\"",
        "padding_free": "rows were tested with padding",
        "use_liger_kernel": "rows were tested without Liger's kernels",
    },
    "DistillationTrainer": {"use_liger_kernel": "rows were tested without Liger's kernels"},
}  # fmt: skip
NAMED = {  # settings of TRL's that a row has under another name
    "beta": "loss_kl=k3+loss_kl.beta", "entropy_coef": "entropy=bonus+entropy.coef",
    "off_policy_mask_threshold": "sampler=off-policy-mask+sampler.limit",
    "sapo_temperature_neg": "surrogate.tau_negative", "sapo_temperature_pos": "surrogate.tau_positive",
    "vespo_k_pos": "surrogate.k_positive", "vespo_k_neg": "surrogate.k_negative", "discopop_tau": "objective.tau",
    "ld_alpha": "log_prob=shared-length+log_prob.policy_only=false+log_prob.alpha",
    "vespo_lambda_pos": "surrogate.lambda_positive", "vespo_lambda_neg": "surrogate.lambda_negative",
}  # fmt: skip
BNPO = find(f"bnpo@{VERSION}").source  # of GRPOTrainer's rows the one divided by a micro-batch's count


def refusal(row: Recipe) -> str:
    """Why none of TRL's trainers that have a plug can run this row; "" where one can."""
    if isinstance(row, DistillRecipe):
        if row.reduction.name == "group-token-mean":
            return "DistillationTrainer samples one completion of a prompt: there are no groups"
        if row.outcome.name != "none":
            return "DistillationTrainer has no rewards, so no advantages of the task"
    if reason := of_the_whole_batch(row):
        return reason
    if couples_groups(row):
        return "a micro-batch of GRPOTrainer's holds pieces of groups, and the row compares completions within one"
    for tensor in row.needs():
        if tensor in ABSENT:
            return f"it needs {TENSORS[tensor]}, and {ABSENT[tensor]}"
    return ""


def chosen_row(recipe: Recipe | str, trainer: type, args: Any) -> Any:
    """The row that this trainer is to run, if TRL can.

    Args:
        recipe: a row, its name, or its name with changes (``find``).
        trainer: TRL's ``GRPOTrainer``, ``DPOTrainer`` or ``DistillationTrainer``.
        args: the config, as the user gave it.
    Raises ValueError: the row is unknown or of another kind; it needs what TRL has not; a setting adds to the loss what
        is the row's to say, or has no place beside it. Raises RuntimeError: this version of TRL lacks a method that
        the plug rests on, or adds up micro-batches in another way.
    Warns: another version of TRL than was tested; a setting that is not read; TR-DPO with a reference that stays.
    """
    kind = trainer.__name__
    _check_version(trainer)
    row = recipe if isinstance(recipe, Recipe) else find(recipe)
    reason = refusal(row)
    if reason:
        raise ValueError(f"recipe: TRL cannot run {row.name}: {reason}")
    if RUNS[type(row)] != kind:
        raise ValueError(f"recipe: expected a row for {kind}, got {row.name}, which is for Recipe{RUNS[type(row)]}")
    fields = type(args).__dataclass_fields__
    for name in fields.keys() & (ADDED[kind].keys() | set(REPLACED[kind].split())):
        value, default = getattr(args, name), _default(type(args), fields[name])
        if value == default:
            continue
        written = in_the_recipe(row, name, value)
        if name in ADDED[kind]:
            why = ADDED[kind][name] + written
            raise ValueError(f"{name}: expected TRL's default {default!r} beside a recipe, got {value!r}; {why}")
        warnings.warn(f"{name}={value!r} is not read: the recipe {row.name} is the loss{written}", stacklevel=3)
    _check_fit(row, args)
    return row


def in_the_recipe(row: Recipe, setting: str, value: Any) -> str:
    """How the recipe says what a setting of TRL's does: ``: recipe="grpo:loss_kl.beta=0.04"``; "" where it cannot."""
    own = (f"{at}.{setting}" for at in row.COLUMNS if setting in row.option(at).numbers)
    text = changed(row, f"{next(own, NAMED.get(setting, setting))}={value}")
    if setting == "loss_type":
        text = f'"{value[0] if isinstance(value, list) else value}@{VERSION}"'
    with suppress(ValueError):
        find(text.strip('"'))
        return f": recipe={text}"
    return ""


def _check_fit(row: Recipe, args: Any) -> None:
    """Raise ``ValueError`` where a setting that stays TRL's has no place beside the row; warn where it lacks one."""
    if re.split("[@:]", row.name)[0] == "tr-dpo" and not args.sync_ref_model:
        warnings.warn(
            f"recipe: {row.name} is DPO unless the reference moves, which sync_ref_model=True does, by "
            "ref_model_mixup_alpha every ref_model_sync_steps",
            stacklevel=4,
        )
    if getattr(args, "sync_ref_model", False) and not any("ref_" in x for of in row.STAGES for x in row.takes(of)):
        raise ValueError(f"sync_ref_model: expected False with {row.name}, which has no reference, got True")
    cache, longest = row.numbers().get("penalty.cache"), getattr(args, "max_completion_length", None)
    if isinstance(cache, int) and longest is not None and longest < cache:
        shorter = changed(row, f"penalty.cache={max(1, longest // 5)}")
        raise ValueError(
            f"max_completion_length: expected at least {cache} with {row.name}, whose penalty for length begins "
            f"{cache} tokens before it, got {longest}; for shorter completions: recipe={shorter}"
        )


def of_a_micro_batch(row: Recipe) -> bool:
    """Whether the row is divided by a micro-batch's own count, under any name: TRL's bnpo, and its rows of pairs."""
    return row.source.startswith("trl/") if isinstance(row, PreferenceRecipe) else row.source == BNPO


def _default(config: type, field: Any) -> Any:
    """What an unset setting is, after the config has looked at it: a list where TRL makes one of a word."""
    value = field.default_factory() if callable(field.default_factory) else field.default
    return [value] if field.name == "loss_type" and config.__name__ == "DPOConfig" and isinstance(value, str) else value


def _check_version(trainer: type) -> None:
    import trl

    tested = VERSION.partition("-")[2]
    own = {*re.findall(r"\w+", getsource(import_module(trainer.__module__)))}
    lacking = [name for name in HOOKS[trainer.__name__].split() if not hasattr(trainer, name)]
    lacking += [name for name in READ[trainer.__name__].split() if name not in own]
    if lacking:
        raise RuntimeError(
            f"trl: expected {tested}, got {trl.__version__}, whose {trainer.__name__} has no {', '.join(lacking)}"
        )
    if getattr(trainer, "loss_is_scaled_for_ga", None) is not SCALED[trainer.__name__]:
        raise RuntimeError(
            f"trl: expected {tested}, got {trl.__version__}, whose {trainer.__name__} adds up micro-batches in another "
            f"way: it does not set loss_is_scaled_for_ga = {SCALED[trainer.__name__]}"
        )
    if trl.__version__ != tested:
        warnings.warn(f"trl: recipes were tested with {tested}, got {trl.__version__}", stacklevel=4)


def number(row: Recipe, name: str) -> Any:
    """The first number of this name in the row's columns, or None: ``beta`` of the KL, in the loss or in the reward."""
    return next((value for key, value in row.numbers().items() if key.rpartition(".")[2] == name), None)


WITHOUT_VLLM = (
    "recipe: {name} takes the sampler's log-probs; without vLLM the trainer samples, and its own old log-probs stand "
    "for them"
)


def with_sampler(row: PolicyRecipe, args: Any) -> PolicyRecipe:
    """The row, with TRL's correction of vLLM's log-probs as its ``sampler`` where it has none of its own.

    Warns: the row takes the sampler's log-probs and TRL does not sample with vLLM: the old ones stand for them.
    Raises ValueError: TRL would put the correction inside VESPO's weight, which no row does.
    """
    own = "sampler_log_probs" in row.takes("loss")
    if own and not args.use_vllm:
        warnings.warn(WITHOUT_VLLM.format(name=row.name), stacklevel=3)
    if own or not (args.use_vllm and args.vllm_importance_sampling_correction):
        return row
    if row.surrogate.name == "vespo":
        raise ValueError(
            f"vllm_importance_sampling_correction: expected False with {row.name}, since TRL puts the correction "
            f"inside the weight of VESPO, which no row does; got True. Or name weights: {row.name}:sampler=weights+..."
        )
    level, _, what = args.vllm_importance_sampling_mode.partition("_")
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    weights = Choice("weights", level=level, gate=level if what == "mask" else None, low=low, high=high)
    changed: PolicyRecipe = row.but(sampler=weights)
    return changed


def without_sampler(row: DistillRecipe, args: Any) -> DistillRecipe:
    """The row, which DistillationTrainer gives its own log-probs as the sampler's.

    Warns: the row takes the sampler's log-probs, and the trainer samples.
    Raises ValueError: it takes them, and vLLM samples.
    """
    if "sampler_log_probs" in row.takes("loss"):
        if args.use_vllm:
            raise ValueError(
                f"use_vllm: expected False with {row.name}, which takes the sampler's log-probs: DistillationTrainer "
                "asks vLLM for none; got True"
            )
        warnings.warn(WITHOUT_VLLM.format(name=row.name), stacklevel=3)
    return row
