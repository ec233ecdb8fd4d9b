"""The pages for other people: what they show is run here, and what they list is what the vectors have."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchstone import cli
from torchstone.conformance.command import check as main

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "torchstone" / "conformance" / "vectors"
PAGE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
PITFALLS = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
FLAGS = runpy.run_path(str(ROOT / "docs" / "flags.py"))


def blocks(kind):
    """The fenced blocks of the page: every second part between fences."""
    fenced = re.split(r"^```(.*)\n", PAGE, flags=re.M)[1:]
    return [text for name, text in zip(fenced[::4], fenced[1::4], strict=False) if name == kind]


def rows(page=PITFALLS):
    return {row["id"].upper(): row["caught"].strip() for row in FLAGS["ROW"].finditer(page)}


# ------------------------------------------------------------------------------------------------- written from vectors


def test_the_pages_of_flags_and_pitfalls_are_in_step_with_the_vectors():
    vectors = FLAGS["files"]()
    assert (ROOT / "docs/flags.md").read_text(encoding="utf-8") == FLAGS["flag_page"](vectors), "python docs/flags.py"
    assert FLAGS["pitfall_page"](PITFALLS, vectors) == PITFALLS, "python docs/flags.py"


def test_every_pitfall_is_caught_by_a_flag_or_has_a_reason():
    assert len(rows()) > 90 and len(rows()) == len(re.findall(r"^\| <a id", PITFALLS, re.M)), "a row does not parse"
    assert not [name for name, text in rows().items() if not text]


def test_every_pitfall_that_the_vectors_name_is_in_the_catalogue():
    named = {
        (p, data["objective"], name)
        for data in FLAGS["files"]()
        for name, flag in data["flags"].items()
        for p in flag["pitfalls"]
    }
    assert not [n for n in named if n[0] not in rows()]
    assert len(named) > 100


def test_links_into_the_two_tables_lead_to_a_row():
    pages = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("flags.md", "pitfalls.md")}
    for page in [*pages.values(), PAGE]:
        for name, anchor in re.findall(r"\]\((flags\.md|pitfalls\.md)#([^)]+)\)", page):
            assert f'<a id="{anchor}"></a>' in pages[name], anchor


def test_what_is_written_by_hand_stays_and_the_flags_are_written_anew():
    row = '| <a id="c67"></a>C67 | Something. | [verl](https://example.org) | {} |\n'
    fill, flag = FLAGS["pitfall_page"], {"kind": "bug", "about": "", "effect": "", "links": [], "pitfalls": ["C67"]}
    by_hand, both = row.format("*system, not loss*"), row.format("[stale](flags.md#stale): gae; *system, not loss*")
    stale = [{"objective": "gae", "flags": {"stale": flag}}]
    assert fill(by_hand, []) == fill(both, []) == by_hand
    assert fill(by_hand, stale) == fill(both, stale) == both
    assert rows(fill(row.format("[gone](flags.md#gone): gae"), [])) == {"C67": ""}


def test_links_are_numbered_behind_the_names_that_people_use():
    trl, rl = "https://github.com/huggingface/trl/pull/2881", "https://github.com/pytorch/rl/commit/b28e4a462"
    paper, blog = "https://arxiv.org/abs/2503.14476", "http://joschu.net/blog/kl-approx.html"
    assert FLAGS["cited"]([trl, rl, f"{trl}9", paper, blog, "a talk"]) == [
        f"TRL [[1]]({trl}) [[3]]({trl}9)",
        f"torchrl [[2]]({rl})",
        f"arXiv:2503.14476 [[4]]({paper})",
        f"joschu.net [[5]]({blog})",
        "a talk",
    ]
    with pytest.raises(ValueError, match="give nobody/nothing a name"):
        FLAGS["source"]("https://github.com/nobody/nothing/issues/1")


# ------------------------------------------------------------------------------------------------- the format, in short


def part_of(some, whole):
    """Is ``some`` the same with entries left out? A case is found by its id."""
    if isinstance(some, dict):
        return all(k in whole and part_of(v, whole[k]) for k, v in some.items())
    if isinstance(some, list) and some and isinstance(some[0], dict):
        return all(any(part_of(v, w) for w in whole) for v in some)
    return some == whole


def test_the_example_of_the_format_is_in_the_file():
    (example,) = blocks("jsonc")
    data = json.loads(re.sub(r"\s+// .*$", "", example, flags=re.M))
    assert part_of(data, json.loads((VECTORS / "kl_k3.json").read_text())), "take the case from kl_k3.json again"
    assert len(example.splitlines()) <= 60, "one screen"


def test_the_vectors_are_free_to_copy():
    assert "CC0 1.0" in (VECTORS / "LICENSE").read_text()
    assert all(data["license"] == "CC0-1.0" for data in FLAGS["files"]())


# ---------------------------------------------------------------------------------------------------- the plain reader


def reader(tmp_path, monkeypatch, capsys, change=lambda text: text):
    """Run the reader and its example as the page has them; what they print, by case."""
    code, example = (b for b in blocks("python") if "def parse" in b or "def kl_k3" in b)
    assert len([line for line in code.splitlines() if line]) <= 40
    assert set(re.findall(r"^(?:import|from) (\w+)", code + example, re.M)) == {"json", "math"}
    shutil.copy(VECTORS / "kl_k3.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code + change(example), {})
    lines = capsys.readouterr().out.splitlines()
    return [re.fullmatch(r"\d+ (\w+) (.*?) - .*", line).groups() for line in lines]


def test_the_plain_reader_passes_the_function_on_the_page(tmp_path, monkeypatch, capsys):
    found = reader(tmp_path, monkeypatch, capsys)
    assert len(found) > 10 and all(said == "right" for result, said in found if result == "valid")


def test_the_plain_reader_names_a_mistake(tmp_path, monkeypatch, capsys):
    swapped = lambda text: text.replace("q - p", "p - q").replace("-math.expm1", "math.expm1")  # noqa: E731
    said = [said for result, said in reader(tmp_path, monkeypatch, capsys, swapped) if result == "valid"]
    assert set(said) <= {"right", "wrong: equal to reversed_kl"} and said.count("wrong: equal to reversed_kl") > 5


def test_the_plain_reader_sees_what_is_not_refused(tmp_path, monkeypatch):
    names = {}
    exec(next(b for b in blocks("python") if "def parse" in b), names)
    data = json.loads((VECTORS / "group_advantages.json").read_text())
    case = next(c for g in data["groups"] for c in g["cases"] if c["result"] == "invalid")

    def refuse(inputs, settings):
        raise ValueError("a group of one")

    assert names["verdict"](case, {}, refuse) == "right"
    accepting = lambda inputs, settings: {"outputs": {}, "gradients": {}}  # noqa: E731
    assert names["verdict"](case, {}, accepting) == "wrong: it must be refused"


# ----------------------------------------------------------------------------------------------- the first five minutes


def page_file(name):
    """The block of the page that begins with the file's name."""
    (text,) = (b for kind in ("python", "toml") for b in blocks(kind) if b.startswith(f"# {name}\n"))
    return text


