"""Mutation testing (``make mutation``): the maths is changed in thousands of small ways; does a test notice each one?

mutmut makes the mutants and runs the tests that reach each of them, in a copy under ``runs/mutation``.
Mutants that change the text of a message only are not run and not counted. Those that survive are listed, with the
reason that docs/mutation.md gives; the exit status is 1 if one has none, or fewer than 95 in 100 are killed.

    python tests/mutation.py                         all mutants, one process for each processor
    python tests/mutation.py --processes 1 'torchstone.core.kl*'         some
    python tests/mutation.py --survivors             those that survived the last run
    python tests/mutation.py --report                what the last run found
"""

import argparse
import ast
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "runs" / "mutation"
COPIED = ("torchstone", "tests", "pyproject.toml")
WANTED = 0.95
# mutmut's exit codes. 33: no test reaches the mutant. 3: pytest failed, not a test, and nothing is known.
SKIPPED, ALIVE, TIMEOUTS, UNKNOWN = 34, {0, 5, 33}, {-24, 24, 36, 152, 255}, {None, 2, 3, 35}

# The positions at which a call takes what only ends up in the text of an error.
TEXTS = {
    "require": {1, 2, 3},
    "number": {0},
    "as_float": {0},
    "as_ids": {0},
    "_tensor": {0, 4},
    "check_mask": {1},
    "log_softmax": {0},
    "log_ratios": {3},
    "per_token": {0},
    "_constant": {0},
}
SHAPES = {"as_float": 2, "as_ids": 2}  # here a string counts by its number of words


# ------------------------------------------------------------------------------------ which mutants change a text only?


class _Blank(ast.NodeTransformer):
    """A function without its docstring, and with nothing where a text for an error stands."""

    def __init__(self, texts: set[str]):
        self.texts = texts  # local names that are used in such places only

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "id", "")
        places, shape = TEXTS.get(name, set()), SHAPES.get(name, -1)
        node.func = self.visit(node.func)
        node.args = [
            ast.Constant(0)
            if i in places and (name != "per_token" or isinstance(getattr(a, "value", None), str))
            else self.visit(a)
            for i, a in enumerate(node.args)
        ]
        if 0 <= shape < len(node.args) and isinstance(node.args[shape], ast.Constant):
            node.args[shape] = ast.Constant(len(str(node.args[shape].value).split()))
        node.keywords = [self.visit(k) for k in node.keywords]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [ast.Constant(0) for _ in node.exc.args]
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if all(isinstance(t, ast.Name) and t.id in self.texts for t in node.targets):
            node.value = ast.Constant(0)
            return node
        return self.generic_visit(node)


