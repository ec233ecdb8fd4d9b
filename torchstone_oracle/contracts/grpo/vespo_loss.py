"""vespo_loss: a smooth weight of the completion's ratio."""

from __future__ import annotations

from collections.abc import Sequence

from ... import grpo
from ...contract import Alternative, Argument, Flag, Group, Objective, Setting, Step
from ...numbers import Dual, bounded_exp, dual, exp, stop, total
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Row, Settings, chosen, without
from .gspo_loss import GSPO_CASES, gspo_ratio


def product(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """log W, the sum over the completion, at every token of it."""
    return [total(chosen(log_ratios, marks))] * len(log_ratios)


def vespo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    side = "negative" if a < 0 else "positive"
    return grpo.vespo(log_prob, u, a, settings[f"k_{side}"], settings[f"lambda_{side}"])


def vespo_with(change: Step) -> Step:
    """change((k, lambda) of the token's side, of the other side) -> (k, lambda)"""

    def surrogate(log_prob: Dual, u: Dual, a: Dual, s: Settings) -> Dual:
        good, bad = (s["k_positive"], s["lambda_positive"]), (s["k_negative"], s["lambda_negative"])
        k, lam = change(bad, good) if a < 0 else change(good, bad)
        return grpo.vespo(log_prob, u, a, k, lam)

    return surrogate


def vespo_with_gradient(log_prob: Dual, u: Dual, a: Dual, s: Settings) -> Dual:
    side = "negative" if a < 0 else "positive"
    weight = exp(dual(s[f"k_{side}"]) * u + dual(s[f"lambda_{side}"]) * (1 - bounded_exp(u)))
    return -weight * a * log_prob


VESPO_ALTERNATIVES = {
    "sides_swapped": Alternative(
        Flag("bug", "The numbers for good and bad completions have changed places.", "Stale bad samples weigh more."),
        {"surrogate": vespo_with(lambda own, other: other)},
    ),
    "k_and_lambda_swapped": Alternative(
        Flag("bug", "k and lambda have changed places.", "The weight is largest away from where it should be."),
        {"surrogate": vespo_with(lambda own, other: (own[1], own[0]))},
    ),
    "one_side": Alternative(
        Flag("bug", "The positive numbers are used for bad completions too.", "The weights are no longer asymmetric."),
        {"surrogate": lambda p, u, a, s: grpo.vespo(p, u, a, s["k_positive"], s["lambda_positive"])},
    ),
    "weight_not_detached": Alternative(
        Flag(
            "bug",
            "The gradient flows through the weight too.",
            "A term of no meaning, which grows with the length, is added to the gradient.",
            pitfalls=("C22",),
        ),
        {"surrogate": vespo_with_gradient},
    ),
    "ratio_as_weight": Alternative(
        Flag("variant", "The product of ratios itself as the weight.", "Its variance grows with every token."),
        {"surrogate": lambda p, u, a, s: -stop(bounded_exp(u)) * a * p},
    ),
    "decay_missing": Alternative(
        Flag("bug", "W^k: the exponential is missing.", "The weight grows without bound."),
        {"surrogate": vespo_with(lambda own, other: (own[0], 0))},
    ),
    "not_one_on_policy": Alternative(
        Flag(
            "bug",
            "exp(-lambda W) in place of exp(lambda (1 - W)).",
            "On policy the step is exp(-lambda) of what it should be.",
        ),
        {
            "surrogate": lambda p, u, a, s: (
                vespo(p, u, a, s) * exp(-dual(s["lambda_negative" if a < 0 else "lambda_positive"]))
            )
        },
    ),
    "length_normalised": Alternative(
        Flag(
            "bug",
            "W is the geometric mean of the ratios, as in GSPO.",
            "Stale completions keep nearly their full weight.",
        ),
        {"level": gspo_ratio},
    ),
    "token_weight": Alternative(
        Flag("bug", "Each token has a weight of its own ratio.", "Stale completions keep most of their weight."),
        {"level": policy.each_token},
    ),
    "sum_over_padding": Alternative(
        Flag("bug", "W takes in the padding.", "The weight depends on what lies in the padding.", pitfalls=("C36",)),
        {"level": lambda us, advantages, marks, s: [total(us)] * len(us)},
    ),
}
OBJECTIVE = Objective(
    name="vespo_loss",
    about="A smooth weight of the whole completion's ratio times log pi, summed over a completion, averaged over them.",
    tags=("GRPO.12", "CORE.7"),
    source=("Shen et al., VESPO, arXiv:2602.10693v3, eq. 20",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": policy.reduction("sequence_sum"),
        "k_positive": Setting("the power of W, A >= 0", (2.0,), free=True),
        "lambda_positive": Setting("the decay in W, A >= 0", (3.0,), free=True),
        "k_negative": Setting("the power of W, A < 0", (3.0,), free=True),
        "lambda_negative": Setting("the decay in W, A < 0", (2.0,), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"level": product, "surrogate": vespo},
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_sum"),
        **without(policy_reductions.BUGS, "plain_sum"),
        **without(policy_ratios.RATIO, "old_one_later"),
        **without(policy_ratios.ADVANTAGES, "negated_advantages"),
        **VESPO_ALTERNATIVES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {
                "reduce": "sequence_sum",
                "k_positive": 2.0,
                "lambda_positive": 3.0,
                "k_negative": 3.0,
                "lambda_negative": 2.0,
            },
            (*policy_cases.NEAR_CASES, *GSPO_CASES),
        ),
        Group(
            {
                "reduce": "sequence_sum",
                "k_positive": 1.0,
                "lambda_positive": 0.5,
                "k_negative": 0.75,
                "lambda_negative": 1.5,
            },
            policy_cases.few(False)[:3],
        ),
    ),
)
