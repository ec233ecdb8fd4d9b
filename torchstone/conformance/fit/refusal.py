"""What is said of a function whose parameters cannot be told: which, and an adapter to fill in, with its own names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone.conformance.fit.containers import Containers
from torchstone.conformance.vectors import Vectors

TEXT = """\
cannot tell what {unknown} should be; say so with names ({first} = one of {known}) or set a value ({first}=...)
Or check a few lines of your own (torchstone check adapter.py:{objective}), in which {unknown} {is_are} a guess:

  # adapter.py{more}
  from {module} import {name}

  def {objective}({ours}):
      return {made}({theirs})"""


def refusal(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter], containers: Containers,
    taken: Mapping[str, str], unknown: Sequence[str], vectors: Vectors,
) -> str:  # fmt: skip
    """The whole message.

    Args:
        function, parameters, containers: what it takes, opened.
        taken: their name -> ours, of those that were understood.
        unknown: their names that were not.
        vectors: of the objective.
    """
    ours = [k for k in (*vectors.arguments, *vectors.settings) if k not in taken.values()]
    given = dict(taken) | dict(zip(unknown, [k for k in vectors.arguments if k in ours], strict=False))
    used = [k for k in (*vectors.arguments, *vectors.settings) if k in given.values()]
    must = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {p.name for p in parameters if p.default is p.empty and p.kind in must}
    required = [p for p in parameters if p.name in needed | {*given, *unknown}]
    values = {p.name: given.get(p.name, "None") for p in required}
    values = {k: v if v in used else "None" for k, v in values.items()}
    name = getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]
    call, more = _call(values, containers)
    own = inspect.isclass(function)
    return "target: " + TEXT.format(
        unknown=", ".join(unknown), first=unknown[0], known=", ".join(ours) or "none that is left",
        is_are="are" if len(unknown) > 1 else "is", objective=vectors.objective, more=more,
        module=_module(function), name=name.split(".")[0], ours=", ".join(used),
        made=f"{name}()" if own else name, theirs=call,
    )  # fmt: skip


def _module(function: Callable[..., Any]) -> str:
    """How its module is imported: by the name of its file where it was given as one."""
    name = getattr(function, "__module__", None) or "your_module"
    if name.startswith("torchstone_target_"):
        return Path(getattr(sys.modules.get(name), "__file__", name) or name).stem
    return name


def _call(values: Mapping[str, str], containers: Containers) -> tuple[str, str]:
    """The arguments of the call; containers are written as what they are read like. And an import that this needs."""
    plain = [f"{k}={v}" for k, v in values.items() if k not in containers.places]
    trees: dict[str, list[str]] = {}
    for name, path in containers.places.items():
        if name in values:
            trees.setdefault(path[0], []).append(f'"{path[-1]}": {values[name]}')
    for root, entries in trees.items():
        inside = "{" + ", ".join(entries) + "}"
        if root in containers.ordered:
            inside = f"({', '.join(e.partition(': ')[2] for e in entries)})"
        plain.append(f"{root}=Bag({inside})" if root not in containers.ordered else f"{root}={inside}")
    bags = any(root not in containers.ordered for root in trees)
    return ", ".join(plain), "\n  from torchstone.conformance.fit.containers import Bag" if bags else ""
