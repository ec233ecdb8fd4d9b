"""TorchRL 0.14.1: DistillationLoss.forward on given log-probs and masks."""

from batch import DistillBatch, leaf, value_and_grads
from cases import Case, Output

from torchstone.frameworks.torchrl import functions as torchrl
from torchstone.frameworks.torchrl.rows import VERSION

BATCHES = ("distill", "distill-gaps", "distill-far")
NO_EMPTY = "TorchRL refuses a completion without a token."


def distill(batch: DistillBatch) -> Output:
    logits = leaf(batch.logits)
    loss = torchrl.distillation_loss(batch.sampled(logits), batch.sampled(batch.teacher_logits), batch.mask)
    return Output(*value_and_grads(loss, logits=logits))


CASES = {f"opd-k3@{VERSION}": Case(distill, BATCHES, note=NO_EMPTY)}
SAME: set[str] = set()
