"""One test per case, in two ways. Loading this imports nothing but pytest.

On the command line, without a test file:

    pytest --torchstone my_losses.py:grpo_loss
    pytest --torchstone my_losses.py:loss=grpo_loss --torchstone-accept token_mean

In a test file, where the options are those of ``conformance.check``:

    from torchstone import conformance

    @conformance.cases("grpo_loss")
    def test_my_loss(case):
        case.check(my_loss, accept=["token_mean"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

PRECISIONS = ("float64", "float32")


@dataclass
class Checked:
    """A function's report, made when the first of its cases is asked for."""

    function: Callable[..., Any]
    objective: str
    options: dict[str, Any]
    report: Any = None
    problem: str | None = None
    told: bool = field(default=False, init=False)

    def ask(self, case_id: int, precision: str) -> None:
        """Pass, or end this test as failed or skipped, without a traceback."""
        from torchstone.conformance.result import BAD
        from torchstone.conformance.words import covered, explain

        if self.report is None and self.problem is None:
            from torchstone.conformance import check

            try:
                self.report = check(self.function, self.objective, **self.options)
            except ValueError as e:
                self.problem = str(e)
        if self.problem is not None:
            if self.told:
                pytest.skip("it cannot be checked; the first case says why")
            self.told = True
            pytest.fail(self.problem, pytrace=False)
        result = next(r for r in self.report.results if (r.case_id, r.precision) == (case_id, precision))
        if result.status == "skip":
            pytest.skip(result.detail)
        why = {"warn": "warning", "pass": "right"}.get(result.status) or covered(self.report).get(case_id)
        if result.status in BAD and why is None:
            pytest.fail(explain(self.report, result), pytrace=False)
        if result.detail:  # shown with -rP
            print(f"{why}: {result.detail}")


# ------------------------------------------------------------------------------------------------------ in a test file


@dataclass(frozen=True)
class CaseToCheck:
    """What a test gets: one case in one precision."""

    objective: str
    case_id: int
    flags: str
    precision: str

    def check(self, function: Callable[..., Any], **options: Any) -> None:
        """Fail this test if the function differs in this case. ``options``: those of ``conformance.check``."""
        for known in _CHECKED:
            if known.function is function and known.objective == self.objective and known.options == options:
                break
        else:
            known = Checked(function, self.objective, options)
            _CHECKED.append(known)
        known.ask(self.case_id, self.precision)


_CHECKED: list[Checked] = []


def cases(objective: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a test: its argument ``case`` is each case of the objective, in float64 and in float32."""
    found = [CaseToCheck(*x) for x in _cases(objective)]
    names = [f"{c.case_id}-{c.flags}-{c.precision}" for c in found]
    return pytest.mark.parametrize("case", found, ids=names)


def _cases(objective: str) -> Iterable[tuple[str, int, str, str]]:
    from torchstone.conformance.vectors import load

    vectors = load(objective)
    for case in vectors.cases:
        for precision in PRECISIONS:
            yield vectors.objective, case.id, "+".join(case.flags) or "plain", precision


# -------------------------------------------------------------------------------------------------- on the command line


def pytest_addoption(parser: pytest.Parser) -> None:
    """The four options that start with ``--torchstone``."""
    group = parser.getgroup("torchstone", "torchstone: is a function right? one test per case")
    group.addoption(
        "--torchstone",
        metavar="TARGET[=OBJECTIVE]",
        action="append",
        default=[],
        help="one test per case of the objective, for file.py:function or package.module:function; may be repeated",
    )
    group.addoption(
        "--torchstone-accept",
        metavar="NAME",
        action="append",
        default=[],
        help="a variant that is meant, so no failure",
    )
    group.addoption("--torchstone-names", metavar="FILE", help='TOML with lines such as  their_name = "our_name"')
    group.addoption(
        "--torchstone-set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a value for one of the function's own parameters",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """With ``--torchstone`` and no path, run the cases alone, and not every test in this folder."""
    if config.option.torchstone and config.args_source is not config.ArgsSource.ARGS:
        config.args = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the cases of each ``--torchstone``, before -k and -m choose."""
    for text in config.option.torchstone:
        target, equals, objective = text.rpartition("=")
        target, objective = (target, objective) if equals else (text, text.rpartition(":")[2])
        items.extend(_items(session, config, target, objective))


def _items(session: pytest.Session, config: pytest.Config, target: str, objective: str) -> Iterable[pytest.Item]:
    from pathlib import Path

    from torchstone.conformance.fit.target import resolve
    from torchstone.conformance.settings import known_objective, read_names, read_setting
    from torchstone.terminal import UserError

    try:
        found = list(_cases(known_objective(objective)))
        names = config.option.torchstone_names
        options = {
            "names": read_names(Path(names)) if names else {},
            "settings": dict(read_setting(text) for text in config.option.torchstone_set),
            "accept": tuple(config.option.torchstone_accept),
            "target": target,
        }
        checked = Checked(resolve(target), found[0][0], options)
    except (UserError, ValueError) as e:
        raise pytest.UsageError(f"--torchstone {target}={objective}: {e}") from e
    parent = Target.from_parent(session, name=target, nodeid=target)
    for name, case_id, flags, precision in found:
        yield CaseItem.from_parent(
            parent, name=f"{name}[{case_id}-{flags}-{precision}]", checked=checked, case=(case_id, precision)
        )


class Target(pytest.Collector):
    """What ``--torchstone`` names; its items are made at once."""

    def collect(self) -> Iterable[pytest.Item]:
        """Nothing more."""
        return []


class CaseItem(pytest.Item):
    """One case in one precision as a test."""

    def __init__(self, *, checked: Checked, case: tuple[int, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.checked, self.case = checked, case

    def runtest(self) -> None:
        """Check the function, if that was not done for another case, and pass, fail or skip."""
        self.checked.ask(*self.case)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Its place and name."""
        return self.path, None, self.name
