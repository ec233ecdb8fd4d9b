"""masked_whiten: mean 0 and deviation 1 over the chosen tokens."""

from __future__ import annotations

from typing import Any

from ... import core
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...core import Mask
from ...numbers import Dual, dual, maximum, mean, sqrt, total
from ..shared.common import (
    EDGES,
    MASK,
    NAN,
    OPENRLHF_0_11_2,
    VERL,
    Settings,
    Steps,
    bug,
    full,
    hidden,
    marks,
    variant,
)
from ..shared.means import GAPS, RAGGED, X_SQUARE, X, entries


def whitened(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """core.masked_whiten, taken apart."""
    x, mask = inputs["x"], inputs["mask"]
    return {"whitened": [steps["row"](i, x, mask, settings, steps) for i in range(len(x))]}


def whitened_row(i: int, x: Any, mask: Mask, settings: Settings, steps: Steps) -> list[Dual]:
    """Row i, by the statistics of the whole batch."""
    counted = steps["counted"](x, mask)
    centre = steps["centre"](counted, x, mask)
    variance = steps["variance"](counted, settings["correction"], centre, mask)
    deviation = steps["deviation"](variance, settings["eps"])
    values = [core.whitened(v, centre, deviation, settings["keep_mean"]) for v in x[i]]
    return [v if m else dual(steps["padding"](v)) for v, m in zip(values, mask[i], strict=True)]


def row_by_row(i: int, x: Any, mask: Mask, settings: Settings, steps: Steps) -> list[Dual]:
    return whitened_row(0, x[i : i + 1], mask[i : i + 1], settings, steps)


def counted(x: Any, mask: Mask) -> list[Dual]:
    return [v for row in zip(x, mask, strict=True) for v in core.chosen(*row)]


def everything(x: Any, mask: Mask) -> list[Dual]:
    return [dual(v) for row in x for v in row]


def mean_with_padding(xs: list[Dual], x: Any, mask: Mask) -> Dual:
    return total(xs) / (len(mask) * len(mask[0]))


def zeros_counted(x: Any, mask: Mask) -> list[Dual]:
    """All entries, with 0 where the policy chose nothing."""
    return [dual(v) if m else Dual(0) for row, ms in zip(x, mask, strict=True) for v, m in zip(row, ms, strict=True)]


def squares_of_zeros(xs: list[Dual], correction: int, centre: Dual, mask: Mask) -> Dual:
    """The sum of squares around the mean with a 0 for every entry that the policy did not choose."""
    size = len(mask) * len(mask[0])
    return total((x - centre) * (x - centre) for x in [*xs, *[Dual(0)] * (size - len(xs))])


def around(xs: list[Dual], correction: int, centre: Dual, mask: Mask) -> Dual:
    return core.divided(total((x - centre) * (x - centre) for x in xs), len(xs) - correction)


def over_all(xs: list[Dual], correction: int, centre: Dual, mask: Mask) -> Dual:
    size = len(mask) * len(mask[0])
    return core.divided(squares_of_zeros(xs, correction, centre, mask), size - correction)


def over_chosen(xs: list[Dual], correction: int, centre: Dual, mask: Mask) -> Dual:
    return core.divided(squares_of_zeros(xs, correction, centre, mask), len(xs) - correction)


def chosen_over_all(xs: list[Dual], correction: int, centre: Dual, mask: Mask) -> Dual:
    size = len(mask) * len(mask[0])
    return core.divided(total((x - centre) * (x - centre) for x in xs), size - correction)


WHITEN_EDGES = EDGES | {
    "small_deviation": Flag(
        "edge",
        "Numbers that differ by 2^-13: their variance is as small as eps, and it matters where eps is added.",
        "Noise is scaled up to size 1, or down to 0.",
    ),
}
WHITEN_ALTERNATIVES = {
    "mean_kept": variant(
        "Scaled only; the mean stays where it was.",
        "For rewards, whose sign matters. Advantages keep a common push.",
        settings={"keep_mean": True},
    ),
    "mean_taken": variant(
        "The mean is taken off although it was to be kept.",
        "Rewards change their sign.",
        settings={"keep_mean": False},
    ),
    "eps_outside": variant(
        "eps is added to the deviation, not to the variance.",
        "No difference unless all are nearly equal; then the same eps damps less.",
        {"deviation": lambda variance, eps: sqrt(variance) + eps},
        links=("https://github.com/vwxyzjn/cleanrl/tree/fe8d8a0",),
    ),
    "variance_floor": variant(
        "The variance is at least eps, instead of eps being added to it.",
        "No difference unless all are nearly equal.",
        {"deviation": lambda variance, eps: sqrt(maximum(variance, eps))},
        links=(OPENRLHF_0_11_2,),
    ),
    "divided_by_variance": bug(
        "Divided by the variance: the root is missing.",
        "The size of the advantages depends on the unit of the reward.",
        {"deviation": lambda variance, eps: variance + eps},
    ),
    "only_centred": bug(
        "The mean is taken off, and nothing is divided.",
        "The size of the advantages depends on the unit of the reward.",
        {"deviation": lambda variance, eps: Dual(1)},
    ),
    "unmasked_statistics": bug(
        "Mean and variance are taken over the padding too.",
        "What lies in the padding shifts and scales every advantage.",
        {"counted": everything},
        pitfalls=("C36", "C45"),
        links=(f"{VERL}/pull/1527",),
    ),
    "mean_over_padding": bug(
        "The mean is the sum of the chosen tokens over all entries; the variance is right.",
        "The mean is too near 0: with much padding the advantages are not centred.",
        {"centre": mean_with_padding},
        pitfalls=("C45",),
        links=("https://github.com/NovaSky-AI/SkyRL/issues/1305",),
    ),
    "zeros_of_padding_counted": bug(
        "The padding is set to 0, and its zeros are counted in mean and variance.",
        "The wider the batch is padded, the smaller the deviation and the larger the advantages.",
        {"counted": zeros_counted},
        pitfalls=("C45",),
    ),
    "variance_over_padding": bug(
        "The mean is right; the zeros of the padding are counted in the variance.",
        "The scale of the advantages depends on how wide the batch is padded.",
        {"variance": over_all},
        pitfalls=("C45",),
    ),
    "padding_in_the_squares": bug(
        "The mean is right; the padding adds its squares to the variance, which is divided by the chosen tokens.",
        "The scale of the advantages depends on how wide the batch is padded.",
        {"variance": over_chosen},
        pitfalls=("C45",),
    ),
    "variance_by_all_entries": bug(
        "The squares are those of the chosen tokens, and are divided by all entries, padding included.",
        "The scale of the advantages depends on how wide the batch is padded.",
        {"variance": chosen_over_all},
        pitfalls=("C45",),
    ),
    "centred_over_all_entries": bug(
        "The mean is the sum of the chosen tokens over all entries, padding included; the squares are around it.",
        "With much padding the advantages are not centred, and too small.",
        {"centre": mean_with_padding, "variance": around},
        pitfalls=("C45",),
    ),
    "not_centred": bug(
        "The mean is not taken off; the deviation is right.",
        "A push in one direction is common to all tokens of the batch.",
        {"centre": lambda xs, x, mask: Dual(0)},
    ),
    "padding_not_zeroed": bug(
        "The padding is whitened too, and is not 0 afterwards.",
        "-mean / deviation stands in the padding; the next sum over a row takes it in.",
        {"padding": dual},
        pitfalls=("C45",),
        links=(f"{VERL}/pull/1527",),
    ),
    "row_by_row": bug(
        "Each row is whitened by its own statistics.",
        "A completion as a whole is neither good nor bad: every one has mean 0.",
        {"row": row_by_row},
        pitfalls=("C41",),
    ),
}
TINY = 2.0**-13
LOOSE = {"float64": "1e-7"}  # eps is so small that it must not matter where it is added
WHITEN_CASES = (
    entries("two rows, all chosen", X[:2], full(2, 4), tolerance=LOOSE),
    entries("lengths 3, 1 and 2", X, RAGGED, "ragged_mask", tolerance=LOOSE),
    entries("gaps", X, GAPS, "gaps_in_mask", tolerance=LOOSE),
    entries("64 in the padding", hidden(X, RAGGED, 64.0), RAGGED, "ragged_mask", "junk_under_mask", tolerance=LOOSE),
    entries("NaN in the gaps", hidden(X, GAPS, NAN), GAPS, "gaps_in_mask", "nan_under_mask", tolerance=LOOSE),
    entries("a row without a token", X, marks("1110 0000 1100"), "empty_row", tolerance=LOOSE),
    entries("three rows of three", X_SQUARE, full(3, 3), "rows_equal_columns", tolerance=LOOSE),
)
WHITEN_TIES = (
    entries("0.1 eight times", [[0.1] * 4] * 2, full(2, 4), "tie_that_rounds"),
    entries("0.7 twelve times", [[0.7] * 6] * 2, full(2, 6), "tie_that_rounds"),
    entries("1/3 seven times, among 64s in the padding", [[1 / 3] * 4, [1 / 3] * 3 + [64.0]], marks("1111 1110"),
            "tie_that_rounds", "junk_under_mask"),
)  # fmt: skip
WHITEN_SMALL = entries(
    "numbers 2^-13 apart", [[0.0, TINY, TINY], [0.0, 0.0, 2 * TINY]], full(2, 3), "small_deviation", result="acceptable"
)
WHITEN_LARGE = entries(
    "1024 more", [[1024.0 + x for x in row] for row in X], RAGGED, "large_mean", "ragged_mask", tolerance=LOOSE
)
WHITEN_NOTHING = (
    entries("no token at all", X[:2], marks("0000 0000"), "all_masked", result="acceptable"),
    entries("one token", [[-1.5]], [[True]], "one_token", result="acceptable"),
)


def whiten(correction: int, eps: float, keep_mean: bool = False) -> dict[str, Any]:
    return {"correction": correction, "eps": eps, "keep_mean": keep_mean}


def exact(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The same, where eps is large enough to tell."""
    return tuple(Case(c.comment, c.inputs, c.flags, c.result) for c in cases)


OBJECTIVE = Objective(
    name="masked_whiten",
    about="Shift and scale the chosen tokens of a batch to mean 0 and variance 1; 0 elsewhere.",
    tags=("CORE.9",),
    source=("REINFORCE++, arXiv:2501.03262v9, eq. 8 (which does not say n or n - 1, nor where eps goes)",),
    arguments={"x": Argument("B T", "any; a constant"), "mask": MASK},
    returns={"whitened": Argument("B T", "1; with keep_mean plus the mean, in the unit of x")},
    settings={
        "correction": Setting("0 for the variance over n, 1 over n - 1.", (1, 0), free=True),
        "eps": Setting("Added to the variance.", (1e-8, 1e-6, 1e-5, 1e-4, 0.0), free=True),
        "keep_mean": Setting("Scale only, and leave the mean where it was.", (False, True)),
    },
    compute=whitened,
    steps={
        "row": whitened_row,
        "counted": counted,
        "centre": lambda xs, x, mask: mean(xs),
        "variance": lambda xs, correction, centre, mask: core.variance(xs, correction),
        "deviation": lambda variance, eps: sqrt(variance + eps),
        "padding": lambda value: 0,
    },
    alternatives=WHITEN_ALTERNATIVES,
    edges=WHITEN_EDGES,
    groups=(
        Group(whiten(1, 1e-8), (*WHITEN_CASES, *WHITEN_TIES, WHITEN_SMALL, WHITEN_LARGE, *WHITEN_NOTHING)),
        Group(whiten(0, 1e-8), (*WHITEN_CASES[:3], WHITEN_LARGE, *WHITEN_TIES[:2])),
        Group(whiten(1, 0.25), exact(WHITEN_CASES[1:3])),
        Group(whiten(0, 0.25), exact(WHITEN_CASES[:2])),
        Group(whiten(1, 1e-8, True), (WHITEN_CASES[1], WHITEN_TIES[0])),
        Group(whiten(0, 0.25, True), exact(WHITEN_CASES[4:5])),
        *(Group(whiten(n, eps), exact(WHITEN_CASES[1:3])) for n in (1, 0) for eps in (1e-4, 1e-5, 1e-6, 0.0)),
    ),
)  # fmt: skip
