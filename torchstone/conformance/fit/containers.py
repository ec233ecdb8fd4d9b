"""Parameters that hold several values: a batch as one dict, a config, ``self``, ``**kwargs``. Read in the source.

``loss(batch, config)`` that reads ``batch["old_log_probs"]`` and ``config.clip_eps`` is called as if it had the
parameters ``old_log_probs`` and ``clip_eps``; the containers are built around the values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchstone.conformance.fit.aliases import words
from torchstone.conformance.fit.reading import EMPTY, NEUTRAL, TELLING, Path, Reader, owner_of, source


class Bag(dict[str, Any]):
    """A dict whose entries are attributes too."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        super().__init__(entries)
        self.__dict__.update(entries)


@dataclass(frozen=True)
class Containers:
    """How the values by their own names become what is passed.

    ``places``: name -> where it stands; ``ordered``: a parameter -> the names that it is unpacked into; ``owner``: the
    class of ``self`` of a method.
    """

    places: Mapping[str, Path] = field(default_factory=dict)
    ordered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    star: tuple[str, ...] = ()  # parameters such as *args, then **kwargs
    bound: bool = False  # is there a self to be made?
    owner: type | None = None

    def pack(self, passed: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the call."""
        keywords = {k: x for k, x in passed.items() if k not in self.places}
        tree: dict[str, Any] = {path[0]: {} for path in self.places.values()}
        for name, path in self.places.items():
            if name in passed:
                at = tree
                for key in path[:-1]:
                    at = at.setdefault(key, {})
                at[path[-1]] = passed[name]
        bags = {k: self._made(k, x) for k, x in tree.items()}
        made = bags.pop("self", None)
        positional = [self._made("self", {}) if made is None else made] if self.bound else []
        for name in self.star:
            found = bags.pop(name, {})
            if name in self.ordered:
                positional += found
            else:
                keywords |= found
        return positional, bags | keywords

    def _made(self, name: str, entries: dict[str, Any]) -> Any:
        if name in self.ordered:
            return [entries[k] for k in self.ordered[name] if k in entries]
        if name == "self" and self.owner is not None:
            made: Any = object.__new__(self.owner)
            vars(made).update({k: _bag(x) for k, x in entries.items()})
            return made
        return _bag(entries)


def _bag(x: Any) -> Any:
    return Bag({k: _bag(v) for k, v in x.items()}) if type(x) is dict else x


def opened(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> tuple[
    list[inspect.Parameter], Containers
]:  # fmt: skip
    """The parameters, with those inside in the place of each container, and how to pack them.

    Args:
        function: what is called; without its source nothing is opened.
        parameters: its own, without ``self`` where it is bound.
    """
    tree = source(function)
    if tree is None:
        return list(parameters), Containers(bound="self" in {p.name for p in parameters})
    reader = Reader(function, tree, {p.name: (p.name,) for p in parameters})
    found: list[inspect.Parameter] = []
    places: dict[str, Path] = {}
    ordered: dict[str, tuple[str, ...]] = {}
    star: list[str] = []
    taken = {p.name for p in parameters}
    for p in parameters:
        inside = reader.inside(p)
        if not inside:
            found += [p] if p.name != "self" else []
            continue
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            star.append(p.name)
            if p.kind is p.VAR_KEYWORD:  # whatever is not read may be passed too
                found.append(p)
        if p.name in reader.ordered:
            ordered[p.name] = reader.ordered[p.name]
        known = _defaults(p, function)
        for path, default in inside.items():
            name = _name(path, taken)
            taken.add(name)
            places[name] = path
            default = known.get(path[-1], default) if default is EMPTY else default
            found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    bound = "self" in {p.name for p in parameters}
    return found, Containers(places, ordered, tuple(star), bound, owner_of(function) if bound else None)


def _name(path: Path, taken: set[str]) -> str:
    """The last key where the container's name says nothing, else both: ``policy["chosen"]`` is policy_chosen."""
    said = [k for k in path[:-1] if k.lower() not in NEUTRAL and TELLING & set(words(k))]
    name = "_".join([*said[-1:], path[-1]]) if said else path[-1]
    return name if name.isidentifier() and name not in taken else "_".join(path).replace("-", "_").replace("/", "_")


def _defaults(p: inspect.Parameter, function: Callable[..., Any]) -> dict[str, Any]:
    """What the class of a container gives its entries: of a config by its annotation, of ``self`` by its __init__."""
    names = getattr(function, "__globals__", {})
    owner = owner_of(function) if p.name == "self" else p.annotation
    owner = names.get(owner) if isinstance(owner, str) else owner
    if not inspect.isclass(owner) or owner is EMPTY:
        return {}
    of_class = {k: v for k, v in vars(owner).items() if not k.startswith("_") and not callable(v)}
    try:
        made = inspect.signature(owner).parameters.values()
    except (TypeError, ValueError):
        return of_class
    return of_class | {q.name: q.default for q in made if q.default is not EMPTY}
