"""Each line of an objective's code, changed in one place: a name for another, a sign, a call left out or exchanged.

The code is the oracle's, which is written as the equations are: what is changed there is a mistake in an equation.
"""

from __future__ import annotations

import ast
import copy
import gc
import inspect
import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torchstone.conformance.name.changes import Change, numbers_of
from torchstone.conformance.vectors import Case

PACKAGE = "torchstone_oracle"
LEFT_OUT = {  # calls whose argument may stand alone, and what then is missing
    "stop": ("a factor that is held constant (detached) is not", "A gradient flows where none should."),
    "exp": ("exp is missing", "A log stands where a number belongs."),
    "bounded_exp": ("exp is missing: the log-ratio stands where the ratio belongs", "A log is used as a ratio."),
    "log": ("log is missing", "A number stands where its log belongs."),
    "sqrt": ("the root is missing (a variance in place of a deviation)", "The scale is squared."),
    "absolute": ("the absolute value is missing", "Signs cancel."),
    "clip": ("the clip is missing", "Nothing bounds it."),
    "sigmoid": ("sigmoid is missing", "Nothing bounds it."),
    "log_sigmoid": ("log sigmoid is missing", "The loss is linear: it has no end."),
}
OTHER = {  # calls that are exchanged with another
    "minimum": ("maximum", "max in place of min"),
    "maximum": ("minimum", "min in place of max"),
    "mean": ("total", "a sum in place of a mean"),
    "total": ("mean", "a mean in place of a sum"),
    "exp": ("bounded_exp", ""),
    "log_sigmoid": ("sigmoid", "sigmoid in place of log sigmoid"),
    "sigmoid": ("log_sigmoid", "log sigmoid in place of sigmoid"),
}
SIGNS = {ast.Add: (ast.Sub, "a sign is wrong, - in place of +"), ast.Sub: (ast.Add, "a sign is wrong, + in place of -"),
         ast.Mult: (ast.Div, "a division in place of a product"),
         ast.Div: (ast.Mult, "a product in place of a division")}  # fmt: skip
COMPARISONS = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE, ast.Eq: ast.NotEq,
               ast.NotEq: ast.Eq}  # fmt: skip

LOGS = ("u", "log_ratio")
LN2 = 0.6931471805599453

Edited = tuple[ast.AST, str, str]  # a node in place of another, what differs, its effect
SIGN = "What should go up goes down, or a part of it."


def code_changes(objective: Any, case: Case) -> Iterable[Change]:
    """Every function of the oracle that computes this case, with one change in its code."""
    taken: set[str] = set()
    for same in functions(objective, case):
        function = same[0]
        found = _source(function)
        if found is None:
            continue
        node, doc = found
        for at, (new, about, effect) in _edits(node):
            code = _compiled(function, node, at, new)
            if code is not None:
                name = function.__name__ if function.__name__ != "<lambda>" else _step(objective, function)
                where = f"In {name.replace('_', ' ')}{f' ({doc})' if doc else ''}"
                yield Change(
                    _called(f"{name} {about}", taken), f"{where}: {about}{_in_place(new, at)}.", effect,
                    frozenset((f"code {name}",)), code=tuple((f, code) for f in same),
                )  # fmt: skip


SHORTER = {  # of what is said, in a name
    r" \(ignored\): it is": " as", r" \((missing|swapped|squared|sign|detached|a variance|ignored)[^)]*\)": "",
    ": .*": "", "a sign is wrong, - .*": "minus for plus", "a sign is wrong, .*": "plus for minus",
    "(stands )?in place of": "for", "are exchanged": "exchanged", r"\[(\w+)\]": "",
}  # fmt: skip


def _called(said: str, taken: set[str]) -> str:
    """A name in words, such as delta_factor_gamma_left_out; with a number where the same can be done twice."""
    said = re.sub(r"`([^`]*)`", lambda code: " ".join(dict.fromkeys(re.findall(r"\w+", code[1])[:2])), said)
    for long, short in SHORTER.items():
        said = re.sub(long, short, said)
    kept = [w for w in re.findall(r"\w+", said) if w not in ("the", "is", "a", "it", "in", "of")]
    name = "_".join(kept[:12])
    name = next(n for i in itertools.count(1) if (n := name if i == 1 else f"{name}_{i}") not in taken)
    taken.add(name)
    return name


