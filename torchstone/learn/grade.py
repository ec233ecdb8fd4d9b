"""An answer, graded by the vectors. Runs in a process of its own, which its caller stops when it takes too long."""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import functools
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.conformance.words import listed
from torchstone.learn.exercises import EXERCISES, Exercise, Grade
from torchstone.learn.writing import shapes_of, signature_of

if TYPE_CHECKING:  # they import torch, which takes two seconds
    from torchstone.conformance.ask.call import Trial
    from torchstone.conformance.fit.calling import Calling
    from torchstone.conformance.vectors import Case, Vectors

CASE_LIMIT = 1.0  # seconds for one case


def grades(path: Path, exercise: Exercise) -> Iterator[Grade]:
    """The grade of a file; before a search that may take long a first one, to be used if that is stopped."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as e:
        yield Grade("broken", says=(f"Line {e.lineno} is no Python: {e.msg}.",))
        return
    except ValueError as e:
        yield Grade("broken", says=(f"The file is no text of Python: {e}.",))
        return
    edges: list[str] = []
    if open_ := [function for function in exercise.functions if function in unwritten(tree)]:
        yield Grade("unwritten", listed(open_))
        return
    try:
        found = _loaded(path)
    except (Exception, SystemExit) as e:
        yield Grade("broken", says=(f"The file does not run: {_raised(e, path)}.",))
        return
    for function, objective in exercise.pairs:
        grade = None
        for grade in _graded(getattr(found, function, None), function, objective, exercise, path):
            if grade.state != "right":
                yield grade
        assert grade is not None
        if grade.state != "right":
            return
        edges += grade.edges
    yield Grade("right", edges=tuple(dict.fromkeys(edges)))


def unwritten(tree: ast.Module) -> set[str]:
    """The functions in which ``...`` still stands for something; ``x[..., 0]`` is no such place."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(_left_open(part) for part in node.body)
    }


