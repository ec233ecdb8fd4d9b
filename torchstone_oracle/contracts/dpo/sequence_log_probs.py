"""sequence_log_probs: the log-prob of a whole completion."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Group, Inputs, Objective, Setting
from ...core import divided
from ...numbers import Dual, mp
from ..shared.common import EDGES, LOG_PROBS, MASK, TRL, Settings, Steps, bug, variant
from ..shared.tokens import MULTIPLIED, PADDING, SCORES, token_cases


def sequences(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    x, mask = inputs["log_probs"], steps["mask"](inputs["mask"])
    found = [steps["row"](row, m, settings["average"]) for row, m in zip(x, mask, strict=True)]
    found = steps["batch"](found, mask, settings["average"])
    return {"log_probs": [a + extra for a, extra in zip(found, steps["hidden"](x, mask), strict=True)]}


def by_width(row: Any, m: Any, average: bool) -> Dual:
    return dpo.sequence_log_prob(row, m, False) / len(row) if average else dpo.sequence_log_prob(row, m, False)


def over_the_batch(found: list[Dual], mask: Any, average: bool) -> list[Dual]:
    count = sum(map(sum, mask))
    return [divided(a * sum(m), count) for a, m in zip(found, mask, strict=True)] if average else found


def without_last(row: Any, m: Any, average: bool) -> Dual:
    last = max((t for t, count in enumerate(m) if count), default=-1)
    return dpo.sequence_log_prob(row, [count and t != last for t, count in enumerate(m)], average)


def what_is_left(row: Any, m: Any, average: bool) -> Dual:
    """The sum over what the mask leaves out."""
    others = dpo.sequence_log_prob(row, [not count for count in m], False)
    return divided(others, sum(m)) if average else others


def everything(row: Any, m: Any, average: bool) -> Dual:
    """The sum over all that is in the row, and the length of the completion."""
    whole = dpo.sequence_log_prob(row, [True] * len(row), False)
    return divided(whole, sum(m)) if average else whole


OBJECTIVE = Objective(
    "sequence_log_probs", "A completion's log-probability: the sum over its tokens, or the mean.", ("DPO.1",),
    ("Rafailov et al., arXiv:2305.18290v3, appendix B",), {"log_probs": LOG_PROBS, "mask": MASK},
    {"log_probs": Argument("B", "nats, or nats per token")},
    {"average": Setting("False: the sum over tokens; True: the mean.")}, sequences,
    {"mask": lambda mask: mask, "hidden": lambda x, mask: [Dual(0)] * len(x), "row": dpo.sequence_log_prob,
     "batch": lambda found, mask, average: found},
    {
        "mean_and_sum_exchanged": variant(
            "The mean where the sum is asked for, or the sum for the mean.",
            "beta means something else at every length: SimPO and ORPO on sums prefer short answers.",
            {"row": lambda row, m, average: dpo.sequence_log_prob(row, m, not average)}, pitfalls=("C70", "C74", "R16"),
            links=("https://github.com/princeton-nlp/SimPO/issues/4", f"{TRL}/pull/1265")),
        "padded_width": bug(
            "The sum is divided by the padded width.", "A short answer's mean depends on its neighbours' length.",
            {"row": by_width}, pitfalls=("C74",)),
        "length_of_the_batch": bug(
            "The sum is divided by the number of tokens of the whole batch, not of its own completion.",
            "The mean of an answer depends on how many others are in its batch: the margin shrinks with the batch.",
            {"batch": over_the_batch}, pitfalls=("C74",)),
        "padding_included": PADDING,
        "padding_summed": bug(
            "The sum is over the whole row, prompt and padding included; the length is right.",
            "The log-prob of an answer depends on how wide its batch is padded.", {"row": everything},
            pitfalls=("C59",)),
        "mask_inverted_in_the_sum": bug(
            "The sum is over the tokens that do not count: the mask is inverted.",
            "Prompt and padding are trained, and the answer is not.", {"row": what_is_left}, pitfalls=("C59",)),
        "mask_multiplied": MULTIPLIED,
        "end_token_dropped": bug(
            "The last token that counts is left out.", "The model does not learn when to stop.", {"row": without_last},
            pitfalls=("C78",), links=(f"{TRL}/pull/4908",)),
        "nan_of_empty_row": bug(
            "The sum over a row without a token is divided by 0.", "The update is NaN, and the model is lost.",
            {"row": lambda row, m, average: dpo.sequence_log_prob(row, m, average) if any(m) else Dual(mp.nan)},
            pitfalls=("C61",)),
    },
    EDGES, tuple(Group({"average": a}, token_cases("log_probs", SCORES)) for a in (False, True)),
)  # fmt: skip
