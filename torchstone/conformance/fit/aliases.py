"""The names that the field gives to arguments and settings: which of ours is a parameter of this name?

``role("ref_per_token_logps")`` is "ref_log_probs"; ``setting("clip_range")`` is ["epsilon"].
"""

from __future__ import annotations

import re
from typing import Any

# fmt: off
WHOSE = {  # words that say whose log-prob, value or reward it is
    "ref": "ref reference base init initial frozen anchor logq logqs",
    "teacher": "teacher expert",
    "sampler": "sampler sampling vllm inference infer engine",
    "old": "old prev previous behavior behaviour behave rollout mu generation fixed before stale",
    "chosen": "chosen yw win winner winning w preferred pos positive good accepted better",
    "rejected": "rejected yl reject lose loser losing l dispreferred neg negative bad worse",
}
WHAT = {  # words that say what it is
    "log_probs": "logprob logprobs logp logps lp logpi logq logqs",
    "logits": "logits logit",
    "mask": "mask masks",
    "advantages": "advantage advantages adv advs a",
    "rewards": "reward rewards rew rews r score scores",
    "values": "value values v vpred vpreds vs baseline",
    "returns": "return returns ret rets",
    "entropies": "entropy entropies ent",
    "targets": "target targets label labels index ids actions tokens",
    "log_ratios": "logratio logratios",
    "ratios": "ratio ratios rho",
}
SETTINGS = {  # whole names, after words such as "coefficient" have become one
    "value_epsilon": "value_epsilon cliprange_value clip_range_vf value_clip vf_clip value_clip_eps clip_value "
                     "clip_coef_value "
                     "vf_clip_param value_clip_range cliprange_vf value_eps eps_value vclip vf_clip_range",
    "epsilon": "epsilon eps clip cliprange clip_range clip_eps eps_clip clip_ratio clip_param clip_epsilon "
               "clip_coef ppo_clip epsilon_low clip_low eps_low cliprange_low clip_ratio_low clip_eps_low "
               "clip_range_low low_clip clip_epsilon_low eps_clip_low cliprange_value clip_range_vf value_clip vf_clip "
               "ratio_clip ratio_clip_min epsilon_clip clip_ratio_min eps_min clip_lower clip_min policy_clip "
               "ppo_clip_eps",
    "epsilon_high": "epsilon_high clip_high eps_high cliprange_high clip_ratio_high clip_eps_high clip_range_high "
                    "high_clip clip_epsilon_high eps_clip_high epsilon_upper ratio_clip_max clip_ratio_max eps_max "
                    "clip_upper clip_max cispo_cap",
    "dual_clip": "dual_clip clip_ratio_c dual_clip_c delta ratio_clip_c dual_clip_coef",
    "temperature": "temperature temp tau t",
    "beta": "beta kl_coef kl_beta kl_weight kl_ctl kl_loss_coef kl_penalty_coef init_kl_coef beta_kl kl_penalty "
            "distillation_alpha jsd_beta js_beta gkd_beta jsd_coef skew kl_direction direction kl_type divergence "
            "dpo_beta kto_beta ipo_beta simpo_beta beta_dpo tau kl_lambda lambda_kl reference_policy_kl_penalty",
    "gamma": "gamma discount discount_factor kl_discount_factor kl_discount simpo_gamma target_margin "
             "target_reward_margin margin",
    "lam": "lam lambda lambd lmbda gae_lambda gae_lam lamb lambda_gae",
    "eps": "eps epsilon std_eps adv_eps",
    "correction": "correction ddof unbiased",
    "divide_by_std": "divide_by_std normalize_by_std scale_rewards scale_by_std use_std std_norm norm_adv_by_std "
                     "norm_adv_by_std_in_grpo normalize_std use_std_normalization normalize scale normalize_advantages "
                     "normalize_rewards norm_by_std use_std_dev standardize grpo_std_normalization std_normalization",
    "label_smoothing": "label_smoothing smoothing label_smooth dpo_label_smoothing",
    "denominator": "denominator num_items_in_batch normalizer batch_num_tokens total_tokens num_tokens n_tokens "
                   "global_num_tokens loss_denominator global_valid_toks global_valid_seqs",
    "length": "length max_length max_len max_tokens max_completion_length loss_scale_factor max_response_length "
              "generation_max_len generation_length max_new_tokens gen_length response_length max_gen_len",
    "value_coef": "value_coef vf_coef value_loss_coef critic_coef v_coef vf_loss_coef value_weight",
    "entropy_coef": "entropy_coef ent_coef entropy_loss_coef entropy_weight entropy_beta",
    "group_size": "group_size num_generations n_samples n_samples_per_prompt num_samples rollout_n g k n n_rollouts "
                  "samples_per_prompt rloo_k num_generations_per_prompt samples_per_group rollouts_per_prompt "
                  "num_return_sequences num_samples_per_prompt rollouts_per_example num_samples_per_prompt_rollout",
    "reduce": "reduce reduction loss_agg_mode aggregation agg_mode aggregation_mode loss_aggregation loss_reduction",
    "flip_rate": "flip_rate label_smoothing label_noise",
    "delta": "delta margin",
    "eos_id": "eos_id eos_token_id eos eos_ids eos_token_ids stop_ids stop_token_ids end_ids end_id end_token_id "
              "eos_tokens stop_tokens end_tokens",
    "keep_mean": "keep_mean",
    "k": "k topk top_k distillation_topk distillation_top_k distill_topk distill_top_k loss_topk loss_top_k kl_topk "
         "kl_top_k teacher_topk teacher_top_k num_topk num_top_k n_top",
    "of": "of topk_of topk_source support",
    "rest": "rest add_tail distillation_add_tail loss_add_tail tail",
    "tau_positive": "tau_positive tau_pos sapo_temperature_pos temperature_pos",
    "tau_negative": "tau_negative tau_neg sapo_temperature_neg temperature_neg",
    "k_positive": "k_positive k_pos vespo_k_pos",
    "k_negative": "k_negative k_neg vespo_k_neg",
    "lambda_positive": "lambda_positive lambda_pos vespo_lambda_pos",
    "lambda_negative": "lambda_negative lambda_neg vespo_lambda_neg",
    "limit": "limit delta threshold off_policy_mask_threshold opsm_delta kl_threshold",
    "odds_coef": "odds_coef lambda lam alpha beta orpo_alpha orpo_beta orpo_lambda lambda_orpo odds_weight",
    "sft_coef": "sft_coef sft_weight nll_coef nll_weight",
    "average": "average average_log_prob average_logprob average_logprobs length_normalize normalize_by_length",
    "reference_point": "reference_point kl z z0 z_ref kl_div kl_ref kl_estimate ref_point mean_kl kl_term",
    "desirable_weight": "desirable_weight lambda_d w_d lambda_desirable weight_desirable weight_d",
    "undesirable_weight": "undesirable_weight lambda_u w_u lambda_undesirable weight_undesirable weight_u",
    "high": "high cap tis_cap imp_ratio_cap tis_imp_ratio_cap clip_max vllm_importance_sampling_cap c_max max_weight "
            "truncated_importance_sampling_ratio_cap importance_sampling_cap",
    "low": "low clip_min min_weight",
    "cap": "cap tis_cap ratio_cap max_ratio",
    "kept_max": "kept_max",
    "tau": "tau discopop_tau",
    "target": "target kl_target target_kl",
    "centre": "centre center center_coef center_rewards_coef centering_coef",
    "reward_shift": "reward_shift running_mean running_mean_value baseline_shift",
    "preference_coef": "preference_coef w_p preference_weight preference_loss_weight dpo_weight",
    "quality_coef": "quality_coef w_q quality_weight quality_loss_weight bco_weight pref_bco_weight",
    "alpha": "alpha ld_alpha lc_alpha f_alpha_divergence_coef alpha_divergence_coef",
    "penalty_coef": "penalty_coef penalty lam lambda dpop_lambda dpo_positive_lambda lambda_dpop",
    "divergence": "divergence f_divergence f_divergence_type divergence_type",
    "desirable_denominator": "desirable_denominator n_desirable num_desirable n_chosen n_good num_good",
    "undesirable_denominator": "undesirable_denominator n_undesirable num_undesirable n_rejected n_bad num_bad",
    "max_length": "max_length l_max max_resp_len max_response_length max_len max_completion_length max_tokens",
    "cache": "cache cache_len buffer buffer_len overlong_buffer_len overlong_buffer cache_length "
             "soft_punish_cache l_cache",
    "level": "level importance_sampling_level rollout_is is_level",
}
# fmt: on
WORDS: dict[str, dict[Any, Any]] = {  # where a setting's values have names: their parameter -> our value -> their word
    **{k: {0.0: "forward", 1.0: "reverse"} for k in ("kl_direction", "direction", "kl_type")},
    "divergence": {0.0: "forward_kl", 1.0: "reverse_kl", 0.5: "jsd"},
    "f_divergence_type": {
        "js": "js_divergence",
        "forward-kl": "forward_kl",
        "reverse-kl": "reverse_kl",
        "alpha": "alpha_divergence",
    },
    **{k: {"tail": True, "renormalise": False} for k in ("add_tail", "distillation_add_tail", "loss_add_tail")},
}
AGGREGATIONS = {  # loss_agg_mode, as verl names them
    "token_mean": "token-mean",
    "sequence_sum": "seq-mean-token-sum",
    "sequence_mean": "seq-mean-token-mean",
}


