"""TRL 1.16.0: its trainers of distillation, by their own compute_loss on given logits, with real configs of theirs.

All of it is float64; so are, in the tests, the float32 buffers of DistillationTrainer. It projects hidden states: here
they are the logits, and the heads the identity.
"""

from functools import partial
from typing import Any

import torch
from batch import DistillBatch, leaf, value_and_grads
from cases import Case, Output
from torch import Tensor

from torchstone.frameworks.loading import float32_is_float64
from torchstone.frameworks.trl import distill_load as load
from torchstone.frameworks.trl.distill_rows import VERSION

BATCHES = ("distill", "distill-gaps", "distill-empty", "distill-far")
UNBROKEN = ("distill", "distill-far")  # IWOPDTrainer has no tool mask: it would count holes as a longer prompt


def with_prompt(batch: DistillBatch) -> dict[str, Tensor]:
    """[B 1+T]: a prompt of one token, then the completion up to its last chosen token."""
    columns = torch.arange(batch.mask.shape[1])
    last = torch.where(batch.mask, columns, -1).amax(1, keepdim=True)
    attention = torch.cat([torch.ones_like(last), (columns <= last).long()], 1)
    ids = torch.cat([torch.zeros_like(last), batch.ids], 1)
    labels = torch.cat([torch.full_like(last, -100), batch.ids.masked_fill(~batch.mask, -100)], 1)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def split(batch: DistillBatch) -> dict[str, Tensor]:
    """The same as prompt and completion; holes are TRL's tool output."""
    whole = with_prompt(batch)
    first = torch.zeros(len(batch.ids), 1, dtype=torch.long)
    completion = whole["attention_mask"][:, 1:]
    return {
        "prompt_ids": first, "prompt_mask": torch.ones_like(first), "completion_ids": batch.ids,
        "completion_mask": completion, "tool_mask": batch.mask.long(), "num_items_in_batch": batch.mask.sum(),
    }  # fmt: skip


def distillation(batch: DistillBatch, **knobs: Any) -> Output:
    """DistillationTrainer.compute_loss."""
    logits = leaf(batch.logits)
    trainer = load.trainer("Distillation", logits, batch.teacher_logits, **knobs)
    with float32_is_float64(*load.CHUNKED):
        loss = trainer.compute_loss(trainer.model, split(batch))
        return Output(*value_and_grads(loss, logits=logits))


def gkd(batch: DistillBatch, kind: str = "GKD", **knobs: Any) -> Output:
    """GKDTrainer.compute_loss, or GOLDTrainer's, with the count of the batch's tokens, as transformers gives it."""
    logits = leaf(batch.logits)
    trainer = load.trainer(kind, logits, batch.teacher_logits, **knobs)
    loss = trainer.compute_loss(trainer.model, with_prompt(batch), num_items_in_batch=batch.mask.sum())
    return Output(*value_and_grads(loss, logits=logits))


def self_distillation(batch: DistillBatch, kind: str, **knobs: Any) -> Output:
    """SDPOTrainer.compute_loss or SDFTTrainer's: the teacher is the policy with more in its prompt.

    Neither has a tool mask: the completion mask has the holes.
    """
    logits = leaf(batch.logits)
    trainer = load.trainer(kind, logits, batch.teacher_logits, **knobs)
    inputs = split(batch) | {"completion_mask": batch.mask.long(), "old_per_token_logps": batch.old_log_probs}
    whole = with_prompt(batch)
    inputs |= {"teacher_input_ids": whole["input_ids"], "teacher_attention_mask": whole["attention_mask"]}
    return Output(*value_and_grads(trainer.compute_loss(trainer.model, inputs), logits=logits))


def iw_opd(batch: DistillBatch, rollout: bool = True, **knobs: Any) -> Output:
    """IWOPDTrainer.compute_loss; ``rollout``: with the log-probs that vLLM reported."""
    logits = leaf(batch.logits)
    trainer = load.trainer("IWOPD", logits, batch.teacher_logits, **knobs)
    inputs = with_prompt(batch)
    if rollout:
        inputs["rollout_logprobs"] = torch.cat([torch.zeros(len(batch.ids), 1), batch.sampler_log_probs], 1)
    loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=batch.mask.sum())
    return Output(*value_and_grads(loss, logits=logits))


TOP_K: dict[str, Any] = {"distillation_mode": "topk_logits", "distillation_topk": 100}
SETTINGS = {
    "opd-exact": (distillation, {}),
    "opd-forward": (distillation, {"beta": 0.0}),
    "gkd": (gkd, {}),
    "gold": (partial(gkd, kind="GOLD"), {}),
    "opd": (partial(self_distillation, kind="SDPO"), {}),
    "sdpo": (partial(self_distillation, kind="SDPO"), {**TOP_K, "distillation_alpha": 0.5}),
    "sdpo-tail": (
        partial(self_distillation, kind="SDPO"), {**TOP_K, "distillation_alpha": 0.5, "distillation_add_tail": True},
    ),
    "sdft": (partial(self_distillation, kind="SDFT"), {}),
    "iw-opd": (iw_opd, {}),
    "opd-topk-tail": (partial(iw_opd, rollout=False), {"distillation_objective": "jsd", "loss_top_k": 100}),
}  # fmt: skip
KINDS = {"iw-opd": (*UNBROKEN, "distill-near"), "opd-topk-tail": UNBROKEN}
CASES = {
    f"{name}@{VERSION}": Case(partial(run, **knobs), KINDS.get(name, BATCHES))
    for name, (run, knobs) in SETTINGS.items()
}
SAME = {f"{name}@{VERSION}" for name in ("opd-exact", "opd-topk-tail")}
