"""What a user says on a command line of the checker: an objective, names, values. Loading this imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torchstone.terminal import UserError, near


def known_objective(objective: str) -> str:
    """The full name of an objective ("grpo" is "grpo_loss")."""
    from torchstone.conformance.vectors import load, objectives

    try:
        return load(objective).objective
    except ValueError:
        close = near(objective, objectives())
        raise UserError(f"unknown objective {objective!r}{close}; torchstone check --list lists them") from None


def read_setting(text: str) -> tuple[str, Any]:
    """``eps=1e-6`` -> ("eps", 1e-6). What is no Python literal is a string; ``outer.inner`` is a nested setting."""
    name, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"--set: expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def read_names(path: Path) -> dict[str, str]:
    """A TOML file with their names and ours."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--names: cannot read {path}: {getattr(e, 'strerror', None) or 'it is not UTF-8'}") from e
    toml = _toml()
    try:
        data: Mapping[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as e:
        raise UserError(f'--names {path}: {e}; a line is  their_name = "our_name"') from e
    for name, ours in data.items():
        if not isinstance(ours, str):
            line = next((i for i, row in enumerate(text.splitlines(), 1) if name in row), 1)
            raise UserError(f'--names {path}, line {line}: expected {name} = "our_name", got {ours!r}')
    return dict(data)


def _toml() -> Any:
    for name in ("tomllib", "tomli"):  # Python 3.10 has none of its own
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise UserError("--names: Python 3.10 cannot read TOML by itself: pip install tomli")
