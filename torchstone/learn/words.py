"""What the checker found, in the words of an exercise: the mistake by name, never the line that mends it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from torchstone.conformance.name.search import IN_ONE_USE
from torchstone.conformance.result import Diagnosis, Report, Result
from torchstone.conformance.vectors import Vectors, hazards, load
from torchstone.conformance.words import count, listed, what_differs
from torchstone.learn.exercises import Exercise, Grade

SHOWN = 2  # causes, and edges, that are told at once
OVERTIME = "took longer than"


def graded(report: Report, function: str, exercise: Exercise, errors: Sequence[str]) -> Grade:
    """The grade of one function.

    Args:
        report: what the checker says of it.
        function: its name.
        exercise: what was asked; it says which edges count.
        errors: what the function raised, each with its line.
    """
    vectors = load(report.objective)
    causes = [d for d in report.diagnoses if d.kind != "edge" and (not d.accepted or set(d.names) & set(exercise.must))]
    edges = [d for d in report.diagnoses if d.kind == "edge"]
    causes += [d for d in edges if d.silent or set(d.names) & set(exercise.must)]
    shape = _shape(report, vectors, function)
    if report.unanswered or (not causes and any(r.status in ("error", "timeout") for r in report.unexplained)):
        return Grade("broken", function, tuple(_does_not_run(report, vectors, errors)))
    if narrow := shape or _incomplete(report, function):
        return Grade("broken", function, (narrow,))
    fits = all(report.built_in.get(k, v) == v for k, v in exercise.settings)
    if fits and not causes and not report.unexplained and not report.unasked:
        told = [f"{d.about[0]} ({', '.join(d.names)})" for d in edges if d.about]
        told += [f"{vectors.flags[name].about} ({name})" for name in _warned(report) if name in vectors.flags]
        return Grade("right", function, edges=tuple(told))
    if other := [k for k, v in exercise.settings if report.built_in.get(k, v) != v]:
        about = [vectors.flags[x].about for k in other if (x := report.built_in[k]) in vectors.flags]
        return Grade("wrong", function, (*about, f"That is another {other[0]} than the exercise asks for."))
    says = [text for d in causes[:SHOWN] for text in _cause(d, vectors.flags)]
    if not causes:
        says += list(_unknown(report))
    return Grade("wrong", function, tuple(says), next((e for d in causes for e in d.effect if e), ""))


def _warned(report: Report) -> list[str]:
    """What cases are about in which right code may differ, and this code does; what is an edge already is none."""
    known = {name for d in report.edges for name in d.names}
    warned = (r for r in report.results if r.status == "warn" and r.precision == "float64")
    return list(dict.fromkeys(name for r in warned for name in r.flags if name not in known))


def _cause(d: Diagnosis, known: Collection[str]) -> Iterable[str]:
    """A mistake in words, with its name and in how many cases the numbers are its numbers."""
    cases = f"in {d.matched} of {count(d.of, 'case')}"
    about = [_plain(x) for x in d.about]
    perhaps = "Perhaps: " if d.thin else ""
    if d.kind == "factor" or not d.matched:
        yield f"{perhaps}{about[0]}."
    elif d.kind == "edge":
        yield f"{about[0]}{_named(d.names[0], known)}: it fails there {cases}."
    elif len(d.names) == 1:
        name = d.names[0]
        what = (
            "with that number" if d.kind == "setting" else "with this mistake" if d.kind == "bug" else "of that formula"
        )
        yield f"{perhaps}{about[0]}{_named(name, known)}: your numbers equal those {what} {cases}."
    else:
        number = {2: "Two", 3: "Three"}.get(len(d.names), str(len(d.names)))
        yield f"{perhaps}{number} things at once, with which your numbers are equal {cases}:"
        for name, text in zip(d.names, about, strict=False):
            yield f"{text}{_named(name, known)}."


def _named(name: str, known: Collection[str]) -> str:
    """Its name in brackets, if it has one that others use too: a page explains it."""
    name = name.partition(IN_ONE_USE)[0]
    return f" ({name})" if name in known else ""


def _plain(about: str) -> str:
    """Without the line that belongs there, which a report of the checker shows."""
    about = re.sub(r",? `[^`]*` where `[^`]*` belongs", "", about)
    about = re.sub(r"\b(?:detached|stop|dual|mpf)\((\w+)\)", r"\1", about)
    return re.sub(r" \((?:missing|ignored|swapped)[^)]*\)", "", about).rstrip(".")


def _unknown(report: Report) -> Iterable[str]:
    """Of numbers that no known mistake gives: in how many cases, what differs, and the plainest case."""
    if not report.unexplained:
        yield f"It matches, but not enough could be asked: {listed(report.unasked) or 'no case could be run'}."
        return
    ids = {r.case_id for r in report.unexplained}
    part = what_differs(report)
    yield f"It is wrong in {len(ids)} of {count(report.asked[0], 'case')}{f', {part}' if part else ''}."
    first = min(report.unexplained, key=lambda r: bool(hazards(r)))
    case = next(c for c in load(report.objective).cases if c.id == first.case_id)
    yield f"For example ({case.comment}): {first.detail}."
    yield "No mistake that is known gives these numbers."


def _does_not_run(report: Report, vectors: Vectors, errors: Sequence[str]) -> Iterable[str]:
    failed = [r for r in report.results if r.status in ("error", "timeout") and r.precision == "float64"]
    plain = min(failed, key=lambda r: bool(hazards(r)))
    if (told := _returned(plain, vectors)) is not None:
        yield told
        return
    where = f"in {len(failed)} of {count(report.asked[0], 'case')}"
    if plain.status == "timeout":
        line = next((e.partition(":")[0] for e in errors if OVERTIME in e), "")
        yield f"It did not end{f', and was stopped at {line}' if line else ''}: is there a loop without an end?"
        return
    settings = ", ".join(f"{k} {v}" for k, v in plain.settings.items())
    yield f"It raises {where}: {next((e for e in errors if plain.detail in e), plain.detail)}."
    if settings and len(failed) < report.asked[0]:
        yield f"That is with {settings} ({plain.comment})."


def _returned(r: Result, vectors: Vectors) -> str | None:
    """What a result of another shape or type is, in the letters of the exercise."""
    found = re.match(r"expected (\S+) of shape (\[.*?\]), got (.*)", r.detail)
    if not found:
        return None
    first, sizes, got = found.groups()
    letters = vectors.returns[first].shape
    wanted = f"[{letters}], here {sizes}" if letters else "one number"
    if got in ("NoneType", "ellipsis"):
        return f"It returns nothing; it should return {wanted}: is a return missing?"
    is_ = re.sub(r"\bresult \[\]", "one number", got).replace("result ", "")
    return f"It should return {wanted}; it returns {is_}."


def _incomplete(report: Report, function: str) -> str | None:
    """A second result that is missing, which the checker does not ask for."""
    missing = next((n for n in report.notes if n.startswith("not returned")), None)
    if missing and function == report.objective and len(load(report.objective).returns) == 2:
        return f"It should return {listed(list(load(report.objective).returns))}, and returns the first alone."
    return None


def _shape(report: Report, vectors: Vectors, function: str) -> str | None:
    """A result that the checker has reduced or spread, which an exercise does not."""
    note = next((n for n in report.notes if n.startswith("it returns one number")), None)
    if note is None or function != report.objective:
        return None
    letters = next(iter(vectors.returns.values())).shape
    is_ = re.match(r"it returns (one number(?: a \w+(?: or \w+)?)?)", note)
    return f"It should return {f'[{letters}]' if letters else 'one number'}; it returns {is_[1] if is_ else note}."
