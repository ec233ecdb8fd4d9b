"""SkyRL 0.3.0: the estimators and losses of its registries, as its trainer and its workers call them.

Its KL (k3, 0.001) is on by default and a mean over completions, whatever the policy's loss is: the table has one mean
for both. So it is on where ``loss_reduction`` is sequence_mean, and elsewhere off (``use_kl_loss=false``).

No row has these. ``rollout_is``: the ratio to the engine weighs a token, and drops it outside 0.8 to 1.2, whatever the
advantage's sign. ``kl_cov``: the trainer divides the advantages by the batch's tokens, and not the penalty beside
them, which so grows with the batch. ``cross_entropy``, which reads no advantages. ``outlier_token_is_threshold_*``,
which drop a completion for a single token.
"""

from __future__ import annotations

from torchstone.frameworks import beside
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.online import PolicyRecipe

VERSION = "skyrl-0.3.0"
UTILS, CORRECTION = "skyrl/backends/skyrl_train/utils/ppo_utils.py", "off_policy_correction_utils.py"
CLIP, EXAMPLE_CLIP = Choice("clip", epsilon=0.2), Choice("clip", epsilon=0.2, epsilon_high=0.28, dual_clip=10.0)
PER_ROW = Choice("sequence-mean", empty_rows="counted")
KL = Choice("k3", beta=0.001)
CRITIC = {
    "advantage": Choice("critic", gamma=1.0, lam=1.0),
    "normalise": Choice("whiten", correction=1, eps=1e-8),
}


def left_out(row: PolicyRecipe) -> str:
    """What SkyRL does beside these choices."""
    said = []
    own = row.name.startswith("clip-cov")  # its loss takes exp itself
    if row.surrogate.name in ("clip", "sapo", "dppo") and not own:  # cispo's weight is within its bounds long before
        said.append(beside.LOG_RATIOS_CUT if row.ratio.name == "token" else beside.MEAN_LOG_RATIO_CUT)
    if row.surrogate.name == "importance" or own:
        said.append(beside.NO_TANGENT)
    if row.surrogate.name == "dppo":
        said.append("the value is -A rho, of the same gradient")
    if row.sampler.name != "none":
        said.append(beside.WEIGHTS_CUT)
    if row.loss_kl.name != "none":
        said.append(beside.KL_CUT + beside.NO_GRADIENT)
    elif row.reward_kl.name == "none":
        said.append("the KL, on by default: 0.001 k3 as a mean over completions")
    if row.reward_kl.name != "none":
        said.append("k3 is cut at 10")
    if row.advantage.name == "critic":
        said.append("the critic's loss, half of the larger squared error of two, of a value and of one within 0.2 of "
                    "the old, is a mean over completions")  # fmt: skip
    if row.normalise.name == "whiten":
        said.append("tool output counts in the whitening")
    if row.advantage.name == "max-likelihood":
        said.append("1e-6 is added to the mean that it divides by")
    if row.advantage.name in ("group-std", "group-mean", "max-likelihood"):
        said.append(beside.GROUP_OF_ONE)
    if row.advantage.name == "group-std" and row.groups.name == "all":
        said.append(beside.ROUNDING)
    if row.groups.name == "mixed":
        said.append("its example's own trainer adds a penalty for length and masks what was cut off")
    return "; ".join(said)


GRPO = PolicyRecipe(
    name=f"grpo@{VERSION}",
    about="GRPO with a mean over tokens; the KL is beside it, not in it.",
    advantage=Choice("group-std", correction=1, eps=1e-6),
    ratio=Choice("token"),
    surrogate=CLIP,
    reduction=Choice("token-mean"),
    source=f"{UTILS}:1286-1336, 554-586, 1088-1163 (advantage_estimator=grpo, use_kl_loss=false)",
)


