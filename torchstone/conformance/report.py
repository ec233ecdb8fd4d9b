"""A report for people, in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torchstone.conformance.result import BAD, Diagnosis, FlagCount, Report, Result
from torchstone.conformance.vectors import hazards, load
from torchstone.conformance.words import broken, by_detail, count, in_words, listed, verdict, what_differs
from torchstone.terminal import bold, columns, dim, styled, table, unstyled, wrapped

if TYPE_CHECKING:
    from torchstone.conformance.relations import Relation

SHOWN = 6  # failing cases in full; --json has all


def show(report: Report, relations: Sequence[Relation] = (), again: str = "", verbose: bool = False) -> None:
    """Print the verdict, what causes it and what to try; the evidence if ``verbose``.

    ``again``: the command that made the report.
    """
    again = again or f"torchstone check {report.target} --objective {report.objective}"
    label, text = verdict(report)
    print(wrapped(f"{styled(label, VERDICTS[label])}  {_code(text)}") + "\n")
    nothing = broken(report)
    if nothing:
        _paragraph(*_broken(report))
    elif verbose:
        _evidence(report)
    else:
        _brief(report)
    for line in _read_as(report):
        print(line)
    for note in report.notes if verbose else [n for n in report.notes if not re.match(r"\d+ of \d+ cases", n)]:
        print(_hanging(styled("note", "yellow"), _sentence(note)))
    if relations:
        print()
        show_relations(relations)
        print(relations_verdict(relations))
    for what, command in _next(report, again, verbose or nothing):
        print(f"\n{dim(wrapped(what))}\n{styled(command, 'cyan')}")


VERDICTS = {"RIGHT": "bold green", "WRONG": "bold red", "NOT ASKED ENOUGH": "bold yellow", "NOT FITTED": "bold yellow"}


def _brief(report: Report) -> None:
    """A line or two for each cause and each edge; of what nothing explains the first case."""
    causes = sorted((d for d in report.diagnoses if d.kind != "edge"), key=lambda d: d.accepted)
    for d in causes:
        _cause(report, d, told=len(causes) == 1 and len(d.about) == 1 and not d.thin and not d.accepted)
    if report.unexplained and not causes:
        first = min(report.unexplained, key=lambda r: bool(hazards(r)))
        if part := what_differs(report):
            print(_hanging("what differs", part))
        print(_hanging("for example", f"case {first.case_id}, {first.comment}: {first.detail}") + "\n")
    edges = [d for d in report.diagnoses if d.kind == "edge"]
    for d in edges if report.verdict == "wrong" and not causes else []:
        if d.silent and not d.accepted:
            print(_hanging("effect", d.effect[0]) + "\n")
    if report.verdict == "wrong":
        edges = [d for d in edges if not d.silent]
    if edges and report.verdict == "wrong":
        names = listed([styled(n, "yellow") for d in edges for n in d.names])
        print(_hanging("edges", f"apart from that it fails, as plain code does, at {names}") + "\n")
        return
    for i, d in enumerate(edges):
        text = f"{styled(listed(d.names), 'yellow')}: {d.about[0] if d.about else ''}"
        print(_hanging("" if i else "edges" if len(edges) > 1 else "edge", text))
    if edges:
        print()


def _cause(report: Report, d: Diagnosis, told: bool) -> None:
    """Each name of a diagnosis with what it is, unless the verdict has ``told`` it, and what it does to a run."""
    if told:
        for effect in d.effect:
            print(_hanging("effect", _code(effect)) + "\n")
        return
    effects = iter(d.effect)
    for i, about in enumerate(d.about):
        name = d.names[i] if i < len(d.names) else ""
        kind = report.kinds.get(name, d.kind)
        label = "accepted" if d.accepted else "perhaps" if d.thin else kind
        print(_hanging(styled(label, COLOUR.get(kind, "bold red")), _code(f"{bold(name)}: {about}" if name else about)))
        effect = next(effects, "") if name in report.kinds or len(d.about) == len(d.effect) else ""
        if effect:
            print(_hanging("", f"Effect: {effect}"))
    print()


def _evidence(report: Report) -> None:
    """Everything that the verdict rests on."""
    print(f"{_table(report)}\n")
    for diagnosis in report.diagnoses:
        _paragraph(*_told(report, diagnosis))
    for heading, lines in (_unexplained(report), _warned(report)):
        _paragraph(heading, lines)


def show_relations(relations: Sequence[Relation]) -> None:
    """The section of what must hold whatever the numbers are."""
    rows = [[f"  {r.name}", styled(STATUS[r.status], STATUS_STYLE[r.status]), r.detail] for r in relations]
    print(table((), rows, title="what must hold whatever the numbers are") + "\n")


def relations_verdict(relations: Sequence[Relation]) -> str:
    """Such as ``FAIL  2 of 9 relations do not hold: scale and float32``."""
    failed = [r.name for r in relations if r.status == "fail"]
    asked = count(sum(r.status != "skip" for r in relations), "relation")
    if failed:
        verb = "do" if len(failed) > 1 else "does"
        return _line("FAIL", "bold red", f"{len(failed)} of {asked} {verb} not hold: {listed(failed)}")
    return _line("PASS", "bold green", f"{asked} that can be asked hold")


STATUS = {"pass": "holds", "fail": "fails", "warn": "take note", "skip": "not asked"}
STATUS_STYLE = {"pass": "green", "fail": "bold red", "warn": "yellow", "skip": "dim"}


# ------------------------------------------------------------------------------------------------------------ the parts


def _read_as(report: Report) -> Iterable[str]:
    """What was compared with what: the equation, the arguments by their names, and the numbers that are its own."""
    vectors = load(report.objective)
    tags = f" ({', '.join(vectors.tags)})" if vectors.tags else ""
    yield dim(_hanging("right is", vectors.about + tags))
    pairs = [theirs if theirs == ours else f"{theirs} = {ours}" for theirs, ours in report.signature.items()]
    yield dim(_hanging("called with", ", ".join([*pairs, *([report.calling] if report.calling else [])])))
    if report.left_default:
        alone = ", ".join(f"{k} {v}" for k, v in report.left_default.items())
        yield dim(_hanging("left alone", f"{alone}: at its default, since what it means is not known"))
    if report.built_in:
        numbers = ", ".join(f"{k} {'none' if v is None else v}" for k, v in report.built_in.items())
        them = "it" if len(report.built_in) == 1 else "them"
        yield dim(_hanging("compared at", f"{numbers}: it has no argument for {them}"))


def _hanging(label: str, text: str) -> str:
    """A label, and a text that stays in its own column when it wraps."""
    return wrapped(text, f"{label}{' ' * (13 - len(unstyled(label)))}")


def _table(report: Report) -> str:
    """A line for each flag; what does not vary or has no room is left out."""
    counts = [row for row in report.flag_counts if row.cases]
    kinds, about = len({row.kind for row in counts}) > 1, columns() >= 110
    numbers = ("cases", "passed", "failed", "warnings", "left out")
    rows = []
    for row in counts:
        style = "red" if row.failed else "yellow" if row.warned else "green" if row.passed else "dim"
        shown = [(row.cases, ""), (row.passed, "green"), (row.failed, "bold red"), (row.warned, "yellow")]
        cells = [styled(str(n or ""), style) for n, style in [*shown, (row.skipped, "dim")]]
        rows.append([styled(row.flag, style), *[row.kind] * kinds, *cells, *[_about(report, row)] * about])
    return table(["flag", *["kind"] * kinds, *numbers, *["what it is about"] * about], rows, right=numbers)


def _about(report: Report, row: FlagCount) -> str:
    flag = load(report.objective).flags.get(row.flag)
    return flag.about if flag else "Nothing special."


def _paragraph(heading: str, lines: Sequence[str]) -> None:
    if not heading:
        return
    print(wrapped(heading))
    for line in lines:
        text = line.lstrip(" ")
        indent = " " * (2 + len(line) - len(text))
        print(wrapped(dim(text) if text.startswith("https://") else text, indent))
    print()


COLOUR = {"bug": "bold red", "variant": "bold yellow", "setting": "bold yellow", "edge": "bold red", "factor": "red"}


def _told(report: Report, d: Diagnosis) -> tuple[str, list[str]]:
    """A diagnosis as a heading and lines."""
    heading, lines = in_words(report, d)
    label = "edge case" if d.kind == "edge" else d.kind
    label = styled(f"accepted {label}", "green") if d.accepted else styled(label, COLOUR.get(d.kind, "bold red"))
    return f"{label}  {_code(heading)}", [_code(line) for line in lines]


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", lambda code: bold(code[1]), text)


def _broken(report: Report) -> tuple[str, list[str]]:
    groups = by_detail(r for r in report.results if r.status in ("error", "timeout"))
    number = len({r.case_id for r in report.results if r.status in ("error", "timeout")})
    lines = []
    for detail, results in groups[:SHOWN]:
        lines += [f"case{'s' * (len(results) > 1)} {_ids(results)}", "  " + styled(detail, "red")]
    return f"{styled('nothing to compare', 'bold red')}  in {count(number, 'case')}, each that was tried:", lines


def _unexplained(report: Report) -> tuple[str, list[str]]:
    groups = by_detail(report.unexplained)
    if not groups:
        return "", []
    ids = {r.case_id for r in report.unexplained}
    heading = (
        f"{styled('not explained', 'bold red')}  {count(len(ids), 'case')} that no known variant or bug accounts for:"
    )
    lines = []
    for detail, results in groups[:SHOWN]:
        first = results[0]
        if len(results) == 1:
            lines.append(f"case {first.case_id}  {first.comment}{_which(report, first)}")
        else:
            lines.append(f"cases {_ids(results)}")
        lines.append("  " + styled(detail or first.status, "red"))
    if len(groups) > SHOWN:
        lines.append(dim(f"and {len(groups) - SHOWN} more; --json lists every case"))
    return heading, lines


def _which(report: Report, result: Result) -> str:
    """Which flags, and in which precision if only one of them fails."""
    other = [r.status for r in report.results if r.case_id == result.case_id and r.precision != result.precision]
    flags = [*result.flags, *([f"{result.precision} only"] if other and other[0] not in BAD else [])]
    return f"  {dim(', '.join(flags))}" if flags else ""


def _ids(results: Sequence[Result]) -> str:
    ids = [str(r.case_id) for r in results]
    return ", ".join(ids) if len(ids) <= 12 else f"{', '.join(ids[:10])} and {len(ids) - 10} more"


def _warned(report: Report) -> tuple[str, list[str]]:
    warned = [r for r in report.results if r.status == "warn"]
    if not warned:
        return "", []
    ids = {r.case_id for r in warned}
    heading = (
        f"{styled('warnings', 'yellow')}  {count(len(ids), 'case')} in which correct code may differ too (no failure):"
    )
    lines = []
    for detail, results in (groups := by_detail(warned))[:4]:
        first = results[0]
        label = f"case {first.case_id}  {first.comment}" if len(results) == 1 else f"cases {_ids(results)}"
        lines += [label, "  " + dim(detail)]
    if len(groups) > 4:
        lines.append(dim(f"and {len(groups) - 4} more; --json lists every case"))
    return heading, lines


def _line(label: str, style: str, text: str) -> str:
    return wrapped(f"{styled(label, style)}  {text}", indent="")


def _next(report: Report, again: str, verbose: bool) -> Iterable[tuple[str, str]]:
    """What to do about it: a line of words, and a command or a few lines of code."""
    if report.verdict != "right" and not verbose:
        yield "The evidence, case by case:", f"  {again} --verbose"
    if report.verdict in ("right", "edges"):
        return
    open_ = [d for d in report.diagnoses if not d.accepted]
    if open_ and not report.unexplained and any(d.kind in ("variant", "setting") for d in open_):
        meant = [n.partition("=")[0] for d in open_ if d.kind in ("variant", "setting") for n in d.names]
        meant = [n for n in meant if report.kinds.get(n) != "bug"]
        if meant:
            yield f"If {listed(meant)} is meant:", f"  {again}{''.join(f' --accept {n}' for n in dict.fromkeys(meant))}"
    fits = (
        any(r.status == "pass" for r in report.results if not hazards(r))
        or what_differs(report)
        or any(d.kind != "edge" for d in open_)
    )
    strange = not fits and (not report.diagnoses or report.unexplained)
    if strange and not all(r.status == "timeout" for r in report.unexplained):
        wrong = 'If an argument was taken for another one, say which is which in a file (their_name = "our_name"):'
        yield wrong, f"  {again} --names names.toml"
        yield (
            "If it wants them in another form, or gives something else: a few lines that call it, checked instead "
            f"(torchstone check adapter.py:{report.objective}).",
            report.adapter,
        )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