def mended(text):
    """What the page says to do about the first report."""
    for before, after in [
        (
            "    ratio =",
            "    logps, old_logps, ref_logps = (torch.where(completion_mask, x, 0) for x in three)\n    ratio =",
        ),
        ("0.2):\n", "0.2):\n    three = logps, old_logps, ref_logps\n"),
        ("logps - ref_logps", "ref_logps - logps"),
        ("completion_mask.sum()", "completion_mask.sum().clamp(min=1)"),
    ]:
        assert before in text
        text = text.replace(before, after)
    return text


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the page's files in it; modules imported from it are forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("my_losses", "my_trainer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "my_losses.py").write_text(page_file("my_losses.py"))
    yield tmp_path
    for name in ("my_losses", "my_trainer"):
        sys.modules.pop(name, None)


def words(text):
    """Without numbers and line breaks, which a new case may change."""
    return re.sub(r"\d+|─+", "#", text).split()


def test_the_first_report_is_the_one_on_the_page(here, capsys):
    first, second = (b for b in blocks("") if b.startswith("$ torchstone check"))
    command, _, report = first.partition("\n")
    assert main(shlex.split(command)[3:]) == 1
    assert words(capsys.readouterr().out) == words(report), "paste the report again, 100 columns wide"

    (here / "my_losses.py").write_text(mended(page_file("my_losses.py")))
    command, _, verdict = second.partition("\n")
    assert main(shlex.split(command.partition(" | ")[0])[3:]) == 0
    assert words("\n".join(capsys.readouterr().out.splitlines()[:2])) == words(verdict)


def test_names_in_a_file(here, capsys):
    body = mended(page_file("my_losses.py")).replace(
        "    three =", "    logps, old_logps = theta, snapshot\n    three ="
    )
    (here / "my_losses.py").write_text(
        body.replace("(logps, old_logps, ref_logps, adv", "(theta, snapshot, ref_logps, adv")
    )
    (here / "names.toml").write_text(page_file("names.toml"))
    command = ["my_losses.py:policy_loss", "--objective", "grpo_loss", "--accept", "token_mean"]
    assert cli.main(["check", *command]) == 2 and "say so with names" in capsys.readouterr().err
    assert main([*command, "--names", "names.toml"]) == 0
    assert "theta = log_probs, snapshot = old_log_probs" in capsys.readouterr().out


def test_the_adapter(here):
    (here / "my_trainer.py").write_text(
        "from functools import partial\n"
        "from torchstone.core import sequence_mean\n"
        "from torchstone.grpo import grpo_loss\n"
        "def compute_loss(b, kl_coef, clip):\n"
        "    rest = {'reduce': sequence_mean, 'epsilon': clip, 'beta': kl_coef, 'ref_log_probs': b['ref']}\n"
        "    return {'loss': grpo_loss(b['logps'], b['old'], b['adv'], b['mask'], **rest).value}\n"
    )
    (here / "adapter.py").write_text(page_file("adapter.py"))
    assert main(["adapter.py:grpo_loss"]) == 0


def test_the_call_from_python(here, capsys):
    exec(next(b for b in blocks("python") if "report = conformance.check" in b), {})
    assert "('token_mean', 'reversed_kl')" in capsys.readouterr().out


def test_the_test_file(here):
    (here / "test_my_losses.py").write_text(page_file("test_my_losses.py"))
    (here / "my_losses.py").write_text(mended(page_file("my_losses.py")))
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_losses.py"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=here)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout
