"""Liger 0.8.5: the fused losses of liger_kernel.chunked_loss, with the defaults of its modules.

Liger computes losses alone: the advantages of its policy rows are TRL's, whose trainer calls it. It casts the head's
log-probs to float32.
"""

from __future__ import annotations

from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.policy import PolicyRecipe
from torchstone.recipes.preference import PreferenceRecipe

VERSION = "liger-0.8.5"
GRPO, DPO = "liger_kernel/chunked_loss/grpo_loss.py:101-267", "liger_kernel/chunked_loss/dpo_loss.py:9-153"

PER_ROW = Choice("sequence-mean", empty_rows="counted")
SFT = Choice("chosen", coef=1.0, mean="token")

DAPO = PolicyRecipe(
    name=f"dapo@{VERSION}",
    about="The default: of DAPO only the mean over tokens, and a KL (k3) of 0.04, which DAPO has not.",
    advantage=Choice("group-std", correction=1, eps=1e-4),
    ratio=Choice("token"),
    surrogate=Choice("clip", epsilon=0.2),
    loss_kl=Choice("k3", beta=0.04),
    reduction=Choice("token-mean"),
    source=f"{GRPO} (LigerFusedLinearGRPOLoss())",
)


def policy(name: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """LigerFusedLinearGRPOLoss with these settings."""
    source = f"{GRPO} (LigerFusedLinearGRPOLoss({settings}))"
    return DAPO.but(name=f"{name}@{VERSION}", about=about, source=source, **choices)


POLICY = [
    DAPO,
    policy("grpo", "loss_type='grpo'", "GRPO as published; rows without a token count.", reduction=PER_ROW),
    policy("bnpo", "loss_type='bnpo'", "The mean over the tokens of the tensors given, and a KL of 0.04."),
    policy(
        "dr_grpo",
        "loss_type='dr_grpo', max_completion_length=...",
        "The constant length, and a KL of 0.04, which Dr. GRPO has not.",
        reduction=Choice("fixed-length", empty_rows="counted"),
    ),
    policy(
        "gspo",
        "importance_sampling_level='sequence', loss_type='grpo'",
        "GSPO's ratio with GRPO's clip of 0.2, which it hardly reaches, and a KL of 0.04.",
        ratio=Choice("sequence"),
        reduction=PER_ROW,
    ),
    policy(
        "luspo",
        "importance_sampling_level='sequence', loss_type='luspo', beta=0.0",
        "LUSPO. With a ratio a token, or with a KL (both are defaults), the loss at padding enters it.",
        ratio=Choice("sequence"),
        loss_kl=Choice("none"),
        reduction=Choice("sequence-sum", empty_rows="counted"),
    ),
    policy(
        "cispo",
        "loss_type='cispo'",
        "epsilon_high is the cap itself, and by default 0.2: a token on policy weighs 0.2. A KL of 0.04.",
        surrogate=Choice("cispo", epsilon=None, cap=0.2),
    ),
    policy(
        "sapo",
        "loss_type='sapo'",
        "SAPO, and a KL of 0.04.",
        surrogate=Choice("sapo", tau_positive=1.0, tau_negative=1.05),
        reduction=PER_ROW,
    ),
    policy(
        "vespo",
        "loss_type='vespo'",
        "The mean over tokens in place of the sum, and a KL of 0.04; log W is cut at -18.4 and 20.",
        ratio=Choice("own"),
        surrogate=Choice("vespo", k_positive=2.0, lambda_positive=3.0, k_negative=3.0, lambda_negative=2.0),
    ),
    policy(
        "intellect-2",
        "delta=4.0",
        "The two-sided clip; delta has no default, 4 is the paper's. Below 1 + epsilon it would bind at A > 0 too.",
        surrogate=Choice("clip", epsilon=0.2, dual_clip=4.0),
    ),
    policy(
        "deepseek-v3.2",
        "use_bias_correction_kl=True",
        "The KL weighted by the ratio; completions left far behind are not dropped, the mean is over tokens.",
        loss_kl=Choice("k3-by-ratio", beta=0.04),
    ),
]


def preference(
    name: str, settings: str, about: str, objective: Choice, log_prob: str = "sum", sft: Choice | None = None,
    module: str = "DPO",
) -> PreferenceRecipe:  # fmt: skip
    """A fused preference loss with these settings."""
    files = {"DPO": DPO, "SimPO": "simpo_loss.py:9-48", "CPO": "cpo_loss.py:9-40", "ORPO": "orpo_loss.py:9-43",
             "KTO": "kto_loss.py:9-69"}  # fmt: skip
    file = files[module] if module == "DPO" else f"liger_kernel/chunked_loss/{files[module]}"
    return PreferenceRecipe(
        name=f"{name}@{VERSION}",
        about=about,
        log_prob=Choice(log_prob),
        objective=objective,
        sft=Choice("none") if sft is None else sft,
        source=f"{file} (LigerFusedLinear{module}Loss({settings}))",
    )


LOGISTIC = Choice("logistic", beta=0.1)

PREFERENCE = [
    preference("dpo", "", "DPO as published; a reference that is missing counts as log-prob 0.", LOGISTIC),
    preference(
        "cdpo",
        "label_smoothing=0.1",
        "Not cDPO: loss_type 'sigmoid' does not read label_smoothing, so this is DPO, without a warning.",
        LOGISTIC,
    ),
    preference(
        "robust_dpo",
        "loss_type='robust', label_smoothing=0.1",
        "label_smoothing is the flip rate; by default it is 0, which is DPO.",
        Choice("robust", beta=0.1, flip_rate=0.1),
    ),
    preference(
        "rso",
        "loss_type='hinge'",
        "The hinge on differences of implicit rewards, with DPO's beta.",
        Choice("hinge", beta=0.1, delta=1.0),
    ),
    preference(
        "exo",
        "loss_type='exo_pair', label_smoothing=1e-3",
        "label_smoothing must be given; 1e-3 is what Liger's error message recommends.",
        Choice("exo", beta=0.1, label_smoothing=1e-3),
    ),
    preference("nca", "loss_type='nca_pair'", "Pairwise NCA as published.", Choice("nca", beta=0.1)),
    preference(
        "bco",
        "loss_type='bco_pair'",
        "Without the running mean of the rewards that the paper subtracts: good and bad are told apart at 0.",
        Choice("bco", beta=0.1, reward_shift=0.0),
    ),
    preference(
        "sppo",
        "loss_type='sppo_hard'",
        "The hard form; with DPO's beta of 0.1 a log-ratio is pulled to 5 nats, with the authors' 0.001 to 500.",
        Choice("sppo", beta=0.1),
    ),
    preference("apo_zero", "loss_type='apo_zero'", "APO-zero.", Choice("apo-zero", beta=0.1)),
    preference("apo_down", "loss_type='apo_down'", "APO-down.", Choice("apo-down", beta=0.1)),
    preference(
        "discopop",
        "loss_type='discopop'",
        "DiscoPOP with DPO's beta; the exponential is not bounded.",
        Choice("discopop", beta=0.1, tau=0.05),
    ),
    preference(
        "iterative-rpo",
        "compute_nll_loss=True",
        "The supervised term is a mean over the batch's tokens, not over each completion's.",
        LOGISTIC,
        sft=SFT,
    ),
    preference(
        "dpo-norm",
        "average_log_prob=True",
        "Log-probs per token with a beta meant for sums: gradients are about a length smaller than DPO's.",
        LOGISTIC,
        "mean",
    ),
    preference(
        "kto",
        "use_ref_model=True",
        "KTO without class weights. The reference point must be given, and is not clamped at 0.",
        Choice("kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        module="KTO",
    ),
    preference(
        "cpo",
        "",
        "The supervised term is a mean over the batch's tokens, beside sums of log-probs.",
        Choice("logistic-free", beta=0.1, gamma=0.0),
        sft=SFT,
        module="CPO",
    ),
    preference(
        "simpo",
        "",
        "SimPO with supervised learning, unless compute_nll_loss is False; beta 0.1 is a twentieth of the paper's.",
        Choice("logistic-free", beta=0.1, gamma=0.5),
        "mean",
        SFT,
        "SimPO",
    ),
    preference(
        "orpo",
        "",
        "The supervised term is a mean over the batch's tokens; where a log-prob rounds to 0 the gradient is NaN.",
        Choice("odds-ratio", odds_coef=0.1, sft_coef=0.0),
        "mean",
        SFT,
        "ORPO",
    ),
]

ROWS: list[Recipe] = [*POLICY, *PREFERENCE]
