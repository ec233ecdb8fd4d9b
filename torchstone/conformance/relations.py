"""What must hold for any objective, whatever its numbers are: no golden value, only one answer against another.

metamorphic(my_loss, "grpo_loss")                    arguments matched as ``check`` does
metamorphic(my_loss, {"lp": "log_probs", ...})       a plain function of tensors; each name with its role
properties(call, batch, shapes)                      call(inputs) gives (output, gradients)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchstone.conformance.target import Overtime, TargetError, describe, limited

Batch = dict[str, Any]  # our name -> a tensor, or a number


class Answer(NamedTuple):
    """``gradients``: of the sum of ``output`` (over the chosen tokens, if it is one per token); None if none flow."""

    output: Tensor
    gradients: Mapping[str, Tensor] | None
    changed: tuple[str, ...] = ()  # inputs that were changed in place


Call = Callable[[Batch], Any]  # gives an Answer, or its first two parts as a tuple


@dataclass(frozen=True)
class Property:
    """``status``: "pass", "fail", "warn" (right only if the caller does its part) or "skip" (cannot be asked here)."""

    name: str
    status: str
    detail: str = ""


class Refused(Exception):
    """The function raised, or gave nothing that can be compared."""


def metamorphic(
    function: Callable[..., Any], kind: str | Mapping[str, str] | None = None, *,
    names: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None,
    output: str | int | None = None, arrays: str | None = None, layout: str | None = None, time_limit: float = 10.0,
) -> list[Property]:  # fmt: skip
    """Check a function against itself.

    Args:
        kind: an objective's name; or, for a function that is none of them, parameter -> role, such as
            {"lp": "log_probs", "adv": "advantages", "mask": "mask"}; what is left out or None is told by the names.
        names, settings, output, arrays, layout, time_limit: as in ``conformance.check``.

    Returns: a ``Property`` for each relation, in a fixed order.
    Raises ValueError: no such objective, role or parameter.
    """
    given = dict(names or {})
    if isinstance(kind, str):
        call, batch, shapes, declared = _fitted(
            function, kind, given, settings or {}, output, arrays, layout, time_limit
        )
    else:
        roles = {**given, **(kind or {})}
        call, batch, shapes, declared = _plain(function, roles, settings or {}, output, time_limit)
    return properties(call, batch, shapes, declared)


def properties(
    call: Call, batch: Batch, shapes: Mapping[str, str], declared: Sequence[str] = ("log_probs",)
) -> list[Property]:
    """All relations for one way to call a function.

    Args:
        call: given a batch, its output and gradients.
        batch: our names -> tensors in float64, bool or int64, and numbers (``beta``).
        shapes: names of the dimensions, such as "B T"; rows are B, N or P, and columns T.
        declared: the arguments that a gradient should flow through.
    """
    try:
        relations = Relations(call, batch, shapes, declared)
    except Refused as e:
        return [Property("runs", "fail", str(e))]
    first = RELATIONS[0](relations)
    if first.status == "fail":
        return [first]  # against changing numbers nothing can be compared
    return [first, *(relation(relations) for relation in RELATIONS[1:])]


# ------------------------------------------------------------------------------------------------------ one run of many


class Relations:
    """The plain answer, and what the relations need to ask for others."""

    def __init__(self, call: Call, batch: Batch, shapes: Mapping[str, str], declared: Sequence[str]) -> None:
        self.call, self.shapes, self.declared = call, dict(shapes), tuple(declared)
        self.batch = {k: x.clone() if isinstance(x, Tensor) else x for k, x in batch.items()}
        self.base = self.ask(self.batch)
        if not self.base.output.isfinite().all() and not self.per_token:
            raise Refused(f"its value on an ordinary batch is {self.base.output.flatten()[0].item()}")
        x = self.base.output.nan_to_num()
        self.tolerance = 1e-4 if torch.equal(x, x.float().double()) and x.any() else 1e-8

    def ask(self, batch: Batch) -> Answer:
        answer = self.call({k: x.clone() if isinstance(x, Tensor) else x for k, x in batch.items()})
        output, gradients, *changed = answer
        slopes = None if gradients is None else {k: g.detach().double() for k, g in gradients.items()}
        return Answer(torch.as_tensor(output).detach().double(), slopes, *changed)

    def rows(self, name: str) -> bool:
        return self.shapes.get(name, "").split()[:1] in (["B"], ["N"], ["P"])

    def columns(self, name: str) -> bool:
        return self.shapes.get(name, "").split()[1:2] == ["T"]

    @property
    def mask(self) -> Tensor | None:
        return self.batch.get("mask")

    @property
    def per_token(self) -> bool:
        return self.mask is not None and self.base.output.shape == self.mask.shape

    @property
    def blocks(self) -> list[list[int]]:
        """Rows that must stay together: groups, if the function is told their size."""
        n = next((len(x) for k, x in self.batch.items() if self.rows(k)), 0)
        size = int(self.batch.get("group_size") or 1)
        return [list(range(i, min(i + size, n))) for i in range(0, n, size)]

    def take(self, rows: Sequence[int], batch: Batch | None = None) -> Batch:
        return {k: x[list(rows)] if self.rows(k) else x for k, x in (batch or self.batch).items()}

    def total(self, answer: Answer, batch: Batch) -> float:
        mask = batch.get("mask")
        chosen = mask is not None and mask.shape == answer.output.shape
        return float(answer.output[mask].sum() if chosen else answer.output.sum())

    def apart(self, got: Answer, wanted: Answer, mask: Tensor | None = None, tolerance: float = 0.0) -> str | None:
        """The first number in which two answers differ; under the mask only gradients count, which are 0 there."""
        mask = self.mask if mask is None else mask
        margin = tolerance or self.tolerance
        if got.output.shape != wanted.output.shape:
            return f"the output has shape {list(got.output.shape)} in place of {list(wanted.output.shape)}"
        pairs = [("the output", got.output, wanted.output)]
        if got.gradients is not None and wanted.gradients is not None:
            both = [k for k in wanted.gradients if k in got.gradients]
            pairs += [(f"the gradient of {k}", got.gradients[k], wanted.gradients[k]) for k in both]
        unit = max([float(w.nan_to_num(0, 0, 0).abs().max()) for _, _, w in pairs if w.numel()] or [0.0]) or 1.0
        for name, a, b in pairs:
            if name == "the output" and mask is not None and a.shape == mask.shape:
                a, b = a.masked_fill(~mask, 0), b.masked_fill(~mask, 0)
            bad = ~((a - b).abs() <= margin * unit)
            if bad.any():
                at = bad.nonzero()[0].tolist()
                place = "".join(f"[{i}]" for i in at)
                return f"{name}{place}: {b[tuple(at)].item():.6g} became {a[tuple(at)].item():.6g}"
        return None


Relation = Callable[[Relations], Property]
RELATIONS: list[Relation] = []


def relation(name: str) -> Callable[[Callable[[Relations], tuple[str, str]]], Relation]:
    """A relation: what it gives is (status, detail); that the function raises is a failure."""

    def wrap(body: Callable[[Relations], tuple[str, str]]) -> Relation:
        def ask(r: Relations) -> Property:
            try:
                return Property(name, *body(r))
            except Refused as e:
                return Property(name, "fail", str(e))

        RELATIONS.append(ask)
        return ask

    return wrap


def _held(found: str | None, told: str, when: str) -> tuple[str, str]:
    return ("fail", f"{when}, {found}") if found else ("pass", told)


# ----------------------------------------------------------------------------------------------------- the relations


@relation("the same twice")
def determinism(r: Relations) -> tuple[str, str]:
    again = r.ask(r.batch)
    same = torch.equal(again.output.nan_to_num(), r.base.output.nan_to_num())
    return ("pass", "two calls give the same numbers") if same else ("fail", "two calls give different numbers")


@relation("inputs unchanged")
def inputs_unchanged(r: Relations) -> tuple[str, str]:
    changed = ", ".join(r.base.changed)
    return ("fail", f"it changes {changed} in place") if changed else ("pass", "nothing is written into")


@relation("padding")
def padding(r: Relations) -> tuple[str, str]:
    if r.mask is None:
        return "skip", "it takes no mask"
    wide = {k: _padded(x, 2) if r.columns(k) else x for k, x in r.batch.items()}
    got = r.ask(wide)
    width = r.mask.shape[1]
    slopes = None if got.gradients is None else {k: _cut(r, k, g, width) for k, g in got.gradients.items()}
    under = next((k for k, g in (got.gradients or {}).items() if r.columns(k) and g[:, width:].any()), None)
    if under:
        return "fail", f"a gradient flows into {under} in the padding"
    output = got.output[:, :width] if got.output.ndim == 2 and got.output.shape[1] == width + 2 else got.output
    return _held(
        r.apart(Answer(output, slopes), r.base),
        "two more columns, with junk under the mask, change nothing",
        "with two more columns",
    )


def _padded(x: Tensor, n: int) -> Tensor:
    junk = 7.0 if x.is_floating_point() else 0
    return torch.cat([x, torch.full((len(x), n, *x.shape[2:]), junk, dtype=x.dtype)], 1)


def _cut(r: Relations, name: str, x: Tensor, width: int) -> Tensor:
    return x[:, :width] if r.columns(name) else x


@relation("junk under the mask")
def junk(r: Relations) -> tuple[str, str]:
    return _under(r, -5.5, "what lies under the mask changes nothing", "with -5.5 under the mask")


@relation("NaN under the mask")
def nan(r: Relations) -> tuple[str, str]:
    return _under(r, math.nan, "NaN under the mask reaches neither value nor gradient", "with NaN under the mask")


def _under(r: Relations, value: float, told: str, when: str) -> tuple[str, str]:
    if r.mask is None:
        return "skip", "it takes no mask"
    if r.mask.all():
        return "skip", "nothing lies under the mask"
    hidden = ~r.mask
    filled = {
        k: x.masked_fill(hidden if x.ndim == 2 else hidden[..., None], value)
        if r.columns(k) and isinstance(x, Tensor) and x.is_floating_point()
        else x
        for k, x in r.batch.items()
    }
    got = r.ask(filled)
    for k, g in (got.gradients or {}).items():
        if r.columns(k) and (g[hidden].isnan().any() or g[hidden].any()):
            return "fail", f"under the mask the gradient of {k} is {g[hidden][g[hidden] != 0][0].item():.4g}, not 0"
    return _held(r.apart(got, r.base), told, when)


@relation("split")
def split(r: Relations) -> tuple[str, str]:
    blocks = r.blocks
    if len(blocks) < 2:
        return "skip", "one row cannot be split"
    half = (len(blocks) + 1) // 2
    parts = [[i for b in part for i in b] for part in (blocks[:half], blocks[half:])]
    if r.base.output.ndim and len(r.base.output) == sum(map(len, blocks)):
        answers = [r.ask(r.take(p)) for p in parts]
        joined = Answer(torch.cat([a.output for a in answers]), _joined(r, answers))
        found = r.apart(joined, r.base)
        return ("warn", f"rows depend on each other: in two parts, {found}") if found else ("pass", "rows stand alone")
    if r.base.output.ndim:
        return "skip", "its output has other rows than its inputs"
    if "denominator" in r.batch:
        fixed = {**r.batch, "denominator": 7}
        answers = [r.ask(r.take(p, fixed)) for p in parts]
        joined = Answer(sum((a.output for a in answers), torch.zeros(())), _joined(r, answers))
        found = r.apart(joined, r.ask(fixed))
        if found and (leak := _coupled(r, fixed)):
            return "warn", f"rows depend on each other: {leak}"
        return _held(
            found, "two parts with the whole's denominator add up to the whole", "in two parts with one denominator"
        )
    answers = [r.ask(r.take(p)) for p in parts]
    for how, weights in _weights(r, parts).items():
        joined = Answer(
            sum((w * a.output for w, a in zip(weights, answers, strict=True)), torch.zeros(())),
            _joined(r, answers, weights),
        )
        if r.apart(joined, r.base) is None:
            return "pass", f"two parts, {how}, add up to the whole; it takes no denominator, so a caller must do that"
    return "warn", "no weights of two parts give the whole: either rows depend on each other, or terms mix their means"


def _coupled(r: Relations, batch: Batch) -> str | None:
    """Do the numbers of the last row act on the gradient of the others?"""
    before = r.ask(batch)
    for name in r.declared:
        if not r.rows(name) or before.gradients is None or name not in before.gradients:
            continue
        moved = {**batch, name: batch[name].clone()}
        moved[name][-1] = moved[name].min() - 1 if moved[name][-1].max() > moved[name].min() else moved[name].max() + 1
        after = r.ask(moved).gradients
        leak = (after[name] - before.gradients[name])[:-1].abs().max() if after else torch.zeros(())
        if leak > 100 * r.tolerance * float(before.gradients[name].abs().max()):
            return f"the last row moves the gradient of others by {leak.item():.3g}"
    return None


def _joined(r: Relations, answers: Sequence[Answer], weights: Sequence[float] = (1.0, 1.0)) -> dict[str, Tensor] | None:
    if any(a.gradients is None for a in answers):
        return None
    names = [k for k in answers[0].gradients or {} if r.rows(k)]
    return {k: torch.cat([w * a.gradients[k] for w, a in zip(weights, answers, strict=True)]) for k in names}  # type: ignore[index]


def _weights(r: Relations, parts: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    counts: dict[str, list[float]] = {"by rows": [float(len(p)) for p in parts]}
    if r.mask is not None:
        tokens = [float(r.mask[list(p)].sum()) for p in parts]
        counts = {
            "by tokens": tokens,
            "by rows with a token": [float(r.mask[list(p)].any(1).sum()) for p in parts],
        } | counts
    shares = {f"weighted {how}": [c / sum(n) for c in n] for how, n in counts.items()}
    return {"added": [1.0, 1.0]} | shares


@relation("permutation")
def permutation(r: Relations) -> tuple[str, str]:
    blocks = r.blocks
    if len(blocks) < 2:
        return "skip", "one row cannot be permuted"
    order = [i for b in (*blocks[1:], blocks[0]) for i in b]
    got = r.ask(r.take(order))
    slopes = r.base.gradients
    moved = None if slopes is None else {k: g[order] if r.rows(k) else g for k, g in slopes.items()}
    of_rows = r.base.output.ndim and len(r.base.output) == len(order)
    wanted = Answer(r.base.output[order] if of_rows else r.base.output, moved)
    mask = r.mask[order] if r.mask is not None else None
    told = "another order of the rows gives the same, in that order"
    return _held(r.apart(got, wanted, mask), told, "with the rows in another order")


@relation("as many rows as columns")
def square(r: Relations) -> tuple[str, str]:
    flat = [k for k, x in r.batch.items() if r.shapes.get(k) == "B" and isinstance(x, Tensor) and x.is_floating_point()]
    wide = [k for k in r.batch if r.columns(k)]
    if not flat or not wide:
        return "skip", "no argument has one number a row beside one a token"
    name, width = flat[0], r.batch[wide[0]].shape[1]
    size = max(2, int(r.batch.get("group_size") or 1), width)
    size += -size % int(r.batch.get("group_size") or 1)
    even = _sized(r, size, size)
    at_square = _leaks(r, even, name)
    if at_square is None:
        return "pass", f"each of {name} acts on its own row"
    try:
        elsewhere = _leaks(r, _sized(r, size, size + 1), name)
    except Refused:
        elsewhere = None
    if elsewhere is not None:
        return "warn", f"rows depend on each other: {elsewhere}"
    return "fail", f"with {size} rows and {size} columns {name} is laid along the wrong axis: {at_square}"


def _sized(r: Relations, rows: int, columns: int) -> Batch:
    """The batch cut or repeated to this size, with everything chosen."""
    batch = {}
    for k, x in r.batch.items():
        if r.rows(k):
            x = x[torch.arange(rows) % len(x)]
        if r.columns(k):
            x = x[:, torch.arange(columns) % x.shape[1]]
        batch[k] = torch.ones_like(x) if k == "mask" else x
    return batch


def _leaks(r: Relations, batch: Batch, name: str) -> str | None:
    """Does the first row's number act on other rows?"""
    moved = {**batch, name: batch[name].clone()}
    moved[name][0] += 1.5
    before, after = r.ask(batch), r.ask(moved)
    margin = 100 * r.tolerance
    if before.output.ndim and len(before.output) == len(batch[name]):
        leak = (after.output - before.output)[1:].abs().max()
        return f"the output of other rows moves by {leak.item():.3g}" if leak > margin else None
    for k in r.declared:
        if before.gradients is not None and k in before.gradients and r.columns(k):
            leak = (after.gradients[k] - before.gradients[k])[1:].abs().max()  # type: ignore[index]
            if leak > margin * max(1e-3, float(before.gradients[k].abs().max())):
                return f"the gradient of other rows of {k} moves by {leak.item():.3g}"
    other = {
        k: torch.cat([x[:1], x[1:] * 0.9 - 0.05]) if r.columns(k) and x.is_floating_point() else x
        for k, x in batch.items()
    }
    step = r.total(after, batch) - r.total(before, batch)
    again = r.total(r.ask({**other, name: moved[name]}), batch) - r.total(r.ask(other), batch)
    same = abs(step - again) <= margin * max(abs(step), abs(again), 1e-3)
    return None if same else f"its effect depends on other rows: {step:.4g} became {again:.4g}"


