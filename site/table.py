"""The policy rows of the table of recipes as data, for the explorer that runs them in JavaScript.

python site/table.py            the rows, as site/maths/recipes.mjs reads them
python site/table.py --updates  batches, and the push of every row on every token of them, by torchstone itself
"""

from __future__ import annotations

import html
import json
import math
import random
import re
import sys
from typing import Any

import torch

from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.recipes.choices import Recipe, show
from torchstone.recipes.table import HEADINGS, KINDS, cells, differences, in_full, linked, told, value

OFF = {"none", "all", "trainer"}
UNUSED = {"value", "entropy"}  # what they add to the loss does not depend on the policy's log-probs
ROWS = [row for row in RECIPES.values() if isinstance(row, PolicyRecipe)]
P, G, T = 3, 4, 6
GIVEN = {  # what a batch has beside what every row takes
    "rewards", "mask", "old_log_probs", "log_probs", "ref_log_probs", "sampler_log_probs", "values", "energies",
    "greedy_rewards", "prompt_values", "entropies", "max_length", "group_size", "lengths", "token_rewards",
    "token_weights",
}  # fmt: skip
MAX_LENGTH = 20480  # no completion is near it: the price on long answers is 0


def table() -> dict[str, Any]:
    """Each choice once, and each row: its name, in words, and for each column the place of its choice, from 1, or 0.

    Rows stand by the framework behind their name's @, published ones first. Of a framework's rows the words are left
    out: they stand on the page that compares rows. ``lacks``: of rows that need what ``batch`` has not, what it is.
    """
    named = [at for at in PolicyRecipe.COLUMNS if at not in UNUSED]
    choices: list[Any] = []
    rows: dict[str, list[Any]] = {}
    for row in ROWS:
        found = columns(row)
        choices += [c for i, c in enumerate(found.values()) if c not in choices + list(found.values())[:i]]
        places = [choices.index(found[at]) + 1 if at in found else 0 for at in named]
        name, _, of = row.name.partition("@")
        rows.setdefault(of, []).append([name, "" if of else row.about, *places])
    lacks = {row.name: found for row in ROWS if (found := lacking(row))}
    return {"columns": named, "choices": choices, "rows": rows, "lacks": lacks}


def columns(row: PolicyRecipe) -> dict[str, Any]:
    choices = {at: getattr(row, at) for at in row.COLUMNS if at not in UNUSED}
    return {at: [c.name, dict(c.numbers)] for at, c in choices.items() if c.name not in OFF or at == "advantage"}


def lacking(row: PolicyRecipe) -> list[str]:
    unused = {tensor for at in UNUSED for tensor in row.inputs(at)}
    several = ["several rewards a completion"] if row.several else []
    return several + [tensor for tensor in row.needs() if tensor not in {*GIVEN, *unused}]


def everything() -> dict[str, Any]:
    """Every row: its cells under the headings of its kind, and each choice in full with what it does to the update.

    A choice stands once among the choices, and a row has its place there.
    """
    kinds = {word: {"title": title, "headings": list(HEADINGS[kind])} for kind, (word, title) in KINDS.items()}
    choices: list[Any] = []
    rows = []
    for row in RECIPES.values():
        places = {}
        for at in row.COLUMNS:
            numbers = {k: of_number(row, at, k) for k in row.option(at).numbers}
            choice = [getattr(row, at).name, *told(row, at), numbers]
            choices += [] if choice in choices else [choice]
            places[at] = choices.index(choice)
        about = {"name": row.name, "kind": KINDS[type(row)][0], "about": row.about, "source": links(row.source)}
        rows.append({**about, "left_out": row.left_out, "cells": list(cells(row).values()), "choices": places})
    return {"kinds": kinds, "choices": choices, "rows": rows}


def of_number(row: Recipe, at: str, name: str) -> list[str]:
    """As it is told, what it does; and as it is written, where that is something else, by which rows are compared."""
    told_so, written = in_full(row, at, name), show(value(row, at, name))
    return [told_so, row.effect(at, name), *([written] if written != told_so else [])]


def links(source: str) -> str:
    """arXiv ids as links, in HTML."""
    return re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', linked(html.escape(source, quote=False)))


def compared() -> list[Any]:
    """Pairs of rows, drawn, and what torchstone says differs: by this the page's own comparison is tested."""
    draw = random.Random(0)
    pairs = []
    for kind in KINDS:
        names = [row.name for row in RECIPES.values() if type(row) is kind]
        pairs += [draw.sample(names, 2) for _ in range(60)]
    return [[a, b, [[d.at, *d.values, *d.effects] for d in differences(RECIPES[a], RECIPES[b])]] for a, b in pairs]


def batch(seed: int) -> dict[str, Any]:
    """Ragged completions with a gap, a policy that has moved, and an engine that is not the trainer."""
    make = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(P * G, T, generator=make, dtype=torch.float64)

    rewards = torch.randint(0, 2, (P, G), generator=make).double()
    rewards[1] += torch.rand(G, generator=make, dtype=torch.float64)
    rewards[2] = 1.0  # a group without a signal
    lengths = torch.randint(1, T + 1, (P * G, 1), generator=make)
    mask = torch.arange(T) < lengths
    mask[1, 2] = False
    old = -torch.rand(P * G, T, generator=make, dtype=torch.float64) * 2 - 0.2
    shift = 0.3 * torch.randn(P * G, 1, generator=make, dtype=torch.float64)
    return {
        "rewards": rewards, "mask": mask, "old_log_probs": old,
        "log_probs": (old + shift + normal(0.2)).clamp(max=-0.01), "ref_log_probs": old + normal(0.3),
        "sampler_log_probs": old + normal(0.25), "values": normal(0.5) + 0.5, "energies": 0.1 + normal(1.0).square(),
        "greedy_rewards": torch.rand(P, generator=make, dtype=torch.float64),
        "prompt_values": torch.rand(P, generator=make, dtype=torch.float64),
        "entropies": 1.5 + normal(0.5), "max_length": MAX_LENGTH, "group_size": G,
    }  # fmt: skip


def push(row: PolicyRecipe, given: dict[str, Any]) -> list[list[float]]:
    keep = row.keep(given["rewards"]).repeat_interleave(G)[:, None]
    known = {**given, "old_values": given["values"], "returns": given["values"] * 0, "mask": given["mask"] & keep}
    log_probs = given["log_probs"].clone().requires_grad_()
    earned = row.advantages(known["rewards"], known["mask"], **row.used("advantages", known))
    ahead = row.used("token_weights", known)
    known["token_weights"] = row.token_weights(known["log_probs"], earned.advantages, known["mask"], **ahead)
    row.loss(log_probs, earned.advantages, known["mask"], **row.used("loss", known)).value.backward()
    assert log_probs.grad is not None
    return (-log_probs.grad).tolist()


def plain(x: Any) -> Any:
    return x.tolist() if isinstance(x, torch.Tensor) else x


def main() -> None:
    if "--updates" in sys.argv[1:]:
        batches = [batch(seed) for seed in range(4)]
        found = [
            {"batch": {k: plain(v) for k, v in b.items()}, "push": {r.name: push(r, b) for r in ROWS if not lacking(r)}}
            for b in batches
        ]
        assert all(math.isfinite(x) for one in found for rows in one["push"].values() for row in rows for x in row)
        print(json.dumps(found))
    elif "--all" in sys.argv[1:]:
        print(json.dumps(everything(), ensure_ascii=False))
    elif "--compared" in sys.argv[1:]:
        print(json.dumps(compared(), ensure_ascii=False))
    else:
        print(json.dumps(table(), ensure_ascii=False))


main()
