"""shaped_rewards: the score on the last token, less the KL of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ... import core
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, absolute, dual, stop, total
from ..shared.common import (
    CONSTANT_LOG_PROBS,
    EDGES,
    INF,
    MASK,
    NAN,
    OPENRLHF,
    RLHF_BOOK_A66B0BF,
    TRL,
    Marks,
    Row,
    Settings,
    full,
    hidden,
)


def rewards_of_tokens(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Row by row: a price at each chosen token, and the score at one of them."""
    result = []
    for b, on in enumerate(inputs["mask"]):
        prices = [
            steps["estimate"](p, q) if m else dual(0)
            for p, q, m in zip(inputs["log_probs"][b], inputs["ref_log_probs"][b], on, strict=True)
        ]
        prices = steps["spread"](prices, on)
        shares = steps["score"](inputs["scores"][b], on)
        weight = steps["weight"](settings["beta"])
        result.append([stop(shares[t] - weight * prices[t]) if m else None for t, m in enumerate(on)])
    return {"rewards": result}


def at(place: Callable[[Sequence[bool]], int]) -> Step:
    """The score at one position, 0 at all others."""
    return lambda score, on: [score if any(on) and t == place(on) else dual(0) for t in range(len(on))]


def last_chosen(on: Sequence[bool]) -> int:
    return max(t for t, m in enumerate(on) if m)


def all_on_the_last(prices: Row, on: Sequence[bool]) -> list[Dual]:
    return [total(prices) if any(on) and t == last_chosen(on) else dual(0) for t in range(len(on))]


def none_on_the_last(prices: Row, on: Sequence[bool]) -> list[Dual]:
    return [dual(0) if any(on) and t == last_chosen(on) else price for t, price in enumerate(prices)]


R_NEW = [[-1.25, -0.5, -2.0, -0.75], [-0.75, -1.5, -0.25, -1.0]]
R_REF = [[-1.5, -0.25, -1.0, -1.25], [-2.25, -1.0, -0.5, -0.5]]
R_RAGGED = [[True, True, True, True], [True, True, False, False]]
R_GAPS = [[True, False, True, False], [False, True, True, True]]


def reward_case(comment: str, mask: Marks, *flags: str, junk: tuple[float, float] | None = None) -> Case:
    new, ref = R_NEW, R_REF
    if junk is not None:
        new, ref = hidden(new, mask, junk[0]), hidden(ref, mask, junk[1])
    inputs = {"scores": [1.0, -0.5], "log_probs": new, "ref_log_probs": ref, "mask": mask}
    return Case(comment, inputs, flags)


