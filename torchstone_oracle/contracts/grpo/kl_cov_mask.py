"""kl_cov_mask: the tokens of the highest covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Step
from ...numbers import absolute, dual
from ..shared import selection
from ..shared.common import INF, MASK, NAN, VERL_0_9_1, Settings, bug, full, marks, variant
from .clip_cov_mask import NUMBERS, ceiling, floor


def paying(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The k = max(least, floor(share N)) largest c_t    (GRPO.21)"""
    mask, share = inputs["mask"], dual(settings["share"])
    c = {place: selection.at(inputs, "covariances", place) for place in selection.places(mask)}

    def choose(judged: Sequence[selection.Place]) -> list[selection.Place]:
        count = max(steps["least"](settings["least"]), steps["count"](share, judged, mask))
        return sorted(judged, key=lambda place: -steps["size"](c[place]).value)[:count]

    found = set(steps["scope"](choose)(selection.places(mask)))
    return {"pays": selection.spread({place: steps["pays"](place in found) for place in c}, mask)}


OTHERS = "Other tokens pay than those by which the entropy falls."
C = [[0.5, -3.0, 2.5, 2.0], [1.5, -1.0, 0.25, 4.0]]
CASES = (
    Case("all chosen", {"covariances": C, "mask": full(2, 4)}),
    Case("ragged", {"covariances": C, "mask": marks("1100 1110")}, ("ragged_mask", "junk_under_mask")),
    Case("NaN under the mask", {"covariances": [[0.5, NAN, 2.5, -3.0], [INF, 1.5, -4.0, 1.0]],
                                "mask": marks("1011 0111")}, ("nan_under_mask", "gaps_in_mask")),
    Case("an empty row", {"covariances": C, "mask": marks("1111 0000")}, ("empty_row",)),
    Case("nothing chosen", {"covariances": C, "mask": marks("0000 0000")}, ("all_masked",)),
    Case("one token", {"covariances": [[2.0]], "mask": full(1, 1)}, ("one_token",)),
)  # fmt: skip
ALTERNATIVES: dict[str, Alternative] = {
    "inverted": bug("True for the tokens that do not pay.", OTHERS, {"pays": lambda found: not found}),
    "smallest": bug("The smallest covariances.", OTHERS, {"size": lambda c: -c}),
    "absolute": bug("The largest without their sign.", OTHERS, {"size": absolute}),
    "padding_counted": bug("The share is of all entries, padding included.", "The wider the batch, the more pay.",
                           {"count": lambda share, judged, mask: floor(share * len(selection.every_place(mask)))},
                           pitfalls=("C36",)),
    "rounded_up": variant("ceil(share N).", "One token more pays.",
                          {"count": lambda share, judged, mask: ceiling(share * len(judged))}),
    "one_at_least": variant("One token at least, whatever the share.", "In small batches more pay than their share.",
                            {"least": lambda least: max(least, 1)}, links=(VERL_0_9_1,)),
    "per_cent": bug("The share is taken for per cent.", "A hundredth of the tokens pays: mostly none.",
                    {"count": lambda share, judged, mask: floor(share / 100 * len(judged))}),
    "row_by_row": bug(selection.PARTS, selection.OF_PARTS, {"scope": selection.row_by_row}, pitfalls=("C02",)),
}  # fmt: skip
OBJECTIVE = Objective(
    name="kl_cov_mask",
    about="The tokens of the highest covariance, which pay for moving.",
    tags=("GRPO.21",),
    source=("Cui et al., arXiv:2505.22617v1, eq. 13",),
    arguments={"covariances": Argument("B T", "nats x that of the advantages"), "mask": MASK},
    returns={"pays": Argument("B T", "True for the tokens that pay")},
    settings={k: NUMBERS[k] for k in ("share", "least")},
    compute=paying,
    steps={
        "size": lambda c: c,
        "count": lambda share, judged, mask: floor(share * len(judged)),
        "least": lambda least: least,
        "scope": lambda choose: choose,
        "pays": lambda found: found,
    },
    alternatives=ALTERNATIVES,
    edges=selection.SELECTION_EDGES,
    groups=(
        Group({"share": 0.4, "least": 0}, CASES),
        Group({"share": 0.0625, "least": 0}, CASES[:2]),
        Group({"share": 0.0625, "least": 3}, CASES[:2]),
    ),
)
