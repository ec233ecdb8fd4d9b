"""What came after GRPO: other ratios, other surrogates, other KL terms, and who counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import core, grpo, ppo
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, absolute, bounded_exp, clip, dual, exp, log, maximum, mean, minimum, sigmoid, stop, total
from .common import CONSTANT_LOG_PROBS, EDGES, INF, MASK, NAN, full, hidden
from .policy import (
    ADVANTAGES,
    ARGUMENTS,
    KL,
    LEVELS,
    LOSS,
    LOSS_NEGATED,
    NEAR_CASES,
    OPEN_INSTRUCT,
    POLICY_EDGES,
    RATIO,
    REDUCE_BUGS,
    REDUCE_VARIANTS,
    SEQUENCE_MEAN,
    STEPS,
    SURROGATES,
    TIGHT_EPSILON,
    TIGHT_EPSILON_HIGH,
    VERL,
    WITHOUT_REFERENCE,
    Marks,
    Matrix,
    Row,
    Settings,
    advantage,
    case,
    chosen,
    each_token,
    entries,
    few_cases,
    plus,
    policy_loss,
    reduction,
    reversed_k3,
    unmasked_level,
    usual_cases,
    without,
)

# -------------------------------------------------------------------------------------------------- another ratio: GSPO


def arithmetic_mean_ratio(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    return [log(mean([bounded_exp(u) for u in chosen(log_ratios, marks)] or [dual(1)]))] * len(log_ratios)


def gspo_ratio(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """One log-ratio a sequence, at every token of it    (GRPO.4)"""
    return [grpo.sequence_log_ratio(chosen(log_ratios, marks))] * len(log_ratios)


GSPO_LEVELS = {
    "token_ratio": Alternative(
        Flag(
            "variant",
            "Every token keeps its own ratio (GRPO).",
            "Tokens are clipped one by one, and the rest of the completion goes on.",
            ("https://arxiv.org/abs/2402.03300",),
        ),
        {"level": each_token},
    ),
    "sequence_product": LEVELS["sequence_product"],
    "mean_over_padding": Alternative(
        Flag(
            "bug",
            "The mean of log-ratios is taken over the padded row.",
            "The ratio of a short completion depends on what lies in its padding.",
            pitfalls=("C36",),
        ),
        {"level": unmasked_level},
    ),
    "mask_multiplied": Alternative(
        REDUCE_BUGS["mask_multiplied"].flag,
        {
            "level": lambda us, advantages, marks, settings: (
                [total(u * int(m) for u, m in zip(us, marks, strict=True)) / max(1, sum(marks))] * len(us)
            )
        },
    ),
    "arithmetic_mean_ratio": Alternative(
        Flag(
            "bug",
            "The mean of the ratios in place of the geometric mean.",
            "One outlier decides whether the whole completion is clipped.",
        ),
        {"level": arithmetic_mean_ratio},
    ),
    "detached_ratio": Alternative(
        Flag(
            "bug",
            "The sequence's ratio carries no gradient.",
            "The loss looks right, and the policy does not learn.",
            pitfalls=("C22",),
        ),
        {"level": lambda u, a, marks, settings: [stop(x) for x in gspo_ratio(u, a, marks, settings)]},
    ),
}
SEQUENCES_OLD = [[-1.5, -0.5], [-0.75, -2.0], [-1.0, -0.25], [-0.5, -1.25]]
GSPO_CASES = (
    case(
        "sequence ratios above and below the clip, good and bad rows",
        plus(SEQUENCES_OLD, [[0.75, 0.25], [-0.5, -0.125], [0.625, -0.0625], [0.125, -0.75]]),
        SEQUENCES_OLD,
        [1.0, 0.5, -0.75, -1.0],
        full(4, 2),
        "every_side_of_the_clip",
    ),
    case(
        "sequence ratios inside the clip, tokens outside",
        plus(SEQUENCES_OLD[:2], [[0.5, -0.375], [-0.625, 0.5]]),
        SEQUENCES_OLD[:2],
        [1.0, -0.5],
        full(2, 2),
    ),
)
TINY = 1 / 4096
GSPO_TINY = (
    case(
        "the published clip: every side of it",
        plus(SEQUENCES_OLD, [[3 * TINY, TINY], [-4 * TINY, 0.0], [4 * TINY, 2 * TINY], [-TINY, -5 * TINY]]),
        SEQUENCES_OLD,
        [1.0, 0.5, -0.75, -1.0],
        full(4, 2),
        "every_side_of_the_clip",
    ),
    case(
        "inside the published clip",
        plus(SEQUENCES_OLD[:2], [[3 * TINY, -TINY], [-TINY, 0.0]]),
        SEQUENCES_OLD[:2],
        [1.0, -0.5],
        full(2, 2),
    ),
)
GSPO_SURROGATES = without(
    SURROGATES,
    "absolute_upper_bound",
    "clip_in_nats",
    "no_ratio",
    "detached_surrogate",
    "advantage_rescaled_between_branches",
)
GSPO_LOSS = Objective(
    name="gspo_loss",
    about="PPO's clip on one ratio a completion, the geometric mean of its tokens', averaged over completions.",
    tags=("GRPO.4", "PPO.8", "CORE.6"),
    source=("Zheng et al., GSPO, arXiv:2507.18071v2, eq. 5 and 7",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": LOSS},
    settings={"reduce": reduction("sequence_mean"), "epsilon": TIGHT_EPSILON, "epsilon_high": TIGHT_EPSILON_HIGH},
    compute=policy_loss,
    steps=STEPS | {"level": gspo_ratio},
    alternatives={
        **without(REDUCE_VARIANTS, "sequence_mean"),
        **without(REDUCE_BUGS, "mask_multiplied"),
        **without(RATIO, "old_one_later"),
        **GSPO_LEVELS,
        **without(ADVANTAGES, "whitened_advantages"),
        **GSPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.28}, (*usual_cases(False), *GSPO_CASES)),
        Group({"reduce": "sequence_mean", "epsilon": 3e-4, "epsilon_high": 4e-4}, (*GSPO_TINY, *few_cases(False)[1:])),
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None}, GSPO_CASES),
    ),
)

# --------------------------------------------------------------------------------------------- another surrogate: CISPO


def cispo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return grpo.cispo(log_prob, u, a, settings["epsilon"], settings["epsilon_high"], settings["cap"])


def cispo_with(**changed: Any) -> Step:
    """The same with settings read in another way; a function is given all settings and returns the new value."""

    def surrogate(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
        return cispo(log_prob, u, a, {**settings, **{k: f(settings) for k, f in changed.items()}})

    return surrogate


def cispo_weight(u: Dual, settings: Settings) -> Dual:
    """The bounded ratio, with its slope."""
    low = dual("-inf") if settings["epsilon"] is None else 1 - dual(settings["epsilon"])
    high = dual(settings["cap"]) if settings["epsilon_high"] is None else 1 + dual(settings["epsilon_high"])
    return clip(bounded_exp(u), low, high)


def cispo_without_log_prob(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -stop(cispo_weight(u, settings)) * a


def cispo_with_gradient(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -cispo_weight(u, settings) * a * log_prob


def cispo_ratio_only(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -cispo_weight(u, settings) * a


def cispo_dropping(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    """Nothing of a token that PPO's minimum would clip."""
    weight = cispo_weight(u, settings)
    dropped = (a > 0 and weight < bounded_exp(u)) or (a < 0 and weight > bounded_exp(u))
    return dual(0) if dropped else cispo(log_prob, u, a, settings)