@relation("scale")
def scale(r: Relations) -> tuple[str, str]:
    name = _credit(r)
    if name is None:
        return "skip", "no advantages"
    none = r.ask({**r.batch, name: torch.zeros_like(r.batch[name])})
    double = r.ask({**r.batch, name: 2 * r.batch[name]})
    wanted = _plus(r.base, _minus(r.base, none))
    if wanted.gradients is not None:
        wanted = wanted._replace(gradients={k: g for k, g in wanted.gradients.items() if k in r.declared})
    told = f"twice the {name} give twice their part of the loss and of its gradient"
    found = r.apart(double, wanted)
    return _held(found and found.replace(" became ", " was to be, it is "), told, f"with twice the {name}")


def _credit(r: Relations) -> str | None:
    if "log_probs" not in r.declared:
        return None
    return next(
        (k for k in ("advantages", "returns") if k in r.batch and (k == "advantages" or "values" not in r.batch)), None
    )


def _combined(a: Answer, b: Answer, sign: float) -> Answer:
    slopes = None
    if a.gradients is not None and b.gradients is not None:
        slopes = {k: g + sign * b.gradients[k] for k, g in a.gradients.items() if k in b.gradients}
    return Answer(a.output + sign * b.output, slopes)


_plus, _minus = partial(_combined, sign=1.0), partial(_combined, sign=-1.0)