REWARD_CASES = (
    reward_case("two rows, all chosen", full(2, 4)),
    reward_case("ragged: the score is on the last chosen token", R_RAGGED, "ragged_mask", "score_reaches_last_token"),
    reward_case("gaps, with junk", R_GAPS, "gaps_in_mask", "junk_under_mask", junk=(-3.0, -0.5)),
    reward_case("NaN and inf under the mask", R_GAPS, "gaps_in_mask", "nan_under_mask", junk=(NAN, -INF)),
    reward_case("an empty row: its score is lost", [[True] * 4, [False] * 4], "empty_row"),
    reward_case("no chosen token at all", [[False] * 4] * 2, "all_masked"),
    Case(
        "as many rows as columns",
        {
            "scores": [1.0, -0.5],
            "log_probs": [[-1.0, -0.5], [-2.0, -0.25]],
            "ref_log_probs": [[-0.5, -0.75], [-1.0, -1.0]],
            "mask": full(2, 2),
        },
        ("rows_equal_columns",),
    ),
    Case(
        "one token",
        {"scores": [0.75], "log_probs": [[-1.0]], "ref_log_probs": [[-0.5]], "mask": [[True]]},
        ("one_token",),
    ),
)
OBJECTIVE = Objective(
    name="shaped_rewards",
    about="The KL to the reference is paid token by token, the score arrives with the last chosen token.",
    tags=("PPO.1", "KL.1"),
    source=("Ziegler et al., arXiv:1909.08593v2, eq. 2", "Ouyang et al., InstructGPT, arXiv:2203.02155v1, section 3.5"),
    arguments={
        "scores": Argument("B", "reward"),
        "log_probs": CONSTANT_LOG_PROBS,
        "ref_log_probs": CONSTANT_LOG_PROBS,
        "mask": MASK,
    },
    returns={"rewards": Argument("B T", "reward")},
    settings={"beta": Setting("price of the KL, reward per nat", (0.05, 0.02, 0.1), free=True)},
    compute=rewards_of_tokens,
    steps={
        "estimate": core.k1,
        "spread": lambda prices, on: prices,
        "score": at(last_chosen),
        "weight": lambda beta: dual(beta),
    },
    alternatives={
        "kl_added": Alternative(
            Flag(
                "bug",
                "+ beta KL: the policy is paid for leaving the reference.",
                "It leaves, faster and faster.",
                ("https://github.com/pytorch/rl/commit/96c300322", RLHF_BOOK_A66B0BF),
                ("C31", "C32"),
            ),
            {"weight": lambda beta: -dual(beta)},
        ),
        "reversed_kl": Alternative(
            Flag(
                "bug",
                "k3 of policy and reference in swapped order.",
                "The mean of the price is not KL(policy || reference).",
                (RLHF_BOOK_A66B0BF,),
                ("C32", "R01"),
            ),
            {"estimate": lambda p, q: core.k3(q, p)},
        ),
        "k3": Alternative(
            Flag(
                "variant",
                "k3 in place of k1 as the price.",
                "The same mean; as a reward its gradient is another one.",
                ("http://joschu.net/blog/kl-approx.html",),
                ("C33",),
            ),
            {"estimate": core.k3},
        ),
        "k2": Alternative(
            Flag("variant", "k2 in place of k1 as the price.", "Not the KL: both directions cost the same."),
            {"estimate": core.k2},
        ),
        "absolute": Alternative(
            Flag("variant", "The absolute log-ratio as the price.", "What k1 pays back is charged instead."),
            {"estimate": lambda p, q: absolute(core.k1(p, q))},
        ),
        "kl_on_the_last_token": Alternative(
            Flag(
                "variant",
                "The KL of the whole completion is paid at the last token (RLOO).",
                "The same return at the first token; with discount or a critic other credit per token.",
                (f"{TRL}/pull/2575",),
                ("C37",),
            ),
            {"spread": all_on_the_last},
        ),
        "kl_lost_on_the_last_token": Alternative(
            Flag(
                "bug", "The score replaces the KL of the last token, and is not added.", "The end token costs nothing."
            ),
            {"spread": none_on_the_last},
        ),
        "beta_ignored": Alternative(
            Flag("bug", "No KL in the reward.", "Nothing holds the policy near the reference.", pitfalls=("C34",)),
            {"weight": lambda beta: dual(0)},
        ),
        "score_after_the_end": Alternative(
            Flag(
                "bug",
                "The score is put after the last chosen token: on the first pad, or in the last column.",
                "It is masked away: only completions cut off by the length limit are ever rewarded.",
                (f"{TRL}/issues/3750", f"{OPENRLHF}/commit/37aad73e"),
                ("C49",),
            ),
            {"score": at(lambda on: min(last_chosen(on) + 1, len(on) - 1))},
        ),
        "score_at_the_length": Alternative(
            Flag(
                "bug",
                "The score is put at the number of chosen tokens, minus one: right only without gaps.",
                "After a tool call it lands on a token in the middle, or on the tool's output.",
                pitfalls=("C49", "C48"),
            ),
            {"score": at(lambda on: sum(on) - 1)},
        ),
        "score_on_every_token": Alternative(
            Flag("bug", "The score is given at every token.", "Long completions are paid more often."),
            {"score": lambda score, on: [score] * len(on)},
        ),
        "score_on_the_first": Alternative(
            Flag("bug", "The score is given at the first chosen token.", "Later tokens are never rewarded."),
            {"score": at(lambda on: list(on).index(True))},
        ),
    },
    edges={
        **EDGES,
        "score_reaches_last_token": Flag(
            "edge",
            "The score belongs on the last chosen token, the end token if there is one.",
            "A score on a masked position never arrives.",
            (f"{TRL}/issues/3750",),
            ("C49",),
        ),
    },
    groups=(
        Group({"beta": 0.05}, REWARD_CASES),
        Group({"beta": 0.5}, REWARD_CASES[:2]),
        Group({"beta": 0.0}, REWARD_CASES[:2]),
    ),
)
