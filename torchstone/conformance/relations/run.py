"""The same call again: equal numbers, inputs left alone, another precision."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.conformance.relations.subject import Status, Subject, held, relation


@relation("the same twice")
def same_twice(s: Subject) -> Status:
    """Two calls give the same numbers."""
    again = s.ask(s.batch)
    same = torch.equal(again.output.nan_to_num(), s.base.output.nan_to_num())
    return ("pass", "two calls give the same numbers") if same else ("fail", "two calls give different numbers")


@relation("inputs unchanged")
def inputs_unchanged(s: Subject) -> Status:
    """No input is written into."""
    changed = ", ".join(s.base.changed)
    return ("fail", f"it changes {changed} in place") if changed else ("pass", "nothing is written into")


@relation("float32")
def in_float32(s: Subject) -> Status:
    """In float32 the numbers are the same to four digits."""
    low = {k: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in s.batch.items()}
    return held(s.apart(s.ask(low), s.base, tolerance=1e-4), "the same to four digits", "in float32")