@relation("sign of the advantage")
def sign(r: Relations) -> tuple[str, str]:
    if "chosen_log_probs" in r.batch or "chosen_rewards" in r.batch:
        return _sign_of_pairs(r)
    name = _credit(r)
    if name is None:
        return "skip", "no advantages"
    on_policy = {k: r.batch["log_probs"] if k in SAME else x for k, x in r.batch.items()}
    a = r.batch[name]
    alternating = torch.where(torch.arange(len(a)) % 2 == 0, 1.5, -1.0).to(a.dtype)
    a = alternating if a.ndim == 1 else alternating[:, None].expand_as(a).clone()
    pulled = _minus(r.ask({**on_policy, name: a}), r.ask({**on_policy, name: torch.zeros_like(a)}))
    slope = (pulled.gradients or {}).get("log_probs")
    if slope is None:
        return "skip", "it has no gradient"
    wanted = -(a if a.ndim == 2 else a[:, None].expand_as(slope)).sign()
    chosen = r.mask if r.mask is not None else torch.ones_like(slope, dtype=torch.bool)
    bad = chosen & ~(slope.sign() == wanted)
    if bad.any():
        i, j = bad.nonzero()[0].tolist()
        good = wanted[i, j] < 0
        does = "is not moved" if slope[i, j] == 0 else "becomes less likely" if good else "becomes more likely"
        said = "positive" if good else "negative"
        return (
            "fail",
            f"on policy, a token with a {said} advantage {does}: gradient {slope[i, j].item():.4g} at [{i}][{j}]",
        )
    return "pass", "on policy, good tokens become more likely and bad ones less"


