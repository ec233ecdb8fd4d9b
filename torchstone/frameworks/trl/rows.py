"""TRL 1.16.0: GRPOTrainer, RLOOTrainer, DPOTrainer, KTOTrainer; CPO, ORPO and GMPO of trl.experimental."""

from __future__ import annotations

from typing import Any

from torchstone.frameworks.trl.unit import VERSION
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.online import PolicyRecipe
from torchstone.recipes.pairs import PreferenceRecipe

GRPO, DPO = "trl/trainer/grpo_trainer.py:2759-2814, 3020-3290", "trl/trainer/dpo_trainer.py:1285-1530"

PER_ROW = Choice("sequence-mean", empty_rows="counted")
PER_SUM = Choice("sequence-sum", empty_rows="counted")
OVERFLOW = "exp itself at log-ratios above 20, up to its overflow above 88 in float32, where a row goes on as a tangent"
SFT = Choice("chosen", coef=1.0, mean="token")


def left_out(row: PolicyRecipe) -> str:
    """What TRL's policy losses do beside these choices."""
    if row.surrogate.name == "quadratic":
        return "a factor of 2 tau, and the mean of A^2; prompts whose samples all earn 0 are dropped beforehand"
    capped = row.surrogate.name in ("cispo", "vespo") and row.loss_kl.name == "none"
    said = [] if capped else [OVERFLOW]
    if row.tokens.name != "all":
        said.append("the quantile is taken in float32, over one micro-batch")
    if row.advantage.name in ("group-std", "each-by-std"):
        said.append("equal rewards may leave what rounding leaves, divided by 1e-4, in place of 0")
    return "; ".join(said) or "nothing"


DAPO = PolicyRecipe(
    name=f"dapo@{VERSION}",
    about="GRPOTrainer's default: of DAPO only the mean over tokens.",
    advantage=Choice("group-std", correction=1, eps=1e-4),
    ratio=Choice("token"),
    surrogate=Choice("clip", epsilon=0.2),
    reduction=Choice("token-mean"),
    source=f"{GRPO} (GRPOConfig())",
)


def online(name: str, settings: str, about: str, **choices: Choice) -> PolicyRecipe:
    """GRPOTrainer with these settings."""
    source = f"{GRPO} (GRPOConfig({settings}))"
    return DAPO.but(name=f"{name}@{VERSION}", about=about, source=source, **choices)


def sampler(name: str, mode: str, about: str, **numbers: Any) -> PolicyRecipe:
    """GRPOTrainer with vLLM as the sampler."""
    weights = Choice("weights", **numbers, low=None, high=3.0)
    row = online(name, f"use_vllm=True, vllm_importance_sampling_mode='{mode}'", about, sampler=weights)
    return row.but(source=f"{row.source}; weights: 2660-2703")


