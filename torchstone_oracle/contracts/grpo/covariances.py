"""covariances: what each token adds to the covariance of log-prob and advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Step
from ...numbers import Dual, absolute, dual, mean, stop, total
from ..shared import policy, selection
from ..shared.common import CONSTANT_LOG_PROBS, MASK, NAN, Settings, bug, full, hidden, marks


def products(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """c_t = (log pi_t - mean log pi) (A_t - mean A), means over the chosen tokens    (GRPO.19)"""
    mask = inputs["mask"]
    given = {
        "log_probs": {place: stop(selection.at(inputs, "log_probs", place)) for place in selection.every_place(mask)},
        "advantages": {place: stop(steps["advantage"](inputs, *place)) for place in selection.every_place(mask)},
    }
    chosen, found = selection.places(mask), {}
    for place in chosen:
        centred = [
            x[place] - steps[f"centre_{name}"](x, steps["scope"](chosen, place), mask) for name, x in given.items()
        ]
        found[place] = steps["product"](*centred)
    return {"covariances": selection.spread(found, mask)}


def centre(x: Mapping[selection.Place, Dual], of: Sequence[selection.Place], mask: Any) -> Dual:
    return mean([x[place] for place in of])


def with_padding(x: Mapping[selection.Place, Dual], of: Sequence[selection.Place], mask: Any) -> Dual:
    return total(x[place] for place in of) / len(selection.every_place(mask))


def nothing(x: Any, of: Any, mask: Any) -> Dual:
    return dual(0)


NOISE = "The tokens that are picked are not those by which the entropy falls."
BOTH = ("centre_log_probs", "centre_advantages")
P = [[-1.0, -2.0, -0.25], [-3.0, -0.5, -1.25]]
CASES = (
    Case("all chosen", {"log_probs": P, "advantages": [1.0, -0.5], "mask": full(2, 3)}),
    Case("an advantage a token", {"log_probs": P, "advantages": [[1.0, -1.0, 0.5], [0.25, 2.0, -0.75]],
                                  "mask": full(2, 3)}),
    Case("ragged", {"log_probs": hidden(P, marks("110 111"), 8.0), "advantages": [1.0, -0.5], "mask": marks("110 111")},
         ("ragged_mask", "junk_under_mask")),
    Case("NaN under the mask", {"log_probs": hidden(P, marks("101 011"), NAN), "advantages": [1.0, -0.5],
                                "mask": marks("101 011")}, ("nan_under_mask", "gaps_in_mask")),
    Case("as many rows as columns", {"log_probs": [*P, [-0.75, -1.5, -2.5]], "advantages": [1.0, -0.5, 0.25],
                                     "mask": full(3, 3)}, ("rows_equal_columns",)),
    Case("an empty row", {"log_probs": P, "advantages": [1.0, -0.5], "mask": marks("000 111")}, ("empty_row",)),
    Case("nothing chosen", {"log_probs": P, "advantages": [1.0, -0.5], "mask": marks("000 000")}, ("all_masked",)),
    Case("one token", {"log_probs": [[-0.5]], "advantages": [1.0], "mask": full(1, 1)}, ("one_token",)),
)  # fmt: skip
ALTERNATIVES: dict[str, Alternative] = {
    "log_probs_not_centred": bug("The mean of the log-probs is not taken off.", NOISE, {BOTH[0]: nothing}),
    "advantages_not_centred": bug("The mean of the advantages is not taken off.", NOISE, {BOTH[1]: nothing}),
    "plain_product": bug("Neither mean is taken off.", NOISE, dict.fromkeys(BOTH, nothing)),
    "mean_over_padding": bug("The means divide by all entries, padding included.", NOISE,
                             dict.fromkeys(BOTH, with_padding), pitfalls=("C36",)),
    "negated": bug("The sign is the other one.", NOISE, {"product": lambda p, a: -(p * a)}),
    "absolute": bug("Without its sign.", NOISE, {"product": lambda p, a: absolute(p * a)}),
    "row_by_row": bug("Means of each row: an advantage a completion has no covariance there.", NOISE,
                      {"scope": lambda chosen, place: [x for x in chosen if x[0] == place[0]]}, pitfalls=("C02",)),
}  # fmt: skip
OBJECTIVE = Objective(
    name="covariances",
    about="What each token adds to the covariance of log-prob and advantage over the batch.",
    tags=("GRPO.19",),
    source=("Cui et al., arXiv:2505.22617v1, eq. 10",),
    arguments={"log_probs": CONSTANT_LOG_PROBS, "advantages": policy.ARGUMENTS["advantages"], "mask": MASK},
    returns={"covariances": Argument("B T", "nats x that of the advantages")},
    settings={},
    compute=products,
    steps={
        "advantage": policy.advantage,
        "scope": lambda chosen, place: chosen,
        "centre_log_probs": centre,
        "centre_advantages": centre,
        "product": lambda p, a: p * a,
    },
    alternatives=ALTERNATIVES,
    edges=selection.SELECTION_EDGES,
    groups=(Group({}, CASES),),
)
