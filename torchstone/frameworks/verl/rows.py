"""verl 0.9.1: the estimators and losses of verl/trainer/ppo/core_algos.py, as its trainer calls them.

Everywhere: the trainer gives the counts of the whole mini-batch. Whitening takes n / (n - 1) in float32.
"""

from __future__ import annotations

from torchstone.frameworks import beside
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.online import PolicyRecipe

VERSION = "verl-0.9.1"
ALGOS, WEIGHTS = "verl/trainer/ppo/core_algos.py", "verl/trainer/ppo/rollout_corr_helper.py:197-413, 522-657"
GROUP_STD = Choice("group-std", correction=1, eps=1e-6)
WHITEN = Choice("whiten", correction=1, eps=1e-8)
DUAL_CLIP = Choice("clip", epsilon=0.2, dual_clip=3.0)
CRITIC = {
    "advantage": Choice("critic", gamma=1.0, lam=1.0),
    "normalise": WHITEN,
    "value": Choice("squared-error", coef=1.0, epsilon=0.5),
}
PER_ROW = Choice("sequence-mean", empty_rows="counted")
GEOMETRIC = "rollout_rs=seq_mean_k1, rollout_rs_threshold=0.999_1.001"
INVERSE = "The bounds are those of the inverse ratio, engine / trainer: 0.999 and 1.001 keep 1 / 1.001 to 1 / 0.999."


def left_out(row: PolicyRecipe) -> str:
    """What verl does beside these choices."""
    said = []
    if row.surrogate.name in ("clip", "sapo"):  # of cispo the weight is within its bounds long before; gmpo is not cut
        said.append(beside.LOG_RATIOS_CUT if row.ratio.name == "token" else beside.MEAN_LOG_RATIO_CUT)
    elif row.surrogate.name == "dppo":
        said.append("the log-ratio in a weight is cut at -20")
    if row.surrogate.name == "quadratic":
        said.append("the value has -A log pi for -A s, a constant more")
    if row.surrogate.name == "importance":
        said.append(beside.NO_TANGENT)
    if row.tokens.name != "all":
        said.append("covariances, counts and the pick are those of one micro-batch")
    if row.sampler.name != "none":
        said.append(beside.WEIGHTS_CUT)
    if row.sampler.numbers.get("gate") in ("sequence", "sequence-mean"):
        said.append("what is dropped leaves the mask: give the tokens that are kept as the denominator")
    if row.loss_kl.name != "none":
        said.append(beside.KL_CUT + ("" if row.loss_kl.name == "k3-k2-gradient" else beside.NO_GRADIENT))
    if row.advantage.name.startswith(("group-", "each-", "leave-one-out", "length-weighted")):
        said.append(beside.GROUP_OF_ONE)
    if row.advantage.name in ("group-std", "each-by-std") and row.groups.name == "all":
        said.append(beside.ROUNDING)
    return "; ".join(said) or "nothing"


GRPO = PolicyRecipe(
    name=f"grpo@{VERSION}",
    about="GRPO with a mean over tokens, a dual clip at 3, and no KL: its documentation asks for use_kl_loss=True.",
    advantage=GROUP_STD,
    ratio=Choice("token"),
    surrogate=DUAL_CLIP,
    reduction=Choice("token-mean"),
    source=f"{ALGOS}:267-331, 1285-1376 (adv_estimator=grpo)",
)