ONLINE = [
    DAPO,
    online("grpo", "loss_type='grpo'", "GRPO, by default without a KL; rows without a token count.", reduction=PER_ROW),
    online(
        "grpo-kl",
        "loss_type='grpo', beta=0.04",
        "GRPO with its KL, which TRL multiplies by the ratio unless use_bias_correction_kl is False.",
        loss_kl=Choice("k3-by-ratio", beta=0.04),
        reduction=PER_ROW,
    ),
    online(
        "bnpo",
        "loss_type='bnpo'",
        "The mean over the tokens of one micro-batch: with several of them, not the mean over the batch's tokens.",
    ),
    online(
        "dr_grpo",
        "loss_type='dr_grpo'",
        "The constant length (max_completion_length) alone: the deviation still divides; that is scale_rewards.",
        reduction=Choice("fixed-length", empty_rows="counted"),
    ),
    online(
        "dr_grpo-unscaled",
        "loss_type='dr_grpo', scale_rewards='none'",
        "Dr. GRPO as published: neither divisor.",
        advantage=Choice("group-mean"),
        reduction=Choice("fixed-length", empty_rows="counted"),
    ),
    online(
        "lite-ppo",
        "scale_rewards='batch'",
        "One deviation for the whole batch, and the mean over tokens.",
        advantage=Choice("batch-std", correction=1, eps=1e-4),
    ),
    online(
        "scalerl",
        "scale_rewards='batch', loss_type='cispo', epsilon_high=5.0",
        "TRL's index of papers has it so: the deviation of the rewards themselves, a mean over the batch's tokens, all "
        "groups, and the trainer's own old log-probs.",
        advantage=Choice("batch-std", correction=1, eps=1e-4),
        surrogate=Choice("cispo", epsilon=None, cap=5.0),
    ),
    online(
        "gdpo",
        "multi_objective_aggregation='normalize_then_sum'",
        "GDPO, with 1e-4 in both deviations and a mean over the batch's tokens. A reward that a function does not give "
        "(None) is skipped.",
        advantage=Choice("each-by-std", correction=1, eps=1e-4),
        normalise=Choice("whiten-completions", correction=1, eps=1e-4),
    ),
    online(
        "gspo",
        "importance_sampling_level='sequence', loss_type='grpo'",
        "GSPO's ratio with GRPO's clip of 0.2, which it hardly reaches; TRL's documentation sets 3e-4 and 4e-4.",
        ratio=Choice("sequence"),
        reduction=PER_ROW,
    ),
    online(
        "luspo",
        "loss_type='luspo'",
        "The sum over tokens, with a ratio a token; TRL warns, and asks for importance_sampling_level='sequence'.",
        reduction=PER_SUM,
    ),
    online(
        "cispo",
        "loss_type='cispo'",
        "epsilon_high is the cap itself, and by default 0.2: a token on policy weighs 0.2. The documentation sets 5.",
        surrogate=Choice("cispo", epsilon=None, cap=0.2),
    ),
    online(
        "sapo",
        "loss_type='sapo'",
        "SAPO as published.",
        surrogate=Choice("sapo", tau_positive=1.0, tau_negative=1.05),
        reduction=PER_ROW,
    ),
    online(
        "vespo",
        "loss_type='vespo'",
        "The mean over tokens in place of the sum, advantages divided by the deviation; log W is cut at -18.4 and 20.",
        ratio=Choice("own"),
        surrogate=Choice("vespo", k_positive=2.0, lambda_positive=3.0, k_negative=3.0, lambda_negative=2.0),
    ),
    online(
        "intellect-2",
        "delta=4.0",
        "The two-sided clip; delta has no default, 4 is the paper's. Below 1 + epsilon it would bind at A > 0 too.",
        surrogate=Choice("clip", epsilon=0.2, dual_clip=4.0),
    ),
    online(
        "deepseek-v3.2",
        "use_vllm=True, vllm_importance_sampling_correction=False, off_policy_mask_threshold=0.5, beta=0.001",
        "Both numbers are TRL's examples; by default the terms are off. Without vLLM the mask compares the trainer's "
        "old log-probs.",
        sampler=Choice("off-policy-mask", limit=0.5),
        loss_kl=Choice("k3-by-ratio", beta=0.001),
    ),
    online(
        "high-entropy",
        "top_entropy_quantile=0.2",
        "80/20 within one micro-batch of all ranks; the mean is over all tokens, so a step is a fifth of the authors'.",
        tokens=Choice("high-entropy", share=0.2, counted="all"),
    ).but(source=f"{GRPO} (GRPOConfig(top_entropy_quantile=0.2)); the mask: 1380-1416"),
    sampler("tis", "token_truncate", "Each token's weight is truncated at 3.", level="token", gate=None),
    sampler(
        "tis-sequence", "sequence_truncate", "The product of the weights, truncated at 3.", level="sequence", gate=None
    ),
    sampler(
        "icepop",
        "token_mask",
        "Tokens that weigh more than 3 are dropped; no lower bound.",
        level="token",
        gate="token",
    ),
    sampler(
        "seq-mis",
        "sequence_mask",
        "The default with vLLM: the product of the weights, and completions above 3 are dropped. A KL is not weighed.",
        level="sequence",
        gate="sequence",
    ),
    DAPO.but(
        name=f"gmpo@{VERSION}",
        about="GMPO as published; loss_type is not read. A row without a token adds -A to the value alone.",
        ratio=Choice("own"),
        surrogate=Choice("gmpo", epsilon=0.4),
        reduction=PER_ROW,
        source="trl/trainer/grpo_trainer.py:2759-2814; trl/experimental/gmpo/gmpo_trainer.py:43-155 (GMPOConfig())",
    ),
    PolicyRecipe(
        name=f"a*-po@{VERSION}",
        about="A*-PO as published: its squared error is 2 tau of this loss and a constant.",
        advantage=Choice("prompt-value"),
        anchor=Choice("reference"),
        ratio=Choice("product"),
        surrogate=Choice("quadratic", tau=1e-3),
        reduction=PER_ROW,
        source="trl/experimental/a2po/a2po_trainer.py:345-361 (A2POConfig()); its values: 255-270",
    ),
    PolicyRecipe(
        name=f"rloo@{VERSION}",
        about="RLOO with PPO's clip on the ratio of whole completions: beyond it a good completion has no gradient.",
        reward_kl=Choice("per-sequence", estimator="k1", beta=0.05),
        advantage=Choice("leave-one-out"),
        ratio=Choice("product"),
        surrogate=Choice("clip", epsilon=0.2),
        reduction=PER_ROW,
        source="trl/trainer/rloo_trainer.py:1647-1708, 1794-1861 (RLOOConfig())",
    ),
]


