"""The house in order: equations, docstrings, pages and code say the same, and stay short."""

import ast
import csv
import re
import runpy
import subprocess
import sys
import tokenize
from pathlib import Path
from statistics import fmean

import pytest
import torch

from torchstone.conformance.command import check
from torchstone.core import sequence_mean
from torchstone.grpo import grpo_loss

ROOT = Path(__file__).parent.parent
TOUR = ["core", "reinforce", "ppo", "grpo", "dpo"]
FOLDERS = [*TOUR, "distill"]
SIDE_ROOMS = {"variants.py", "selection.py", "__init__.py"}  # what a first reading leaves out; lists of names
FAST = sorted((ROOT / "torchstone" / "fast").glob("*.py"))
MODULES = [p for family in FOLDERS for p in sorted((ROOT / "torchstone" / family).glob("*.py"))]


def docstrings(path):
    tree = ast.parse(path.read_text())
    nodes = (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
    return {n.name: (n, ast.get_docstring(n) or "") for n in nodes}


def test_every_equation_stands_on_a_page_in_a_docstring_and_in_a_test():
    read = lambda paths: "\n".join(p.read_text() for p in paths)  # noqa: E731
    pages = [p for family in FOLDERS for p in (ROOT / "torchstone" / family).glob("*.md")]  # README.md, variants.md
    defined = re.findall(r"\\tag\{([A-Z]+\.\d+)\}", read(pages))
    documented = re.findall(r"\(([A-Z]+\.\d+)\)", read(MODULES + FAST))
    named = re.findall(r"def test_(\w+)", read((ROOT / "tests").glob("test_*.py")))
    tested = {f"{a}.{n}" for name in named for a, n in re.findall(r"([A-Z]+)_(\d+)", name)}
    assert len(defined) == len(set(defined)), "an equation is defined twice"
    places = {"a page of its folder": set(defined), "a docstring": set(documented), "a test's name": tested}
    for tag in sorted(set(defined) | set(documented)):
        assert not [place for place, tags in places.items() if tag not in tags], f"({tag}) lacks its place"
    assert len(defined) > 30


@pytest.mark.parametrize("family", ["reinforce", "ppo", "grpo", "dpo"])
def test_a_first_reading_meets_no_variant(family):
    """Equations of ``variants.py`` stand in ``variants.md``, to which README.md leads with one line."""
    folder = ROOT / "torchstone" / family
    readme, variants = ((folder / name).read_text() for name in ("README.md", "variants.md"))
    rooms = "".join(path.read_text() for path in folder.glob("*.py") if path.name in SIDE_ROOMS)
    later = set(re.findall(r"\(([A-Z]+\.\d+)\)$", rooms, re.M))
    assert later and not [tag for tag in later if f"\\tag{{{tag}}}" in readme]
    headings = re.findall(r"^## (.*)", readme, re.M)
    facts, mistakes, link = (headings.index(h) for h in ("Facts, each a test", "Common mistakes", "Variants"))
    assert facts < mistakes < link and "](variants.md)" in readme and variants.startswith("# ")


def stops():
    """Each stop of README's reading table: its minutes, and the files that its links name."""
    table = re.findall(r"^\| \d+ \| (.+?) \| (\d+) \|", (ROOT / "README.md").read_text(), re.M)
    for cell, minutes in table:
        named = [ROOT / link for link in re.findall(r"\]\((.+?)\)", cell)]
        named += [ROOT / "README.md"] if "this page" in cell else []
        yield int(minutes), [p for place in named for p in (sorted(place.iterdir()) if place.is_dir() else [place])]


def code_lines(path):
    """Lines of a Python file that are not blank, comment, docstring, import or signature (decorators included)."""
    tokens, tree = tokenize.generate_tokens(path.open().readline), ast.parse(path.read_text())
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {n for t in tokens if t.type not in silent for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines -= set(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            lines -= set(range(start, max(node.body[0].lineno, node.lineno + 1)))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_a_line_of_code_is_what_it_says(tmp_path):
    file = tmp_path / "some.py"
    file.write_text('''"""What it is."""

import torch
from math import (
    pi,
)


@torch.no_grad()  # a decorator
def area(
    radius,  # of the circle
):
    """Two
    lines.
    """
    # a comment
    text = """a
    string"""
    return radius * (
        pi
    ), text
''')
    assert code_lines(file) == 5


def test_the_reading_tour_keeps_its_promise():
    """README's table: a page is read at 200 words a minute, all stops in under two hours, with little code."""
    for minutes, files in stops():
        pages = [p for p in files if p.suffix == ".md" and p.name != "variants.md"]
        assert sum(len(p.read_text().split()) for p in pages) <= 200 * minutes, pages
    assert len(list(stops())) >= 7 and sum(minutes for minutes, _ in stops()) < 120
    code = {p: code_lines(p) for _, files in stops() for p in files if p.suffix == ".py" and p.name not in SIDE_ROOMS}
    assert sum(code.values()) <= 450, "a first reading is too long: move what it does not need to variants.py"
    assert len((ROOT / "README.md").read_text().split()) <= 1300


def public_names():
    for family in FOLDERS:
        for file in sorted(SIDE_ROOMS):
            path = ROOT / "torchstone" / family / file
            exported = re.search(r"__all__ = \[(.*?)\]", path.read_text(), re.S) if path.exists() else None
            yield from ((family, name) for name in re.findall(r'"(\w+)"', exported[1])) if exported else ()


@pytest.mark.parametrize(("family", "name"), public_names())
def test_every_public_name_is_documented(family, name):
    found = [d[name] for p in MODULES + FAST if p.parent.name in (family, "fast") for d in [docstrings(p)] if name in d]
    (node, text), *_ = found
    if name in ("Mean", "Loss"):
        return
    arguments = [] if isinstance(node, ast.ClassDef) else [a.arg for a in node.args.args + node.args.kwonlyargs]
    assert len(text) > 100 and all(re.search(rf"\b{a}\b", text) for a in arguments), arguments


def test_the_maths_imports_torch_and_jaxtyping_and_only_downwards():
    floors = {family: {*TOUR[: i + 1], "fast"} for i, family in enumerate(TOUR)}
    floors |= {
        "dpo": {"core", "dpo"},
        "distill": {"core", "reinforce", "fast", "distill"},
        "fast": {"core", "fast"},
    }
    for path in MODULES + FAST:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for package, *rest in (n.split(".") for n in names):
                assert package in {"torch", "jaxtyping", "torchstone"} | set(sys.stdlib_module_names), path
                assert package != "torchstone" or rest[0] in floors[path.parent.name], path


def test_no_assert_and_no_swallowed_arguments_in_the_maths():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), path
            if isinstance(node, ast.FunctionDef) and node.name not in {"select", "same_length"}:  # these name tensors
                assert node.args.kwarg is None, (path, node.name)


def test_importing_a_family_loads_nothing_heavy():
    families = "torchstone.grpo, torchstone.dpo, torchstone.distill"
    code = f"import sys, {families}; print(*{{m.split('.')[0] for m in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"transformers", "matplotlib", "rich", "typer", "datasets", "reasoning_gym"} & set(loaded)


README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST, EXAMPLE = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)


def test_the_readmes_first_lines_are_grpo():
    names = {}
    exec(FIRST, names)
    torch.manual_seed(0)
    log_probs, old, ref = torch.randn(3, 4, 5, dtype=torch.float64).unbind()
    mask = torch.rand(4, 5) > 0.3
    wanted = grpo_loss(
        log_probs, old, names["advantages"], mask, reduce=sequence_mean, epsilon=0.2, beta=0.04, ref_log_probs=ref
    )
    torch.testing.assert_close(names["advantages"], torch.tensor([1.0, -1.0, -1.0, 1.0]) * 0.5 / (3**-0.5 + 1e-4))
    torch.testing.assert_close(names["grpo"](log_probs, old, ref, names["advantages"], mask), wanted.value)


def test_the_readmes_wrong_loss_is_diagnosed_as_shown(tmp_path, monkeypatch, capsys):
    gap, kl = re.search(r"wrong way round \(`(.*?)`, `(.*?)`\)", README).groups()
    (tmp_path / "my_losses.py").write_text(FIRST.replace("kl = kl_k3(log_probs, ref_log_probs, mask)", f"{gap}; {kl}"))
    command, shown = re.search(r"^\$ (torchstone check .*?)\n(.*?)^```", README, re.S | re.M).groups()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")
    assert check(command.split()[2:]) == 1
    said = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert all(part.strip("\n") in said for part in shown.split("…"))


def test_the_readmes_example_runs(capsys):
    """As it stands; and it prints, and does to the model, what the undivided batch would, written out here."""
    setting, names = {}, {}
    exec(EXAMPLE[: EXAMPLE.index("for epoch")], setting)
    exec(EXAMPLE, names)
    said = capsys.readouterr().out
    assert f"```\n{said}```" in README
    printed = re.findall(r"loss (\S+), approx_kl (\S+)", said)
    model, tokens = setting["model"], setting["tokens"]
    counted = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0]])
    advantages = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]) * 0.5 / (3**-0.5 + 1e-4)
    old = None
    for loss_shown, kl_shown in printed:
        log_probs = torch.log_softmax(model(tokens), -1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
        old = log_probs.detach() if old is None else old
        ratio = (log_probs - old).exp()
        loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        loss, kl = ((x * counted).sum() / counted.sum() for x in (loss, ratio - 1 - ratio.log()))
        assert (loss_shown, kl_shown) == (f"{loss:.4f}", f"{kl:.4f}") and abs(loss) > 0.1
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p -= 0.1 * gradient
    assert len(printed) == 2
    for mine, theirs in zip(model.parameters(), names["model"].parameters(), strict=True):
        torch.testing.assert_close(theirs, mine)


def test_the_caption_of_the_curves_has_their_numbers():
    with (ROOT / "docs" / "curves.csv").open() as file:
        runs = list(csv.DictReader(file))
    end = max(int(r["samples"]) for r in runs)
    rewards = {(r["run"], r["seed"], int(r["samples"])): float(r["eval_reward"]) for r in runs}
    percent = lambda run, at: round(100 * fmean(x for (n, _, k), x in rewards.items() if (n, k) == (run, at)))  # noqa: E731
    before, *after = re.search(
        r"prompts: (\d+)% before; REINFORCE (\d+)%, PPO (\d+)%, GRPO (\d+)%, DPO (\d+)%\s+after", README
    ).groups()
    methods = ["reinforce", "ppo", "grpo", "dpo"]
    assert [int(x) for x in after] == [percent(run, end) for run in methods]
    assert int(before) == percent("grpo", 0) and f"{end:,} samples a\nrun" in README


def test_the_summary_of_the_methods_is_the_primers():
    rows = re.findall(r"^\| \| REINFORCE .*?\n\n", README, re.S | re.M)[0].splitlines()[2:]
    primer = (ROOT / "docs" / "primer.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) >= 4 and all(row in primer for row in rows if row)


def test_the_map_draws_every_reduction():
    of_map = runpy.run_path(str(ROOT / "docs" / "map.py"))
    reductions = (ROOT / "tests" / "test_reductions.py").read_text(encoding="utf-8")
    edges, layout = of_map["edges"](), of_map["layout"]()
    assert {e["test"] for e in edges} == set(re.findall(r"^def (test_\w+)", reductions, re.M)), "a test without @edge"
    placed = re.findall(r'^  "(.+?)": \(', layout, re.M)
    assert placed and set(placed) <= {e[side] for e in edges for side in ("start", "end")}, "a place without an arrow"
    assert (ROOT / "docs" / "map.md").read_text(encoding="utf-8") == of_map["page"](), "run make docs"
    assert of_map["digest"]().encode() in (ROOT / "docs" / "map.png").read_bytes(), "run make docs"


def test_a_line_on_other_peoples_code_names_its_version_and_is_run():
    """docs/pitfalls.md: a link is a thread, a commit or a release; what is said of a pinned release is run."""
    lines = (ROOT / "requirements-frameworks.txt").read_text(encoding="utf-8")
    names = {"TRL": "trl", "Liger": "liger-kernel", "SkyRL": "skyrl"}  # where the page's name is not the package's
    pins = {name.lower(): version for name, version in re.findall(r"^([\w-]+)==(\S+)$", lines, re.M)}
    pitfalls = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    tests = (ROOT / "tests" / "frameworks" / "test_pitfalls.py").read_text(encoding="utf-8")
    pinned = [f"{name} {pins[names.get(name, name).lower()]}" for name in ("TRL", "verl", "OpenRLHF", "Liger", "SkyRL")]
    pinned += [f"{name} {pins[name]}" for name in ("torchrl", "torchtune")]
    run = set()
    for id_, said, links in re.findall(r'^\| <a id="\w+"></a>([CR]\d\d) \| (.*?) \| (.*?) \|', pitfalls, re.M):
        titles = re.findall(r"\[([^\]]+)\]\(https", links)
        assert all(re.search(r"#\d+$| \d+\.\d+\.\d+$| [0-9a-f]{7,9}$", title) for title in titles), (id_, titles)
        run |= {id_} if any(release in f"{said} {links}" for release in pinned) else set()
    names_of_tests = re.findall(r"^def test_((?:[CR]\d\d_)+)", tests, re.M)
    tested = {id_ for name in names_of_tests for id_ in re.findall(r"[CR]\d\d", name)}
    assert run == tested and len(run) > 30


@pytest.mark.parametrize(
    "page", sorted((ROOT / "torchstone").glob("*/*.md")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_every_row_of_choices_names_the_release_or_the_commit(page):
    """In a table under *Choices* a name of other people's code is followed by a version, once in its row."""
    names = "TRL|verl|OpenRLHF|Liger|torchrl|torchtune|open-instruct|rlhf-book|prime-rl|nanochat|CleanRL|authors' code"
    _, _, section = page.read_text(encoding="utf-8").partition("\n## Choices")
    for row in re.findall(r"^\|.*", section.partition("\n## ")[0], re.M):
        said = set(re.findall(rf"(?<![\w/-])({names})(?![\w-])", row))
        dated = set(re.findall(rf"({names})(?:'s former PPO)? (?:\d+\.\d+\.\d+|[0-9a-f]{{7}})\b", row))
        assert said == dated, (row, said - dated)
