"""Packages of a framework that are not installed here: what a loss's file imports of them, so that it loads.

A name that has no stand-in of its own is inert: it can be imported, called as a decorator and subclassed. A loss that
calculates with one is told which package it lacks.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

IDS = 4  # token ids that completions are made of


class Settings(SimpleNamespace):
    """A framework's configuration: defaults, nested ones as dicts, and settings, those nested as ``outer.inner``."""

    def __init__(self, defaults: Mapping[str, Any], settings: Mapping[str, Any]):
        super().__init__(**{k: Settings(v, {}) if isinstance(v, dict) else v for k, v in defaults.items()})
        for name, value in settings.items():
            outer, _, inner = name.rpartition(".")
            vars(getattr(self, outer) if outer else self)[inner] = value

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def masked_sum(x: Tensor, mask: Tensor, axis: int | None = None) -> Tensor:
    """The sum where the mask is."""
    kept = torch.where(mask.bool(), x, 0.0)
    return kept.sum() if axis is None else kept.sum(axis)


def masked_mean(x: Tensor, mask: Tensor | None, axis: int | None = None, dim: int | None = None) -> Tensor:
    """The mean where the mask is, as verl (``axis``) and SkyRL (``dim``) have it."""
    axis, mask = dim if axis is None else axis, torch.ones_like(x) if mask is None else mask
    return masked_sum(x, mask, axis) / masked_sum(mask, mask, axis).clamp(min=1)


def logits_of(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Logits [... IDS] under which these ids have these log-probs, and all others as much as one another."""
    others = torch.log(-torch.expm1(log_probs) / (IDS - 1))
    return torch.where(torch.nn.functional.one_hot(ids, IDS).bool(), log_probs[..., None], others[..., None])


def _part(whole: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Inert(f"{whole.__name__}.{name}")


class Inert:
    """In the place of a name that is not installed."""

    __getattr__ = _part

    def __init__(self, name: str):
        self.__name__ = name

    def __call__(self, *given: Any, **named: Any) -> Any:
        """As a decorator it gives back what it decorates; on tensors it raises."""
        if any(isinstance(x, (Tensor, list)) for x in (*given, *named.values())):
            package = self.__name__.partition(".")[0]
            raise ModuleNotFoundError(f"{self.__name__} is called, and {package} is not installed here", name=package)
        return given[-1] if given and callable(given[-1]) and not isinstance(given[-1], Inert) else self

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return ()

    def __instancecheck__(self, _: Any) -> bool:
        return False

    def __getitem__(self, _: Any) -> Inert:
        return self

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__


class _Module(ModuleType):
    __getattr__ = _part


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, stand_ins: Mapping[str, Mapping[str, Any]], always: bool):
        self.stand_ins, self.always, self.used = stand_ins, always, set[str]()
        self.roots = {name.partition(".")[0] for name in stand_ins}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        """A stand-in; asked last, so that a package which is installed has been found, and may lack a module."""
        root = name.partition(".")[0]
        installed = root != name and not isinstance(sys.modules.get(root), _Module)
        if root not in self.roots or (installed and not self.always):
            return None
        self.used.add(root)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        module = _Module(spec.name)
        module.__dict__.update(self.stand_ins.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def packages(stand_ins: Mapping[str, Mapping[str, Any]], always: bool = False) -> Iterator[set[str]]:
    """Inside, modules of packages that are not installed can be imported; the set has those that were asked for.

    Args:
        always: installed packages are stood in for too, since one that they need is missing.
    """
    finder = _Finder(stand_ins, always)
    if always:
        for name in [k for k in sys.modules if k.partition(".")[0] in finder.roots]:
            del sys.modules[name]
    sys.meta_path.insert(0 if always else len(sys.meta_path), finder)
    try:
        yield finder.used
    finally:
        sys.meta_path.remove(finder)
        for name in [k for k, module in sys.modules.items() if isinstance(module, _Module)]:
            del sys.modules[name]
