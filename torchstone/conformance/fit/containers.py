"""Parameters that hold several values: a batch as one dict, a config, ``self``, ``**kwargs``. Read in the source.

``loss(batch, config)`` that reads ``batch["old_log_probs"]`` and ``config.clip_eps`` is called as if it had the
parameters ``old_log_probs`` and ``clip_eps``; the containers are built around the values.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torchstone.conformance.fit.aliases import WHOSE, words

Path = tuple[str, ...]  # the parameter, then keys or attributes
Uses = dict[Path, Any]  # what is read, and its default where one is given
EMPTY = inspect.Parameter.empty
OF_TENSORS = {*dir(torch.Tensor), "astype", "at"}
OF_DICTS = ("get", "pop", "setdefault", "getattr")
CONFIGS = {"self", "cls", "config", "cfg", "conf", "args", "kwargs", "params", "hparams", "settings", "opts", "options"}
BATCHES = {"batch", "minibatch", "rollout", "rollouts", "sample", "samples", "experience", "exp", "trajectory", "mb"}
NEUTRAL = (  # names of containers that say nothing on what is inside
    CONFIGS | BATCHES | {"inputs", "input", "data", "micro_batch", "trajectories", "output", "outputs", "model_output"}
    | {"hyperparameters", "model_inputs", "td", "tensordict", "loss_fn_inputs", "items", "x", "b", "d", "p", "c"}
)  # fmt: skip
TELLING = {"policy", "pi", "logps", "logprobs", *(w for known in WHOSE.values() for w in known.split())}
METRICS = {"metrics", "metric", "stats", "logger"}  # what is written to
DEEP = 3  # functions that are followed, one inside the other


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
    tree = _source(function)
    if tree is None:
        return list(parameters), Containers(bound="self" in {p.name for p in parameters})
    reader = _Reader(function, tree, {p.name: (p.name,) for p in parameters})
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
    return found, Containers(places, ordered, tuple(star), bound, _owner(function) if bound else None)


def _name(path: Path, taken: set[str]) -> str:
    """The last key where the container's name says nothing, else both: ``policy["chosen"]`` is policy_chosen."""
    said = [k for k in path[:-1] if k.lower() not in NEUTRAL and TELLING & set(words(k))]
    name = "_".join([*said[-1:], path[-1]]) if said else path[-1]
    return name if name.isidentifier() and name not in taken else "_".join(path).replace("-", "_").replace("/", "_")


def _owner(function: Callable[..., Any]) -> type | None:
    """The class in whose body a function stands."""
    at: Any = sys.modules.get(getattr(function, "__module__", ""))
    for part in getattr(function, "__qualname__", "").split(".")[:-1]:
        at = getattr(at, part, None)
    return at if inspect.isclass(at) else None


def _defaults(p: inspect.Parameter, function: Callable[..., Any]) -> dict[str, Any]:
    """What the class of a container gives its entries: of a config by its annotation, of ``self`` by its __init__."""
    names = getattr(function, "__globals__", {})
    owner = _owner(function) if p.name == "self" else p.annotation
    owner = names.get(owner) if isinstance(owner, str) else owner
    if not inspect.isclass(owner) or owner is EMPTY:
        return {}
    of_class = {k: v for k, v in vars(owner).items() if not k.startswith("_") and not callable(v)}
    try:
        made = inspect.signature(owner).parameters.values()
    except (TypeError, ValueError):
        return of_class
    return of_class | {q.name: q.default for q in made if q.default is not EMPTY}


def _source(function: Any) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None
    return next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)


