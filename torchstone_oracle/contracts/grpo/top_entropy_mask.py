"""top_entropy_mask: the tokens at which the policy was least sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual
from ..shared import selection
from ..shared.common import INF, MASK, NAN, Settings, bug, full, marks, variant


def quantile(values: Sequence[Dual], level: Dual) -> Dual:
    """Between two of n sorted numbers in proportion; the i-th stands at i / (n - 1)."""
    ordered = sorted(values, key=lambda x: x.value)
    place = level * (len(ordered) - 1)
    below = min(max(i for i in range(len(ordered)) if i <= place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def of_a_count(count: Any) -> Step:
    """The smallest of so many of the largest."""

    def threshold(values: Sequence[Dual], share: Dual) -> Dual:
        ordered = sorted(values, key=lambda x: -x.value)
        return ordered[min(max(count(share * len(ordered)), 1), len(ordered)) - 1]

    return threshold


def ceiling(x: Dual) -> int:
    return next(i for i in range(10_000) if i >= x)


def chosen(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """H_t >= the (1 - share) quantile of H    (GRPO.18)"""
    mask, share = inputs["mask"], dual(settings["share"])
    if not selection.places(mask):
        return {"keep": selection.spread({}, mask)}
    of = {place: selection.at(inputs, "entropies", place) for place in selection.every_place(mask)}

    def choose(judged: Sequence[selection.Place]) -> set[selection.Place]:
        tau = steps["threshold"]([of[place] for place in steps["counted"](judged, mask)], share)
        return {place for place in judged if steps["keep"](of[place], tau)}

    return {"keep": selection.kept(steps["scope"](choose)(selection.places(mask)), mask)}


WRONG_TOKENS = "Other tokens teach than those at which the policy was least sure."
H = [[0.5, 1.25, 0.25], [2.0, 0.75, 1.0]]
CASES = (
    Case("all chosen", {"entropies": H, "mask": full(2, 3)}),
    Case("ragged", {"entropies": [[1.0, 3.0, 2.5], [2.0, 1.5, 9.0]], "mask": marks("110 110")},
         ("ragged_mask", "junk_under_mask")),
    Case("NaN under the mask", {"entropies": [[1.0, NAN, 2.5], [INF, 1.5, 2.0]], "mask": marks("101 011")},
         ("nan_under_mask", "gaps_in_mask")),
    Case("equal entropies", {"entropies": [[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]], "mask": full(2, 4)}, ("ties",)),
    Case("an empty row", {"entropies": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "mask": marks("111 000")}, ("empty_row",)),
    Case("nothing chosen", {"entropies": H, "mask": marks("000 000")}, ("all_masked",)),
    Case("one token", {"entropies": [[0.5]], "mask": full(1, 1)}, ("one_token",)),
)  # fmt: skip
FIVE = Case("five in no order", {"entropies": [[0.5, 0.25, 0.75, 1.25, 1.0]], "mask": full(1, 5)})

ALTERNATIVES: dict[str, Alternative] = {
    "share_dropped": bug("The quantile at share: 1 - share of the tokens stay.", WRONG_TOKENS,
                         {"threshold": lambda xs, share: quantile(xs, share)}),
    "lowest": bug("The tokens at which the policy was surest stay.", WRONG_TOKENS,
                  {"threshold": lambda xs, share: quantile(xs, share), "keep": lambda h, tau: h <= tau}),
    "strict": variant("Above the quantile: a token on it goes.", "At share 1 the surest token does not teach.",
                      {"keep": lambda h, tau: h > tau}),
    "ceiling": variant("The ceil(share N) largest, as the authors' code has it.", "One token more or less stays.",
                       {"threshold": of_a_count(ceiling)}),
    "floor": variant("The floor(share N) largest, and one at least.", "One token more or less stays.",
                     {"threshold": of_a_count(lambda x: max(ceiling(x + dual("1e-30")) - 1, 0))}),
    "padding_counted": bug("What lies in the padding is among those that are sorted.", WRONG_TOKENS,
                           {"counted": lambda judged, mask: selection.every_place(mask)}, pitfalls=("C36",)),
    "row_by_row": bug(selection.PARTS, selection.OF_PARTS, {"scope": selection.row_by_row}, pitfalls=("C02",)),
}  # fmt: skip
OBJECTIVE = Objective(
    name="top_entropy_mask",
    about="The share of the batch's tokens at which the policy was least sure.",
    tags=("GRPO.18",),
    source=("Wang et al., arXiv:2506.01939, as accounts print it", "TRL 1.16.0, get_high_entropy_mask"),
    arguments={"entropies": Argument("B T", "nats"), "mask": MASK},
    returns={"keep": Argument("B T", "True for the tokens that teach")},
    settings={"share": Setting("of the chosen tokens, in (0, 1]", (0.2, 0.5), free=True)},
    compute=chosen,
    steps={
        "counted": lambda judged, mask: judged,
        "threshold": lambda values, share: quantile(values, 1 - share),
        "keep": lambda h, tau: h >= tau,
        "scope": lambda choose: choose,
    },
    alternatives=ALTERNATIVES,
    edges=selection.SELECTION_EDGES,
    groups=(Group({"share": 0.25}, (*CASES, FIVE)), Group({"share": 0.7}, (*CASES[:4], FIVE))),
)
