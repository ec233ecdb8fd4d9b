"""From one number a token to one number, and two tools for advantages: what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import core
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..core import Mask
from ..numbers import Dual, dual, maximum, mean, mp, mpf, sqrt, stop, total
from .common import (
    EDGES,
    INF,
    MASK,
    NAN,
    OPEN_INSTRUCT,
    OPENRLHF,
    PRIME_RL,
    TRL,
    VERL,
    bug,
    full,
    hidden,
    marks,
    variant,
)

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]

# ----------------------------------------------------------------------------------------------------- the four means


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


def by_length(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    return core.fixed_length_mean(x, mask, settings["length"], denominator)


def by_width(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    """Row sums over the padded width of the batch."""
    return core.fixed_length_mean(x, mask, len(mask[0]), denominator)


def by_longest(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    """Row sums over the longest row of the batch."""
    return core.fixed_length_mean(x, mask, max(map(sum, mask)) or 1, denominator)


def by_span(x: Any, mask: Mask, denominator: Any, settings: Settings) -> Dual:
    """Row sums over the length of the row up to its last True, gaps included."""
    n = core.rows_that_count(mask) if denominator is None else denominator
    rows = zip(x, mask, strict=True)
    return core.divided(total(core.divided(total(core.chosen(*row)), span(row[1])) for row in rows), n)


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
    links=(TRL, OPEN_INSTRUCT),
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


TOKEN_MEAN = mean_objective(
    "token_mean",
    "CORE.5",
    "Every token weighs the same.",
    ("DAPO, arXiv:2503.14476v2, eq. 12",),
    by_tokens,
    {
        "padded_width": bug(
            "Divided by rows times columns, padding included.",
            "The loss falls with every column of padding.",
            {"denominator": lambda n, mask: len(mask) * len(mask[0]) if n is None else n},
            pitfalls=("C36",),
        ),
        "gaps_counted": bug(
            "The sum leaves gaps out, the denominator counts them.",
            "Answers with much tool output are scaled down.",
            {"denominator": lambda n, mask: sum(map(span, mask)) if n is None else n},
            pitfalls=("C06",),
            links=(f"{TRL}/pull/6439",),
        ),
        "zero_by_zero": NO_TOKENS,
    },
    split=(6, 16),
)
SEQUENCE_MEAN = mean_objective(
    "sequence_mean",
    "CORE.6",
    "Every sequence weighs the same: the mean in each row, then the mean over rows.",
    ("GRPO, arXiv:2402.03300v3, eq. 3",),
    by_rows,
    {
        "padded_width": bug(
            "Each row's sum is divided by the padded width of the batch instead of its own length.",
            "Short answers are scaled by the longest one that happens to be in the batch.",
            {"reduce": by_width},
            pitfalls=("C08", "C36"),
        ),
        "gaps_counted": bug(
            "A row's sum leaves gaps out, its length counts them.",
            "Answers with much tool output are scaled down.",
            {"reduce": by_span},
            pitfalls=("C06",),
            links=(f"{TRL}/pull/6439",),
        ),
        "empty_rows_counted": ALL_ROWS,
        "zero_by_zero": EMPTY_ROWS,
    },
)
SEQUENCE_SUM = mean_objective(
    "sequence_sum",
    "CORE.7",
    "The sum in each row, then the mean over rows: a sequence's log-probability is a sum over its tokens.",
    ("REINFORCE, doi:10.1007/BF00992696, eq. 11",),
    by_row_sums,
    {
        "padded_width": bug(
            "Each row's sum is divided by the padded width of the batch.",
            "The learning rate depends on the longest answer of the batch.",
            {"reduce": by_width},
            pitfalls=("C08",),
        ),
        "empty_rows_counted": ALL_ROWS,
        "zero_by_zero": NO_TOKENS,
    },
)
FIXED_LENGTH_MEAN = mean_objective(
    "fixed_length_mean",
    "CORE.8",
    "The sum in each row over one constant length, then the mean over rows: no length bias.",
    ("Dr. GRPO, arXiv:2503.20783v2, listing 1",),
    by_length,
    {
        "padded_width": bug(
            "The length is the padded width of the batch, not a constant.",
            "The loss depends on the longest answer that happens to be in the batch.",
            {"reduce": by_width},
            pitfalls=("C08", "R07"),
            links=(f"{VERL}/pull/4510",),
        ),
        "longest_row": bug(
            "The length is that of the longest row of the batch, not a constant.",
            "The loss depends on the longest answer that happens to be in the batch.",
            {"reduce": by_longest},
            pitfalls=("C08",),
        ),
        "empty_rows_counted": ALL_ROWS,
        "zero_by_zero": NO_TOKENS,
    },
    more={"length": Setting("The constant L, in tokens: the longest completion that generation allows.", (8, 5))},
    numbers={"length": 8},
)

# ------------------------------------------------------------------------------------------------------ masked_whiten


def whitened(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """core.masked_whiten, taken apart."""
    x, mask = inputs["x"], inputs["mask"]
    return {"whitened": [steps["row"](i, x, mask, settings, steps) for i in range(len(x))]}


def whitened_row(i: int, x: Any, mask: Mask, settings: Settings, steps: Steps) -> list[Dual]:
    """Row i, by the statistics of the whole batch."""
    counted = steps["counted"](x, mask)
    centre = steps["centre"](counted, x, mask)
    deviation = steps["deviation"](core.variance(counted, settings["correction"]), settings["eps"])
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
        links=("https://github.com/vwxyzjn/cleanrl",),
    ),
    "variance_floor": variant(
        "The variance is at least eps, instead of eps being added to it.",
        "No difference unless all are nearly equal.",
        {"deviation": lambda variance, eps: sqrt(maximum(variance, eps))},
        links=(OPENRLHF,),
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
WHITEN_NOTHING = (
    entries("no token at all", X[:2], marks("0000 0000"), "all_masked", result="acceptable"),
    entries("one token", [[-1.5]], [[True]], "one_token", result="acceptable"),
)


def whiten(correction: int, eps: float, keep_mean: bool = False) -> dict[str, Any]:
    return {"correction": correction, "eps": eps, "keep_mean": keep_mean}


def exact(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The same, where eps is large enough to tell."""
    return tuple(Case(c.comment, c.inputs, c.flags, c.result) for c in cases)


