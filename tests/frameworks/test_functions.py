"""docs/peers.md says what the frameworks pinned in requirements-frameworks.txt compute."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from torchstone.conformance.vectors import objectives
from torchstone.frameworks import run as runner
from torchstone.frameworks.page import markdown
from torchstone.frameworks.registry import FRAMEWORKS, Framework, framework

HOME = Path(__file__).parents[2]
PAGE = (HOME / "docs" / "peers.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run() -> tuple[list[runner.PeerReport], list[str]]:
    return runner.run()


def test_all_frameworks_are_installed_as_pinned(run: tuple[list[runner.PeerReport], list[str]]) -> None:
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (HOME / "requirements-frameworks.txt").read_text("utf-8"), re.M))
    assert run[1] == []
    for name in FRAMEWORKS:
        distribution = framework(name).distribution
        assert version(distribution) == pinned[distribution]


def test_every_function_runs(run: tuple[list[runner.PeerReport], list[str]]) -> None:
    broken = {f"{r.framework}: {r.what}": r.notes for r in run[0] if r.outcome == "error" or not r.link}
    assert broken == {}
    assert {r.objective for r in run[0]} <= set(objectives())


def test_the_page_is_what_comes_out(run: tuple[list[runner.PeerReport], list[str]]) -> None:
    assert PAGE.splitlines() == markdown(*run).splitlines(), "torchstone peers --markdown > docs/peers.md"


def test_an_adapter_that_breaks_is_an_error_and_no_difference() -> None:
    made = Framework("none", "torch", "torch", "https://example.org")

    @made.peer("mean", "token_mean", "torch:mean")
    def broken(x: object, mask: object) -> object:
        raise AttributeError("the trainer has no attribute")

    assert runner._peer_report(made, made.peers[0]).outcome == "error"


BREAKS = """
import importlib, sys
real, broken, framework = importlib.import_module, [], sys.argv[1]
def breaks(name, *given, **named):
    if name.startswith(framework) and not broken:
        broken.append(name)
        raise AttributeError("another version of a package")
    return real(name, *given, **named)
importlib.import_module = breaks
real(f"torchstone.frameworks.{framework}.load").load()
assert broken
"""


@pytest.mark.parametrize("name", ["torchtune", "openrlhf", "skyrl"])
def test_an_import_that_breaks_in_another_way_than_by_a_missing_package_is_gone_around(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", BREAKS, name], capture_output=True, text=True, cwd=HOME)
    assert done.returncode == 0, done.stderr
