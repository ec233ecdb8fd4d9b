"""The corpus: every function is what its header says; and the checker on a part of it and on mutants made by machine.

What the checker says of all of it: ``make corpus``.
"""

import ast
import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "corpus"))
from functions import distance, entries, errors
from judge import judge

KINDS = [e for e in entries() if e.stands]
RIGHT = [e for e in entries() if not e.wrong and not e.stands][::4][:33]
RIGHT = [e for e in RIGHT if e.name not in ("np_group", "reverse_kl_loss")]
# Numbers that are written into a function: a cap or a clip, a weight beside a clip, a reduction, no bound above at all.
WRITTEN = ("cispo_capped", "boolean_index", "negated_at_the_end", "only_lower", "dual_clip_everywhere")
WRITTEN = [e for e in entries() if e.name in WRITTEN]


def test_every_function_is_what_its_header_says():
    assert list(errors()) == []
    assert sum(e.wrong for e in entries()) >= 200 and sum(not e.wrong for e in entries()) >= 100
    assert all(e.named and e.kind if e.wrong else e.style for e in entries())


@pytest.mark.parametrize("entry", KINDS, ids=lambda e: e.label)
def test_a_function_of_each_kind(entry):
    """Wrong: caught, and the cause has its name. Right: not accused."""
    row = judge(entry)
    assert row["state"] in (("named",) if entry.wrong else ("pass", "edges")), row


@pytest.mark.parametrize("entry", WRITTEN, ids=lambda e: e.label)
def test_numbers_that_are_written_into_a_function_are_found(entry):
    """Wrong: caught, and the cause has its name. Right: not accused."""
    row = judge(entry)
    assert row["state"] in (("named",) if entry.wrong else ("pass", "edges")), row


@pytest.mark.parametrize("entry", RIGHT, ids=lambda e: e.label)
def test_right_functions_in_many_styles_are_not_accused(entry):
    row = judge(entry)
    assert row["state"] in ("pass", "edges"), row


# ------------------------------------------------------------------------------------------------- mutants by machine


OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Gt: ast.Lt, ast.Lt: ast.Gt}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "exp": "log1p", "detach": "clone"}
NAMES |= {"mean": "sum", "sum": "mean", "sigmoid": "tanh", "logsigmoid": "sigmoid", "std": "var"}


class Change(ast.NodeTransformer):
    """Change the n-th place of a function that can be changed: an operator, a number, the name of a function."""

    def __init__(self, n):
        self.left, self.what = n, ""

    def here(self, what):
        self.left -= 1
        if self.left == -1:
            self.what = what
        return self.left == -1

    def visit_BinOp(self, node):
        self.generic_visit(node)
        other = OPERATORS.get(type(node.op))
        if other and self.here(f"{type(node.op).__name__} to {other.__name__}"):
            node.op = other()
        elif isinstance(node.op, (ast.Add, ast.Sub)) and self.here("a term dropped"):
            return node.left
        return node

    def visit_Attribute(self, node):
        self.generic_visit(node)
        other = NAMES.get(node.attr)
        if other and self.here(f"{node.attr} to {other}"):
            node.attr = other
        return node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        return node.operand if isinstance(node.op, (ast.USub, ast.Invert)) and self.here("a sign dropped") else node


def mutants(folder, wanted):
    """Mutants of right functions that the proof finds wrong, each in a file of its own."""
    places = {}
    sources = [e for e in entries() if not e.wrong and not e.arrays and e.objective in QUICK]
    for round_ in range(1, 99):
        for entry in sources:
            tree = ast.parse(entry.path.read_text(encoding="utf-8"))
            node = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry.name), None)
            change = Change(7 * round_ % 11)
            if node is None:
                continue
            tree.body[tree.body.index(node)] = change.visit(copy.deepcopy(node))
            path = folder / f"{entry.name}_{round_}.py"
            path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
            made = replace(entry, path=path, head=(*entry.head, ("expect", "caught")))
            if change.what and (entry.name, change.what) not in places and is_wrong(made):
                places[entry.name, change.what] = made
                if len(places) == wanted:
                    return list(places.values())
    raise AssertionError(f"only {len(places)} mutants")


def is_wrong(entry):
    """By the proof, not by the checker: it runs, and its finite numbers are others."""
    try:
        return 1e-3 < distance(entry, 0) < 1e9
    except Exception:
        return False


QUICK = ("kl_k1", "kl_k2", "kl_k3", "dpo_loss", "ipo_loss", "hinge_loss", "nca_loss", "kto_loss", "simpo_loss", "gae")
QUICK += ("discounted_returns", "clipped_surrogate", "clipped_value_error", "leave_one_out_advantages", "grpo_loss")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return mutants(tmp_path_factory.mktemp("mutants"), 30)


@pytest.mark.parametrize("n", range(30))
def test_a_mutant_made_by_machine_is_caught(made, n):
    row = judge(made[n])
    assert row["state"] in ("caught", "named"), row