def _step(objective: Any, function: FunctionType) -> str:
    return next((k for k, step in objective.steps.items() if step is function), "a step")


def functions(objective: Any, case: Case) -> list[list[FunctionType]]:
    """Those of the oracle that compute this case, in the order of their calls; those of one code together."""
    ran: dict[CodeType, None] = {}

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith(PACKAGE):
            ran.setdefault(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        numbers_of(objective, case, (), gradients=False)
    finally:
        sys.setprofile(before)
    every: dict[CodeType, list[FunctionType]] = {code: [] for code in ran}
    for f in gc.get_objects():
        if type(f) is FunctionType and f.__code__ in every:
            every[f.__code__].append(f)  # one code is that of several functions, where they are made by another
    leave = ("numbers", "contract")
    return [fs for fs in every.values() if fs and fs[0].__globals__["__name__"].rpartition(".")[2] not in leave]


@cache
def _tree(file: str) -> ast.Module:
    with open(file, encoding="utf-8") as f:
        return ast.parse(f.read())


def _source(function: FunctionType) -> tuple[ast.FunctionDef | ast.Lambda, str] | None:
    """The syntax tree of a function, and the tag of its equation."""
    code = function.__code__
    names = [*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
    for node in ast.walk(_tree(code.co_filename)):
        if isinstance(node, ast.FunctionDef | ast.Lambda) and node.lineno == code.co_firstlineno:
            own = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if own == names and (isinstance(node, ast.Lambda) or node.name == code.co_name):
                doc = (inspect.getdoc(function) or "").strip()
                return node, doc.splitlines()[0].rpartition("(")[2].rstrip(")") if doc.endswith(")") else ""
    return None


def _compiled(function: FunctionType, node: Any, at: ast.AST, new: ast.AST) -> CodeType | None:
    """The code of the function with ``new`` in the place of ``at``."""
    changed = _Replaced(at, new).visit(_copied(node, at))
    free = function.__code__.co_freevars
    if isinstance(changed, ast.Lambda):
        body: list[ast.stmt] = [ast.Return(changed)]
    else:
        changed.decorator_list, changed.returns = [], None
        body = [changed]
    outer = ast.parse(f"def outer({', '.join(free)}): pass").body[0]
    outer.body = body  # type: ignore[attr-defined]
    module = ast.Module([outer], [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = compile(ast.fix_missing_locations(module), "<edited>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    made = next(c for c in whole.co_consts if isinstance(c, CodeType))
    own = next((c for c in made.co_consts if isinstance(c, CodeType)), None)
    return own if own is not None and own.co_freevars == free else None


def _copied(node: Any, at: ast.AST) -> Any:
    """A copy of the tree in which ``at`` itself still stands, so that it can be found."""
    return copy.deepcopy(node, {id(at): at})


class _Replaced(ast.NodeTransformer):
    def __init__(self, at: ast.AST, new: ast.AST):
        self.at, self.new = at, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.at else self.generic_visit(node)


# ---------------------------------------------------------------------------------------------------- what is changed


def _edits(function: ast.FunctionDef | ast.Lambda) -> Iterator[tuple[ast.AST, Edited]]:
    """Each place of a function, and each thing that may stand there instead."""
    names = [a.arg for a in function.args.args]
    whole = bool({"steps", "inputs"} & set(names))  # it hands its arguments on: which is which is not its business
    inside = function.body if isinstance(function.body, list) else [function.body]
    stored = [
        n.id for part in inside for n in ast.walk(part) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    known = [] if whole else [*dict.fromkeys([*names, *stored])]
    for part in inside:
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
            continue  # its docstring
        grown = {id(n.value) for n in ast.walk(part) if isinstance(n, ast.Attribute)}  # another list in its place may
        for node in (n for n in ast.walk(part) if id(n) not in grown):  # be the one that is looped over: no end
            for edited in _of(node, known):
                yield node, edited


def _of(node: ast.AST, known: list[str]) -> Iterator[Edited]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in known:
        for other in known:
            if other != node.id:
                yield (ast.Name(other, ast.Load()), f"{other} stands in place of {node.id}",
                       f"{node.id} does not act where it should.")  # fmt: skip
        if node.id in LOGS:
            yield (ast.BinOp(node, ast.Div(), ast.Constant(LN2)), f"{node.id} is a log of base 2 (log2)",
                   "It is 1.44 times too large.")  # fmt: skip
        for number in (1, 0):
            yield (ast.Constant(number), f"{node.id} is left out (ignored): it is {number}",
                   f"{node.id} makes no difference.")  # fmt: skip
    elif isinstance(node, ast.BinOp):
        yield from _of_product(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, "a minus is missing: the sign is flipped", SIGN
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand, "a condition is inverted", "It acts where it should not, and not where it should."
    elif isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        turned = COMPARISONS[type(node.ops[0])]()
        yield (ast.Compare(node.left, [turned], node.comparators), "the comparison is turned around",
               "It acts on the other side.")  # fmt: skip
        for always in (True, False):
            yield ast.Constant(always), f"the condition is always {always}", "It acts everywhere, or nowhere."
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            yield part, f"only the condition `{_written(part)}` is left", "It acts where it should not, or nowhere."
    elif isinstance(node, ast.IfExp):
        turned_around = ast.IfExp(node.test, node.orelse, node.body)
        yield turned_around, "the two branches are exchanged", "It acts on the other side."
        yield node.body, "only the first branch is kept", "It acts everywhere."
        yield node.orelse, "only the second branch is kept", "It acts nowhere."
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        for value in {node.value + 1, node.value - 1, 2 * node.value, -node.value, 0} - {node.value}:
            yield ast.Constant(value), f"{value} stands in place of {node.value}", "The number is another one."


def _of_product(node: ast.BinOp) -> Iterator[Edited]:
    if type(node.op) in SIGNS:
        op, about = SIGNS[type(node.op)]
        effect = SIGN if isinstance(node.op, ast.Add | ast.Sub) else "Its scale is another one."
        yield ast.BinOp(node.left, op(), node.right), about, effect
    what = "term" if isinstance(node.op, ast.Add | ast.Sub) else "divisor" if isinstance(node.op, ast.Div) else "factor"
    right, left = _written(node.right), _written(node.left)
    yield node.left, f"the {what} `{right}` is left out (missing, ignored)", f"{right} has no effect here."
    if isinstance(node.op, ast.Add | ast.Mult):
        yield node.right, f"the {what} `{left}` is left out (missing, ignored)", f"{left} has no effect here."
    elif isinstance(node.op, ast.Sub):
        minus = ast.UnaryOp(ast.USub(), node.right)
        yield minus, f"the term `{left}` is left out (missing)", f"{left} has no effect here."
        yield ast.BinOp(node.right, ast.Sub(), node.left), "the difference is turned around (sign flipped)", SIGN
    elif isinstance(node.op, ast.Div):
        turned = ast.BinOp(node.right, ast.Div(), node.left)
        yield turned, "the quotient is turned upside down", "Its scale is another one."
        yield (ast.BinOp(ast.BinOp(node.left, ast.Div(), node.right), ast.Div(), node.right),
               f"it is divided by `{right}` twice", "Its scale is another one.")  # fmt: skip
    if isinstance(node.op, ast.Mult):
        for factor, text in ((node.left, left), (node.right, right)):
            if not isinstance(factor, ast.Constant):
                yield (ast.BinOp(node, ast.Mult(), factor), f"`{text}` is applied twice (squared)",
                       "Its scale is another one.")  # fmt: skip
    if isinstance(node.op, ast.Add | ast.Sub):
        for term in (node.left, node.right):
            yield (ast.BinOp(node, ast.Add() if term is node.left else node.op, term),
                   f"the term `{_written(term)}` is counted twice", "It weighs too much.")  # fmt: skip


def _of_call(node: ast.Call) -> Iterator[Edited]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    plain = node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp)
    if name in LEFT_OUT and plain:
        about, effect = LEFT_OUT[name]
        yield node.args[0], about, effect
    if name in OTHER and OTHER[name][1]:
        other, about = OTHER[name]
        arguments = [ast.List([*a.elts], ast.Load()) if isinstance(a, ast.List) else a for a in node.args]
        if name == "total":
            arguments = [ast.Call(ast.Name("list", ast.Load()), arguments, [])]
        called = ast.Name(other, ast.Load()) if isinstance(node.func, ast.Name) else None
        if called is not None:
            yield _imported(other, arguments), about, "The result is of another size, or on the other side."
    if name in ("minimum", "maximum") and len(node.args) == 2:
        for kept in (0, 1):
            about = f"only `{_written(node.args[kept])}` is kept: the {name} with the other is missing"
            yield node.args[kept], about, "Nothing chooses between the two."
    if name == "clip" and len(node.args) == 3 and not any(isinstance(a, ast.Starred) for a in node.args):
        yield _imported("maximum", node.args[:2]), "the upper bound is missing", "It is bounded on one side only."
        yield (_imported("minimum", [node.args[0], node.args[2]]), "the lower bound is missing",
               "It is bounded on one side only.")  # fmt: skip
    for i in range(len(node.args) - 1):
        pair = node.args[i : i + 2]
        if name in ANY_ORDER or any(isinstance(a, ast.Starred | ast.Constant) for a in pair):
            continue
        turned = [*node.args[:i], pair[1], pair[0], *node.args[i + 2 :]]
        yield (ast.Call(node.func, turned, node.keywords),
               f"`{_written(pair[0])}` and `{_written(pair[1])}` are exchanged (swapped)",
               "Each has the place of the other.")  # fmt: skip
    if name in HELD:
        yield (_imported("stop", [node]), "it is held constant (detached): no gradient flows",
               "A part of the gradient is missing.")  # fmt: skip


ANY_ORDER = ("minimum", "maximum", "isinstance", "zip")
HELD = ("exp", "bounded_exp", "log", "sigmoid", "log_sigmoid", "clip", "mean", "total", "sqrt", "minimum", "maximum")


def _imported(name: str, arguments: list[ast.expr]) -> ast.Call:
    """A call of a function of the oracle's numbers, whatever the module has imported."""
    module = ast.parse(f"__import__('{PACKAGE}.numbers', fromlist=['x']).{name}", mode="eval").body
    return ast.Call(module, arguments, [])


def _in_place(new: ast.AST, at: ast.AST) -> str:
    """What stands there and what belongs there, where that is more than a name and a number."""
    if isinstance(at, ast.Name) and isinstance(new, ast.Name | ast.Constant):
        return ""
    return f", `{_written(new)}` where `{_written(at)}` belongs"


class _Plain(ast.NodeTransformer):
    """Without what is the oracle's own: ``steps["target"]`` is target, ``core.mean`` mean, ``dual(x)`` x."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "dual" and len(node.args) == 1:
            inner: ast.AST = self.visit(node.args[0])
            return inner
        if name == "upper":
            return ast.Name("epsilon_high", ast.Load())
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        of = node.value.id if isinstance(node.value, ast.Name) else ""
        if of in ("steps", "settings", "inputs") and isinstance(node.slice, ast.Constant):
            return ast.Name(str(node.slice.value), ast.Load())
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Name(node.attr, ast.Load()) if isinstance(node.value, ast.Name) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name({"stop": "detached", "bounded_exp": "exp"}.get(node.id, node.id), ast.Load())


def _written(node: ast.AST) -> str:
    """The code of a node as a person would write it."""
    text = re.sub(r"__import__\([^()]*\)\.", "", ast.unparse(_Plain().visit(copy.deepcopy(node))))
    return text.replace("stop(", "detached(").replace(str(LN2), "ln 2")