def _left_open(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        return _left_open(node.value)
    return (isinstance(node, ast.Constant) and node.value is ...) or any(map(_left_open, ast.iter_child_nodes(node)))


def _loaded(path: Path) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _raised(error: BaseException, path: Path) -> str:
    """Such as ``line 14: TypeError: ...``, the line being the last one in the learner's own file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    told = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
    return f"line {lines[-1]}: {told}" if lines else told


# ------------------------------------------------------------------------------------------------------- by the vectors


def _graded(answer: Any, function: str, objective: str, exercise: Exercise, path: Path) -> Iterator[Grade]:
    if not callable(answer):
        yield Grade("broken", function, (f"The file has no function {function}: its name must stay.",))
        return
    wanted = signature_of(exercise, function)
    missing = [name for name in wanted if name not in _takes(answer)]
    if missing:
        told = f"{function} takes no {' and no '.join(missing)}: its arguments must stay ({', '.join(wanted)})."
        yield Grade("broken", function, (told,))
        return
    from torchstone.conformance.checker import check
    from torchstone.conformance.fit.target import TargetError
    from torchstone.learn.words import graded

    for search in (False, True):
        errors: list[str] = []
        try:
            report = check(
                _noting(answer, errors, path), objective, time_limit=CASE_LIMIT, search=search, target=function
            )
        except TargetError as e:
            yield Grade("broken", function, (str(e).removeprefix("target: ") + ".",))
            return
        grade = graded(report, function, exercise, errors)
        if grade.state == "right" and (astray := _of_one_layout(answer, function, exercise, path)):
            grade = Grade("wrong", function, (astray,))
        if grade.state == "right" and (refused := _refused(answer, objective, exercise, path)):
            grade = Grade("broken", function, (refused,))
        yield grade
        if grade.state != "wrong" or not report.unexplained:
            return


def _refused(answer: Callable[..., Any], objective: str, exercise: Exercise, path: Path) -> str | None:
    """The first ordinary case that it raises in. The checker lets pass code that has one use; an exercise has all."""
    from torchstone.conformance.fit.calling import Calling
    from torchstone.conformance.vectors import load

    errors: list[str] = []
    noting = _noting(answer, errors, path)
    trial = _trial(noting, load(objective), Calling("torch", "bool", "P G"))
    for case in _ordinary(trial, exercise):
        if trial.run(case).kind == "refused" and errors:
            settings = ", ".join(f"{k} {v}" for k, v in case.settings.items() if k not in exercise.without)
            inputs = ", ".join(k for k in case.inputs if k in trial.signature.arguments.values())
            return f"It raises with {settings or inputs} ({case.comment}): {errors[-1]}."
    return None


def _of_one_layout(answer: Callable[..., Any], function: str, exercise: Exercise, path: Path) -> str | None:
    """Of what may be given one a sequence or one a token: the layout in which it goes wrong, if it is one.

    The checker is content with the one that the code was written for.
    """
    from torchstone.conformance.ask.compare import difference
    from torchstone.conformance.fit.calling import PER_ROW, Calling
    from torchstone.conformance.trial import constant_rows
    from torchstone.conformance.vectors import load, objectives

    shapes = shapes_of(function)
    free = [name for name in PER_ROW if name in shapes]
    if function not in objectives() or not free or not all("[B] or [B T]" in shapes[name] for name in free):
        return None
    errors: list[str] = []
    noting, told = _noting(answer, errors, path), []
    for layout in ("B", "B T"):
        trial = _trial(noting, load(function), Calling("torch", "bool", "P G", layout))
        for case in _ordinary(trial, exercise):
            errors.clear()
            if constant_rows(case) and case.expected and difference(trial.run(case), case.expected, 1e-6) is not None:
                what = errors[-1] if errors else "other numbers, and no error"
                told.append(f"{listed(free)} may be [B] or [B T]: as [{layout}] ({case.comment}) it gives {what}.")
                break
    return told[0] if len(told) == 1 else None  # what fails in both has another reason


def _trial(answer: Callable[..., Any], vectors: Vectors, calling: Calling) -> Trial:
    from torchstone.conformance.fit.signature import read_signature
    from torchstone.conformance.trial import Trial

    return Trial(answer, read_signature(answer, vectors, {}, {}), calling, vectors, CASE_LIMIT)


def _ordinary(trial: Trial, exercise: Exercise) -> Iterator[Case]:
    """The cases that an exercise speaks of: without hazards, and without the arguments that it leaves out."""
    from torchstone.conformance.trial import askable
    from torchstone.conformance.vectors import hazards

    for case in trial.vectors.cases:
        left_out = [case.settings.get(name) for name in exercise.without if name != "reduce"]
        if case.result == "valid" and not hazards(case) and not any(x is not None for x in left_out):
            asked = askable(case, trial.signature, trial.vectors)
            if asked is not None:
                yield asked


def _takes(answer: Callable[..., Any]) -> set[str]:
    import inspect

    return set(inspect.signature(answer).parameters)


def _noting(answer: Callable[..., Any], errors: list[str], path: Path) -> Callable[..., Any]:
    """The same function, which notes what it raises, and at which line."""

    @functools.wraps(answer)
    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            return answer(*args, **kwargs)
        except BaseException as e:
            errors.append(_raised(e, path))
            raise

    return noting


def _limit(seconds: float, stream: Any) -> None:
    """End this process after ``seconds`` of work, or three times as long asleep, and say on ``stream`` where it was."""
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=stream)
    with contextlib.suppress(ImportError):  # Windows counts no work: there the clock alone ends it
        import resource

        faulthandler.register(signal.SIGXCPU, file=stream, chain=True)
        limit = math.ceil(time.process_time() + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """``python -m torchstone.learn.grade FILE NUMBER SECONDS``: a grade as JSON in each line of stdout, the last holds.

    What the learner's file prints goes nowhere. After SECONDS of work the place where it is goes to stderr.
    """
    path, number, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    out, err = os.fdopen(os.dup(1), "w", encoding="utf-8"), os.fdopen(os.dup(2), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    import torchstone.learn.words  # noqa: F401  (torch takes two seconds to load: they are not the learner's)

    _limit(seconds, err)
    try:
        for grade in grades(path, EXERCISES[number - 1]):
            print(json.dumps(asdict(grade)), file=out, flush=True)
    except Exception as e:
        print(f"{type(e).__name__}: {e}", file=err, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
