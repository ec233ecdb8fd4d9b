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
target: cannot tell what {unknown} should be; say so with names ({first} = one of {known}) or set a value ({first}=...)
Or check a few lines of your own (torchstone check adapter.py:{objective}), in which {unknown} {is_are} a guess:

{adapter}"""
ADAPTER = """\
  # adapter.py
  from {module} import {name}{more}

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
    must = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {p.name for p in parameters if p.default is p.empty and p.kind in must} | {*given, *unknown}
    passed = {p.name: given.get(p.name, "") for p in parameters if p.name in needed}
    return TEXT.format(
        unknown=", ".join(unknown), first=unknown[0], known=", ".join(ours) or "none that is left",
        is_are="are" if len(unknown) > 1 else "is", objective=vectors.objective,
        adapter=adapter(function, passed, containers, vectors),
    )  # fmt: skip


def adapter(
    function: Callable[..., Any], passed: Mapping[str, str], containers: Containers, vectors: Vectors,
    made: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """A few lines with the objective's name and arguments that call the function; ``...`` is to be filled in.

    Args:
        function: what is called, or the class that is made first.
        passed: their name -> ours, of all that it must be given, and of what else is understood.
        containers: those that some of these names are in.
        vectors: of the objective.
        made: the same as ``passed`` for the arguments of the class.
    """
    known = [*vectors.arguments, *vectors.settings]
    every = {**(made or {}), **passed}
    said = {k: v if v in known else "..." for k, v in every.items()}
    call, more = _call({k: said[k] for k in passed}, containers)
    needed = {*every.values(), *(vectors.arguments if "..." in said.values() else ())}
    name = getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]
    own = f"({', '.join(f'{k}={said[k]}' for k in made or {})})" if inspect.isclass(function) else ""
    return ADAPTER.format(
        module=_module(function), name=name.split(".")[0], more=more, objective=vectors.objective,
        ours=", ".join(k for k in known if k in needed), made=name + own, theirs=call,
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
    trees: dict[str, Any] = {}
    for name, path in containers.places.items():
        if name in values:
            at = trees
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = values[name]
    for root, entries in trees.items():
        if root in containers.ordered:
            plain.append(f"{'*' if root in containers.star else f'{root}='}({', '.join(entries.values())})")
        else:
            made = _made(entries)
            plain.append(f"**{made[4:-1]}" if root in containers.star else f"{root}={made}")
    plain.sort(key=lambda part: part.startswith("**") - (part.startswith("*") and not part.startswith("**")))
    bags = any("Bag(" in part for part in plain)
    return ", ".join(plain), "\n  from torchstone.conformance.fit.containers import Bag" if bags else ""


def _made(x: Any) -> str:
    """Nested dicts as the code that makes them, entries of which can be read as attributes too."""
    if not isinstance(x, dict):
        return str(x)
    entries = (f'"{k}": {_made(v)}' for k, v in x.items())
    return "Bag({" + ", ".join(entries) + "})"
