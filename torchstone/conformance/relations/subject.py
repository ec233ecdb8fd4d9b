"""A function under test: its answer on one batch, and what the relations need to ask for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Batch = dict[str, Any]  # our name -> a tensor, or a number


class Answer(NamedTuple):
    """``gradients``: of the sum of ``output`` (over the chosen tokens, if it is one per token); None if none flow."""

    output: Tensor
    gradients: Mapping[str, Tensor] | None
    changed: tuple[str, ...] = ()  # inputs that were changed in place


Call = Callable[[Batch], Any]  # gives an Answer, or its first two parts as a tuple


@dataclass(frozen=True)
class Relation:
    """Whether one relation holds.

    ``status``: "pass", "fail", "warn" (right only if the caller does its part) or "skip" (cannot be asked here).
    """

    name: str
    status: str
    detail: str = ""


class Refused(Exception):
    """The function raised, or gave nothing that can be compared."""


class Subject:
    """One way to call a function, with its answer on a plain batch (``base``).

    Args:
        call: given a batch, its output and gradients.
        batch: our names -> tensors in float64, bool or int64, and numbers (``beta``).
        shapes: names of the dimensions, such as "B T"; rows are B, N or P, and columns T.
        declared: the arguments that a gradient should flow through.

    Raises Refused: it cannot be called on the plain batch, or gives a value there that is not finite.
    """

    def __init__(self, call: Call, batch: Batch, shapes: Mapping[str, str], declared: Sequence[str]) -> None:
        self.call, self.shapes, self.declared = call, dict(shapes), tuple(declared)
        self.batch = {k: x.clone() if isinstance(x, Tensor) else x for k, x in batch.items()}
        self.base = self.ask(self.batch)
        if not self.base.output.isfinite().all() and not self.per_token:
            raise Refused(f"its value on an ordinary batch is {self.base.output.flatten()[0].item()}")
        x = self.base.output.nan_to_num()
        self.tolerance = 1e-4 if torch.equal(x, x.float().double()) and x.any() else 1e-8

    def ask(self, batch: Batch) -> Answer:
        """The answer on another batch, in float64. Raises Refused."""
        answer = self.call({k: x.clone() if isinstance(x, Tensor) else x for k, x in batch.items()})
        output, gradients, *changed = answer
        slopes = None if gradients is None else {k: g.detach().double() for k, g in gradients.items()}
        return Answer(torch.as_tensor(output).detach().double(), slopes, *changed)

    def rows(self, name: str) -> bool:
        """Has this argument one entry a row?"""
        return self.shapes.get(name, "").split()[:1] in (["B"], ["N"], ["P"])

    def columns(self, name: str) -> bool:
        """Has this argument one entry a token?"""
        return self.shapes.get(name, "").split()[1:2] == ["T"]

    @property
    def mask(self) -> Tensor | None:
        """The plain batch's mask [B, T]; None if the function takes none."""
        return self.batch.get("mask")

    @property
    def per_token(self) -> bool:
        """Is the output one number a token?"""
        return self.mask is not None and self.base.output.shape == self.mask.shape

    @property
    def blocks(self) -> list[list[int]]:
        """Rows that must stay together: groups, if the function is told their size."""
        n = next((len(x) for k, x in self.batch.items() if self.rows(k)), 0)
        size = int(self.batch.get("group_size") or 1)
        return [list(range(i, min(i + size, n))) for i in range(0, n, size)]

    def take(self, rows: Sequence[int], batch: Batch | None = None) -> Batch:
        """These rows of a batch, by default of the plain one."""
        return {k: x[list(rows)] if self.rows(k) else x for k, x in (batch or self.batch).items()}

    def total(self, answer: Answer, batch: Batch) -> float:
        """The sum of an answer's output, over the chosen tokens if it is one per token."""
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


def first_that_runs(calls: Sequence[Call], batch: Batch) -> Call:
    """The first call that gives a number on this batch; the first of all if none does."""
    for call in calls:
        try:
            if torch.as_tensor(call(batch)[0]).isfinite().any():
                return call
        except Refused:
            continue
    return calls[0]


Status = tuple[str, str]  # status and detail of a relation


def relation(name: str) -> Callable[[Callable[[Subject], Status]], Callable[[Subject], Relation]]:
    """Decorate a function of a subject that gives (status, detail): that the subject raises is then a failure."""

    def wrap(body: Callable[[Subject], Status]) -> Callable[[Subject], Relation]:
        def ask(s: Subject) -> Relation:
            try:
                return Relation(name, *body(s))
            except Refused as e:
                return Relation(name, "fail", str(e))

        ask.__doc__ = body.__doc__
        return ask

    return wrap


def held(found: str | None, told: str, when: str) -> Status:
    """A failure that says what was ``found`` and ``when``, or, where nothing was, a pass that says what is ``told``."""
    return ("fail", f"{when}, {found}") if found else ("pass", told)