MASKED_WHITEN = Objective(
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
        "deviation": lambda variance, eps: sqrt(variance + eps),
        "padding": lambda value: 0,
    },
    alternatives=WHITEN_ALTERNATIVES,
    edges=WHITEN_EDGES,
    groups=(
        Group(whiten(1, 1e-8), (*WHITEN_CASES, *WHITEN_TIES, WHITEN_SMALL, *WHITEN_NOTHING)),
        Group(whiten(0, 1e-8), (*WHITEN_CASES[:3], *WHITEN_TIES[:2])),
        Group(whiten(1, 0.25), exact(WHITEN_CASES[1:3])),
        Group(whiten(0, 0.25), exact(WHITEN_CASES[:2])),
        Group(whiten(1, 1e-8, True), (WHITEN_CASES[1], WHITEN_TIES[0])),
        Group(whiten(0, 0.25, True), exact(WHITEN_CASES[4:5])),
        *(Group(whiten(n, eps), exact(WHITEN_CASES[1:2])) for n in (1, 0) for eps in (1e-4, 1e-5, 1e-6, 0.0)),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------- linear_recurrence


def recurrence(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["inputs"], inputs["decays"], strict=True)
    return {"x": [steps["row"](values, decays) for values, decays in rows]}


def forwards(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    return core.linear_recurrence(values[::-1], decays[::-1])[::-1]


def decay_on_input(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    """x_t = decays_t (inputs_t + x_{t+1})"""
    return core.linear_recurrence([d * v for v, d in zip(values, decays, strict=True)], decays)


def next_decay(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    """x_t = inputs_t + decays_{t+1} x_{t+1}"""
    return core.linear_recurrence(values, [*decays[1:], Dual(0)])


def without_own(values: list[Dual], decays: list[Dual]) -> list[Dual]:
    """x_t - inputs_t"""
    return [x - v for x, v in zip(core.linear_recurrence(values, decays), values, strict=True)]


SERIES = [[1.0, -0.5, 2.0, 0.25], [0.5, 3.0, -1.0, 4.0]]
DECAYS = [[0.5, 0.75, 0.25, 0.5], [1.0, 0.0, 0.5, -2.0]]


def series(comment: str, values: Any, decays: Any, *flags: str) -> Case:
    return Case(comment, {"inputs": values, "decays": decays}, flags)


LINEAR_RECURRENCE = Objective(
    name="linear_recurrence",
    about="Sum from the right, with a decay per position: what returns and GAE are made of.",
    tags=("CORE.10",),
    source=("Bellman's recursion, G_t = r_t + gamma G_{t+1}, with a gamma for each t",),
    arguments={
        "inputs": Argument("B T", "any", gradient=True),
        "decays": Argument("B T", "1; 0 starts anew, 1 steps over a position", gradient=True),
    },
    returns={"x": Argument("B T", "that of inputs")},
    settings={},
    compute=recurrence,
    steps={"row": core.linear_recurrence},
    alternatives={
        "forwards": bug(
            "Sums from the left: x_t = inputs_t + decays_t x_{t-1}.",
            "Tokens are paid for what came before them, which they cannot change.",
            {"row": forwards},
        ),
        "decay_on_input": bug(
            "The decay multiplies the own input too: x_t = decays_t (inputs_t + x_{t+1}).",
            "Every reward is discounted once too often.",
            {"row": decay_on_input},
        ),
        "next_decay": bug(
            "x_t = inputs_t + decays_{t+1} x_{t+1}: the decay is that of the next position.",
            "A new start acts one position early.",
            {"row": next_decay},
        ),
        "own_input_left_out": bug(
            "x_t = decays_t x_{t+1}, without inputs_t.",
            "A token's own reward is not its own.",
            {"row": without_own},
        ),
        "no_decay": bug(
            "All decays are 1.",
            "gamma and lambda have no effect; sequences run into one another.",
            {"row": lambda values, decays: core.linear_recurrence(values, [Dual(1) for _ in decays])},
        ),
        "decays_detached": bug(
            "No gradient flows through the decays.",
            "Only matters where the decays are learnt.",
            {"row": lambda values, decays: core.linear_recurrence(values, [stop(d) for d in decays])},
        ),
    },
    edges={k: EDGES[k] for k in ("rows_equal_columns", "one_token")},
    groups=(
        Group(
            {},
            (
                series("one row, one decay", SERIES[:1], [[0.5] * 4]),
                series("two rows, a decay each position", SERIES, DECAYS),
                series("decays of 0 and 1: sums that start anew", SERIES, [[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]]),
                series("the last decay meets nothing", [[1.0, 2.0]], [[0.5, 64.0]]),
                series("three rows of three", X_SQUARE, [d[:3] for d in [*DECAYS, DECAYS[0]]], "rows_equal_columns"),
                series("one position", [[-1.5]], [[0.5]], "one_token"),
            ),
        ),
    ),
)  # fmt: skip

OBJECTIVES = [TOKEN_MEAN, SEQUENCE_MEAN, SEQUENCE_SUM, FIXED_LENGTH_MEAN, MASKED_WHITEN, LINEAR_RECURRENCE]
