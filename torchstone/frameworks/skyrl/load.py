"""SkyRL without what reaches a server, a cluster or a logger: its PPO utilities, its trainer and its worker."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torchstone.frameworks.loading import empty, forget, quiet

CORE = "skyrl.backends.skyrl_train.utils.ppo_utils"
TORCH = "skyrl.backends.skyrl_train.utils.torch_utils"
CORRECTION = "skyrl.backends.skyrl_train.utils.off_policy_correction_utils"
TRAINER, WORKER = "skyrl.train.trainer", "skyrl.backends.skyrl_train.workers.worker"
LEFT_OUT = {  # packages that the trainer imports, and the names that it takes from them: no advantage uses them
    "torchdata": "",
    "torchdata.stateful_dataloader": "StatefulDataLoader",
    "httpx": "AsyncClient Client",
    "skyrl_gym.metrics": "aggregate_for_environment",
    "skyrl_gym.envs.base_text_env": "BaseTextEnvStepOutput",
}


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


def worker() -> Any:
    """The module of its workers, in which a policy loss meets KL and entropy."""
    load()
    return importlib.import_module(WORKER)


def trainer() -> Any:
    """The module of its trainer, without a data loader, a client and environments where they are not installed."""
    load()
    absent = [name for name in LEFT_OUT if not _installed(name)]
    for name in absent:
        empty(name, Path("/nowhere"), **dict.fromkeys(LEFT_OUT[name].split(), object))
    try:
        return importlib.import_module(TRAINER)
    finally:
        for name in absent:
            del sys.modules[name]  # others ask whether it is installed


def _installed(name: str) -> bool:
    """Whether the package that this module is of is there, and not only an empty one in its place."""
    package = name.partition(".")[0]
    known = sys.modules.get(package)
    return find_spec(package) is not None if known is None else known.__spec__ is not None


def _stub() -> None:
    """Empty packages in place of those whose ``__init__`` reaches further."""
    root = forget("skyrl")
    for name in ("backends", "backends.skyrl_train", "backends.skyrl_train.utils", "train.generators"):
        empty(f"skyrl.{name}", root.joinpath(*name.split(".")))
    if not _installed("skyrl_gym"):
        for name in ("skyrl_gym", "skyrl_gym.envs", "skyrl_gym.envs.search", "skyrl_gym.envs.sql"):
            empty(name, Path("/nowhere"))
        empty("skyrl_gym.envs.search.env", SearchEnvConfig=object)
        empty("skyrl_gym.envs.sql.env", Text2SQLEnvConfig=object)
    if not _installed("loguru"):
        empty("loguru", logger=SimpleNamespace(warning=lambda *_: None, info=lambda *_: None))
