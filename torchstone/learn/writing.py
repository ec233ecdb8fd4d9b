"""An exercise's file: the library's own signatures and docstrings, cut to what the exercise needs."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path

import torchstone
from torchstone.learn.exercises import EXERCISES, Exercise

ROOT = Path(torchstone.__file__).parent
WIDTH = 100


def text_of(exercise: Exercise) -> str:
    """The file as the learner gets it."""
    number = EXERCISES.index(exercise) + 1
    shapes = dict.fromkeys(x for name in exercise.functions for x in _letters(_library(name)))
    what = "The function is wrong, as was found in public code: mend it."
    what = what if exercise.mend else "Replace each `...` by lines of your own."
    head = [
        f"Exercise {number} of {len(EXERCISES)}, {exercise.family}: {exercise.title}{' (to mend)' * exercise.mend}",
        textwrap.fill(exercise.task, WIDTH),
        "\n".join(f"    {letter}  {_alphabet()[letter]}" for letter in shapes),
        f"{what} Then:  torchstone learn check {number}",
    ]
    imports = _imports(exercise)
    bodies = [_function(exercise, name) for name in exercise.functions]
    return '"""' + "\n\n".join(part for part in head if part) + '\n"""\n\n' + "\n\n\n".join([imports, *bodies]) + "\n"


def signature_of(exercise: Exercise, name: str) -> list[str]:
    """The arguments that the function of an exercise takes."""
    if exercise.mend:
        return [a.arg for a in _arguments(ast.parse(_broken()[name]).body[0])]
    return [a.arg for a in _arguments(_library(name)) if a.arg not in exercise.without]


def shapes_of(name: str) -> dict[str, str]:
    """The shape of each argument of the library's function, such as ``[B] or [B T]``."""
    return {a.arg: _shape(a.annotation).strip() for a in _arguments(_library(name))}


def _function(exercise: Exercise, name: str) -> str:
    """Signature, docstring, and ``...`` or the wrong body."""
    if exercise.mend:
        lines = _broken()[name].splitlines()
        end = next(i for i, line in enumerate(lines) if line.rstrip().endswith((":", ":  # fmt: skip")))
        lines[end] = lines[end].removesuffix("  # fmt: skip")
        signature, body = "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :])
    else:
        node = _library(name)
        signature, body = _signature(node, exercise.without), "    return ..."
    return f"{signature}\n{_docstring(exercise, name, signature_of(exercise, name))}\n{body}"


