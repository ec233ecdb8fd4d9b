"""What tinker hands to a custom loss: the data of one call, and their log-probs.

Read in tinker 0.38.0: ``TrainingClient.forward_backward_custom`` and ``_compute_custom_loss``
(``lib/public_interfaces/training_client.py:490, 646-690``). It hands on every field of ``loss_fn_inputs``; the fields
here are those of tinker-cookbook 9dfcc3a: ``target_tokens``, ``weights``, ``mask``, ``advantages``, ``logprobs`` (the
sampler's).
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import made_with_one_old
from torchstone.frameworks.contract.hand import Given, Hand, Piece, pair
from torchstone.frameworks.tinker.unit import UNIT

FORM = """\
def loss(data, logprobs_list):
    # data[i].loss_fn_inputs: target_tokens, weights, mask, advantages, logprobs;
    # logprobs_list[i]: of each target token, the prompt's too
    return loss, metrics"""


class TensorData:
    """Numbers with ``data``, ``shape``, ``dtype``, ``to_torch``, ``to_numpy`` and ``tolist``."""

    def __init__(self, x: Tensor):
        self.data, self.shape, self.tolist = x.tolist(), list(x.shape), x.tolist
        self.dtype = "float32" if x.is_floating_point() else "int64"
        self.to_torch, self.to_numpy = x.clone, x.numpy


def calls(piece: Piece) -> list[Given]:
    """One call for all rows; each has a prompt token among its targets, which mask and weights leave out."""
    data, log_probs = [], []
    for row in piece.sequences(log_probs=-1.5, sampler_log_probs=0, advantages=0, mask=False):
        ids, mask = torch.arange(len(row["mask"])), row["mask"].to(row["advantages"].dtype)
        fields = {"target_tokens": ids + 1, "weights": mask, "mask": mask, "advantages": row["advantages"],
                  "logprobs": row["sampler_log_probs"]}  # fmt: skip
        tokens = SimpleNamespace(to_ints=ids.tolist, length=len(ids))
        inputs = {name: TensorData(x) for name, x in fields.items()}
        data.append(SimpleNamespace(model_input=tokens, loss_fn_inputs=inputs))
        log_probs.append(row["log_probs"])
    return [Given({"data": data, "logprobs": log_probs}, positional=2)]


LINES = {
    "mask": "weights = datum.loss_fn_inputs['mask'].to_torch(); loss = (x * weights).sum()",
    "advantages": "datum.loss_fn_inputs['advantages'].to_torch()",
    **dict.fromkeys(
        ("micro_batches", "tokens", "rows"),
        "one forward_backward_custom before each optim_step, or a denominator of all calls",
    ),
}
HAND = Hand(
    "tinker", UNIT, FORM, calls, pair("tinker"), LINES, ranks=False, even=True, padded=False, cut=False,
    made=made_with_one_old, stand_ins={"tinker": {}, "tinker_cookbook": {}},
)  # fmt: skip
