"""What loading a framework takes: settings, and empty packages in place of those that want a server or a GPU."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch


def quiet() -> None:
    """Settings under which frameworks import without a network and without notices."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def forget(package: str) -> Path:
    """Undo a failed import: drop what it left of the package's modules. The folder where it is installed."""
    for name in [k for k in sys.modules if k.partition(".")[0] == package]:
        del sys.modules[name]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def empty(name: str, folder: Path | None = None, **names: Any) -> ModuleType:
    """An empty module of this name, with these names in it.

    With a folder it is a package whose own ``__init__`` is not run: modules below it are the files in the folder.
    """
    module = sys.modules[name] = ModuleType(name)
    module.__dict__.update(names)
    if folder is not None:
        module.__path__ = [str(folder)]
    return module


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """torch's default dtype inside: frameworks make a few constants with it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def casts_to_float64() -> Iterator[None]:
    """``tensor.float()`` gives float64 inside: what a framework casts down stays exact."""
    with patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


class _Float64(ModuleType):
    """torch, where float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def float32_is_float64(*modules: str) -> Iterator[None]:
    """What these modules write as ``torch.float32`` or ``.float()`` is float64 inside."""
    with ExitStack() as stack:
        stack.enter_context(casts_to_float64())
        for name in modules:
            stack.enter_context(patch.object(importlib.import_module(name), "torch", _Float64("torch")))
        yield
