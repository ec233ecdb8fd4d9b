"""A reward function of the user's, from a file of Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torchstone.data.tasks import RewardFunction
from torchstone.terminal import UserError


def load_reward(spec: str) -> RewardFunction:
    """Load ``file.py:function``; without a name, the file's only public function, or the one named ``reward``."""
    path, _, name = spec.partition(".py:")
    file = Path(path if path.endswith(".py") else path + ".py")
    if not file.is_file():
        raise UserError(f"--reward {spec}: no file {file}")
    found = importlib.util.spec_from_file_location(file.stem, file)
    assert found and found.loader  # a .py file always has a loader
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as e:
        raise UserError(f"--reward {spec}: {file} does not import: {type(e).__name__}: {e}") from e
    own = {k: f for k, f in vars(module).items()
           if callable(f) and not k.startswith("_") and getattr(f, "__module__", None) == module.__name__}  # fmt: skip
    name = name or (next(iter(own)) if len(own) == 1 else "reward")
    if name not in own:
        raise UserError(f"--reward {spec}: no function {name!r} in {file}; it has {', '.join(own) or 'none'}")
    return own[name]
