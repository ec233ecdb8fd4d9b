"""A report in plain words: a diagnosis, a verdict, one case. The terminal, pytest and JUnit say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchstone.conformance.result import BAD, Diagnosis, Report, Result


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
        known = name in report.kinds
        lines.append(f"`{name}` ({report.kinds[name]}): {about}" if known else f"`{name}`: {about}")
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


def verdict(report: Report) -> tuple[bool, str]:
    """Passed or not, and why, in one sentence; of what passes, first how much of it was asked."""
    worst: dict[int, bool] = {}
    for r in report.results:
        if r.status != "skip":
            worst[r.case_id] = worst.get(r.case_id, False) or r.status in BAD
    failed, (asked, of) = sum(worst.values()), report.asked
    share = f"all {count(of, 'case')}" if asked == of else f"{asked} of {count(of, 'case')} could be asked"
    if not worst:
        return False, "no case could be run"
    if broken(report):
        return False, "it gave nothing that could be compared"
    if report.verdict == "not asked":
        return False, f"not asked enough to tell ({share}): {listed(report.unasked)}"
    accepted = listed([n for d in report.diagnoses if d.accepted for n in d.names])
    if report.verdict == "right":
        more = f"; {failed} differ, all of them as accepted" if failed else ""
        return True, f"right ({share}){more}{': ' + accepted if accepted else ''}"
    edges = listed([n for d in report.edges for n in d.names])
    if report.verdict == "edges":
        known = f"right on ordinary batches ({share}); {count(len(report.edges), 'edge')} to know: {edges}"
        return not report.strict, known + (f"; accepted: {accepted}" if accepted else "")
    known_names = [n for d in report.diagnoses if d.cases or not d.accepted for n in d.names]
    if not failed:
        return False, f"{count(asked, 'case')} match, but it has {listed(known_names)}"
    more = f": {listed(known_names)}" if known_names and len(known_names) < 5 else ""
    left = len({r.case_id for r in report.unexplained})
    more += f"; {left} not explained" if left and known_names else ""
    return False, f"{failed} of {count(len(worst), 'case')} differ{more}"


def covered(report: Report) -> set[int]:
    """Cases that differ, but only as was accepted by name."""
    if report.passed:
        return {r.case_id for r in report.results if r.status in BAD}
    return {i for d in report.diagnoses if d.accepted for i in d.cases}


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
