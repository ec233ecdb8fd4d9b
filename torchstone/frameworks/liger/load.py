"""Liger Kernel: its chunked losses are imported as they are; triton is wanted at import only.

Run eager (``EAGER``) they take the CPU, in chunks of one row or pair. They want hidden states and the weight of the LM
head: logits as hidden states, and the identity as the weight.
"""

from __future__ import annotations

from typing import Any

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import theirs

CHUNKED = "liger_kernel.chunked_loss"
EAGER = {"compiled": False, "chunk_size": 1}


def load() -> None:
    """Import what the functions of this room call."""
    quiet()
    for kind in ("grpo", "dpo", "simpo", "orpo"):
        theirs(f"{CHUNKED}.{kind}_loss:torch")


def formula(kind: str) -> Any:
    """The class of ``kind`` "GRPO", "DPO", ... that holds the formula on log-probs."""
    return theirs(f"{CHUNKED}.{kind.lower()}_loss:LigerFusedLinear{kind}Function")


def module(kind: str, **knobs: Any) -> Any:
    """The whole loss of ``kind`` "GRPO", "DPO", "KTO", ... with these settings, eager."""
    return theirs(f"{CHUNKED}:LigerFusedLinear{kind}Loss")(**EAGER, **knobs)
