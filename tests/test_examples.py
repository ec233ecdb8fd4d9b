"""The demos, as a person runs them: each reaches its known answer, draws its picture, and says so when it fails."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEMOS = sorted((ROOT / "examples").glob("demo_*.py"))


def run(demo, *options):
    return subprocess.run([sys.executable, demo, *options], cwd=ROOT, capture_output=True, text=True)


def test_there_are_four():
    assert [d.stem for d in DEMOS] == [
        "demo_dpo_synthetic",
        "demo_grpo_bandit",
        "demo_ppo_bandit",
        "demo_reinforce_bandit",
    ]


@pytest.mark.parametrize("demo", DEMOS, ids=lambda d: d.stem)
def test_a_demo_reaches_its_known_answer_in_under_100_lines(demo, tmp_path):
    done = run(demo, "--plot", str(tmp_path / "picture.png"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") >= 3 and "FAIL" not in done.stdout and not done.stderr
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len(demo.read_text().splitlines()) < 100
    assert max(map(len, done.stdout.replace(str(tmp_path), "").splitlines())) <= 80


@pytest.mark.parametrize("demo", DEMOS, ids=lambda d: d.stem)
def test_a_demo_that_does_not_get_there_says_so(demo):
    done = run(demo, "--steps", "2")
    assert done.returncode == 1 and "FAIL" in done.stdout and not done.stderr


@pytest.mark.parametrize("demo", DEMOS, ids=lambda d: d.stem)
def test_the_help_of_a_demo_says_what_it_shows_within_80_columns(demo):
    said = run(demo, "--help").stdout
    assert re.search("^Problem: ", said, re.M) and re.search("^Known answer", said, re.M) and "\nLook at: " in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_wrong_option_is_explained():
    done = run(DEMOS[0], "--steps", "0")
    assert done.returncode == 2 and "expected at least 1" in done.stderr
