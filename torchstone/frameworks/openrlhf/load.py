"""OpenRLHF without a GPU's libraries, and its experience maker and arguments without a cluster.

``import openrlhf.models`` wants flash-attn and deepspeed. Where they are not installed, the packages that import them
are empty here, with the installed folder as their path: every module that computes something is the installed file.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchstone.frameworks.loading import empty, forget, quiet

LOSS, UTILS = "openrlhf.models.loss", "openrlhf.models.utils"
MAKER = "openrlhf.trainer.ppo_utils.experience_maker"
CONTROL, LENGTH = "openrlhf.trainer.ppo_utils.kl_controller", "openrlhf.trainer.ppo_utils.length_penalty"
MODULES = (LOSS, UTILS, MAKER, CONTROL, LENGTH)


def load() -> None:
    """Import what the functions of this room call."""
    if MAKER in sys.modules:
        return
    quiet()
    try:
        importlib.import_module(MAKER)
    except Exception:  # a package is missing, or another version of one breaks the import
        _stub()
    for name in MODULES:
        module(name)
    for name in (MAKER, LENGTH):
        module(name).logger.setLevel(logging.ERROR)  # they report every call


def _stub() -> None:
    """Empty packages in place of those that need a GPU's libraries."""
    root = forget("openrlhf")
    importlib.import_module("openrlhf")
    empty("openrlhf.utils", root / "utils", get_tokenizer=None)
    empty("openrlhf.utils.deepspeed", DeepspeedStrategy=None)
    names = {"offload_deepspeed_states": None, "reload_deepspeed_states": None}
    empty("openrlhf.utils.deepspeed.deepspeed_utils", **names)
    models = empty("openrlhf.models", root / "models", Actor=None, get_llm_for_sequence_regression=None)
    empty("openrlhf.trainer.ray", root / "trainer" / "ray")
    empty("openrlhf.trainer.ray.launcher", BaseModelActor=object, RayActorGroup=None)
    models.__dict__.update((name, value) for name, value in vars(module(LOSS)).items() if not name.startswith("_"))


def module(name: str) -> Any:
    """One of its modules; one that was not imported yet is imported beside an empty deepspeed, if there is none."""
    if name in sys.modules:
        return sys.modules[name]
    with _deepspeed():
        return importlib.import_module(name)


@contextmanager
def _deepspeed() -> Iterator[None]:
    if "deepspeed" in sys.modules or find_spec("deepspeed"):
        yield
        return
    empty("deepspeed")
    try:
        yield
    finally:
        del sys.modules["deepspeed"]  # others ask whether it is installed


def arguments(**sections: dict[str, Any]) -> SimpleNamespace:
    """Its nested arguments: these sections, as ``algo={"kl": {...}}``, and what every run on one process has."""
    off = ("dynamic_batch_enable", "async_enable", "colocate_all", "colocate_actor_ref", "colocate_critic_reward")
    every: dict[str, Any] = {
        "train": {"max_epochs": 1, **dict.fromkeys(off, False)},
        "ds": {"packing_samples": False, "ring_attn_size": 1, "tensor_parallel_size": 1},
        "vllm": {"sync_backend": "gloo"},
    }
    return _nested(every | sections)


def _nested(x: Any) -> Any:
    return SimpleNamespace(**{k: _nested(v) for k, v in x.items()}) if isinstance(x, dict) else x


def experience(mask: Tensor, **tensors: Any) -> Any:
    """A whole rollout as one micro-batch: a prompt of one token stands before each completion of the mask [B T]."""
    sequences = torch.zeros(len(mask), 1 + mask.shape[1], dtype=torch.long)
    given = {"sequences": sequences, "attention_mask": torch.ones_like(sequences), "action_mask": mask}
    return module(MAKER).Experience(**given, index=list(range(len(mask))), info={}, **tensors)


def maker(*groups: Tensor | None, kl_coef: float = 0.0, args: Any = None) -> Any:
    """RemoteExperienceMaker whose groups of models (actor, critic, reward, reference) are the numbers they return."""

    class Maker(module(MAKER).RemoteExperienceMaker):
        def _dispatch_forward(self, group: Tensor, *_: Any, **__: Any) -> list[list[Tensor]]:
            return [[group]]

    if args is None:
        return Maker.__new__(Maker)
    controller = module(CONTROL).FixedKLController(kl_coef)
    return Maker(*groups, controller, SimpleNamespace(args=args), None)