def pairs(
    name: str, settings: str, about: str, objective: Choice, log_prob: str | Choice = "sum", sft: Choice | None = None,
    source: str = DPO, config: str = "DPOConfig",
) -> PreferenceRecipe:  # fmt: skip
    """A preference trainer with these settings; DPOTrainer where nothing else is said."""
    return PreferenceRecipe(
        name=f"{name}@{VERSION}",
        about=about,
        log_prob=Choice(log_prob) if isinstance(log_prob, str) else log_prob,
        objective=objective,
        sft=Choice("none") if sft is None else sft,
        source=f"{source} ({config}({settings}))",
        left_out="nothing",
    )


CPO: dict[str, Any] = {"sft": SFT, "source": "trl/experimental/cpo/cpo_trainer.py:678-917", "config": "CPOConfig"}
LOGISTIC = Choice("logistic", beta=0.1)
UNBOUNDED = "nothing; there exponents have no bound, here they go on as a tangent above 20"

PAIRS = [
    pairs("dpo", "", "DPO as published.", LOGISTIC),
    pairs(
        "cdpo",
        "label_smoothing=0.1",
        "Not cDPO: loss_type 'sigmoid' does not read label_smoothing, so this is DPO, without a warning.",
        LOGISTIC,
    ),
    pairs(
        "robust_dpo",
        "loss_type='robust', label_smoothing=0.1",
        "label_smoothing is the flip rate; by default it is 0, which is DPO. 0.1 is the documentation's.",
        Choice("robust", beta=0.1, flip_rate=0.1),
    ),
    pairs(
        "ipo",
        "loss_type='ipo'",
        "On log-probs per token, as by TRL's account the paper's results were computed.",
        Choice("squared", beta=0.1),
        "mean",
    ),
    pairs(
        "rso",
        "loss_type='hinge'",
        "TRL's documentation also names it SLiC, which has no reference.",
        Choice("hinge", beta=0.1, delta=1.0),
    ),
    pairs(
        "exo",
        "loss_type='exo_pair', label_smoothing=1e-3",
        "label_smoothing must be given; 1e-3 is what TRL's error message recommends.",
        Choice("exo", beta=0.1, label_smoothing=1e-3),
    ),
    pairs("nca", "loss_type='nca_pair'", "Pairwise NCA; beta is ten times the authors'.", Choice("nca", beta=0.1)),
    pairs(
        "bco",
        "loss_type='bco_pair'",
        "Without the running mean of the rewards that the paper subtracts: good and bad are told apart at 0.",
        Choice("bce", beta=0.1),
    ),
    pairs(
        "sppo",
        "loss_type='sppo_hard'",
        "The hard form; with DPO's beta of 0.1 a log-ratio is pulled to 5 nats, with the authors' 0.001 to 500.",
        Choice("sppo", beta=0.1),
    ),
    pairs(
        "aot",
        "loss_type='aot'",
        "Paired AOT: sorted over the micro-batch.",
        Choice("sorted-logistic", beta=0.1, paired=True),
    ),
    pairs(
        "aot_unpaired",
        "loss_type='aot_unpaired'",
        "Unpaired AOT: sorted over the micro-batch.",
        Choice("sorted-logistic", beta=0.1, paired=False),
    ),
    pairs("apo_zero", "loss_type='apo_zero'", "APO-zero.", Choice("apo-zero", beta=0.1)),
    pairs("apo_down", "loss_type='apo_down'", "APO-down.", Choice("apo-down", beta=0.1)),
    pairs(
        "discopop",
        "loss_type='discopop'",
        "DiscoPOP with DPO's beta; the exponential is not bounded.",
        Choice("discopop", beta=0.1, tau=0.05),
    ),
    pairs(
        "dpo-norm",
        "loss_type='sigmoid_norm'",
        "Log-probs per token with a beta meant for sums: gradients are about a length smaller than DPO's.",
        LOGISTIC,
        "mean",
    ),
    pairs(
        "wpo",
        "use_weighting=True",
        "Sampled alignment; not clamped at 1 as in the authors' code.",
        Choice("weighted-logistic", beta=0.1),
    ),
    pairs(
        "f-dpo",
        "f_divergence_type='js_divergence'",
        "f-DPO as published; also with hinge, IPO, EXO, robust and DiscoPOP.",
        Choice("logistic-divergence", beta=0.1, divergence="js"),
    ),
    pairs(
        "f-dpo-forward",
        "f_divergence_type='forward_kl'",
        "f-DPO with the forward KL.",
        Choice("logistic-divergence", beta=0.1, divergence="forward-kl"),
    ).but(parent="f-dpo", left_out=UNBOUNDED),
    pairs(
        "f-dpo-alpha",
        "f_divergence_type='alpha_divergence', f_alpha_divergence_coef=0.3",
        "The coefficient is 1 - alpha: at 0.3 it is f-DPO with alpha 0.7.",
        Choice("logistic-divergence", beta=0.1, divergence="alpha", alpha=0.7),
    ).but(
        parent="f-dpo",
        left_out="the power is float32, its exponents are cut at 80; here they go on as a tangent above 20",
    ),
    pairs(
        "iterative-rpo",
        "loss_type=['sigmoid', 'sft']",
        "The supervised term is a mean over the micro-batch's tokens, not over each completion's.",
        LOGISTIC,
        sft=SFT,
    ),
    pairs(
        "ld-dpo",
        "ld_alpha=0.5",
        "LD-DPO, of both models; ld_alpha has no default, 0.5 is the documentation's.",
        LOGISTIC,
        Choice("shared-length", alpha=0.5, policy_only=False),
    ),
    pairs(
        "tr-dpo",
        "sync_ref_model=True",
        "The loss is DPO's. By default the reference takes 0.6 of the policy every 512 steps: the soft method's part "
        "at the hard one's steps.",
        LOGISTIC,
    ),
    pairs(
        "mpo",
        "loss_type=['sigmoid', 'bco_pair', 'sft'], loss_weights=[0.8, 0.2, 1.0]",
        "The settings of TRL's index: no running mean of the rewards, and the supervised term is a mean over the "
        "micro-batch's tokens.",
        Choice("logistic-and-bce", beta=0.1, preference_coef=0.8, quality_coef=0.2),
        sft=SFT,
    ),
    pairs(
        "rpo",
        "loss_type=['sigmoid', 'sft'], loss_weights=[1.0, 0.005], beta=0.01",
        "The settings of TRL's index: eta itself weighs a mean over the micro-batch's tokens, where the paper has eta "
        "beta, 100 times less, on a sum: as strong where chosen completions have 100 tokens on average.",
        Choice("logistic", beta=0.01),
        sft=Choice("chosen", coef=0.005, mean="token"),
    ),
    pairs(
        "kto",
        "",
        "KTO as published, on a mean over completions; loss_type='apo_zero_unpaired' is this with reference point 0.",
        Choice("kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        source="trl/trainer/kto_trainer.py:1370-1563",
        config="KTOConfig",
    ),
    pairs(
        "cpo",
        "",
        "The supervised term is a mean over the micro-batch's tokens, beside sums of log-probs.",
        Choice("logistic-free", beta=0.1, gamma=0.0),
        **CPO,
    ),
    pairs(
        "simpo",
        "loss_type='simpo'",
        "SimPO with supervised learning, unless cpo_alpha is set to 0; beta 0.1 is a twentieth of the paper's.",
        Choice("logistic-free", beta=0.1, gamma=0.5),
        "mean",
        **CPO,
    ),
    pairs(
        "slic",
        "loss_type='hinge'",
        "The hinge of CPOTrainer: SLiC with a supervised term that is a mean over tokens.",
        Choice("hinge-free", beta=0.1, delta=1.0),
        **CPO,
    ),
    pairs(
        "alphapo",
        "loss_type='alphapo', alpha=0.25, beta=2.5, simpo_gamma=0.1",
        "The numbers of TRL's paper index; alpha is 0 by default, which is SimPO.",
        Choice("logistic-free-power", beta=2.5, gamma=0.1, alpha=0.25),
        "mean",
        source=CPO["source"],
        config="CPOConfig",
    ).but(left_out=UNBOUNDED),
    pairs(
        "triple-po",
        "",
        "TPO as its authors' code; the gold completion is the column 'reference'. loss_type='tpo-l' is TPO-L.",
        Choice("logistic-free", beta=0.01, gamma=0.0),
        sft=Choice("gold", coef=1.0, mean="token"),
        source="trl/experimental/tpo/tpo_trainer.py:619-701",
        config="TPOConfig",
    ),
    pairs(
        "orpo",
        "",
        "The supervised term is a mean over the micro-batch's tokens, prompts included; the odds are float32.",
        Choice("odds-ratio", odds_coef=0.1, sft_coef=0.0),
        "mean",
        SFT,
        "trl/experimental/orpo/orpo_trainer.py:670-877",
        "ORPOConfig",
    ),
]

ROWS: list[Recipe] = [*(row.but(left_out=left_out(row)) for row in ONLINE), *PAIRS]
BY_NAME = {row.name.partition("@")[0]: row for row in ROWS}


def like(name: str, as_name: str, source: str, left_out: str, about: str | None = None, **choices: Choice) -> Recipe:
    """TRL's row of this name as another framework's: with its name and source, and what is different there."""
    words = {} if about is None else {"about": about}
    row: Recipe = BY_NAME[name].but(name=as_name, source=source, left_out=left_out, **words, **choices)
    return row
