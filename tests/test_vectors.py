"""The vector files: fresh, valid, consistent, and the same numbers as torchstone's. The oracle: independent, and right.

A new objective needs no line here if a public function of torchstone has its name, or if it is ``NAME_loss`` for a
``NAME_surrogate``; otherwise it needs an adapter in ADAPTERS.
"""

import ast
import importlib
import inspect
import json
import math
import re
import subprocess
import sys
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import jsonschema
import pytest
import torch
from mpmath import mp, mpf

import torchstone_oracle
from torchstone.core import Loss, sequence_mean, token_mean
from torchstone.dpo.variants import update_reference, wpo_weights
from torchstone.grpo import grpo_loss
from torchstone.grpo.variants import sequence_log_ratios
from torchstone.ppo import AdaptiveKL, clipped_surrogate, clipped_value_error, ppo_loss
from torchstone.ppo.variants import AdaptiveEntropy
from torchstone_oracle import numbers
from torchstone_oracle.contract import Objective, flat
from torchstone_oracle.contracts import FAMILIES, OBJECTIVES
from torchstone_oracle.write import document, pretty

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "torchstone" / "conformance" / "vectors"
FILES = sorted(path.stem for path in FOLDER.glob("*.json"))
NAN, ROUNDING = float("nan"), {"float64": 1e-12}
files = pytest.mark.parametrize("name", FILES)


# -------------------------------------------------------------------------------------------------------------- reading


@cache
def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def cases(data):
    return [(group["settings"], case) for group in data["groups"] for case in group["cases"]]


def leaves(x):
    """The entries of a nested list in order, without the null ones."""
    return [y for part in x for y in leaves(part)] if isinstance(x, list) else ([] if x is None else [x])


def shape(x):
    """The lengths of a nested list, which must be regular."""
    if not isinstance(x, list):
        return []
    inner = [shape(part) for part in x]
    assert all(s == inner[0] for s in inner), "a ragged list"
    return [len(x), *(inner[0] if inner else [])]


def trees(numbers):
    """Every tensor of outputs and gradients, by its name."""
    return {(kind, k): x for kind in ("outputs", "gradients") for k, x in numbers[kind].items()}


def magnitude(numbers):
    """The largest finite one; 1 if all are 0."""
    found = [abs(float(x)) for tree in trees(numbers).values() for x in leaves(tree)]
    return max((x for x in found if math.isfinite(x)), default=0) or 1.0


def pairs(x, y):
    """The numbers at the same places of two nested lists; none where either is null."""
    if isinstance(x, list):
        return [pair for parts in zip(x, y, strict=True) for pair in pairs(*parts)]
    return [] if x is None or y is None else [(float(x), float(y))]


def distance(a, b):
    """The largest difference of two sets of numbers; inf if one has NaN or infinity and the other not the same."""
    worst = 0.0
    a, b = trees(a), trees(b)
    assert a.keys() == b.keys()
    for key in a:
        for p, q in pairs(a[key], b[key]):
            if math.isfinite(p) and math.isfinite(q):
                worst = max(worst, abs(p - q))
            elif not (p == q or (math.isnan(p) and math.isnan(q))):
                return math.inf
    return worst


# -------------------------------------------------------------------------------------------------- files by themselves


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_file_is_what_the_oracle_writes(name):
    path = FOLDER / f"{name}.json"
    assert path.exists(), "run make vectors"
    assert path.read_text(encoding="utf-8") == pretty(document(OBJECTIVES[name])) + "\n", "run make vectors"


def test_every_file_has_an_objective():
    assert set(FILES) == set(OBJECTIVES)


def test_every_objective_has_a_file_of_its_own_name_of_at_most_400_lines():
    folder = Path(torchstone_oracle.__file__).parent / "contracts"
    names = [path.stem for path in folder.glob("*/*.py") if path.parent.name in FAMILIES and path.stem != "__init__"]
    assert sorted(names) == sorted(OBJECTIVES)
    for path in folder.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
        assert path.parent.name not in FAMILIES or path.stem == "__init__" or opening(path).startswith(path.stem), path


