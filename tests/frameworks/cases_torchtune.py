"""torchtune 0.6.1: its reverse KL on given logits. Its softmax casts to float32: in float64 here."""

from batch import DistillBatch, leaf, value_and_grads
from cases import Case, Output

from torchstone.frameworks.loading import float32_is_float64
from torchstone.frameworks.registry import theirs
from torchstone.frameworks.torchtune.load import DISTILLATION, load
from torchstone.frameworks.torchtune.rows import VERSION

load()
BATCHES = ("distill", "distill-gaps", "distill-empty", "distill-far")


def reverse_kl(batch: DistillBatch) -> Output:
    logits = leaf(batch.logits)
    labels = batch.ids.masked_fill(~batch.mask, -100)
    with float32_is_float64(DISTILLATION):
        loss = theirs(f"{DISTILLATION}:ReverseKLLoss")()(
            logits.flatten(0, 1), batch.teacher_logits.flatten(0, 1), labels
        )
        return Output(*value_and_grads(loss, logits=logits))


CASES = {f"opd-exact@{VERSION}": Case(reverse_kl, BATCHES)}
SAME = set(CASES)
