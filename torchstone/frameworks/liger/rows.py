"""Liger 0.8.5: the fused losses of liger_kernel.chunked_loss, with the defaults of its modules.

Liger computes losses alone: the advantages of its policy rows are TRL's, whose trainer calls it. A row is TRL's of the
same name with what is different here.
"""

from __future__ import annotations

from typing import Any

from torchstone.frameworks.trl.rows import left_out, like
from torchstone.recipes.choices import Choice, Recipe

VERSION = "liger-0.8.5"
FOLDER = "liger_kernel/chunked_loss"
KL = Choice("k3", beta=0.04)
CAST = "the head's log-probs are cast to float32"


def online(name: str, settings: str, about: str | None = None, **choices: Choice) -> Recipe:
    """LigerFusedLinearGRPOLoss with these settings: TRL's row with Liger's KL, and these choices."""
    source = f"{FOLDER}/grpo_loss.py:101-267 (LigerFusedLinearGRPOLoss({settings}))"
    row: Any = like(name, f"{name}@{VERSION}", source, CAST, about, **{"loss_kl": KL, **choices})
    return row.but(left_out=f"{CAST}; {left_out(row)}")


ONLINE = [
    online("dapo", "", "The default: of DAPO only the mean over tokens, and a KL (k3) of 0.04, which DAPO has not."),
    online("grpo", "loss_type='grpo'", "GRPO as published; rows without a token count."),
    online("bnpo", "loss_type='bnpo'", "The mean over the tokens of the tensors given, and a KL of 0.04."),
    online(
        "dr_grpo",
        "loss_type='dr_grpo', max_completion_length=...",
        "The constant length, and a KL of 0.04, which Dr. GRPO has not.",
    ),
    online(
        "gspo",
        "importance_sampling_level='sequence', loss_type='grpo'",
        "GSPO's ratio with GRPO's clip of 0.2, which it hardly reaches, and a KL of 0.04.",
    ),
    online(
        "luspo",
        "importance_sampling_level='sequence', loss_type='luspo', beta=0.0",
        "LUSPO. With a ratio a token, or with a KL (both are defaults), the loss at padding enters it.",
        ratio=Choice("sequence"),
        loss_kl=Choice("none"),
    ),
    online(
        "cispo",
        "loss_type='cispo'",
        "epsilon_high is the cap itself, and by default 0.2: a token on policy weighs 0.2. A KL of 0.04.",
    ),
    online("sapo", "loss_type='sapo'", "SAPO, and a KL of 0.04."),
    online(
        "vespo",
        "loss_type='vespo'",
        "The mean over tokens in place of the sum, and a KL of 0.04; log W is cut at -18.4 and 20.",
    ),
    online("intellect-2", "delta=4.0"),
    online(
        "deepseek-v3.2",
        "use_bias_correction_kl=True",
        "The KL weighted by the ratio; completions left far behind are not dropped, the mean is over tokens.",
        loss_kl=Choice("k3-by-ratio", beta=0.04),
        sampler=Choice("none"),
    ),
]

LINES = {"DPO": "9-153", "SimPO": "9-48", "CPO": "9-40", "ORPO": "9-43", "KTO": "9-69"}


def pairs(name: str, settings: str = "", about: str | None = None, module: str = "DPO", **choices: Any) -> Recipe:
    """A fused preference loss with these settings: TRL's row with these choices."""
    source = f"{FOLDER}/{module.lower()}_loss.py:{LINES[module]} (LigerFusedLinear{module}Loss({settings}))"
    return like(name, f"{name}@{VERSION}", source, CAST, about, **choices)


PAIRS = [
    pairs("dpo", "", "DPO as published; a reference that is missing counts as log-prob 0."),
    pairs("cdpo", "label_smoothing=0.1"),
    pairs(
        "robust_dpo",
        "loss_type='robust', label_smoothing=0.1",
        "label_smoothing is the flip rate; by default it is 0, which is DPO.",
    ),
    pairs("rso", "loss_type='hinge'", "The hinge on differences of implicit rewards, with DPO's beta."),
    pairs(
        "exo",
        "loss_type='exo_pair', label_smoothing=1e-3",
        "label_smoothing must be given; 1e-3 is what Liger's error message recommends.",
    ),
    pairs("nca", "loss_type='nca_pair'"),
    pairs("bco", "loss_type='bco_pair'"),
    pairs("sppo", "loss_type='sppo_hard'"),
    pairs("apo_zero", "loss_type='apo_zero'"),
    pairs("apo_down", "loss_type='apo_down'"),
    pairs("discopop", "loss_type='discopop'"),
    pairs(
        "iterative-rpo",
        "compute_nll_loss=True",
        "The supervised term is a mean over the batch's tokens, not over each completion's.",
    ),
    pairs("dpo-norm", "average_log_prob=True"),
    pairs(
        "kto",
        "use_ref_model=True",
        "KTO without class weights. The reference point must be given, and is not clamped at 0.",
        "KTO",
    ),
    pairs("cpo", "", "The supervised term is a mean over the batch's tokens, beside sums of log-probs.", "CPO"),
    pairs(
        "simpo",
        "",
        "SimPO with supervised learning, unless compute_nll_loss is False; beta 0.1 is a twentieth of the paper's.",
        "SimPO",
    ),
    pairs(
        "orpo",
        "",
        "The supervised term is a mean over the batch's tokens; where a log-prob rounds to 0 the gradient is NaN.",
        "ORPO",
    ),
]

ROWS: list[Recipe] = [*ONLINE, *PAIRS]