def meaning(function: ast.FunctionDef) -> str:
    """The function's syntax tree as text, without the texts."""
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    names = lambda f, kind: {n.id for n in ast.walk(f) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}  # noqa: E731
    stored = names(function, ast.Store)
    copy = ast.parse(ast.unparse(function)).body[0]
    texts = stored - names(_Blank(set()).visit(copy), ast.Load)  # read nowhere but in texts
    return ast.dump(ast.Module([*_Blank(texts).visit(function).body], []))


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    """By name, also those inside classes: the original ones and the mutants, as mutmut wrote them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


def skip_texts(metas: list[Path]) -> None:
    """Tell mutmut not to run the mutants that differ in texts only."""
    for meta in metas:
        data = json.loads(meta.read_text())
        codes = data["exit_code_by_key"]
        found = functions(meta.with_suffix("")) if codes else {}
        originals: dict[str, str] = {}
        for name in codes:
            short = name.rpartition(".")[2]
            base = short.rpartition("__mutmut_")[0]
            if base not in originals:
                originals[base] = meaning(found[f"{base}__mutmut_orig"])
            if meaning(found[short]) == originals[base]:
                codes[name] = SKIPPED
            elif codes[name] == SKIPPED:
                codes[name] = None
        meta.write_text(json.dumps(data, indent=4))


# ---------------------------------------------------------------------------------------------------------- run, report


def run(names: list[str], processes: int) -> None:
    """mutmut in the copy: all mutants afresh, or those named once more."""
    if not names:
        shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, COPY / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    undecorate(COPY / "torchstone" / "fast" / "linear.py")
    os.chdir(COPY)
    import jaxtyping
    from mutmut import __main__ as mutmut

    jaxtyping.install_import_hook = lambda *_, **__: None  # the tests' checks of shapes: mutmut's wrappers have none
    generate = mutmut.create_mutants

    def generate_and_skip(max_children: int) -> object:
        stats = generate(max_children)
        skip_texts(sorted(Path("mutants").rglob("*.meta")))
        return stats

    mutmut.create_mutants = generate_and_skip
    run_all = mutmut.PytestRunner.run_tests

    def run_some_first(self: object, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        """Of thousands of tests some 150: most mutants go no further, and pytest is slow to find the others."""
        tests = list(tests)
        few = tests[:: len(tests) // 150] if len(tests) > 600 else []
        code = run_all(self, mutant_name=mutant_name, tests=few) if few else 0
        return code or run_all(self, mutant_name=mutant_name, tests=tests)

    mutmut.PytestRunner.run_tests = run_some_first
    mutmut._run(names, processes)
    skip_texts(sorted(Path("mutants").rglob("*.meta")))


def undecorate(path: Path) -> None:
    """``@decorator`` above a function becomes ``f = decorator(f)`` below it: mutmut leaves decorated ones alone."""
    source = path.read_text(encoding="utf-8")
    lines = source.split("\n")
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and "custom_op" in "".join(map(ast.unparse, node.decorator_list)):
            (decorator,) = node.decorator_list
            lines.insert(node.end_lineno or 0, f"{node.name} = {ast.unparse(decorator)}({node.name})")
            del lines[decorator.lineno - 1 : node.lineno - 1]
    path.write_text("\n".join(lines), encoding="utf-8")


def survivors() -> list[str]:
    """The mutants that survived the last run, or were not run to an end."""
    metas = sorted((COPY / "mutants").rglob("*.meta"))
    codes = {k: c for meta in metas for k, c in json.loads(meta.read_text())["exit_code_by_key"].items()}
    return [k for k, code in codes.items() if code in ALIVE | UNKNOWN]


def module(path: Path) -> str:
    return ".".join(path.relative_to(COPY / "mutants" / "torchstone").with_suffix("").with_suffix("").parts)


def changed(old: str, new: str) -> str:
    """The lines that a mutant changed, without their indentation."""
    before, after = Counter(old.split("\n")), Counter(new.split("\n"))
    added = [line.strip() for line in new.split("\n") if after[line] > before[line]]
    return " ".join(added) or "(a line is missing)"


def report() -> bool:
    """Print the score of each module and what survived. Is all as it should be?"""
    explained = (ROOT / "docs" / "mutation.md").read_text(encoding="utf-8")
    rows, alive_in, unfinished = {}, defaultdict(list), 0
    for meta in sorted((COPY / "mutants").rglob("*.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        counted = {name: code for name, code in codes.items() if code not in {SKIPPED, *UNKNOWN}}
        unfinished += sum(code in UNKNOWN for code in codes.values())
        alive = [name for name, code in counted.items() if code in ALIVE]
        rows[module(meta)] = (
            len(counted),
            len(alive),
            sum(c in TIMEOUTS for c in counted.values()),
            list(codes.values()).count(SKIPPED),
        )
        found = functions(meta.with_suffix("")) if alive else {}
        for name in alive:
            short = name.rpartition(".")[2]
            base = short.rpartition("__mutmut_")[0]
            sources = [ast.unparse(found[n]).replace(n, base) for n in (f"{base}__mutmut_orig", short)]
            where = f"{module(meta)}.{base.removeprefix('x_').removeprefix('xǁ').replace('ǁ', '.')}"
            alive_in[where].append((changed(*sources), name.rpartition("_")[2]))
    print(f"\n{'module':<22}{'mutants':>9}{'killed':>9}{'by time':>9}{'survived':>10}{'score':>9}{'texts':>8}")
    for name, (total, alive, late, texts) in rows.items():
        if total:
            print(f"{name:<22}{total:>9}{total - alive:>9}{late:>9}{alive:>10}{1 - alive / total:>9.1%}{texts:>8}")
    total, alive, late, texts = (sum(column) for column in zip(*rows.values(), strict=True))
    score = 1 - alive / max(total, 1)
    print(f"{'all':<22}{total:>9}{total - alive:>9}{late:>9}{alive:>10}{score:>9.1%}{texts:>8}\n")
    unexplained = 0
    for where, entries in alive_in.items():
        for line, number in entries:
            known = f"`{where}`: `{line}`" in explained
            unexplained += not known
            print(f"{'explained' if known else 'SURVIVED '} `{where}`: `{line}`  #{number}")
    print(f"{unexplained} survivors without an explanation in docs/mutation.md, {unfinished} mutants not run")
    return not unexplained and not unfinished and score >= WANTED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="patterns such as 'torchstone.core.kl*'; none: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--survivors", action="store_true", help="run those that survived once more")
    parser.add_argument("--report", action="store_true", help="print the last run's results, run nothing")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if not options.report:
        run(survivors() if options.survivors else options.names, options.processes)
    return 0 if report() else 1


if __name__ == "__main__":
    sys.exit(main())
