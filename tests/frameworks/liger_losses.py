"""Liger 0.8.5's own chunked losses, run on the batches of batch.py: the value, and the gradient by token log-probs.

Liger takes hidden states and the weight of the LM head. Here the hidden states are logits over a vocabulary of two
whose log_softmax at token 0 is the batch's log-prob, and the weight is the identity, so the leaf is the token's
log-prob. All runs eager (compiled=False) in chunks of one row or pair, on the CPU; no triton kernel is reached.

Liger casts by itself: the head's log-probs are float32 (fused_linear_ppo.py:40-71, fused_linear_preference.py:333,
fused_linear_unpaired_preference.py:275), and so is the sum of the loss. Compare with a tolerance of about 1e-6,
relative to the largest term. `grpo(fused=False)` calls the formula alone, in float64.

Every function takes the batch and the arguments of Liger's module, and returns `(value, {leaf: gradient})`.

| function | objective | settings (Liger's names) | defaults worth knowing |
|---|---|---|---|
| grpo | GRPO, BNPO, Dr. GRPO, DAPO, CISPO, SAPO, LUSPO, VESPO | loss_type | "dapo" |
| | GSPO | importance_sampling_level="sequence" | "token"; refused for cispo, sapo, vespo |
| | clip | epsilon_low, epsilon_high, delta | 0.2, 0.2 (CISPO: an absolute bound), None |
| | KL in the loss | beta, use_bias_correction_kl | 0.04, False |
| dpo | 10 losses | loss_type, beta, label_smoothing, discopop_tau, average_log_prob | "sigmoid", 0.1, 0, 0.05, False |
| | plus an NLL of the chosen | compute_nll_loss, alpha | False, 1.0 |
| simpo | SimPO | beta, gamma, label_smoothing, compute_nll_loss, alpha | 0.1, 0.5, 0, **True**, 1.0 |
| cpo | CPO | beta, label_smoothing, compute_nll_loss, alpha, average_log_prob | 0.1, 0, True, 1.0, False |
| orpo | ORPO | beta, compute_nll_loss | 0.1, True |
| kto | KTO | beta, average_log_prob | 0.1, False; no class weights |
"""

from typing import Any

import torch
from batch import PolicyBatch, PreferenceBatch, leaf, two_token_logits, value_and_grads
from liger_kernel.chunked_loss import (
    LigerFusedLinearCPOLoss,
    LigerFusedLinearDPOLoss,
    LigerFusedLinearGRPOLoss,
    LigerFusedLinearKTOLoss,
    LigerFusedLinearORPOLoss,
    LigerFusedLinearSimPOLoss,
)
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction
from torch import Tensor

Result = tuple[Tensor, dict[str, Tensor]]
EAGER = {"compiled": False, "chunk_size": 1}


def head() -> Tensor:
    """The LM head's weight: hidden states are the logits."""
    return torch.eye(2, dtype=torch.float64)


def grpo(
    batch: PolicyBatch,
    *,
    sampler_weights: Tensor | None = None,
    num_items_in_batch: int | None = None,
    fused: bool = True,
    **knobs: Any,
) -> Result:
    """LigerFusedLinearGRPOLoss (liger_kernel/chunked_loss/grpo_loss.py:418); the formula is `ppo_loss_fn` (101-267).

    Args:
        batch: with its advantages [B]; gaps are allowed
        sampler_weights: [B T] or [B 1], Liger's vllm_is_ratio
        num_items_in_batch: the token count that dapo, cispo and vespo divide by, instead of this batch's
        fused: False calls `ppo_loss_fn` on the log-probs, in float64; knobs are the same names
        knobs: of LigerFusedLinearGRPOLoss
    """
    leaves, mask = {"log_probs": leaf(batch.log_probs)}, batch.mask.long()
    given = {
        "ref_per_token_logps": batch.ref_log_probs,
        "old_per_token_logps": batch.old_log_probs,
        "vllm_is_ratio": sampler_weights,
        "num_items_in_batch": num_items_in_batch,
    }
    if fused:
        hidden, ids = two_token_logits(leaves["log_probs"]), torch.zeros_like(mask)
        module = LigerFusedLinearGRPOLoss(**EAGER, **knobs)
        loss, _ = module(hidden, head(), ids, mask, batch.advantages, **given)
    else:
        loss, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
            leaves["log_probs"], mask, batch.advantages, mask, **given, **knobs
        )
    return value_and_grads(loss, **leaves)


