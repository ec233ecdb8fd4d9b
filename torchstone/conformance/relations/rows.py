"""How the rows of a batch bear on each other: in parts, in another order, as many as columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchstone.conformance.relations.subject import Answer, Batch, Refused, Status, Subject, held, relation


@relation("split")
def split(s: Subject) -> Status:
    """Two parts of the batch give the whole: row by row, by one denominator, or by weights of the two."""
    blocks = s.blocks
    if len(blocks) < 2:
        return "skip", "one row cannot be split"
    half = (len(blocks) + 1) // 2
    parts = [[i for b in part for i in b] for part in (blocks[:half], blocks[half:])]
    if s.base.output.ndim and len(s.base.output) == sum(map(len, blocks)):
        answers = [s.ask(s.take(p)) for p in parts]
        joined = Answer(torch.cat([a.output for a in answers]), _joined(s, answers))
        found = s.apart(joined, s.base)
        return ("warn", f"rows depend on each other: in two parts, {found}") if found else ("pass", "rows stand alone")
    if s.base.output.ndim:
        return "skip", "its output has other rows than its inputs"
    return (_by_denominator if "denominator" in s.batch else _by_weights)(s, parts)


def _by_denominator(s: Subject, parts: Sequence[Sequence[int]]) -> Status:
    fixed = {**s.batch, "denominator": 7}
    answers = [s.ask(s.take(p, fixed)) for p in parts]
    found = s.apart(_added(s, answers), s.ask(fixed))
    if found and (leak := _coupled(s, fixed)):
        return "warn", f"rows depend on each other: {leak}"
    told = "two parts with the whole's denominator add up to the whole"
    return held(found, told, "in two parts with one denominator")


def _by_weights(s: Subject, parts: Sequence[Sequence[int]]) -> Status:
    answers = [s.ask(s.take(p)) for p in parts]
    for by, weights in _weights(s, parts).items():
        if s.apart(_added(s, answers, weights), s.base) is None:
            return "pass", f"two parts, {by}, add up to the whole; it takes no denominator, so a caller must do that"
    return "warn", "no weights of two parts give the whole: either rows depend on each other, or terms mix their means"


def _added(s: Subject, answers: Sequence[Answer], weights: Sequence[float] = (1.0, 1.0)) -> Answer:
    total = sum((w * a.output for w, a in zip(weights, answers, strict=True)), torch.zeros(()))
    return Answer(total, _joined(s, answers, weights))


def _coupled(s: Subject, batch: Batch) -> str | None:
    """Do the numbers of the last row act on the gradient of the others?"""
    before = s.ask(batch)
    for name in s.declared:
        if not s.rows(name) or before.gradients is None or name not in before.gradients:
            continue
        changed = {**batch, name: batch[name].clone()}
        x = changed[name]
        x[-1] = x.min() - 1 if x[-1].max() > x.min() else x.max() + 1
        after = s.ask(changed).gradients
        leak = (after[name] - before.gradients[name])[:-1].abs().max() if after else torch.zeros(())
        if leak > 100 * s.tolerance * float(before.gradients[name].abs().max()):
            return f"the last row moves the gradient of others by {leak.item():.3g}"
    return None


def _joined(s: Subject, answers: Sequence[Answer], weights: Sequence[float] = (1.0, 1.0)) -> dict[str, Tensor] | None:
    if any(a.gradients is None for a in answers):
        return None
    names = [k for k in answers[0].gradients or {} if s.rows(k)]
    return {k: torch.cat([w * a.gradients[k] for w, a in zip(weights, answers, strict=True)]) for k in names}  # type: ignore[index]


def _weights(s: Subject, parts: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    counts: dict[str, list[float]] = {"by rows": [float(len(p)) for p in parts]}
    if s.mask is not None:
        tokens = [float(s.mask[list(p)].sum()) for p in parts]
        counts = {
            "by tokens": tokens,
            "by rows with a token": [float(s.mask[list(p)].any(1).sum()) for p in parts],
        } | counts
    shares = {f"weighted {by}": [c / sum(n) for c in n] for by, n in counts.items()}
    return {"added": [1.0, 1.0]} | shares


@relation("permutation")
def permutation(s: Subject) -> Status:
    """Another order of the rows gives the same, in that order."""
    blocks = s.blocks
    if len(blocks) < 2:
        return "skip", "one row cannot be permuted"
    order = [i for b in (*blocks[1:], blocks[0]) for i in b]
    got = s.ask(s.take(order))
    slopes = s.base.gradients
    permuted = None if slopes is None else {k: g[order] if s.rows(k) else g for k, g in slopes.items()}
    of_rows = s.base.output.ndim and len(s.base.output) == len(order)
    wanted = Answer(s.base.output[order] if of_rows else s.base.output, permuted)
    mask = s.mask[order] if s.mask is not None else None
    told = "another order of the rows gives the same, in that order"
    return held(s.apart(got, wanted, mask), told, "with the rows in another order")


@relation("as many rows as columns")
def square(s: Subject) -> Status:
    """With as many rows as columns, what is one number a row is not laid along the columns."""
    flat = [k for k, x in s.batch.items() if s.shapes.get(k) == "B" and isinstance(x, Tensor) and x.is_floating_point()]
    wide = [k for k in s.batch if s.columns(k)]
    if not flat or not wide:
        return "skip", "no argument has one number a row beside one a token"
    name, width = flat[0], s.batch[wide[0]].shape[1]
    size = max(2, int(s.batch.get("group_size") or 1), width)
    size += -size % int(s.batch.get("group_size") or 1)
    even = _sized(s, size, size)
    at_square = _leaks(s, even, name)
    if at_square is None:
        return "pass", f"each of {name} acts on its own row"
    try:
        elsewhere = _leaks(s, _sized(s, size, size + 1), name)
    except Refused:
        elsewhere = None
    if elsewhere is not None:
        return "warn", f"rows depend on each other: {elsewhere}"
    return "fail", f"with {size} rows and {size} columns {name} is laid along the wrong axis: {at_square}"


def _sized(s: Subject, rows: int, columns: int) -> Batch:
    """The batch cut or repeated to this size, with everything chosen."""
    batch = {}
    for k, x in s.batch.items():
        if s.rows(k):
            x = x[torch.arange(rows) % len(x)]
        if s.columns(k):
            x = x[:, torch.arange(columns) % x.shape[1]]
        batch[k] = torch.ones_like(x) if k == "mask" else x
    return batch


def _leaks(s: Subject, batch: Batch, name: str) -> str | None:
    """Does the first row's number act on other rows?"""
    changed = {**batch, name: batch[name].clone()}
    changed[name][0] += 1.5
    before, after = s.ask(batch), s.ask(changed)
    margin = 100 * s.tolerance
    if before.output.ndim and len(before.output) == len(batch[name]):
        leak = (after.output - before.output)[1:].abs().max()
        return f"the output of other rows moves by {leak.item():.3g}" if leak > margin else None
    for k in s.declared:
        if before.gradients is not None and k in before.gradients and s.columns(k):
            leak = (after.gradients[k] - before.gradients[k])[1:].abs().max()  # type: ignore[index]
            if leak > margin * max(1e-3, float(before.gradients[k].abs().max())):
                return f"the gradient of other rows of {k} moves by {leak.item():.3g}"
    other = {
        k: torch.cat([x[:1], x[1:] * 0.9 - 0.05]) if s.columns(k) and x.is_floating_point() else x
        for k, x in batch.items()
    }
    step = s.total(after, batch) - s.total(before, batch)
    again = s.total(s.ask({**other, name: changed[name]}), batch) - s.total(s.ask(other), batch)
    same = abs(step - again) <= margin * max(abs(step), abs(again), 1e-3)
    return None if same else f"its effect depends on other rows: {step:.4g} became {again:.4g}"
