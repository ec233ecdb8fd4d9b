"""``torchstone learn``: exercises, in files of the learner's own."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from torchstone.conformance.words import listed
from torchstone.learn.exercises import EXERCISES, Exercise, Grade
from torchstone.learn.folder import DEFAULT, Folder, graded, opened
from torchstone.learn.writing import text_of
from torchstone.terminal import Parser, UserError, bold, dim, near, styled, wrapped

HELP = """\
24 exercises in the order of the tour: 16 functions to write, 8 to mend.

Each is a file of your own, with its equation, shapes and units. A check runs
your function on the test vectors; if it is wrong it says which mistake that
looks like, and gives a hint, then another, then the section to read.
"""
EXAMPLES = f"""\
examples
  torchstone learn                  where you are; the first time, the files are
                                    written into ./{DEFAULT}
  torchstone learn check            grade the next exercise
  torchstone learn check 4          grade exercise 4
  torchstone learn check all        grade all of them, without hints
  torchstone learn show 4           what it asks, and the hints given so far
  torchstone learn reset 4          its file as it was at first

exit status of check: 0 right, 1 not yet
"""
ACTIONS = ("check", "show", "reset")
PITFALLS = "docs/pitfalls.md"
LABEL = {
    "right": ("right", "bold green"),
    "wrong": ("not yet", "bold yellow"),
    "unwritten": ("to do", "bold yellow"),
    "broken": ("not yet", "bold yellow"),
    "missing": ("no file", "bold yellow"),
}


def learn(arguments: Sequence[str]) -> int:
    """``torchstone learn [check | show | reset] [N ...] [--folder PATH] [--json]``."""
    parser = Parser("learn", HELP, EXAMPLES, operands="[check|show|reset] [N ...]")
    parser.add_argument("words", nargs="*", metavar="N", help="numbers of exercises, or all")
    parser.add_argument("--folder", type=Path, metavar="PATH", help=f"where the files are (default: ./{DEFAULT})")
    parser.add_argument("--json", action="store_true", help="the grades of a check as JSON on stdout")
    options = parser.parse_args(arguments)
    action, *words = options.words or ["list"]
    if action not in (*ACTIONS, "list") or (action == "list" and words):
        raise UserError(f"unknown word {action!r}{near(action, ACTIONS)}; choose {', '.join(ACTIONS)}, or none", 2)
    folder = opened(options.folder)
    if action == "list":
        _list(folder)
        return 0
    every = words == ["all"]
    numbers = list(range(1, len(EXERCISES) + 1)) if every else [_number(word) for word in words]
    if not numbers:
        if action == "reset":
            raise UserError("which exercise? torchstone learn reset N", 2)
        numbers = [folder.next or len(EXERCISES)]
    if action == "check":
        return _check(folder, numbers, every, options.json)
    for number in numbers:
        (_show if action == "show" else _reset)(folder, number)
    return 0


def _number(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= len(EXERCISES):
        raise UserError(f"N must be a number from 1 to {len(EXERCISES)}, or all; got {word!r}", 2)
    return int(word)


# ------------------------------------------------------------------------------------------------------ where one is


def _list(folder: Folder) -> None:
    """A line for each exercise, with a tick where it is right, and the next one."""
    tick, arrow = ("✓", "→") if (sys.stdout.encoding or "").lower().startswith("utf") else ("x", ">")
    print(f"{bold(f'{len(folder.passed)} of {len(EXERCISES)} exercises are right')}, in {_shown(folder.path)}")
    for family, members in groupby(enumerate(EXERCISES, 1), key=lambda pair: pair[1].family):
        print(f"\n{bold(family)}  {dim(f'read torchstone/{family}/ first')}")
        for number, exercise in members:
            right = exercise.name in folder.passed
            mark = styled(tick, "green") if right else styled(arrow, "cyan") if number == folder.next else " "
            title = f"{exercise.title}{' (to mend)' * exercise.mend}"
            lost = styled("  its file is not there", "yellow") if not folder.file(number).exists() else ""
            print(f"  {mark} {number:2}  {dim(title) if right else title}{lost}")
    print()
    _where_next(folder)
    _noted(folder)


def _where_next(folder: Folder) -> None:
    if folder.next is None:
        _all_done()
        return
    print(wrapped(f"next: {folder.next}, {EXERCISES[folder.next - 1].title}, in {_shown(folder.file(folder.next))}"))
    print(styled("  torchstone learn check", "cyan"))


def _all_done() -> None:
    print(wrapped("All exercises are right. What comes next is code of your own, or somebody else's:"))
    print(styled("  torchstone check my_losses.py:my_loss --objective grpo_loss", "cyan"))
    print(
        dim(wrapped("what has gone wrong in public code: docs/pitfalls.md; all of it in one loop: torchstone/train/"))
    )


def _noted(folder: Folder) -> None:
    if folder.note:
        print(_hanging(styled("note", "yellow"), folder.note, 4))


def _shown(path: Path) -> str:
    """The path from here, if it is below."""
    here = Path.cwd().resolve()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)


def _hanging(label: str, text: str, size: int) -> str:
    return wrapped(text, f"{label}{' ' * (10 - size)}")


# ------------------------------------------------------------------------------------------------------------- a check


def _check(folder: Folder, numbers: Sequence[int], every: bool, as_json: bool) -> int:
    found: list[tuple[int, Grade]] = []
    for number in numbers:
        path, name = folder.file(number), EXERCISES[number - 1].name
        grade = graded(path, number) if path.is_file() else Grade("missing")
        found.append((number, grade))
        folder.passed = folder.passed | {name} if grade.state == "right" else folder.passed - {name}
        if grade.state in ("wrong", "broken") and not every:
            folder.failed[name] = folder.failed.get(name, 0) + (grade.state == "wrong")
        folder.save()
        if not as_json:
            _tell(folder, number, grade, brief=every)
    if as_json:
        print(json.dumps([{"exercise": n, "name": EXERCISES[n - 1].name, **asdict(g)} for n, g in found], indent=1))
    elif every:
        print(f"\n{len(folder.passed)} of {len(EXERCISES)} are right")
    if not as_json:
        _noted(folder)
    return int(any(grade.state != "right" for _, grade in found))


def _tell(folder: Folder, number: int, grade: Grade, brief: bool) -> None:
    """What became of one exercise; ``brief``: without hints, and without what comes next."""
    exercise = EXERCISES[number - 1]
    label, style = LABEL[grade.state]
    functions = grade.function or listed(exercise.functions)
    print(_hanging(styled(label, style), f"{bold(f'{number} {exercise.title}')}: {functions}", len(label)))
    if brief:
        for line in grade.says:
            print(_hanging("", line, 0))
        return
    if grade.state == "missing":
        print(_hanging("", f"{_shown(folder.file(number))} is not there. Its first text comes back by:", 0))
        print(styled(f"          torchstone learn reset {number}", "cyan"))
    elif grade.state == "unwritten":
        print(_hanging("", f"Write your own lines in place of `...` in {_shown(folder.file(number))}.", 0))
    elif grade.state == "right":
        _praise(folder, exercise, grade)
    else:
        for line in grade.says:
            print(_hanging("", line, 0))
        if grade.effect:
            print(_hanging("in a run", grade.effect, 8))
        if grade.state == "wrong":
            _help(exercise, folder.failed.get(exercise.name, 0))
        print(dim(_hanging("again", f"torchstone learn check {number}", 5)))


def _praise(folder: Folder, exercise: Exercise, grade: Grade) -> None:
    print(_hanging("", f"Value and gradient are those of the vectors. {len(folder.passed)} done.", 0))
    print(_hanging("for", f"{exercise.practice} {dim(f'{PITFALLS}#{exercise.pitfall}')}", 3))
    for edge in grade.edges[:2]:
        print(dim(_hanging("besides", f"plain code forgets this, and is right all the same: {edge}", 7)))
    print()
    _where_next(folder)


def _help(exercise: Exercise, failed: int) -> None:
    """The first hint, then the second, then where to read."""
    if failed <= len(exercise.hints):
        print(_hanging(styled("hint", "cyan"), exercise.hints[max(failed, 1) - 1], 4))
    else:
        print(_hanging(styled("read", "cyan"), exercise.read, 4))


# ------------------------------------------------------------------------------------------------------ show and reset


def _show(folder: Folder, number: int) -> None:
    exercise = EXERCISES[number - 1]
    print(ast.get_docstring(ast.parse(text_of(exercise))))
    print(f"\n{_shown(folder.file(number))}")
    given = min(folder.failed.get(exercise.name, 0), len(exercise.hints))
    for hint in exercise.hints[:given]:
        print(_hanging(styled("hint", "cyan"), hint, 4))
    if folder.failed.get(exercise.name, 0) > given:
        print(_hanging(styled("read", "cyan"), exercise.read, 4))


def _reset(folder: Folder, number: int) -> None:
    name = EXERCISES[number - 1].name
    try:
        kept = folder.write(number)
    except OSError as e:
        raise UserError(f"{folder.file(number)}: {e.strerror}", 2) from e
    folder.passed.discard(name)
    folder.failed.pop(name, None)
    folder.save()
    print(wrapped(f"{_shown(folder.file(number))} is as it was{f'; yours is {_shown(kept)}' if kept else ''}"))
    _noted(folder)
