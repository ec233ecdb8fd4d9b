"""TRL 1.16.0: DistillationTrainer, and GKD, SDPO, SDFT and IW-OPD of trl.experimental."""

from __future__ import annotations

from torchstone.frameworks.trl.rows import VERSION
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.distill import DistillRecipe

EXPERIMENTAL = "trl/experimental"
TOP_K = (
    f"{EXPERIMENTAL}/sdpo/loss_utils.py:23-100; sdpo_trainer.py:1186-1265 (SDPOConfig(distillation_mode='topk_logits', "
    "distillation_topk=100, distillation_alpha=0.5"
)

EXACT = DistillRecipe(
    name=f"opd-exact@{VERSION}",
    about="DistillationTrainer's default: reverse KL over the vocabulary, a mean over the tokens of the whole batch.",
    signal=Choice("jsd", beta=1.0, temperature=1.0),
    reduction=Choice("token-mean"),
    left_out="nothing",
    source="trl/trainer/distillation_trainer.py:101-217, 1791-1922 (DistillationConfig())",
)
SDPO = DistillRecipe(
    name=f"sdpo@{VERSION}",
    about="By TRL's index of papers: the k tokens are rescaled, where the authors' code has the rest as one more.",
    signal=Choice("jsd-top-k", k=100, of="policy", rest="renormalise", beta=0.5, temperature=1.0),
    ratio=Choice("token"),
    surrogate=Choice("truncated-ratio", cap=2.0),
    reduction=Choice("sequence-mean", empty_rows="counted"),
    left_out="how the teacher's prompt is made and how its weights follow the policy's; the log-ratio is cut at -20 "
    "and 20",
    source=f"{TOP_K}))",
)

DISTILL = [
    EXACT,
    EXACT.but(
        name=f"gkd@{VERSION}",
        about="GKDTrainer's default. Its temperature, 0.9, is that of sampling alone: the loss has 1, whatever is set.",
        signal=Choice("jsd", beta=0.5, temperature=1.0),
        left_out="completions of the data set, half of all by default (lmbda), or of the teacher (seq_kd)",
        source=f"{EXPERIMENTAL}/gkd/gkd_trainer.py:237-342 (GKDConfig())",
    ),
    EXACT.but(
        name=f"opd-forward@{VERSION}",
        about="DistillationTrainer with beta=0.0: forward KL over the vocabulary, a mean over the tokens of the batch.",
        signal=Choice("jsd", beta=0.0, temperature=1.0),
        source="trl/trainer/distillation_trainer.py:101-217, 1791-1922 (DistillationConfig(beta=0.0))",
    ),
    EXACT.but(
        name=f"gold@{VERSION}",
        about="GOLDTrainer's default, where both models have one tokenizer: the temperature is in the loss too, 0.9.",
        signal=Choice("jsd", beta=0.5, temperature=0.9),
        left_out="completions of the data set, half of all by default (lmbda); the loss between two tokenizers "
        "(use_uld_loss)",
        source=f"{EXPERIMENTAL}/gold/gold_trainer.py:2248-2345, 2502-2540 (GOLDConfig())",
    ),
    SDPO.but(
        name=f"opd@{VERSION}",
        about="SDPOTrainer's default loss (distillation_mode='sampled_token'): the log-ratio of the present policy.",
        signal=Choice("teacher-advantage", gamma=0.0),
        surrogate=Choice("cispo", epsilon=None, cap=2.0),
        source=f"{EXPERIMENTAL}/sdpo/loss_utils.py:59-69, 115-135; sdpo_trainer.py:1186-1265 (SDPOConfig())",
    ),
    SDPO,
    SDPO.but(
        name=f"sdpo-tail@{VERSION}",
        about="With the rest as one more token (distillation_add_tail), as in the authors' code.",
        signal=Choice("jsd-top-k", k=100, of="policy", rest="tail", beta=0.5, temperature=1.0),
        source=f"{TOP_K}, distillation_add_tail=True))",
    ),
    SDPO.but(
        name=f"sdft@{VERSION}",
        about="SDFTTrainer's default: the policy's 100 likeliest tokens, rescaled, between the two directions.",
        source=f"{EXPERIMENTAL}/sdft/loss_utils.py:23-100; sdft_trainer.py:809-910 (SDFTConfig())",
    ),
    EXACT.but(
        name=f"iw-opd@{VERSION}",
        about="IWOPDTrainer's default, on a vLLM rollout, whose log-probs the teacher is compared with; no ratio, no "
        "clip.",
        anchor=Choice("sampler"),
        signal=Choice("old-teacher-advantage", gamma=0.0),
        weight=Choice("prefix", gamma=0.5, eps=1e-8),
        surrogate=Choice("policy-gradient"),
        source=f"{EXPERIMENTAL}/iw_opd/iw_opd_trainer.py:1212-1267, 1560-1665 (IWOPDConfig(use_vllm=True))",
    ),
    EXACT.but(
        name=f"opd-topk-tail@{VERSION}",
        about="IWOPDTrainer with the divergence in place of IW-OPD: reverse KL on the policy's 100 likeliest tokens.",
        signal=Choice("jsd-top-k", k=100, of="policy", rest="tail", beta=1.0, temperature=1.0),
        source=f"{EXPERIMENTAL}/iw_opd/iw_opd_trainer.py:99-153, 1110-1196 (IWOPDConfig(distillation_objective='jsd', "
        "loss_top_k=100))",
    ),
]

ROWS: list[Recipe] = [*DISTILL]
