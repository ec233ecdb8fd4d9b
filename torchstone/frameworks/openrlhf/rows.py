"""OpenRLHF 0.11.2: the estimators of train_ppo_ray with its actor's and critic's losses, and train_dpo.

Everywhere but with --algo.kl.use_loss: a KL of 0.01 (k1) a token in the reward, added after the baseline and the scale,
and not before them.
"""

from __future__ import annotations

from torchstone.frameworks import beside
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.online import PolicyRecipe
from torchstone.recipes.pairs import PreferenceRecipe

VERSION = "openrlhf-0.11.2"
MAKER, LOSS = "openrlhf/trainer/ppo_utils/experience_maker.py:237-421", "openrlhf/models/loss.py"
KL, NONE = Choice("per-token", estimator="k1", beta=0.01), Choice("none")
WHITEN = Choice("whiten", correction=0, eps=0.0)
CLIP = Choice("clip", epsilon=0.2)
CRITIC = {
    "advantage": Choice("critic", gamma=1.0, lam=1.0),
    "normalise": WHITEN,
    "value": Choice("squared-error", coef=1.0, epsilon=0.5),
}


def left_out(row: PolicyRecipe) -> str:
    """What OpenRLHF does beside these choices."""
    own = row.advantage.name in ("critic", "reward")
    said = ["rewards are clipped to -10 and 10" + ("" if own else " after the baseline")]
    if row.ratio.name == "token":
        said.append(beside.LOG_RATIOS_CUT)
    if row.reward_kl.name != "none":
        said.append("a token's KL is cut at -10 and 10")
    if row.loss_kl.name != "none":
        said.append("the KL is cut at 10, with gradient 0 beyond")
    if row.normalise.name == "whiten":
        said.append("whitening floors the variance at 1e-8 and adds nothing to it")
    if row.advantage.name == "group-std" and row.groups.name == "all":
        said.append("equal rewards leave rounding over its own deviation: up to about 1 in place of 0")
    return "; ".join(said)


GRPO = PolicyRecipe(
    name=f"grpo@{VERSION}",
    about="GRPO with a mean over tokens, and with its KL in the reward: each token's is added after the division.",
    reward_kl=KL,
    advantage=Choice("group-std", correction=1, eps=1e-9),
    ratio=Choice("token"),
    surrogate=CLIP,
    reduction=Choice("token-mean"),
    source=f"{MAKER}; {LOSS}:11-39, 116-259 (algo.advantage.estimator=group_norm)",
)