def online(name: str, lines: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """SkyRL with these settings, and its defaults."""
    source = f"{UTILS}:{lines}, 1088-1163 ({settings})"
    return GRPO.but(name=f"{name}@{VERSION}", about=about, source=source, **choices)


def loss_type(name: str, lines: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """GRPO's advantages with another loss."""
    return online(name, f"1286-1336, {lines}", f"policy_loss_type={settings}", about, **choices)


def sampler(name: str, settings: str, about: str, **numbers: float | str | None) -> PolicyRecipe:
    """GRPO with weights, or masks, for the samples of an inference engine."""
    row = GRPO.but(name=f"{name}@{VERSION}", about=about, sampler=Choice("weights", **numbers))
    return row.but(source=f"{GRPO.source[:-1]}, off_policy_correction: {settings}); {CORRECTION}:24-385")


ONLINE = [
    online(
        "ppo",
        "1255-1283, 554-586",
        "advantage_estimator=gae, use_kl_loss=false",
        "Its actor: no KL, lambda 1, whitened advantages. The critic learns by a mean of its own, which the row leaves "
        "out.",
        **CRITIC,
    ),
    online(
        "ppo-kl",
        "88-125, 1255-1283, 554-586",
        "advantage_estimator=gae, use_kl_in_reward=true, use_kl_loss=false",
        "PPO's actor with a KL a token in the reward: k3, which is 0 or more for each token.",
        reward_kl=Choice("per-token", estimator="k3", beta=0.001),
        **CRITIC,
    ),
    online(
        "ppo-dual-clip",
        "1255-1283, 554-586",
        "advantage_estimator=gae, policy_loss_type=dual_clip, use_kl_loss=false",
        "PPO's actor with the dual clip at 3.",
        surrogate=Choice("clip", epsilon=0.2, dual_clip=3.0),
        **CRITIC,
    ),
    GRPO,
    online(
        "grpo-kl",
        "1286-1336, 554-586, 88-125",
        "advantage_estimator=grpo, loss_reduction=sequence_mean",
        "GRPO with its KL, where both are a mean over completions.",
        loss_kl=KL,
        reduction=PER_ROW,
    ),
    online(
        "dr_grpo",
        "1286-1336, 554-586",
        "advantage_estimator=grpo, grpo_norm_by_std=false, loss_reduction=seq_mean_token_sum_norm, max_seq_len, "
        "use_kl_loss=false",
        "Dr. GRPO; the constant length must be given, and its example counts the prompt in it.",
        advantage=Choice("group-mean"),
        reduction=Choice("fixed-length", empty_rows="counted"),
    ),
    online(
        "dapo",
        "1286-1336, 554-586",
        "advantage_estimator=grpo, policy_loss_type=dual_clip, eps_clip_high=0.28, clip_ratio_c=10, "
        "loss_reduction=token_mean_legacy, dynamic_sampling.type=filter, use_kl_loss=false: its example dapo",
        "By its example's numbers: a dual clip at 10, and the mean over each micro-batch's tokens, which is that over "
        "the batch's where there is one.",
        groups=Choice("mixed"),
        surrogate=EXAMPLE_CLIP,
    ),
    online(
        "dapo-prompt-mean",
        "1286-1336, 554-586",
        "as dapo, loss_reduction=prompt_mean",
        "DAPO's mean as its paper prints it, beside its example's other numbers.",
        groups=Choice("mixed"),
        surrogate=EXAMPLE_CLIP,
        reduction=Choice("group-token-mean"),
    ),
    loss_type(
        "gspo",
        "662-728, 88-125",
        "gspo, loss_reduction=sequence_mean: as it warns",
        "GSPO-token with GRPO's clip of 0.2, which it hardly reaches, and a KL.",
        ratio=Choice("sequence-token"),
        loss_kl=KL,
        reduction=PER_ROW,
    ),
    loss_type(
        "sapo",
        "589-659, 88-125",
        "sapo, loss_reduction=sequence_mean: as it warns",
        "SAPO with a KL.",
        surrogate=Choice("sapo", tau_positive=1.0, tau_negative=1.05),
        loss_kl=KL,
        reduction=PER_ROW,
    ),
    loss_type(
        "cispo",
        "731-764",
        "cispo, use_kl_loss=false",
        "The weight is bounded at 1 + 5 from above, and at 1 - 0 from below: what has become rarer weighs 1.",
        surrogate=Choice("cispo", epsilon=0.0, epsilon_high=5.0),
    ),
    loss_type(
        "clip-cov",
        "881-941",
        "clip_cov, use_kl_loss=false",
        "PPO's clip alone. Covariances are those of advantages divided by the batch's tokens: of more than a few "
        "tokens none is between the bounds, 1 and 5, and none is dropped.",
    ),
    loss_type(
        "dppo",
        "809-878",
        "dppo, use_kl_loss=false",
        "To the engine's log-probs, as published, and without a cap. Advantages are divided by the deviation.",
        anchor=Choice("sampler"),
        surrogate=Choice("dppo", divergence="tv", epsilon=0.2, cap=None),
    ),
    loss_type(
        "dppo-kl",
        "809-878",
        "dppo, dppo.dppo_type=binary_kl, use_kl_loss=false",
        "As dppo, by the KL, whose logarithms have 1e-8 added inside; 0.2 is what it recommends for the other, and "
        "0.05 for this one.",
        anchor=Choice("sampler"),
        surrogate=Choice("dppo", divergence="kl", epsilon=0.2, cap=None),
    ),
    loss_type(
        "importance-sampling",
        "1038-1085",
        "importance_sampling, use_kl_loss=false",
        "No clip: the ratio as it is. Of a client's call it takes the sum, in its own training this mean.",
        surrogate=Choice("importance"),
    ),
    online(
        "rloo",
        "1202-1252, 554-586",
        "advantage_estimator=rloo, use_kl_loss=false",
        "The baseline alone: PPO's clip a token, a mean over tokens, and no KL.",
        advantage=Choice("leave-one-out"),
    ),
    online(
        "rloo-kl",
        "88-125, 1202-1252, 554-586",
        "advantage_estimator=rloo, use_kl_in_reward=true, use_kl_loss=false: its example rloo",
        "As rloo; the completion's KL (k3) is part of its reward before the baseline is taken.",
        reward_kl=Choice("per-sequence", estimator="k3", beta=0.001),
        advantage=Choice("leave-one-out"),
    ),
    online(
        "maxrl",
        "1339-1371, 554-586",
        "advantage_estimator=maxrl, use_kl_loss=false",
        "The advantage alone: PPO's clip a token, and a mean over tokens.",
        advantage=Choice("max-likelihood"),
    ),
    online(
        "reinforce++",
        "1167-1199, 554-586",
        "advantage_estimator=reinforce++, use_kl_loss=false",
        "No KL, a mean over tokens. gamma is 1; below 1, tool output would count as steps.",
        advantage=Choice("reward"),
        normalise=CRITIC["normalise"],
    ),
    sampler(
        "tis",
        "tis_ratio_type=token",
        "Each token's weight is truncated at 2.",
        level="token",
        gate=None,
        low=None,
        high=2.0,
    ),
    sampler(
        "tis-sequence",
        "tis_ratio_type=sequence",
        "The product of the weights, truncated at 5.",
        level="sequence",
        gate=None,
        low=None,
        high=5.0,
    ),
    sampler(
        "icepop",
        "tis_ratio_type=token, token_mask_is_threshold_low=0.5, token_mask_is_threshold_high=5",
        "The paper's bounds, which have no default; what is kept weighs 2 at most. Those that are dropped stay in the "
        "count.",
        level="token",
        gate="token",
        low=0.5,
        high=5.0,
        kept_max=2.0,
    ),
    sampler(
        "seq-mis",
        "tis_ratio_type=sequence, sequence_mask_metric=product",
        "A lower bound too: completions whose product of weights is below 0.5 are dropped as well. They stay in the "
        "count.",
        level="sequence",
        gate="sequence",
        low=0.5,
        high=2.0,
    ),
    sampler(
        "geo-rs",
        "sequence_mask_metric=geometric",
        "Completions whose mean weight (geometric) is outside 0.99 to 1.01 are dropped. They stay in the count.",
        level="one",
        gate="sequence-mean",
        low=0.99,
        high=1.01,
    ),
    sampler(
        "geo-rs-token-tis",
        "tis_ratio_type=token, sequence_mask_metric=geometric",
        "As geo-rs; the tokens that are kept weigh what they should, 2 at most.",
        level="token",
        gate="sequence-mean",
        low=0.99,
        high=1.01,
        kept_max=2.0,
    ),
]

ROWS: list[Recipe] = [row.but(left_out=left_out(row)) for row in ONLINE]