class _Reader(ast.NodeVisitor):
    """What is read of some names, and how: found by walking a function, and the functions that it passes them to."""

    def __init__(self, function: Any, tree: ast.FunctionDef, roots: Mapping[str, Path], deep: int = 0) -> None:
        self.function, self.deep = inspect.unwrap(function), deep
        self.known = dict(roots)  # a local name -> what it stands for
        self.uses: Uses = {}
        self.whole: set[Path] = set()  # used as it is: no container
        self.ordered: dict[str, tuple[str, ...]] = {}
        for statement in tree.body:
            self.visit(statement)

    def inside(self, p: inspect.Parameter) -> Uses:
        """What is read inside this parameter; nothing where it is used as it is, too."""
        found = {path: d for path, d in self.uses.items() if path[0] == p.name and len(path) > 1}
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.name == "self":
            return found
        return {} if (p.name,) in self.whole else found

    def path(self, node: ast.AST) -> Path | None:
        """What a chain of names, attributes and keys stands for."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            inner = self.path(node.value)
            if inner is not None and METRICS & set(words(inner[-1])):
                return inner
            return None if inner is None or self._of_value(inner, node.attr) else (*inner, node.attr)
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            inner = self.path(node.value)
            keep = inner is None or METRICS & set(words(inner[-1]))
            return inner if keep or inner is None else (*inner, node.slice.value)
        return None

    def _of_value(self, inner: Path, attribute: str) -> bool:
        """Is it a method or property of an array, and no entry?"""
        at = inner[-1].lower()
        return attribute in OF_TENSORS and at not in CONFIGS and not (at in BATCHES and attribute == "values")

    def visit(self, node: ast.AST) -> None:
        """Note the longest chains; go on inside everything else."""
        if isinstance(node, ast.Assign) and self._assigned(node):
            return
        if isinstance(node, ast.Call) and self._called(node):
            return
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            inner, key = self.path(node.comparators[0]), node.left
            if inner is not None and isinstance(key, ast.Constant) and isinstance(key.value, str):
                self.uses[(*inner, key.value)] = None
                return
        path = self.path(node)
        if path is not None:
            if len(path) > 1:
                self.uses.setdefault(path, EMPTY)
            else:
                self.whole.add(path)
            return
        self.generic_visit(node)

    def _assigned(self, node: ast.Assign) -> bool:
        """``a, b = batch`` names what is inside; ``cfg = self.args`` is another name for it."""
        path, target = self.path(node.value), node.targets[0]
        if path is None:
            return False
        if isinstance(target, ast.Tuple) and all(isinstance(t, ast.Name) for t in target.elts) and len(path) == 1:
            names = tuple(t.id for t in target.elts if isinstance(t, ast.Name))
            self.ordered[path[0]] = names
            self.uses |= {(*path, name): EMPTY for name in names}
            return True
        if isinstance(target, ast.Name) and (len(path) == 1 or path[-1].lower() in NEUTRAL):
            self.known[target.id] = path
            return True
        return False

    def _called(self, node: ast.Call) -> bool:
        """``batch.get("x", 0)``, ``getattr(config, "x", 0)``, a method of self, and functions that take a container."""
        inner = self.path(node.func.value) if isinstance(node.func, ast.Attribute) else None
        if isinstance(node.func, ast.Attribute) and inner is not None and node.func.attr in OF_DICTS[:3] and node.args:
            return self._read_with_default(inner, node.args, node.func.attr)
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
            inner = self.path(node.args[0])
            return inner is not None and self._read_with_default(inner, node.args[1:], "getattr")
        return self._followed(node, inner)

    def _read_with_default(self, inner: Path, args: Sequence[ast.expr], how: str) -> bool:
        if not isinstance(args[0], ast.Constant) or not isinstance(args[0].value, str):
            return False
        try:
            default = ast.literal_eval(args[1]) if len(args) > 1 else None if how == "get" else EMPTY
        except ValueError:
            default = None
        self.uses[(*inner, args[0].value)] = default
        for arg in args[1:]:
            self.visit(arg)
        return True

    def _followed(self, node: ast.Call, inner: Path | None) -> bool:
        """What a function of the same module, or a method of ``self``, reads of a container that it is given."""
        names = getattr(self.function, "__globals__", {})
        if isinstance(node.func, ast.Attribute):
            called = getattr(_owner(self.function), node.func.attr, None) if inner == ("self",) else None
        else:
            called = names.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if not inspect.isfunction(called) or self.deep >= DEEP or called is self.function:
            return False
        tree = _source(called)
        if tree is None:
            return False
        own = [p.name for p in inspect.signature(called).parameters.values()]
        method = inner == ("self",) and own[:1] == ["self"]
        roots: dict[str, Path] = {"self": ("self",)} if method else {}
        by_place = zip(own[method:], node.args, strict=False)
        by_name = ((k.arg, k.value) for k in node.keywords if k.arg)
        followed = set()
        for name, value in (*by_place, *by_name):
            path = self.path(value)
            if path is not None:
                roots[name] = path
                followed.add(id(value))
        for k in node.keywords:
            path = self.path(k.value) if k.arg is None else None
            if path is not None:
                followed.add(id(k.value))
                given = {*roots, *(q.arg for q in node.keywords)}
                for p in inspect.signature(called).parameters.values():
                    if p.name not in given and p.name != "self" and p.kind is not p.VAR_KEYWORD:
                        self.uses.setdefault((*path, p.name), p.default)
        reader = _Reader(called, tree, roots, self.deep + 1)
        for path, default in reader.uses.items():
            self.uses.setdefault(path, default)
        self.whole |= {p for p in reader.whole if len(p) == 1}
        for path in {p for p in reader.whole if len(p) > 1}:
            self.uses.setdefault(path, EMPTY)
        for child in _others(node, followed):
            self.visit(child)
        return True


def _others(node: ast.Call, followed: set[int]) -> Iterator[ast.AST]:
    return (x for x in (*node.args, *(k.value for k in node.keywords)) if id(x) not in followed)
