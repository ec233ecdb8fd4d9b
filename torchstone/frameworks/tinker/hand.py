"""What tinker hands to a custom loss: the data of one call, and their log-probs.

Read in tinker 0.38.0: ``TrainingClient.forward_backward_custom`` and ``_compute_custom_loss``
(``lib/public_interfaces/training_client.py:490, 646-690``). It hands on every field of ``loss_fn_inputs``; the fields
here are those of tinker-cookbook 9dfcc3a: ``target_tokens``, ``weights``, ``mask``, ``advantages``, ``logprobs`` (the
sampler's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from torchstone.frameworks.contract.hand import Given, Hand, Piece, pair
from torchstone.frameworks.tinker.unit import UNIT

FORM = """\
def loss(data, logprobs_list):
    # data[i].loss_fn_inputs: target_tokens, weights, mask, advantages, logprobs;
    # logprobs_list[i]: of each target token, the prompt's too
    return loss, metrics"""


class TensorData:
    """Numbers with ``data``, ``shape``, ``dtype``, ``to_torch``, ``to_numpy`` and ``tolist``."""

    def __init__(self, data: Any, dtype: str = "float32", shape: Any = None):
        self._tensor = torch.as_tensor(data)
        self.dtype, self.shape = dtype, list(self._tensor.shape) if shape is None else shape

    @property
    def data(self) -> list[Any]:
        """As a list."""
        found: list[Any] = self._tensor.tolist()
        return found

    tolist = lambda self: self.data  # noqa: E731
    to_torch = lambda self: self._tensor.clone()  # noqa: E731
    to_numpy = lambda self: self._tensor.numpy()  # noqa: E731


class ModelInput:
    """Token ids."""

    def __init__(self, ids: list[int]):
        self.ids = ids

    def to_ints(self) -> list[int]:
        """As a list."""
        return list(self.ids)

    @property
    def length(self) -> int:
        """How many there are."""
        return len(self.ids)

    @classmethod
    def from_ints(cls, ids: list[int]) -> ModelInput:
        """From a list."""
        return cls(ids)


@dataclass
class Datum:
    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]


def calls(piece: Piece) -> list[Given]:
    """One call for all rows; each has a prompt token among its targets, which mask and weights leave out."""
    of, data, log_probs = piece.batch, [], []
    for row, length in enumerate(of.completion.sum(1).tolist()):
        start = lambda x, value, row=row, length=length: torch.cat([x.new_full((1,), value), x[row, :length]])  # noqa: E731
        mask = start(of.mask.to(of.advantages.dtype), 0.0)
        fields = {"weights": mask, "mask": mask, "advantages": start(of.advantages, 0.0),
                  "logprobs": start(of.sampler_log_probs, 0.0)}  # fmt: skip
        inputs = {name: TensorData(x) for name, x in fields.items()}
        inputs["target_tokens"] = TensorData(list(range(1, 2 + length)), "int64")
        data.append(Datum(ModelInput(list(range(1 + length))), inputs))
        log_probs.append(start(of.log_probs, -1.5))
    return [Given({"data": data, "logprobs": log_probs}, positional=2)]


def read(result: Any) -> tuple[Any, str]:
    """``loss, metrics``."""
    return pair(result, "tinker")


LINES = {
    "mask": "weights = datum.loss_fn_inputs['mask'].to_torch(); loss = (x * weights).sum()",
    "micro_batches": "one forward_backward_custom before each optim_step, or a denominator of all calls",
    "advantages": "datum.loss_fn_inputs['advantages'].to_torch()",
}
for _name in ("tokens", "rows"):
    LINES[_name] = LINES["micro_batches"]
NAMES = {"Datum": Datum, "TensorData": TensorData, "ModelInput": ModelInput}
HAND = Hand(
    "tinker", UNIT, FORM, calls, read, LINES, ranks=False, even=True, padded=False, cut=False,
    stand_ins={"tinker": NAMES, "tinker.types": NAMES, "tinker_cookbook": {}},
)  # fmt: skip
