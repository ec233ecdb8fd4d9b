"""jsd_loss: jsd_exact, from a number a token to one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core
from ...contract import Argument, Case, Group, Inputs, Objective, Step
from ...numbers import Dual, stop
from ..shared import divergences as shared
from ..shared import policy, policy_reductions
from ..shared.common import (
    EDGES,
    INF,
    MASK,
    NAN,
    Marks,
    Matrix,
    Settings,
    Steps,
    bug,
    full,
    marks,
    variant,
    without,
)
from ..shared.divergence_alternatives import ALTERNATIVES
from ..shared.policy_surrogates import LOSS_NEGATED


def whole_loss(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Every position is computed, the masked ones too: ``reduce`` selects."""
    found, mask = shared.per_position(inputs, settings, steps), inputs["mask"]
    entropies = [[steps["entropy"](z, settings["temperature"]) for z in row] for row in inputs["logits"]]
    return {
        "loss": steps["sign"](steps["reduce"](found, mask, settings)),
        "jsd": stop(core.token_mean(found, mask)),
        "entropy": stop(core.token_mean(entropies, mask)),
    }


def by_rows(x: Matrix, mask: Marks, settings: Settings) -> Dual:
    """The sum over all chosen tokens, over the number of rows, empty ones too: F.kl_div's "batchmean" of [B T V]."""
    return policy_reductions.plain_sum(x, mask, settings) / len(x)


def each_twice_weighed(x: Matrix, mask: Marks, settings: Settings) -> Dual:
    """The mean over tokens of a mean over tokens: divided twice."""
    count = max(1, sum(map(sum, mask)))
    return policy.as_asked(x, mask, settings) / count


def shifted(mask: Marks, by: int) -> Marks:
    return [[row[(t + by) % len(row)] for t in range(len(row))] for row in mask]


def under(change: Callable[[Marks], Marks]) -> Step:
    return lambda x, mask, settings: policy.as_asked(x, change(mask), settings)


MASKS = {
    "mask_inverted": bug(
        "Tokens under True are left out, and those under False are trained.",
        "The policy learns prompts and padding.",
        {"reduce": under(lambda mask: [[not m for m in row] for row in mask])},
        pitfalls=("C19",),
    ),
    "mask_one_later": bug(
        "The mask is that of one position later: it was shifted twice, or not at all.",
        "The last token of the prompt is trained, and the end token is not.",
        {"reduce": under(lambda mask: shifted(mask, 1))},
        pitfalls=("C54",),
    ),
    "mask_one_earlier": bug(
        "The mask is that of one position earlier.",
        "What follows the end is trained, and the first token is not.",
        {"reduce": under(lambda mask: shifted(mask, -1))},
        pitfalls=("C54",),
    ),
    "mask_ignored": bug(
        "The mask has no effect on what is averaged: prompt, padding and tool output are distilled too.",
        "The policy is trained on tokens that it never chose.",
        {"reduce": under(lambda mask: full(len(mask), len(mask[0])))},
        pitfalls=("C36", "C59"),
    ),
    "batchmean": variant(
        "The sum over all chosen tokens, divided by the number of rows, empty ones too: F.kl_div's batchmean.",
        "The loss grows with the length of the answers.",
        {"reduce": by_rows},
    ),
    "divided_twice": bug(
        "A mean that is divided by the number of tokens once more.",
        "The learning rate falls with the size of the batch.",
        {"reduce": each_twice_weighed},
        pitfalls=("C03",),
    ),
    "summed": bug(
        "The sum over all tokens: nothing is divided.",
        "The learning rate grows with the batch.",
        {"reduce": policy_reductions.plain_sum},
        pitfalls=("C08", "R07"),
    ),
}
SHARED = without(
    ALTERNATIVES, "ends_exchanged", "kl_weights_missing", "policy_term_missing", "teacher_term_missing",
    "mixture_at_half", "times_temperature", "teacher_not_normalised", "softmax_twice_of_teacher", "sign_flipped",
    "each_term_clamped", "mixture_of_logits", "mean_square_of_log_probs",
)  # fmt: skip

Z = [
    [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [0.25, 1.5, -0.75]],
    [[-1.0, 0.75, 0.5], [2.0, -0.25, 1.0], [0.0, 1.25, -2.0]],
]
W = [
    [[1.0, 0.25, 0.5], [-1.0, 1.5, 0.75], [2.0, -0.5, 0.0]],
    [[0.5, -0.75, 1.0], [0.25, 1.5, -1.0], [-0.5, 0.0, 1.75]],
]
Z_2, W_2 = ([[zs[:2] for zs in row] for row in x] for x in (Z, W))  # two tokens
RAGGED, GAPS, EMPTY = marks("111 100"), marks("101 011"), marks("110 000")


