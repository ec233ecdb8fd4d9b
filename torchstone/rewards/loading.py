"""A reward function by name: one of ours, of a file of Python, or of a module that Python finds."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torchstone.rewards import library
from torchstone.rewards.calling import Reward, where_it_was
from torchstone.terminal import UserError, near

BY_NAME = {f.__name__: f for f in (library.exact, library.last_number, library.last_words, library.lenient)}
homes: set[str] = set()  # folders of reward files, whose other modules can be imported
loaded: dict[str, tuple[int, ModuleType]] = {}  # reward files: when they were written, and what they are


def load_reward(spec: str) -> Callable[..., Any]:
    """The function that ``--reward`` names.

    ``exact`` and the like are those of ``library``; ``math`` is that of ``mathematics``. ``file.py:function``,
    ``~/file.py:function``: of a file; without a name its only public function, or the one named ``reward``.
    ``package.module:function``: of a module that can be imported from the working directory.

    Raises UserError: there is none, or the file does not import.
    """
    return read_reward(spec).function


def read_reward(spec: str) -> Reward:
    """The same, with its name and its file."""
    if spec == "math":
        from torchstone.rewards.mathematics import math

        return Reward("math", math, "the reward math")
    if spec in BY_NAME:
        return Reward(spec, BY_NAME[spec], f"the reward {spec}")
    place, name = split(spec)
    if not place:
        raise UserError(f"--reward {spec}: the file or the module is missing")
    if place.endswith(".py"):
        file = Path(place).expanduser()
        if not file.is_file():
            known = [*BY_NAME, "math"]
            raise UserError(f"--reward {spec}: no file {file}{near(spec, known)}; or one of {', '.join(known)}")
        module = imported(spec, str(file), lambda: module_of(file.resolve()))
    else:
        module = imported(spec, place, lambda: importlib.import_module(place))
    name = name or only_function(spec, module)
    function = getattr(module, name, None)
    if not callable(function) or inspect.isclass(function):
        where = module.__file__ or place
        if inspect.isclass(function):
            raise UserError(f"--reward {spec}: {name!r} of {where} is a class; name one of its instances")
        has = ", ".join(own_functions(module)) or "none"
        raise UserError(f"--reward {spec}: no function {name!r} in {where}; it has {has}")
    return Reward(name, function, f"the reward function {Path(module.__file__ or place).name}:{name}", module.__file__)


def split(spec: str) -> tuple[str, str]:
    """The file, with its ``.py``, or the module; and the name, or nothing."""
    place, _, name = spec.rpartition(":") if ":" in spec and not spec.endswith(".py") else (spec, "", "")
    is_module = name and os.sep not in place and not place.endswith(".py") and not Path(f"{place}.py").is_file()
    return (place if is_module or place.endswith(".py") else f"{place}.py"), name


def file_of(spec: str) -> Path | None:
    """The file that a reward is in, if it is named by its file."""
    place, _ = split(spec)
    return Path(place).expanduser() if place.endswith(".py") and spec not in (*BY_NAME, "math") else None


def absolute_spec(spec: str) -> str:
    """The same reward, named so that it is found from any working directory."""
    file = file_of(spec)
    _, name = split(spec)
    return os.path.abspath(file) + f":{name}" * bool(name) if file else spec


def imported(spec: str, what: str, load: Callable[[], ModuleType]) -> ModuleType:
    """The module, its folder being where Python looks first. Raises UserError: it does not import."""
    here = os.getcwd()
    home = str(Path(what).resolve().parent) if what.endswith(".py") else here
    forget_neighbours(home)
    sys.path[:] = [home, *(path for path in sys.path if path != home)]
    try:
        with where_it_was():
            return load()
    except (Exception, SystemExit) as e:
        told = f"sys.exit({e.code!r})" if isinstance(e, SystemExit) else f"{type(e).__name__}: {e}"
        raise UserError(f"--reward {spec}: {what} does not import: {' '.join(told.split())}") from e


def module_of(file: Path) -> ModuleType:
    """The file as a module, under its own name where that is free, so that processes of its own can import it too."""
    name, known, written = file.stem, sys.modules.get(file.stem), file.stat().st_mtime_ns
    if loaded.get(str(file), (0,))[0] == written:  # another function of it is wanted
        return loaded[str(file)][1]
    if (
        not name.isidentifier()
        or (known and getattr(known, "__file__", None) != str(file))
        or (not known and (found := importlib.util.find_spec(name)) and found.origin != str(file))
    ):
        name = f"reward_{''.join(c if c.isalnum() else '_' for c in str(file))}"
    found = importlib.util.spec_from_file_location(name, file)
    assert found and found.loader  # a .py file always has a loader
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    loaded[str(file)] = written, module
    return module


def forget_neighbours(home: str) -> None:
    """Modules beside an earlier reward file, of which this folder has one of the same name, are imported anew."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        elsewhere = os.path.dirname(file) in homes - {home} and file not in loaded
        if elsewhere and Path(home, f"{name}.py").is_file():
            del sys.modules[name]
    homes.add(home)


def only_function(spec: str, module: ModuleType) -> str:
    """The name of the function where none is given."""
    own = own_functions(module)
    if len(own) != 1 and "reward" not in own:
        raise UserError(f"--reward {spec}: which function? Write {spec}:NAME; it has {', '.join(own) or 'none'}")
    return own[0] if len(own) == 1 else "reward"


def own_functions(module: ModuleType) -> list[str]:
    """Public functions that a module defines itself."""
    return [k for k, f in vars(module).items()
            if inspect.isfunction(f) and not k.startswith("_") and f.__module__ == module.__name__]  # fmt: skip
