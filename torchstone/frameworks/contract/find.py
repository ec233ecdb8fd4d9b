"""What is wrong with a loss where it is plugged in: each finding from gradients alone, with the split that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.fit.target import describe
from torchstone.frameworks.contract.batch import Batch, splits
from torchstone.frameworks.contract.hand import Hand
from torchstone.frameworks.contract.pieces import length, modes, unit_findings
from torchstone.frameworks.contract.plugged import CLOSE, Finding, Findings, Plugged, Seen
from torchstone.frameworks.contract.run import Outcome

ZERO = 1e-10  # a gradient that is rounding
DRAWN = 0.1  # of the tokens: verl's clip-cov draws the few that it leaves out
COUNTED = {
    "mask": "it ignores the mask: it learns from tokens that the policy did not choose",
    "padding": "it counts padding: junk behind the last token changes the loss",
    "tool": "it ignores the tool mask: it learns from tokens that a tool wrote, not the policy",
}
STATE = "it keeps state: the same batch, given again, has another loss"
NUMBERS = ("log_probs", "old_log_probs", "sampler_log_probs", "ref_log_probs", "advantages")


def find(hand: Hand, target: Any, settings: Mapping[str, Any]) -> Findings:
    """Everything that is wrong with this loss in this framework.

    Raises FormError: it cannot be called as the framework calls it.
    """
    loss, seen, once = Plugged(hand, target, settings, hand.made()), list[Seen](), dict[str, Finding]()
    for finding in _findings(loss, seen):
        once.setdefault(finding.name, finding)
    return Findings(tuple(sorted(once.values(), key=lambda f: not f.fault)), tuple(seen), loss.whole)


def _findings(loss: Plugged, seen: list[Seen]) -> Iterator[Finding]:
    """One after the other, until one is such that what follows would say nothing; ``seen`` is filled on the way."""
    hand, whole = loss.hand, loss.whole
    for names in whole.order:
        yield Finding("argument", f"its arguments stand in another order: {hand.name} passes {names} by place")
        return
    for name in whole.lacks:
        said = f"it lacks the argument {name}, which {hand.name} passes: the first step ends in a TypeError"
        yield Finding("argument", said, f"def ...(..., {name}=None)")
    yield from (loss.told("returns", remark) for remark in whole.remarks)
    for name in whole.changed:
        yield loss.told("inplace", f"it changes {name} in place: a second pass over the batch has other numbers")
    if (end := _end(loss)) is not None:
        yield end
        return
    drawn = loss.moved(loss.run(seed=1).slope)[loss.batch.mask].double().mean()
    if drawn > 0:
        many = bool(drawn > DRAWN)
        yield loss.told("random", "it draws random numbers: the same batch has another loss each time", fault=many)
        if many:
            return
    odd = [*_tokens(loss), *_advantages(loss)]
    yield from [f for f in odd if f.name == "shift"][:1] or odd  # a shift explains what else is odd of tokens
    for split in splits(hand.ranks, hand.even):
        try:
            seen.append(loss.seen(split))
        except Exception as e:
            yield loss.told("raises", f"with {split.words} it raises {describe(e)}")
            return
    if not loss.keeps(loss.run()):
        yield loss.told("state", STATE)
        return
    yield from unit_findings(loss, seen)
    yield from length(loss)
    yield from modes(loss)


def _end(loss: Plugged) -> Finding | None:
    """What leaves no gradient to look at."""
    whole = loss.whole
    if whole.gradient is None:
        nothing = "nothing that it returns depends on the log-probs, so nothing is learned"
        return loss.told("gradient", f"it has no gradient: {nothing}")
    if whole.gradient.abs().max() < ZERO:
        return loss.told("gradient", "it has no gradient where all tokens of a completion earn the same")
    if not whole.gradient.isfinite().all():
        return loss.told("finite", "its gradient is not a number on an ordinary batch")
    return None if loss.keeps(loss.run()) else loss.told("state", STATE)


# -------------------------------------------------------------------------------------------------- tokens, advantages


def _tokens(loss: Plugged) -> Iterator[Finding]:
    """Whether tokens that the policy did not choose count, and whether those that it did meet their own numbers."""
    batch, mask = loss.batch, loss.batch.mask
    reached = loss.moved(torch.zeros_like(batch.log_probs))
    for step, side in ((-1, "before"), (1, "after")):
        beside = torch.nn.functional.pad(mask, (step, -step))
        if (reached & ~mask).any() and not (reached & ~beside).any():
            said = f"it is shifted: the gradient reaches the token {side} each one that the mask chooses"
            yield loss.told("shift", said)
            return
    junk = loss.hand.made(1).each(lambda x: x * 1.5)
    places = {"padding": ~batch.completion, "tool": batch.completion & ~mask}
    how = {name: _how(loss, where, reached, junk) for name, where in places.items()}
    counted = [name for name, what in how.items() if what == "learned"]
    if "beside" in how.values():
        said = "what a row teaches depends on numbers of the rows beside it, where the mask leaves those out"
        yield loss.told("beside", said)
    if "value" in how.values():
        yield loss.told("value", "tokens that the mask leaves out count in its value, not in its gradient", fault=False)
    if counted:
        name = "mask" if len(counted) == 2 or not loss.hand.padded else counted[0]
        yield loss.told(name, COUNTED[name])
    elif not _stands_empty(loss):
        said = "a completion without a chosen token makes its gradient not a number (0 / 0)"
        yield loss.told("empty", said, fault=False)
    elif not _stands_nan(loss):
        yield loss.told("nan", "a NaN under the mask would reach its gradient (numbers stand there)", fault=False)


def _how(loss: Plugged, where: Tensor, reached: Tensor, junk: Batch) -> str:
    """How numbers at these positions count: "learned", "beside": in other rows alone, "value": in that alone; or ""."""
    if reached[where].any():
        return "learned"
    found = _with(loss, where, junk)
    if loss.keeps(found):
        return ""
    if not loss.moved(found.slope).any():
        return "value"
    rows = [(i, torch.zeros_like(where).index_fill(0, torch.tensor(i), True) & where) for i in range(len(where))]
    return "learned" if any(loss.moved(_with(loss, at, junk).slope)[i].any() for i, at in rows) else "beside"


def _with(loss: Plugged, where: Tensor, junk: Batch) -> Outcome:
    return loss.run(**{k: getattr(loss.batch, k).where(~where, getattr(junk, k)) for k in NUMBERS})


def _stands_empty(loss: Plugged) -> bool:
    mask = loss.batch.mask.clone()
    mask[2] = False
    try:
        found = loss.run(mask=mask)
    except Exception:
        return True  # not asked: a form that has no place for such a row
    return math.isfinite(found.value) and bool(found.slope.isfinite().all())


def _stands_nan(loss: Plugged) -> bool:
    try:
        found = _with(loss, ~loss.batch.completion, loss.batch.each(lambda x: x * float("nan")))
    except Exception:
        return False
    return bool(found.slope.isfinite().all())


def _advantages(loss: Plugged) -> Iterator[Finding]:
    """Whether the advantages are read, with their sign, at their own tokens."""
    hand, batch, slope = loss.hand, loss.batch, loss.whole.slope
    if hand.advantages == "none":
        yield from _pairs(loss)
        return
    if not loss.moved(loss.run(advantages=-0.7 * batch.advantages).slope).any():
        said = "it ignores the advantages: whatever was earned, the same is learned, as in supervised learning"
        other = loss.run(sampler_log_probs=batch.sampler_log_probs - 0.01)
        learns = hand.cut or bool(loss.moved(other.slope).any())  # not of pairs or examples, as tinker may
        yield loss.told("advantages", said, fault=learns)
        return
    pulls = (slope * batch.advantages * batch.mask).sum(1)
    if _exchanged(loss):
        yield loss.told("ratio", "its ratio is upside down: old and new log-probs are exchanged")
    elif (pulls > 0).sum() > 0.9 * len(pulls):
        yield loss.told("sign", "its sign is turned: it makes less likely what earned more")
    older = {name: getattr(batch, name) - 0.01 for name in ("old_log_probs", "sampler_log_probs")}
    if not loss.moved(loss.run(**older).slope).any():
        said = "it does not read the old log-probs: of several steps on a batch, all but the first learn uncorrected"
        yield loss.told("old", said, fault=False)
    at, rows = 4, batch.mask[:, 3:6].all(1)  # away from the ends; of several rows, since a token may be clipped
    for name in ("advantages", "old_log_probs", "sampler_log_probs")[hand.advantages == "row" :]:
        numbers = getattr(batch, name).clone()
        numbers[rows, at] *= 1.05
        moved = (loss.run(**{name: numbers}).slope - slope).abs() > 1e-7 * slope.abs().max()
        before, here, after = moved[rows].any(0)[at - 1 : at + 2].tolist()
        if not here and (before or after):
            side = "before" if before else "after"
            yield loss.told("shift", f"it is shifted: a number of {name} counts for the token {side} its own")
            return


def _exchanged(loss: Plugged) -> bool:
    """Whether a token counts e^x times as much where its old log-prob is x larger; it should as much as e^-x."""
    step, slope = 1e-3, loss.whole.slope
    old = {name: getattr(loss.batch, name) + step for name in ("old_log_probs", "sampler_log_probs")}
    kept = loss.batch.mask & (slope.abs() > CLOSE * slope.abs().max())
    return bool((((loss.run(**old).slope / slope)[kept].log() / step - 1).abs() < 0.1).double().mean() > 0.5)


def _pairs(loss: Plugged) -> Iterator[Finding]:
    """Whether both completions of a pair are learned from, the chosen one up against the rejected one."""
    halves = zip(loss.whole.slope.chunk(2, 1), loss.batch.mask.chunk(2, 1), strict=True)
    chosen, rejected = ((slope * mask).sum(1) / mask.sum(1) for slope, mask in halves)
    for name, slope in (("chosen", chosen), ("rejected", rejected)):
        if slope.abs().max() < ZERO:
            yield loss.told("pairs", f"it does not depend on the {name} completions, so nothing is compared")
            return
    if _most(chosen > rejected):
        yield loss.told("sign", "it prefers the rejected: each step raises it against the chosen one")
    elif _most((chosen < 0) & (rejected < 0)):
        yield loss.told("pairs", "it makes the rejected completions more likely too, not only the chosen ones")
    elif _most((chosen > 0) & (rejected > 0)):
        yield loss.told("pairs", "it makes the chosen completions less likely too, the rejected more so", fault=False)


def _most(found: Tensor) -> bool:
    return bool(found.double().mean() > 0.9)
