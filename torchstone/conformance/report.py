"""A report for people, in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torchstone.conformance.result import BAD, Diagnosis, FlagCount, Report, Result
from torchstone.conformance.vectors import load
from torchstone.conformance.words import broken, by_detail, count, in_words, listed, verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from torchstone.conformance.relations import Relation

SHOWN = 6  # failing cases in full; --json has all


def show(report: Report, console: Console, relations: Sequence[Relation] = (), again: str = "") -> None:
    """Print everything; ``again``: the command that made the report, for what to try next."""
    for line in _head(report):
        console.print(line, highlight=False)
    nothing = broken(report)
    if not nothing:
        console.print(_table(report, console.width))
    else:
        console.print()
    for diagnosis in [] if nothing else report.diagnoses:
        _paragraph(console, *_told(report, diagnosis))
    for heading, lines in [_broken(report)] if nothing else [_unexplained(report), _warned(report)]:
        _paragraph(console, heading, lines)
    if relations:
        show_relations(relations, console)
    for note in report.notes:
        console.print(_hanging("[yellow]note[/yellow]", _plain(_sentence(note))), highlight=False)
    if report.notes:
        console.print()
    console.print(_verdict(report), highlight=False)
    if relations:
        console.print(relations_verdict(relations), highlight=False)
    for what, command in _next(report, again or f"torchstone check {report.target} --objective {report.objective}"):
        console.print(f"[dim]{_plain(what)}[/dim]", highlight=False)
        console.print(command, style="cyan", markup=False, highlight=False, soft_wrap=True)


def show_relations(relations: Sequence[Relation], console: Console) -> None:
    """The section of what must hold whatever the numbers are."""
    from rich.table import Table

    console.print("[bold]what must hold whatever the numbers are[/bold]", highlight=False)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for r in relations:
        style = {"pass": "green", "fail": "bold red", "warn": "yellow"}.get(r.status, "dim")
        text = _plain(r.detail) if r.status in ("fail", "warn") else f"[dim]{_plain(r.detail)}[/dim]"
        table.add_row(f"  {r.name}", f"[{style}]{STATUS[r.status]}[/{style}]", text)
    console.print(table)
    console.print()


def relations_verdict(relations: Sequence[Relation]) -> str:
    """Such as ``FAIL  2 of 9 relations do not hold: scale and float32``."""
    failed = [r.name for r in relations if r.status == "fail"]
    asked = count(sum(r.status != "skip" for r in relations), "relation")
    if failed:
        verb = "do" if len(failed) > 1 else "does"
        return f"[bold red]FAIL[/bold red]  {len(failed)} of {asked} {verb} not hold: {listed(failed)}"
    return f"[bold green]PASS[/bold green]  {asked} that can be asked hold"


STATUS = {"pass": "holds", "fail": "fails", "warn": "take note", "skip": "not asked"}


# ------------------------------------------------------------------------------------------------------------ the parts


def _head(report: Report) -> Iterable[Any]:
    ran = len({r.case_id for r in report.results if r.status != "skip"})
    vectors = load(report.objective)
    tags = f" ({', '.join(vectors.tags)})" if vectors.tags else ""
    yield f"[bold]{_plain(report.target)}[/bold] against [bold]{report.objective}[/bold]: {count(ran, 'case')}"
    yield _hanging("[dim]right is[/dim]", f"[dim]{_plain(vectors.about + tags)}[/dim]")
    pairs = [theirs if theirs == ours else f"{theirs} = {ours}" for theirs, ours in report.signature.items()]
    yield _hanging("called with", _plain(", ".join([*pairs, *([report.calling] if report.calling else [])])))
    if report.built_in:
        numbers = ", ".join(f"{k} {'none' if v is None else v}" for k, v in report.built_in.items())
        yield _hanging(
            "compared at", _plain(f"{numbers}: it has no argument for {'it' if len(report.built_in) == 1 else 'them'}")
        )


def _hanging(label: str, text: str) -> Any:
    """A label, and a text that stays in its own column when it wraps."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=11)
    grid.add_column(overflow="fold")
    grid.add_row(label, text)
    return grid


