"""Log-probs and entropies from logits: temperature, scores of tokens, what goes wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import core
from ...contract import Alternative, Argument, Flag, Setting, Step
from ...numbers import Dual, dual, exp, log, stop, total
from .common import EDGES, OPENRLHF, TRL, VERL, Settings, Steps, bug, variant

LOGITS = Argument("B T V", "nats, up to a constant; finite or -inf", gradient=True)
TEMPERATURE = Setting("What the tokens were sampled at: logits are divided by it.", (1.0, 0.5, 2.0))
NO_TEMPERATURE = bug(
    "The sampling temperature is left out.",
    "Policy, reference and sampler are scored under other distributions than the one sampled from: ratios are biased.",
    settings={"temperature": 1.0},
    pitfalls=("C56",),
    links=(f"{TRL}/pull/3029", f"{OPENRLHF}/pull/857", f"{VERL}/pull/3133"),
)
TEMPERATURE_INVERTED = bug(
    "Logits are multiplied by the temperature.",
    "A hotter sampler is scored as a colder one.",
    {"scale": lambda z, temperature: dual(z) * temperature},
    pitfalls=("C56",),
)


def zero_times_inf(**steps: Step) -> Alternative:
    return bug(
        "Tokens of probability 0 add 0 * -inf, which is nan.",
        "The first token that a logit mask excludes turns the loss into NaN.",
        steps,
        pitfalls=("C60",),
    )


LOGIT_EDGES = {
    "minus_inf_logits": Flag(
        "edge",
        "Tokens that cannot be chosen: their logit is -inf, and they add exactly 0.",
        "A sampler that masks tokens turns the loss into NaN.",
        pitfalls=("C60",),
    ),
    "extreme_logits": Flag(
        "edge",
        "Logits of 96: in float32 their exp overflows unless the largest is taken out first.",
        "inf / inf gives NaN; in half precision logits of 12 are enough.",
        (f"{OPENRLHF}/pull/620",),
        ("C28",),
    ),
    "rows_equal_columns": EDGES["rows_equal_columns"],
    "one_token": EDGES["one_token"],
}

Ids = Sequence[int]


def over_positions(rows: Sequence[Sequence[Any]]) -> list[list[Dual]]:
    """What log_softmax gives over the wrong dimension: each token's logits, normalised over the positions of a row."""
    columns = [core.log_softmax(column, 1) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


WRONG_DIMENSION = (
    "The softmax is taken over the positions of a row (the wrong dimension), not over the vocabulary.",
    "The probabilities of a position do not add up to 1: what is raised at one place is lowered at another.",
)


def _scores(pairs: Any, settings: Settings, steps: Steps) -> list[Dual]:
    """Of a row: its scaled logits with the token that each is about."""
    rows = steps["row"]([logits for logits, _ in pairs])
    return [
        steps["result"](steps["score"](z, y), settings["temperature"]) for z, (_, y) in zip(rows, pairs, strict=True)
    ]


def at_temperature(rows: Any, settings: Settings, steps: Steps) -> list[list[list[Dual]]]:
    """The logits of all rows as they were sampled."""
    return [[[steps["scale"](z, settings["temperature"]) for z in logits] for logits in row] for row in rows]


def aligned(logits: Sequence[Any], targets: Ids) -> list[tuple[Any, int]]:
    return list(zip(logits, targets, strict=True))


SCORE_STEPS: dict[str, Step] = {
    "scale": lambda z, temperature: dual(z) / temperature,
    "row": lambda scaled: scaled,
    "score": lambda logits, y: core.token_log_prob(logits, y, 1),
    "result": lambda log_prob, temperature: log_prob,
}
SCORE_ALTERNATIVES = {
    "no_temperature": NO_TEMPERATURE,
    "temperature_inverted": TEMPERATURE_INVERTED,
    "temperature_after": bug(
        "The log-prob is divided by the temperature instead of the logits.",
        "What comes out is no distribution: its probabilities do not add up to 1.",
        {"scale": lambda z, temperature: z, "result": lambda p, temperature: p / temperature},
        pitfalls=("C56", "C57"),
    ),
    "temperature_not_in_the_normaliser": bug(
        "The temperature divides the token's own logit, but not the logits of the normaliser.",
        "What comes out is no log-probability: the probabilities of a position do not add up to 1.",
        {
            "scale": lambda z, temperature: dual(z),
            "score": lambda logits, y: (dual(logits[y]), log(total(exp(z) for z in logits))),
            "result": lambda parts, temperature: parts[0] / temperature - parts[1],
        },
        pitfalls=("C56", "C57"),
    ),
    "temperature_in_the_normaliser_alone": bug(
        "The temperature divides the logits of the normaliser, but not the token's own logit.",
        "What comes out is no log-probability: the probabilities of a position do not add up to 1.",
        {
            "scale": lambda z, temperature: dual(z) / temperature,
            "score": lambda logits, y: (dual(logits[y]), log(total(exp(z) for z in logits))),
            "result": lambda parts, temperature: parts[0] * temperature - parts[1],
        },
        pitfalls=("C56", "C57"),
    ),
    "raw_logits": bug(
        "The logit is returned: nothing was subtracted.",
        "Raising all logits counts as learning; ratios of two models compare what cannot be compared.",
        {"score": lambda logits, y: dual(logits[y])},
    ),
    "softmax_over_positions": bug(
        *WRONG_DIMENSION, {"row": over_positions, "score": lambda logits, y: dual(logits[y])}
    ),
    "normaliser_detached": bug(
        "No gradient flows through the normaliser.",
        "A token's logit is pushed up, and no other one down: logits grow without bound.",
        {"score": lambda logits, y: dual(logits[y]) - stop(log(total(exp(z) for z in logits)))},
    ),
    "probability": bug(
        "The probability instead of its log.",
        "Gradients of unlikely tokens vanish.",
        {"score": lambda logits, y: exp(core.token_log_prob(logits, y, 1))},
    ),
    "bits": variant(
        "In bits instead of nats.",
        "1.44 times as large: ratios of it, taken with exp, are wrong.",
        {"score": lambda logits, y: core.token_log_prob(logits, y, 1) / log(2)},
    ),
    "negated": variant(
        "-log pi, as a cross-entropy returns it.",
        "Ratios are inverted, unless the sign is turned where it is used.",
        {"score": lambda logits, y: -core.token_log_prob(logits, y, 1)},
    ),
    "detached": bug(
        "No gradient flows through it.",
        "The policy is not trained.",
        {"score": lambda logits, y: stop(core.token_log_prob(logits, y, 1))},
    ),
}
SCORE_EDGES = LOGIT_EDGES | {
    "length_mismatch": Flag(
        "edge",
        "More positions in the logits than targets: it must be refused.",
        "gather cuts the rest off without a word: tokens are scored at wrong positions (a KL of 11 instead of 0.04).",
        ("https://github.com/opendilab/LightRFT/issues/53",),
        ("C55",),
    ),
}
LOGITS_2 = [
    [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [-2.0, 0.25, 0.75]],
    [[0.0, 1.5, -1.0], [3.0, 0.5, 0.0], [0.25, -0.25, 1.0]],
]
TARGETS_2 = [[2, 1, 1], [0, 2, 1]]
