"""likelihood_surrogate: the negative log-likelihood of the samples that are right answers (VAPO)."""

from __future__ import annotations

from typing import Any

from ... import ppo
from ...contract import Argument, Case, Flag, Group, Inputs, Objective
from ...numbers import Dual, bounded_exp, stop
from ..shared.common import EDGES, INF, LOG_PROBS, MASK, NAN, Settings, Steps, bug, full, hidden, marks, variant


def losses(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """The loss of each chosen token; anything elsewhere."""
    return {
        "losses": [
            [steps["token"](p, steps["learned"](right)) if m else None for p, m in zip(row, on, strict=True)]
            for row, right, on in zip(inputs["log_probs"], inputs["right"], inputs["mask"], strict=True)
        ]
    }


def of_the_probability(log_prob: Dual, right: bool) -> Dual:
    return -bounded_exp(log_prob) if right else Dual(0)


def detached(log_prob: Dual, right: bool) -> Dual:
    return stop(ppo.likelihood_surrogate(log_prob, right))


LOGS = [[-1.5, -0.25, -2.0, -0.75], [-0.5, -3.0, -1.25, -0.5], [-2.5, -1.0, -0.125, -1.75]]
RAGGED, GAPS, HOLLOW = marks("1111 1100 1000"), marks("1011 0110 1101"), marks("1100 0000 1110")
FIRST, BOTH = [True, False, False], [True, False, True]


def case(
    comment: str, mask: list[list[bool]], *flags: str, right: list[bool] = BOTH, junk: float | None = None
) -> Case:
    log_probs = LOGS if junk is None else hidden(LOGS, mask, junk)
    return Case(comment, {"log_probs": log_probs, "right": right, "mask": mask}, flags)


OBJECTIVE = Objective(
    name="likelihood_surrogate",
    about="The negative log-likelihood of the samples that are right answers (VAPO).",
    tags=("PPO.18",),
    source=("VAPO, arXiv:2504.05118v3, eq. 9 and 10, by accounts",),
    arguments={
        "log_probs": LOG_PROBS,
        "right": Argument("B", "True where the completion is a right answer", kind="bool"),
        "mask": MASK,
    },
    returns={"losses": Argument("B T", "nats")},
    settings={},
    compute=losses,
    steps={"token": ppo.likelihood_surrogate, "learned": lambda right: right},
    alternatives={
        "wrong_answers_too": bug(
            "All samples are learned, right or wrong.",
            "The policy is pulled towards what it does anyway.",
            {"learned": lambda right: True},
        ),
        "wrong_answers_only": bug(
            "The mark is inverted: wrong answers are learned, and right ones are not.",
            "The policy learns its mistakes by heart.",
            {"learned": lambda right: not right},
        ),
        "sign_flipped": bug(
            "The likelihood is minimised.",
            "The policy unlearns its right answers.",
            {"token": lambda p, right: -ppo.likelihood_surrogate(p, right)},
            pitfalls=("C76",),
        ),
        "of_the_probability": variant(
            "The token's probability in place of its logarithm.",
            "Rare tokens of right answers are hardly learned.",
            {"token": of_the_probability},
        ),
        "detached": bug("No gradient flows.", "The term does nothing.", {"token": detached}),
    },
    edges={
        **{
            k: EDGES[k]
            for k in ("ragged_mask", "gaps_in_mask", "junk_under_mask", "nan_under_mask", "empty_row", "all_masked")
        },
        "none_right": Flag("edge", "No sample is right: the losses are 0.", "0 / 0 in a mean over right answers."),
    },
    groups=(
        Group(
            {},
            (
                case("the first and the last are right", full(3, 4)),
                case("the first is right", full(3, 4), right=FIRST),
                case("different lengths", RAGGED, "ragged_mask"),
                case("gaps", GAPS, "gaps_in_mask"),
                case("junk in the padding", RAGGED, "junk_under_mask", junk=-7.5),
                case("NaN in the padding", RAGGED, "nan_under_mask", junk=NAN),
                case("-inf in the padding", GAPS, "nan_under_mask", right=FIRST, junk=-INF),
                case("a row without a token", HOLLOW, "empty_row"),
                case("no token at all", marks("0000 0000 0000"), "all_masked"),
                case("none is right", full(3, 4), "none_right", right=[False] * 3),
            ),
        ),
    ),
)
