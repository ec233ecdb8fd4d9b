"""A report in plain words: a diagnosis, a verdict, one case. The terminal, pytest and JUnit say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchstone.conformance.result import BAD, Diagnosis, Report, Result
from torchstone.conformance.vectors import hazards, load


def in_words(report: Report, d: Diagnosis) -> tuple[str, list[str]]:
    """A diagnosis as a heading and lines of plain text."""
    names = listed([f"`{n}`" for n in d.names])
    cases = f"in {d.matched} of {count(d.of, 'case')}"
    sees = list(d.links)
    effects = [f"Effect: {e}" for e in d.effect]
    if d.kind == "factor":
        return f"{' '.join(d.about)} ({cases})", effects
    if d.kind == "edge":
        return f"it fails {cases} with {names}:", [*d.about, *effects, *sees]
    if d.accepted and not d.cases and "=" not in d.names[0]:
        return f"no failure, but there is {names} {cases}:", [*d.about, *effects, *sees]
    if len(d.names) == 1 and "=" in d.names[0]:
        return f"your numbers are those of {names} {cases}:", [*d.about, *effects, *sees]
    if len(d.names) == 1:
        return f"your numbers equal the alternative {names} {cases}:", [*d.about, *effects, *sees]
    effect = iter(d.effect)
    lines = []
    for name, about in zip(d.names, d.about, strict=False):
        known = name in report.kinds or len(d.about) == len(d.effect)
        lines.append(f"`{name}` ({report.kinds.get(name, d.kind)}): {about}" if known else f"`{name}`: {about}")
        lines += [f"  Effect: {e}" for e in ([next(effect, "")] if known else []) if e]
    number = {2: "two", 3: "three"}.get(len(d.names), str(len(d.names)))
    return f"with {number} changes at once, {names}, your numbers are equal {cases}:", lines + sees


def broken(report: Report) -> bool:
    """Did the function give nothing to compare, in any case?"""
    tried = [r.status for r in report.results if r.status not in ("skip", "warn")]
    return not any(s in ("pass", "fail") for s in tried) and bool(tried)


def by_detail(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
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


def verdict(report: Report) -> tuple[str, str]:
    """The verdict as a label and two sentences: how much was asked and what came out, then the cause or the edges."""
    asked, of = report.asked
    share = f"all {count(of, 'case')}" if asked == of else f"the {asked} of {count(of, 'case')} that could be asked"
    if report.verdict == "wrong":
        return "WRONG", _wrong(report, asked)
    if report.verdict == "not fitted":
        slow = all(r.status == "timeout" for r in report.results if r.status not in ("skip", "warn"))
        how = "takes too long (--time-limit gives it more)" if slow else "raises"
        return "NOT FITTED", f"{report.target} {how} in each case that was tried, so nothing is known of it."
    if report.verdict == "not asked":
        why = listed(report.unasked) or "no case could be run"
        return "NOT ASKED ENOUGH", f"{report.target} may be {report.objective}: {why}. It matches in {share}."
    accepted = listed([f"`{n}`" for d in report.diagnoses if d.accepted for n in d.names])
    more = f" It has {accepted}, as accepted." if accepted else ""
    if report.verdict == "right":
        return "RIGHT", f"in {share}: {report.target} is {report.objective}.{more}"
    where = f"on the ordinary batches of {share}"
    names = listed([f"`{n}`" for d in report.edges for n in d.names])
    if report.strict:
        edges = count(len(report.edges), "edge")
        return "WRONG", f"at {edges}, as --strict counts: {names}. It is right {where}: {report.objective}.{more}"
    known = f"{count(len(report.edges), 'edge')} to know: {names}."
    return "RIGHT", f"{where}: {report.target} is {report.objective}. {known}{more}"


def _wrong(report: Report, asked: int) -> str:
    if broken(report):
        return f"{report.target} gives nothing that could be compared with {report.objective}."
    differ = {r.case_id for r in report.results if r.status in BAD}
    how = f"{len(differ)} of {count(asked, 'case')} {'differs' if len(differ) == 1 else 'differ'}"
    first = f"{report.target} is not {report.objective}: {how if differ else 'the values match'}."
    causes = [d for d in report.diagnoses if d.kind != "edge" and not d.accepted]
    silent = [d for d in report.edges if d.silent]
    if silent and not causes and not report.unexplained:
        told = f": {silent[0].about[0]}" if len(silent) == 1 else "."
        where = listed([f"`{n}`" for d in silent for n in d.names])
        return f"{report.target} is {report.objective} on ordinary batches, but gives a wrong number at {where}{told}"
    if not causes:
        return f"{first} No mistake that is known gives its numbers."
    names = [listed([f"`{n}`" for n in d.names]) for d in causes]
    if all(d.thin for d in causes):
        return f"{first} The cause is perhaps {' or '.join(names)}, seen {causes[0].thin}."
    solid = [(name, d) for name, d in zip(names, causes, strict=True) if not d.thin]
    cause = (
        f"The cause is {solid[0][0]}" if len(solid) == 1 else f"The causes are {listed([name for name, _ in solid])}"
    )
    about = solid[0][1].about
    return f"{first} {cause}{': ' + about[0] if len(solid) == 1 and len(about) == 1 else '.'}"


def what_differs(report: Report) -> str:
    """Of what no name explains: is it the gradients alone, or one of several outputs? "" if there is no such part."""
    ordinary = [r for r in report.unexplained if not hazards(r)]
    parts = {r.detail.partition("[")[0].partition(":")[0] for r in ordinary}
    if len(parts) != 1:
        return ""
    (part,) = parts
    if part.startswith("gradient of "):
        return f"the {part} alone: the value is right"
    return f"{part} alone: what else it returns is right" if len(load(report.objective).returns) > 1 else ""


def covered(report: Report) -> dict[int, str]:
    """Cases that differ and are no failure, and why: as was accepted by name, or at an edge that plain code forgets."""
    at_edges = [] if report.strict else [d for d in report.edges if not d.silent]
    told = {i: f"an edge, {listed(d.names)}" for d in at_edges for i in d.cases}
    told |= {i: "differs as accepted" for d in report.diagnoses if d.accepted for i in d.cases}
    if not report.passed:
        return {i: why for i, why in told.items() if i not in {r.case_id for r in report.unexplained}}
    return {r.case_id: told.get(r.case_id, "differs as accepted") for r in report.results if r.status in BAD}


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


def count(n: int, what: str) -> str:
    """Such as "1 case", "2 cases"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def listed(parts: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