def _signature(node: ast.FunctionDef, without: tuple[str, ...]) -> str:
    kept = [a.arg for a in node.args.args if a.arg not in without]
    named = [(a.arg, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    more = [name if d is None else f"{name}={ast.unparse(d)}" for name, d in named if name not in without]
    taken = [*kept, *(["*", *more] if more else [])]
    line = f"def {node.name}({', '.join(taken)}):"
    return line if len(line) <= WIDTH else f"def {node.name}(\n    {', '.join(taken)}\n):"


def _docstring(exercise: Exercise, name: str, taken: list[str]) -> str:
    """Summary, equations, arguments with their shapes, and what is returned."""
    node = _library(name)
    about, sections = _sections(name)
    dropped = [*(a.arg for a in _arguments(node) if a.arg not in taken), *exercise.without]
    about = re.sub(r"\breduce\(", "mean(", about)  # an exercise has one mean, which its last line names
    about = re.sub(r"  +\[[^\]\n]*\]", lambda part: "" if _speaks_of(part[0], dropped) else part[0], about)
    kept = "\n".join(line for line in about.splitlines() if not _speaks_of(line, dropped))
    shapes = {a.arg: _shape(a.annotation) for a in _arguments(node)}
    entries = []
    for argument in taken:
        parts = re.split(r"(?<=[.:;]) ", dict(exercise.arguments).get(argument) or _entry(name, argument))
        entry = " ".join(part for part in parts if not _speaks_of(part, dropped))
        entries.append(textwrap.fill(f"{argument}{shapes[argument]}: {entry}", WIDTH - 8, subsequent_indent="    "))
    returns = exercise.returns or " ".join(sections.get("Returns", "").split())
    shape = "" if exercise.returns.startswith(("the loss", "one number")) else _shape(node.returns)
    told = textwrap.fill(f"Returns{shape}: {returns}", WIDTH - 4, subsequent_indent="    ") if returns else ""
    told = told or (f"Returns{shape}." if shape else "")
    text = kept.strip("\n") + "\n\nArgs:\n" + textwrap.indent("\n".join(entries), "    ")
    text = re.sub(r"\n{3,}", "\n\n", text) + (f"\n\n{told}" if told else "")
    return textwrap.indent(f'"""{text}\n"""', "    ")


def _sections(name: str) -> tuple[str, dict[str, str]]:
    """A docstring's first part, and its sections by name."""
    text = inspect.cleandoc(ast.get_docstring(_library(name)) or "")
    about, *rest = re.split(r"\n(?=(?:Args|Returns|Raises|Facts|Source|Example)\b[^\n]*:)", text)
    return about, {part[: re.search(r"\W", part).start()]: part.partition(":")[2] for part in rest}  # type: ignore[union-attr]


def _entry(name: str, argument: str) -> str:
    """What a docstring says of an argument; where it refers to another function, what that one says."""
    for names, text in re.findall(r"^    ([\w, ]+?): (.*(?:\n     +.*)*)", _sections(name)[1]["Args"], re.M):
        if argument in names.split(", "):
            other = re.match(r"(?:as in|see) ``(\w+)``", text)
            return _entry(other[1], argument) if other else " ".join(text.split())
    raise LookupError(f"{name} says nothing of {argument}")


def _speaks_of(line: str, names: list[str]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", line) for name in names)


def _shape(annotation: ast.expr | None) -> str:
    """Such as `` [B T]``, with ``bool`` or ``int`` before it where it is no float; nothing of a plain number."""
    text = ast.unparse(annotation) if annotation else ""
    if text.startswith("tuple"):
        return " two of " + _shape(annotation.slice.elts[0]).strip()  # type: ignore[union-attr]
    found = re.findall(r"(Float|Bool|Int)\[Tensor, '([^']*)'\]", text)
    kinds = {"Bool": "bool ", "Int": "int "}
    shown: list[str] = [f"{kinds.get(kind, '')}[{shape.strip()}]" if shape else "a number" for kind, shape in found]
    shown = ["a number", *shown] if shown and text.startswith("float") and "a number" not in shown else shown
    return f" {' or '.join(shown)}" if shown else ""


def _letters(node: ast.FunctionDef) -> list[str]:
    text = " ".join(_shape(x) for x in [*(a.annotation for a in _arguments(node)), node.returns])
    return re.findall(r"\b[A-Z]\b", " ".join(re.findall(r"\[.*?\]", text)))


def _arguments(node: ast.AST) -> list[ast.arg]:
    assert isinstance(node, ast.FunctionDef)
    return [*node.args.args, *node.args.kwonlyargs]


@cache
def _alphabet() -> dict[str, str]:
    """What the letters of the shapes mean, from the page of ``core``."""
    page = (ROOT / "core" / "README.md").read_text(encoding="utf-8")
    table = page.split("## Alphabet")[1].split("##")[0]
    return {letter: meaning.strip().replace("`", "") for letter, meaning in re.findall(r"`(\w)` \| ([^|\n]+)", table)}


@cache
def _library(name: str) -> ast.FunctionDef:
    """A function of the maths, found without importing it: torch takes two seconds to load."""
    for family in ("core", "reinforce", "ppo", "grpo", "dpo", "distill"):
        for path in sorted((ROOT / family).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            if re.search(rf"^def {name}\(", text, re.M):
                return next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    raise LookupError(f"no function {name} in the library")


@cache
def _broken() -> dict[str, str]:
    text = (ROOT / "learn" / "broken.py").read_text(encoding="utf-8")
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    return {n.name: "\n".join(text.splitlines()[n.lineno - 1 : n.end_lineno]) for n in nodes}


def _imports(exercise: Exercise) -> str:
    used = "".join(_broken()[name] for name in exercise.functions) if exercise.mend else ""
    more = ["import torch.nn.functional as F"] if "F." in used else []
    return "\n".join((["import math\n"] if "math." in used else []) + ["import torch", *more])
