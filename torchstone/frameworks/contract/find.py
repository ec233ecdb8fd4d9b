"""What is wrong with a loss where it is plugged in: each finding from gradients alone, with the split that shows it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.target import describe
from torchstone.frameworks.contract.batch import Batch, Split, splits
from torchstone.frameworks.contract.hand import Hand
from torchstone.frameworks.contract.run import ORDER, WHOLE, Outcome, listed, run

CLOSE = 1e-4  # relative: a loss may calculate in float32
WHOLE_BATCH = "take statistics of the whole batch where the advantages are made, before it is cut"
ZERO = 1e-10  # a gradient that is rounding
NOTHING = ": nothing that it returns depends on the log-probs, so nothing is learned"
FEW = 0.25  # of the tokens: a loss that chooses some by the rows beside them


Ask = Callable[..., Outcome]


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
    """One split. ``weight`` [B]: the gradient of each row over that of the batch uncut; ``clean``: it is a multiple."""

    split: Split
    weight: Tensor
    clean: bool
    off: float  # share of tokens whose gradient is another


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


def find(hand: Hand, target: Any, settings: Mapping[str, Any], batch: Batch | None = None) -> Findings:
    """Everything that is wrong with this loss in this framework.

    Raises FormError: it cannot be called as the framework calls it.
    """
    batch = hand.made() if batch is None else batch

    def of(batch: Batch, split: Split = WHOLE, number: int = 0, **mode: Any) -> Outcome:
        return run(hand, target, {**settings, **mode}, batch, split, number)

    whole = of(batch)
    found = [_lacks(hand, name) for name in whole.lacks] + [Finding("returns", text) for text in whole.remarks]
    order = [f for f in found if f.said.startswith(ORDER)]
    if order:
        return Findings((replace(order[0], name="argument"),), (), whole)
    if whole.gradient is None or whole.slope.abs().max() < ZERO:
        said = "it has no gradient"
        said += " where all tokens of a completion earn the same" if whole.gradient is not None else NOTHING
        line = hand.lines.get("gradient", "no .detach(), .item() or no_grad between the log-probs and the loss")
        return Findings((*found, Finding("gradient", said, line)), (), whole)
    if not whole.slope.isfinite().all():
        said = "its gradient is not a number on an ordinary batch"
        return Findings((*found, Finding("finite", said)), (), whole)
    if not _same(whole, of(batch)):
        return Findings((*found, STATE), (), whole)
    drawn = (of(batch, number=1).slope - whole.slope).abs() > CLOSE * whole.slope.abs().max()
    if drawn[batch.mask].double().mean() > FEW:
        return Findings((*found, RANDOM), (), whole)
    found += [replace(RANDOM, fault=False)] * bool(drawn.any())
    of_tokens, of_advantages = list(_tokens(hand, of, batch, whole)), list(_advantages(hand, of, batch, whole))
    shifts = [f for f in of_tokens + of_advantages if f.name == "shift"]  # which explains what else is odd of tokens
    found += shifts[:1] or of_tokens + of_advantages
    seen = []
    for split in splits(hand.ranks, hand.even):
        try:
            seen.append(_seen(of, batch, whole, split))
        except Exception as e:
            raises = Finding("raises", f"with {split.words} it raises {describe(e)}")
            return Findings((*found, raises), tuple(seen), whole)
    if not _same(whole, of(batch)):
        return Findings((*found, STATE), (), whole)
    found += [*_unit(hand, seen, batch), *_length(hand, of, batch, whole)]
    found += _modes(hand, of, batch, whole, [m for m in hand.modes if not set(m) & set(settings)])
    once = list({f.name: f for f in reversed(found)}.values())[::-1]
    return Findings(tuple(sorted(once, key=lambda f: not f.fault)), tuple(seen), whole)


def _modes(hand: Hand, of: Ask, batch: Batch, default: Outcome, modes: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """The pieces again, with other settings; a setting that the loss refuses is left out."""
    alike = []
    for mode in modes:
        try:
            whole = of(batch, **mode)
            seen = [_seen(functools.partial(of, **mode), batch, whole, s) for s in splits(hand.ranks, hand.even)]
        except Exception:
            continue
        if whole.gradient is not None:
            words = listed([f"{k}={v}" for k, v in mode.items()])
            yield from (replace(f, said=f"with {words}, {f.said}") for f in _unit(hand, seen, batch))
            alike.append(_same(whole, default))
    if alike and all(alike):
        name = listed(list(modes[0]))
        yield Finding("mode", f"it does not read {name}: whatever that says, the loss is one", fault=False)


def _same(a: Outcome, b: Outcome) -> bool:
    return bool(_near(a.slope, b.slope, a.slope) and abs(a.value - b.value) <= CLOSE * max(abs(a.value), 1e-6))


def _near(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * scale.abs().max())


def _lacks(hand: Hand, name: str) -> Finding:
    said = f"it lacks the argument {name}, which {hand.name} passes: the first step ends in a TypeError"
    return Finding("argument", said, f"def ...(..., {name}=None)")


STATE = Finding(
    "state", "it keeps state: the same batch, given again, has another loss", "all that it needs as its arguments"
)
RANDOM = Finding("random", "it draws random numbers: the same batch has another loss each time")


# -------------------------------------------------------------------------------------------------- tokens, advantages

COUNTED = {
    "mask": "it ignores the mask: it learns from tokens that the policy did not choose",
    "padding": "it counts padding: junk behind the last token changes the loss",
    "tool": "it ignores the tool mask: it learns from tokens that a tool wrote, not the policy",
}


def _tokens(hand: Hand, of: Ask, batch: Batch, whole: Outcome) -> Iterator[Finding]:
    """Whether tokens that the policy did not choose count, and whether those that it did meet their own numbers."""
    support, mask = whole.slope.abs() > CLOSE * whole.slope.abs().max(), batch.mask
    for step, side in ((-1, "before"), (1, "after")):
        moved = torch.zeros_like(mask)
        moved[:, max(step, 0) : mask.shape[1] + min(step, 0)] = mask[:, max(-step, 0) : mask.shape[1] - max(step, 0)]
        if (support & ~mask).any() and not (support & ~moved).any():
            said = f"it is shifted: the gradient reaches the token {side} each one that the mask chooses"
            yield Finding(
                "shift",
                said,
                hand.lines.get("shift", f"log-probs and mask as they are: {hand.name} hands them aligned"),
            )
            return
    places = {"padding": ~batch.completion, "tool": batch.completion & ~mask}
    counted = [name for name, where in places.items() if _counts(hand, of, batch, whole, where)]
    if counted:
        name = "mask" if len(counted) == 2 or not hand.padded else counted[0]
        line = hand.lines.get(name) or hand.lines.get("mask", "")
        yield Finding(name, COUNTED[name], line)
    elif not _finite(of, batch):
        said = "a NaN under the mask would reach its gradient (numbers stand there)"
        yield Finding("nan", said, "select before the arithmetic: torch.where(mask, log_probs, 0)", fault=False)


def _counts(hand: Hand, of: Ask, batch: Batch, whole: Outcome, where: Tensor) -> bool:
    if (whole.slope[where].abs() > CLOSE * whole.slope.abs().max()).any():
        return True
    junk = of(_filled(batch, where, hand.made(1)))
    return not _same(replace(whole, gradient=whole.slope.where(~where, 0)), junk)


def _filled(batch: Batch, where: Tensor, junk: Batch) -> Batch:
    names = ("log_probs", "old_log_probs", "sampler_log_probs", "ref_log_probs", "advantages")
    return replace(batch, **{k: getattr(batch, k).where(~where, getattr(junk, k) * 1.5) for k in names})


def _finite(of: Ask, batch: Batch) -> bool:
    try:
        nan = of(_filled(batch, ~batch.completion, batch.each(lambda x: x * float("nan"))))
    except Exception:
        return False
    return bool(nan.slope.isfinite().all())


def _advantages(hand: Hand, of: Ask, batch: Batch, whole: Outcome) -> Iterator[Finding]:
    """Whether the advantages are read, with their sign, at their own tokens."""
    if hand.advantages == "none":
        return
    turned = of(replace(batch, advantages=-0.7 * batch.advantages))
    if _near(turned.slope, whole.slope, whole.slope):
        said = "it ignores the advantages: whatever was earned, the same is learned, as in supervised learning"
        other = of(replace(batch, sampler_log_probs=batch.sampler_log_probs - 0.01))
        learns = hand.cut or not _near(other.slope, whole.slope, whole.slope)  # not of pairs or examples, as tinker may
        yield Finding("advantages", said, hand.lines.get("advantages", ""), fault=learns)
        return
    pulls = (whole.slope * batch.advantages * batch.mask).sum(1)
    if (pulls > 0).sum() > 0.9 * len(pulls):
        yield Finding("sign", "its sign is turned: it makes less likely what earned more", "loss = -loss")
    row, at = 6, 4  # a long completion, away from its ends
    for name in ("advantages", "old_log_probs", "sampler_log_probs"):
        if name == "advantages" and hand.advantages == "row":
            continue
        moved = getattr(batch, name).clone()
        moved[row, at] *= 1.05
        change = (of(replace(batch, **{name: moved})).slope - whole.slope).abs()
        reached = (change > 1e-7 * whole.slope.abs().max())[row]
        if reached.any() and not reached[at] and (reached[at - 1] or reached[at + 1]):
            side = "before" if reached[at - 1] else "after"
            said = f"it is shifted: a number of {name} counts for the token {side} its own"
            yield Finding("shift", said, hand.lines.get("shift", f"{name} as they are: {hand.name} hands them aligned"))
            return


# ---------------------------------------------------------------------------------------------------------------- unit


def _seen(of: Ask, batch: Batch, whole: Outcome, split: Split) -> Seen:
    cut = of(batch, split).gradient
    cut = torch.zeros_like(whole.slope) if cut is None else cut
    size = whole.slope.square().sum(1)
    weight = (cut * whole.slope).sum(1) / size.where(size > 0, 1.0)
    weight = weight.where(size > 1e-9 * size.max(), float("nan"))
    rest = (cut - weight.nan_to_num(0)[:, None] * whole.slope).abs().amax(1)
    clean = bool((rest <= CLOSE * whole.slope.abs().max()).all())
    off = ((cut - whole.slope).abs() > CLOSE * whole.slope.abs().max())[batch.mask].double().mean()
    return Seen(split, weight, clean, float(off))


def _unit(hand: Hand, seen: list[Seen], batch: Batch) -> list[Finding]:
    """Why the pieces do not add up to the whole; nothing where they do."""
    found = _why(hand, seen, batch)
    if hand.cut:
        return found
    words = {"two micro-batches": "two calls before one step", "micro-batches": "calls", "micro-batch": "call"}
    for old, new in words.items():
        found = [replace(f, said=f.said.replace(old, new), fault=False) for f in found]
    return found


def _why(hand: Hand, seen: list[Seen], batch: Batch) -> list[Finding]:
    if all(s.clean and _all(s.weight, 1.0) for s in seen):
        return []
    if not all(s.clean for s in seen):
        worst = max(s.off for s in seen)
        if worst <= FEW:
            said = f"it treats up to {worst:.0%} of the tokens by what else is in their micro-batch"
            return [Finding("chooses", said, fault=False)]
        said = (
            "what a row teaches depends on the rows beside it: it takes a mean, a deviation or an order over its "
            "micro-batch, which is another batch in every split"
        )
        return [Finding("beside", said, hand.lines.get("beside", WHOLE_BATCH))]
    for of_rank in (False, True):
        counts = [_counts_of(s.split, batch, of_rank) for s in seen]
        for name in counts[0]:
            scaled = [s.weight * count[name] for s, count in zip(seen, counts, strict=True)]
            if all(_all(w, _first(w)) for w in scaled):
                factors = [(s.split, _first(w)) for s, w in zip(seen, scaled, strict=True)]
                return [_named(hand, name, of_rank, factors, seen)]
    known = [s.weight[~s.weight.isnan()] for s in seen]
    spread = max(float(w.max() / w.min()) for w in known if w.min() > 0)
    of_piece = all(
        _all(s.weight[part], _first(s.weight[part])) for s in seen for rank in s.split.pieces for part in rank
    )
    many = f"rows count up to {spread:.1f} times as much as others, depending on how the batch is cut"
    line = hand.lines.get("beside", WHOLE_BATCH)
    if of_piece:
        return [Finding("weights", f"it is scaled by something of its own micro-batch: {many}", line)]
    return [Finding("beside", f"it takes a statistic of the rows of its own micro-batch: {many}", line)]


def _first(weights: Tensor) -> float:
    return float(weights[~weights.isnan()][:1].sum())


def _all(weights: Tensor, value: float) -> bool:
    known = weights[~weights.isnan()]
    return bool(((known - value).abs() <= 10 * CLOSE * abs(value)).all())


def _counts_of(split: Split, batch: Batch, of_rank: bool) -> dict[str, Tensor]:
    """Of each row: tokens, rows, ... of its piece, or of its rank, over those of an average one."""
    ranks = [[slice(rank[0].start, rank[-1].stop)] if of_rank else rank for rank in split.pieces]
    parts = [part for rank in ranks for part in rank]

    def count(of_row: Tensor) -> Tensor:
        found = torch.zeros(len(of_row), dtype=torch.float64)
        for part in parts:
            found[part] = of_row[part].sum().double()
        return found * len(parts) / of_row.sum()

    tokens, rows = count(batch.mask.sum(1)), count(torch.ones_like(batch.mask[:, 0]).long())
    found = {"": torch.ones_like(rows), "tokens": tokens, "rows": rows, "share": tokens / rows}
    return found | {"positions": count(batch.completion.sum(1))}


def _named(hand: Hand, name: str, of_rank: bool, factors: list[tuple[Split, float]], seen: list[Seen]) -> Finding:
    """A factor of each split, and what each piece divides by beside it."""
    powers = next(
        ((a, b) for a, b in sorted(product(range(-3, 4), repeat=2), key=lambda x: (abs(x[0]), abs(x[1])))
         if all(abs(f / (s.ranks**a * s.micro_batches**b) - 1) < 0.02 for s, f in factors)), None
    )  # fmt: skip
    factor = "" if powers == (0, 0) else _grows(powers, factors)
    if not name:
        at = "ranks" if powers and powers[0] else "micro_batches"
        return Finding(at, f"it {factor}{_because(hand, powers)}", hand.lines.get(at, ""))
    whose = "rank" if of_rank else "micro-batch"
    if hand.unit.divided_by != "the loss":
        said = f"it takes a mean where {hand.name} wants a sum: each {whose} divides by its own {name}"
        return Finding(
            "mean",
            f"{said.replace('own share', 'own mean mask')}{f', and so it {factor}' if factor else ''}",
            hand.lines.get("mean", ""),
        )
    weights = torch.cat([s.weight[~s.weight.isnan()] / f for s, (_, f) in zip(seen, factors, strict=True)])
    what = {"tokens": f"its {whose}'s tokens", "rows": f"its {whose}'s rows", "share": "the share of tokens that count",
            "positions": f"its {whose}'s tokens, those that the mask leaves out too"}  # fmt: skip
    said = (
        f"it is a mean of means: it divides by {what[name]}, so rows of short {whose}es count more (here "
        f"{weights.min():.2g} to {weights.max():.2g} times what they should)"
    ).replace("rankes", "ranks")
    return Finding(name, f"{said}{f'; and it {factor}' if factor else ''}", hand.lines.get(name, ""))


def _because(hand: Hand, powers: tuple[int, int] | None) -> str:
    if powers is None:
        return ""
    told = [("the ranks' gradients are", hand.unit.ranks)] if powers[0] else []
    told += [("micro-batches are", hand.unit.micro_batches)] if powers[1] else []
    return ": in " + hand.name + " " + " and ".join(f"{what} {how}" for what, how in told)


def _grows(powers: tuple[int, int] | None, factors: list[tuple[Split, float]]) -> str:
    """Such as "shrinks 8 times with 8 ranks, and doubles with two micro-batches"."""
    if powers is None:
        worst, factor = max(factors, key=lambda x: max(x[1], 1 / max(x[1], 1e-9)))
        return f"is {factor:.3g} times as large with {worst.words}"
    said = []
    for power, many, what in zip(powers, (8, 2), ("8 ranks", "two micro-batches"), strict=True):
        times = many ** abs(power)
        if power:
            grows = "doubles" if times == 2 else f"grows {times} times"
            shrinks = "halves" if times == 2 else f"shrinks {times} times"
            said.append(f"{grows if power > 0 else shrinks} with {what}")
    return ", and ".join(said)


def _length(hand: Hand, of: Ask, batch: Batch, whole: Outcome) -> list[Finding]:
    """Where the framework divides: with twice the tokens, or twice the rows, each should count half as much."""
    if hand.unit.divided_by == "the loss":
        return []
    rows, kept = len(batch.mask), batch.mask & (whole.slope.abs() > 1e-3 * whole.slope.abs().max())
    longer = of(batch.each(lambda x: x.repeat_interleave(2, 1))).slope[:, ::2]
    more = of(batch.each(lambda x: torch.cat([x, x])), Split(1, 1, ((slice(0, 2 * rows),),))).slope[:rows]
    tokens, completions = (float((x[kept] / whole.slope[kept]).median()) for x in (longer, more))
    again = [what for what, ratio in (("tokens", tokens), ("completions", completions)) if abs(ratio - 0.25) < 0.02]
    if again:
        said = f"it takes a mean where {hand.name} wants a sum: it divides by {again[0]}, and {hand.name} divides too"
        return [Finding("mean", said, hand.lines.get("mean", ""))]
    if abs(tokens - 1.0) < 0.02:
        said = f"it adds up tokens where {hand.name} means each completion: long ones count more"
        return [Finding("sum", said, hand.lines.get("mean", ""), fault=False)]
    return []
