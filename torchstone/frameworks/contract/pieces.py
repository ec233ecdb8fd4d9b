"""Why the pieces of a cut batch do not add up to the whole, and by what factor in which split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch, Split, splits
from torchstone.frameworks.contract.plugged import CLOSE, Finding, Plugged, Seen

FEW = 0.25  # of the tokens: a loss that chooses some by the rows beside them


def unit_findings(loss: Plugged, seen: list[Seen]) -> Iterator[Finding]:
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


def length(loss: Plugged) -> Iterator[Finding]:
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


def modes(loss: Plugged) -> Iterator[Finding]:
    """The pieces again, with other values of a setting; one that the loss refuses is left out."""
    name, values = loss.hand.modes
    kept = []
    for value in () if name in loss.settings else values:
        other = replace(loss, settings={**loss.settings, name: value})
        try:
            seen = [other.seen(split) for split in splits(loss.hand.ranks, loss.hand.even)]
        except Exception:
            continue
        yield from (replace(f, said=f"with {name}={value}, {f.said}") for f in unit_findings(other, seen))
        kept.append(loss.keeps(other.whole))
    if kept and all(kept):
        yield loss.told("mode", f"it does not read {name}: whatever that says, the loss is one", fault=False)