def online(name: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """train_ppo_ray with these settings, and its defaults."""
    source = f"{MAKER}; {LOSS}:11-39, 116-259 ({settings})"
    return GRPO.but(name=f"{name}@{VERSION}", about=about, source=source, **choices)


def critic(name: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """PPO with a critic."""
    row = online(name, settings, about, **CRITIC, **choices)
    return row.but(source=row.source.replace("116-259", "116-298"))


def sampler(name: str, settings: str, about: str, gate: str | None) -> PolicyRecipe:
    """GRPO with weights for the samples of vLLM."""
    weights = Choice("weights", level="token", gate=gate, low=0.5, high=5.0)
    return online(name, f"algo.advantage.estimator=group_norm, {settings}", about, sampler=weights)


ONLINE = [
    critic(
        "ppo",
        "algo.advantage.estimator=gae",
        "Lambda 1; the critic has an optimiser of its own, so coef is 1. With gamma or lambda below 1, tool output "
        "would count as steps.",
    ),
    critic(
        "ppo-dual-clip",
        "algo.advantage.estimator=gae, actor.dual_clip=3",
        "PPO with the dual clip, which has no default: 3 is the paper's.",
        surrogate=Choice("clip", epsilon=0.2, dual_clip=3.0),
    ),
    online(
        "reinforce++",
        "algo.advantage.estimator=reinforce",
        "A mean over tokens. gamma is 1; below 1, tool output would count as steps.",
        advantage=Choice("reward"),
        normalise=WHITEN,
    ),
    online(
        "reinforce++-baseline",
        "algo.advantage.estimator=reinforce_baseline",
        "The KL is in the reward (k1), where the paper has it in the loss (k2); a mean over tokens.",
        advantage=Choice("group-mean"),
        normalise=WHITEN,
    ),
    online(
        "rloo",
        "algo.advantage.estimator=rloo",
        "The baseline sees no KL: each token pays its own afterwards. PPO's clip a token, and a mean over tokens.",
        advantage=Choice("leave-one-out"),
    ),
    GRPO,
    online(
        "grpo-kl",
        "algo.advantage.estimator=group_norm, algo.kl.use_loss, algo.kl.estimator=k3",
        "GRPO with its KL in the loss; k3 must be asked for, by default it is k1, whose expected gradient is 0.",
        reward_kl=NONE,
        loss_kl=Choice("k3", beta=0.01),
    ),
    online(
        "dr_grpo",
        "algo.advantage.estimator=dr_grpo",
        "The group's mean alone: a mean over tokens in place of the constant length, which OpenRLHF has not.",
        advantage=Choice("group-mean"),
    ),
    online(
        "dapo",
        "algo.advantage.estimator=group_norm, actor.eps_clip_low_high=0.2 0.28, reward.overlong_buffer_len=4096, "
        "algo.dynamic_filtering_enable",
        "The paper's numbers, a mean over the batch's tokens, a KL in the reward. It keeps groups whose mean reward is "
        "between 0 and 1: for rewards of 0 and 1, the mixed ones.",
        penalty=Choice("overlong", cache=4096),
        groups=Choice("mixed"),
        surrogate=Choice("clip", epsilon=0.2, epsilon_high=0.28),
    ),
    online(
        "gspo",
        "algo.advantage.estimator=group_norm, actor.policy_loss_type=gspo",
        "GSPO's ratio and mean over rows, with GRPO's clip of 0.2, which it hardly reaches.",
        ratio=Choice("sequence"),
        reduction=Choice("sequence-mean", empty_rows="skipped"),
    ),
    online(
        "flash-reinforce",
        "algo.advantage.estimator=flash_reinforce",
        "One sample a prompt against the mean of the whole rollout; nothing is divided.",
        advantage=Choice("batch-mean"),
    ),
    sampler(
        "tis",
        "algo.advantage.is_correction_level=token, is_correction_mode=clip",
        "Each token's weight is clamped between 0.5 and 5: from below too.",
        None,
    ),
    sampler(
        "icepop",
        "algo.advantage.is_correction_level=token",
        "Tokens with a weight outside 0.5 to 5 are dropped; they stay in the count.",
        "token",
    ),
    sampler(
        "seq-mask-tis",
        "algo.advantage.is_correction_level=seq",
        "Completions whose mean weight (geometric) is outside 0.5 to 5 are dropped; the others' tokens keep their own.",
        "sequence-mean",
    ),
]


def pairs(name: str, settings: str, about: str, objective: Choice, sft: Choice = NONE) -> PreferenceRecipe:
    """train_dpo with these settings."""
    return PreferenceRecipe(
        name=f"{name}@{VERSION}",
        about=about,
        log_prob=Choice("sum"),
        objective=objective,
        sft=sft,
        source=f"{LOSS}:329-364; openrlhf/trainer/dpo_trainer.py:165-179, 306-383 ({settings})",
        left_out="nothing",
    )


LOGISTIC = Choice("logistic", beta=0.1)
PAIRS = [
    pairs("dpo", "model.beta=0.1", "DPO as published.", LOGISTIC),
    pairs(
        "cdpo",
        "model.label_smoothing=0.1",
        "cDPO as published; label_smoothing is 0 by default, which is DPO.",
        Choice("logistic", beta=0.1, label_smoothing=0.1),
    ),
    pairs("ipo", "model.ipo_enable", "On summed log-probs, by the paper's letter.", Choice("squared", beta=0.1)),
    pairs(
        "iterative-rpo",
        "model.nll_loss_coef=1",
        "The mean over each chosen completion; nll_loss_coef is 0 by default, 1 is the paper's.",
        LOGISTIC,
        Choice("chosen", coef=1.0, mean="sequence"),
    ),
    pairs(
        "rpo",
        "model.beta=0.5, model.nll_loss_coef=0.2",
        "The authors' numbers for OpenRLHF (d0389c4): the mean over each chosen completion, in place of eta beta times "
        "the sum.",
        Choice("logistic", beta=0.5),
        Choice("chosen", coef=0.2, mean="sequence"),
    ),
]

ROWS: list[Recipe] = [*(row.but(left_out=left_out(row)) for row in ONLINE), *PAIRS]