SAME = ("old_log_probs", "ref_log_probs", "sampler_log_probs")


def _sign_of_pairs(r: Relations) -> tuple[str, str]:
    kind = "log_probs" if "chosen_log_probs" in r.batch else "rewards"
    one, two = (r.batch[f"{whose}_{kind}"] for whose in ("chosen", "rejected"))
    if one.shape != two.shape or torch.equal(one, two):
        return "skip", "chosen and rejected cannot be exchanged"
    start = dict(r.batch)
    for whose in ("chosen", "rejected"):
        if f"ref_{whose}_{kind}" in start:
            start[f"ref_{whose}_{kind}"] = (one + two) / 2
    high, low = torch.maximum(one, two), torch.minimum(one, two)
    better = r.total(r.ask({**start, f"chosen_{kind}": high, f"rejected_{kind}": low}), start)
    worse = r.total(r.ask({**start, f"chosen_{kind}": low, f"rejected_{kind}": high}), start)
    if better < worse:
        return "pass", "the loss is lower where the chosen one is the more likely one of each pair"
    return (
        "fail",
        f"with the chosen one of each pair above the rejected one the loss is {better:.4g}, below it {worse:.4g}",
    )


@relation("sign of beta")
def beta(r: Relations) -> tuple[str, str]:
    if not {"beta", "ref_log_probs", "log_probs"} <= set(r.batch) or _credit(r) is None:
        return "skip", "no KL weight beside a reference"
    away = {**r.batch, "ref_log_probs": r.batch["log_probs"] - 0.3}
    more = _minus(r.ask({**away, "beta": 0.6}), r.ask({**away, "beta": 0.1}))
    risen = r.total(more, r.batch)
    if risen <= 0:
        what = "does nothing" if risen == 0 else f"lowers the loss by {-risen:.4g}"
        return "fail", f"where the policy is 0.3 nats above its reference, a larger beta {what}"
    slope = (more.gradients or {}).get("log_probs")
    if slope is not None and not (slope[r.mask] > 0 if r.mask is not None else slope > 0).all():
        return "fail", "a larger beta does not pull tokens back that are 0.3 nats above the reference"
    return "pass", "a larger beta raises the loss away from the reference, and pulls back"


