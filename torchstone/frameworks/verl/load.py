"""verl: its modules are imported as they are; only its trainer's wants a data loader and an LLM server beside it."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

from torchstone.frameworks.loading import quiet
from torchstone.frameworks.registry import theirs

CORE = "verl.trainer.ppo.core_algos"
TORCH = "verl.utils.torch_functional"
LEFT_OUT = {
    "torchdata.stateful_dataloader": "StatefulDataLoader",
    "verl.workers.rollout.llm_server": "LLMServerManager",
    "torchdata": "",
}


def load() -> None:
    """Import what the functions of this room call."""
    quiet()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*engine is not available.*")
        for of in (f"{CORE}:agg_loss", f"{TORCH}:masked_mean", "verl.workers.config:ActorConfig"):
            theirs(of)


def core() -> Any:
    """The module of its estimators and losses."""
    return importlib.import_module(CORE)


def trainer() -> Any:
    """verl.trainer.ppo.ray_trainer, without the data loader and the LLM server that it imports: no loss uses them."""
    modules = {name: ModuleType(name) for name in LEFT_OUT if name not in sys.modules}
    for name, module in modules.items():
        setattr(module, LEFT_OUT[name] or "__path__", object if LEFT_OUT[name] else [])
    sys.modules.update(modules)
    try:
        return importlib.import_module("verl.trainer.ppo.ray_trainer")
    finally:
        for name in modules:
            del sys.modules[name]