JOINED = re.compile(
    "(new|old|ref|reference|policy|behavior|teacher|chosen|rejected|next|curr?|sampler|vllm|token)"
    "(logps?|logprobs?|values?|advs?|advantages?|logits?|log_?ratios?|rewards?)"
)


def words(name: str) -> list[str]:
    """``refPerTokenLogps`` -> ref, per, token, logp."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    snake = re.sub(r"log_?probabilit(y|ies)", "logprobs", snake)
    snake = re.sub(r"log_(?=p(rob)?s?(_|$)|pi|ratio|probs)", "log", snake)
    snake = snake.replace("coefficient", "coef").replace("coeff", "coef").replace("normalis", "normaliz")
    parts = (JOINED.fullmatch(w) for w in snake.split("_") if w)
    return [w for w, m in zip(filter(None, snake.split("_")), parts, strict=True) for w in (m.groups() if m else (w,))]


def role(name: str) -> str | None:
    """The argument of ours that a parameter of this name usually is; None where it cannot be told."""
    ws = words(name)
    what = next((k for k, known in WHAT.items() for w in ws if w in known.split()), None)
    if "mask" in ws or "mask" in name.lower():
        what = "mask"
    whose = [k for k, known in WHOSE.items() if any(w in known.split() for w in ws)]
    if what is None:
        return "_".join([*whose, "log_probs"]) if {"chosen", "rejected"} & set(whose) else None  # as in pi_w, ref_l
    if what == "mask":
        return next((f"{k}_mask" for k in ("chosen", "rejected") if k in whose), "mask")
    if what == "log_probs" and whose in (["old", "sampler"], ["sampler"]):
        return "sampler_log_probs"
    return "_".join([*whose, what])


def setting(name: str) -> list[str]:
    """The settings of ours that a parameter of this name may be."""
    joined = "_".join(words(name))
    return [k for k, known in SETTINGS.items() if joined in known.split()]


NEW = {"new", "current", "curr", "cur", "updated", "theta", "pi", "policy", "vpred", "vpreds"}
PADS = {"pad", "pads", "padding", "padded", "ignore", "ignored", "prompt"}
OF_TOKENS = {"response", "completion", "action", "token", "tokens", "attention", "loss", "eos", "label"} | PADS


def is_new(name: str) -> bool:
    """Does it say that it is the present policy's, or critic's? What else has no word is then the old one's."""
    return bool(NEW & set(words(name))) or "new" in name.lower()


def is_padding(name: str) -> bool:
    """A mask that is True where nothing counts, by its name."""
    return bool(PADS & set(words(name))) and "mask" in name.lower()


def near_roles(guess: str | None) -> list[str]:
    """What a role may be called in an objective that has another word for it."""
    others = {
        "ref_log_probs": ["teacher_log_probs", "old_log_probs"],
        "old_log_probs": ["ref_log_probs", "sampler_log_probs", "log_probs"],
        "sampler_log_probs": ["old_log_probs"],
        "teacher_log_probs": ["ref_log_probs"],
        "teacher_logits": ["ref_logits"],
        "rewards": ["scores", "returns"],
        "chosen_rewards": ["chosen_log_probs"],
        "rejected_rewards": ["rejected_log_probs"],
        "targets": ["tokens", "completions"],
        "returns": ["advantages"],
        "advantages": ["returns"],
        "values": ["old_values", "baseline", "x"],
        "log_probs": ["x", "old_log_probs"],
        "ref_logits": ["teacher_logits"],
    }
    return [] if guess is None else [guess, *others.get(guess, [])]