def _table(report: Report, width: int) -> Table:
    from rich import box
    from rich.table import Table

    rows = [row for row in report.flag_counts if row.cases]
    kinds = len({row.kind for row in rows}) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("flag", no_wrap=True)
    if kinds:
        table.add_column("kind", no_wrap=True)
    for heading in ("cases", "passed", "failed", "warnings", "left out"):
        table.add_column(heading, justify="right", no_wrap=True)
    about = width >= 110
    if about:
        room = width - 48 - max(len(row.flag) for row in rows) - 9 * kinds
        table.add_column("what it is about", no_wrap=True, overflow="ellipsis", max_width=room)
    for row in rows:
        style = "red" if row.failed else "yellow" if row.warned else "green" if row.passed else "dim"
        numbers = [(row.cases, ""), (row.passed, "green"), (row.failed, "bold red"), (row.warned, "yellow")]
        cells = [f"[{s}]{n}[/{s}]" if s and n else str(n or "") for n, s in [*numbers, (row.skipped, "dim")]]
        kind = [row.kind] if kinds else []
        told = [f"[dim]{_plain(_about(report, row))}[/dim]"] if about else []
        table.add_row(f"[{style}]{row.flag}[/{style}]", *kind, *cells, *told)
    return table


def _about(report: Report, row: FlagCount) -> str:
    flag = load(report.objective).flags.get(row.flag)
    return flag.about if flag else "Nothing special."


def _paragraph(console: Console, heading: str, lines: Sequence[str]) -> None:
    from rich.padding import Padding

    if not heading:
        return
    console.print(heading, highlight=False)
    for line in lines:
        text = line.lstrip(" ")
        indent = 2 + len(line) - len(text)
        if text.startswith("https://"):
            console.print(f"{' ' * indent}[dim]{text}[/dim]", highlight=False, soft_wrap=True)  # an address stays whole
        else:
            console.print(Padding(text, (0, 0, 0, indent), expand=False), highlight=False)
    console.print()


COLOUR = {"bug": "bold red", "variant": "bold yellow", "setting": "bold yellow", "edge": "bold red", "factor": "red"}


def _told(report: Report, d: Diagnosis) -> tuple[str, list[str]]:
    """A diagnosis as a heading and lines, in rich's markup."""
    heading, lines = in_words(report, d)
    colour = "green" if d.accepted else COLOUR.get(d.kind, "bold red")
    label = "edge case" if d.kind == "edge" else d.kind
    label = f"accepted {label}" if d.accepted else label
    return f"[{colour}]{label}[/{colour}]  {_code(_plain(heading))}", [_code(_plain(line)) for line in lines]


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"[bold]\1[/bold]", text)


def _broken(report: Report) -> tuple[str, list[str]]:
    groups = by_detail(r for r in report.results if r.status in ("error", "timeout"))
    number = len({r.case_id for r in report.results if r.status in ("error", "timeout")})
    lines = []
    for detail, results in groups[:SHOWN]:
        lines += [f"case{'s' * (len(results) > 1)} {_ids(results)}", f"  [red]{_plain(detail)}[/red]"]
    return f"[bold red]nothing to compare[/bold red]  in {count(number, 'case')}, each that was tried:", lines


def _unexplained(report: Report) -> tuple[str, list[str]]:
    groups = by_detail(report.unexplained)
    if not groups:
        return "", []
    ids = {r.case_id for r in report.unexplained}
    heading = (
        f"[bold red]not explained[/bold red]  {count(len(ids), 'case')} that no known variant or bug accounts for:"
    )
    lines = []
    for detail, results in groups[:SHOWN]:
        first = results[0]
        if len(results) == 1:
            lines.append(f"case {first.case_id}  {_plain(first.comment)}{_which(report, first)}")
        else:
            lines.append(f"cases {_ids(results)}")
        lines.append(f"  [red]{_plain(detail or first.status)}[/red]")
    if len(groups) > SHOWN:
        lines.append(f"[dim]and {len(groups) - SHOWN} more; --json lists every case[/dim]")
    return heading, lines