def _pairs(batch: PreferenceBatch) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """The leaves; hidden states of the policy and the reference [2N T 2], chosen first; targets, -100 where masked."""
    leaves = {"chosen": leaf(batch.chosen), "rejected": leaf(batch.rejected)}
    reference = two_token_logits(torch.cat([batch.ref_chosen, batch.ref_rejected]))
    target = torch.where(torch.cat([batch.chosen_mask, batch.rejected_mask]), 0, -100)
    return leaves, two_token_logits(torch.cat([*leaves.values()])), reference, target


def dpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """LigerFusedLinearDPOLoss (liger_kernel/chunked_loss/dpo_loss.py:9-153).

    loss_type: sigmoid, hinge, exo_pair, nca_pair, robust, bco_pair, sppo_hard, apo_zero, apo_down,
    discopop. ipo raises.
    """
    leaves, hidden, reference, target = _pairs(batch)
    module = LigerFusedLinearDPOLoss(**EAGER, **knobs)
    loss, _ = module(head(), hidden, target, ref_input=reference, ref_weight=head())
    return value_and_grads(loss, **leaves)


def _without_reference(module: torch.nn.Module, batch: PreferenceBatch) -> Result:
    leaves, hidden, _, target = _pairs(batch)
    loss, _ = module(head(), hidden, target)
    return value_and_grads(loss, **leaves)


def simpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """LigerFusedLinearSimPOLoss (liger_kernel/chunked_loss/simpo_loss.py:9-48). Published: compute_nll_loss=False."""
    return _without_reference(LigerFusedLinearSimPOLoss(**EAGER, **knobs), batch)


def cpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """LigerFusedLinearCPOLoss (liger_kernel/chunked_loss/cpo_loss.py:9-40), NLL of the chosen completions included."""
    return _without_reference(LigerFusedLinearCPOLoss(**EAGER, **knobs), batch)


def orpo(batch: PreferenceBatch, **knobs: Any) -> Result:
    """LigerFusedLinearORPOLoss (liger_kernel/chunked_loss/orpo_loss.py:9-43), NLL of the chosen included."""
    return _without_reference(LigerFusedLinearORPOLoss(**EAGER, **knobs), batch)


def kto(batch: PreferenceBatch, *, kl: Tensor | float | None = None, **knobs: Any) -> Result:
    """LigerFusedLinearKTOLoss (liger_kernel/chunked_loss/kto_loss.py:9-69): chosen rows desirable, rejected rows not.

    Args:
        batch: of pairs, taken as 2N rows
        kl: the KL estimate, one number; Liger computes none and clamps none. By default that of the batch's mismatched
            completions, clamped at 0, as TRL computes it. The shape [2N] that Liger documents counts every row 2N times
        knobs: of LigerFusedLinearKTOLoss
    """
    leaves, hidden, reference, target = _pairs(batch)
    if kl is None:
        kl = torch.where(batch.kl_mask, batch.kl - batch.ref_kl, 0.0).sum(-1).mean().clamp(min=0)
    labels = torch.arange(len(target)) < len(batch.chosen)
    module = LigerFusedLinearKTOLoss(**EAGER, use_ref_model=True, **knobs)
    reference_side = {"ref_input": reference, "ref_weight": head(), "kl": torch.as_tensor(kl)}
    loss, _ = module(hidden, head(), target, preference_labels=labels, **reference_side)
    return value_and_grads(loss, **leaves)
