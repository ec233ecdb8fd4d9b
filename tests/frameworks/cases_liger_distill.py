"""Liger 0.8.5: the fused JSD loss on given logits, which are its hidden states; the heads are the identity."""

import torch
from batch import DistillBatch, leaf, value_and_grads
from cases import Case, Output

from torchstone.frameworks.liger import load
from torchstone.frameworks.liger.distill_rows import VERSION
from torchstone.frameworks.loading import default_dtype

BATCHES = ("distill", "distill-gaps", "distill-empty", "distill-far")


def jsd(batch: DistillBatch) -> Output:
    logits = leaf(batch.logits)
    head = torch.eye(logits.shape[-1], dtype=logits.dtype).requires_grad_()
    flat = (logits.flatten(0, 1), head, batch.teacher_logits.flatten(0, 1), head.detach())
    labels = batch.ids.masked_fill(~batch.mask, -100).flatten()
    with default_dtype(torch.float64):
        loss = load.module("JSD", weight_hard_loss=0.0, weight_soft_loss=1.0)(*flat, labels)
    return Output(*value_and_grads(loss, logits=logits))


CASES = {f"gkd@{VERSION}": Case(jsd, BATCHES)}
SAME: set[str] = set()
