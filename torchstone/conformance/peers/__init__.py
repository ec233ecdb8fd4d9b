"""The checker over public frameworks, through their own functions: ``torchstone peers``.

Each file here adapts one framework in a few lines a function: our argument names in, their call, their result out.
Nothing of theirs is copied, and a framework is imported only when it is asked for.
"""

from __future__ import annotations

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
    """

    what: str
    objective: str
    of: str
    using: str
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

    def peer(self, what: str, objective: str, of: str, using: str = "") -> Callable[[Target], Target]:
        """Enter a function whose parameters are our names, and which calls theirs."""

        def enter(target: Target) -> Target:
            self.peers.append(Peer(what, objective, of, using, target))
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
    """How one function went. ``outcome``: matches, variant, differs, or error (it could not be run at all)."""

    framework: str
    version: str
    what: str
    objective: str
    of: str
    using: str
    link: str
    outcome: str
    cases: int
    passed: int
    left_out: int
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
            absent.append(f"{made.name} {made.version} ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})")
            continue
        for i, peer in enumerate(made.peers, 1):
            progress(f"{made.name} {made.version}, {i} of {len(made.peers)}: {peer.what}")
            rows.append(_row(made, peer))
    return rows, absent


def _row(made: Framework, peer: Peer) -> Row:
    from torchstone import conformance

    where = (made.name, made.version or "", peer.what, peer.objective, peer.of, peer.using)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            link = made.link(peer.of)
            report = conformance.check(peer.target, peer.objective, target=peer.of)
    except Exception as e:
        return Row(*where, "", "error", 0, 0, 0, notes=(f"{type(e).__name__}: {e}",))
    statuses: dict[int, set[str]] = {}
    for result in report.results:
        statuses.setdefault(result.case_id, set()).add(result.status)
    ran = [s for s in statuses.values() if s != {"skip"}]
    wrong = [s for s in ran if s & {"fail", "error", "timeout"}]
    differences = tuple(_differences(report))
    kinds = {d.kind for d in differences}
    if not any(s & {"pass", "warn", "fail"} for s in ran):
        outcome = "error"
    elif not differences:
        outcome = "matches"
    elif kinds <= {"edge", "NaN"}:
        outcome = "edges"
    else:
        outcome = "variant" if kinds <= {"variant", "edge", "NaN"} else "differs"
    return Row(
        *where, link, outcome, len(ran), len(ran) - len(wrong), len(statuses) - len(ran),
        {k: v for k, v in report.taken.items() if v is not None}, differences, report.notes,
    )  # fmt: skip


def _differences(report: Any) -> Iterable[Difference]:
    kinds = {"variant": "variant", "setting": "variant", "bug": "differs", "factor": "factor", "edge": "edge"}
    for d in report.diagnoses:
        kind = kinds[d.kind]
        if kind == "edge":
            details = [
                r.detail for r in report.results if d.names[0] in r.flags and r.status in ("fail", "error", "timeout")
            ]
            kind = "NaN" if any("got nan" in x or "got inf" in x or "got -inf" in x for x in details) else "edge"
            yield Difference(kind, d.names, d.matched, d.of, details[0] if details else "")
        else:
            yield Difference(kind, d.names, d.matched, d.of, " ".join(d.about))
    left = {r.case_id: r.detail for r in report.unexplained}
    if left:
        ran = {r.case_id for r in report.results if r.status != "skip"}
        yield Difference("differs", (), len(left), len(ran), next(iter(left.values())))


def quiet() -> None:
    """Settings under which frameworks import without a network and without notices."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