def cispo_as_ppo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u) * a, cispo_weight(u, settings) * a)


CISPO_SURROGATES = {
    "log_prob_missing": Alternative(
        Flag(
            "bug",
            "The weight is a constant, and log pi is not there: no gradient at all.",
            "The loss looks right, and the policy does not learn.",
            (f"{OPEN_INSTRUCT}/pull/1269",),
            ("C22",),
        ),
        {"surrogate": cispo_without_log_prob},
    ),
    "weight_not_detached": Alternative(
        Flag(
            "bug",
            "The gradient flows through the weight too.",
            "Each token's step is multiplied by 1 + log pi: it changes sign for tokens rarer than 1 / e.",
            (f"{OPEN_INSTRUCT}/pull/1269",),
            ("C22",),
        ),
        {"surrogate": cispo_with_gradient},
    ),
    "clipped_ratio_only": Alternative(
        Flag(
            "bug",
            "The clipped ratio with its own gradient, and no log pi.",
            "Tokens out of range have no gradient: what CISPO was made to avoid.",
            ("https://arxiv.org/abs/2506.13585",),
            ("C22",),
        ),
        {"surrogate": cispo_ratio_only},
    ),
    "ppo_clip": Alternative(
        Flag(
            "variant",
            "PPO's minimum of both branches, with the same bounds.",
            "Tokens that went far in the wanted direction lose their gradient.",
            ("https://arxiv.org/abs/1707.06347",),
        ),
        {"surrogate": cispo_as_ppo},
    ),
    "clipped_tokens_dropped": Alternative(
        Flag(
            "variant",
            "Tokens that PPO would clip are masked (MiniMax-M1, eq. 6 and 7).",
            "The gradient is PPO's, not CISPO's.",
            ("https://arxiv.org/abs/2506.13585",),
        ),
        {"surrogate": cispo_dropping},
    ),
    "unbounded_weight": Alternative(
        Flag("variant", "The ratio is a weight without a bound.", "One stale token can outweigh the batch."),
        {"surrogate": cispo_with(epsilon=lambda s: None, epsilon_high=lambda s: None, cap=lambda s: "inf")},
    ),
    "bound_read_the_other_way": Alternative(
        Flag(
            "bug",
            "The number is read as a distance from 1 where the bound itself is meant, or the reverse.",
            "With 0.2 as the bound itself every token weighs at most a fifth; with 5 as a distance the cap is 6.",
            ("https://github.com/NovaSky-AI/SkyRL/issues/1928",),
            ("C23", "R17"),
        ),
        {"surrogate": cispo_with(epsilon_high=lambda s: s["cap"], cap=lambda s: s["epsilon_high"])},
    ),
    "lower_bound_added": Alternative(
        Flag(
            "variant",
            "The weight has a lower bound of 0.8, which MiniMax-M1 leaves out (verl).",
            "Tokens that have become rare keep a large weight.",
            (VERL,),
            ("C23",),
        ),
        {"surrogate": cispo_with(epsilon=lambda s: 0.2)},
    ),
    "lower_bound_missing": Alternative(
        Flag(
            "variant",
            "The weight has no lower bound.",
            "Tokens that have become rare count for less.",
            ("https://arxiv.org/abs/2506.13585",),
            ("C23",),
        ),
        {"surrogate": cispo_with(epsilon=lambda s: None)},
    ),
}
SPREAD_OLD = [[-3.0, -1.0, -1.5, -0.75, -2.0], [-2.5, -0.5, -1.25, -1.0, -2.0]]
SPREAD = plus(SPREAD_OLD, [[-2.25, -0.375, 0.0, 0.25, 1.75], [-2.25, -0.375, 0.0, 0.25, 1.75]])
WIDE = case(
    "ratios from 0.1 to 6, a good and a bad row", SPREAD, SPREAD_OLD, [1.0, -0.5], full(2, 5), "every_side_of_the_clip"
)
CISPO_LOSS = Objective(
    name="cispo_loss",
    about="The bounded ratio is a constant weight of log pi: no token loses its gradient.",
    tags=("GRPO.8", "GRPO.9"),
    source=("MiniMax-M1, arXiv:2506.13585v1, eq. 4 and 5",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": reduction("token_mean", free=True),
        "epsilon": Setting("the lower bound is 1 - epsilon; None: no lower bound", (None, 0.2), free=True),
        "epsilon_high": Setting("the upper bound is 1 + epsilon_high; this or cap", (0.2, None)),
        "cap": Setting("the upper bound itself; this or epsilon_high", (None, 5.0)),
    },
    compute=policy_loss,
    steps=STEPS | {"surrogate": cispo},
    alternatives={
        **REDUCE_BUGS,
        **RATIO,
        **LEVELS,
        **without(ADVANTAGES, "negated_advantages"),
        **CISPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "token_mean", "epsilon": None, "epsilon_high": 0.2, "cap": None}, (*usual_cases(False), WIDE)),
        Group(
            {"reduce": "token_mean", "epsilon": None, "epsilon_high": None, "cap": 5.0}, (*few_cases(False)[:2], WIDE)
        ),
        Group(
            {"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": 0.2, "cap": None}, (*few_cases(False)[:3], WIDE)
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": None, "epsilon_high": 0.2, "cap": None}, (few_cases(False)[2], WIDE)
        ),
        Group(
            {"reduce": "sequence_sum", "epsilon": None, "epsilon_high": 0.2, "cap": None}, (few_cases(False)[2], WIDE)
        ),
    ),
)

# ---------------------------------------------------------------------------------------------- another surrogate: SAPO


def sapo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return grpo.sapo(u, a, settings["tau_positive"], settings["tau_negative"])


def tau(a: Dual, settings: Settings) -> Dual:
    return dual(settings["tau_positive"] if a > 0 else settings["tau_negative"])


