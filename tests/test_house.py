"""The house in order: equations, docstrings, pages and code say the same, and stay short."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parent.parent
TOUR = ["core", "reinforce", "ppo", "grpo", "dpo"]
SIDE_ROOMS = {"variants.py", "__init__.py"}  # faster or further forms, lists of names: not of the tour
FAST = sorted((ROOT / "torchstone" / "fast").glob("*.py"))
MODULES = [p for family in TOUR for p in sorted((ROOT / "torchstone" / family).glob("*.py"))]
PAGES = [p for p in ROOT.rglob("*.md") if not any(part.startswith((".", "runs")) for part in p.relative_to(ROOT).parts)]


def docstrings(path):
    tree = ast.parse(path.read_text())
    nodes = (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
    return {n.name: (n, ast.get_docstring(n) or "") for n in nodes}


def test_every_equation_stands_in_a_readme_a_docstring_and_a_test():
    read = lambda paths: "\n".join(p.read_text() for p in paths)  # noqa: E731
    readmes = re.findall(r"\\tag\{([A-Z]+\.\d+)\}", read((ROOT / "torchstone").rglob("README.md")))
    documented = re.findall(r"\(([A-Z]+\.\d+)\)", read(MODULES + FAST))
    named = re.findall(r"def test_(\w+)", read((ROOT / "tests").glob("test_*.py")))
    tested = {f"{a}.{n}" for name in named for a, n in re.findall(r"([A-Z]+)_(\d+)", name)}
    assert len(readmes) == len(set(readmes)), "an equation is defined twice"
    places = {"a README": set(readmes), "a docstring": set(documented), "a test's name": tested}
    for tag in sorted(set(readmes) | set(documented)):
        assert not [place for place, tags in places.items() if tag not in tags], f"({tag}) lacks its place"
    assert len(readmes) > 30


def test_the_reading_tour_fits_one_sitting():
    lines = sum(len(p.read_text().splitlines()) for p in MODULES if p.name not in SIDE_ROOMS)
    assert lines <= 1300, "a first reading is too long: move what it does not need to the family's variants.py"


def public_names():
    for family in TOUR:
        for file in ("__init__.py", "variants.py"):
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
            if isinstance(node, ast.FunctionDef) and node.name not in {"select", "vectors"}:  # these name tensors
                assert node.args.kwarg is None, (path, node.name)


def test_importing_a_family_loads_nothing_heavy():
    code = "import sys, torchstone.grpo, torchstone.dpo; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"transformers", "matplotlib", "rich", "typer", "datasets", "reasoning_gym"} & set(loaded)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http", "#", "mailto:")):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_the_readmes_example_runs(capsys):
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    tokens = torch.tensor([[5, 6, 7, 1], [5, 6, 8, 1], [5, 6, 1, 0], [5, 6, 7, 1]])
    logits = torch.randn(4, 4, 9, requires_grad=True)
    old = torch.log_softmax(logits.detach(), -1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    names = {
        "rewards": torch.tensor([[1.0, 0.0], [0.5, 0.5]]),
        "chosen": torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]]).bool(),
        "tokens": tokens,
        "model": lambda tokens: SimpleNamespace(logits=logits),
        "old_log_probs": old,
    }
    exec(example, names)
    assert "approx_kl" in capsys.readouterr().out
    assert logits.grad[:2, 1:3].abs().sum() > 0 and (logits.grad[2:] == 0).all()  # the second prompt's group is tied


def test_the_map_draws_every_reduction():
    of_map = runpy.run_path(str(ROOT / "docs" / "map.py"))
    reductions = (ROOT / "tests" / "test_reductions.py").read_text(encoding="utf-8")
    edges, layout = of_map["edges"](), (ROOT / "docs" / "map.typ").read_text(encoding="utf-8")
    assert {e["test"] for e in edges} == set(re.findall(r"^def (test_\w+)", reductions, re.M)), "a test without @edge"
    placed = re.findall(r'^  "(.+?)": \(', layout, re.M)
    assert sorted(placed) == sorted({e[side] for e in edges for side in ("start", "end")}), "place it in docs/map.typ"
    assert (ROOT / "docs" / "map.md").read_text(encoding="utf-8") == of_map["page"](), "run make docs"
    assert of_map["digest"]().encode() in (ROOT / "docs" / "map.png").read_bytes(), "run make docs"
