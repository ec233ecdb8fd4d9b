"""future_kl_weights: a token weighs by what became of the tokens after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import ppo
from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, bounded_exp, clip, dual, exp, log, stop
from ..shared import policy
from ..shared.common import CONSTANT_LOG_PROBS, MASK, NAN, Settings, bug, full, hidden, marks, plus, variant


def weights_of_rows(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """f_t = clip(exp(F_t), 1 - epsilon, 1 + epsilon_high), 1 where A_t < 0 and rho_t > reset    (GRPO.23)"""
    result = []
    decay = exp(-log(2) / dual(settings["half_life"]))
    low, high = 1 - dual(settings["epsilon"]), 1 + dual(settings["epsilon_high"])
    limit, reset = (None if settings[k] is None else dual(settings[k]) for k in ("limit", "reset"))
    for b, on in enumerate(inputs["mask"]):
        pairs = zip(inputs["log_probs"][b], inputs["old_log_probs"][b], strict=True)
        u = [stop(steps["log_ratio"](p, q)) for p, q in pairs]
        moves = [steps["counts"](x, limit) for x in u]
        future = steps["future"](moves, on, decay)
        row: list[Dual | None] = [None] * len(on)
        for t, m in enumerate(on):
            if m:
                f = steps["bound"](steps["exp"](future[t]), low, high)
                a = stop(steps["advantage"](inputs, b, t))
                row[t] = steps["reset"](f, u[t], a, reset)
        result.append(row)
    return {"weights": result}


def from_the_right(moves: Sequence[Dual], on: Sequence[bool], decay: Dual) -> list[Dual]:
    """F_t = move_t + decay F_{t+1}, t + 1 the next chosen token"""
    found, carried = [dual(0)] * len(on), dual(0)
    for t in reversed(range(len(on))):
        if on[t]:
            found[t] = carried = moves[t] + decay * carried
    return found


def from_the_left(moves: Sequence[Dual], on: Sequence[bool], decay: Dual) -> list[Dual]:
    return from_the_right(moves[::-1], on[::-1], decay)[::-1]


def columns_counted(moves: Sequence[Dual], on: Sequence[bool], decay: Dual) -> list[Dual]:
    none = [x if m else dual(0) for x, m in zip(moves, on, strict=True)]
    return from_the_right(none, [True] * len(on), decay)


def padding_too(moves: Sequence[Dual], on: Sequence[bool], decay: Dual) -> list[Dual]:
    return from_the_right(moves, [True] * len(on), decay)


def without_itself(moves: Sequence[Dual], on: Sequence[bool], decay: Dual) -> list[Dual]:
    whole = from_the_right(moves, on, decay)
    return [f - x for f, x in zip(whole, moves, strict=True)]


def beyond(u: Dual, limit: Dual | None) -> bool:
    return limit is not None and bounded_exp(u) > limit


def back_to_1(f: Dual, u: Dual, a: Dual, limit: Dual | None) -> Dual:
    return dual(1) if a < 0 and beyond(u, limit) else f


CREDIT = "Tokens are given credit for what they did not lead to."
OLD = [[-1.0, -2.0, -1.5, -0.75], [-1.5, -2.25, -2.5, -1.0]]
MOVED = [[0.125, 0.25, -0.5, 0.125], [0.5, 0.75, -0.25, -0.125]]


def case(comment: str, moved: Any, advantages: Any, mask: Any, *flags: str) -> Case:
    given = {"log_probs": plus(OLD, moved), "old_log_probs": OLD, "advantages": advantages, "mask": mask}
    return Case(comment, given, flags)


CASES = (
    case("all chosen", MOVED, [1.0, -0.5], full(2, 4)),
    case("an advantage a token", MOVED, [[1.0, -1.0, -1.0, 0.0], [-0.5, 1.0, 0.5, -1.0]], full(2, 4)),
    case("the good one moves beyond the limit", MOVED, [-0.5, 1.0], full(2, 4)),
    case("ragged", MOVED, [1.0, -0.5], marks("1110 1100"), "ragged_mask", "junk_under_mask"),
    case("NaN in the gaps", hidden(MOVED, marks("1011 0101"), NAN), [1.0, -0.5], marks("1011 0101"),
         "nan_under_mask", "gaps_in_mask"),
    case("on policy", [[0.0] * 4] * 2, [1.0, -0.5], full(2, 4), "on_policy"),
    case("an empty row", MOVED, [1.0, -0.5], marks("1111 0000"), "empty_row"),
    case("nothing chosen", MOVED, [1.0, -0.5], marks("0000 0000"), "all_masked"),
)  # fmt: skip
ALTERNATIVES: dict[str, Alternative] = {
    "tokens_before": bug("The sum runs over the tokens before.", CREDIT, {"future": from_the_left}),
    "without_itself": variant("The token's own move is left out.", "Its own ratio does not count.",
                              {"future": without_itself}),
    "columns_counted": variant("The distance counts every column, tool output too.", "After a tool, less counts.",
                               {"future": columns_counted},
                               links=("https://github.com/modelscope/ms-swift/tree/3602360a5",)),
    "padding_moves": bug("The padding's log-ratios count.", "The weight depends on what lies in the padding.",
                         {"future": padding_too}, pitfalls=("C36",)),
    "not_discounted": bug("Later tokens count in full.", "The first token of a long completion is at a bound.",
                          {"future": lambda moves, on, decay: from_the_right(moves, on, dual(1))}),
    "decay_of_the_half_life": bug("1 - 1 / half_life in place of 2^(-1 / half_life).", "Late tokens count less.",
                                  {"future": lambda moves, on, d: from_the_right(moves, on, 1 + log(d) / log(2))}),
    "reversed_ratio": bug("log(old / new).", "What the policy moved away from is raised.",
                          {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)}),
    "not_bounded": bug("The weight has no bounds.", "A long completion's first token weighs anything.",
                       {"bound": lambda f, low, high: f}),
    "linear": variant("1 + F in place of exp(F).", "The same to first order.", {"exp": lambda x: 1 + x}),
    "limit_ignored": bug("Tokens with a huge ratio count.", "One outlier decides its completion's weights.",
                         {"counts": lambda u, limit: u}),
    "whatever_the_advantage": bug("Good tokens beyond the bound weigh 1 too.", "What worked is not raised.",
                                  {"reset": lambda f, u, a, limit: dual(1) if beyond(u, limit) else f}),
    "reset_ignored": bug("Bad tokens beyond the bound keep their weight.", "Outliers are pushed down hardest.",
                         {"reset": lambda f, u, a, limit: f}),
    "held_below_1": variant("Beyond the bound a bad token's weight is held between 0.8 and 1, not put to 1.",
                            "It weighs a little less.",
                            {"reset": lambda f, u, a, limit: clip(f, "0.8", 1) if a < 0 and beyond(u, limit) else f},
                            links=("https://github.com/modelscope/ms-swift/tree/3602360a5",)),
}  # fmt: skip
FREE = {"epsilon": 0.75, "epsilon_high": 2.0}
OBJECTIVE = Objective(
    name="future_kl_weights",
    about="The weight of each token by the discounted log-ratios of the tokens after it.",
    tags=("GRPO.23",),
    source=("Ma et al., FIPO, arXiv:2603.19835, eq. 3-8",),
    arguments={
        **{k: CONSTANT_LOG_PROBS for k in ("log_probs", "old_log_probs")},
        "advantages": policy.ARGUMENTS["advantages"],
        "mask": MASK,
    },
    returns={"weights": Argument("B T", "none")},
    settings={
        "half_life": Setting("after how many tokens a move counts half", (32.0,), free=True),
        "epsilon": Setting("the weight is at least 1 - epsilon", (0.0, 0.2), free=True),
        "epsilon_high": Setting("the weight is at most 1 + epsilon_high", (0.2,), free=True),
        "limit": Setting("the ratio beyond which a move does not count; None counts all", (10.0,), free=True),
        "reset": Setting("the ratio beyond which a bad token weighs 1; None is no bound", (4.0,), free=True),
    },
    compute=weights_of_rows,
    steps={
        "log_ratio": ppo.log_ratio,
        "advantage": policy.advantage,
        "counts": lambda u, limit: dual(0) if beyond(u, limit) else u,
        "future": from_the_right,
        "exp": bounded_exp,
        "bound": clip,
        "reset": back_to_1,
    },
    alternatives=ALTERNATIVES,
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"half_life": 2.0, **FREE, "limit": 1.75, "reset": 1.5}, CASES),
        Group({"half_life": 4.0, "epsilon": 0.25, "epsilon_high": 0.5, "limit": 2.0, "reset": 1.2}, CASES[:3]),
        Group({"half_life": 1.0, **FREE, "limit": None, "reset": None}, CASES[:2]),
    ),
)
