"""``torchstone check``, ``torchstone identify`` and the pytest plugin, with small functions, right and wrong."""

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from torchstone import conformance
from torchstone.cli import main
from torchstone.conformance import identifier, nearest
from torchstone.conformance.settings import read_names, read_setting
from torchstone.terminal import UserError

pytest_plugins = ["pytester"]

TARGETS = """
import time
import torch

def kl_k3(log_probs, ref_log_probs, mask):
    u = torch.where(mask, ref_log_probs.detach() - log_probs, 0.0)
    return torch.expm1(u) - u

def reversed_k3(logp, ref_logp, mask):
    u = torch.where(mask, logp - ref_logp, 0.0)
    return torch.expm1(u) - u

def multiplied(logp, ref_logp, mask):
    u = ref_logp - logp
    return (torch.expm1(u) - u) * mask

def strange(a, b, mask):
    return kl_k3(a, b, mask) * 1.5 + 0.25

def odd_gradient(log_probs, ref_log_probs, mask):
    right, x = kl_k3(log_probs, ref_log_probs, mask), torch.where(mask, log_probs, 0.0)
    odd = torch.sin(3 * x)
    return right.detach() + odd - odd.detach()

def raises(log_probs, ref_log_probs, mask):
    raise RuntimeError("no such kernel")

def wrong_shape(log_probs, ref_log_probs, mask):
    return log_probs[:1, :1].expand(5, 7)

def slow(log_probs, ref_log_probs, mask):
    time.sleep(60)

def quits(log_probs, ref_log_probs, mask):
    from os import _exit
    _exit(0)

def chatty(log_probs, ref_log_probs, mask):
    print("I am called")
    return kl_k3(log_probs, ref_log_probs, mask)

def needs_names(one, two, mask, flavour):
    assert flavour == "k3"
    return kl_k3(one, two, mask)

value = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "targets.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    torch.set_num_threads(1)
    return tmp_path


def check(capsys, target, *options, objective="kl_k3"):
    """Status, stdout, stderr; the lines of stdout in one, so that where they wrap does not matter."""
    status = main(["check", f"targets.py:{target}", *(["--objective", objective] if objective else []), *options])
    out, error = capsys.readouterr()
    return status, " ".join(out.split()), error


# ------------------------------------------------------------------------------------------------------ on the terminal


def test_a_right_function_passes(capsys):
    status, out, error = check(capsys, "kl_k3", objective=None)  # its name says what it is
    assert (status, error) == (0, "")
    assert out.startswith("RIGHT in all ") and "targets.py:kl_k3 is kl_k3." in out
    assert "called with log_probs, ref_log_probs, mask" in out and "--verbose" not in out and "--accept" not in out
    status, out, _ = check(capsys, "kl_k3", "--verbose", objective=None)
    assert status == 0 and "nan_under_mask" in out and "flag cases passed" in out


def test_a_wrong_one_is_named(capsys):
    status, out, _ = check(capsys, "reversed_k3")
    assert status == 1 and "called with logp = log_probs, ref_logp = ref_log_probs, mask" in out
    assert re.match(
        r"WRONG targets.py:reversed_k3 is not kl_k3: \d+ of \d+ cases differ. The cause is reversed_kl: Pol", out
    )
    assert "effect The mean is" in out and "https://" not in out and "not explained" not in out
    assert out.endswith("torchstone check targets.py:reversed_k3 --objective kl_k3 --verbose")
    status, out, _ = check(capsys, "reversed_k3", "--verbose")
    assert status == 1 and out.startswith("WRONG") and "https://github.com/natolambert/rlhf-book" in out
    assert "bug your numbers equal the alternative reversed_kl in " in out and "Policy and reference are swapped" in out
    assert "Effect: " in out and "--verbose" not in out


def test_of_what_has_no_name_it_says_which_part_differs(capsys):
    status, out, _ = check(capsys, "odd_gradient")
    assert status == 1 and "the gradient of log_probs alone: the value is right" in out and "names.toml" not in out
    status, out, _ = check(capsys, "strange", "--names", names('a = "log_probs"\nb = "ref_log_probs"'))
    assert status == 1 and "what differs" not in out


def test_an_edge_is_named_and_fails_only_where_it_must(capsys):
    status, out, _ = check(capsys, "multiplied")
    assert status == 0 and out.startswith("RIGHT on the ordinary batches of all ") and "select first" in out
    assert "1 edge to know: nan_under_mask." in out
    status, out, _ = check(capsys, "multiplied", "--strict")
    assert status == 1 and out.startswith(
        "WRONG at 1 edge, as --strict counts: nan_under_mask. It is right on the ordinary"
    )


def test_what_is_accepted_by_name_passes(capsys):
    status, out, _ = check(capsys, "reversed_k3", "--accept", "reversed_kl")
    assert status == 0 and out.startswith("RIGHT in all ") and "It has reversed_kl, as accepted." in out
    assert "accepted reversed_kl: Policy" in out


def test_what_nothing_explains_is_shown_with_what_to_do(capsys):
    status, out, _ = check(capsys, "strange", "--names", names('a = "log_probs"\nb = "ref_log_probs"'))
    assert status == 1 and "No mistake that is known gives its numbers." in out
    assert "for example case " in out and "kl[0][0]: expected " in out
    assert "--names names.toml" in out and "from targets import strange" in out
    assert "return strange(a=log_probs, b=ref_log_probs, mask=mask)" in out


@pytest.mark.parametrize(
    ("target", "says", "verdict"),
    [
        ("raises", "RuntimeError: no such kernel", "NOT FITTED"),
        ("quits", "SystemExit: it ends the whole process", "NOT FITTED"),
        ("wrong_shape", "expected kl of shape [2, 3], got result [5, 7]", "WRONG"),
        ("slow", "took longer than 0.05 s", "NOT FITTED"),
    ],
)
def test_a_function_that_gives_nothing(target, says, verdict, capsys):
    """Of one that raises, or never comes back, nothing is known; one that gives another shape is wrong."""
    status, out, _ = check(capsys, target, "--time-limit", "0.05")
    assert status == {"WRONG": 1, "NOT FITTED": 2}[verdict] and out.startswith(f"{verdict} targets.py:{target} ")
    assert says in out and "nothing to compare" in out and out.count("Effect") == 0
    call = f"return {target}(log_probs=log_probs, ref_log_probs=ref_log_probs, mask=mask)"
    assert ("from targets import" in out and call in out) == (target != "slow")


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    main(["check", "targets.py:reversed_k3", "--objective", "kl_k3", "--metamorphic", "--verbose"])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "https://" not in line) <= width
    assert any("what it is about" in line for line in lines) == (width == 120)


def test_what_the_function_prints_stays_out_of_the_report(capsys):
    status, out, _ = check(capsys, "chatty", "--json")
    assert status == 0 and json.loads(out)["passed"] and "I am called" not in out


def test_names_and_values(capsys):
    status, _, error = check(capsys, "needs_names")
    assert status == 2 and "one" in error and "names" in error
    options = ["--names", names('one = "log_probs"\ntwo = "ref_log_probs"'), "--set", "flavour=k3"]
    assert check(capsys, "needs_names", *options)[0] == 0


def names(text):
    Path("map.toml").write_text(text)
    return "map.toml"


def test_values_are_python_or_words():
    assert [read_setting(f"a={x}")[1] for x in ("1e-6", "None", "True", "(1, 2)", "token-mean", "'x=y'", "")] == [
        1e-6, None, True, (1, 2), "token-mean", "x=y", "",
    ]  # fmt: skip
    with pytest.raises(UserError, match="expected NAME=VALUE, got 'eps'"):
        read_setting("eps")


def test_names_need_a_toml_reader(monkeypatch):
    names('a = "mask"')
    assert read_names(Path("map.toml")) == {"a": "mask"}
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(UserError, match="pip install tomli"):
        read_names(Path("map.toml"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which function?"),
        (["targets.py:kl_k4"], "targets.py has no 'kl_k4' (did you mean 'kl_k3'?)"),
        (["targets.py:value"], "expected a function or a class"),
        (["nowhere.py:f"], "there is no file nowhere.py"),
        (["no.such.module:f"], "there is no module 'no'"),
        (["targets.py"], "expected package.module:function or file.py:function"),
        (["targets.py:raises"], "what should raises be? Say so with --objective NAME"),
        (["targets.py:raises", "--objective", "kl_3"], "unknown objective 'kl_3' (did you mean 'kl_k3'"),
        (["targets.py:kl_k3", "--accept", "reversed"], "(did you mean 'reversed_kl' or 'exp_reversed'?)"),
        (["targets.py:kl_k3", "--set", "x"], "--set: expected NAME=VALUE, got 'x'"),
        (["targets.py:kl_k3", "--set", "x=1"], "the target has no parameter 'x'"),
        (["targets.py:kl_k3", "--names", "no.toml"], "cannot read no.toml"),
        (["targets.py:kl_k3", "--names", "targets.py"], "--names targets.py: "),
        (["targets.py:kl_k3", "--names", "three.toml"], "--names three.toml, line 2: expected b = \"our_name\", got 3"),
        (["targets.py:kl_k3", "--time-limit", "0"], "--time-limit must be above 0"),
        (["targets.py:kl_k3", "--junit", "targets.py/x.xml"], "--junit: cannot write"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments, says, capsys):
    Path("three.toml").write_text('a = "mask"\nb = 3\n')
    assert main(["check", *arguments]) == 2
    out, error = capsys.readouterr()
    assert says in error and error.count("\n") == 1 and out == ""


def test_help_teaches_and_lists_the_objectives(capsys):
    with pytest.raises(SystemExit) as end:
        main(["check", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "examples" in out and "exit status" in out and 'their_name = "our_name"' in out
    assert all(name in out for name in conformance.OBJECTIVES) and "reinforce" in out


def test_list(capsys):
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}(" in out for name in conformance.OBJECTIVES)
    assert main(["check", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["objective"] for r in rows if r["objective"] == "kl_k3"] and len(rows) == len(conformance.OBJECTIVES)
    assert all(r["cases"] and r["about"] and r["arguments"] for r in rows)


# ------------------------------------------------------------------------------------------------------- JSON and JUnit


def test_json(capsys):
    status, out, _ = check(capsys, "reversed_k3", "--json", "--metamorphic")
    data = json.loads(out)
    assert status == 1 and data["passed"] is False and data["objective"] == "kl_k3"
    assert data["target"] == "targets.py:reversed_k3" and data["fitted"]["logp"] == "log_probs"
    (diagnosis,) = data["diagnoses"]
    assert diagnosis["names"] == ["reversed_kl"] and diagnosis["matched"] == diagnosis["of"] > 5
    assert {r["status"] for r in data["results"]} <= {"pass", "fail", "warn"} and data["unexplained"] == []
    assert {p["name"] for p in data["properties"]} > {"padding", "split", "float32"}


@pytest.mark.parametrize(("accepted", "failures"), [([], True), (["--accept", "reversed_kl"], False)])
def test_junit(accepted, failures, capsys):
    status, _, _ = check(capsys, "reversed_k3", "--junit", "out/report.xml", *accepted)
    (suite,) = ElementTree.parse("out/report.xml").getroot()
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.get("tests")) == 2 * len(conformance.load("kl_k3").cases)
    assert len({c.get("name") for c in cases}) == len(cases) and all(c.get("classname") for c in cases)
    failed = suite.findall("testcase/failure")
    assert bool(failed) == bool(status) == failures and int(suite.get("failures")) == len(failed)
    if failures:
        assert "expected" in failed[0].get("message") and "`reversed_kl`" in failed[0].text
    else:
        assert any("differs as accepted" in x.text for x in suite.iter("system-out"))
    assert any("warning" in x.text for x in suite.iter("system-out"))


def test_an_edge_is_called_an_edge(capsys):
    check(capsys, "multiplied", "--junit", "edge.xml")
    told = [x.text for x in ElementTree.parse("edge.xml").getroot().iter("system-out")]
    assert any("an edge, nan_under_mask" in text for text in told) and not any("as accepted" in text for text in told)
    check(capsys, "multiplied", "--strict", "--junit", "strict.xml")
    assert ElementTree.parse("strict.xml").getroot().find("testsuite").get("failures") != "0"


def test_junit_tells_errors_and_slow_cases(capsys):
    check(capsys, "slow", "--time-limit", "0.05", "--junit", "slow.xml")
    (suite,) = ElementTree.parse("slow.xml").getroot()
    assert {x.get("type") for x in suite.iter("error")} == {"timeout"}
    assert int(suite.get("errors")) + int(suite.get("skipped")) == int(suite.get("tests"))


# ------------------------------------------------------------------------------------------------- without an objective


def test_relations_alone(capsys):
    options = ["--metamorphic", "--names", names('a = "log_probs"\nb = "ref_log_probs"'), "--junit", "p.xml"]
    status, out, _ = check(capsys, "strange", *options, objective=None)
    assert status == 0 and "what must hold" in out and "PASS" in out and "against" not in out
    assert ElementTree.parse("p.xml").getroot().find("testsuite").get("name") == "properties"
    status, out, _ = check(capsys, "multiplied", "--metamorphic", objective=None)
    assert status == 1 and "FAIL 1 of " in out and out.endswith("does not hold: NaN under the mask")


# ------------------------------------------------------------------------------------------------------------- identify


def test_identify(capsys, monkeypatch):
    monkeypatch.setattr(identifier, "objectives", lambda: ("dpo_loss", "kl_k3"))  # all take half a minute
    monkeypatch.setattr(nearest, "RECIPES", {"grpo": nearest.RECIPES["grpo"]})
    assert main(["identify", "targets.py:kl_k3"]) == 0
    out = capsys.readouterr().out
    assert "targets.py:kl_k3 equals" in out and "kl_k3" in out
    assert "torchstone check targets.py:kl_k3 --objective kl_k3" in out
    assert main(["identify", "targets.py:multiplied", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)  # right, but for an edge
    assert [m["name"] for m in data["exact"]] == ["kl_k3"] and "nan_under_mask" in data["exact"][0]["differs"]
    assert main(["identify", "targets.py:nothing"]) == main(["identify"]) == 2


# ---------------------------------------------------------------------------------------------------- the pytest plugin


REGISTERED = any(e.value == "torchstone.conformance.pytest_plugin" for e in entry_points(group="pytest11"))
PLUGIN = ["-p", "no:cacheprovider", *([] if REGISTERED else ["-p", "torchstone.conformance.pytest_plugin"])]


def test_the_plugin_loads_nothing_but_pytest():
    code = "import sys, torchstone.conformance.pytest_plugin; print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_cases_on_the_command_line(pytester):
    pytester.makepyfile(targets=TARGETS, test_other="def test_other(): assert False")
    cases = conformance.load("kl_k3").cases
    done = pytester.runpytest(*PLUGIN, "--torchstone", "targets.py:kl_k3", "-v")
    done.assert_outcomes(passed=2 * len(cases))  # and nothing of test_other
    done.stdout.fnmatch_lines(["targets.py:kl_k3::kl_k3?1-plain-float64? PASSED*"])
    done = pytester.runpytest(
        *PLUGIN, "--torchstone", "targets.py:reversed_k3=kl_k3", "-k", "nan_under_mask and float64"
    )
    text = done.stdout.str()
    assert done.ret == 1 and "expected" in text and "`reversed_kl`" in text and "checker.py" not in text
    done = pytester.runpytest(
        *PLUGIN, "--torchstone", "targets.py:reversed_k3=kl_k3", "--torchstone-accept", "reversed_kl"
    )
    done.assert_outcomes(passed=2 * len(cases))
    done = pytester.runpytest(*PLUGIN, "--torchstone", "targets.py:kl_k3", "test_other.py")
    done.assert_outcomes(passed=2 * len(cases), failed=1)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("targets.py:nothing=kl_k3", "targets.py has no 'nothing'"),
        ("targets.py:raises", "unknown objective 'raises'"),
        ("targets.py:kl_k3=kl_k33", "(did you mean 'kl_k3'"),
    ],
)
def test_a_mistake_on_pytest_s_command_line(target, says, pytester):
    pytester.makepyfile(targets=TARGETS)
    done = pytester.runpytest(*PLUGIN, "--torchstone", target)
    assert done.ret == pytest.ExitCode.USAGE_ERROR and says in done.stderr.str()


def test_cases_in_a_test_file(pytester):
    pytester.makepyfile(
        targets=TARGETS,
        test_mine="""
        import targets
        from torchstone import conformance

        @conformance.cases("kl_k3")
        def test_right(case):
            case.check(targets.kl_k3)

        @conformance.cases("kl_k3")
        def test_wrong(case):
            case.check(targets.reversed_k3)

        @conformance.cases("kl_k3")
        def test_accepted(case):
            case.check(targets.reversed_k3, accept=["reversed_kl"])

        @conformance.cases("kl_k3")
        def test_unfit(case):
            case.check(targets.needs_names)
        """,
    )
    number = 2 * len(conformance.load("kl_k3").cases)
    done = pytester.runpytest("-p", "no:cacheprovider")  # the decorator needs no plugin
    wrong = sum(r.status == "fail" for r in conformance.check(reversed_k3, "kl_k3").results)
    done.assert_outcomes(passed=3 * number - wrong, failed=wrong + 1, skipped=number - 1)
    text = done.stdout.str()
    assert "`reversed_kl`" in text and "cannot tell what" in text and "checker.py" not in text


def reversed_k3(logp, ref_logp, mask):
    u = torch.where(mask, logp - ref_logp, 0.0)
    return torch.expm1(u) - u