SAPO_SURROGATES = {
    "advantages_missing": Alternative(
        Flag(
            "bug",
            "The gate is not multiplied by the advantage.",
            "Every token counts as good: the policy reinforces whatever it sampled.",
            ("https://github.com/unslothai/unsloth-zoo/pull/869",),
            ("C29",),
        ),
        {"surrogate": lambda p, u, a, s: sapo(p, u, dual(1), s)},
    ),
    "tau_swapped": Alternative(
        Flag(
            "bug", "The two temperatures have changed places.", "The gate closes faster for good tokens than for bad."
        ),
        {"surrogate": lambda p, u, a, s: grpo.sapo(u, a, s["tau_negative"], s["tau_positive"])},
    ),
    "one_tau": Alternative(
        Flag("variant", "One temperature, the positive one, for both signs.", "Bad tokens are gated more slowly."),
        {"surrogate": lambda p, u, a, s: grpo.sapo(u, a, s["tau_positive"], s["tau_positive"])},
    ),
    "not_scaled": Alternative(
        Flag("bug", "The factor 4 / tau is missing.", "The step is tau / 4 of what it should be: about a quarter."),
        {"surrogate": lambda p, u, a, s: sapo(p, u, a, s) * tau(a, s) / 4},
    ),
    "scaled_by_tau": Alternative(
        Flag("bug", "4 tau in place of 4 / tau.", "The step differs with the square of tau."),
        {"surrogate": lambda p, u, a, s: sapo(p, u, a, s) * tau(a, s) * tau(a, s)},
    ),
    "gate_of_the_ratio": Alternative(
        Flag(
            "bug", "sigmoid(tau r): the ratio is not compared with 1.", "The gate closes at ratio 0: always half shut."
        ),
        {"surrogate": lambda p, u, a, s: -(4 / tau(a, s)) * sigmoid(tau(a, s) * bounded_exp(u)) * a},
    ),
    "gate_of_the_log_ratio": Alternative(
        Flag(
            "bug",
            "sigmoid(tau log r): nats in place of ratio - 1.",
            "The gate is symmetric in nats: it stays open longer.",
        ),
        {"surrogate": lambda p, u, a, s: -(4 / tau(a, s)) * sigmoid(tau(a, s) * u) * a},
    ),
    "gate_as_weight": Alternative(
        Flag(
            "bug",
            "The gate's weight times the ratio, as a value: r 4 p (1 - p) A, differentiated once more.",
            "The gradient changes sign far from 1.",
        ),
        {
            "surrogate": lambda p, u, a, s: (
                -bounded_exp(u)
                * 4
                * sigmoid(tau(a, s) * (bounded_exp(u) - 1))
                * (1 - sigmoid(tau(a, s) * (bounded_exp(u) - 1)))
                * a
            )
        },
    ),
    "ppo_clip": Alternative(
        Flag("variant", "PPO's hard clip, epsilon 0.2.", "Tokens out of range lose their gradient at once."),
        {"surrogate": lambda p, u, a, s: ppo.clipped_surrogate(u, a, 0.2)},
    ),
    "no_clip": SURROGATES["no_clip"],
}
SAPO_LOSS = Objective(
    name="sapo_loss",
    about="A soft gate in place of the clip; row mean, then mean.",
    tags=("GRPO.10", "CORE.6"),
    source=("Gao et al., SAPO, arXiv:2511.20347v2, eq. 5 and 6",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": LOSS},
    settings={
        "reduce": reduction("sequence_mean"),
        "tau_positive": Setting("how fast the gate closes for good tokens", (1.0, 2.0), free=True),
        "tau_negative": Setting("how fast the gate closes for bad tokens", (1.05, 4.0), free=True),
    },
    compute=policy_loss,
    steps=STEPS | {"surrogate": sapo},
    alternatives={
        **without(REDUCE_VARIANTS, "sequence_mean"),
        **REDUCE_BUGS,
        **RATIO,
        **LEVELS,
        **without(ADVANTAGES, "negated_advantages", "mask_as_advantages"),
        **SAPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "tau_positive": 1.0, "tau_negative": 1.05}, (*NEAR_CASES, WIDE)),
        Group({"reduce": "sequence_mean", "tau_positive": 2.0, "tau_negative": 4.0}, few_cases(False)[:3]),
    ),
)

# ---------------------------------------------------------------------------------------------- another surrogate: GMPO


def gmpo_level(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """The mean of clipped log-ratios, at every token of the row    (GRPO.11)"""
    moved = grpo.gmpo_log_ratio(
        chosen(log_ratios, marks), chosen(advantages, marks), settings["epsilon"], settings["epsilon_high"]
    )
    return [moved] * len(log_ratios)


def gmpo_with(clipped: Step, combine: Step = mean) -> Step:
    """Another clip of a token's log-ratio, (u, a, low, high) -> c, or another way to combine the row's."""

    def level(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
        low, high = dual(settings["epsilon"]), dual(ppo.upper(settings["epsilon"], settings["epsilon_high"]))
        pairs = zip(chosen(log_ratios, marks), chosen(advantages, marks), strict=True)
        return [combine([clipped(u, a, low, high) for u, a in pairs])] * len(log_ratios)

    return level


def one_side(u: Dual, a: Dual, low: Dual, high: Dual) -> Dual:
    return minimum(u, high) if a > 0 else maximum(u, -low)


def after_the_mean(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    low, high = dual(settings["epsilon"]), dual(ppo.upper(settings["epsilon"], settings["epsilon_high"]))
    moved = mean(chosen(log_ratios, marks))
    return [one_side(moved, a, low, high) for a in advantages]


GMPO_LEVELS = {
    "clipped_on_both_sides": Alternative(
        Flag(
            "bug",
            "The log-ratio is clipped on both sides, whatever the advantage.",
            "A token that has gone the wrong way has no gradient, and never comes back.",
            ("https://arxiv.org/abs/2507.20673",),
        ),
        {"level": gmpo_with(lambda u, a, low, high: clip(u, -low, high))},
    ),
    "clipped_on_the_other_side": Alternative(
        Flag("bug", "The clip acts on the side that the advantage does not push to.", "The policy runs away."),
        {"level": gmpo_with(lambda u, a, low, high: maximum(u, -low) if a > 0 else minimum(u, high))},
    ),
    "not_clipped": Alternative(
        Flag("variant", "The geometric mean without a clip.", "Nothing stops a batch from carrying the policy away."),
        {"level": gmpo_with(lambda u, a, low, high: u)},
    ),
    "bounds_as_widths_of_the_ratio": Alternative(
        Flag(
            "bug",
            "epsilon is read as a distance of the ratio from 1: bounds 1 - epsilon and 1 + epsilon_high.",
            "The clip is tighter above and wider below than published: 1.4 in place of exp(0.4) = 1.49.",
            pitfalls=("C23",),
        ),
        {"level": gmpo_with(lambda u, a, low, high: minimum(u, log(1 + high)) if a > 0 else maximum(u, log(1 - low)))},
    ),
    "clipped_after_the_mean": Alternative(
        Flag(
            "bug",
            "The mean is clipped, not its terms.",
            "An outlier in a completion counts in full, or stops all of it.",
        ),
        {"level": after_the_mean},
    ),
    "product": Alternative(
        Flag("bug", "The product of ratios: the root is missing.", "Long completions outweigh all others, or vanish."),
        {"level": gmpo_with(one_side, total)},
    ),
    "token_ratio": Alternative(
        Flag("variant", "Every token keeps its own clipped ratio.", "Outliers weigh as in GRPO."),
        {
            "level": lambda us, advantages, marks, s: [
                one_side(u, a, dual(s["epsilon"]), dual(ppo.upper(s["epsilon"], s["epsilon_high"])))
                for u, a in zip(us, advantages, strict=True)
            ]
        },
    ),
    "mean_over_padding": GSPO_LEVELS["mean_over_padding"],
}
GMPO_LOSS = Objective(
    name="gmpo_loss",
    about="The geometric mean of a completion's clipped ratios, averaged over completions.",
    tags=("GRPO.11", "CORE.6"),
    source=("Zhao et al., GMPO, arXiv:2507.20673v3, eq. 4 and algorithm 1",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": LOSS},
    settings={
        "reduce": reduction("sequence_mean"),
        "epsilon": Setting("the lower bound of the log-ratio is -epsilon", (0.4,), free=True),
        "epsilon_high": Setting("its upper bound; epsilon if None", (None,), free=True),
    },
    compute=policy_loss,
    steps=STEPS | {"level": gmpo_level, "surrogate": lambda p, u, a, s: ppo.importance_surrogate(u, a)},
    alternatives={
        **without(REDUCE_VARIANTS, "sequence_mean"),
        **without(REDUCE_BUGS, "mask_multiplied"),
        **RATIO,
        **GMPO_LEVELS,
        **without(ADVANTAGES, "whitened_advantages"),
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "epsilon": 0.4, "epsilon_high": None}, usual_cases(False)),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.45}, (*few_cases(False)[:3], *GSPO_CASES[:1])
        ),
    ),
)

