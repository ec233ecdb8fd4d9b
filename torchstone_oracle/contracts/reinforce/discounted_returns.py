"""discounted_returns: the discounted sum of what is still to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...core import Mask
from ...numbers import Dual, dual, mpf, stop
from ..shared.common import (
    EDGES,
    INF,
    MASK,
    NAN,
    RLHF_BOOK,
    TRL,
    VERL,
    WILLIAMS,
    Row,
    Settings,
    Steps,
    bug,
    full,
    hidden,
    marks,
    variant,
)


def to_go(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["rewards"], inputs["mask"], strict=True)
    return {"returns": [steps["row"](rewards, mask, settings["gamma"], steps["gap"]) for rewards, mask in rows]}


def from_the_right(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    """reinforce.discounted_returns, with a choice of what happens where no token was chosen."""
    returns: list[Dual | None] = []
    after = Dual(0)
    for r, chosen in zip(reversed(rewards), reversed(mask), strict=True):
        after = stop(r) + dual(gamma) * after if chosen else gap(stop(r), after, gamma)
        returns.insert(0, after if chosen else None)
    return returns


def chosen_only(found: Sequence[Dual], mask: Sequence[bool]) -> list[Dual | None]:
    return [v if m else None for v, m in zip(found, mask, strict=True)]


def whole_return(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    whole = next((g for g in from_the_right(rewards, mask, gamma, gap) if g is not None), Dual(0))
    return chosen_only([whole for _ in rewards], mask)


def sum_everywhere(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    return whole_return(rewards, mask, 1, gap)


def own_left_out(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    found = from_the_right(rewards, mask, gamma, gap)
    return [None if g is None else g - r for g, r in zip(found, rewards, strict=True)]


def reward_alone(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    return chosen_only(rewards, mask)


def from_the_left(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    return from_the_right(rewards[::-1], mask[::-1], gamma, gap)[::-1]


def discounted_from_start(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    """G_t = sum_{s >= t} gamma^s r_s, s counted from the first chosen token: the return as seen from the start."""
    found: list[Dual | None] = []
    age = 0
    for g in from_the_right(rewards, mask, gamma, gap):
        found.append(None if g is None else g * mpf(gamma) ** age)
        age += g is not None
    return found


def last_reward_lost(rewards: Row, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    last = max((t for t, m in enumerate(mask) if m), default=-1)
    return from_the_right([dual(0) if t == last else r for t, r in enumerate(rewards)], mask, gamma, gap)


RETURN_EDGES = EDGES | {
    "reward_under_mask": Flag(
        "edge",
        "A reward on a token that the policy did not choose is not counted: the score goes on the last chosen one.",
        "A score on the first pad token is lost if the padding is masked, and leaks if it is not.",
        (f"{TRL}/issues/3750",),
        ("C49",),
    ),
    "delayed_reward": Flag("edge", "One reward, at the end.", "All tokens but the last go without.", pitfalls=("C50",)),
}
PAID = [[1.0, 0.0, 2.0, -0.5], [0.0, 4.0, 1.0, 0.5]]
AT_THE_END = [[0.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -2.0, 0.0, 0.0]]
LAST = marks("110011 111100")
PAID_RAGGED = marks("1110 1100")
PAID_GAPS = marks("1011 0101")


def paid(comment: str, rewards: Any, mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(comment, {"rewards": rewards, "mask": mask}, flags, **more)


RETURN_CASES = (
    paid("two rows, all chosen", PAID, full(2, 4)),
    paid("one reward, at the end", [[0.0, 0.0, 0.0, 2.0]], full(1, 4), "delayed_reward"),
    paid("lengths 3 and 2, nothing in the padding", hidden(PAID, PAID_RAGGED, 0.0), PAID_RAGGED, "ragged_mask"),
    paid("tool output inside; the reward comes after it", AT_THE_END, LAST, "gaps_in_mask", "delayed_reward"),
    paid("tool output inside; rewards everywhere else", hidden(PAID, PAID_GAPS, 0.0), PAID_GAPS, "gaps_in_mask"),
    paid("a reward on the first pad, and on tool output", [[1.0, 2.0, 4.0, 0.0], [1.0, 8.0, 2.0, 0.5]],
         marks("1100 1011"), "reward_under_mask", "junk_under_mask"),
    paid("NaN in the gaps", hidden(PAID, PAID_GAPS, NAN), PAID_GAPS, "gaps_in_mask", "nan_under_mask"),
    paid("inf in the padding", hidden(PAID, PAID_RAGGED, INF), PAID_RAGGED, "ragged_mask", "nan_under_mask"),
    paid("a row without a token", hidden(PAID, marks("0000 1110"), 0.0), marks("0000 1110"), "empty_row"),
    paid("no token at all", PAID, marks("0000 0000"), "all_masked"),
    paid("three rows of three", [[1.0, 0.0, 2.0], [0.0, 4.0, 1.0], [-1.0, 0.5, 3.0]], full(3, 3), "rows_equal_columns"),
    paid("one token", [[-1.5]], [[True]], "one_token"),
)  # fmt: skip
OBJECTIVE = Objective(
    name="discounted_returns",
    about="The rewards from each chosen token on, discounted once per chosen token.",
    tags=("REINFORCE.1",),
    source=(f"{WILLIAMS}, eq. 11",),
    arguments={"rewards": Argument("B T", "reward units; a constant"), "mask": MASK},
    returns={"returns": Argument("B T", "reward units")},
    settings={"gamma": Setting("Discount per chosen token.", (1.0, 0.5, 0.99, 0.9, 0.0))},
    compute=to_go,
    steps={"row": from_the_right, "gap": lambda r, after, gamma: after},
    alternatives={
        "gaps_cost_discount": bug(
            "Tool output and other gaps cost a discount each.",
            "The longer a tool's answer, the less the tokens before it are paid.",
            {"gap": lambda r, after, gamma: dual(gamma) * after},
            pitfalls=("C48",),
            links=(f"{VERL}/issues/2337",),
        ),
        "reset_at_gaps": bug(
            "The return starts anew at each gap: it was multiplied by the mask.",
            "What comes before a tool call is not paid for what comes after.",
            {"gap": lambda r, after, gamma: Dual(0)},
            pitfalls=("C48", "R09"),
            links=(f"{VERL}/issues/7278",),
        ),
        "rewards_leak": bug(
            "Rewards that lie on padding or tool output are counted.",
            "Whatever stands in the padding is paid out.",
            {"gap": lambda r, after, gamma: r + after},
            pitfalls=("C19", "C49"),
            links=(f"{TRL}/issues/3750",),
        ),
        "unmasked": bug(
            "The mask has no effect: every position is a step with a reward.",
            "Padding is paid out, and costs discount.",
            {"gap": lambda r, after, gamma: r + dual(gamma) * after},
            pitfalls=("C47", "C48"),
        ),
        "multiplied_by_mask": bug(
            "Rewards under False are multiplied by 0 instead of left out: 0 * nan is nan.",
            "One NaN in the padding turns the whole update into NaN.",
            {"gap": lambda r, after, gamma: after + r * 0},
            pitfalls=("C60",),
            links=(f"{VERL}/pull/2377",),
        ),
        "whole_return": variant(
            "Every token gets the return from the first one.",
            "Right on average, but noisier: tokens are paid for what came before them too.",
            {"row": whole_return},
        ),
        "sum_everywhere": variant(
            "Every token gets the sum of all rewards of its completion, without a discount.",
            "Right on average at gamma 1, but noisier: tokens are paid for what came before them too.",
            {"row": sum_everywhere},
        ),
        "own_reward_left_out": bug(
            "A token's own reward is not in its return.",
            "The last token, which has the score, is paid nothing.",
            {"row": own_left_out},
            pitfalls=("C49",),
        ),
        "reward_alone": bug(
            "The reward of the token instead of its return.",
            "With one score at the end, only the last token is trained.",
            {"row": reward_alone},
            pitfalls=("C50",),
            links=(f"{RLHF_BOOK}/pull/216",),
        ),
        "from_the_left": bug(
            "Rewards so far instead of rewards to go.",
            "Tokens are paid for what came before them, which they cannot change.",
            {"row": from_the_left},
        ),
        "discounted_from_start": variant(
            "Discounted from the first token on: gamma^t times the return.",
            "The gradient of the discounted objective; late tokens are hardly trained.",
            {"row": discounted_from_start},
            links=("https://arxiv.org/abs/1906.07073",),
        ),
        "last_reward_lost": bug(
            "The reward of the last chosen token is lost, as if it stood in the padding.",
            "The score is never paid.",
            {"row": last_reward_lost},
            pitfalls=("C49",),
            links=(f"{TRL}/issues/3750",),
        ),
    },
    edges=RETURN_EDGES,
    groups=(
        Group({"gamma": 1.0}, RETURN_CASES),
        Group({"gamma": 0.5}, RETURN_CASES[:7]),
        *(Group({"gamma": gamma}, RETURN_CASES[:1] + RETURN_CASES[3:4]) for gamma in (0.99, 0.9)),
        Group({"gamma": 0.0}, RETURN_CASES[:1]),
    ),
)  # fmt: skip
