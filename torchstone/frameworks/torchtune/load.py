"""torchtune: where torchao is not installed, its own ``__init__`` is left out."""

from __future__ import annotations

import importlib

from torchstone.frameworks.loading import empty, forget, quiet

REWARDS, SEQUENCE = "torchtune.rlhf.rewards", "torchtune.rlhf.sequence_processing"
PPO, DPO = "torchtune.rlhf.loss.ppo", "torchtune.rlhf.loss.dpo"
DISTILLATION = "torchtune.modules.loss.kd_losses"


def load() -> None:
    """Import what the functions of this room call."""
    quiet()
    try:
        for name in (PPO, DISTILLATION):
            importlib.import_module(name)
    except Exception:  # a package is missing, or another version of one breaks the import
        _stub()
    for name in (REWARDS, SEQUENCE, PPO, DPO, DISTILLATION):
        importlib.import_module(name)


def _stub() -> None:
    """Packages without their ``__init__``, which wants torchao, and ``torchtune.data`` with one number."""
    root = forget("torchtune")
    empty("torchtune", root, __file__=str(root / "__init__.py"))
    for name in ("modules", "modules.loss"):
        empty(f"torchtune.{name}", root.joinpath(*name.split(".")))
    empty("torchtune.data", CROSS_ENTROPY_IGNORE_IDX=-100)
