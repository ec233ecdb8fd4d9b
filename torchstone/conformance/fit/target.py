"""Somebody else's function: find it, and call it with a time limit."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch

from torchstone.terminal import near


class TargetError(ValueError):
    """The target cannot be found, imported or called; the message says what to do."""


AWAITED = "target: it is async, and has numbers only when it is awaited; check a function that runs it by asyncio.run"


class Overtime(Exception):
    """A call took longer than its limit."""


def resolve(target: str) -> Callable[..., Any]:
    """The function or class behind ``package.module:function`` or ``folder/file.py:function``.

    Raises TargetError: no such file, module or function, or the module raises while it is imported.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(f"target: expected package.module:function or file.py:function, got {target!r}")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    try:
        found = reduce(getattr, name.split("."), module)
    except AttributeError:
        public = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise TargetError(
            f"target: {place} has no {name!r}{near(name, public)}; it has {', '.join(public) or 'no function'}"
        ) from None
    if not callable(found):
        raise TargetError(f"target: expected a function or a class, but {target} is {type(found).__name__}")
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"target: there is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"torchstone_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TargetError(f"target: {path} is no Python file")
    module, run = importlib.util.module_from_spec(spec), spec.loader.exec_module
    sys.modules[spec.name] = module
    _import(str(path), lambda: run(module))
    return module


def _from_name(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return _import(name, lambda: importlib.import_module(name))


def _import(place: str, run: Callable[[], Any]) -> Any:
    try:
        with _staying():
            return run()
    except ModuleNotFoundError as e:
        raise TargetError(f"target: {place} cannot be imported, since there is no module {e.name!r} here") from e
    except (Exception, SystemExit) as e:
        raise TargetError(f"target: {place} cannot be imported: {describe(e)}") from e


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


NO_GPU = re.compile(r"not compiled with CUDA|no NVIDIA driver|No CUDA GPUs|CUDA driver|CUDA is not available", re.I)


def out_of_reach(error: BaseException) -> str | None:
    """What this machine lacks for the function, if that is why it raised: a GPU, or a module."""
    if isinstance(error, ModuleNotFoundError):
        return f"target: it needs the module {error.name!r}, which is not here; install it beside torchstone"
    if NO_GPU.search(str(error)):
        return (
            f"target: it needs a GPU, and there is none here ({describe(error)}); let it take the device from its "
            "inputs, as in x.device, or check it on a machine with one"
        )
    return None


@contextmanager
def _staying() -> Iterator[None]:
    """What ends the whole process at once raises instead: no exit status of 0 says that all is right."""

    def stay(*_: Any) -> None:
        raise SystemExit("it ends the whole process (os._exit, os.abort)")

    before = os._exit, os.abort
    os._exit = os.abort = stay  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit, os.abort = before


def written() -> list[str]:
    """The files that functions have left in the folder where they were run; they are gone afterwards."""
    folder = Path(_elsewhere().name)
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [str(p.relative_to(folder)) for p in found]
    for p in found:
        p.unlink(missing_ok=True)
    return names


@cache
def _elsewhere() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="torchstone_", ignore_cleanup_errors=True)


@contextmanager
def contained(precision: str) -> Iterator[None]:
    """Run the block in an empty folder and without an answer on stdin; what it sets in torch is set back.

    ``precision`` ("float64", "float32") is torch's default inside, so that a plain 1.0 in a function is no rounding.
    """
    before = os.getcwd(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), sys.stdin
    os.chdir(_elsewhere().name)
    sys.stdin = io.StringIO()
    torch.set_default_dtype(getattr(torch, precision))
    try:
        with _staying():
            yield
    finally:
        os.chdir(before[0])
        torch.set_default_dtype(before[1])
        torch.set_grad_enabled(before[2])
        sys.stdin = before[4]
        if torch.get_num_threads() != before[3]:
            torch.set_num_threads(before[3])


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``Overtime`` inside the block after ``seconds``. Works in the main thread; elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise Overtime(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