@relation("gradient where declared")
def gradient(r: Relations) -> tuple[str, str]:
    slopes = r.base.gradients
    if slopes is None:
        return ("skip", "none is expected") if not r.declared else ("skip", "it has no gradient")
    missing = [k for k in r.declared[:1] if k in slopes and not slopes[k].any()]
    if missing:
        return "fail", f"no gradient reaches {missing[0]}"
    also = [k for k, g in slopes.items() if k not in r.declared and g.nan_to_num(1.0).any()]
    if also:
        return "warn", f"a gradient reaches {', '.join(also)}: right only if the caller detaches them"
    return "pass", f"only {', '.join(r.declared)} have one" if r.declared else "nothing has one"


@relation("float32")
def single(r: Relations) -> tuple[str, str]:
    low = {k: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in r.batch.items()}
    return _held(r.apart(r.ask(low), r.base, tolerance=1e-4), "the same to four digits", "in float32")


# ---------------------------------------------------------------------------------- two ways to come by such a call


def _fitted(
    function: Callable[..., Any], objective: str, names: Mapping[str, str], settings: Mapping[str, Any],
    output: str | int | None, arrays: str | None, layout: str | None, time_limit: float,
) -> tuple[Call, Batch, dict[str, str], tuple[str, ...]]:  # fmt: skip
    """A function that is matched with an objective, on one of that objective's cases; only its inputs are used."""
    from torchstone.conformance.call import array, call
    from torchstone.conformance.fit import fit
    from torchstone.conformance.trial import applies, best_way, likely_arrays
    from torchstone.conformance.vectors import Case, load

    vectors = load(objective)
    how = fit(function, vectors, names, settings)
    cases = [c for c in vectors.cases if applies(c, how, vectors) and c.result == "valid" and _ordinary(c)]
    if not cases:
        raise TargetError(f"target: no ordinary case of {vectors.objective} can be run with these parameters")
    given = None if output is None else str(output)
    kinds = (arrays,) if arrays else likely_arrays(function)
    trial = best_way(function, how, vectors, cases, kinds, layout, given, time_limit)
    case = max(cases, key=_telling)
    inputs = {k: x for k, x in case.inputs.items() if how.expresses(k)}
    open_ = replace(
        vectors,
        arguments={
            k: replace(a, gradient=bool(a.kind == "float" and a.shape and k in inputs))
            for k, a in vectors.arguments.items()
        },
    )

    def ask(asked_of: Any, batch: Batch) -> Answer:
        single = any(isinstance(x, Tensor) and x.dtype == torch.float32 for x in batch.values())
        lists = {k: x.tolist() if isinstance(x, Tensor) else x for k, x in batch.items() if k in asked_of.arguments}
        lists = {k: case.inputs[k] for k in case.inputs if k not in inputs} | lists
        numbers = dict(case.settings) | {k: x for k, x in batch.items() if k in asked_of.settings}
        asked = Case(0, "", (), "valid", lists, numbers, None, None, {}, {})
        found = call(function, how, trial.way, asked_of, asked, "float32" if single else "float64", time_limit)
        if found.kind != "numbers":
            raise Refused(found.detail)
        value = torch.tensor(next(iter(found.outputs.values())), dtype=torch.float64)
        slopes = found.gradients
        return Answer(
            value,
            None if slopes is None else {k: torch.tensor(g, dtype=torch.float64) for k, g in slopes.items()},
            found.changed,
        )

    batch: Batch = {k: array(x, vectors.arguments[k], "float64") for k, x in inputs.items()}
    g = torch.Generator().manual_seed(5)
    for k in (k for k in batch if k.endswith("log_probs")):  # no ties, whose slope may be one or the other
        batch[k] = batch[k] - 0.01 * torch.rand(batch[k].shape, generator=g, dtype=torch.float64)
    batch |= {k: v for k, v in case.settings.items() if how.expresses(k) and (v is not None or k == "denominator")}
    shapes = {k: vectors.arguments[k].shape for k in inputs}
    shapes |= {k: "B T" for k, s in shapes.items() if s == "B" and batch[k].ndim == 2}  # advantages may be either
    shapes |= {k: "B" for k, s in shapes.items() if s == "B T" and batch[k].ndim == 1}
    calls = [partial(ask, open_), partial(ask, vectors)]
    return _first_that_runs(calls, batch), batch, shapes, tuple(k for k in inputs if vectors.arguments[k].gradient)


