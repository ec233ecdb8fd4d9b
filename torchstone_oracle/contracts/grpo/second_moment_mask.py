"""second_moment_mask: of the tokens that have moved as their advantage says, the furthest do not teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import ppo
from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, absolute, dual, mean, stop, total
from ..shared import policy, selection
from ..shared.common import CONSTANT_LOG_PROBS, INF, MASK, NAN, Settings, bug, full, hidden, marks, plus, variant


def taught(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """While the mean of (log rho)^2 over T is above the limit, the token of T where it is largest goes    (GRPO.22)"""
    mask, limit = inputs["mask"], dual(settings["limit"])
    both = {place: [selection.at(inputs, k, place) for k in ("log_probs", "old_log_probs")]
            for place in selection.places(mask)}  # fmt: skip
    u = {place: stop(steps["log_ratio"](*pair)) for place, pair in both.items()}
    a = {place: stop(steps["advantage"](inputs, *place)) for place in u}

    def drop(judged: Sequence[selection.Place]) -> set[selection.Place]:
        left = [place for place in judged if steps["moved"](u[place], a[place])]
        dropped = set()
        while left and steps["size"]([steps["square"](u[place]) for place in left], judged) > limit:
            furthest = max(left, key=lambda place: steps["square"](u[place]).value)
            left.remove(furthest)
            dropped.add(furthest)
        return dropped

    dropped = steps["scope"](drop)(selection.places(mask))
    return {"keep": selection.spread({place: steps["keep"](place in dropped) for place in u}, mask)}


TOO_MANY = "Tokens are dropped that the limit allows."
OTHERS = "Tokens that have moved the right way go, and outliers stay."
OLD = [[-1.0, -2.0, -1.5], [-0.5, -1.25, -2.5]]
MOVED = [[0.125, 0.375, -0.5], [0.0625, -0.25, 0.75]]


def case(comment: str, moved: Any, advantages: Any, mask: Any, *flags: str) -> Case:
    given = {"log_probs": plus(OLD, moved), "old_log_probs": OLD, "advantages": advantages, "mask": mask}
    return Case(comment, given, flags)


CASES = (
    case("an advantage a token", MOVED, [[1.0, 1.0, -1.0], [-1.0, 1.0, 0.5]], full(2, 3), "every_side_of_the_clip"),
    case("one a completion", MOVED, [1.0, -0.5], full(2, 3)),
    case("one a completion, two to drop", MOVED, [-1.0, 0.5], full(2, 3)),
    case("an advantage of 0", MOVED, [[0.0, 1.0, -1.0], [0.0, -0.25, 0.0]], full(2, 3)),
    case("ragged", MOVED, [[1.0, 1.0, -1.0], [0.5, -1.0, 0.5]], marks("111 110"), "ragged_mask", "junk_under_mask"),
    case("NaN under the mask", hidden(MOVED, marks("101 011"), NAN), [[1.0, INF, -1.0], [NAN, -1.0, 0.5]],
         marks("101 011"), "nan_under_mask", "gaps_in_mask"),
    case("on policy", [[0.0] * 3] * 2, [1.0, -0.5], full(2, 3), "on_policy"),
    case("an empty row", MOVED, [1.0, -0.5], marks("111 000"), "empty_row"),
    case("nothing chosen", MOVED, [1.0, -0.5], marks("000 000"), "all_masked"),
)  # fmt: skip


def harmful(u: Dual, a: Dual) -> bool:
    return (a > 0 and u > 0) or (a < 0 and u < 0)


ALTERNATIVES: dict[str, Alternative] = {
    "inverted": bug("True for the tokens that are dropped.", "Only outliers are learned from.",
                    {"keep": lambda dropped: dropped}),
    "every_token": variant("T is every chosen token, whatever its advantage.", "Tokens that moved back go too.",
                           {"moved": lambda u, a: True},
                           links=("https://github.com/inclusionAI/AReaL/tree/4aef98d8d",)),
    "whatever_the_advantage": bug("T is every token that became likelier.", OTHERS, {"moved": lambda u, a: u > 0}),
    "reversed_ratio": bug("log(old / new).", OTHERS, {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)}),
    "first_moment": bug("The mean of |log rho|.", TOO_MANY, {"square": absolute}),
    "sum_of_squares": bug("The sum in place of the mean.", "The larger the batch, the more are dropped.",
                          {"size": lambda squares, judged: total(squares)}),
    "mean_over_all": variant("The squares of T over the count of all chosen tokens.", "Fewer are dropped.",
                             {"size": lambda squares, judged: total(squares) / len(judged)}),
    "each_token": bug("Each token of T whose own square is above the limit goes.", TOO_MANY,
                      {"size": lambda squares, judged: max(squares, key=lambda x: x.value)}),
    "row_by_row": bug(selection.PARTS, selection.OF_PARTS, {"scope": selection.row_by_row}, pitfalls=("C02",)),
}  # fmt: skip
OBJECTIVE = Objective(
    name="second_moment_mask",
    about="The tokens that teach: all but the furthest of those that have moved as their advantage says.",
    tags=("GRPO.22",),
    source=("Zheng et al., M2PO, arXiv:2510.01161, algorithm 1",),
    arguments={
        **{k: CONSTANT_LOG_PROBS for k in ("log_probs", "old_log_probs")},
        "advantages": policy.ARGUMENTS["advantages"],
        "mask": MASK,
    },
    returns={"keep": Argument("B T", "True for the tokens that teach")},
    settings={"limit": Setting("the mean square that is allowed, in nats squared", (0.04,), free=True)},
    compute=taught,
    steps={
        "log_ratio": ppo.log_ratio,
        "advantage": policy.advantage,
        "moved": harmful,
        "square": lambda u: u * u,
        "size": lambda squares, judged: mean(squares),
        "scope": lambda choose: choose,
        "keep": lambda dropped: not dropped,
    },
    alternatives=ALTERNATIVES,
    edges=policy.POLICY_EDGES | selection.SELECTION_EDGES,
    groups=(Group({"limit": 0.1}, CASES), Group({"limit": 0.2}, CASES[:4])),
)
