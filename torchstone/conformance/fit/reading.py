"""Which keys and attributes a function reads of a dict, a config or ``self``: told by its source."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from torchstone.conformance.fit.aliases import WHOSE, words

Path = tuple[str, ...]  # the parameter, then keys or attributes
Uses = dict[Path, Any]  # what is read, and its default where one is given
Inner = tuple[list[str], Sequence[ast.AST]]  # a function that is written inside: its parameters and its body
EMPTY = inspect.Parameter.empty
OF_TENSORS = {*dir(torch.Tensor), "astype", "at"}
WHOLE = {"items", "keys"}  # methods of a dict of which no key is known
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


def owner_of(function: Callable[..., Any]) -> type | None:
    """The class in whose body a function stands."""
    at: Any = sys.modules.get(getattr(function, "__module__", ""))
    for part in getattr(function, "__qualname__", "").split(".")[:-1]:
        at = getattr(at, part, None)
    return at if inspect.isclass(at) else None


def source(function: Any) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None
    return next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)


class Reader(ast.NodeVisitor):
    """What is read of some names, and how: found by walking a function, and the functions that it passes them to."""

    def __init__(
        self, function: Any, tree: ast.FunctionDef, roots: Mapping[str, Path], deep: int = 0,
        spelled: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.function, self.deep = inspect.unwrap(function), deep
        self.known = dict(roots)  # a local name -> what it stands for
        self.spelled = dict(spelled or {})  # a local name -> the key that it is
        self.inner: dict[str, Inner] = {}  # functions that are written inside
        self.called: set[str] = set()  # and those of them that were called by name
        self.uses: Uses = {}
        self.whole: set[Path] = set()  # used as it is: no container
        self.ordered: dict[str, tuple[str, ...]] = {}
        for statement in tree.body:
            self.visit(statement)
        for name in [k for k in self.inner if k not in self.called]:  # what it is given is not known
            for part in self.inner.pop(name)[1]:
                self.visit(part)

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
        key = self.key(node.slice) if isinstance(node, ast.Subscript) else None
        if isinstance(node, ast.Subscript) and key is not None:
            inner = self.path(node.value)
            return inner if inner is None or METRICS & set(words(inner[-1])) else (*inner, key)
        return None

    def key(self, node: ast.AST) -> str | None:
        """The string that this is: written out, the present one of a loop over several, or made of such ones."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            found = self.spelled.get(node.id, getattr(self.function, "__globals__", {}).get(node.id))
            return found if isinstance(found, str) else None
        parts: list[ast.AST] = []
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.FormattedValue) else v for v in node.values]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [node.left, node.right]
        keys = [self.key(part) for part in parts]
        return "".join(k for k in keys if k) if parts and None not in keys else None

    def _of_value(self, inner: Path, attribute: str) -> bool:
        """Is it a method or property of an array or of a whole dict, and no entry?"""
        at = inner[-1].lower()
        of_array = attribute in OF_TENSORS and at not in CONFIGS and not (at in BATCHES and attribute == "values")
        return of_array or attribute in WHOLE

    def visit(self, node: ast.AST) -> None:
        """Note the longest chains; go on inside everything else."""
        if self._looped(node) or self._defined(node) or (isinstance(node, ast.Assign) and self._assigned(node)):
            return
        if isinstance(node, ast.Call) and self._called(node):
            return
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            inner, key = self.path(node.comparators[0]), node.left
            if inner is not None and (said := self.key(key)) is not None:
                self.uses[(*inner, said)] = None
                return
        path = self.path(node)
        if path is not None:
            if len(path) > 1:
                self.uses.setdefault(path, EMPTY)
            else:
                self.whole.add(path)
            return
        self.generic_visit(node)

    def _looped(self, node: ast.AST) -> bool:
        """A loop over keys that are written out is read once for each: ``for side in ("chosen", "rejected")``."""
        body: list[ast.AST]
        if isinstance(node, ast.For):
            loops, body = [(node.target, node.iter)], [*node.body]
        elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            loops = [(g.target, g.iter) for g in node.generators]
            body = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            body = [*body, *(test for g in node.generators for test in g.ifs)]
        else:
            return False
        rounds = [[(target, value) for value in self._written_out(over)] for target, over in loops]
        if not all(rounds):
            return False
        for bindings in itertools.product(*rounds):
            for target, value in bindings:
                names, parts = (target.elts, value) if isinstance(target, ast.Tuple) else ([target], [value])
                self.spelled |= {n.id: x for n, x in zip(names, parts, strict=False) if isinstance(n, ast.Name)}
            for part in body:
                self.visit(part)
        return True

    def _written_out(self, node: ast.expr) -> list[Any]:
        """What is looped over, if it stands in the code or in a constant of the module and has keys in it."""
        call = node.func if isinstance(node, ast.Call) and not node.args else None
        items = isinstance(call, ast.Attribute) and call.attr == "items"
        node = call.value if isinstance(call, ast.Attribute) else node
        try:
            found = ast.literal_eval(node)
        except ValueError:
            found = getattr(self.function, "__globals__", {}).get(node.id) if isinstance(node, ast.Name) else None
        if not isinstance(found, tuple | list | dict):
            return []
        values: list[Any] = list(found.items() if items and isinstance(found, dict) else found)
        told = (x for v in values for x in (v if isinstance(v, tuple | list) else (v,)))
        return values if any(isinstance(x, str) for x in told) else []

    def _defined(self, node: ast.AST) -> bool:
        """A function that is written inside is read where it is called, with the keys that it is given."""
        if isinstance(node, ast.FunctionDef):
            self.inner[node.name] = ([a.arg for a in node.args.args], node.body)
            return True
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Lambda)
            and isinstance(node.targets[0], ast.Name)
        ):
            self.inner[node.targets[0].id] = ([a.arg for a in node.value.args.args], [node.value.body])
            return True
        return False

    def _inside_called(self, node: ast.Call) -> bool:
        """A call of a function that is written inside, or its map over keys: its body, with what it is given known."""
        name, rounds = node.func.id if isinstance(node.func, ast.Name) else "", [node.args]
        if name == "map" and len(node.args) == 2:
            of, over = node.args
            name, rounds = ast.unparse(of), [[ast.Constant(x)] for x in self._written_out(over)]
            if isinstance(of, ast.Lambda):
                self.inner[name] = ([a.arg for a in of.args.args], [of.body])
        if name not in self.inner or node.keywords or not rounds:
            return False
        parameters, body = self.inner.pop(name)
        self.called.add(name)
        for given in rounds:
            before = dict(self.known), dict(self.spelled)
            for parameter, x in zip(parameters, given, strict=False):
                self._bound(parameter, x)
            for part in body:
                self.visit(part)
            self.known, self.spelled = before
        self.inner[name] = (parameters, body)
        return True

    def _bound(self, name: str, x: ast.expr) -> None:
        """In what follows the name stands for this."""
        path, key = self.path(x), self.key(x)
        self.known.pop(name, None)
        self.spelled.pop(name, None)
        if key is not None:
            self.spelled[name] = key
        elif path is not None and (len(path) == 1 or path[-1].lower() in NEUTRAL):
            self.known[name] = path
        else:
            self.visit(x)

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
        return self._inside_called(node) or self._followed(node, inner)

    def _read_with_default(self, inner: Path, args: Sequence[ast.expr], how: str) -> bool:
        key = self.key(args[0])
        if key is None:
            return False
        try:
            default = ast.literal_eval(args[1]) if len(args) > 1 else None if how == "get" else EMPTY
        except ValueError:
            default = None
        self.uses[(*inner, key)] = default
        for arg in args[1:]:
            self.visit(arg)
        return True

    def _followed(self, node: ast.Call, inner: Path | None) -> bool:
        """What a function of the same module, or a method of ``self``, reads of a container that it is given."""
        names = getattr(self.function, "__globals__", {})
        if isinstance(node.func, ast.Attribute):
            called = getattr(owner_of(self.function), node.func.attr, None) if inner == ("self",) else None
        else:
            called = names.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if not inspect.isfunction(called) or self.deep >= DEEP or called is self.function:
            return False
        tree = source(called)
        if tree is None:
            return False
        own = [p.name for p in inspect.signature(called).parameters.values()]
        method = inner == ("self",) and own[:1] == ["self"]
        roots: dict[str, Path] = {"self": ("self",)} if method else {}
        by_place = zip(own[method:], node.args, strict=False)
        by_name = ((k.arg, k.value) for k in node.keywords if k.arg)
        followed, spelled = set(), {}
        for name, value in (*by_place, *by_name):
            path = self.path(value)
            if (key := self.key(value)) is not None:
                spelled[name] = key
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
        reader = Reader(called, tree, roots, self.deep + 1, spelled)
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
