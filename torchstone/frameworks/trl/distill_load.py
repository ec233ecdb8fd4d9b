"""TRL's trainers of distillation without a model: a real config of TRL's, and logits that are given.

As in load.py no ``__init__`` of a trainer is run: its attributes are set here from the config.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.trl import load

CHUNKED = ("trl.kernels.chunked_divergence", "trl.kernels.chunked_logprob")
COPIED = """
    beta temperature lmbda seq_kd distillation_objective iw_opd_gamma iw_opd_epsilon reverse_kl_top_1_mode loss_top_k
    loss_add_tail use_teacher_server num_loss_tokens_to_skip use_uld_loss
"""


class Model(torch.nn.Module):
    """A model with these logits [B T V] after a prompt of one token, whatever it is asked."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.given = logits
        sizes = SimpleNamespace(vocab_size=logits.shape[-1], model_type="", final_logit_softcapping=None)
        self.config = SimpleNamespace(get_text_config=lambda: sizes)

    def forward(self, **_: Any) -> SimpleNamespace:
        """The logits, those of the last token last: they choose no token of the completion."""
        return SimpleNamespace(logits=torch.cat([self.given, torch.zeros_like(self.given[:, :1])], 1))

    def get_output_embeddings(self) -> SimpleNamespace:
        """The identity, so that hidden states are logits."""
        return SimpleNamespace(weight=torch.eye(self.given.shape[-1], dtype=self.given.dtype), bias=None)


class _Doors:
    """Mixed in before a trainer: its doors to what a model and its wrappers would do."""

    def __init__(self) -> None:
        pass

    def _get_last_hidden_state(self, model: Model, *_: Any, **__: Any) -> Tensor:
        return model.given

    def _forward_redirection(self, wrapper: Any, model: Any, method: Any, *arguments: Any, **named: Any) -> Any:
        return method(*arguments, **named)

    def _raise_if_local_teacher_tokenizer_mismatch(self) -> None:
        pass


def trainer(kind: str, logits: Tensor, teacher_logits: Tensor, **knobs: Any) -> Any:
    """A trainer of ``kind`` "Distillation", "GKD", "GOLD", "SDPO", "SDFT" or "IWOPD" whose models have these logits."""
    made = load._made(kind, _Doors, knobs, COPIED)
    made.model, made.teacher_model = Model(logits), Model(teacher_logits)
    made.use_teacher_server = False
    made.model_kwarg_keys, made.current_gradient_accumulation_steps = set(), 1
    return made
