"""jsd_top_k: the divergence on k tokens, and what is made of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import distill
from ...contract import Argument, Flag, Group, Objective, Setting
from ...numbers import Dual, exp, maximum, total
from ..shared import divergences as shared
from ..shared.common import (
    INF,
    MILES_31F1CA9,
    NEMO_RL_7EA279A,
    TRL_1_16_0,
    VERL_0_9_1,
    Settings,
    Steps,
    bug,
    variant,
    without,
)
from ..shared.divergence_alternatives import ALTERNATIVES
from ..shared.divergences import distributions

Logs = list[Dual]


def keep(policy: Logs, teacher: Logs, settings: Settings, steps: Steps) -> tuple[Logs, Logs]:
    """The k tokens of each, and the rest as the settings say."""
    kept, kept_of_teacher = steps["kept"](policy, teacher, settings)
    return (
        steps["rest"](policy, kept, settings["rest"]),
        steps["rest_of_teacher"](teacher, kept_of_teacher, settings["rest"]),
    )


def likeliest(policy: Logs, teacher: Logs, settings: Settings, more: int = 0) -> tuple[list[int], list[int]]:
    kept = distill.likeliest(teacher if settings["of"] == "teacher" else policy, int(settings["k"]) + more)
    return kept, kept


def each_its_own(policy: Logs, teacher: Logs, settings: Settings) -> tuple[list[int], list[int]]:
    return distill.likeliest(policy, settings["k"]), distill.likeliest(teacher, settings["k"])


def least_likely(policy: Logs, teacher: Logs, settings: Settings) -> tuple[list[int], list[int]]:
    chooser = teacher if settings["of"] == "teacher" else policy
    kept = distill.likeliest([-x for x in chooser], settings["k"])
    return kept, kept


def rest(logs: Logs, kept: Sequence[int], name: str) -> list[Dual]:
    return distill.RESTS[name](logs, kept)


def renormalised(logs: Logs, kept: Sequence[int], name: str) -> list[Dual]:
    return distill.renormalised(logs, kept) if name == "drop" else rest(logs, kept, name)


def renormalised_weights(p: Logs, q: Logs) -> Dual:
    """The weights sum to 1 over the k; the log-ratios are those of the whole vocabulary."""
    whole = total(exp(a) for a in p)
    return total(exp(a) / whole * (a - b) for a, b in zip(p, q, strict=True) if exp(a) > 0)


TOP_K = {
    "tail": variant(
        "All other tokens count as one more, in both distributions.",
        "The nearest to the whole vocabulary: mass that leaves the k tokens is seen.",
        settings={"rest": "tail"},
        links=(TRL_1_16_0,),
    ),
    "renormalise": variant(
        "Both are rescaled to sum 1 over the k tokens.",
        "How much mass the policy has on the k tokens is not seen: it may wander off to others unpunished.",
        settings={"rest": "renormalise"},
        links=(TRL_1_16_0, NEMO_RL_7EA279A),
    ),
    "drop": variant(
        "The other tokens are left out, and nothing else is changed.",
        "Not a divergence: it can be below 0, and its minimum is not where the two agree.",
        settings={"rest": "drop"},
        links=(VERL_0_9_1,),
    ),
    "k_of_the_teacher": variant(
        "The k tokens are the teacher's likeliest.",
        "What the policy alone finds likely is seen through the rest only.",
        settings={"of": "teacher"},
        links=(VERL_0_9_1,),
    ),
    "k_of_the_policy": variant(
        "The k tokens are the policy's likeliest.",
        "What the teacher alone finds likely is seen through the rest only.",
        settings={"of": "policy"},
        links=(TRL_1_16_0,),
    ),
    "k_ignored": variant(
        "The whole vocabulary is used: k has no effect.",
        "Right, and as slow and large as it was before.",
        {"kept": lambda p, t, s: (list(range(len(p))), list(range(len(p))))},
    ),
    "one_token_less": bug("k - 1 tokens.", "The rest is larger than it need be.",
                          {"kept": lambda p, t, s: likeliest(p, t, s, -1)}),
    "one_token_more": bug("k + 1 tokens.", "Two runs with the same k are not the same.",
                          {"kept": lambda p, t, s: likeliest(p, t, s, 1)}),
    "least_likely": bug("The k least likely tokens.", "Nothing of what is ever said is learnt.",
                        {"kept": least_likely}),
    "each_its_own_tokens": bug(
        "Each takes its own k tokens: the gather of one at the other's indices is missing.",
        "Probabilities of different tokens are compared.",
        {"kept": each_its_own},
        pitfalls=("C55",),
    ),
    "policy_renormalised_alone": bug(
        "With the rest left out, the policy is rescaled over the k tokens and the teacher is not.",
        "The two do not sum to the same: there is a gradient where they agree.",
        {"rest": renormalised},
    ),
    "teacher_renormalised_alone": bug(
        "With the rest left out, the teacher is rescaled over the k tokens and the policy is not.",
        "The policy is pushed to give all its mass to the k tokens.",
        {"rest_of_teacher": renormalised},
        links=(NEMO_RL_7EA279A,),
    ),
    "weights_renormalised": variant(
        "The weights are rescaled to sum 1 over the k tokens; the log-ratios are not.",
        "Each position weighs by the mass that it leaves out.",
        {"kl": renormalised_weights},
        links=(MILES_31F1CA9,),
    ),
    "clamped_at_0": variant(
        "A divergence below 0, as with the rest left out, is set to 0.",
        "No gradient in just these positions, where the policy has more mass on the k tokens than the teacher.",
        {"result": lambda value, size, tau: maximum(value, 0)},
        pitfalls=("C80",),
        links=(VERL_0_9_1, "https://github.com/verl-project/verl/issues/7856"),
    ),
}  # fmt: skip
SHARED = without(
    ALTERNATIVES, "ends_exchanged", "always_half", "kl_weights_missing", "policy_term_missing", "teacher_term_missing",
    "mixture_at_half", "mixture_of_logits", "softmax_twice_of_teacher", "teacher_not_normalised", "times_temperature",
    "teacher_one_earlier", "teacher_of_another_row", "mean_square_of_logits", "mean_square_of_log_probs",
)  # fmt: skip

CASES = (
    distributions("the two agree on one of three", [[[2.0, 0.5, -1.0, 0.25]]], [[[0.5, 1.75, 1.0, -0.5]]]),
    distributions("the two agree on one of two", [[[0.25, 1.0, -2.0, 0.5]]], [[[1.0, 0.5, -0.75, 1.75]]]),
    distributions("the policy has more mass on the teacher's tokens", [[[-1.5, 2.0, 0.75, 0.0]]],
                  [[[1.0, 1.5, 1.25, 0.5]]]),
)  # fmt: skip
LESS_MASS = distributions(
    "the policy has less mass on its own tokens", CASES[2].inputs["teacher_logits"], CASES[2].inputs["logits"]
)
SEVERAL = (
    distributions("two positions", [[[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]]], [[[1.0, 0.25, 0.5], [-1.0, 1.5, 0.75]]]),
    distributions("two rows of two", shared.SQUARE_LOGITS, shared.SQUARE_TEACHER, "rows_equal_columns"),
)
NEITHER = distributions("a token that neither can choose", [[[0.5, -INF, 2.0, 1.0]]], [[[1.0, -INF, 0.5, -0.5]]],
                        "minus_inf_logits")  # fmt: skip
NOT_POLICY = distributions("a token of the teacher's that the policy cannot choose", [[[0.5, -INF, 2.0, 1.0]]],
                           [[[0.25, 1.5, 0.5, -0.5]]], "minus_inf_logits")  # fmt: skip
EVERY = distributions(
    "the k tokens are the whole vocabulary", CASES[0].inputs["logits"], CASES[0].inputs["teacher_logits"], "empty_tail"
)
EXTREME = distributions("logits of 96", [[[96.0, 95.0, 94.0]]], [[[-96.0, -97.0, -95.0]]], "extreme_logits")


def choices(k: int, of: str, rest: str, beta: float, temperature: float = 1.0) -> dict[str, Any]:
    return {"k": k, "of": of, "rest": rest, "beta": beta, "temperature": temperature}


OBJECTIVE = Objective(
    name="jsd_top_k",
    about="jsd_exact on the k tokens that the teacher, or the policy, finds likeliest, with the rest as one more "
    "token, rescaled away, or left out.",
    tags=("DISTILL.3", "DISTILL.2"),
    source=(*shared.SOURCE, "the k tokens and the rest: as TRL 1.16.0 and verl 0.9.1 have them"),
    arguments=shared.ARGUMENTS,
    returns={"jsd": Argument("B T", "nats; with the rest left out it may be below 0")},
    settings={
        "k": Setting("How many tokens.", (2, 1, 3), free=True),
        "of": Setting("Whose likeliest tokens; their indices are constants.", ("teacher", "policy"), free=True),
        "rest": Setting("What is made of the other tokens.", ("tail", "renormalise", "drop"), free=True),
        "beta": shared.BETA,
        "temperature": shared.TEMPERATURE,
    },
    compute=shared.every_position,
    steps=shared.STEPS | {"keep": keep, "kept": likeliest, "rest": rest, "rest_of_teacher": rest},
    alternatives={**SHARED, **TOP_K},
    edges=shared.DIVERGENCE_EDGES | {
        "empty_tail": Flag(
            "edge",
            "The k tokens are the whole vocabulary: the rest has probability 0, and adds exactly 0.",
            "1 minus a sum that rounds to 1, or above it: its logarithm is -inf or NaN.",
        )
    },
    groups=(
        *(
            Group(choices(2, of, rest, beta), (*CASES, LESS_MASS) if (rest, beta) == ("drop", 1.0) else CASES)
            for of in ("teacher", "policy")
            for rest in ("tail", "renormalise", "drop")
            for beta in (0.5, 0.0, 1.0)
        ),
        Group(choices(2, "teacher", "tail", 0.5), (*SEVERAL, NEITHER, NOT_POLICY, EXTREME)),
        Group(choices(2, "policy", "renormalise", 0.9), (*SEVERAL, NEITHER)),
        Group(choices(2, "teacher", "drop", 0.1), (*SEVERAL[:1], NEITHER, NOT_POLICY)),
        Group(choices(1, "teacher", "drop", 0.0), CASES[:2]),
        Group(choices(1, "policy", "tail", 1.0), CASES[:2]),
        Group(choices(3, "policy", "drop", 0.5), CASES[:2]),
        Group(choices(3, "teacher", "renormalise", 1.0), CASES[:2]),
        Group(choices(4, "teacher", "tail", 0.5), (EVERY,)),
        Group(choices(4, "policy", "renormalise", 0.0), CASES[:1]),
        Group(choices(4, "teacher", "drop", 1.0), CASES[:1]),
        Group(choices(2, "teacher", "tail", 0.0, 2.0), CASES[:2]),
        Group(choices(2, "policy", "renormalise", 1.0, 2.0), CASES[:2]),
        Group(choices(2, "teacher", "drop", 0.5, 0.5), CASES[:2]),
    ),
)  # fmt: skip
