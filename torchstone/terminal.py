"""How all commands look and speak: options and their help, tables, mistakes in one line. It imports no other room."""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

Options = TypeVar("Options")
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class UserError(Exception):
    """A mistake in what the user gave: one line on stderr, without a traceback, and the status of the command."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


def near(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'sort'?)``, with up to three known names near ``name``; nothing if there is none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


# ------------------------------------------------------------------------------------------------ options and help


class Parser(argparse.ArgumentParser):
    """The parser of every command: help as it was written, no guessed abbreviations, mistakes as a ``UserError``."""

    def __init__(self, command: str, about: str, examples: str = "", *, operands: str = ""):
        usage = " ".join(["torchstone", command, operands, "[options]"]).replace("  ", " ")
        super().__init__(
            f"torchstone {command}", usage, about, examples or None, formatter_class=Help, allow_abbrev=False
        )

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """The options, or a ``UserError`` that names the one that is unknown, and those near it."""
        options, rest = self.parse_known_args(arguments)
        if rest:
            known = [name for action in self._actions for name in action.option_strings]
            name = rest[0].split("=")[0]
            if not name.startswith("-"):
                self.error(f"unexpected {rest[0]!r} among the options; {self.prog} --help explains all")
            self.error(f"unknown option {rest[0]!r}{near(name, known)}; {self.prog} --help explains all")
        return options

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "), 2)


class Help(argparse.RawDescriptionHelpFormatter):
    """Help of at most 100 columns, each option's text in a column of its own; written text stays as it is."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=min(columns(), 100) - 2)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _lines(text, width)


def read_options(command: str, kind: type[Options], default: Options, arguments: Sequence[str]) -> Options:
    """The dataclass ``kind`` from a command line: an option for each field, with the comment beside it as its help.

    Args:
        command: the words after ``torchstone``.
        default: the fields' values where an option is left out.

    Raises UserError: an unknown option, or a value that its field cannot take.
    """
    assert is_dataclass(kind)
    about = wrapped(inspect.getdoc(kind) or "")
    parser, hints, texts = Parser(command, about), get_type_hints(kind), _comments(kind)
    for field in fields(kind):
        value, text = getattr(default, field.name), texts[field.name].replace("%", "%%")
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        told = text if shown is None or shown is False or shown == "" else f"{text} (default: {shown})"
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, default=value, help=told, **_reading(hints[field.name], value))
    return kind(**vars(parser.parse_args(arguments)))


def _comments(kind: type) -> dict[str, str]:
    """The comment behind each field, a base class's where the class itself has none."""
    found: dict[str, str] = {}
    for source in (inspect.getsource(base) for base in reversed(kind.__mro__[:-1])):
        (tree,), lines = ast.parse(source).body, source.splitlines()
        for field in ast.walk(tree):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.end_lineno:
                _, mark, text = lines[field.end_lineno - 1].rpartition("  # ")
                found |= {field.target.id: text} if mark else {}
    return found


def _reading(hint: Any, value: Any) -> dict[str, Any]:
    """How argparse reads a field of this type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction if value else "store_true"}
    hint = next((part for part in get_args(hint) if get_origin(part) is tuple), hint)
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        metavar = "NAME" if kind is str else METAVARS.get(kind, "NAME")
        return _reading(kind, None) | {"nargs": "+", "action": _Tuple, "metavar": metavar}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    kind = next((part for part in get_args(hint) if part is not NoneType), hint)
    optional = NoneType in get_args(hint)
    return {"type": _or_none(kind) if optional else kind, "metavar": METAVARS[kind]}


class _Tuple(argparse.Action):
    """A tuple; the option given again adds to it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, (() if before is self.default else before) + tuple(values))


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = getattr(kind, "__name__", "value")  # argparse's message has it
    return read


# ------------------------------------------------------------------------------------------------ text and tables


def columns() -> int:
    """Characters of a line: the terminal's, or 80 where there is none."""
    return shutil.get_terminal_size().columns


def styled(text: str, style: str) -> str:
    """The text in a style such as ``bold red``, on a terminal that can."""
    can = sys.stdout.isatty() and "TERM" in os.environ and "NO_COLOR" not in os.environ
    return f"\x1b[{';'.join(STYLES[name] for name in style.split())}m{text}\x1b[0m" if can and text and style else text


def bold(text: str) -> str:
    """The text in bold, on a terminal that can."""
    return styled(text, "bold")


def dim(text: str) -> str:
    """The text in grey, on a terminal that can."""
    return styled(text, "dim")


def unstyled(text: str) -> str:
    """The text as a file has it: without styles."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def _size(text: str) -> int:
    return len(unstyled(text))


def wrapped(text: str, first: str = "", indent: str | None = None) -> str:
    """The text broken at words into the terminal's lines: ``first`` stands before it, ``indent`` before the others."""
    later = " " * _size(first) if indent is None else indent
    return "\n".join(_lines(text, columns(), first, later))


def _lines(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    words = re.findall(r" *[^ ]+", re.sub(r"\s", " ", text))  # each with the spaces before it
    lines = [first + "".join(words[:1])]
    for word in words[1:]:
        if _size(lines[-1] + word) <= width:
            lines[-1] += word
        else:
            lines.append(later + word.lstrip())
    return lines


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Collection[str] = (),
    sums: Collection[int] = (), faint: Collection[int] = (),
) -> str:  # fmt: skip
    """A table as text that fits the terminal: the widest columns are wrapped, never inside a word, until it does.

    Args:
        head: the names of the columns; empty: no names, no rule.
        title: a line above.
        right: columns of numbers, which end at one place.
        sums: rows that are set off by a rule, in bold.
        faint: rows in grey.
    """
    rows = list(rows)
    filled = list(zip(*([head] if head else []), *rows, strict=True))
    widths = [max(map(_size, cells)) for cells in filled]
    words = [max(_size(word) for cell in cells for word in _lines(cell, 0)) for cells in filled]
    while sum(widths) + 2 * (len(widths) - 1) > columns() and widths != words:
        widest = max((i for i, word in enumerate(words) if widths[i] > word), key=lambda i: widths[i])
        widths[widest] -= 1

    def lines(row: Sequence[str]) -> str:
        wrapped = zip_longest(*(_lines(cell, width) for cell, width in zip(row, widths, strict=True)), fillvalue="")
        return "\n".join("  ".join(map(aligned, line, head or row, widths)).rstrip() for line in wrapped)

    def aligned(text: str, name: str, width: int) -> str:
        space = " " * (width - _size(text))
        return space + text if name in right else text + space

    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    rule = dim(("─" if unicode else "-") * (sum(widths) + 2 * (len(widths) - 1)))
    out = [bold(title)] * bool(title) + ([bold(lines(head)), rule] if head else [])
    for i, row in enumerate(rows):
        out += [rule] * (i in sums and i - 1 not in sums)
        out.append(bold(lines(row)) if i in sums else dim(lines(row)) if i in faint else lines(row))
    return "\n".join(out)