# --------------------------------------------------------------------------------------------- another surrogate: VESPO


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
        {"level": each_token},
    ),
    "sum_over_padding": Alternative(
        Flag("bug", "W takes in the padding.", "The weight depends on what lies in the padding.", pitfalls=("C36",)),
        {"level": lambda us, advantages, marks, s: [total(us)] * len(us)},
    ),
}
VESPO_LOSS = Objective(
    name="vespo_loss",
    about="A smooth weight of the whole completion's ratio times log pi, summed over a completion, averaged over them.",
    tags=("GRPO.12", "CORE.7"),
    source=("Shen et al., VESPO, arXiv:2602.10693v3, eq. 20",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": reduction("sequence_sum"),
        "k_positive": Setting("the power of W, A >= 0", (2.0,), free=True),
        "lambda_positive": Setting("the decay in W, A >= 0", (3.0,), free=True),
        "k_negative": Setting("the power of W, A < 0", (3.0,), free=True),
        "lambda_negative": Setting("the decay in W, A < 0", (2.0,), free=True),
    },
    compute=policy_loss,
    steps=STEPS | {"level": product, "surrogate": vespo},
    alternatives={
        **without(REDUCE_VARIANTS, "sequence_sum"),
        **without(REDUCE_BUGS, "plain_sum"),
        **without(RATIO, "old_one_later"),
        **without(ADVANTAGES, "negated_advantages"),
        **VESPO_ALTERNATIVES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group(
            {
                "reduce": "sequence_sum",
                "k_positive": 2.0,
                "lambda_positive": 3.0,
                "k_negative": 3.0,
                "lambda_negative": 2.0,
            },
            (*NEAR_CASES, *GSPO_CASES),
        ),
        Group(
            {
                "reduce": "sequence_sum",
                "k_positive": 1.0,
                "lambda_positive": 0.5,
                "k_negative": 0.5,
                "lambda_negative": 1.5,
            },
            few_cases(False)[:3],
        ),
    ),
)

# ---------------------------------------------------------------------------------------------- another surrogate: DPPO


def dppo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return grpo.dppo(
        log_prob, u, a, settings["divergence"], settings["epsilon"], settings["epsilon_high"], settings["cap"]
    )


def dppo_with(**changed: Any) -> Step:
    def surrogate(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
        return dppo(log_prob, u, a, {**settings, **{k: f(settings) for k, f in changed.items()}})

    return surrogate


def far_either_way(log_prob: Dual, u: Dual, a: Dual, s: Settings) -> Dual:
    """Dropped by distance alone."""
    p, q = stop(exp(log_prob)), stop(exp(log_prob - u))
    bound = ppo.upper(s["epsilon"], s["epsilon_high"]) if a > 0 else s["epsilon"]
    far = grpo.divergence(p, q, s["divergence"]) > dual(bound)
    return dual(0) if far else dppo(log_prob, u, a, s)


def dppo_by_ratio(log_prob: Dual, u: Dual, a: Dual, s: Settings) -> Dual:
    """The distance is |r - 1|: PPO's trust region."""
    ratio, high = bounded_exp(u), dual(ppo.upper(s["epsilon"], s["epsilon_high"]))
    dropped = ratio > 1 + high if a > 0 else ratio < 1 - dual(s["epsilon"])
    return dual(0) if dropped else -stop(minimum(ratio, dual(s["cap"]))) * a * log_prob


def dppo_with_ratio(log_prob: Dual, u: Dual, a: Dual, s: Settings) -> Dual:
    """-M r A, as printed: the value differs, the gradient is the same below the cap."""
    kept = not dppo(log_prob, u, dual(1) if a > 0 else dual(-1), s).same(0)
    return -minimum(bounded_exp(u), dual(s["cap"])) * a if kept else dual(0)


def unweighted(log_prob: Dual, u: Dual, a: Dual, s: Settings) -> Dual:
    return dual(0) if dppo(log_prob, u, a, s).same(0) else -a * log_prob


DPPO_SURROGATES = {
    "far_either_way": Alternative(
        Flag(
            "bug",
            "Tokens are dropped by distance alone, on their way back too.",
            "A token that went astray never returns.",
        ),
        {"surrogate": far_either_way},
    ),
    "nothing_dropped": Alternative(
        Flag(
            "variant", "No trust region: a capped weight alone (CISPO).", "Nothing stops a token that has gone too far."
        ),
        {"surrogate": lambda p, u, a, s: -stop(minimum(bounded_exp(u), dual(s["cap"]))) * a * p},
    ),
    "distance_of_the_ratio": Alternative(
        Flag(
            "variant",
            "The distance is |r - 1|: the trust region is PPO's.",
            "Rare tokens are stopped after a step that changes nothing.",
            ("https://arxiv.org/abs/1707.06347",),
        ),
        {"surrogate": dppo_by_ratio},
    ),
    "ratio_in_place_of_log_prob": Alternative(
        Flag(
            "variant",
            "-M r A, as the paper prints it: the same gradient, another value.",
            "None below the cap.",
            ("https://arxiv.org/abs/2602.04879",),
        ),
        {"surrogate": dppo_with_ratio},
    ),
    "other_divergence": Alternative(
        Flag(
            "variant",
            "KL where total variation is asked, or the reverse.",
            "The trust region has another shape and size.",
        ),
        {"surrogate": dppo_with(divergence=lambda s: "kl" if s["divergence"] == "tv" else "tv")},
    ),
    "cap_missing": Alternative(
        Flag("bug", "The weight has no cap.", "One stale token can outweigh the batch."),
        {"surrogate": dppo_with(cap=lambda s: "inf")},
    ),
    "bounds_swapped": Alternative(
        Flag("bug", "epsilon and epsilon_high have changed places.", "The room for good tokens is given to bad ones."),
        {
            "surrogate": dppo_with(
                epsilon=lambda s: ppo.upper(s["epsilon"], s["epsilon_high"]), epsilon_high=lambda s: s["epsilon"]
            )
        },
    ),
    "weight_missing": Alternative(
        Flag("bug", "The ratio is not there as a weight.", "Nothing corrects for the policy that sampled."),
        {"surrogate": unweighted},
    ),
}
DPPO_OLD = [[-6.0, -0.75, -2.0, -3.0], [-5.0, -0.5, -1.0, -2.5]]
DPPO_CASE = case(
    "rare tokens may move by a large factor, common ones may not",
    plus(DPPO_OLD, [[2.5, 0.5, -0.25, 1.5], [-1.5, -0.75, 0.5, 1.0]]),
    DPPO_OLD,
    [1.0, -0.75],
    full(2, 4),
    "every_side_of_the_clip",
)
DPPO_LOSS = Objective(
    name="dppo_loss",
    about="The trust region is drawn around a token's probability; a bounded weight of log pi, summed over rows.",
    tags=("GRPO.13", "CORE.7"),
    source=("Qi et al., DPPO (binary forms), arXiv:2602.04879v3, eq. 12 to 14; the cap as in verl 0.9.1",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": reduction("sequence_sum"),
        "divergence": Setting("tv: total variation; kl", ("tv", "kl")),
        "epsilon": Setting("how far a token may be lowered, in units of the divergence", (0.2, 0.15), free=True),
        "epsilon_high": Setting("how far it may be raised; epsilon if None", (None,), free=True),
        "cap": Setting("bound of the ratio as a weight", (20.0, 3.0), free=True),
    },
    compute=policy_loss,
    steps=STEPS | {"surrogate": dppo},
    alternatives={
        **without(REDUCE_VARIANTS, "sequence_sum"),
        **REDUCE_BUGS,
        **RATIO,
        **without(ADVANTAGES, "negated_advantages"),
        **DPPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "sequence_sum", "divergence": "tv", "epsilon": 0.2, "epsilon_high": None, "cap": 20.0},
            (*usual_cases(False), DPPO_CASE),
        ),
        Group(
            {"reduce": "sequence_sum", "divergence": "tv", "epsilon": 0.125, "epsilon_high": 0.25, "cap": 3.0},
            (*few_cases(False)[:3], DPPO_CASE),
        ),
        Group(
            {"reduce": "sequence_sum", "divergence": "kl", "epsilon": 0.05, "epsilon_high": None, "cap": 20.0},
            (*few_cases(False)[:3], DPPO_CASE),
        ),
    ),
)