def _first_that_runs(calls: Sequence[Call], batch: Batch) -> Call:
    """The first call that gives a number; the first of all if none does."""
    for call in calls:
        try:
            if torch.as_tensor(call(batch)[0]).isfinite().any():
                return call
        except Refused:
            continue
    return calls[0]


def _ordinary(case: Any) -> bool:
    numbers = [x for tree in case.inputs.values() for x in _flat(tree)]
    return all(math.isfinite(x) and abs(x) < 15 for x in numbers if isinstance(x, float)) and case.expected is not None


def _flat(x: Any) -> list[Any]:
    return [v for part in x for v in _flat(part)] if isinstance(x, list) else [x]


def _telling(case: Any) -> tuple[int, ...]:
    """Most arguments; a mask that hides something and leaves no row empty; several rows, not as many as columns."""
    mask = case.inputs.get("mask")
    first = next(iter(case.inputs.values()))
    oblong = isinstance(first, list) and bool(first) and isinstance(first[0], list) and len(first) != len(first[0])
    uneven = mask is not None and not all(_flat(mask)) and all(any(row) for row in mask)
    several = isinstance(first, list) and len(first) > 1
    beta = bool(case.settings.get("beta"))
    numbers = [_flat(x) for x in case.inputs.values()]
    distinct = all(len(set(x)) == len(x) for x in numbers if all(isinstance(v, float) for v in x))
    return (several, uneven, len(case.inputs), beta, distinct, oblong, len(_flat(first)))


