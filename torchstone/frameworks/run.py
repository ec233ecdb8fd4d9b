"""The checker over the frameworks' own functions: how each of them goes on the test vectors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchstone.frameworks.registry import FRAMEWORKS, Framework, Peer, Target, framework


@dataclass(frozen=True)
class Difference:
    """``names``: what it equals, or the flag of the cases. ``kind``: "variant", "differs", "factor", "edge", "NaN"."""

    kind: str
    names: tuple[str, ...]
    cases: int
    of: int
    about: str


@dataclass(frozen=True)
class PeerReport:
    """How one function of a framework went.

    ``outcome``: matches; edges (it differs only on inputs that code forgets: no tokens, NaN under the mask, ...);
    variant; differs; or error (it could not be run at all). ``digits``: how far the numbers were compared.
    """

    framework: str
    version: str
    what: str
    objective: str
    of: str
    using: str
    remark: str
    link: str
    outcome: str
    cases: int = 0
    passed: int = 0
    left_out: int = 0
    digits: int = 10
    taken: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


def run(
    names: Iterable[str] = FRAMEWORKS, progress: Callable[[str], None] = lambda _: None
) -> tuple[list[PeerReport], list[str]]:
    """Every entry of these frameworks, and those of them that are not installed."""
    reports, absent = [], []
    for name in names:
        made = framework(name)
        if made.version is None:
            absent.append(made.name)
            continue
        progress(f"{made.name} {made.version}: importing")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made.prepare()
        except Exception as e:  # whatever a framework raises while it is imported
            absent.append(
                f"{made.name} {made.version} ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
            )
            continue
        for i, peer in enumerate(made.peers, 1):
            progress(f"{made.name} {made.version}, {i} of {len(made.peers)}: {peer.what}")
            reports.append(_peer_report(made, peer))
    return reports, absent


def _peer_report(made: Framework, peer: Peer) -> PeerReport:
    from torchstone.conformance.vectors import ORDINARY, hazards, load

    where = (made.name, made.version or "", peer.what, peer.objective, peer.of, peer.using, peer.remark)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            link = made.link(peer.of)
            report, digits = _report(peer)
    except Exception as e:
        return PeerReport(*where, "", "error", notes=(f"{type(e).__name__}: {e}",))
    vectors = load(peer.objective)
    skipped = {r.case_id for r in report.results if r.status == "skip"}
    wrong = _wrong(report)
    plain = {c.id for c in vectors.cases if not hazards(c)}
    differences = tuple(_differences(report))
    broken = {r.case_id for r in report.results if r.status == "error" and r.detail.startswith(MISCALLED)}
    if broken & plain or len(skipped) == len(vectors.cases):
        outcome = "error"
    elif not wrong & plain:
        outcome = "edges" if wrong else "variant" if differences else "matches"
    else:
        shown = {n for c in vectors.cases if c.id in wrong & plain for n in c.alternatives}
        named = {d.kind for d in differences if d.kind in ("variant", "differs", "factor") and shown & set(d.names)}
        left = {r.case_id for r in report.unexplained} & plain
        edges = any(d.kind in ("edge", "NaN") and d.names[0] in ORDINARY for d in differences)
        outcome = "variant" if named == {"variant"} and not left and not edges else "differs"
    cases = len(vectors.cases) - len(skipped)
    taken = {k: v for k, v in report.built_in.items() if v is not None}
    return PeerReport(
        *where, link, outcome, cases, cases - len(wrong), len(skipped), digits, taken, differences, report.notes
    )


# Errors of these kinds come from how a function is called here, not from what it computes.
MISCALLED = ("AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "TypeError", "KeyError")


def _report(peer: Peer) -> tuple[Any, int]:
    """The checker's report, and to how many digits."""
    from torchstone.conformance.checker import check
    from torchstone.conformance.vectors import ORDINARY

    def run_(target: Target, search: bool = False) -> Any:
        return check(target, peer.objective, target=peer.of, arrays="torch", search=search)

    target, digits, report = peer.target, 10, run_(peer.target)
    if not report.passed:  # does it differ only by 1e-8 added to a count, or by a cast to float32?
        single = run_(rounded(peer.target))
        if _rank(single) < _rank(report):
            target, digits, report = rounded(peer.target), 5, single
    if report.unexplained or any(d.kind == "edge" and d.names[0] in ORDINARY for d in report.diagnoses):
        searched = run_(target, search=True)
        if all(len(d.names) == 1 or d.matched >= 0.7 * d.of for d in searched.diagnoses):
            report = searched
    return report, digits


def _wrong(report: Any) -> set[int]:
    """The cases in which it differs."""
    return {r.case_id for r in report.results if r.status in ("fail", "error", "timeout")}


def _rank(report: Any) -> tuple[float, float]:
    """Less is better: the share of cases without an explanation, and of those that differ."""
    ran = len({r.case_id for r in report.results if r.status != "skip"}) or 1
    return len({r.case_id for r in report.unexplained}) / ran, len(_wrong(report)) / ran


def rounded(target: Target) -> Target:
    """The function with its inputs and outputs rounded to float32, and its own computation as it is.

    The inputs of the vectors are float32 numbers. The checker then compares to the digits of float32.
    """
    import torch

    def round_(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.dtype == torch.float64:
            return x.float().double()
        return {k: round_(v) for k, v in x.items()} if isinstance(x, dict) else x

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        return round_(target(*map(round_, args), **{k: round_(v) for k, v in kwargs.items()}))

    return call


def _differences(report: Any) -> Iterable[Difference]:
    kinds = {"variant": "variant", "setting": "variant", "bug": "differs", "factor": "factor", "edge": "edge"}
    for d in report.diagnoses:
        kind, about = kinds[d.kind], " ".join(d.about)
        if kind == "edge":
            details = [
                r.detail for r in report.results if d.names[0] in r.flags and r.status in ("fail", "error", "timeout")
            ]
            kind = "NaN" if any(x in text for text in details for x in NOT_FINITE) else "edge"
            about = details[0] if details else ""
        yield Difference(kind, d.names, d.matched, d.of, about)
    left = {r.case_id: r.detail for r in report.unexplained}
    if left:
        ran = {r.case_id for r in report.results if r.status != "skip"}
        yield Difference("differs", (), len(left), len(ran), next(iter(left.values())))


NOT_FINITE = ("got nan", "got inf", "got -inf")
