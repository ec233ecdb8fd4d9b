"""GRPO and what came after it: arguments, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import grpo, ppo
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, bounded_exp, clip, dual, exp, log, maximum, mean, minimum, mp, sigmoid, sqrt, stop, total
from .common import EDGES, NAN, full
from .policy import (
    ADVANTAGES,
    ARGUMENTS,
    BETA,
    BETWEEN_THE_BOUNDS,
    EPSILON,
    EPSILON_HIGH,
    KL,
    KL_METRIC,
    LEVELS,
    LOSS,
    LOSS_NEGATED,
    LENGTH_ONLY,
    METRICS,
    NEAR_CASES,
    OPEN_INSTRUCT,
    OPENRLHF,
    OUT_OF_RANGE,
    POLICY_EDGES,
    PRIME_RL,
    RATIO,
    REDUCE_BUGS,
    REDUCE_VARIANTS,
    RLHF_BOOK,
    STEPS,
    SURROGATES,
    TIGHT_EPSILON,
    TIGHT_EPSILON_HIGH,
    TRL,
    VERL,
    WITHOUT_REFERENCE,
    Marks,
    Matrix,
    Row,
    Settings,
    case,
    chosen,
    each_token,
    few_cases,
    policy_loss,
    no_ratio,
    plus,
    policy_loss_and_metrics,
    reduction,
    unmasked_level,
    usual_cases,
)

GRPO_LOSS = Objective(
    name="grpo_loss",
    about="PPO's clipped surrogate with one advantage a completion, plus beta times k3 to the reference: row mean, then mean.",
    tags=("GRPO.3", "PPO.8", "KL.3", "CORE.6"),
    source=("Shao et al., DeepSeekMath, arXiv:2402.03300v3, eq. 3 and 4",),
    arguments=ARGUMENTS,
    returns={"loss": LOSS, **METRICS, **KL_METRIC},
    metrics=(*METRICS, *KL_METRIC),
    settings={"reduce": reduction("sequence_mean"), "epsilon": EPSILON, "epsilon_high": EPSILON_HIGH, "beta": BETA},
    compute=policy_loss_and_metrics,
    steps=STEPS,
    alternatives={
        **{k: a for k, a in REDUCE_VARIANTS.items() if k != "sequence_mean"},
        **REDUCE_BUGS, **RATIO, **LEVELS, **ADVANTAGES, **SURROGATES, **KL,
        "loss_negated": LOSS_NEGATED, "counts_out_of_range": OUT_OF_RANGE,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None, "beta": 0.04}, usual_cases(True)),
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None, "beta": 0.0}, few_cases(False)),
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.1}, few_cases(True)),
        Group({"reduce": "sequence_mean", "epsilon": 0.1, "epsilon_high": None, "beta": 0.0}, few_cases(False)[:2]),
    ),
)

def without(alternatives: Mapping[str, Alternative], *names: str) -> dict[str, Alternative]:
    return {k: a for k, a in alternatives.items() if k not in names}


DAPO_LOSS = Objective(
    name="dapo_loss",
    about="The clipped surrogate with clip-higher and no KL, averaged over all tokens of the batch.",
    tags=("GRPO.3", "PPO.8", "CORE.5"),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 8 to 12 (token mean over the batch, as frameworks take it)",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": LOSS, **METRICS},
    metrics=tuple(METRICS),
    settings={"reduce": reduction("token_mean"), "epsilon": EPSILON, "epsilon_high": EPSILON_HIGH},
    compute=policy_loss_and_metrics,
    steps=STEPS,
    alternatives={
        **without(REDUCE_VARIANTS, "token_mean"),
        **without(REDUCE_BUGS, "empty_rows_counted", "row_loss_times_length"),
        **RATIO, **LEVELS, **ADVANTAGES, **SURROGATES,
        "loss_negated": LOSS_NEGATED, "counts_out_of_range": OUT_OF_RANGE,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": 0.28}, (*usual_cases(False), BETWEEN_THE_BOUNDS)),
        Group({"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": None}, few_cases(False)[:3]),
    ),
)

LENGTH = Setting("the constant that row sums are divided by, such as the longest completion allowed", (8, 16), free=True)
DR_GRPO_LOSS = Objective(
    name="dr_grpo_loss",
    about="The clipped surrogate with no KL; row sums over a constant length, then the mean over rows.",
    tags=("GRPO.3", "PPO.8", "CORE.8"),
    source=("Liu et al., Dr. GRPO, arXiv:2503.20783v2, section 3.2 and listing 1",),
    arguments=WITHOUT_REFERENCE,
    returns={"loss": LOSS, **METRICS},
    metrics=tuple(METRICS),
    settings={
        "reduce": reduction("fixed_length_mean"), "length": LENGTH, "epsilon": EPSILON, "epsilon_high": EPSILON_HIGH
    },
    compute=policy_loss_and_metrics,
    steps=STEPS,
    alternatives={
        **REDUCE_VARIANTS,
        **without(REDUCE_BUGS, "row_loss_times_length"),
        "length_only": LENGTH_ONLY,
        **RATIO, **LEVELS, **ADVANTAGES, **SURROGATES,
        "loss_negated": LOSS_NEGATED, "counts_out_of_range": OUT_OF_RANGE,
    },
    edges=POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "fixed_length_mean", "length": 8, "epsilon": 0.2, "epsilon_high": None}, usual_cases(False)
        ),
        Group(
            {"reduce": "fixed_length_mean", "length": 16, "epsilon": 0.2, "epsilon_high": 0.28}, few_cases(False)[:3]
        ),
    ),
)

# ------------------------------------------------------------------------------------------------- another ratio: GSPO


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
CORNERS = [True] * 2
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
    SURROGATES, "absolute_upper_bound", "clip_in_nats", "no_ratio", "detached_surrogate",
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
        **without(REDUCE_VARIANTS, "sequence_mean"), **REDUCE_BUGS, **without(RATIO, "old_one_later"), **GSPO_LEVELS,
        **without(ADVANTAGES, "whitened_advantages"), **GSPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.28}, (*usual_cases(False), *GSPO_CASES)),
        Group({"reduce": "sequence_mean", "epsilon": 3e-4, "epsilon_high": 4e-4}, (*GSPO_TINY, *few_cases(False)[1:])),
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None}, GSPO_CASES),
    ),
)

# ------------------------------------------------------------------------------------------- another surrogate: CISPO


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
    "no_ratio": Alternative(
        Flag(
            "variant",
            "-A log pi: REINFORCE, no weight.",
            "Nothing corrects for the policy that sampled.",
        ),
        {"surrogate": no_ratio},
    ),
    "bound_read_the_other_way": Alternative(
        Flag(
            "bug",
            "The number of the upper bound is read as a distance from 1 where the bound itself is meant, or the reverse.",
            "With 0.2 as the bound itself every token weighs at most a fifth; with 5 as a distance the cap is 6.",
            ("https://github.com/NovaSky-AI/SkyRL/issues/1928", "https://github.com/thinking-machines-lab/tinker/issues/763"),
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
        **REDUCE_BUGS, **RATIO, **LEVELS, **without(ADVANTAGES, "negated_advantages"), **CISPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "token_mean", "epsilon": None, "epsilon_high": 0.2, "cap": None}, (*usual_cases(False), WIDE)
        ),
        Group({"reduce": "token_mean", "epsilon": None, "epsilon_high": None, "cap": 5.0}, (*few_cases(False)[:2], WIDE)),
        Group({"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": 0.2, "cap": None}, (*few_cases(False)[:3], WIDE)),
        Group({"reduce": "sequence_mean", "epsilon": None, "epsilon_high": 0.2, "cap": None}, (few_cases(False)[2], WIDE)),
        Group({"reduce": "sequence_sum", "epsilon": None, "epsilon_high": 0.2, "cap": None}, (few_cases(False)[2], WIDE)),
    ),
)

# --------------------------------------------------------------------------------------------- another surrogate: SAPO


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
        Flag("bug", "The two temperatures have changed places.", "The gate closes faster for good tokens than for bad."),
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
        Flag("bug", "sigmoid(tau r): the ratio is not compared with 1.", "The gate closes at ratio 0: always half shut."),
        {"surrogate": lambda p, u, a, s: -(4 / tau(a, s)) * sigmoid(tau(a, s) * bounded_exp(u)) * a},
    ),
    "gate_of_the_log_ratio": Alternative(
        Flag("bug", "sigmoid(tau log r): nats in place of ratio - 1.", "The gate is symmetric in nats: it stays open longer."),
        {"surrogate": lambda p, u, a, s: -(4 / tau(a, s)) * sigmoid(tau(a, s) * u) * a},
    ),
    "gate_as_weight": Alternative(
        Flag(
            "bug",
            "The gate's weight times the ratio, as a value: r 4 p (1 - p) A, differentiated once more.",
            "The gradient changes sign far from 1.",
        ),
        {
            "surrogate": lambda p, u, a, s: -bounded_exp(u)
            * 4
            * sigmoid(tau(a, s) * (bounded_exp(u) - 1))
            * (1 - sigmoid(tau(a, s) * (bounded_exp(u) - 1)))
            * a
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
        **without(REDUCE_VARIANTS, "sequence_mean"), **REDUCE_BUGS, **RATIO, **LEVELS,
        **without(ADVANTAGES, "negated_advantages", "mask_as_advantages"), **SAPO_SURROGATES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "tau_positive": 1.0, "tau_negative": 1.05}, (*NEAR_CASES, WIDE)),
        Group({"reduce": "sequence_mean", "tau_positive": 2.0, "tau_negative": 4.0}, few_cases(False)[:3]),
    ),
)

# --------------------------------------------------------------------------------------------- another surrogate: GMPO


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
        Flag("bug", "The mean is clipped, not its terms.", "An outlier in a completion counts in full, or stops all of it."),
        {"level": after_the_mean},
    ),
    "product": Alternative(
        Flag("bug", "The product of ratios: the root is missing.", "Long completions outweigh all others, or vanish."),
        {"level": gmpo_with(one_side, total)},
    ),
    "arithmetic_mean": Alternative(
        Flag("variant", "The mean of clipped ratios in place of the geometric one.", "Outliers weigh as in GRPO."),
        {"level": gmpo_with(one_side, lambda us: log(mean([exp(u) for u in us] or [dual(1)])))},
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
        **without(REDUCE_VARIANTS, "sequence_mean"), **REDUCE_BUGS, **RATIO, **GMPO_LEVELS,
        **without(ADVANTAGES, "whitened_advantages"),
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "epsilon": 0.4, "epsilon_high": None}, usual_cases(False)),
        Group({"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.5}, (*few_cases(False)[:3], *GSPO_CASES[:1])),
    ),
)

# -------------------------------------------------------------------------------------------- another surrogate: VESPO


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
        Flag("bug", "exp(-lambda W) in place of exp(lambda (1 - W)).", "On policy the step is exp(-lambda) of what it should be."),
        {"surrogate": lambda p, u, a, s: vespo(p, u, a, s) * exp(-dual(s["lambda_negative" if a < 0 else "lambda_positive"]))},
    ),
    "length_normalised": Alternative(
        Flag("bug", "W is the geometric mean of the ratios, as in GSPO.", "Stale completions keep nearly their full weight."),
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
        **without(REDUCE_VARIANTS, "sequence_sum"), **without(REDUCE_BUGS, "plain_sum"), **without(RATIO, "old_one_later"),
        **without(ADVANTAGES, "negated_advantages"), **VESPO_ALTERNATIVES,
        "loss_negated": LOSS_NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "sequence_sum", "k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0},
            (*NEAR_CASES, *GSPO_CASES),
        ),
        Group(
            {"reduce": "sequence_sum", "k_positive": 1.0, "lambda_positive": 0.5, "k_negative": 0.5, "lambda_negative": 1.5},
            few_cases(False)[:3],
        ),
    ),
)

# --------------------------------------------------------------------------------------------- another surrogate: DPPO


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


DPPO_SURROGATES = {
    "far_either_way": Alternative(
        Flag("bug", "Tokens are dropped by distance alone, on their way back too.", "A token that went astray never returns."),
        {"surrogate": far_either_way},
    ),
    "nothing_dropped": Alternative(
        Flag("variant", "No trust region: a capped weight alone (CISPO).", "Nothing stops a token that has gone too far."),
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
        Flag("variant", "KL where total variation is asked, or the reverse.", "The trust region has another shape and size."),
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
        {"surrogate": dppo_with(cap=lambda s: s["cap"])},
    ),
}
DPPO_SURROGATES["weight_missing"] = Alternative(
    DPPO_SURROGATES["weight_missing"].flag,
    {"surrogate": lambda p, u, a, s: dual(0) if dppo(p, u, a, s).same(0) else -a * p},
)
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
    about="The trust region is drawn around a token's probability; a bounded weight times log pi, summed over a completion.",
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
        **without(REDUCE_VARIANTS, "sequence_sum"), **REDUCE_BUGS, **RATIO,
        **without(ADVANTAGES, "negated_advantages"), **DPPO_SURROGATES, "no_ratio": SURROGATES["no_ratio"],
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

# ------------------------------------------------------------------------------------------------------ group advantages


def advantages_of_groups(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The advantage of every sample, from the statistics of its group's scored rewards."""
    rewards = inputs["rewards"]
    scored = inputs.get("scored") or [[True] * len(row) for row in rewards]
    result = []
    for p, row in enumerate(rewards):
        counted = group(rewards, scored, p, 0)
        if all(r.same(counted[0]) for r in counted):
            result.append([dual(0)] * len(row))
            continue
        advantages = []
        for g, r in enumerate(row):
            baseline = steps["baseline"](rewards, scored, p, g)
            spread = steps["deviation"](rewards, scored, p, g, settings["correction"])
            if not steps["divides"](settings["divide_by_std"]):
                advantage = r - baseline
            else:
                advantage = steps["quotient"](r, baseline, spread, settings["eps"])
            advantages.append(stop(advantage) if scored[p][g] else dual(0))
        result.append(advantages)
    return {"advantages": result}


