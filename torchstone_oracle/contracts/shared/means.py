"""From one number a token to one number: the computation, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ... import core
from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting, Step
from ...core import Mask
from ...numbers import Dual, dual, mp, mpf, stop, total
from .common import (
    EDGES,
    INF,
    MASK,
    NAN,
    OPEN_INSTRUCT,
    OPEN_INSTRUCT_E6C3044,
    PRIME_RL,
    TRL,
    TRL_1_16_0,
    VERL,
    Settings,
    Steps,
    bug,
    full,
    hidden,
    marks,
    variant,
)


def reduced(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Which tokens count, one number out of them, and what the entries under False add (nothing)."""
    x, mask = inputs["x"], steps["mask"](inputs["mask"])
    denominator = steps["denominator"](settings["denominator"], mask)
    value = steps["reduce"](x, mask, denominator, settings)
    return {"value": dual(steps["finish"](value, settings, mask) + steps["hidden"](x, mask))}


def by_tokens(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    return core.token_mean(x, mask, denominator)


def by_rows(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    return core.sequence_mean(x, mask, denominator)


def by_row_sums(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    return core.sequence_sum(x, mask, denominator)


def by_width(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    """Row sums over the padded width of the batch."""
    return core.fixed_length_mean(x, mask, len(mask[0]), denominator)


def span(row: list[bool]) -> int:
    return max((t + 1 for t, m in enumerate(row) if m), default=0)


def under_false(x: Any, mask: Mask) -> Dual:
    """0 times each entry under False: 0, unless one of them is NaN or inf."""
    rows = zip(x, mask, strict=True)
    return total(mpf(0) * stop(v) for row, m in rows for v, chosen in zip(row, m, strict=True) if not chosen)


def unless_empty(value: Dual, nothing: bool) -> Dual:
    """The value, and 0 / 0 where there is nothing to divide by."""
    return value * mp.nan if nothing else value


MEANS = {
    "token_mean": variant(
        "The mean over all tokens of the batch.",
        "A token of a long answer weighs as much as one of a short answer; long answers weigh more.",
        {"reduce": by_tokens},
        pitfalls=("C01", "C10"),
        links=(f"{TRL}/pull/2881", "https://arxiv.org/abs/2503.14476"),
    ),
    "sequence_mean": variant(
        "The mean in each row, then over rows.",
        "Every answer weighs the same; a token of a long answer weighs less.",
        {"reduce": by_rows},
        pitfalls=("C01", "C07"),
        links=(f"{TRL}/pull/2881", f"{VERL}/pull/931"),
    ),
    "sequence_sum": variant(
        "The sum in each row, then the mean over rows.",
        "The loss and its gradient grow with the length of the answers.",
        {"reduce": by_row_sums},
        pitfalls=("C07", "C10"),
        links=(f"{VERL}/pull/931", f"{PRIME_RL}/pull/2034"),
    ),
}
SUMMED = bug(
    "A sum where a mean belongs: nothing is divided by the number of tokens or rows.",
    "The learning rate grows with the batch.",
    {"denominator": lambda denominator, mask: 1},
    pitfalls=("C08", "R07"),
    links=(f"{VERL}/pull/4510",),
)
UNMASKED = bug(
    "All entries count, those under False too.",
    "Padding is trained, and short answers are scaled down by it.",
    {"mask": lambda mask: full(len(mask), len(mask[0]))},
    pitfalls=("C19", "C36"),
)
MULTIPLIED = bug(
    "Entries under False are multiplied by 0 instead of left out: 0 * nan is nan.",
    "One NaN in the padding turns the whole update into NaN.",
    {"hidden": under_false},
    pitfalls=("C60",),
    links=(f"{VERL}/pull/2377",),
)


def with_padding(rows: Any, mask: Mask) -> list[Dual]:
    """The sum of each row, what lies under False included; 0 of a row without a token."""
    pairs = zip(rows, mask, strict=True)
    return [total(dual(v) for v in row if v is not None) if any(m) else dual(0) for row, m in pairs]


def by_tokens_with_padding(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    return core.divided(total(with_padding(x, mask)), sum(map(sum, mask)) if denominator is None else denominator)


def by_rows_with_padding(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    n = core.rows_that_count(mask) if denominator is None else denominator
    means = (core.divided(row, sum(m)) for row, m in zip(with_padding(x, mask), mask, strict=True))
    return core.divided(total(means), n)


def padding_summed(reduce: Step) -> Alternative:
    return bug(
        "What lies under False is summed too (the padding is not masked); the count is right.",
        "Whatever stands in the padding is trained.",
        {"reduce": reduce},
        pitfalls=("C36",),
    )


def divided_by_both(count: Callable[[Mask], int]) -> Alternative:
    def finish(value: Dual, settings: Settings, mask: Mask) -> Dual:
        return core.divided(value, count(mask)) if settings["denominator"] else value

    return bug(
        "Divided by the given denominator and by the own count, twice in all.",
        "The loss of a micro-batch is too small by its own size: parts do not add up to the batch.",
        {"finish": finish},
        pitfalls=("C03",),
    )


SHARED_ALTERNATIVES = {
    "summed": SUMMED,
    "denominator_ignored": bug(
        "The given denominator is not used: each micro-batch is divided by its own count.",
        "Tokens of a micro-batch with few of them weigh more: the gradient depends on how the batch was split.",
        settings={"denominator": None},
        pitfalls=("C02", "C04", "C05", "C11", "R08", "R22"),
        links=(f"{OPEN_INSTRUCT}/pull/1161", f"{TRL}/issues/5619", f"{PRIME_RL}/pull/2562"),
    ),
    "divided_again": bug(
        "Divided by the denominator of the whole batch, and by the number of micro-batches (two here) once more.",
        "The learning rate falls with the number of micro-batches.",
        {"finish": lambda value, settings, mask: value / 2 if settings["denominator"] else value},
        pitfalls=("C03", "C14"),
        links=("https://github.com/modelscope/ms-swift/pull/10117",),
    ),
    "unmasked": UNMASKED,
    "multiplied_by_mask": MULTIPLIED,
}
ALL_ROWS = variant(
    "Rows without a token are counted too.",
    "Every row that is masked out scales the others down.",
    {"denominator": lambda denominator, mask: len(mask) if denominator is None else denominator},
    links=(TRL_1_16_0, OPEN_INSTRUCT_E6C3044),
)
NO_TOKENS = bug(
    "0 / 0 where no token counts.",
    "A micro-batch without a token turns the update into NaN.",
    {"finish": lambda value, settings, mask: unless_empty(value, not any(map(any, mask)))},
    pitfalls=("C61", "R13"),
    links=(f"{VERL}/pull/782", f"{OPEN_INSTRUCT}/pull/1685"),
)
EMPTY_ROWS = bug(
    "0 / 0 in a row without a token.",
    "One such row turns the whole update into NaN.",
    {"finish": lambda value, settings, mask: unless_empty(value, not all(map(any, mask)))},
    pitfalls=("C61", "R13"),
    links=(f"{VERL}/pull/782", f"{OPEN_INSTRUCT}/pull/1685"),
)

X = [[1.0, -0.5, 2.0, 0.25], [3.0, 1.5, -1.0, 0.75], [-2.0, 0.5, 4.0, 1.25]]
RAGGED = marks("1110 1000 1100")
GAPS = marks("1011 0110 1001")
X_SQUARE = [row[:3] for row in X]


def entries(comment: str, x: list[list[float]], mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(comment, {"x": x, "mask": mask}, flags, **more)


MEAN_CASES = (
    entries("two rows, all counted", X[:2], full(2, 4)),
    entries("three rows, all counted", X_SQUARE, full(3, 3), "rows_equal_columns"),
    entries("lengths 3, 1 and 2", X, RAGGED, "ragged_mask"),
    entries("gaps", X, GAPS, "gaps_in_mask", "ragged_mask"),
    entries("64 in the padding", hidden(X, RAGGED, 64.0), RAGGED, "ragged_mask", "junk_under_mask"),
    entries("NaN in the padding", hidden(X, RAGGED, NAN), RAGGED, "ragged_mask", "nan_under_mask"),
    entries("inf in the gaps", hidden(X, GAPS, INF), GAPS, "gaps_in_mask", "nan_under_mask"),
    entries("a row without a token", X, marks("1110 0000 1100"), "ragged_mask", "empty_row"),
    entries("no token at all", X[:2], marks("0000 0000"), "all_masked"),
    entries("three rows of three, ragged", X_SQUARE, marks("110 100 111"), "rows_equal_columns", "ragged_mask"),
    entries("one token", [[-1.5]], [[True]], "one_token"),
    entries("one row, half of it padding", X[:1], marks("1100"), "ragged_mask"),
)  # fmt: skip
SPLIT = (
    entries("lengths 3, 1 and 2: the first row alone", X[:1], RAGGED[:1], "micro_batch"),
    entries("lengths 3, 1 and 2: the other two rows", X[1:], RAGGED[1:], "micro_batch"),
)


def mean_objective(
    name: str, tag: str, about: str, source: tuple[str, ...], reduce: Callable[..., Dual],
    alternatives: Mapping[str, Alternative], more: Mapping[str, Setting] | None = None,
    numbers: Mapping[str, Any] | None = None, split: tuple[int, ...] = (3, 8),
) -> Objective:  # fmt: skip
    """``split``: denominators of the whole batch, of which ``SPLIT`` are the two micro-batches."""
    numbers = numbers or {}
    unit = "any; what lies under False may be anything"
    return Objective(
        name=name,
        about=about,
        tags=(tag,),
        source=source,
        arguments={"x": Argument("B T", unit, gradient=True), "mask": MASK},
        returns={"value": Argument("", "that of x")},
        settings={
            **(more or {}),
            "denominator": Setting("What the sum is divided by; None counts it in the mask.", (None,)),
        },
        compute=reduced,
        steps={
            "mask": lambda mask: mask,
            "denominator": lambda denominator, mask: denominator,
            "reduce": reduce,
            "finish": lambda value, settings, mask: value,
            "hidden": lambda x, mask: 0,
        },
        alternatives={**{k: a for k, a in MEANS.items() if k != name}, **SHARED_ALTERNATIVES, **alternatives},
        edges=EDGES,
        groups=(
            Group({**numbers, "denominator": None}, MEAN_CASES),
            *(Group({**numbers, "denominator": n}, SPLIT) for n in split),
            Group({**numbers, "denominator": 0}, MEAN_CASES[8:9]),
            *(
                Group({k: v, "denominator": None}, MEAN_CASES[2:4])
                for k, setting in (more or {}).items()
                for v in setting.usual[1:]
            ),
        ),
    )
