"""Which tokens count, and how probable they were: arguments, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from .. import core
from ..contract import Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, dual, exp, log, stop, total
from .common import EDGES, INF, TRL, VERL, bug, marks, variant
from .kl import LOGIT_EDGES, LOGITS, NO_TEMPERATURE, TEMPERATURE, TEMPERATURE_INVERTED, zero_times_inf

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]
Ids = Sequence[int]

# ---------------------------------------------------------------------------------------------------- completion_mask


def ends(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    ids = settings["eos_id"] if isinstance(settings["eos_id"], list) else [settings["eos_id"]]
    return {"mask": [steps["row"](row, ids) for row in inputs["completions"]]}


def end_masked(row: Ids, ids: Ids) -> list[bool]:
    """True before the first end token."""
    return [m and token not in ids for m, token in zip(core.completion_mask(row, ids), row, strict=True)]


def every_end_masked(row: Ids, ids: Ids) -> list[bool]:
    return [token not in ids for token in row]


def until_last_end(row: Ids, ids: Ids) -> list[bool]:
    return [t <= max((s for s, token in enumerate(row) if token in ids), default=len(row)) for t in range(len(row))]


def until_second_end(row: Ids, ids: Ids) -> list[bool]:
    """The running count of end tokens is at most 1: True up to, and not including, the second."""
    return [sum(token in ids for token in row[: t + 1]) <= 1 for t in range(len(row))]


def one_more(row: Ids, ids: Ids) -> list[bool]:
    mask = core.completion_mask(row, ids)
    return [True, *mask][: len(mask)]


def first_token_without_end(row: Ids, ids: Ids) -> list[bool]:
    """The position of the first end by argmax, which is 0 where there is none."""
    if any(token in ids for token in row):
        return core.completion_mask(row, ids)
    return [t == 0 for t in range(len(row))]


def truncated_dropped(row: Ids, ids: Ids) -> list[bool]:
    return core.completion_mask(row, ids) if any(token in ids for token in row) else [False] * len(row)


END, PAD = 7, 0
COMPLETION_EDGES = {
    "pad_is_end": Flag(
        "edge",
        "The padding has the id of the end token.",
        "Where padding is told by its id, the end token is masked with it: the policy never learns to stop.",
        (f"{TRL}/pull/3200",),
        ("C58", "R14"),
    ),
    "no_end": Flag("edge", "A completion cut off before its end: all tokens count.", "Long answers are lost."),
    "empty_completion": Flag("edge", "The first token is the end: one token counts.", "A row without a token: 0 / 0."),
    "text_after_end": Flag(
        "edge",
        "Tokens after the first end token, as an engine that does not stop writes them.",
        "Text that nobody reads is rewarded and trained.",
        (f"{TRL}/pull/2708",),
        ("C58",),
    ),
    "many_ends": Flag("edge", "More than one id ends a completion.", "Only one of the ends is seen."),
    "rows_equal_columns": EDGES["rows_equal_columns"],
    "one_token": EDGES["one_token"],
}  # fmt: skip


def completions(comment: str, rows: list[list[int]], *flags: str, **more: Any) -> Case:
    return Case(comment, {"completions": rows}, flags, **more)


COMPLETION_MASK = Objective(
    name="completion_mask",
    about="Which tokens of a completion count: all up to and including the first end token.",
    tags=(),
    source=("The rule of torchstone/core/README.md: the end token is a choice of the policy",),
    arguments={"completions": Argument("B T", "token ids, without the prompt", kind="int")},
    returns={"mask": Argument("B T", "True where the token counts", kind="bool")},
    settings={"eos_id": Setting("The id, or the ids, that end a completion.", (END,))},
    compute=ends,
    steps={"row": core.completion_mask},
    alternatives={
        "end_masked": bug(
            "The end token itself is masked.",
            "The choice to stop is never trained: completions grow until they are cut off.",
            {"row": end_masked},
            pitfalls=("C58", "R14"),
            links=(f"{TRL}/pull/3200", f"{TRL}/pull/6357"),
        ),
        "every_end_masked": bug(
            "Every token with the end's id is masked, and what stands between and after them is not.",
            "The end is never trained, and text after it is.",
            {"row": every_end_masked},
            pitfalls=("C58", "R14"),
            links=(f"{TRL}/pull/3200",),
        ),
        "all_kept": bug(
            "Everything counts, after the end too.",
            "Padding and text after the end are trained as if they had been chosen.",
            {"row": lambda row, ids: [True] * len(row)},
            pitfalls=("C58",),
            links=(f"{TRL}/pull/2708",),
        ),
        "until_last_end": bug(
            "True up to the last end token instead of the first.",
            "Where the padding has the end's id, all padding is trained: to say the end again and again.",
            {"row": until_last_end},
            pitfalls=("C58",),
        ),
        "until_second_end": bug(
            "True up to the second end token: a running count of ends was compared with <= 1.",
            "Text after the end is trained.",
            {"row": until_second_end},
            pitfalls=("C58",),
        ),
        "one_more": bug(
            "One token after the end counts too.",
            "The policy is trained on a pad token, once a completion.",
            {"row": one_more},
            pitfalls=("C58",),
        ),
        "first_token_without_end": bug(
            "Where no end token is found, only the first token counts: argmax of nothing is 0.",
            "Completions that were cut off are all but ignored.",
            {"row": first_token_without_end},
        ),
        "truncated_dropped": variant(
            "Completions without an end token are masked throughout.",
            "Answers that were cut off are neither rewarded nor punished.",
            {"row": truncated_dropped},
            links=(TRL, "https://arxiv.org/abs/2503.14476"),
        ),
        "inverted": bug(
            "True and False are swapped.",
            "Padding is trained, and nothing else.",
            {"row": lambda row, ids: [not m for m in core.completion_mask(row, ids)]},
            pitfalls=("C59",),
        ),
    },
    edges=COMPLETION_EDGES,
    groups=(
        Group(
            {"eos_id": END},
            (
                completions("an end, then padding", [[3, 4, END, PAD, PAD], [5, END, PAD, PAD, PAD]]),
                completions("the end in the last column", [[3, 4, 5, END]]),
                completions("no end", [[3, 4, 5, 6], [3, END, PAD, PAD]], "no_end"),
                completions("padding has the end's id", [[3, 4, END, END, END], [5, END, END, END, END]], "pad_is_end"),
                completions("text after the end", [[3, END, 4, 5, END, 6], [END, 3, 3, END, 4, END]], "text_after_end"),
                completions("the first token is the end", [[END, PAD, PAD], [3, END, PAD]], "empty_completion"),
                completions("three rows of three", [[3, 4, 5], [3, END, 4], [END, 4, 3]], "rows_equal_columns"),
                completions("one token, the end", [[END]], "one_token"),
                completions("one token, no end", [[3]], "one_token", "no_end"),
            ),
        ),
        Group({"eos_id": 0}, (completions("the end has id 0, and so has the padding", [[3, 4, 0, 0]], "pad_is_end"),)),
        Group(
            {"eos_id": [END, 8]},
            (completions("either of two ends", [[3, 8, 4, END], [3, END, 4, 8]], "many_ends", result="acceptable"),),
        ),
    ),
)

# ---------------------------------------------------------------------------------------------------- next_token_mask

NEXT_TOKEN_MASK = Objective(
    name="next_token_mask",
    about="From 'this token was chosen' to 'this prediction counts': column t speaks of token t + 1.",
    tags=("CORE.1",),
    source=("The rule of torchstone/core/README.md: column t scores token t + 1",),
    arguments={"chosen": Argument("B S", "True at each token, prompt included, that the policy chose", kind="bool")},
    returns={"mask": Argument("B S-1", "True where the prediction counts", kind="bool")},
    settings={},
    compute=lambda inputs, settings, steps: {"mask": [steps["row"](row) for row in inputs["chosen"]]},
    steps={"row": core.next_token_mask},
    alternatives={
        "not_shifted": bug(
            "Column t speaks of token t: the last column is cut off instead of the first.",
            "The first chosen token is not trained, and the one after the last is.",
            {"row": lambda row: list(row[:-1])},
            pitfalls=("C54",),
            links=(f"{VERL}/pull/3287",),
        ),
        "first_token_lost": bug(
            "A prediction counts only where both the token and the one before it were chosen.",
            "The first token of every completion is never trained.",
            {"row": lambda row: [a and b for a, b in pairwise(row)]},
            pitfalls=("C54",),
            links=(f"{VERL}/pull/3287",),
        ),
        "one_more": bug(
            "A prediction counts where the token or the one before it was chosen.",
            "The token after each stretch is trained: padding, or the first of a tool's output.",
            {"row": lambda row: [a or b for a, b in pairwise(row)]},
            pitfalls=("C54",),
        ),
        "inverted": bug(
            "True and False are swapped.",
            "Prompt and padding are trained, and nothing else.",
            {"row": lambda row: [not m for m in row[1:]]},
            pitfalls=("C59",),
        ),
    },
    edges={k: EDGES[k] for k in ("gaps_in_mask", "rows_equal_columns", "one_token", "empty_row")},
    groups=(
        Group(
            {},
            (
                Case("a prompt of two, then three chosen", {"chosen": marks("00111")}),
                Case("prompt, completion, padding", {"chosen": marks("001110 011000")}),
                Case("tool output between two stretches", {"chosen": marks("011001 001011")}, ("gaps_in_mask",)),
                Case("no prompt: nothing predicts the first token", {"chosen": marks("1110")}),
                Case("a row without a chosen token", {"chosen": marks("0000 0110")}, ("empty_row",)),
                Case("three rows of four tokens", {"chosen": marks("0011 0110 0001")}, ("rows_equal_columns",)),
                Case("two tokens", {"chosen": marks("01 10")}, ("one_token",)),
            ),
        ),
    ),
)  # fmt: skip

# --------------------------------------------------------------------------------------- token and next-token log-probs


def scored(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Column t of the logits scores column t of the targets."""
    rows = zip(inputs["logits"], inputs["targets"], strict=True)
    return {"log_probs": [_scores(steps["align"](z, y), settings, steps) for z, y in rows]}