def opening(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@cache
def validator():
    schema = json.loads((FOLDER.parent / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@files
def test_the_file_fits_the_schema(name):
    assert [f"{e.json_path}: {e.message[:200]}" for e in validator().iter_errors(read(name))] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(extra=1),
        lambda d: d["arguments"].update(x={"shape": "b t", "unit": "", "kind": "float", "gradient": False}),
        lambda d: d["groups"][0]["cases"][0].update(result="maybe"),
        lambda d: d["groups"][0]["cases"][0].update(result="invalid"),
        lambda d: d["groups"][0]["cases"][0].pop("expected"),
        lambda d: d["groups"][0]["cases"][0]["inputs"].update(log_probs=[[0.5]]),
        lambda d: d["groups"][0]["cases"][0]["inputs"].update(log_probs=[["01"]]),
        lambda d: d["groups"][0]["cases"][0]["inputs"].update(log_probs=[["1.0.0"]]),
        lambda d: d["groups"][0]["cases"][0]["inputs"].update(log_probs={}),
        lambda d: d["flags"].update(Bad={}),
        lambda d: d.pop("license"),
    ],
)
def test_the_schema_refuses_what_is_not_a_vector_file(change):
    data = json.loads(json.dumps(read("kl_k3")))
    assert validator().is_valid(data)
    change(data)
    assert not validator().is_valid(data)


@files
def test_every_number_round_trips(name):
    for _, case in cases(read(name)):
        parts = [case["inputs"], *(n[k] for n in numbers_of(case) for k in ("outputs", "gradients"))]
        for text in (x for part in parts for tree in part.values() for x in leaves(tree) if isinstance(x, str)):
            value = float(text)
            whole = math.isfinite(value) and abs(value) < 1e15 and value == int(value)
            assert text == (repr(int(value)) if whole else repr(value))


def numbers_of(case):
    return ([case["expected"]] if "expected" in case else []) + list(case.get("alternatives", {}).values())


@files
def test_shapes_are_consistent(name):
    """Every tensor has the shape that its argument declares, with the same B, T, P, G, N, V and S in the whole case."""
    data = read(name)
    assert [case["id"] for _, case in cases(data)] == list(range(1, len(cases(data)) + 1))
    for settings, case in cases(data):
        assert settings.keys() == data["settings"].keys() and case["inputs"].keys() <= data["arguments"].keys()
        sizes = {}
        for k, x in case["inputs"].items():
            argument = data["arguments"][k]
            if case["result"] != "invalid":
                fit(sizes, argument["shape"], x, case)
            kind = {"float": str, "int": int, "bool": bool}[argument["kind"]]
            assert all(type(v) is kind for v in leaves(x)), (case["id"], k)
        for n in numbers_of(case):
            for k, x in n["outputs"].items():
                fit(sizes, data["returns"][k]["shape"], x, case)
            assert n["outputs"].keys() <= data["returns"].keys()
            wanted = {k for k in case["inputs"] if data["arguments"][k]["gradient"]}
            assert n["gradients"].keys() == wanted, case["id"]
            assert all(shape(n["gradients"][k]) == shape(case["inputs"][k]) for k in wanted), case["id"]
        for k, x in case.get("properties", {"signs": {}})["signs"].items():
            assert shape(x) == shape(case["inputs"][k])
        assert sizes.get("B", 1) <= 4 and sizes.get("T", 1) <= 8 and sizes.get("P", 1) <= 4, (case["id"], sizes)


PER_TOKEN_TOO = {"advantages", "returns", "baseline"}  # one a row, or one a token


def fit(sizes, declared, x, case):
    names, found = declared.split(), shape(x)
    if len(found) != len(names):
        known = next(k for k, v in case["inputs"].items() if v is x)
        assert known in PER_TOKEN_TOO and len(found) <= 2, (case["id"], known)
        names = ["B", "T"][: len(found)]
    for dimension, size in zip(names, found, strict=True):
        letter, _, less = dimension.partition("-")
        assert sizes.setdefault(letter, size + int(less or 0)) == size + int(less or 0), (case["id"], dimension)


@files
def test_every_alternative_is_another_one(name):
    """It differs from the right numbers in some case, and from every other alternative in some case."""
    data = read(name)
    named = [k for k, flag in data["flags"].items() if flag["kind"] != "edge"]
    apart = {pair: False for pair in combinations(["", *named], 2)}
    for _, case in cases(data):
        if "expected" not in case:
            continue
        assert case["alternatives"].keys() <= set(named)
        found = {"": case["expected"]} | {k: case["alternatives"].get(k, case["expected"]) for k in named}
        margin = float(case["tolerance"]["float32"]) * magnitude(case["expected"])
        for a, b in apart:
            if not apart[a, b]:
                apart[a, b] = found[a] is not found[b] and distance(found[a], found[b]) > margin
    assert [pair for pair, different in apart.items() if not different] == []


@files
def test_no_setting_has_one_value_alone(name):
    """On ordinary batches each number is given as two others: a function that ignores it is wrong in one of them."""
    groups = [g for g in read(name)["groups"] if any(c["result"] == "valid" and "expected" in c for c in g["cases"])]
    for k in read(name)["settings"]:
        given = {str(g["settings"][k]) for g in groups} - {"None"}
        numbers = {x for x in given if re.fullmatch(r"-?[\d.e-]+", x)}
        assert len(numbers) != 1 or k == "denominator", (k, given)


@files
def test_every_flag_is_used_and_every_pitfall_exists(name):
    data = read(name)
    used = {flag for _, case in cases(data) for flag in (*case["flags"], *case.get("alternatives", {}))}
    assert used == data["flags"].keys()
    assert all(data["flags"][f]["kind"] == "edge" for _, case in cases(data) for f in case["flags"])
    known = re.findall(
        r"^\| (?:<a [^>]*></a>)?([CR]\d\d) \|", (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8"), re.M
    )
    assert {p for flag in data["flags"].values() for p in flag["pitfalls"]} <= set(known)
    assert [k for k, flag in data["flags"].items() if min(len(flag["about"]), len(flag["effect"])) < 6] == []


# --------------------------------------------------------------------------------------------- torchstone's own numbers

MODULES = ["core", *(f + v for f in ("reinforce", "ppo", "grpo", "dpo") for v in ("", ".variants"))]
MODULES += ["grpo.selection", "distill"]
BUILT_IN = {
    "max_likelihood_advantages": {"eps": "0"}
}  # settings that torchstone's function does not have, and its value


def of_surrogate(surrogate, *, mask, reduce, **inputs):
    return Loss(reduce(surrogate(mask=mask, **inputs), mask), {})


def gspo_loss(log_probs, old_log_probs, advantages, mask, *, reduce=sequence_mean, token_gradient=False, **clip):
    s = sequence_log_ratios(log_probs, old_log_probs, mask, token_gradient=token_gradient)
    return Loss(reduce(clipped_surrogate(s, torch.zeros_like(s), advantages, mask, **clip), mask), {})


def metric(name):
    def of_the_loss(log_probs, old_log_probs, mask, advantages=None, **clip):
        advantages = torch.zeros_like(log_probs) if advantages is None else advantages
        loss = ppo_loss(log_probs, old_log_probs, advantages, mask, reduce=token_mean, **({"epsilon": 0.2} | clip))
        return torch.tensor(sum(float(m) for k, m in loss.metrics.items() if k.startswith(name)), dtype=torch.float64)

    return of_the_loss


def adaptive_kl(kl, **numbers):
    return torch.tensor(AdaptiveKL(**numbers).update(kl).beta, dtype=torch.float64)


def adaptive_entropy(entropy, **numbers):
    after = AdaptiveEntropy(**numbers).update(entropy)
    return tuple(torch.tensor(x, dtype=torch.float64) for x in (after.coef, after.bonus))


def value_error(values, returns, mask, old_values=None, *, epsilon):
    return clipped_value_error(values, old_values, returns, mask, epsilon=epsilon)


ADAPTERS = {
    "dapo_loss": partial(grpo_loss, beta=0.0),
    "dr_grpo_loss": partial(grpo_loss, beta=0.0),
    "gspo_loss": gspo_loss,
    "clipped_value_error": value_error,
    "approx_kl": metric("approx_kl"),
    "clip_fraction": metric("clip_ratio"),
    "adaptive_kl": adaptive_kl,
    "update_reference": lambda ref_parameters, parameters, *, alpha: update_reference(
        {"w": ref_parameters}, {"w": parameters}, alpha=alpha
    )["w"],
    "adaptive_entropy": adaptive_entropy,
    "wpo_weights": lambda log_probs, mask, log_normalisers=None: wpo_weights(log_probs, log_normalisers, mask),
}


def own(name):
    """torchstone's function of an objective."""
    if name in ADAPTERS:
        return ADAPTERS[name]
    modules = [importlib.import_module(f"torchstone.{m}") for m in MODULES]
    for wanted, wrap in (
        (name, lambda f: f),
        (name.replace("_loss", "_surrogate"), lambda f: partial(of_surrogate, f)),
    ):
        for module in modules:
            if hasattr(module, wanted):
                return wrap(getattr(module, wanted))
    raise LookupError(f"{name}: write an adapter in tests/test_vectors.py")


def value(x):
    """A setting as a Python value: a number that is written as a string, or a name, or itself."""
    try:
        return float(x) if isinstance(x, str) else x
    except ValueError:
        return x


def called(name, settings, inputs):
    """Outputs of torchstone's function, by the names in the file."""
    function, settings = own(name), {k: value(v) for k, v in settings.items()}
    known = inspect.signature(function.func if isinstance(function, partial) else function).parameters
    if isinstance(settings.get("reduce"), str):
        inside = {k: settings.pop(k) for k in ("length", "denominator") if k in settings and k not in known}
        inside |= {k: inputs.pop(k) for k in ("denominator",) if k in inputs and k not in known}
        modules = (importlib.import_module(m) for m in ("torchstone.core", "torchstone.grpo.variants"))
        reduce = next(getattr(m, settings["reduce"]) for m in modules if hasattr(m, settings["reduce"]))
        settings["reduce"] = partial(reduce, **inside) if inside else reduce
    for k in BUILT_IN.get(name, {}):
        settings.pop(k)
    found = function(**inputs, **settings)
    returns = list(read(name)["returns"])
    if isinstance(found, Loss):
        return {returns[0]: found.value} | {
            k: torch.tensor(float(m), dtype=torch.float64) for k, m in found.metrics.items() if k in returns
        }
    return dict(zip(returns, found if isinstance(found, tuple) else (found,), strict=True))


def tensors(data, case, dtype):
    kinds = {"float": dtype, "int": torch.int64, "bool": torch.bool}
    parsed = lambda x: [parsed(part) for part in x] if isinstance(x, list) else (float(x) if isinstance(x, str) else x)  # noqa: E731
    found = {k: torch.tensor(parsed(x), dtype=kinds[data["arguments"][k]["kind"]]) for k, x in case["inputs"].items()}
    for k, x in found.items():
        x.requires_grad_(data["arguments"][k]["gradient"])
    return found


def numbers_by_torchstone(data, settings, case, dtype):
    inputs = tensors(data, case, dtype)
    free = [k for k, x in inputs.items() if x.requires_grad]
    outputs = called(data["objective"], settings, dict(inputs))
    first = outputs[next(iter(data["returns"]))]
    flows = free and first.requires_grad
    slopes = (
        torch.autograd.grad(first.sum(), [inputs[k] for k in free], allow_unused=True) if flows else [None] * len(free)
    )
    gradients = {k: torch.zeros_like(inputs[k]) if g is None else g for k, g in zip(free, slopes, strict=True)}
    assert all(x.requires_grad is False or k in free for k, x in inputs.items())
    return {"outputs": outputs, "gradients": gradients}


def as_lists(numbers, wanted):
    """torchstone's numbers as lists, of what the file has."""
    return {kind: {k: numbers[kind][k].tolist() for k in wanted[kind]} for kind in wanted}


def runs(name):
    """The cases whose settings torchstone's function can have."""
    built_in = BUILT_IN.get(name, {})
    return [(s, c) for s, c in cases(read(name)) if all(s[k] == v for k, v in built_in.items())]


@files
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_torchstone_has_these_numbers(name, precision, unchecked):
    data = read(name)
    for settings, case in runs(name):
        if "expected" not in case:
            continue
        found = numbers_by_torchstone(data, settings, case, getattr(torch, precision))
        found = as_lists(found, case["expected"])
        margin = ROUNDING.get(precision, float(case["tolerance"][precision])) * magnitude(case["expected"])
        off = distance(found, case["expected"])
        assert off <= margin, (
            f"case {case['id']} ({case['comment']}), {settings}: off by {off:.3g}, allowed {margin:.3g}"
        )


@files
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_torchstone_keeps_the_properties(name, precision, unchecked):
    data = read(name)
    for settings, case in runs(name):
        if "properties" not in case:
            continue
        found = numbers_by_torchstone(data, settings, case, getattr(torch, precision))
        for tree in trees(found).values():
            assert torch.isfinite(tree).all(), case["id"]
        for k, signs in case["properties"]["signs"].items():
            slopes = pairs(signs, found["gradients"][k].tolist())
            assert all(sign == 0 or sign * slope > 0 for sign, slope in slopes), (case["id"], k)


@files
def test_torchstone_refuses_what_is_invalid(name, unchecked):
    for settings, case in runs(name):
        if case["result"] == "invalid":
            with pytest.raises((ValueError, IndexError, RuntimeError)):
                called(name, settings, tensors(read(name), case, torch.float64))


# ----------------------------------------------------------------------------------------------------------- the oracle


def replay(monkeypatch, values):
    """Make ``stop`` give the values that it gave before: what the oracle holds constant stays constant."""
    given = iter(values)
    set_stop(monkeypatch, lambda x: numbers.Dual(next(given)))


def record(monkeypatch):
    values = []

    def stop(x):
        values.append(numbers.dual(x).value)
        return numbers.Dual(values[-1])

    set_stop(monkeypatch, stop)
    return values


def set_stop(monkeypatch, stop):
    for name, module in list(sys.modules.items()):
        if name.startswith("torchstone_oracle") and hasattr(module, "stop"):
            monkeypatch.setattr(module, "stop", stop)


def total(objective: Objective, inputs, settings):
    outputs, _ = objective.run(inputs, settings, gradients=False)
    return mp.fsum(numbers.dual(x).value for x in flat(outputs[next(iter(objective.returns))]))


def moved(x, at, step):
    if not at:
        return mpf(x) + step
    return [moved(part, at[1:], step) if i == at[0] else part for i, part in enumerate(x)]


def places(x, at=()):
    return [p for i, part in enumerate(x) for p in places(part, (*at, i))] if isinstance(x, list) else [at]


@pytest.mark.parametrize("name", [k for k, o in OBJECTIVES.items() if any(a.gradient for a in o.arguments.values())])
def test_the_oracles_slopes_are_differences(name, monkeypatch):
    """On two cases, with h = 1e-15 in 50 digits; what is held constant stays constant. At a kink there is no slope."""
    objective, step, compared = OBJECTIVES[name], mpf("1e-15"), 0
    found = [(g.settings, c) for g in objective.groups for c in g.cases if c.result == "valid" and not c.properties]
    for settings, case in found[:2]:
        with monkeypatch.context() as patched:
            constants = record(patched)
            outputs, gradients = objective.run(case.inputs, settings)
        here = mp.fsum(numbers.dual(x).value for x in flat(outputs[next(iter(objective.returns))]))
        for k, gradient in gradients.items():
            for at, slope in zip(places(case.inputs[k]), flat(gradient), strict=True):
                sides = []
                for h in (step, -step):
                    with monkeypatch.context() as patched:
                        replay(patched, constants)
                        there = total(objective, case.inputs | {k: moved(case.inputs[k], at, h)}, settings)
                    sides.append((there - here) / h)
                size = max(1, abs(slope.value))
                if not abs(sides[0] - sides[1]) > mpf("1e-10") * size:
                    assert abs(mp.fsum(sides) / 2 - slope.value) <= mpf("1e-12") * size, (case.comment, k, at)
                    compared += 1
    assert compared >= 2


def test_the_oracle_is_independent():
    folder = Path(torchstone_oracle.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert {n.split(".")[0] for n in names} <= {"mpmath", *sys.stdlib_module_names}, path
    code = "import sys, torchstone_oracle.contracts; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "torchstone", "numpy", "jax"} & {m.split(".")[0] for m in run.stdout.split()}