# ---------------------------------------------------------------------------------------- log-ratios of whole sequences


def row_log_ratios(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    for new, old, marks in zip(inputs["log_probs"], inputs["old_log_probs"], inputs["mask"], strict=True):
        own = [ppo.log_ratio(p, q) if m else dual(0) for p, q, m in zip(new, old, marks, strict=True)]
        whole = steps["whole"](chosen(own, marks), marks)
        result.append([steps["place"](whole, u, settings) if m else None for u, m in zip(own, marks, strict=True)])
    return {"log_ratios": result}


def gspo_place(whole: Dual, own: Dual, settings: Settings) -> Dual:
    """(GRPO.4), or with ``token_gradient`` (GRPO.5), of which only the gradient differs."""
    return grpo.sequence_log_ratio_of_token(whole, own) if settings["token_gradient"] else whole


ROW_INPUTS = {k: a for k, a in WITHOUT_REFERENCE.items() if k != "advantages"}


def row_cases(kept: Sequence[str], cases: Sequence[Case]) -> tuple[Case, ...]:
    """The usual cases with fewer arguments; far ones are ordinary here."""
    return tuple(
        Case(c.comment, {k: v for k, v in c.inputs.items() if k in kept}, tuple(f for f in c.flags if f in EDGES))
        for c in cases
        if c.result == "valid"
    )


SEQUENCE_LOG_RATIOS = Objective(
    name="sequence_log_ratios",
    about="One log-ratio a completion, the mean of its tokens', at every token of it.",
    tags=("GRPO.4", "GRPO.5"),
    source=("Zheng et al., GSPO, arXiv:2507.18071v2, eq. 7 and 14",),
    arguments=ROW_INPUTS,
    returns={"log_ratios": Argument("B T", "nats a token")},
    settings={"token_gradient": Setting("False: GSPO; True: GSPO-token, each token moves its own term", (False, True))},
    compute=row_log_ratios,
    steps={"whole": lambda us, marks: grpo.sequence_log_ratio(us), "place": gspo_place},
    alternatives={
        "sum": Alternative(
            Flag("bug", "The sum of log-ratios: not divided by the length.", "Long completions are always clipped."),
            {"whole": lambda us, marks: total(us)},
        ),
        "padded_length": Alternative(
            Flag(
                "bug",
                "Divided by the padded width.",
                "The ratio of a short completion is pulled towards 1.",
                (),
                ("C06",),
            ),
            {"whole": lambda us, marks: total(us) / len(marks)},
        ),
        "arithmetic_mean": Alternative(
            Flag("bug", "The log of the mean ratio.", "One outlier decides for the whole completion."),
            {"whole": lambda us, marks: log(mean([bounded_exp(u) for u in us] or [dual(1)]))},
        ),
        "last_token": Alternative(
            Flag("bug", "The last token's log-ratio for all.", "One token decides for the whole completion."),
            {"whole": lambda us, marks: us[-1] if us else dual(0)},
        ),
        "inverted_ratio": Alternative(
            Flag("bug", "log pi_old - log pi.", "Good completions are made rarer."),
            {"whole": lambda us, marks: -mean(us), "place": lambda whole, own, s: whole},
        ),
        "token_ratio": Alternative(
            Flag("variant", "Every token keeps its own log-ratio (GRPO).", "Tokens are clipped one by one."),
            {"place": lambda whole, own, s: own},
        ),
        "detached": Alternative(
            Flag("bug", "No gradient flows.", "The policy does not learn.", pitfalls=("C22",)),
            {"place": lambda whole, own, s: stop(whole)},
        ),
    },
    edges=EDGES,
    groups=(
        Group({"token_gradient": False}, row_cases(tuple(ROW_INPUTS), usual_cases(False))),
        Group({"token_gradient": True}, row_cases(tuple(ROW_INPUTS), usual_cases(False)[:6])),
    ),
)

# --------------------------------------------------------------------------------------------------- rewards and groups


def penalties(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    most, cache = settings["max_length"], settings["cache"]
    return {"penalties": [[steps["penalty"](n, most, cache) for n in row] for row in inputs["lengths"]]}


OVERLONG_PENALTIES = Objective(
    name="overlong_penalties",
    about="A penalty that grows from 0 to -1 over the last tokens before the longest completion allowed.",
    tags=("GRPO.6",),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 13",),
    arguments={"lengths": Argument("P G", "tokens")},
    returns={"penalties": Argument("P G", "reward")},
    settings={
        "max_length": Setting("L_max, the longest completion allowed", (20480,)),
        "cache": Setting("L_cache, the last tokens before it", (4096,)),
    },
    compute=penalties,
    steps={"penalty": grpo.overlong_penalty},
    alternatives={
        "no_floor": Alternative(
            Flag("bug", "Not bounded at -1.", "One runaway completion ruins its group."),
            {"penalty": lambda n, most, cache: minimum((most - cache - n) / cache, dual(0))},
        ),
        "no_ceiling": Alternative(
            Flag("bug", "Short completions get a bonus: not bounded at 0.", "The policy learns to say nothing."),
            {"penalty": lambda n, most, cache: maximum((most - cache - n) / cache, dual(-1))},
        ),
        "positive": Alternative(
            Flag("bug", "The penalty's sign is flipped.", "The policy is paid for rambling to the limit."),
            {"penalty": lambda n, most, cache: -grpo.overlong_penalty(n, most, cache)},
        ),
        "after_the_limit": Alternative(
            Flag(
                "bug",
                "The slope starts at max_length in place of max_length - cache.",
                "What generation cuts off is never punished.",
            ),
            {"penalty": lambda n, most, cache: clip((most - n) / cache, -1, 0)},
        ),
        "hard": Alternative(
            Flag("variant", "-1 from max_length on, no slope.", "Reward noise: a token more or less is worth 1."),
            {"penalty": lambda n, most, cache: dual(-1) if n >= most else dual(0)},
        ),
        "divided_by_max_length": Alternative(
            Flag("bug", "The slope is over max_length.", "The penalty at the limit is far from -1."),
            {"penalty": lambda n, most, cache: clip((most - cache - n) / most, -1, 0)},
        ),
        "gentle": Alternative(
            Flag(
                "variant",
                "A slope of 0.3 and no floor (LUSPO).",
                "The penalty at the limit is -0.3.",
                ("https://arxiv.org/abs/2602.05261",),
            ),
            {"penalty": lambda n, most, cache: minimum((most - cache - n) / cache * dual("0.3"), dual(0))},
        ),
    },
    edges={"at_the_bounds": Flag("edge", "Lengths exactly at the ends of the slope.", "Off by one token.")},
    groups=(
        Group(
            {"max_length": 20480, "cache": 4096},
            (
                Case(
                    "around the published limits",
                    {"lengths": [[100.0, 16384.0, 18432.0], [20480.0, 20481.0, 24576.0]]},
                    ("at_the_bounds",),
                ),
                Case("on the slope", {"lengths": [[16385.0, 17408.0, 19456.0, 20479.0]]}),
            ),
        ),
        Group(
            {"max_length": 16, "cache": 4},
            (
                Case(
                    "small enough to check by hand",
                    {"lengths": [[1.0, 12.0, 13.0, 14.0], [15.0, 16.0, 17.0, 20.0]]},
                    ("at_the_bounds",),
                ),
                Case("short ones", {"lengths": [[0.0, 2.0], [8.0, 11.0]]}),
            ),
        ),
        Group(
            {"max_length": 8, "cache": 8}, (Case("the slope starts at once", {"lengths": [[0.0, 1.0, 4.0, 8.0, 9.0]]}),)
        ),
    ),
)


def kept_groups(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    rewards = inputs["rewards"]
    scored = inputs.get("scored") or [[True] * len(row) for row in rewards]
    return {"keep": [bool(steps["keep"](steps["members"](*row))) for row in zip(rewards, scored, strict=True)]}


NOT_MIXED = "Prompts that teach nothing stay in the batch, or prompts that teach are thrown away."
MIXED_GROUPS = Objective(
    name="mixed_groups",
    about="Which prompts' groups hold more than one reward.",
    tags=("GRPO.7",),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 11",),
    arguments={
        "rewards": Argument("P G", "reward"),
        "scored": Argument("P G", "False where a completion could not be scored", kind="bool"),
    },
    returns={"keep": Argument("P", "True for the groups to keep")},
    settings={},
    compute=kept_groups,
    steps={"members": chosen, "keep": grpo.is_mixed},
    alternatives={
        "inverted": Alternative(
            Flag("bug", "True for the groups to drop.", NOT_MIXED, pitfalls=("C44",)),
            {"keep": lambda rs: not grpo.is_mixed(rs)},
        ),
        "any_success": Alternative(
            Flag("bug", "Only groups without any reward above 0 are dropped.", NOT_MIXED),
            {"keep": lambda rs: any(r > 0 for r in rs)},
        ),
        "any_failure": Alternative(
            Flag("bug", "Only groups whose rewards are all 1 are dropped.", NOT_MIXED),
            {"keep": lambda rs: any(r < 1 for r in rs)},
        ),
        "right_and_wrong": Alternative(
            Flag(
                "variant",
                "Counts right answers, 0 < right < G: for rewards of 0 and 1 only.",
                "Groups that differ in partial credit are dropped.",
                ("https://arxiv.org/abs/2503.14476",),
            ),
            {"keep": lambda rs: 0 < sum(r.same(1) for r in rs) < len(rs)},
        ),
        "unscored_as_zero": Alternative(
            Flag("bug", "An unscored completion counts as reward 0.", NOT_MIXED, pitfalls=("C53",)),
            {"members": lambda row, on: [r if m else dual(0) for r, m in zip(row, on, strict=True)]},
        ),
        "unscored_not_left_out": Alternative(
            Flag("bug", "The NaN of an unscored completion differs from everything.", NOT_MIXED, pitfalls=("C53",)),
            {"members": lambda row, on: row},
        ),
    },
    edges={
        "unscored": Flag("edge", "Completions without a reward.", NOT_MIXED, pitfalls=("C53",)),
        "equal_rewards": Flag("edge", "Groups whose rewards are all equal.", NOT_MIXED, pitfalls=("C44",)),
    },
    groups=(
        Group(
            {},
            (
                Case("0 and 1", {"rewards": [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]}, ("equal_rewards",)),
                Case("partial credit", {"rewards": [[0.25, 0.5], [0.5, 0.5], [-1.0, 2.0]]}, ("equal_rewards",)),
                Case(
                    "0.1 eight times, and all but once", {"rewards": [[0.1] * 8, [0.1] * 7 + [0.2]]}, ("equal_rewards",)
                ),
                Case(
                    "some not scored",
                    {
                        "rewards": [[1.0, NAN, 0.0], [1.0, NAN, 1.0], [NAN, NAN, NAN], [0.5, 0.25, NAN]],
                        "scored": [[True, False, True], [True, False, True], [False] * 3, [True, True, False]],
                    },
                    ("unscored",),
                ),
            ),
        ),
    ),
)

# ----------------------------------------------------------------------------------------------- another KL in the loss


def kl_per_token(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    for b, marks in enumerate(inputs["mask"]):
        row: list[Dual | None] = []
        for t, m in enumerate(marks):
            p, q = inputs["log_probs"][b][t], inputs["ref_log_probs"][b][t]
            old = inputs["old_log_probs"][b][t] if "old_log_probs" in inputs else p
            row.append(steps["kl"](p, q, steps["log_ratio"](p, old)) if m else None)
        result.append(row)
    return {"kl": result}


KL_RIGHT = {
    "kl_k3_with_k2_gradient": lambda p, q, u: grpo.k3_with_k2_gradient(p, q),
    "ratio_weighted_kl": lambda p, q, u: grpo.ratio_weighted_kl(p, u, q),
}
PLAIN_K3 = Alternative(
    Flag(
        "variant",
        "k3 alone.",
        "Its gradient is that of KL(reference || policy), and on samples of an older policy its value is biased.",
        ("http://joschu.net/blog/kl-approx.html", "https://arxiv.org/abs/2512.02556"),
        ("C33", "R02"),
    ),
    {"kl": lambda p, q, u: core.k3(p, q)},
)
KL_K3_WITH_K2_GRADIENT = Objective(
    name="kl_k3_with_k2_gradient",
    about="The value of k3 with the gradient of k2.",
    tags=("GRPO.14",),
    source=("KL.2 and KL.3; verl 0.9.1 names it k3+",),
    arguments={k: ARGUMENTS[k] for k in ("log_probs", "ref_log_probs", "mask")},
    returns={"kl": Argument("B T", "nats")},
    settings={},
    compute=kl_per_token,
    steps={"kl": KL_RIGHT["kl_k3_with_k2_gradient"], "log_ratio": ppo.log_ratio},
    alternatives={
        "k3": PLAIN_K3,
        "k2": KL["k2"],
        "value_of_both": Alternative(
            Flag("bug", "sg[k3] + k2: k2's value is not taken away.", "The reported KL is the sum of two."),
            {"kl": lambda p, q, u: stop(core.k3(p, q)) + core.k2(p, q)},
        ),
        "k2_with_k3_gradient": Alternative(
            Flag("bug", "The other way round: k2's value, k3's gradient.", "The pull is k3's, the report k2's."),
            {"kl": lambda p, q, u: stop(core.k2(p, q)) + core.k3(p, q) - stop(core.k3(p, q))},
        ),
        "detached": KL["kl_detached"],
        "reversed_kl": Alternative(
            KL["reversed_kl"].flag,
            {"kl": lambda p, q, u: stop(reversed_k3(p, q, u)) + core.k2(p, q) - stop(core.k2(p, q))},
        ),
    },
    edges=EDGES,
    groups=(Group({}, row_cases(("log_probs", "ref_log_probs", "mask"), usual_cases(True))),),
)
RATIO_WEIGHTED_KL = Objective(
    name="ratio_weighted_kl",
    about="k3 times the ratio to the policy that sampled, with gradient through both.",
    tags=("GRPO.15",),
    source=("DeepSeek-AI, DeepSeek-V3.2, arXiv:2512.02556v1, eq. 7",),
    arguments={k: ARGUMENTS[k] for k in ("log_probs", "old_log_probs", "ref_log_probs", "mask")},
    returns={"kl": Argument("B T", "nats")},
    settings={},
    compute=kl_per_token,
    steps={"kl": KL_RIGHT["ratio_weighted_kl"], "log_ratio": ppo.log_ratio},
    alternatives={
        "k3": PLAIN_K3,
        "ratio_detached": Alternative(
            Flag(
                "bug",
                "The ratio is a constant weight.",
                "The gradient is that of KL(reference || policy), as for plain k3.",
                ("https://arxiv.org/abs/2512.02556",),
                ("C33",),
            ),
            {"kl": lambda p, q, u: stop(bounded_exp(u)) * core.k3(p, q)},
        ),
        "only_the_ratio_moves": Alternative(
            Flag("bug", "k3 is a constant.", "Half of the gradient is missing.", pitfalls=("C33",)),
            {"kl": lambda p, q, u: bounded_exp(u) * stop(core.k3(p, q))},
        ),
        "inverted_ratio": Alternative(
            Flag("bug", "pi_old / pi in place of pi / pi_old.", "Tokens that have become likelier are held back less."),
            {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)},
        ),
        "k1_weighted": Alternative(
            Flag(
                "variant",
                "The ratio times k1 (open-instruct's estimator 3).",
                "The same expectation and gradient on average, and noisier.",
                (OPEN_INSTRUCT,),
            ),
            {"kl": lambda p, q, u: bounded_exp(u) * core.k1(p, q)},
        ),
        "reversed_kl": Alternative(
            KL["reversed_kl"].flag, {"kl": lambda p, q, u: bounded_exp(u) * reversed_k3(p, q, u)}
        ),
        "detached": KL["kl_detached"],
    },
    edges=EDGES,
    groups=(Group({}, row_cases(("log_probs", "old_log_probs", "ref_log_probs", "mask"), usual_cases(True))),),
)

# ----------------------------------------------------------------------------------------------------------- who counts


def weights_of_rows(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    for b, marks in enumerate(inputs["mask"]):
        own = [
            stop(steps["log_ratio"](p, q)) if m else dual(0)
            for p, q, m in zip(inputs["log_probs"][b], inputs["old_log_probs"][b], marks, strict=True)
        ]
        row: list[Dual | None] = []
        for t, m in enumerate(marks):
            a = steps["advantage"](inputs, b, t)
            row.append(steps["weight"](steps["scope"](own, marks, t), a, settings["limit"]) if m else None)
        result.append(row)
    return {"weights": result}


OFF_POLICY_CASES = tuple(
    Case(
        comment,
        {"log_probs": plus(SEQUENCES_OLD, moved), "old_log_probs": SEQUENCES_OLD, "advantages": a, "mask": mask},
        flags,
    )
    for comment, moved, a, mask, flags in (
        (
            "far behind and near, good and bad",
            [[-1.0, -0.5], [-1.0, -0.25], [-0.25, -0.125], [1.0, 0.75]],
            [1.0, -0.5, -1.0, -0.25],
            full(4, 2),
            ("every_side_of_the_clip",),
        ),
        (
            "one token far behind, the row not",
            [[-1.5, 1.0], [-0.5, -0.25], [0.25, -2.0], [-1.0, -1.25]],
            [-1.0, -0.5, 0.75, 0.5],
            full(4, 2),
            (),
        ),
        ("on policy", [[0.0, 0.0]] * 4, [1.0, -0.5, -1.0, 0.25], full(4, 2), ("on_policy",)),
        (
            "ragged",
            [[-0.75, 4.0], [-0.25, -8.0], [-1.0, 0.0], [-1.5, -1.0]],
            [-1.0, -0.5, -0.25, 0.5],
            [[True, False], [True, False], [True, False], [True, True]],
            ("ragged_mask", "junk_under_mask"),
        ),
        (
            "NaN under the mask",
            [[-0.75, NAN], [-0.25, INF], [-1.0, 0.0], [NAN, -1.0]],
            [-1.0, -0.5, -0.25, -0.5],
            [[True, False], [True, False], [True, True], [False, True]],
            ("nan_under_mask", "gaps_in_mask"),
        ),
        (
            "an empty row",
            [[-0.75, -1.0], [-0.25, 0.5], [-1.0, 0.0], [-2.0, -1.0]],
            [-1.0, -0.5, -0.25, -0.5],
            [[True, True], [False, False], [True, True], [True, False]],
            ("empty_row",),
        ),
        (
            "no chosen token at all",
            [[-1.0, -1.0]] * 4,
            [-1.0, -0.5, -0.25, -0.5],
            [[False, False]] * 4,
            ("all_masked",),
        ),
    )
)

OFF_POLICY_WEIGHTS = Objective(
    name="off_policy_weights",
    about="0 for a bad completion that the policy has left too far behind, 1 for all others.",
    tags=("GRPO.16",),
    source=("DeepSeek-AI, DeepSeek-V3.2, arXiv:2512.02556v1, eq. 8 and 9",),
    arguments={
        **{k: CONSTANT_LOG_PROBS for k in ("log_probs", "old_log_probs")},
        "advantages": ARGUMENTS["advantages"],
        "mask": MASK,
    },
    returns={"weights": Argument("B T", "none")},
    settings={"limit": Setting("the mean distance that is allowed, in nats a token", (0.5, 0.125), free=True)},
    compute=weights_of_rows,
    steps={
        "log_ratio": ppo.log_ratio,
        "advantage": advantage,
        "scope": lambda own, marks, t: chosen(own, marks),
        "weight": grpo.off_policy_weight,
    },
    alternatives={
        "whatever_the_advantage": Alternative(
            Flag("bug", "Good completions are dropped too.", "The policy stops learning from what worked."),
            {"weight": lambda us, a, limit: grpo.off_policy_weight(us, dual(-1), limit)},
        ),
        "good_ones_dropped": Alternative(
            Flag("bug", "Good completions are dropped in place of bad ones.", "Stale bad samples stay, good ones go."),
            {"weight": lambda us, a, limit: grpo.off_policy_weight(us, -a, limit)},
        ),
        "reversed_distance": Alternative(
            Flag("bug", "log(pi / pi_old) in place of log(pi_old / pi).", "What has become likelier is dropped."),
            {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)},
        ),
        "absolute_distance": Alternative(
            Flag("bug", "The distance has no sign.", "Completions that have become likelier are dropped too."),
            {"weight": lambda us, a, limit: grpo.off_policy_weight([-absolute(mean(us))], a, limit)},
        ),
        "sum_of_the_row": Alternative(
            Flag("bug", "The sum in place of the mean.", "Long bad completions are never learned from."),
            {"weight": lambda us, a, limit: grpo.off_policy_weight([total(us)], a, limit)},
        ),
        "token_by_token": Alternative(
            Flag("variant", "Each token is judged by its own distance.", "Parts of a completion are dropped."),
            {"scope": lambda own, marks, t: [own[t]]},
        ),
        "mean_over_padding": Alternative(
            Flag("bug", "The mean is over the padded row.", "Short completions pass.", pitfalls=("C06",)),
            {"scope": lambda own, marks, t: own},
        ),
        "inverted": Alternative(
            Flag("bug", "1 where 0 is meant.", "Only stale bad samples are learned from."),
            {"weight": lambda us, a, limit: 1 - grpo.off_policy_weight(us, a, limit)},
        ),
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"limit": 0.5}, OFF_POLICY_CASES),
        Group({"limit": 0.125}, OFF_POLICY_CASES[:2]),
    ),
)


def mean_of_groups(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    return {"mean": steps["reduce"](inputs["x"], inputs["mask"], settings["group_size"], inputs.get("denominator"))}


def by_group(x: Matrix, marks: Marks, group_size: int, denominator: Dual | None) -> Dual:
    return grpo.group_token_mean(entries(x, marks), group_size, denominator)


def strided(x: Matrix, marks: Marks, group_size: int, denominator: Dual | None) -> Dual:
    """Rows p, p + P, p + 2 P, ... as one group."""
    prompts = len(x) // group_size
    order = [g * prompts + p for p in range(prompts) for g in range(group_size)]
    return by_group([x[i] for i in order], [marks[i] for i in order], group_size, denominator)


def all_groups_counted(x: Matrix, marks: Marks, group_size: int, denominator: Dual | None) -> Dual:
    return by_group(x, marks, group_size, dual(len(x) // group_size) if denominator is None else denominator)


X = [[1.0, -0.5, 0.25], [2.0, 0.75, -1.0], [0.5, 1.5, -0.25], [-2.0, 1.0, 0.125]]
X_MASK = [[True, True, True], [True, False, False], [True, True, False], [False, True, True]]
X_EMPTY = [[True, True, False], [False, False, True], [False] * 3, [False] * 3]
GROUP_TOKEN_MEAN = Objective(
    name="group_token_mean",
    about="The mean over the tokens of each prompt's group, then over prompts: DAPO and CISPO as printed.",
    tags=("GRPO.17",),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 8", "MiniMax-M1, arXiv:2506.13585v1, eq. 4"),
    arguments={
        "x": Argument("B T", "any", gradient=True),
        "mask": MASK,
        "denominator": Argument("", "groups in the whole batch"),
    },
    returns={"mean": Argument("", "that of x")},
    settings={"group_size": Setting("completions of each prompt", (2, 4))},
    compute=mean_of_groups,
    steps={"reduce": by_group},
    alternatives={
        "token_mean": Alternative(
            Flag(
                "variant",
                "The mean over all tokens of the batch (as frameworks take it).",
                "Prompts with long answers weigh more.",
                ("https://arxiv.org/abs/2503.14476",),
                ("C01",),
            ),
            {"reduce": lambda x, marks, g, n: core.token_mean(x, marks)},
        ),
        "sequence_mean": Alternative(SEQUENCE_MEAN, {"reduce": lambda x, marks, g, n: core.sequence_mean(x, marks)}),
        "sum_over_groups": Alternative(
            Flag("bug", "The means of the groups are added up.", "Twice the prompts is twice the step."),
            {"reduce": lambda x, marks, g, n: by_group(x, marks, g, dual(1))},
        ),
        "groups_interleaved": Alternative(
            Flag(
                "bug", "Row i belongs to prompt i mod P in place of i // G.", "Groups mix prompts.", pitfalls=("C41",)
            ),
            {"reduce": strided},
        ),
        "empty_groups_counted": Alternative(
            Flag("bug", "A group without a chosen token counts.", "All others are scaled down.", pitfalls=("C61",)),
            {"reduce": all_groups_counted},
        ),
        "denominator_ignored": Alternative(
            Flag(
                "bug",
                "Each micro-batch divides by its own groups.",
                "Micro-batches with few groups weigh more: the gradient depends on the split.",
                pitfalls=("C02", "C11"),
            ),
            {"reduce": lambda x, marks, g, n: by_group(x, marks, g, None)},
        ),
        "padding_counted": Alternative(
            Flag("bug", "Divided by group_size x padded width.", "Short groups weigh less.", pitfalls=("C06",)),
            {
                "reduce": lambda x, marks, g, n: (
                    total(v for row in entries(x, marks) for v in row)
                    / (g * len(x[0]))
                    / (sum(1 for i in range(0, len(x), g) if any(map(any, marks[i : i + g]))) if n is None else n)
                    if any(map(any, marks))
                    else dual(0)
                )
            },
        ),
    },
    edges=EDGES,
    groups=(
        Group(
            {"group_size": 2},
            (
                Case("two groups, all chosen", {"x": X, "mask": full(4, 3)}),
                Case("two groups of unequal length", {"x": X, "mask": X_MASK}, ("ragged_mask", "gaps_in_mask")),
                Case("a group without a chosen token", {"x": X, "mask": X_EMPTY}, ("empty_row", "ragged_mask")),
                Case(
                    "NaN under the mask",
                    {"x": hidden(X, X_MASK, NAN), "mask": X_MASK},
                    ("nan_under_mask", "gaps_in_mask"),
                ),
                Case("no chosen token at all", {"x": X, "mask": [[False] * 3] * 4}, ("all_masked",)),
                Case("half of a batch of 4 groups", {"x": X, "mask": X_MASK, "denominator": 4}, ("ragged_mask",)),
            ),
        ),
        Group({"group_size": 4}, (Case("one group", {"x": X, "mask": X_MASK}, ("ragged_mask", "gaps_in_mask")),)),
        Group(
            {"group_size": 1}, (Case("groups of one row", {"x": X, "mask": X_MASK}, ("ragged_mask", "gaps_in_mask")),)
        ),
    ),
)

OBJECTIVES: list[Objective] = [
    SEQUENCE_LOG_RATIOS,
    GSPO_LOSS,
    OVERLONG_PENALTIES,
    MIXED_GROUPS,
    CISPO_LOSS,
    SAPO_LOSS,
    GMPO_LOSS,
    VESPO_LOSS,
    DPPO_LOSS,
    KL_K3_WITH_K2_GRADIENT,
    RATIO_WEIGHTED_KL,
    OFF_POLICY_WEIGHTS,
    GROUP_TOKEN_MEAN,
]
