"""Every objective with its named alternatives and its cases: one file each, in the folder of its family.

A file ``FAMILY/NAME.py`` holds the objective NAME as ``OBJECTIVE``; it is found by standing there. What several files
need stands in ``shared``, or in the file of the one that the others vary.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from ..contract import Objective

FAMILIES = ("core", "reinforce", "ppo", "grpo", "dpo", "distill")


def found() -> Iterator[Objective]:
    """The objectives of each family, in the order of their names."""
    for family in FAMILIES:
        folder = import_module(f".{family}", __name__).__path__
        for name in sorted(module.name for module in iter_modules(folder)):
            yield import_module(f".{family}.{name}", __name__).OBJECTIVE


OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in found()}
