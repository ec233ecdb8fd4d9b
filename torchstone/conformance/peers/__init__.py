"""The checker over public frameworks, through their own functions: ``torchstone peers``.

Each file here adapts one framework in a few lines a function: our argument names in, their call, their result out.
Nothing of theirs is copied, and a framework is imported only when it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Target = Callable[..., Any]


@dataclass(frozen=True)
class Peer:
    """One function of a framework, and what it is compared with.

    ``of``: where their function is, ``package.module:function``. ``using``: the settings of theirs that are set here.
    ``remark``: what a person found who looked at a difference.
    """

    what: str
    objective: str
    of: str
    using: str
    remark: str
    target: Target


@dataclass
class Framework:
    """A framework with its entries. ``tag`` and ``prefix`` make the links to the version that was run."""

    name: str
    package: str
    distribution: str
    repository: str
    tag: str = "v{}"
    prefix: str = ""
    prepare: Callable[[], None] = lambda: None
    peers: list[Peer] = field(default_factory=list)

    def peer(
        self, what: str, objective: str, of: str, using: str = "", remark: str = ""
    ) -> Callable[[Target], Target]:
        """Enter a function whose parameters are our names, and which calls theirs."""

        def enter(target: Target) -> Target:
            self.peers.append(Peer(what, objective, of, using, remark, target))
            return target

        return enter

    @property
    def version(self) -> str | None:
        """The installed version; None if it is not installed."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    def link(self, of: str) -> str:
        """Where the function is, in the repository at this version; "" if that cannot be told."""
        try:
            lines, first = inspect.getsourcelines(found(of))
            home = Path(importlib.import_module(self.package).__file__ or "").parent.parent
            path = Path(inspect.getfile(found(of))).relative_to(home).as_posix()
        except (OSError, TypeError, ValueError):
            return ""
        tag = self.tag.format(self.version)
        return f"{self.repository}/blob/{tag}/{self.prefix}{path}#L{first}-L{first + len(lines) - 1}"


def found(of: str) -> Any:
    """The object behind ``package.module:name``, without what torch.compile or a decorator wrapped around it."""
    module, _, name = of.partition(":")
    target = reduce(getattr, name.split("."), importlib.import_module(module))
    return inspect.unwrap(getattr(target, "_torchdynamo_orig_callable", target))


FRAMEWORKS = ("trl", "verl", "openrlhf", "liger", "torchrl", "torchtune", "skyrl")


def framework(name: str) -> Framework:
    """The entries of one framework; importing them does not import it."""
    made: Framework = importlib.import_module(f"torchstone.conformance.peers.{name}_").FRAMEWORK
    return made


# ------------------------------------------------------------------------------------------------------------ running


@dataclass(frozen=True)
class Difference:
    """``names``: what it equals, or the flag of the cases. ``kind``: "variant", "differs", "factor", "edge", "NaN"."""

    kind: str
    names: tuple[str, ...]
    cases: int
    of: int
    about: str


@dataclass(frozen=True)
class Row:
    """How one function went.

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
) -> tuple[list[Row], list[str]]:
    """Every entry of these frameworks, and those of them that are not installed."""
    rows, absent = [], []
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
            rows.append(_row(made, peer))
    return rows, absent


def _row(made: Framework, peer: Peer) -> Row:
    from torchstone.conformance.checker import check, hazards
    from torchstone.conformance.vectors import load

    where = (made.name, made.version or "", peer.what, peer.objective, peer.of, peer.using, peer.remark)
    digits = 10
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            link = made.link(peer.of)
            report = check(peer.target, peer.objective, target=peer.of, arrays="torch", search=False)
            if _only_rounds(report):  # such as 1e-8 added to a count, or a cast to float32
                digits, target = 5, rounded(peer.target)
                report = check(target, peer.objective, target=peer.of, arrays="torch", search=False)
            if report.unexplained:
                target = peer.target if digits == 10 else rounded(peer.target)
                report = check(target, peer.objective, target=peer.of, arrays="torch")
    except Exception as e:
        return Row(*where, "", "error", notes=(f"{type(e).__name__}: {e}",))
    statuses: dict[int, set[str]] = {}
    for result in report.results:
        statuses.setdefault(result.case_id, set()).add(result.status)
    ran = {i: s for i, s in statuses.items() if s != {"skip"}}
    wrong = {i for i, s in ran.items() if s & {"fail", "error", "timeout"}}
    plain = {c.id for c in load(peer.objective).cases if not hazards(c)}
    differences = tuple(_differences(report))
    if not any(s & {"pass", "warn", "fail"} for s in ran.values()):
        outcome = "error"
    elif not wrong:
        outcome = "variant" if differences else "matches"
    elif not wrong & plain:
        outcome = "edges"
    else:
        outcome = "variant" if {d.kind for d in differences} <= {"variant", "edge", "NaN"} else "differs"
    return Row(
        *where, link, outcome, len(ran), len(ran) - len(wrong), len(statuses) - len(ran), digits,
        {k: v for k, v in report.taken.items() if v is not None}, differences, report.notes,
    )  # fmt: skip


def _only_rounds(report: Any) -> bool:
    """Is there a case that fails in float64 and passes in float32?"""
    statuses: dict[int, dict[str, str]] = {}
    for r in report.results:
        statuses.setdefault(r.case_id, {})[r.precision] = r.status
    return any(s.get("float64") == "fail" and s.get("float32") == "pass" for s in statuses.values())


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


def quiet() -> None:
    """Settings under which frameworks import without a network and without notices."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
