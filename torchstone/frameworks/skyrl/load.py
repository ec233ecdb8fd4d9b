"""SkyRL without the packages around its PPO utilities that reach a server, a cluster or a logger."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from torchstone.frameworks.loading import empty, forget, quiet

CORE = "skyrl.backends.skyrl_train.utils.ppo_utils"
TORCH = "skyrl.backends.skyrl_train.utils.torch_utils"


def load() -> None:
    """Import what the functions of this room call."""
    quiet()
    try:
        core()
    except Exception:  # a package is missing, or another version of one (pydantic's) refuses SkyRL's classes
        _stub()
        core()


def core() -> Any:
    """The module of its estimators and losses."""
    return importlib.import_module(CORE)


def _stub() -> None:
    """Empty packages in place of those whose ``__init__`` reaches further."""
    root = forget("skyrl")
    for name in ("backends", "backends.skyrl_train", "backends.skyrl_train.utils", "train"):
        empty(f"skyrl.{name}", root.joinpath(*name.split(".")))
    empty("skyrl.train.config", AlgorithmConfig=object, OffPolicyCorrectionConfig=object)
    if find_spec("loguru") is None:
        empty("loguru", logger=SimpleNamespace(warning=lambda *_: None, info=lambda *_: None))
