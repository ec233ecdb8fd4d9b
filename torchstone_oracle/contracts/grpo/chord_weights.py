"""chord_weights: how much each token of an expert's answer teaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import grpo
from ...contract import Argument, Case, Group, Inputs, Objective, Step
from ...numbers import Dual, dual, exp, stop
from ..shared.common import CONSTANT_LOG_PROBS, EDGES, MASK, NAN, Settings, bug, full, hidden, variant


def weights_of_tokens(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    rows = zip(inputs["log_probs"], inputs["mask"], strict=True)
    return {"weights": [[steps["token_weight"](x) if m else None for x, m in zip(*row, strict=True)] for row in rows]}


def probability(log_prob: Dual) -> Dual:
    return stop(exp(log_prob))


LOG_PROBS = [[-0.0625, -0.75, -3.0], [-1.5, -0.25, -0.5]]


def case(comment: str, mask: Any, *flags: str, junk: Any = None) -> Case:
    log_probs = LOG_PROBS if junk is None else hidden(LOG_PROBS, mask, junk)
    return Case(comment, {"log_probs": log_probs, "mask": mask}, flags)


RAGGED = [[True, True, True], [True, False, False]]
OBJECTIVE = Objective(
    name="chord_weights",
    about="p (1 - p) of each token of an expert's answer.",
    tags=("GRPO.28",),
    source=("Zhang et al., CHORD-phi, arXiv:2508.11408, by accounts and ms-swift 3602360",),
    arguments={"log_probs": CONSTANT_LOG_PROBS, "mask": MASK},
    returns={"weights": Argument("B T", "none")},
    settings={},
    compute=weights_of_tokens,
    steps={"token_weight": grpo.chord_weight},
    alternatives={
        "probability": variant(
            "p alone.",
            "What the policy knows already teaches most.",
            {"token_weight": probability},
        ),
        "one_less": variant(
            "1 - p: as in focal losses.",
            "What the policy would never say teaches most: its own ways break.",
            {"token_weight": lambda x: 1 - probability(x)},
        ),
        "one": variant(
            "No weight: plain supervised learning (CHORD-mu).",
            "All tokens of the expert teach alike.",
            {"token_weight": lambda x: dual(1)},
        ),
        "times_4": variant(
            "4 p (1 - p): 1 at its highest.",
            "The expert weighs four times as much at the same mu.",
            {"token_weight": lambda x: 4 * grpo.chord_weight(x)},
        ),
        "log_prob_as_probability": bug(
            "The log-prob is taken for the probability.",
            "The weights are below 0: what the expert says is unlearned.",
            {"token_weight": lambda x: stop(x) * (1 - stop(x))},
        ),
    },
    edges=EDGES,
    groups=(
        Group(
            {},
            (
                case("two rows, all chosen", full(2, 3)),
                case("ragged, with junk", RAGGED, "ragged_mask", "junk_under_mask", junk=-6.0),
                case("NaN under the mask", RAGGED, "ragged_mask", "nan_under_mask", junk=NAN),
                case("an empty row", [[True, True, False], [False] * 3], "empty_row"),
            ),
        ),
    ),
)