def _which(report: Report, result: Result) -> str:
    """Which flags, and in which precision if only one of them fails."""
    other = [r.status for r in report.results if r.case_id == result.case_id and r.precision != result.precision]
    flags = [*result.flags, *([f"{result.precision} only"] if other and other[0] not in BAD else [])]
    return f"  [dim]{', '.join(flags)}[/dim]" if flags else ""


def _ids(results: Sequence[Result]) -> str:
    ids = [str(r.case_id) for r in results]
    return ", ".join(ids) if len(ids) <= 12 else f"{', '.join(ids[:10])} and {len(ids) - 10} more"


def _warned(report: Report) -> tuple[str, list[str]]:
    warned = [r for r in report.results if r.status == "warn"]
    if not warned:
        return "", []
    ids = {r.case_id for r in warned}
    heading = f"[yellow]warnings[/yellow]  {count(len(ids), 'case')} in which correct code may differ too (no failure):"
    lines = []
    for detail, results in (groups := by_detail(warned))[:4]:
        first = results[0]
        label = f"case {first.case_id}  {_plain(first.comment)}" if len(results) == 1 else f"cases {_ids(results)}"
        lines += [label, f"  [dim]{_plain(detail)}[/dim]"]
    if len(groups) > 4:
        lines.append(f"[dim]and {len(groups) - 4} more; --json lists every case[/dim]")
    return heading, lines


def _verdict(report: Report) -> str:
    passed, text = verdict(report)
    return f"{'[bold green]PASS[/bold green]' if passed else '[bold red]FAIL[/bold red]'}  {_plain(text)}"


ADAPTER = """\
  from {module} import {name}
  def {short}({arguments}):
      return {made}({call})"""


def _next(report: Report, again: str) -> Iterable[tuple[str, str]]:
    """What to do about it: a line of words, and a command or a few lines of code."""
    if report.passed:
        return
    open_ = [d for d in report.diagnoses if not d.accepted]
    if open_ and not report.unexplained and any(d.kind in ("variant", "setting") for d in open_):
        meant = [n.partition("=")[0] for d in open_ if d.kind in ("variant", "setting") for n in d.names]
        meant = [n for n in meant if report.kinds.get(n) != "bug"]
        if meant:
            yield f"If {listed(meant)} is meant:", f"  {again}{''.join(f' --accept {n}' for n in dict.fromkeys(meant))}"
    strange = not report.diagnoses or report.unexplained
    if strange and not all(r.status == "timeout" for r in report.unexplained):
        vectors = load(report.objective)
        got = set(report.signature.values())
        arguments = [k for k in vectors.arguments if k in got] or list(vectors.arguments)
        settings = [k for k in vectors.settings if k in got]
        module, _, name = report.target.rpartition(":")
        theirs = {ours: k for k, ours in report.signature.items()}
        code = ADAPTER.format(
            module=module.removesuffix(".py").rpartition("/")[2] or "my_losses",
            name=name,
            made=f"{name}()" if name[:1].isupper() else name,  # a class is made first
            short="adapter",
            arguments=", ".join([*arguments, *settings]),
            call=", ".join(f"{theirs[k]}={k}" if k in theirs else k for k in [*arguments, *settings]),
        )
        wrong = 'If an argument was taken for another one, say which is which in a file (their_name = "our_name"):'
        yield wrong, f"  {again} --names names.toml"
        yield (
            "If it wants them in another form, or gives something else, a few lines of adapter, checked instead:",
            code,
        )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