def distilled(comment: str, mask: Marks, *flags: str, junk: tuple[float, float] | None = None, logits: Any = Z_2,
              teacher_logits: Any = W_2) -> Case:  # fmt: skip
    """``junk``: what lies under False in the policy's and in the teacher's logits."""
    inputs = {"logits": logits, "teacher_logits": teacher_logits}
    if junk is not None:
        inputs = {
            k: [[z if m else [j] * len(z) for z, m in zip(*row, strict=True)] for row in zip(x, mask, strict=True)]
            for (k, x), j in zip(inputs.items(), junk, strict=True)
        }
    return Case(comment, {**inputs, "mask": mask}, flags)


MINUS_INF = (
    [[[0.5, -INF, 2.0], [1.0, 0.25, -INF]]],
    [[[1.0, -INF, 0.5], [-1.0, 1.5, -INF]]],
)
CASES = (
    distilled("two rows, all chosen", full(2, 3), logits=Z, teacher_logits=W),
    distilled("different lengths", RAGGED, "ragged_mask", logits=Z, teacher_logits=W),
    distilled("gaps", GAPS, "gaps_in_mask", logits=Z, teacher_logits=W),
    distilled("two rows of two", full(2, 2), "rows_equal_columns", logits=[row[:2] for row in Z],
              teacher_logits=[row[:2] for row in W]),
    distilled("equal numbers in the padding, others for the teacher", RAGGED, "ragged_mask", "junk_under_mask",
              junk=(3.0, -5.0)),
    distilled("NaN in the padding", RAGGED, "ragged_mask", "nan_under_mask", junk=(NAN, NAN)),
    distilled("inf and -inf in the gaps", GAPS, "gaps_in_mask", "nan_under_mask", junk=(INF, -INF)),
    distilled("NaN in the teacher's padding alone", RAGGED, "ragged_mask", "nan_under_mask", junk=(0.5, NAN)),
    distilled("an empty row", EMPTY, "empty_row"),
    distilled("no token at all", marks("000 000"), "all_masked"),
    distilled("tokens that neither can choose", marks("11"), "minus_inf_logits", logits=MINUS_INF[0],
              teacher_logits=MINUS_INF[1]),
    distilled("one token", [[True]], "one_token", logits=[[[0.5, -0.25]]], teacher_logits=[[[-1.0, 0.75]]]),
)  # fmt: skip
FEW_CASES = tuple(
    distilled(comment, mask, *flags)
    for comment, mask, *flags in (
        ("two rows, all chosen, two tokens", full(2, 3)),
        ("different lengths, two tokens", RAGGED, "ragged_mask"),
        ("gaps, two tokens", GAPS, "gaps_in_mask"),
    )
)


def choices(reduce: str, beta: float, temperature: float = 1.0) -> dict[str, Any]:
    return {"reduce": reduce, "beta": beta, "temperature": temperature}


OBJECTIVE = Objective(
    name="jsd_loss",
    about="The generalised Jensen-Shannon divergence of each chosen token's whole distribution, reduced.",
    tags=("DISTILL.5", "DISTILL.2", "CORE.5"),
    source=shared.SOURCE,
    arguments={**shared.ARGUMENTS, "mask": MASK},
    returns={
        "loss": Argument("", "nats"),
        "jsd": Argument("", "nats, mean over tokens"),
        "entropy": Argument("", "nats, of the policy, mean over tokens"),
    },
    metrics=("jsd", "entropy"),
    settings={
        "reduce": policy.reduction("token_mean", free=True),
        "beta": shared.BETA,
        "temperature": shared.TEMPERATURE,
    },
    compute=whole_loss,
    steps=shared.STEPS | {"reduce": policy.as_asked, "sign": lambda loss: loss, "entropy": core.entropy},
    alternatives={
        **policy_reductions.VARIANTS,
        **{k: policy_reductions.BUGS[k] for k in ("padded_width", "mask_multiplied", "zero_over_zero",
                                                  "empty_rows_counted")},
        **MASKS,
        **SHARED,
        "loss_negated": LOSS_NEGATED,
    },
    edges={**EDGES, **shared.DIVERGENCE_EDGES},
    groups=(
        Group(choices("token_mean", 0.5), CASES),
        *(Group(choices("token_mean", beta), (*FEW_CASES, CASES[8])) for beta in (0.0, 1.0)),
        *(Group(choices(reduce, 0.5), FEW_CASES) for reduce in ("sequence_mean", "sequence_sum")),
        *(Group(choices(reduce, beta), FEW_CASES[1:2]) for reduce in ("sequence_mean", "sequence_sum")
          for beta in (0.0, 1.0)),
        Group(choices("sequence_mean", 0.9, 0.5), (CASES[1], CASES[8])),
        *(Group(choices("token_mean", beta, 2.0), CASES[1:2]) for beta in (0.0, 0.1, 1.0)),
    ),
)  # fmt: skip