def next_scored(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Column t of the logits scores token t + 1."""
    rows = zip(inputs["logits"], inputs["tokens"], strict=True)
    return {"log_probs": [_scores(steps["align"](z, y), settings, steps) for z, y in rows]}


def _scores(pairs: Any, settings: Settings, steps: Steps) -> list[Dual]:
    tau = settings["temperature"]
    return [steps["result"](steps["score"]([steps["scale"](z, tau) for z in logits], y), tau) for logits, y in pairs]


def aligned(logits: Sequence[Any], targets: Ids) -> list[tuple[Any, int]]:
    return list(zip(logits, targets, strict=True))


def next_aligned(logits: Sequence[Any], tokens: Ids) -> list[tuple[Any, int]]:
    return list(zip(logits[:-1], tokens[1:], strict=True))


SCORE_STEPS: dict[str, Step] = {
    "scale": lambda z, temperature: dual(z) / temperature,
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
    "raw_logits": bug(
        "The logit is returned: nothing was subtracted.",
        "Raising all logits counts as learning; ratios of two models compare what cannot be compared.",
        {"score": lambda logits, y: dual(logits[y])},
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


def predictions(comment: str, logits: Any, targets: list[list[int]], *flags: str, **more: Any) -> Case:
    return Case(comment, {"logits": logits, "targets": targets}, flags, **more)


TOKEN_CASES = (
    predictions("two rows of three positions, three tokens", LOGITS_2, TARGETS_2),
    predictions("one row, four tokens", [[[1.0, 0.0, 0.0, -1.0], [0.5, 2.0, -3.0, 0.0]]], [[3, 1]]),
    predictions("equal logits: -log 4 everywhere", [[[0.5] * 4, [-8.0] * 4]], [[0, 3]]),
    predictions("tokens that cannot be chosen", [[[0.5, -INF, 2.0], [-INF, 1.0, -INF]]], [[0, 1]], "minus_inf_logits"),
    predictions(
        "logits of 96", [[[96.0, 95.0, 94.0], [-96.0, -97.0, -95.0]]], [[1, 0]], "extreme_logits"
    ),
    predictions("as many rows as positions and tokens", [x[:3] for x in [*LOGITS_2, LOGITS_2[0][::-1]]],
                [*TARGETS_2, [0, 1, 2]], "rows_equal_columns"),
    predictions("one position", [[[0.0, 1.0]]], [[0]], "one_token"),
    predictions("one position more than targets", LOGITS_2, [x[:2] for x in TARGETS_2], "length_mismatch",
                result="invalid"),
)  # fmt: skip
TOKEN_LOG_PROBS = Objective(
    name="token_log_probs",
    about="The log-probability of each target under the distribution that was sampled.",
    tags=("CORE.2",),
    source=("The definition of the softmax",),
    arguments={"logits": LOGITS, "targets": Argument("B T", "token ids, aligned with the logits", kind="int")},
    returns={"log_probs": Argument("B T", "nats")},
    settings={"temperature": TEMPERATURE},
    compute=scored,
    steps={"align": aligned, **SCORE_STEPS},
    alternatives=SCORE_ALTERNATIVES
    | {
        "shifted_twice": bug(
            "The targets are shifted once more: column t is scored with target t + 1, the last with the first.",
            "Every token is scored as if it stood one place earlier: log-probs of noise.",
            {"align": lambda logits, targets: aligned(logits, [*targets[1:], targets[0]])},
            pitfalls=("C54",),
        ),
        "one_late": bug(
            "Column t is scored with target t - 1, the first with the last.",
            "Every token is scored by the logits that have already seen it.",
            {"align": lambda logits, targets: aligned(logits, [targets[-1], *targets[:-1]])},
            pitfalls=("C54",),
        ),
    },
    edges=SCORE_EDGES,
    groups=(
        Group({"temperature": 1.0}, TOKEN_CASES),
        Group({"temperature": 0.5}, TOKEN_CASES[:2] + TOKEN_CASES[3:5]),
        Group({"temperature": 2.0}, TOKEN_CASES[1:2]),
    ),
)


def sequences(comment: str, logits: Any, tokens: list[list[int]], *flags: str, **more: Any) -> Case:
    return Case(comment, {"logits": logits, "tokens": tokens}, flags, **more)


NEXT_CASES = (
    sequences("two rows of three tokens", LOGITS_2, TARGETS_2),
    sequences("one row of four", [[*LOGITS_2[0], [4.0, 0.0, -4.0]]], [[1, 2, 0, 1]]),
    sequences("what the last position says is not used", [[[0.5, 1.0], [-1.0, 0.0], [9.0, -9.0]]], [[0, 1, 1]]),
    sequences(
        "tokens that cannot be chosen",
        [[[0.5, -INF, 2.0], [-INF, 1.0, -INF], [0.0, 1.0, 0.5]]], [[2, 0, 1]], "minus_inf_logits",
    ),
    sequences(
        "logits of 96",
        [[[96.0, 95.0, 94.0], [-96.0, -97.0, -95.0], [0.0, 0.0, 0.0]]], [[0, 1, 0]], "extreme_logits",
    ),
    sequences(
        "as many rows as tokens", [*LOGITS_2, LOGITS_2[0][::-1]], [*TARGETS_2, [0, 1, 2]], "rows_equal_columns"
    ),
    sequences("two tokens", [[[0.0, 1.0], [0.5, 0.25]]], [[1, 0]], "one_token"),
    sequences("a position less than tokens", [x[:2] for x in LOGITS_2], TARGETS_2, "length_mismatch",
              result="invalid"),
)  # fmt: skip
NEXT_TOKEN_LOG_PROBS = Objective(
    name="next_token_log_probs",
    about="The log-probability of each token given those before it: column t scores token t + 1.",
    tags=("CORE.1", "CORE.2"),
    source=("The chain rule of probability, read from left to right",),
    arguments={
        "logits": Argument("B S V", LOGITS.unit, gradient=True),
        "tokens": Argument("B S", "token ids", kind="int"),
    },
    returns={"log_probs": Argument("B S-1", "nats")},
    settings={"temperature": TEMPERATURE},
    compute=next_scored,
    steps={"align": next_aligned, **SCORE_STEPS},
    alternatives=SCORE_ALTERNATIVES
    | {
        "not_shifted": bug(
            "Column t scores token t: the last column was cut off both.",
            "The model is asked for the token that it has just read.",
            {"align": lambda logits, tokens: aligned(logits[:-1], tokens[:-1])},
            pitfalls=("C54",),
            links=(f"{VERL}/pull/3287", "https://github.com/EleutherAI/gpt-neox/issues/1285"),
        ),
        "not_shifted_first_cut": bug(
            "Token t + 1 is scored at position t + 1: the first column was cut off both.",
            "The model is asked for the token that it has just read.",
            {"align": lambda logits, tokens: aligned(logits[1:], tokens[1:])},
            pitfalls=("C54",),
        ),
        "shifted_backwards": bug(
            "Token t is scored at position t + 1.",
            "The model is asked for what came before: the shift went the wrong way.",
            {"align": lambda logits, tokens: aligned(logits[1:], tokens[:-1])},
            pitfalls=("C54",),
        ),
    },
    edges=SCORE_EDGES,
    groups=(
        Group({"temperature": 1.0}, NEXT_CASES),
        Group({"temperature": 0.5}, NEXT_CASES[:2] + NEXT_CASES[3:5]),
        Group({"temperature": 2.0}, NEXT_CASES[1:2]),
    ),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------- token_entropies


def spread(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    def at(logits: list[Dual]) -> Dual:
        scaled = [steps["scale"](z, settings["temperature"]) for z in logits]
        return dual(steps["result"](steps["entropy"](scaled), len(logits)))

    return {"entropies": [[at(logits) for logits in row] for row in inputs["logits"]]}


def unguarded_entropy(logits: list[Dual]) -> Dual:
    return -total(exp(p) * p for p in core.log_softmax(logits, 1))


def summed_squares(logits: list[Dual]) -> Dual:
    """Another measure of spread: 1 - sum_v pi(v)^2."""
    return 1 - total(exp(p) * exp(p) for p in core.log_softmax(logits, 1))


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
TOKEN_ENTROPIES = Objective(
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
        "entropy": lambda logits: core.entropy(logits, 1),
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

OBJECTIVES = [COMPLETION_MASK, NEXT_TOKEN_MASK, NEXT_TOKEN_LOG_PROBS, TOKEN_LOG_PROBS, TOKEN_ENTROPIES]
