"""token_entropies: the entropy of the distribution at each place."""

from __future__ import annotations

from typing import Any

from ... import core
from ...contract import Argument, Case, Group, Inputs, Objective
from ...numbers import Dual, dual, exp, log, stop, total
from ..shared.common import INF, Settings, Steps, bug, variant
from ..shared.logits import (
    LOGIT_EDGES,
    LOGITS,
    LOGITS_2,
    NO_TEMPERATURE,
    SCORE_STEPS,
    TEMPERATURE,
    TEMPERATURE_INVERTED,
    WRONG_DIMENSION,
    at_temperature,
    over_positions,
    zero_times_inf,
)


def spread(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    scaled = [steps["row"](row) for row in at_temperature(inputs["logits"], settings, steps)]
    return {
        "entropies": [
            [dual(steps["result"](steps["entropy"](z, settings["temperature"]), len(z))) for z in row] for row in scaled
        ]
    }


def unguarded_entropy(logits: list[Dual], temperature: Any) -> Dual:
    return -total(exp(p) * p for p in core.log_softmax(logits, 1))


def of_logits(logits: list[Dual], temperature: Any) -> Dual:
    return -total(exp(p) * z for p, z in zip(core.log_softmax(logits, 1), logits, strict=True))


def summed_squares(logits: list[Dual], temperature: Any) -> Dual:
    """Another measure of spread: 1 - sum_v pi(v)^2."""
    return 1 - total(exp(p) * exp(p) for p in core.log_softmax(logits, 1))


def crossed(weights: list[Dual], of: list[Dual]) -> Dual:
    """-sum p log q of two distributions over the same tokens; where p is 0 nothing."""
    pairs = zip(core.log_softmax(weights, 1), core.log_softmax(of, 1), strict=True)
    return -total(exp(p) * q for p, q in pairs if not exp(p).same(0))


def unscaled(logits: list[Dual], temperature: Any) -> list[Dual]:
    return [z * temperature for z in logits]


ENTROPY_CASES = (
    Case("two rows of three positions", {"logits": LOGITS_2}),
    Case("equal logits: log 4", {"logits": [[[0.5] * 4, [-8.0] * 4]]}),
    Case("nearly certain, and not", {"logits": [[[8.0, 0.0, -1.0], [0.5, 0.0, 0.25]]]}),
    Case(
        "tokens that cannot be chosen",
        {"logits": [[[0.5, -INF, 2.0], [-INF, 1.0, -INF], [0.0, 1.0, 0.5]]]},
        ("minus_inf_logits",),
    ),
    Case(
        "logits of 96",
        {"logits": [[[96.0, 95.0, 94.0], [-96.0, -97.0, -95.0]]]},
        ("extreme_logits",),
    ),
    Case("one position", {"logits": [[[0.0, 1.0]]]}, ("one_token",)),
)
OBJECTIVE = Objective(
    name="token_entropies",
    about="The entropy of each position's whole next-token distribution.",
    tags=("CORE.3",),
    source=("Shannon, A Mathematical Theory of Communication, 1948, section 6",),
    arguments={"logits": LOGITS},
    returns={"entropies": Argument("B T", "nats")},
    settings={"temperature": TEMPERATURE},
    compute=spread,
    steps={
        "scale": SCORE_STEPS["scale"],
        "row": SCORE_STEPS["row"],
        "entropy": lambda logits, temperature: core.entropy(logits, 1),
        "result": lambda h, size: h,
    },
    alternatives={
        "no_temperature": NO_TEMPERATURE,
        "temperature_inverted": TEMPERATURE_INVERTED,
        "zero_times_inf": zero_times_inf(entropy=unguarded_entropy),
        "sign_flipped": bug(
            "The sign is missing: sum pi log pi.",
            "A bonus for entropy becomes a price: the policy collapses.",
            {"result": lambda h, size: -h},
        ),
        "bits": variant("In bits instead of nats.", "1.44 times as large.", {"result": lambda h, size: h / log(2)}),
        "normalised": variant(
            "Divided by log V, its largest value.",
            "A number from 0 to 1; a coefficient meant for nats is too small.",
            {"result": lambda h, size: h / log(size)},
        ),
        "mean_over_vocabulary": bug(
            "The mean over the vocabulary instead of the sum.",
            "The entropy is too small by the size of the vocabulary: the bonus does nothing.",
            {"result": lambda h, size: h / size},
        ),
        "weights_missing": bug(
            "The probabilities are missing as weights: -sum log pi, each token of the vocabulary alike.",
            "It grows without bound as tokens become unlikely: a bonus for it flattens the policy.",
            {"entropy": lambda logits, temperature: -total(core.log_softmax(logits, 1))},
        ),
        "temperature_not_in_the_weights": bug(
            "The temperature is in the logs, but not in the probabilities that weigh them.",
            "It is a cross-entropy of two distributions: too large, and its gradient is none of an entropy.",
            {"entropy": lambda logits, temperature: crossed(unscaled(logits, temperature), logits)},
            pitfalls=("C56",),
        ),
        "temperature_in_the_weights_alone": bug(
            "The temperature is in the probabilities that weigh the logs, but not in the logs.",
            "It is a cross-entropy of two distributions: too large, and its gradient is none of an entropy.",
            {"entropy": lambda logits, temperature: crossed(logits, unscaled(logits, temperature))},
            pitfalls=("C56",),
        ),
        "logits_for_logs": bug(
            "The logits stand where their logs of probabilities belong: nothing was subtracted.",
            "Raising all logits changes it, though no probability has moved.",
            {"entropy": of_logits},
        ),
        "softmax_over_positions": bug(
            *WRONG_DIMENSION,
            {"row": over_positions, "entropy": lambda logs, temperature: -total(exp(p) * p for p in logs)},
        ),
        "of_the_likeliest": bug(
            "-log pi of the likeliest token alone.",
            "It is near 0 for any policy with a favourite, however it spreads the rest.",
            {"entropy": lambda logits, temperature: -max(core.log_softmax(logits, 1), key=lambda p: p.value)},
        ),
        "perplexity": variant(
            "exp of the entropy (the perplexity): the number of tokens that it is like a choice among.",
            "A coefficient for nats is too large.",
            {"result": lambda h, size: exp(h)},
        ),
        "gini": variant("1 - sum of squared probabilities.", "Another measure of spread.", {"entropy": summed_squares}),
        "detached": bug(
            "No gradient flows through it.",
            "A bonus that changes the number that is logged, and nothing else.",
            {"result": lambda h, size: stop(h)},
        ),
    },
    edges=LOGIT_EDGES,
    groups=(
        Group({"temperature": 1.0}, ENTROPY_CASES),
        Group({"temperature": 0.5}, ENTROPY_CASES[:1] + ENTROPY_CASES[3:5]),
        Group({"temperature": 2.0}, ENTROPY_CASES[:1]),
    ),
)
