"""Liger 0.8.5: for each row the settings of its module.

Liger casts log-probs to float32. Each row is held twice: Liger's code in float64 against the row, to 1e-10 by the
suite, and the same code as it is, in float32, against that here. In float64 means for a policy row the formula
(`ppo_loss_fn`) on float64 log-probs, for the others the whole module with `Tensor.float` taken as `Tensor.double`.

Hidden states are logits over a vocabulary of two whose log_softmax at token 0 is the batch's log-prob, and the head is
the identity, so the leaf is the token's log-prob.
"""

from functools import partial
from typing import Any

import torch
from batch import PolicyBatch, PreferenceBatch, leaf, two_token_logits, value_and_grads
from cases import Case, Output, kto_point, sides
from torch import Tensor

from torchstone.frameworks.liger.functions import policy_loss
from torchstone.frameworks.liger.load import module
from torchstone.frameworks.liger.rows import VERSION
from torchstone.frameworks.loading import casts_to_float64, default_dtype

FLOAT32 = "In float64; as it is Liger agrees with that to 1e-5 of the largest entry, since its log-probs are float32."
HEAD = torch.eye(2, dtype=torch.float64)
Result = tuple[Tensor, dict[str, Tensor]]


def same_in_float32(found: Result, expected: Result) -> Result:
    """`expected`, where `found` is as near as float32 allows: a log-ratio of a sequence is a sum of rounded ones."""
    largest = max(float(x.abs().max()) for x in expected[1].values())
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5 * largest)
    return expected


def fused(batch: PolicyBatch, **knobs: Any) -> Result:
    """LigerFusedLinearGRPOLoss (liger_kernel/chunked_loss/grpo_loss.py:418)."""
    log_probs, mask = leaf(batch.log_probs), batch.mask.long()
    given = {"ref_per_token_logps": batch.ref_log_probs, "old_per_token_logps": batch.old_log_probs}
    states, ids = two_token_logits(log_probs), torch.zeros_like(mask)
    loss, _ = module("GRPO", **knobs)(states, HEAD, ids, mask, batch.advantages, **given)
    return value_and_grads(loss, log_probs=log_probs)


def grpo(batch: PolicyBatch, **knobs: Any) -> Output:
    log_probs = leaf(batch.log_probs)
    loss = policy_loss(log_probs, batch.old_log_probs, batch.advantages, batch.mask, batch.ref_log_probs, **knobs)
    result = same_in_float32(fused(batch, **knobs), value_and_grads(loss, log_probs=log_probs))
    return Output(*result, given={"advantages": batch.advantages, "max_length": 512})


def preference(batch: PreferenceBatch, kind: str, **knobs: Any) -> Result:
    """The module of `kind` on hidden states [2N T 2], chosen first; targets are -100 where masked."""
    leaves, mask = sides(batch)
    states, target = two_token_logits(torch.cat([*leaves.values()])), torch.where(mask, 0, -100)
    reference = two_token_logits(torch.cat([batch.ref_chosen, batch.ref_rejected]))
    given: dict[str, Any] = {"ref_input": reference, "ref_weight": HEAD} if kind in ("DPO", "KTO") else {}
    if kind == "KTO":  # chosen rows desirable, rejected rows not; Liger computes no estimate of the KL, and clamps none
        kl = torch.where(batch.kl_mask, batch.kl - batch.ref_kl, 0.0).sum(-1).mean().clamp(min=0)
        given |= {"kl": kl, "preference_labels": torch.arange(len(target)) < len(batch.chosen)}
    inputs = (states, HEAD) if kind == "KTO" else (HEAD, states)
    loss, _ = module(kind, **knobs)(*inputs, target, **given)
    return value_and_grads(loss, **leaves)


def on_pairs(batch: PreferenceBatch, kind: str, **knobs: Any) -> Output:
    with default_dtype(torch.float64), casts_to_float64():
        result = preference(batch, kind, **knobs)
    given = {"reference_point": kto_point(batch)} if kind == "KTO" else {}
    return Output(*same_in_float32(preference(batch, kind, **knobs), result), given=given)


SETTINGS: dict[str, dict[str, Any]] = {
    "dapo": {},
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 512},
    "gspo": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
    "luspo": {"importance_sampling_level": "sequence", "loss_type": "luspo", "beta": 0.0},
    "cispo": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
    "intellect-2": {"delta": 4.0},
    "deepseek-v3.2": {"use_bias_correction_kl": True},
}
PAIRS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "cdpo": {"label_smoothing": 0.1},
    "robust_dpo": {"loss_type": "robust", "label_smoothing": 0.1},
    "rso": {"loss_type": "hinge"},
    "exo": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "nca": {"loss_type": "nca_pair"},
    "bco": {"loss_type": "bco_pair"},
    "sppo": {"loss_type": "sppo_hard"},
    "apo_zero": {"loss_type": "apo_zero"},
    "apo_down": {"loss_type": "apo_down"},
    "discopop": {"loss_type": "discopop"},
    "iterative-rpo": {"compute_nll_loss": True},
    "dpo-norm": {"average_log_prob": True},
}
PAIRS = {name: {"kind": "DPO", **knobs} for name, knobs in PAIRS.items()}
PAIRS |= {name: {"kind": kind} for name, kind in (("cpo", "CPO"), ("simpo", "SimPO"), ("orpo", "ORPO"))}
PAIRS["kto"] = {"kind": "KTO", "use_ref_model": True}

CASES = {
    **{
        f"{name}@{VERSION}": Case(partial(grpo, **knobs), ("prefix", "gaps", "empty", "far"), note=FLOAT32)
        for name, knobs in SETTINGS.items()
    },
    **{
        f"{name}@{VERSION}": Case(partial(on_pairs, **knobs), ("pairs",), note=FLOAT32) for name, knobs in PAIRS.items()
    },
}
SAME = {f"{name}@{VERSION}" for name in ("dpo", "robust_dpo", "apo_zero", "apo_down", "kto")}