ROLES = {
    "log_probs": "B T", "old_log_probs": "B T", "ref_log_probs": "B T", "sampler_log_probs": "B T", "mask": "B T",
    "advantages": "B", "values": "B T", "old_values": "B T", "returns": "B T", "entropies": "B T", "rewards": "P G",
    "scores": "B", "baseline": "B T", "logits": "B T V", "ref_logits": "B T V", "targets": "B T", "x": "B T",
    "chosen_log_probs": "N", "rejected_log_probs": "N", "ref_chosen_log_probs": "N", "ref_rejected_log_probs": "N",
    "chosen_rewards": "N", "rejected_rewards": "N", "margin": "N",
}  # fmt: skip
NUMBERS = {
    "epsilon": 0.2, "epsilon_high": 0.2, "value_epsilon": 0.2, "dual_clip": 3.0, "beta": 0.1, "gamma": 0.95,
    "lam": 0.9, "eps": 1e-6, "temperature": 1.0, "correction": 1, "label_smoothing": 0.0, "value_coef": 0.5,
    "entropy_coef": 0.01, "group_size": 2, "length": 8, "denominator": None,
}  # fmt: skip
FLOWS = (
    "log_probs", "values", "entropies", "logits", "x", "chosen_log_probs", "rejected_log_probs", "chosen_rewards",
    "rejected_rewards",
)  # fmt: skip
SIZES = {"B": 4, "T": 5, "N": 5, "P": 3, "G": 4, "V": 6}


def _plain(
    function: Callable[..., Any], roles: Mapping[str, str], settings: Mapping[str, Any], output: str | int | None,
    time_limit: float,
) -> tuple[Call, Batch, dict[str, str], tuple[str, ...]]:  # fmt: skip
    """A function of torch tensors by keyword, on a batch made for its roles."""
    if inspect.isclass(function):
        raise TargetError(
            "target: without an objective expected a function; wrap the class in a few lines that call it"
        )
    taken = _roles(function, roles, settings)
    sized = {theirs: ours for theirs, ours in taken.items() if ours in ROLES}
    if not sized:
        raise TargetError("target: none of its parameters has a role that is known; say so with names")
    per_token = "log_probs" in sized.values() or "mask" in sized.values() or "values" in sized.values()
    shapes = {ours: "B T" if ours == "rewards" and per_token else ROLES[ours] for ours in sized.values()}
    batch = _made(shapes) | {ours: NUMBERS[ours] for ours in taken.values() if ours in NUMBERS}
    declared = tuple(k for k in FLOWS if k in shapes)
    calls = [
        partial(_keywords, function, taken, settings, output, time_limit, mask, credit, free)
        for mask in (("bool", "float") if "mask" in shapes else ("bool",))
        for credit in (("B", "B 1", "B T") if "advantages" in shapes else ("B",))
        for free in (tuple(shapes), declared)
    ]
    return _first_that_runs(calls, batch), batch, shapes, declared


