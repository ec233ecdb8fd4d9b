"""TorchRL: imported as it is; the loss of its GRPO for language models without the model."""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import theirs

VALUE = "torchrl.objectives.value.functional"
GRPO = "torchrl.objectives.llm.grpo"
DISTILLATION = "torchrl.objectives.llm.distillation"


def load() -> None:
    """Import what the functions of this room call."""
    quiet()
    for of in (f"{VALUE}:reward2go", f"{GRPO}:GRPOLoss"):
        theirs(of)


class Methods:
    """The methods of a loss without its ``__init__``, which wants a model."""

    def __init__(self, cls: type):
        self.cls = cls

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self.cls, name)
        own = isinstance(inspect.getattr_static(self.cls, name), FunctionType)
        return MethodType(plain, self) if own else plain


class Batch(dict[Any, Any]):
    """What the loss asks of a TensorDict."""

    def get(self, key: Any, default: Any = None, **_: Any) -> Any:
        """The entry, whatever else is asked of it."""
        return dict.get(self, key, default)

    def copy(self) -> Any:
        """A copy that can be changed."""
        return Batch(self)

    def set(self, key: Any, value: Any) -> None:
        """Make it the entry."""
        self[key] = value


def loss_without_a_model(kind: Any, log_probs: Tensor, mask: Tensor, clip: tuple[float, float], **settings: Any) -> Any:
    """A loss of class ``kind`` whose distribution is these log-probs and this mask, clipping at these two epsilons."""
    low, high = (torch.tensor(x, dtype=log_probs.dtype) for x in clip)
    made: Any = Methods(kind)
    made.__dict__.update(
        tensor_keys=SimpleNamespace(action="action", advantage="advantage", sample_log_prob="old", ref_log_probs="ref"),
        kl_mask_threshold=None, entropy_bonus=False, reduction="mean", masking_strategy="generic",
        deterministic_sampling_mode=kind.deterministic_sampling_mode, kl_to_inference_coeff=None,
        _clip_bounds=((-low).log1p(), high.log1p()), ref_log_prob_padding_side="left", ref_log_prob_padding_value=0.0,
        output_type=SimpleNamespace(from_tensordict=lambda found: found),
        _get_cur_log_prob=lambda _: (log_probs, SimpleNamespace(mask=mask), False), **settings,
    )  # fmt: skip
    return made