def online(name: str, lines: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """verl with these settings, and its defaults."""
    source = f"{ALGOS}:{lines} ({settings})"
    return GRPO.but(name=f"{name}@{VERSION}", about=about, source=source, **choices)


def loss_mode(name: str, lines: str, mode: str, about: str, **choices: Choice) -> PolicyRecipe:
    """GRPO's advantages with another loss."""
    return online(name, f"267-331, {lines}", f"adv_estimator=grpo, loss_mode={mode}", about, **choices)


def sampler(name: str, settings: str, about: str, **numbers: float | str | None) -> PolicyRecipe:
    """GRPO with weights for the samples of an inference engine (decoupled mode)."""
    row = GRPO.but(name=f"{name}@{VERSION}", about=about, sampler=Choice("weights", **numbers))
    return row.but(source=f"{GRPO.source[:-1]}, {settings}); weights: {WEIGHTS}")


ONLINE = [
    online(
        "ppo",
        "215-263, 1285-1376, 2125-2185",
        "adv_estimator=gae",
        "No KL, lambda 1, a dual clip at 3, whitened advantages; the critic has an optimiser of its own, so coef is 1.",
        **CRITIC,
    ),
    online(
        "ppo-kl",
        "215-263, 1285-1376, 2125-2185, 2188-2251",
        "adv_estimator=gae, use_kl_in_reward=True",
        "PPO with its KL, one a token in the reward.",
        reward_kl=Choice("per-token", estimator="k1", beta=0.001),
        **CRITIC,
    ),
    GRPO,
    online(
        "grpo-kl",
        "267-331, 1285-1376, 2188-2251",
        "adv_estimator=grpo, use_kl_loss=True",
        "GRPO with its KL (low_var_kl), at 0.001.",
        loss_kl=Choice("k3", beta=0.001),
    ),
    online(
        "grpo-kl+",
        "267-331, 1285-1376, 2188-2251",
        "adv_estimator=grpo, use_kl_loss=True, kl_loss_type=k3+",
        "GRPO whose KL reports k3 and pulls along k2's gradient.",
        loss_kl=Choice("k3-k2-gradient", beta=0.001),
    ),
    online(
        "dr_grpo",
        "267-331, 1285-1376, 1181-1193",
        "adv_estimator=grpo, norm_adv_by_std_in_grpo=False, loss_agg_mode=seq-mean-token-sum-norm",
        "Dr. GRPO; the constant length is loss_scale_factor, and without it the width of the padded batch.",
        advantage=Choice("group-mean"),
        reduction=Choice("fixed-length", empty_rows="counted"),
    ),
    online(
        "dapo",
        "267-331, 1285-1376",
        "adv_estimator=grpo, clip_ratio_high=0.28, overlong_buffer.len=4096, filter_groups.enable=True",
        "By its documentation's numbers, as the paper's, but a mean over the batch's tokens and a dual clip at 3. Tool "
        "output counts in the length.",
        penalty=Choice("overlong", cache=4096),
        groups=Choice("mixed"),
        surrogate=Choice("clip", epsilon=0.2, epsilon_high=0.28, dual_clip=3.0),
    ).but(
        source=f"{ALGOS}:267-331, 1285-1376; verl/workers/reward_manager/dapo.py:58-154 (adv_estimator=grpo, "
        "clip_ratio_high=0.28, overlong_buffer.len=4096, filter_groups.enable=True: docs/algo/dapo.md)"
    ),
    loss_mode(
        "gspo",
        "1545-1619",
        "gspo",
        "GSPO-token with GRPO's clip of 0.2 and a mean over tokens: a completion counts as often as it has tokens.",
        ratio=Choice("sequence-token"),
        surrogate=Choice("clip", epsilon=0.2),
    ),
    loss_mode(
        "sapo",
        "1622-1704",
        "sapo",
        "SAPO as published; loss_agg_mode is not read.",
        surrogate=Choice("sapo", tau_positive=1.0, tau_negative=1.05),
        reduction=PER_ROW,
    ),
    loss_mode(
        "gmpo",
        "1928-2011",
        "geo_mean",
        "GMPO with half the paper's clip; a mean over the rows of the micro-batch, loss_agg_mode is not read.",
        ratio=Choice("own"),
        surrogate=Choice("gmpo", epsilon=0.2),
        reduction=PER_ROW,
    ),
    loss_mode(
        "cispo",
        "2047-2105",
        "cispo",
        "The weight is bounded at 1.2, and at 0.8 from below: a token with ratio 0 still counts.",
        surrogate=Choice("cispo", epsilon=0.2, epsilon_high=0.2),
    ),
    loss_mode(
        "clip-cov",
        "1743-1846",
        "clip_cov",
        "Beside PPO's clip, which spares the tokens that it has stopped; one token at least is dropped.",
        surrogate=Choice("clip", epsilon=0.2),
        tokens=Choice("clip-cov", share=2e-4, low=1.0, high=5.0, least=1, epsilon=0.2),
    ),
    loss_mode(
        "kl-cov",
        "1848-1926",
        "kl_cov",
        "No clip, and a tenth of the absolute log-ratio for at least one token: ppo_kl_coef is 0.1 by default.",
        surrogate=Choice("importance"),
        tokens=Choice("kl-cov", share=2e-4, coef=0.1, least=1),
    ),
    loss_mode(
        "dppo",
        "1379-1457",
        "dppo_tv",
        "The cap is clip_ratio_c, so 3: the 20 in the code is never reached. Advantages are divided by the deviation.",
        surrogate=Choice("dppo", divergence="tv", epsilon=0.2, cap=3.0),
    ),
    loss_mode(
        "dppo-kl",
        "1460-1542",
        "dppo_kl",
        "As dppo, by the KL, whose logarithms have 1e-8 added inside.",
        surrogate=Choice("dppo", divergence="kl", epsilon=0.2, cap=3.0),
    ),
    loss_mode(
        "dro",
        "2014-2044",
        "dro, policy_loss.dro_beta=0.1",
        "Each token's own log-ratio, to the policy that sampled, and GRPO's advantages: of DRO the square. dro_beta "
        "has no default.",
        surrogate=Choice("quadratic", tau=0.1),
    ),
    online(
        "gpg",
        "770-831, 1707-1740",
        "adv_estimator=gpg, loss_mode=gpg",
        "Not the paper's correction: alpha counts completions whose reward is not 0, not groups that teach.",
        advantage=Choice("group-mean-by-nonzero"),
        ratio=Choice("none"),
        surrogate=Choice("policy-gradient"),
    ),
    online(
        "grpo-passk",
        "471-531, 1285-1376",
        "adv_estimator=grpo_passk",
        "The margin over the second, by the group's deviation (norm_adv_by_std_in_grpo); PPO's clip a token. The dual "
        "clip never acts, as no advantage is below 0.",
        advantage=Choice("best-margin-std", correction=1, eps=1e-6),
        surrogate=Choice("clip", epsilon=0.2),
    ),
    online(
        "gdpo",
        "361-468, 1285-1376",
        "adv_estimator=gdpo, gdpo_reward_keys, gdpo_reward_weights",
        "Whitened over tokens, where the paper does it over completions: long completions weigh more in the mean.",
        advantage=Choice("each-by-std", correction=1, eps=1e-6),
        normalise=WHITEN,
    ),
    online(
        "rloo",
        "587-636, 1285-1376",
        "adv_estimator=rloo",
        "The baseline alone: PPO's clip a token, a mean over tokens, and no KL.",
        advantage=Choice("leave-one-out"),
    ),
    online(
        "rloo-kl",
        "587-636, 1285-1376, 2188-2251",
        "adv_estimator=rloo, use_kl_in_reward=True",
        "As rloo; the completion's KL is part of its reward before the baseline is taken.",
        reward_kl=Choice("per-sequence", estimator="k1", beta=0.001),
        advantage=Choice("leave-one-out"),
    ),
    online(
        "remax",
        "734-766, 1285-1376",
        "adv_estimator=remax",
        "The baseline alone: PPO's clip a token, and a mean over tokens.",
        advantage=Choice("greedy"),
    ),
    online(
        "opo",
        "639-690, 1285-1376",
        "adv_estimator=opo",
        "The baseline alone: PPO's clip a token, and a mean over tokens.",
        advantage=Choice("length-weighted"),
    ),
    online(
        "reinforce++",
        "693-731, 1285-1376",
        "adv_estimator=reinforce_plus_plus",
        "No KL, a dual clip at 3, a mean over tokens. gamma is 1: below 1 it discounts once a chosen token.",
        advantage=Choice("reward"),
        normalise=WHITEN,
    ),
    online(
        "reinforce++-baseline",
        "533-584, 1285-1376",
        "adv_estimator=reinforce_plus_plus_baseline",
        "No KL, a dual clip at 3, a mean over tokens.",
        advantage=Choice("group-mean"),
        normalise=WHITEN,
    ),
    sampler(
        "tis",
        "rollout_is=token",
        "Each token's weight is truncated at 2.",
        level="token",
        gate=None,
        low=None,
        high=2.0,
    ),
    sampler(
        "tis-sequence",
        "rollout_is=sequence",
        "The product of the weights, truncated at 2.",
        level="sequence",
        gate=None,
        low=None,
        high=2.0,
    ),
    sampler(
        "icepop",
        "rollout_is=token, rollout_is_threshold=0.5_5.0",
        "IcePop with a mean over tokens; those that are dropped stay in the count.",
        level="token",
        gate="token",
        low=0.5,
        high=5.0,
    ),
    sampler(
        "seq-mis",
        "rollout_is=sequence, rollout_rs=seq_sum_k1, rollout_rs_threshold=0.5_2.0: decoupled_seq_is_rs()",
        "A lower bound too: completions whose product of weights is below 0.5 are dropped as well.",
        level="sequence",
        gate="sequence",
        low=0.5,
        high=2.0,
    ),
    sampler(
        "geo-rs",
        f"rollout_is=null, {GEOMETRIC}: decoupled_geo_rs()",
        INVERSE,
        level="one",
        gate="sequence-mean",
        low=1 / 1.001,
        high=1 / 0.999,
    ),
    sampler(
        "geo-rs-token-tis",
        f"rollout_is=token, {GEOMETRIC}: decoupled_geo_rs_token_tis()",
        INVERSE,
        level="token",
        gate="sequence-mean",
        low=1 / 1.001,
        high=1 / 0.999,
        kept_max=2.0,
    ),
]

ROWS: list[Recipe] = [row.but(left_out=left_out(row)) for row in ONLINE]