def _roles(function: Callable[..., Any], roles: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Parameter -> role: as told, or else by its name."""
    from torchstone.conformance.fit import role, setting
    from torchstone.terminal import near

    known = [*ROLES, *NUMBERS]
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as e:
        raise TargetError("target: its parameters cannot be read; wrap it in a function that names them") from e
    for theirs, ours in roles.items():
        if theirs not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise TargetError(f"names: the target has no parameter {theirs!r}{near(theirs, parameters)}")
        if ours not in known:
            raise TargetError(f"names: {theirs} = {ours!r}: expected one of {', '.join(known)}{near(ours, known)}")
    taken = dict(roles)
    for p in parameters.values():
        if p.name in taken or p.name in settings or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        guesses = [p.name, role(p.name), *setting(p.name)]
        guess = next((g for g in guesses if g in known and g not in taken.values()), None)
        if guess is None and p.default is p.empty:
            raise TargetError(
                f"target: cannot tell what {p.name} is; say so with names ({p.name} = one of {', '.join(known)}) "
                f"or set a value ({p.name}=...)"
            )
        if guess in ROLES or (guess is not None and (p.default is p.empty or guess in ("beta", "denominator"))):
            taken[p.name] = guess
    return taken


def _made(shapes: Mapping[str, str]) -> Batch:
    """Ragged rows with a gap, both signs, ratios on both sides of the usual clip."""
    g = torch.Generator().manual_seed(3)
    batch: Batch = {}
    base: Tensor | None = None
    for name, shape in shapes.items():
        sizes = [SIZES[d] for d in shape.split()]
        x = torch.randn(sizes, generator=g, dtype=torch.float64)
        if name == "mask":
            x = torch.arange(sizes[1])[None] < torch.tensor([5, 3, 4, 2])[:, None]
            x[0, 2] = False
        elif name == "targets":
            x = torch.randint(SIZES["V"], sizes, generator=g)
        elif name.endswith("log_probs") and shape == "B T":
            base = -x.abs() - 0.3 if base is None else base
            x = base if name == "log_probs" else base + 0.4 * x
        elif name.endswith("log_probs"):
            x = -8 + 2 * x
        elif name == "entropies":
            x = x.abs()
        batch[name] = x
    return batch


def _keywords(
    function: Callable[..., Any], roles: Mapping[str, str], settings: Mapping[str, Any], output: str | int | None,
    time_limit: float, mask: str, credit: str, free: Sequence[str], batch: Batch,
) -> Answer:  # fmt: skip
    """One call of a plain function, and the gradient of the sum of what it gives."""
    leaves = {
        k: x.clone().requires_grad_(k in free and x.is_floating_point()) if isinstance(x, Tensor) else x
        for k, x in batch.items()
    }
    before = {k: x.detach().clone() for k, x in leaves.items() if isinstance(x, Tensor)}
    passed = {k: x * 1 if isinstance(x, Tensor) and x.requires_grad else x for k, x in leaves.items()}
    given = dict(passed)
    if mask == "float" and "mask" in given:
        like = next(x for x in passed.values() if isinstance(x, Tensor) and x.is_floating_point())
        given["mask"] = given["mask"].to(like.dtype)
    if "advantages" in given and given["advantages"].ndim == 1 and credit != "B":
        column = given["advantages"][:, None]
        given["advantages"] = (
            column
            if credit == "B 1"
            else column.expand(-1, SIZES["T"] if "log_probs" not in given else given["log_probs"].shape[1])
        )
    keywords = {theirs: given[ours] for theirs, ours in roles.items()}
    try:
        with limited(time_limit):
            found = _first(function(**keywords, **settings), output)
            slopes = _slopes(found, leaves, batch.get("mask"))
    except Overtime as e:
        raise Refused(str(e)) from e
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as e:
        raise Refused(describe(e)) from e
    changed = tuple(k for k, x in before.items() if not torch.equal(passed[k].detach().nan_to_num(), x.nan_to_num()))
    return Answer(found.detach(), slopes, changed)


def _first(result: Any, output: str | int | None) -> Tensor:
    """The tensor asked for; or the first with a gradient, or else the first."""
    if output is not None:
        key = str(output)
        if isinstance(result, Mapping) and key in result:
            return torch.as_tensor(result[key])
        if isinstance(result, list | tuple) and key.lstrip("-").isdigit():
            return torch.as_tensor(result[int(key)])
        return torch.as_tensor(getattr(result, key))
    if isinstance(result, Tensor | int | float):
        return torch.as_tensor(result)
    if isinstance(result, Mapping):
        parts = list(result.values())
    else:
        parts = list(result) if isinstance(result, list | tuple) else list(vars(result).values())
    tensors = [x for x in parts if isinstance(x, Tensor)]
    if not tensors:
        raise Refused(f"expected a tensor, got {type(result).__name__}")
    return next((x for x in tensors if x.requires_grad), tensors[0])


def _slopes(found: Tensor, leaves: Batch, mask: Tensor | None) -> dict[str, Tensor] | None:
    free = {k: x for k, x in leaves.items() if isinstance(x, Tensor) and x.requires_grad}
    if not found.requires_grad:
        return None
    chosen = found[mask] if mask is not None and found.shape == mask.shape else found
    slopes = torch.autograd.grad(chosen.sum(), list(free.values()), allow_unused=True)
    return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(free.items(), slopes, strict=True)}
