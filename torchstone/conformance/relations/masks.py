"""What lies under the mask changes nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.conformance.relations.subject import Answer, Status, Subject, held, relation


@relation("padding")
def padding(s: Subject) -> Status:
    """Two more columns under the mask change nothing."""
    if s.mask is None:
        return "skip", "it takes no mask"
    wide = {k: _padded(x, 2) if s.columns(k) else x for k, x in s.batch.items()}
    got = s.ask(wide)
    width = s.mask.shape[1]
    slopes = None if got.gradients is None else {k: _cut(s, k, g, width) for k, g in got.gradients.items()}
    under = next((k for k, g in (got.gradients or {}).items() if s.columns(k) and g[:, width:].any()), None)
    if under:
        return "fail", f"a gradient flows into {under} in the padding"
    output = got.output[:, :width] if got.output.ndim == 2 and got.output.shape[1] == width + 2 else got.output
    return held(
        s.apart(Answer(output, slopes), s.base),
        "two more columns, with junk under the mask, change nothing",
        "with two more columns",
    )


def _padded(x: Tensor, n: int) -> Tensor:
    junk = 7.0 if x.is_floating_point() else 0
    return torch.cat([x, torch.full((len(x), n, *x.shape[2:]), junk, dtype=x.dtype)], 1)


def _cut(s: Subject, name: str, x: Tensor, width: int) -> Tensor:
    return x[:, :width] if s.columns(name) else x


@relation("junk under the mask")
def junk(s: Subject) -> Status:
    """Numbers under the mask change nothing."""
    return _under(s, -5.5, "what lies under the mask changes nothing", "with -5.5 under the mask")


@relation("NaN under the mask")
def nan(s: Subject) -> Status:
    """NaN under the mask changes nothing."""
    return _under(s, math.nan, "NaN under the mask reaches neither value nor gradient", "with NaN under the mask")


def _under(s: Subject, value: float, told: str, when: str) -> Status:
    if s.mask is None:
        return "skip", "it takes no mask"
    if s.mask.all():
        return "skip", "nothing lies under the mask"
    hidden = ~s.mask
    filled = {
        k: x.masked_fill(hidden if x.ndim == 2 else hidden[..., None], value)
        if s.columns(k) and isinstance(x, Tensor) and x.is_floating_point()
        else x
        for k, x in s.batch.items()
    }
    got = s.ask(filled)
    for k, g in (got.gradients or {}).items():
        if s.columns(k) and (g[hidden].isnan().any() or g[hidden].any()):
            return "fail", f"under the mask the gradient of {k} is {g[hidden][g[hidden] != 0][0].item():.4g}, not 0"
    return held(s.apart(got, s.base), told, when)
