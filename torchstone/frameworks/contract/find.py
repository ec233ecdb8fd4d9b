"""What is wrong with a loss where it is plugged in: each finding from gradients alone, with the split that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.fit.target import describe
from torchstone.frameworks.contract.batch import Batch, Split, splits
from torchstone.frameworks.contract.hand import Hand
from torchstone.frameworks.contract.run import WHOLE, Outcome, run

CLOSE = 1e-4  # relative: a loss may calculate in float32
ZERO = 1e-10  # a gradient that is rounding
DRAWN = 0.1  # of the tokens: verl's clip-cov draws the few that it leaves out
FEW = 0.25  # of the tokens: a loss that chooses some by the rows beside them
ALIKE = {"padding": "mask", "tool": "mask", "sum": "mean", "weights": "beside"}  # mended by another's line
MENDED = {  # in every framework, where a hand has no line of its own
    "gradient": "no .detach(), .item() or no_grad between the log-probs and the loss",
    "state": "all that it needs as its arguments",
    "nan": "select before the arithmetic: torch.where(mask, log_probs, 0)",
    "shift": "log-probs, advantages and mask as they are: {framework} hands them aligned",
    "beside": "take statistics of the whole batch where the advantages are made, before it is cut",
    "sign": "loss = -loss",
    "ratio": "(log_probs - old_log_probs).exp(), the new over the old",
    "inplace": "a new tensor: x = x - y, not x -= y",
    "empty": "the row's tokens, at least 1: mask.sum(1).clamp(min=1)",
}
COUNTED = {
    "mask": "it ignores the mask: it learns from tokens that the policy did not choose",
    "padding": "it counts padding: junk behind the last token changes the loss",
    "tool": "it ignores the tool mask: it learns from tokens that a tool wrote, not the policy",
}
STATE = "it keeps state: the same batch, given again, has another loss"
NUMBERS = ("log_probs", "old_log_probs", "sampler_log_probs", "ref_log_probs", "advantages")


@dataclass(frozen=True)
class Finding:
    """``name``: one word, for ``--accept``. ``said``: a sentence about "it". ``change``: a line that mends it.

    A finding that is no ``fault`` is told and does not count.
    """

    name: str
    said: str
    change: str = ""
    fault: bool = True


@dataclass(frozen=True)
class Seen:
    """One split. ``weight`` [B]: the gradient of each row over that of the batch uncut, NaN where that is 0; ``clean``:
    it is a multiple; ``off``: the share of tokens whose gradient is another."""

    split: Split
    weight: Tensor
    clean: bool
    off: float


@dataclass(frozen=True)
class Findings:
    """``seen``: in each split. ``whole``: the batch uncut."""

    findings: tuple[Finding, ...]
    seen: tuple[Seen, ...]
    whole: Outcome

    @property
    def faults(self) -> list[Finding]:
        """Those that count."""
        return [f for f in self.findings if f.fault]


@dataclass(frozen=True)
class Plugged:
    """A loss where it is plugged in."""

    hand: Hand
    target: Any
    settings: Mapping[str, Any]
    batch: Batch

    @cached_property
    def whole(self) -> Outcome:
        """What it gives for the batch uncut."""
        return self.run()

    def run(self, split: Split = WHOLE, seed: int = 0, **changes: Tensor) -> Outcome:
        """What it gives for the batch with these changes."""
        return run(self.hand, self.target, self.settings, replace(self.batch, **changes), split, seed)

    def moved(self, slope: Tensor, than: Tensor | None = None) -> Tensor:
        """Where this gradient is another than that of the batch uncut [B T]."""
        change = (slope - (self.whole.slope if than is None else than)).abs()
        return ~(change <= CLOSE * self.whole.slope.abs().max())  # a NaN is another

    def keeps(self, other: Outcome) -> bool:
        """Whether the loss and its gradient are those of the batch uncut."""
        value = self.whole.value
        return not self.moved(other.slope).any() and abs(other.value - value) <= CLOSE * max(abs(value), 1e-6)

    def seen(self, split: Split) -> Seen:
        """One split, held against the batch uncut."""
        whole, cut = self.whole.slope, self.run(split).gradient
        cut = torch.zeros_like(whole) if cut is None else cut
        size = whole.square().sum(1)
        weight = ((cut * whole).sum(1) / size).where(size > 1e-9 * size.max(), float("nan"))
        clean = not self.moved(cut, weight.nan_to_num(0)[:, None] * whole).any()
        return Seen(split, weight, clean, float(self.moved(cut)[self.batch.mask].double().mean()))

    def told(self, name: str, said: str, fault: bool = True) -> Finding:
        """The finding, with the line that mends it in this framework."""
        key = ALIKE.get(name, name)
        line = self.hand.lines.get(key) or MENDED.get(key, "").format(framework=self.hand.name)
        return Finding(name, said, line, fault)


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
    yield from _unit(loss, seen)
    yield from _length(loss)
    yield from _modes(loss)


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
    counted = [
        name for name, where in places.items() if reached[where].any() or not loss.keeps(_with(loss, where, junk))
    ]
    if counted:
        name = "mask" if len(counted) == 2 or not loss.hand.padded else counted[0]
        yield loss.told(name, COUNTED[name])
    elif not _stands_empty(loss):
        said = "a completion without a chosen token makes its gradient not a number (0 / 0)"
        yield loss.told("empty", said, fault=False)
    elif not _stands_nan(loss):
        yield loss.told("nan", "a NaN under the mask would reach its gradient (numbers stand there)", fault=False)


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
    row, at = 6, 4  # a long completion, away from its ends
    for name in ("advantages", "old_log_probs", "sampler_log_probs")[hand.advantages == "row" :]:
        numbers = getattr(batch, name).clone()
        numbers[row, at] *= 1.05
        reached = ((loss.run(**{name: numbers}).slope - slope).abs() > 1e-7 * slope.abs().max())[row]
        if not reached[at] and (reached[at - 1] or reached[at + 1]):
            side = "before" if reached[at - 1] else "after"
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


# ---------------------------------------------------------------------------------------------------------------- unit


def _unit(loss: Plugged, seen: list[Seen]) -> Iterator[Finding]:
    """Why the pieces do not add up to the whole; nothing where they do."""
    words = {"two micro-batches": "two calls before one step", "micro-batch": "call", "calles": "calls"}
    for finding in _why(loss, seen):
        for old, new in ({} if loss.hand.cut else words).items():
            finding = replace(finding, said=finding.said.replace(old, new), fault=False)
        yield finding


def _why(loss: Plugged, seen: list[Seen]) -> Iterator[Finding]:
    if all(s.clean and _are(s.weight, 1.0) for s in seen):
        return
    if not all(s.clean for s in seen):
        worst = max(s.off for s in seen)
        if worst <= FEW:
            said = f"it treats up to {worst:.0%} of the tokens by what else is in their micro-batch"
            yield Finding("chooses", said, fault=False)
            return
        said = "what a row teaches depends on the rows beside it: it takes a mean, a deviation or an order over its "
        yield loss.told("beside", said + "micro-batch, which is another batch in every split")
        return
    for whose, name in product(("micro-batch", "rank"), ("", "tokens", "rows", "share", "positions", "width")):
        scaled = [s.weight * _counted(loss.batch, s.split, whose)[name] for s in seen]
        if all(_are(w, _first(w)) for w in scaled):
            yield _named(loss, name, whose, [_first(w) for w in scaled], seen)
            return
    spread = max(float(w.max() / w.min()) for w in map(_known, (s.weight for s in seen)) if w.min() > 0)
    many = f"rows count up to {spread:.1f} times as much as others, depending on how the batch is cut"
    pieces = (s.weight[part] for s in seen for rank in s.split.pieces for part in rank)
    if all(_are(w, _first(w)) for w in pieces):
        yield loss.told("weights", f"it is scaled by something of its own micro-batch: {many}")
    else:
        yield loss.told("beside", f"it takes a statistic of the rows of its own micro-batch: {many}")


def _known(weights: Tensor) -> Tensor:
    return weights[~weights.isnan()]


def _first(weights: Tensor) -> float:
    return float(_known(weights)[:1].sum())


def _are(weights: Tensor, value: float) -> bool:
    return bool(((_known(weights) - value).abs() <= 10 * CLOSE * abs(value)).all())


def _counted(batch: Batch, split: Split, whose: str) -> dict[str, Tensor]:
    """Of each row: tokens, rows, ... of its micro-batch, or of its rank, over those of an average one."""
    ranks = [[slice(r[0].start, r[-1].stop)] if whose == "rank" else r for r in split.pieces]
    parts = [part for rank in ranks for part in rank]

    def count(of_row: Tensor) -> Tensor:
        sums = torch.cat([of_row[part].sum().expand(part.stop - part.start) for part in parts])
        return sums.double() * len(parts) / of_row.sum()

    tokens, rows = count(batch.mask.sum(1)), count(torch.ones(len(batch.mask)))
    found = {"": torch.ones_like(rows), "tokens": tokens, "rows": rows, "share": tokens / rows}
    lengths = batch.completion.sum(1)
    width = torch.cat([lengths[part].max().expand(part.stop - part.start) for part in parts]).double()
    return found | {"positions": count(lengths), "width": width / lengths.max()}


def _named(loss: Plugged, name: str, whose: str, factors: list[float], seen: list[Seen]) -> Finding:
    """What each piece divides by, and the factor of each split beside it."""
    hand, cuts = loss.hand, [s.split for s in seen]
    powers = _powers(cuts, factors)
    grows = _grows(powers, cuts, factors)
    if not name:
        told = [("the ranks' gradients are", hand.unit.ranks), ("micro-batches are", hand.unit.micro_batches)]
        how = " and ".join(f"{what} {how}" for (what, how), power in zip(told, powers or (0, 0), strict=True) if power)
        because = f": in {hand.name} {how}" if powers else ""
        return loss.told("ranks" if powers and powers[0] else "micro_batches", f"it {grows}{because}")
    if hand.unit.divided_by != "the loss":
        own = "mean mask" if name == "share" else name
        said = f"it takes a mean where {hand.name} wants a sum: each {whose} divides by its own {own}"
        return loss.told("mean", said + f", and so it {grows}" * bool(grows))
    weights = torch.cat([_known(s.weight) / f for s, f in zip(seen, factors, strict=True)])
    what = {"tokens": f"its {whose}'s tokens", "rows": f"its {whose}'s rows", "share": "the share of tokens that count",
            "positions": f"its {whose}'s tokens, those that the mask leaves out too",
            "width": f"the length to which its {whose}'s rows are padded"}  # fmt: skip
    pieces = "ranks" if whose == "rank" else "micro-batches"
    said = f"it is a mean of means: it divides by {what[name]}, so rows of short {pieces} count more (here "
    said += f"{weights.min():.2g} to {weights.max():.2g} times what they should)"
    return loss.told({"width": "positions"}.get(name, name), said + f"; and it {grows}" * bool(grows))


def _powers(cuts: Iterable[Split], factors: list[float]) -> tuple[int, int] | None:
    """(a, b), as small as can be, such that each factor is ranks^a micro_batches^b; None if there are none."""

    def fits(a: int, b: int) -> bool:
        pairs = zip(cuts, factors, strict=True)
        return all(abs(f / (s.ranks**a * s.micro_batches**b) - 1) < 0.02 for s, f in pairs)

    small = sorted(product(range(-3, 4), range(-3, 4)), key=lambda x: (abs(x[0]), abs(x[1])))
    return next((powers for powers in small if fits(*powers)), None)


def _grows(powers: tuple[int, int] | None, cuts: Iterable[Split], factors: list[float]) -> str:
    """Such as "shrinks 8 times with 8 ranks, and doubles with two micro-batches"; "" where nothing grows."""
    if powers is None:
        worst, factor = max(zip(cuts, factors, strict=True), key=lambda x: max(x[1], 1 / max(x[1], 1e-9)))
        return f"is {factor:.3g} times as large with {worst.words}"
    said = []
    for power, many, what in zip(powers, (8, 2), ("8 ranks", "two micro-batches"), strict=True):
        times, up = many ** abs(power), power > 0
        twice = "doubles" if up else "halves"
        grows = twice if times == 2 else f"{'grows' if up else 'shrinks'} {times} times"
        said += [f"{grows} with {what}"] * bool(power)
    return ", and ".join(said)


def _length(loss: Plugged) -> Iterator[Finding]:
    """Where the framework divides: with twice the tokens, or twice the rows, each should count half as much."""
    hand, batch, slope = loss.hand, loss.batch, loss.whole.slope
    if hand.unit.divided_by == "the loss":
        return
    longer = replace(loss, batch=batch.each(lambda x: x.repeat_interleave(2, 1))).run().slope[:, ::2]
    twice = Split(1, 1, ((slice(0, 2 * len(slope)),),))
    more = replace(loss, batch=batch.each(lambda x: torch.cat([x, x]))).run(twice).slope[: len(slope)]
    kept = batch.mask & (slope.abs() > 1e-3 * slope.abs().max())
    ratios = {what: float((x[kept] / slope[kept]).median()) for what, x in (("tokens", longer), ("completions", more))}
    for what, ratio in ratios.items():
        if abs(ratio - 0.25) < 0.02:
            said = f"it takes a mean where {hand.name} wants a sum: it divides by {what}, and {hand.name} divides too"
            yield loss.told("mean", said)
            return
    if abs(ratios["tokens"] - 1.0) < 0.02:
        said = f"it adds up tokens where {hand.name} means each completion: long ones count more"
        yield loss.told("sum", said, fault=False)


def _modes(loss: Plugged) -> Iterator[Finding]:
    """The pieces again, with other values of a setting; one that the loss refuses is left out."""
    name, values = loss.hand.modes
    kept = []
    for value in () if name in loss.settings else values:
        other = replace(loss, settings={**loss.settings, name: value})
        try:
            seen = [other.seen(split) for split in splits(loss.hand.ranks, loss.hand.even)]
        except Exception:
            continue
        yield from (replace(f, said=f"with {name}={value}, {f.said}") for f in _unit(other, seen))
        kept.append(loss.keeps(other.whole))
    if kept and all(kept):
        yield loss.told("mode", f"it does not read {name}: whatever that says, the loss is one", fault=False)
