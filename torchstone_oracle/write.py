"""Objectives to JSON: one file each, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contract import Case, Flag, Group, Objective, flat
from .numbers import Dual, dual, mp, mpf

SCHEMA = "torchstone-vectors/1"
TOLERANCE = {"float64": "1e-7", "float32": "2e-5"}  # an eps of 1e-8 in a denominator is no fault
DIFFERENT = mpf("1e-4")  # of the largest magnitude: less could be rounding in float32


def document(objective: Objective) -> dict[str, Any]:
    """The whole file of an objective."""
    used = {flag for group in objective.groups for case in group.cases for flag in case.flags}
    flags = {name: flag for name, flag in objective.edges.items() if name in used}
    flags |= {name: a.flag for name, a in objective.alternatives.items()}
    ids = iter(range(1, 10_000))
    return {
        "schema": SCHEMA,
        "objective": objective.name,
        "about": objective.about,
        "tags": list(objective.tags),
        "source": list(objective.source),
        "license": "CC0-1.0",
        "generator": "oracle: plain Python over mpmath, 50 digits, rounded to float64",
        "arguments": {
            k: {"shape": a.shape, "unit": a.unit, "kind": a.kind, "gradient": a.gradient}
            for k, a in objective.arguments.items()
        },
        "returns": {
            k: {"shape": a.shape, "unit": a.unit, "metric": k in objective.metrics}
            for k, a in objective.returns.items()
        },
        "settings": {
            k: {"about": s.about, "free": s.free, "usual": [text(v) for v in s.usual]}
            for k, s in objective.settings.items()
        },
        "flags": {name: flag_data(flag) for name, flag in flags.items()},
        "groups": [group_data(objective, group, ids) for group in objective.groups],
    }


def flag_data(flag: Flag) -> dict[str, Any]:
    return {
        "kind": flag.kind,
        "about": flag.about,
        "effect": flag.effect,
        "pitfalls": list(flag.pitfalls),
        "links": list(flag.links),
    }


def group_data(objective: Objective, group: Group, ids: Any) -> dict[str, Any]:
    unknown = set(group.settings) ^ set(objective.settings)
    if unknown:
        raise ValueError(f"{objective.name}: every group gives every setting, and no other; see {sorted(unknown)}")
    return {
        "settings": {k: text(group.settings[k]) for k in objective.settings},
        "cases": [case_data(objective, group.settings, case, next(ids)) for case in group.cases],
    }


def case_data(objective: Objective, settings: Mapping[str, Any], case: Case, number: int) -> dict[str, Any]:
    unknown = [f for f in case.flags if f not in objective.edges] + [
        k for k in case.inputs if k not in objective.arguments
    ]
    if unknown:
        raise ValueError(f"{objective.name}, case {number} ({case.comment}): unknown {unknown}")
    data: dict[str, Any] = {
        "id": number,
        "comment": case.comment,
        "flags": list(case.flags),
        "result": case.result,
        "inputs": {
            k: text(case.inputs[k], a.kind == "float")
            for k, a in objective.arguments.items()
            if case.inputs.get(k) is not None
        },
    }
    if case.result == "invalid":
        return data
    outputs, gradients = objective.run(case.inputs, settings)
    if case.properties:
        return data | {"properties": {"finite": True, "signs": {k: signs(g) for k, g in gradients.items()}}}
    data["expected"] = numbers(objective, outputs, gradients)
    data["tolerance"] = {**TOLERANCE, **case.tolerance}
    data["alternatives"] = {}
    for name in objective.alternatives:
        found = objective.run(case.inputs, settings, name)
        if differ(outputs, found[0]) or differ(gradients, found[1]):
            data["alternatives"][name] = numbers(objective, *found)
    return data


def numbers(objective: Objective, outputs: Mapping[str, Any], gradients: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "outputs": {k: text(outputs[k]) for k in objective.returns if outputs.get(k) is not None},
        "gradients": {k: text(g) for k, g in gradients.items()},
    }


def differ(right: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Do any two numbers differ by more than ``DIFFERENT`` of the largest of their tensor?"""
    for name in right:
        a, b = ([dual(x).value for x in flat(tree[name])] for tree in (right, other))
        scale = max((abs(x) for x in a + b if mp.isfinite(x)), default=0)
        if len(a) != len(b) or any(not close(x, y, scale) for x, y in zip(a, b, strict=True)):
            return True
    return False


def close(x: mpf, y: mpf, scale: mpf) -> bool:
    if not (mp.isfinite(x) and mp.isfinite(y)):
        return bool(x == y or (mp.isnan(x) and mp.isnan(y)))
    return bool(abs(x - y) <= DIFFERENT * scale)


def signs(x: Any) -> Any:
    if isinstance(x, list):
        return [signs(part) for part in x]
    return int(mp.sign(dual(x).value))


def text(x: Any, every: bool = False) -> Any:
    """Numbers as the shortest decimal that gives the same float64 back; integers, names and booleans as they are."""
    if isinstance(x, list | tuple):
        return [text(part, every) for part in x]
    if isinstance(x, Dual | mpf | float) or (every and isinstance(x, int)):
        value = float(dual(x).value)
        if abs(value) < 1e-45:  # less than float32 can hold: what is left where 50 digits cancel
            value = 0.0
        return repr(int(value)) if value == int_or_nan(value) else repr(value)
    return x


def int_or_nan(value: float) -> float:
    return float(int(value)) if abs(value) < 1e15 else float("nan")


def pretty(x: Any, indent: int = 0, width: int = 120) -> str:
    """JSON on one line where it fits, else a line for each entry; a row of numbers is never broken."""
    flat_form = json.dumps(x, ensure_ascii=False)
    row = isinstance(x, list) and not any(isinstance(part, list | dict) for part in x)
    if len(flat_form) + indent <= width or not isinstance(x, dict | list) or row:
        return flat_form
    pad, end = " " * (indent + 1), " " * indent
    if isinstance(x, dict):
        lines = [f"{pad}{json.dumps(k)}: {pretty(v, indent + 1, width - len(k) - 4)}" for k, v in x.items()]
        return "{\n" + ",\n".join(lines) + "\n" + end + "}"
    return "[\n" + ",\n".join(pad + pretty(v, indent + 1, width) for v in x) + "\n" + end + "]"


def write(objective: Objective, folder: Path) -> Path:
    path = folder / f"{objective.name}.json"
    path.write_text(pretty(document(objective)) + "\n", encoding="utf-8")
    return path
