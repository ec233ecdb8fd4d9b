"""Changes of inputs that any objective can have: each shifted, inverted, detached, exchanged or left out.

What is here knows nothing of an objective but the names, shapes and kinds of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torchstone.conformance.name.changes import Change, Inputs
from torchstone.conformance.vectors import Argument, Vectors

Rows = list[Any]

WORDS = {  # what an argument is, where its name alone is no English
    "log_probs": "the policy's log-probs", "old_log_probs": "the old policy's log-probs",
    "ref_log_probs": "the reference's log-probs", "sampler_log_probs": "the sampler's log-probs",
    "teacher_log_probs": "the teacher's log-probs", "logits": "the policy's logits",
    "ref_logits": "the reference's logits", "teacher_logits": "the teacher's logits",
    "chosen_log_probs": "the policy's log-probs of chosen completions",
    "rejected_log_probs": "the policy's log-probs of rejected completions",
    "ref_chosen_log_probs": "the reference's log-probs of chosen completions",
    "ref_rejected_log_probs": "the reference's log-probs of rejected completions",
    "old_values": "the old values", "x": "x", "kl": "the measured KL",
    "scored": "the mask of scored completions", "desirable": "the mask of desirable completions",
    "chosen": "the mask of chosen tokens",
}  # fmt: skip


def word(argument: str) -> str:
    """Such as "the old policy's log-probs"."""
    return WORDS.get(argument, f"the {argument.replace('_', ' ')}")


def _verb(argument: str) -> str:
    plural = argument.endswith("s") and not argument.endswith("ss")
    return "are" if plural else "is"


def input_changes(vectors: Vectors, taken: Iterable[str]) -> Iterable[Change]:
    """Of each argument that a function takes, alone and with another of its kind."""
    names = [k for k in vectors.arguments if k in set(taken)]
    for k in names:
        a = vectors.arguments[k]
        yield from _of_mask(k, a) if a.kind == "bool" else _of_numbers(k, a) if a.kind == "float" else _of_ids(k, a)
        if len(a.shape.split()) > 1:
            yield from _moved(k, a)
        elif a.shape:
            yield from _other_rows(k)
        if a.shape == "B" and a.kind == "float" and "mask" in names:
            yield from _along_columns(k)
        if a.shape == "B T" and a.kind == "float" and "mask" in names:
            yield from _under_another_mask(k)


def _change(k: str, name: str, about: str, effect: str, function: Callable[[Any], Any], *more: str) -> Change:
    return Change(
        f"{k}_{name}", f"{word(k).capitalize()} {_verb(k)} {about}".replace("  ", " "), effect,
        frozenset((k, *more)), inputs=lambda given: {**given, k: function(given[k])} if k in given else given,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- of one input


def each_entry(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """On every entry of a nested list."""
    return lambda x: (
        [each_entry(function)(part) for part in x] if isinstance(x, list) else None if x is None else function(x)
    )


def _by_row(function: Callable[[Rows], Rows]) -> Callable[[Any], Any]:
    """On the second dimension: the tokens of a completion, the samples of a prompt."""
    return lambda x: [function(row) if isinstance(row, list) else row for row in x]


def _after(row: Rows, t: int) -> bool:
    return any(row[t + 1 :])


_OF_ROWS_OF_A_MASK: tuple[tuple[str, str, str, Callable[[Rows, int, Any], Any]], ...] = (
    ("last_lost", "False at the last token of each row that counts: it is lost.",
     "The end of a completion is never trained.", lambda row, t, m: m and _after(row, t)),
    ("first_lost", "False at the first token of each row that counts: it is lost.",
     "The first token of a completion is never trained.", lambda row, t, m: m and any(row[:t])),
    ("one_longer", "True at one place more, after the last token that counts.",
     "The first token of the padding is trained.", lambda row, t, m: m or (t > 0 and row[t - 1] and not any(row[t:]))),
    ("gaps_filled", "True from the first token that counts to the last: gaps are filled.",
     "What a tool wrote is trained as if the policy had.", lambda row, t, m: m or (any(row[:t]) and any(row[t:]))),
    ("first_run_only", "False after the first gap: only the first run of tokens counts.",
     "What comes after a tool's output is never trained.", lambda row, t, m: m and all(row[row.index(True) : t])),
    ("last_only", "True at the last token of each row alone.",
     "One token a completion is trained.", lambda row, t, m: m and not _after(row, t)),
)  # fmt: skip


def _of_mask(k: str, a: Argument) -> Iterable[Change]:
    on = "padding is trained and answers are not" if k == "mask" else (
        "what is masked counts, and what should count does not")  # fmt: skip
    all_ = "every completion is taken as desirable" if k == "desirable" else "every entry counts"
    for name, about, effect, entry in (
        ("inverted", f"inverted (negated, ~{k}): {on}.", f"{on.capitalize()}.", lambda m: not m),
        ("all_true", f"ignored: {all_}.", "What should be left out counts too, whatever it is.", lambda m: True),
        ("all_false", "taken as False everywhere: no entry counts.", "Nothing is trained.", lambda m: False),
    ):  # fmt: skip
        yield _change(k, name, about, effect, each_entry(entry))
    for name, about, effect, at in _OF_ROWS_OF_A_MASK if len(a.shape.split()) > 1 else ():
        function = _by_row(lambda row, at=at: [at(row, t, m) for t, m in enumerate(row)])
        yield _change(k, name, about, effect, function)


def _of_numbers(k: str, a: Argument) -> Iterable[Change]:
    from torchstone_oracle.numbers import absolute, dual, exp, log, stop

    unlike = "Unlikely tokens hardly differ from each other."
    for here, name, about, effect, entry in (
        (True, "zero", "ignored: 0 stands in their place.", "Nothing depends on them.", lambda x: dual(0)),
        (True, "one", "ignored: 1 stands in their place.", "Nothing depends on them.", lambda x: dual(1)),
        (True, "negated", "negated: their sign is flipped.", "What should go up goes down.", lambda x: -x),
        (True, "doubled", "doubled: counted twice.", "Their weight is twice what it should be.", lambda x: x + x),
        (True, "halved", "halved.", "Their weight is half of what it should be.", lambda x: x / 2),
        (True, "squared", "squared.", "Their sign is lost, and large ones weigh far too much.", lambda x: x * x),
        (True, "absolute", "taken as absolute values: their sign is lost.", "Good and bad are the same.", absolute),
        ("log" in k or k == "x", "exp_taken", "probabilities where logs belong: exp is taken of them.", unlike, exp),
        (True, "log_taken", "the log of what was given.", "A number below 0 gives NaN.", log),
        (True, "sign", "taken by their sign alone: 1, 0 or -1.", "Great and small count the same.",
         lambda x: dual((x > 0) - (x < 0))),
        (True, "not_below_zero", "held at 0 or above (clamp(min=0), relu).", "What is below 0 is lost.",
         lambda x: x if x > 0 else dual(0)),
        (True, "not_above_zero", "held at 0 or below (clamp(max=0)).", "What is above 0 is lost.",
         lambda x: x if x < 0 else dual(0)),
        (a.gradient, "detached", "detached: the value is right, and no gradient flows into them.",
         "They are not trained.", stop),
    ):  # fmt: skip
        if here:
            yield _change(k, name, about, effect, each_entry(entry))
    if a.shape:
        yield from _levelled(k, a)


def _levelled(k: str, a: Argument) -> Iterable[Change]:
    """One number of many: a mean, a sum, a first or last one, a whitened one."""
    from torchstone_oracle.numbers import mean, total

    rows = len(a.shape.split()) > 1
    for what, one in (("mean", mean), ("sum", total), ("maximum", max), ("minimum", min), ("first", _first)):
        yield _change(k, f"{what}_of_all", f"replaced by the {what} of the whole batch.",
                      "Rows and tokens are not told apart.", of_all(one))  # fmt: skip
        if rows:
            yield _change(k, f"{what}_of_row", f"replaced by the {what} of each row.",
                          "The entries of a row are not told apart.",
                          _by_row(lambda row, one=one: [_some(one, row)] * len(row)))  # fmt: skip
    yield _change(k, "centred", "less the mean of the batch (centred).", "A constant is taken off everywhere.",
                  of_all(mean, lambda x, m: x - m))  # fmt: skip
    for n in (1, 0):
        yield _change(k, f"whitened_{n}", "whitened once more over the batch: less the mean, over the deviation "
                      f"(n{' - 1' * n}).", "Their scale and their sign are those of the batch.",
                      lambda x, n=n: normalised(x, n))  # fmt: skip
    for name, about, effect, function in (
        ("centred_by_row", "less the mean of each row (centred).", "A constant is taken off each row.",
         lambda row: [x - mean(row) for x in row]),
        ("cumulated", "summed up along each row (cumsum).", "Each entry counts again later.",
         lambda row: [total(row[: t + 1]) for t in range(len(row))]),
        ("cumulated_from_the_end", "summed up along each row from its end.", "Each entry counts again earlier.",
         lambda row: [total(row[t:]) for t in range(len(row))]),
    ) if rows else ():  # fmt: skip
        yield _change(k, name, about, effect, _by_row(function))


def _first(xs: Rows) -> Any:
    return xs[0]


def _some(one: Callable[[Rows], Any], row: Rows) -> Any:
    return one([x for x in row if x is not None])


def of_all(one: Callable[[Rows], Any], put: Callable[[Any, Any], Any] = lambda x, m: m) -> Callable[[Any], Any]:
    """Each entry by what is made of all of them."""
    from torchstone_oracle.contract import flat

    def function(x: Any) -> Any:
        m = one(flat(x))
        return each_entry(lambda v: put(v, m))(x)

    return function


def normalised(x: Any, correction: int, centred: bool = True, eps: Any = 0, divided: bool = True) -> Any:
    """Less the mean of all entries, over their deviation plus ``eps``; or one of the two."""
    from torchstone_oracle.contract import flat
    from torchstone_oracle.numbers import dual, mean, sqrt, total

    xs = flat(x)
    centre = mean(xs)
    spread = sqrt(total((v - centre) * (v - centre) for v in xs) / (len(xs) - correction))
    divisor = spread + dual(eps) if divided else dual(1)
    return each_entry(lambda v: (v - centre * int(centred)) / divisor)(x)


def _of_ids(k: str, a: Argument) -> Iterable[Change]:
    for name, about, entry in (
        ("next_id", "one too large (off by one).", lambda i: i + 1),
        ("previous_id", "one too small (off by one).", lambda i: max(i - 1, 0)),
    ):
        yield _change(k, name, about, "Another token is looked up.", each_entry(entry))


def _moved(k: str, a: Argument) -> Iterable[Change]:
    """Along the second dimension and the first: shifted by one place, turned around, of another row."""
    what = {"P": "sample", "G": "sample"}.get(a.shape.split()[1], "token")
    for fill, of in ((0, "0"), ("edge", "the last one again"), ("roll", "what is lost at the other end (rolled)")):
        for by, where in ((1, f"one {what} later"), (-1, f"one {what} earlier")):
            name = f"{'rolled' if fill == 'roll' else 'shifted'}_{'later' if by > 0 else 'earlier'}"
            yield _change(
                k, name + {0: "", "edge": "_edge", "roll": ""}[fill],
                f"shifted by one place: each stands {where}, with {of} at the end that is left free.",
                f"Each {what} has the entry of its neighbour (off by one).",
                _by_row(lambda row, by=by, fill=fill: _shifted(row, by, fill)), f"{k} place",
            )  # fmt: skip
    yield _change(k, "turned_around", "turned around (flipped): the last entry of each row first.",
                  "Each has the entry of another.", _by_row(lambda row: row[::-1]), f"{k} place")  # fmt: skip
    yield from _other_rows(k)
    yield _change(k, "transposed", "transposed, or read in the wrong order of dimensions.",
                  "Each has the entry of another.", _transposed, f"{k} place")  # fmt: skip


def _shifted(row: Rows, by: int, fill: Any) -> Rows:
    if len(row) < 2:
        return row
    rest = row[:-1] if by > 0 else row[1:]
    nothing = False if isinstance(row[0], bool) else row[0] * 0 if not isinstance(row[0], list) else row[0]
    free = {0: nothing, "edge": row[0] if by > 0 else row[-1], "roll": row[-1] if by > 0 else row[0]}[fill]
    return [free, *rest] if by > 0 else [*rest, free]


def _along_columns(k: str) -> Iterable[Change]:
    """One number a row, put along the wrong axis of [B T]."""
    for name, about, at in (
        ("along_columns", "broadcast along the wrong axis: column t has the number of row t", lambda b, t, width: t),
        ("repeated", "repeated in the wrong order (repeat in place of repeat_interleave): the rows follow each other",
         lambda b, t, width: b * width + t),
    ):  # fmt: skip
        yield Change(
            f"{k}_{name}", f"{word(k).capitalize()} {_verb(k)} {about}.", "Each token has what belongs to another row.",
            frozenset((k,)), inputs=lambda given, at=at: _placed(given, k, at),
        )  # fmt: skip


def _placed(given: Inputs, k: str, at: Callable[[int, int, int], int]) -> Inputs:
    xs, mask = given.get(k), given["mask"]
    if xs is None or isinstance(xs[0], list):
        return given
    return {**given, k: [[xs[at(b, t, len(row)) % len(xs)] for t in range(len(row))] for b, row in enumerate(mask)]}


def _under_another_mask(k: str) -> Iterable[Change]:
    """0 wherever a mask that is one place off is False; the result is masked as it should be."""
    for name, by in (("early", 1), ("late", -1)):
        yield Change(
            f"{k}_masked_one_{name}",
            f"{word(k).capitalize()} {_verb(k)} masked one place too {name} (shifted): 0 beside a gap.",
            "The first token after each gap, or the last before it, is not trained.", frozenset((k,)),
            inputs=lambda given, by=by: {**given, k: _masked(given[k], given["mask"], by)} if k in given else given,
        )  # fmt: skip


def _masked(x: Rows, mask: Rows, by: int) -> Rows:
    from torchstone_oracle.numbers import dual

    moved = [[True, *row[:-1]] if by > 0 else [*row[1:], True] for row in mask]
    return [[v if m else dual(0) for v, m in zip(*rows, strict=True)] for rows in zip(x, moved, strict=True)]


def _other_rows(k: str) -> Iterable[Change]:
    for name, about, function in (
        ("of_row_before", "rolled by one row: each row has the one before it.", lambda x: x[-1:] + x[:-1]),
        ("of_row_after", "rolled by one row: each row has the one after it.", lambda x: x[1:] + x[:1]),
        ("rows_turned_around", "in the reverse order of rows (flipped).", lambda x: x[::-1]),
        ("of_first_row", "those of the first row in every row.", lambda x: x[:1] * len(x)),
    ):
        yield _change(k, name, about, "Each row has what belongs to another one.",
                      lambda x, f=function: f(x) if isinstance(x, list) else x, f"{k} place")  # fmt: skip
    yield _change(k, "sorted", "sorted.", "Each row has what belongs to another one.",
                  lambda x: sorted(x, key=lambda v: v.value) if not isinstance(x[0], list | bool) else x)  # fmt: skip


def _transposed(x: Any) -> Any:
    columns = list(zip(*x, strict=True))
    entries = [v for column in columns for v in column]
    width = len(x[0])
    return [entries[i : i + width] for i in range(0, len(entries), width)]
