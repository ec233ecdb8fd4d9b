"""Test vectors of every objective, and a checker that says which known variant or bug a function equals.

``conformance.check(function, "grpo_loss")`` gives a ``Report``; ``torchstone check`` does the same on the command line.
"""

from __future__ import annotations

from typing import Any

__all__ = ["OBJECTIVES", "load", "check", "identify", "check_relations", "cases", "Report"]

_HOME = {
    "load": "vectors",
    "check": "checker",
    "Report": "result",
    "identify": "identifier",
    "check_relations": "relations",
    "cases": "pytest_plugin",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "OBJECTIVES":
        return import_module("torchstone.conformance.vectors").objectives()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"torchstone.conformance.{_HOME[name]}"), name)  # no module has one of these names