def group(rewards: Matrix, scored: Marks, p: int, g: int) -> Row:
    """The scored rewards of the sample's own prompt."""
    return chosen(rewards[p], scored[p])


def group_mean(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return mean(group(rewards, scored, p, g))


def group_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return grpo.deviation(group(rewards, scored, p, g), correction)


ADVANTAGE_STEPS: dict[str, Step] = {
    "baseline": group_mean,
    "deviation": group_deviation,
    "divides": lambda asked: asked,
    "quotient": lambda r, baseline, spread, eps: (r - baseline) / (spread + dual(eps)),
}


def everything(rewards: Matrix, scored: Marks, p: int, g: int) -> Row:
    return [r for row, on in zip(rewards, scored, strict=True) for r in chosen(row, on)]


def batch_mean(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return mean(everything(rewards, scored, p, g))


def batch_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return grpo.deviation(everything(rewards, scored, p, g), correction)


def column(rewards: Matrix, scored: Marks, p: int, g: int) -> Row:
    """The g-th sample of every prompt."""
    return [row[g] for row, on in zip(rewards, scored, strict=True) if on[g]]


def column_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return grpo.deviation(column(rewards, scored, p, g), correction)


def first_group_mean(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return group_mean(rewards, scored, 0, g)


def first_group_deviation(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return group_deviation(rewards, scored, 0, g, correction)


def mean_of_the_others(rewards: Matrix, scored: Marks, p: int, g: int) -> Dual:
    return mean([r for i, r in enumerate(rewards[p]) if scored[p][i] and i != g])


def all_members(rewards: Matrix, p: int) -> Row:
    """The unscored ones too, with reward 0."""
    return [dual(0) if mp.isnan(r.value) else r for r in rewards[p]]


def variance(rewards: Matrix, scored: Marks, p: int, g: int, correction: int) -> Dual:
    spread = group_deviation(rewards, scored, p, g, correction)
    return spread * spread


GROUP_ALTERNATIVES = {
    "not_divided": Alternative(
        Flag(
            "variant",
            "r - mean, whatever is asked (Dr. GRPO).",
            "Prompts of mixed difficulty weigh by the spread of their rewards.",
            ("https://arxiv.org/abs/2503.20783",),
        ),
        {"divides": lambda asked: False},
    ),
    "always_divided": Alternative(
        Flag(
            "bug",
            "Divided by the deviation, whatever is asked.",
            "Nearly hopeless and nearly solved prompts weigh more, which was to be avoided.",
            (f"{TRL}/pull/3992",),
            ("C40",),
        ),
        {"divides": lambda asked: True},
    ),
    "condition_inverted": Alternative(
        Flag(
            "bug",
            "Divided when not asked, and not divided when asked.",
            "The run is the other algorithm than its configuration says.",
            (f"{TRL}/pull/3992", f"{PRIME_RL}/pull/1188"),
            ("C40",),
        ),
        {"divides": lambda asked: not asked},
    ),
    "precedence": Alternative(
        Flag(
            "bug",
            "r - mean / (std + eps): parentheses are missing.",
            "Rewards are not centred: the group's mean is only scaled.",
            (f"{PRIME_RL}/pull/390",),
            ("C39",),
        ),
        {"quotient": lambda r, baseline, spread, eps: r - baseline / (spread + dual(eps))},
    ),
    "eps_inside_the_root": Alternative(
        Flag(
            "variant",
            "sqrt(variance + eps).",
            "With an eps of 1e-4 groups of little spread are held back more.",
        ),
        {"quotient": lambda r, baseline, spread, eps: (r - baseline) / sqrt(spread * spread + dual(eps))},
    ),
    "variance_as_deviation": Alternative(
        Flag("bug", "The root is missing.", "Groups of little spread weigh far too much.", pitfalls=("C41",)),
        {"deviation": variance},
    ),
    "batch_deviation": Alternative(
        Flag(
            "variant",
            "The group's mean, and the deviation of the whole batch (TRL's scale_rewards=batch).",
            "Easy and hard prompts keep their weight relative to one another.",
            (TRL,),
        ),
        {"deviation": batch_deviation},
    ),
    "batch_mean": Alternative(
        Flag(
            "bug",
            "The mean of the whole batch, and the group's deviation.",
            "Every sample of an easy prompt counts as good, every one of a hard prompt as bad.",
            (f"{PRIME_RL}/pull/1188",),
            ("C41",),
        ),
        {"baseline": batch_mean},
    ),
    "whole_batch": Alternative(
        Flag(
            "bug",
            "Mean and deviation of the whole batch.",
            "Every sample of an easy prompt counts as good, every one of a hard prompt as bad.",
            ("https://github.com/ServiceNow/PipelineRL/issues/54",),
            ("C41",),
        ),
        {"baseline": batch_mean, "deviation": batch_deviation},
    ),
    "statistics_of_columns": Alternative(
        Flag(
            "bug",
            "Groups are columns: rewards were reshaped to [G P].",
            "Completions are compared with those of other prompts.",
            pitfalls=("C41",),
        ),
        {"baseline": lambda *at: mean(column(*at)), "deviation": column_deviation},
    ),
    "statistics_of_the_first_group": Alternative(
        Flag(
            "bug",
            "The first group's mean and deviation are used for all.",
            "All other prompts are compared with the first one.",
            pitfalls=("C41",),
        ),
        {"baseline": first_group_mean, "deviation": first_group_deviation},
    ),
    "no_mean": Alternative(
        Flag("bug", "The mean is not subtracted.", "With 0/1 rewards nothing is ever pushed down."),
        {"baseline": lambda *at: dual(0)},
    ),
    "leave_one_out": Alternative(
        Flag(
            "variant",
            "The baseline is the mean of the other samples (RLOO).",
            "G / (G - 1) times as large: the expected gradient is the true one.",
            ("https://arxiv.org/abs/2402.14740",),
        ),
        {"baseline": mean_of_the_others},
    ),
    "unscored_as_zero": Alternative(
        Flag(
            "bug",
            "A completion that could not be scored enters the statistics with reward 0.",
            "The baseline sinks whenever the checker fails, and mediocre completions look good.",
            (f"{TRL}/pull/5353",),
            ("C53",),
        ),
        {
            "baseline": lambda rewards, scored, p, g: mean(all_members(rewards, p)),
            "deviation": lambda rewards, scored, p, g, correction: grpo.deviation(all_members(rewards, p), correction),
        },
    ),
    "unscored_not_left_out": Alternative(
        Flag(
            "bug",
            "The NaN of a completion that could not be scored enters its group's statistics.",
            "The whole group, and with it the update, turns into NaN.",
            (f"{TRL}/pull/5353",),
            ("C53",),
        ),
        {
            "baseline": lambda rewards, scored, p, g: mean(rewards[p]),
            "deviation": lambda rewards, scored, p, g, correction: grpo.deviation(rewards[p], correction),
        },
    ),
    "negated": Alternative(
        Flag("bug", "mean - r.", "What was rewarded is unlearned."),
        {
            "quotient": lambda r, baseline, spread, eps: (baseline - r) / (spread + dual(eps)),
        },
    ),
}


def rewards_case(comment: str, rewards: Any, *flags: str, scored: Any = None, **more: Any) -> Case:
    return Case(comment, {"rewards": rewards, **({} if scored is None else {"scored": scored})}, flags, **more)


def constant(value: float, size: int) -> list[list[float]]:
    return [[value] * size]


TIGHT = {"float32": "1e-6"}
MIXED = (
    rewards_case("one right answer in four", [[1.0, 0.0, 0.0, 0.0]], "one_right_in_four"),
    rewards_case("two prompts of different difficulty", [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]], "two_prompts"),
    rewards_case("two prompts of different scale", [[0.5, -0.25, 1.0, 0.125], [4.0, 8.0, 2.0, 6.0]], "two_prompts"),
)
REWARD_CASES = (
    *MIXED,
    rewards_case("as many prompts as samples", [[0.5, 1.0, 0.0], [2.0, -1.0, 0.25], [0.0, 0.75, 0.5]], "rows_equal_columns"),
    rewards_case("two samples", [[1.0, 0.25], [0.0, -0.5], [0.5, 0.75]]),
    rewards_case("a group of equal rewards between two others", [[1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.25, 0.0]], "equal_rewards"),
    rewards_case(
        "one sample could not be scored",
        [[1.0, NAN, 0.0, 0.5], [0.25, 1.0, 0.0, 0.0]],
        "unscored",
        scored=[[True, False, True, True], [True, True, True, True]],
    ),
    rewards_case(
        "a group with one scored sample, a group with none, an equal group",
        [[NAN, 0.75, NAN], [NAN, NAN, NAN], [0.5, NAN, 0.5], [1.0, 0.0, NAN]],
        "unscored",
        scored=[[False, True, False], [False, False, False], [True, False, True], [True, True, False]],
    ),
    rewards_case("a group of one", [[0.75], [0.25]], "group_of_one", result="invalid"),
)
TIES = tuple(
    rewards_case(f"{size} rewards of {value:.4g}", constant(value, size), "equal_rewards", "float_ties", tolerance=TIGHT)
    for value in (0.1, 0.7, 1 / 3)
    for size in (8, 12)
)
GROUP_EDGES = {
    "one_right_in_four": Flag(
        "edge",
        "[1, 0, 0, 0]: 1.5 with n - 1 and 1.732 with n, before eps.",
        "Two programs that both divide by the deviation differ by 15% in their step.",
        pitfalls=("R19",),
    ),
    "two_prompts": Flag(
        "edge",
        "Groups of different mean and spread.",
        "Whose statistics are used shows only here.",
        pitfalls=("C41",),
    ),
    "equal_rewards": Flag(
        "edge",
        "A group whose rewards are all equal: it teaches nothing, and its advantages are 0.",
        "0 / 0 gives NaN where eps is 0.",
        pitfalls=("C42", "C44"),
    ),
    "float_ties": Flag(
        "edge",
        "Equal rewards whose float32 mean is not exactly one of them, such as 8 times 0.1.",
        "A rounding error divided by a small eps: a random push of all samples of the group, in one direction.",
        (OPENRLHF, VERL, RLHF_BOOK),
        ("C42", "R03"),
    ),
    "unscored": Flag(
        "edge",
        "Completions without a reward: advantage 0, and no part in any statistic.",
        "NaN spreads over the group, or a failing checker biases the baseline.",
        (f"{TRL}/pull/5353",),
        ("C53",),
    ),
    "group_of_one": Flag(
        "edge",
        "One sample a prompt has nothing to be compared with: an error.",
        "NaN, the raw reward, or a run that silently trains on nothing.",
        (f"{OPENRLHF}/pull/1250", VERL),
        ("C43", "R11", "R12"),
    ),
    "rows_equal_columns": EDGES["rows_equal_columns"],
}

GROUP_ADVANTAGES = Objective(
    name="group_advantages",
    about="Each sample's reward against the mean, and if asked the deviation, of its prompt's group.",
    tags=("GRPO.1", "GRPO.2"),
    source=(
        "Shao et al., DeepSeekMath, arXiv:2402.03300v3, section 4.1.2",
        "Liu et al., Dr. GRPO, arXiv:2503.20783v2, section 3.2",
    ),
    arguments={
        "rewards": Argument("P G", "reward"),
        "scored": Argument("P G", "False where a completion could not be scored", kind="bool"),
    },
    returns={"advantages": Argument("P G", "none if divided, else reward")},
    settings={
        "divide_by_std": Setting("True: GRPO as published; False: Dr. GRPO", (True, False)),
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to the deviation", (1e-4, 1e-6, 1e-8, 1e-9, 0.0), free=True),
    },
    compute=advantages_of_groups,
    steps=ADVANTAGE_STEPS,
    alternatives=GROUP_ALTERNATIVES,
    edges=GROUP_EDGES,
    groups=(
        Group({"divide_by_std": True, "correction": 1, "eps": 1e-4}, (*REWARD_CASES, *TIES)),
        *(
            Group({"divide_by_std": True, "correction": c, "eps": e}, (*MIXED, *TIES))
            for c, e in ((1, 1e-6), (1, 1e-8), (1, 1e-9), (1, 0.0), (0, 1e-4), (0, 1e-6), (0, 1e-8), (0, 0.0))
        ),
        Group({"divide_by_std": False, "correction": 1, "eps": 1e-4}, REWARD_CASES),
    ),
)

OBJECTIVES: list[Objective] = [
    GROUP_ADVANTAGES, GRPO_LOSS, DAPO_LOSS, DR_GRPO_LOSS, GSPO_LOSS, CISPO_LOSS, SAPO_LOSS, GMPO_LOSS, VESPO_LOSS,
    DPPO_LOSS,
]
