"""clip_cov_mask: a few tokens of high covariance, drawn at random, do not teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual
from ..shared import selection
from ..shared.common import INF, MASK, NAN, VERL_0_9_1, Settings, bug, full, marks, variant


def floor(x: Dual) -> int:
    return max(i for i in range(10_000) if i <= x)


def ceiling(x: Dual) -> int:
    return floor(x + dual(1) - dual("1e-30"))


def taught(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Not the k = max(least, floor(share N)) of low <= c_t <= high that were drawn    (GRPO.20)"""
    mask, least = inputs["mask"], settings["least"]
    share, low, high = (dual(settings[k]) for k in ("share", "low", "high"))
    c = {place: selection.at(inputs, "covariances", place) for place in selection.places(mask)}
    draw = {place: selection.at(inputs, "draws", place) for place in selection.places(mask)}

    def drop(judged: Sequence[selection.Place]) -> list[selection.Place]:
        able = [place for place in judged if steps["able"](c[place], low, high)]
        count = max(steps["least"](least), steps["count"](share, judged, able, mask))
        return sorted(able, key=lambda place: steps["first"](c[place], draw[place]).value)[:count]

    dropped = set(steps["scope"](drop)(selection.places(mask)))
    return {"keep": selection.spread({place: steps["keep"](place in dropped) for place in c}, mask)}


OTHERS = "Other tokens are held back than those by which the entropy falls."
C = [[0.5, 1.0, 5.0, 2.0], [6.0, 3.0, 4.0, 1.5]]
D = [[0.05, 0.9, 0.1, 0.5], [0.02, 0.7, 0.3, 0.6]]
CASES = (
    Case("all chosen", {"covariances": C, "draws": D, "mask": full(2, 4)}),
    Case("ragged", {"covariances": C, "draws": D, "mask": marks("1110 1111")}, ("ragged_mask", "junk_under_mask")),
    Case("NaN under the mask", {"covariances": [[2.0, NAN, 3.0, 4.0], [1.5, 2.5, INF, 0.0]],
                                "draws": [[0.3, 0.1, 0.2, 0.6], [0.5, 0.4, NAN, 0.0]], "mask": marks("1011 1101")},
         ("nan_under_mask", "gaps_in_mask")),
    Case("fewer between the bounds than are asked for", {"covariances": [[0.0, 0.25, 2.0, 9.0]] * 2, "draws": D,
                                                         "mask": full(2, 4)}),
    Case("an empty row", {"covariances": C, "draws": D, "mask": marks("0000 1111")}, ("empty_row",)),
    Case("nothing chosen", {"covariances": C, "draws": D, "mask": marks("0000 0000")}, ("all_masked",)),
    Case("one token", {"covariances": [[2.0]], "draws": [[0.5]], "mask": full(1, 1)}, ("one_token",)),
)  # fmt: skip
ALTERNATIVES: dict[str, Alternative] = {
    "inverted": bug("True for the tokens that are dropped.", "Only what should be held back is learned.",
                    {"keep": lambda dropped: dropped}),
    "bounds_left_out": variant("A covariance on a bound is not among them.", "No difference but on the bounds.",
                               {"able": lambda c, low, high: low < c < high}, links=(VERL_0_9_1,)),
    "no_upper_bound": bug("The upper bound is not looked at.", OTHERS, {"able": lambda c, low, high: c >= low}),
    "no_lower_bound": bug("The lower bound is not looked at.", OTHERS, {"able": lambda c, low, high: c <= high}),
    "absolute": bug("The bounds hold the covariance without its sign, and tokens below -low too.", OTHERS,
                    {"able": lambda c, low, high: low <= c <= high or low <= -c <= high}),
    "largest": bug("The largest covariances are dropped: nothing is drawn.", "The same tokens again and again.",
                   {"first": lambda c, draw: -c}),
    "share_of_candidates": bug("The share is of the tokens between the bounds.", "Far fewer are held back.",
                               {"count": lambda share, judged, able, mask: floor(share * len(able))}),
    "padding_counted": bug("The share is of all entries, padding included.", "The wider the batch, the more.",
                           {"count": lambda share, judged, able, mask: floor(share * len(selection.every_place(mask)))},
                           pitfalls=("C36",)),
    "rounded_up": variant("ceil(share N).", "One token more is held back.",
                          {"count": lambda share, judged, able, mask: ceiling(share * len(judged))}),
    "one_at_least": variant("One token at least, whatever the share.", "Small batches give up more than their share.",
                            {"least": lambda least: max(least, 1)}, links=(VERL_0_9_1,)),
    "row_by_row": bug(selection.PARTS, selection.OF_PARTS, {"scope": selection.row_by_row}, pitfalls=("C02",)),
}  # fmt: skip
NUMBERS = {
    "share": Setting("of the chosen tokens, in (0, 1]", (2e-4,), free=True),
    "low": Setting("the lower bound, itself included", (1.0,), free=True),
    "high": Setting("the upper bound, itself included", (5.0,), free=True),
    "least": Setting("how many at least", (0, 1), free=True),
}
OBJECTIVE = Objective(
    name="clip_cov_mask",
    about="The tokens that teach: all but a few of high covariance, drawn at random.",
    tags=("GRPO.20",),
    source=("Cui et al., arXiv:2505.22617v1, eq. 11 and 12",),
    arguments={
        "covariances": Argument("B T", "nats x that of the advantages"),
        "draws": Argument("B T", "random numbers; the smallest are dropped"),
        "mask": MASK,
    },
    returns={"keep": Argument("B T", "True for the tokens that teach")},
    settings=NUMBERS,
    compute=taught,
    steps={
        "able": lambda c, low, high: low <= c <= high,
        "count": lambda share, judged, able, mask: floor(share * len(judged)),
        "least": lambda least: least,
        "first": lambda c, draw: draw,
        "scope": lambda choose: choose,
        "keep": lambda dropped: not dropped,
    },
    alternatives=ALTERNATIVES,
    edges=selection.SELECTION_EDGES,
    groups=(
        Group({"share": 0.375, "low": 1.0, "high": 5.0, "least": 0}, CASES),
        Group({"share": 0.0625, "low": 1.5, "high": 4.0, "least": 0}, CASES[:2]),
        Group({"share": 0.0625, "low": 1.0, "high": 5.0, "least": 2}, CASES[:2]),
        Group(
            {"share": 0.5, "low": 0.25, "high": 3.0, "least": 0},
            (Case("of both signs", {"covariances": [[-0.5, 1.0, -2.0, 3.0]], "draws": D[:1], "mask": full(1, 4)}),),
        ),
    ),
)
