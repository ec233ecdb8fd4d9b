"""A report for people (terminal), for programs (JSON) and for CI (JUnit XML), and one case of it in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from torchstone.conformance.result import BAD, Diagnosis, FlagCount, Report, Result
from torchstone.conformance.vectors import load

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from torchstone.conformance.relations import Property

SHOWN = 6  # failing cases in full; --json has all


def show(report: Report, console: Console, properties: Sequence[Property] = (), again: str = "") -> None:
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
    if properties:
        show_properties(properties, console)
    for note in report.notes:
        console.print(_hanging("[yellow]note[/yellow]", _plain(_sentence(note))), highlight=False)
    if report.notes:
        console.print()
    console.print(_verdict(report), highlight=False)
    if properties:
        console.print(properties_verdict(properties), highlight=False)
    for what, command in _next(report, again or f"torchstone check {report.target} --objective {report.objective}"):
        console.print(f"[dim]{_plain(what)}[/dim]", highlight=False)
        console.print(command, style="cyan", markup=False, highlight=False, soft_wrap=True)


def show_properties(properties: Sequence[Property], console: Console) -> None:
    """The section of the metamorphic checks."""
    from rich.table import Table

    console.print("[bold]what must hold whatever the numbers are[/bold]", highlight=False)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for p in properties:
        style = {"pass": "green", "fail": "bold red", "warn": "yellow"}.get(p.status, "dim")
        text = _plain(p.detail) if p.status in ("fail", "warn") else f"[dim]{_plain(p.detail)}[/dim]"
        table.add_row(f"  {p.name}", f"[{style}]{STATUS[p.status]}[/{style}]", text)
    console.print(table)
    console.print()


def properties_verdict(properties: Sequence[Property]) -> str:
    """Such as ``FAIL  2 of 9 relations do not hold: scale and float32``."""
    failed = [p.name for p in properties if p.status == "fail"]
    asked = _count(sum(p.status != "skip" for p in properties), "relation")
    if failed:
        verb = "do" if len(failed) > 1 else "does"
        return f"[bold red]FAIL[/bold red]  {len(failed)} of {asked} {verb} not hold: {_and(failed)}"
    return f"[bold green]PASS[/bold green]  {asked} that can be asked hold"


STATUS = {"pass": "holds", "fail": "fails", "warn": "take note", "skip": "not asked"}


# ------------------------------------------------------------------------------------------------------------ the parts


def _head(report: Report) -> Iterable[Any]:
    ran = len({r.case_id for r in report.results if r.status != "skip"})
    vectors = load(report.objective)
    tags = f" ({', '.join(vectors.tags)})" if vectors.tags else ""
    yield f"[bold]{_plain(report.target)}[/bold] against [bold]{report.objective}[/bold]: {_count(ran, 'case')}"
    yield _hanging("[dim]right is[/dim]", f"[dim]{_plain(vectors.about + tags)}[/dim]")
    pairs = [theirs if theirs == ours else f"{theirs} = {ours}" for theirs, ours in report.fitted.items()]
    yield _hanging("called with", _plain(", ".join([*pairs, *([report.way] if report.way else [])])))
    if report.taken:
        taken = ", ".join(f"{k} {'none' if v is None else v}" for k, v in report.taken.items())
        yield _hanging(
            "compared at", _plain(f"{taken}: it has no argument for {'it' if len(report.taken) == 1 else 'them'}")
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

    rows = [row for row in report.rows if row.cases]
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


def in_words(report: Report, d: Diagnosis) -> tuple[str, list[str]]:
    """A diagnosis as a heading and lines of plain text."""
    names = _and([f"`{n}`" for n in d.names])
    cases = f"in {d.matched} of {_count(d.of, 'case')}"
    sees = list(d.links)
    effects = [f"Effect: {e}" for e in d.effect]
    if d.kind == "factor":
        return f"{' '.join(d.about)} ({cases})", effects
    if d.kind == "edge":
        return f"it fails {cases} with {names}:", [*d.about, *effects, *sees]
    if len(d.names) == 1 and "=" in d.names[0]:
        return f"your numbers are those of {names} {cases}:", [*d.about, *effects, *sees]
    if len(d.names) == 1:
        return f"your numbers equal the alternative {names} {cases}:", [*d.about, *effects, *sees]
    effect = iter(d.effect)
    lines = []
    for name, about in zip(d.names, d.about, strict=False):
        known = name in report.kinds
        lines.append(f"`{name}` ({report.kinds[name]}): {about}" if known else f"`{name}`: {about}")
        lines += [f"  Effect: {e}" for e in ([next(effect, "")] if known else []) if e]
    number = {2: "two", 3: "three"}.get(len(d.names), str(len(d.names)))
    return f"with {number} changes at once, {names}, your numbers are equal {cases}:", lines + sees


def broken(report: Report) -> bool:
    """Did the function give nothing to compare, in any case?"""
    tried = [r.status for r in report.results if r.status not in ("skip", "warn")]
    return not any(s in ("pass", "fail") for s in tried) and bool(tried)


def _broken(report: Report) -> tuple[str, list[str]]:
    groups = _by_detail(r for r in report.results if r.status in ("error", "timeout"))
    number = len({r.case_id for r in report.results if r.status in ("error", "timeout")})
    lines = []
    for detail, results in groups[:SHOWN]:
        lines += [f"case{'s' * (len(results) > 1)} {_ids(results)}", f"  [red]{_plain(detail)}[/red]"]
    return f"[bold red]nothing to compare[/bold red]  in {_count(number, 'case')}, each that was tried:", lines


def _by_detail(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """Results of one case in both precisions as one; cases with the same message together."""
    seen: dict[str, list[Result]] = {}
    known: set[int] = set()
    for r in results:
        if r.case_id not in known:  # float64 comes first; what float32 says then is the same fact
            known.add(r.case_id)
            seen.setdefault(_untyped(r.detail), []).append(r)
    return list(seen.items())


def _untyped(detail: str) -> str:
    return detail.replace("float64", "float").replace("float32", "float")


def _unexplained(report: Report) -> tuple[str, list[str]]:
    groups = _by_detail(report.unexplained)
    if not groups:
        return "", []
    ids = {r.case_id for r in report.unexplained}
    heading = (
        f"[bold red]not explained[/bold red]  {_count(len(ids), 'case')} that no known variant or bug accounts for:"
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
    heading = (
        f"[yellow]warnings[/yellow]  {_count(len(ids), 'case')} in which correct code may differ too (no failure):"
    )
    lines = []
    for detail, results in (groups := _by_detail(warned))[:4]:
        first = results[0]
        label = f"case {first.case_id}  {_plain(first.comment)}" if len(results) == 1 else f"cases {_ids(results)}"
        lines += [label, f"  [dim]{_plain(detail)}[/dim]"]
    if len(groups) > 4:
        lines.append(f"[dim]and {len(groups) - 4} more; --json lists every case[/dim]")
    return heading, lines


def verdict(report: Report) -> tuple[bool, str]:
    """Passed or not, and why, in one sentence."""
    worst: dict[int, bool] = {}
    for r in report.results:
        if r.status != "skip":
            worst[r.case_id] = worst.get(r.case_id, False) or r.status in BAD
    failed = sum(worst.values())
    if not worst:
        return False, "no case could be run"
    if not failed and report.passed:
        accepted = _and([n for d in report.diagnoses if d.accepted for n in d.names])
        odd = [n for d in report.diagnoses if not d.accepted for n in d.names]
        more = f", with the accepted {accepted}" if accepted else f"; it has {_and(odd)}" if odd else ""
        left = len({r.case_id for r in report.results}) - len(worst)
        few = f" (only these: {left} were left out)" if left > len(worst) else ""
        return True, f"all {_count(len(worst), 'case')} that can be asked match{few}{more}"
    if report.passed:
        named = _and([n for d in report.diagnoses if d.accepted for n in d.names])
        return True, f"{failed} of {_count(len(worst), 'case')} differ, all of them as accepted: {named}"
    if broken(report):
        return False, "it gave nothing that could be compared"
    known = [n for d in report.diagnoses for n in d.names]
    if not failed:
        return False, f"all {_count(len(worst), 'case')} that can be asked match, but it has {_and(known)}"
    more = f": {_and(known)}" if known and len(known) < 5 else ""
    left = len({r.case_id for r in report.unexplained})
    more += f"; {left} not explained" if left and known else ""
    return False, f"{failed} of {_count(len(worst), 'case')} differ{more}"


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
            yield f"If {_and(meant)} is meant:", f"  {again}{''.join(f' --accept {n}' for n in dict.fromkeys(meant))}"
    strange = not report.diagnoses or report.unexplained
    if strange and not all(r.status == "timeout" for r in report.unexplained):
        vectors = load(report.objective)
        got = set(report.fitted.values())
        arguments = [k for k in vectors.arguments if k in got] or list(vectors.arguments)
        settings = [k for k in vectors.settings if k in got]
        module, _, name = report.target.rpartition(":")
        theirs = {ours: k for k, ours in report.fitted.items()}
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


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


# ------------------------------------------------------------------------------------- one case, for pytest and JUnit


def covered(report: Report) -> set[int]:
    """Cases that differ, but only as was accepted by name."""
    if report.passed:
        return {r.case_id for r in report.results if r.status in BAD}
    return {i for d in report.diagnoses if d.accepted for i in getattr(d, "cases", ())}


def explain(report: Report, result: Result) -> str:
    """A failing case in words: the difference, and what is known about it."""
    lines = [f"case {result.case_id} of {report.objective}, {result.precision}: {result.comment}"]
    lines.append(f"  {result.detail or result.status}")
    settings = ", ".join(f"{k} {v}" for k, v in result.settings.items() if v is not None)
    lines += [f"  with {settings}"] if settings else []
    unknown = any(r.case_id == result.case_id for r in report.unexplained)
    for d in [] if unknown else report.diagnoses:
        if d.kind == "edge" and not set(d.names) & set(result.flags):
            continue
        heading, more = in_words(report, d)
        lines += [f"{d.kind}: {heading}", *(f"  {line}" for line in more)]
    return "\n".join(lines)


def as_dict(report: Report | None, properties: Sequence[Property] = ()) -> dict[str, Any]:
    """The report and the properties, as plain data."""
    data = report.as_dict() if report else {}
    return data | ({"properties": [vars(p) for p in properties]} if properties else {})


def as_json(data: Mapping[str, Any]) -> str:
    """Valid JSON: what is not finite becomes a string, since JSON has no word for it."""
    return json.dumps(_finite(data), indent=1, ensure_ascii=False)


def _finite(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {str(k): _finite(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(v) for v in x]
    if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))):
        return str(x)
    return x if x is None or isinstance(x, bool | int | float | str) else str(x)


def junit(report: Report | None, properties: Sequence[Property] = ()) -> str:
    """JUnit XML: one testcase for each case and precision; warnings and accepted differences are system-out."""
    suites = ElementTree.Element("testsuites")
    if report is not None:
        fine = covered(report)
        suite = ElementTree.SubElement(suites, "testsuite", name=_xml(f"{report.target} against {report.objective}"))
        for r in report.results:
            item = ElementTree.SubElement(
                suite, "testcase", classname=_xml(f"{report.target}.{report.objective}"), name=case_name(r)
            )
            text = f"{r.comment}\n{r.detail}"
            if r.status == "skip":
                ElementTree.SubElement(item, "skipped", message=_xml(r.detail))
            elif r.status in BAD and r.case_id in fine:
                ElementTree.SubElement(item, "system-out").text = _xml(f"differs as accepted: {text}")
            elif r.status in BAD:
                tag = "failure" if r.status == "fail" else "error"
                problem = ElementTree.SubElement(item, tag, message=_xml(r.detail or r.status), type=r.status)
                problem.text = _xml(explain(report, r))
            elif r.status == "warn":
                ElementTree.SubElement(item, "system-out").text = _xml(f"warning: {text}")
        _counted(suite)
    if properties:
        suite = ElementTree.SubElement(suites, "testsuite", name="properties")
        for p in properties:
            item = ElementTree.SubElement(suite, "testcase", classname="properties", name=_xml(p.name))
            if p.status == "fail":
                ElementTree.SubElement(item, "failure", message=_xml(p.detail), type="property").text = _xml(p.detail)
            elif p.status == "skip":
                ElementTree.SubElement(item, "skipped", message=_xml(p.detail))
            elif p.status == "warn":
                ElementTree.SubElement(item, "system-out").text = _xml(f"warning: {p.detail}")
        _counted(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def case_name(result: Result) -> str:
    """Such as ``7-nan_under_mask-float64``."""
    return f"{result.case_id}-{'+'.join(result.flags) or 'plain'}-{result.precision}"


def _counted(suite: ElementTree.Element) -> None:
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))


def _xml(text: str) -> str:
    """Without the control characters that XML forbids."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
