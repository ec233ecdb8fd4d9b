"""What prime-rl hands to a custom loss: one sequence after the other.

Read at prime-rl 559b447: ``LossInputs``, ``LossOutputs`` and the loop over packed sequences in
``src/prime_rl/trainer/rl/loss.py``; the keywords are those of ``[trainer.loss.kwargs]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from torchstone.frameworks.contract.batch import made_with_one_old
from torchstone.frameworks.contract.hand import Given, Hand, Piece
from torchstone.frameworks.prime_rl.unit import UNIT

FORM = """\
def loss(inputs: LossInputs, **kwargs) -> LossOutputs:
    # inputs.trainer_logprobs, inference_logprobs, ref_logprobs, advantages,
    # loss_mask, loss_weights: one sequence, each of shape [seq]
    return LossOutputs(loss=loss, metrics={...})"""


@dataclass
class LossOutputs:
    loss: Tensor
    metrics: dict[str, Any]


def calls(piece: Piece) -> list[Given]:
    """A call for each sequence, its prompt of one token in front, which the mask leaves out."""
    rows = piece.sequences(log_probs=-1.5, sampler_log_probs=-1.5, ref_log_probs=-1.5, advantages=0, mask=False)
    names = ["trainer_logprobs", "inference_logprobs", "ref_logprobs", "advantages", "loss_mask"]
    inputs = [SimpleNamespace(**dict(zip(names, row.values(), strict=True)), loss_weights=None) for row in rows]
    return [Given({"inputs": one, **piece.settings}, positional=1) for one in inputs]


def read(result: Any) -> tuple[Any, str]:
    """``LossOutputs``."""
    if hasattr(result, "loss"):
        return result.loss, "" if hasattr(result, "metrics") else "its result has no metrics: return LossOutputs"
    loss = result[0] if isinstance(result, (tuple, list)) and result else result
    return loss, "it returns no LossOutputs: prime-rl reads .loss and .metrics"


LINES = {
    "mask": "loss = x[inputs.loss_mask].sum()",
    "mean": "loss = x[inputs.loss_mask].sum()   # prime-rl divides by the tokens of all ranks",
    "returns": "return LossOutputs(loss=loss, metrics={})",
}
HAND = Hand(
    "prime-rl", UNIT, FORM, calls, read, LINES, padded=False, made=made_with_one_old,
    stand_ins={"prime_rl": {}, "prime_rl.trainer.rl.loss": {"LossOutputs": LossOutputs}},
)  # fmt: skip
