"""cispo_loss: the bounded ratio as a constant weight of log pi."""

from __future__ import annotations

from typing import Any

from ... import grpo
from ...contract import Alternative, Argument, Flag, Group, Objective, Setting, Step
from ...numbers import Dual, bounded_exp, clip, dual, exp, maximum, minimum, stop
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import OPEN_INSTRUCT, VERL_0_9_1, Settings, full, plus, without


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


def cispo_with_ratio(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -stop(cispo_weight(u, settings)) * a * bounded_exp(u)


def cispo_dropping(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    """Nothing of a token that PPO's minimum would clip."""
    weight = cispo_weight(u, settings)
    dropped = (a > 0 and weight < bounded_exp(u)) or (a < 0 and weight > bounded_exp(u))
    return dual(0) if dropped else cispo(log_prob, u, a, settings)


def cispo_as_ppo(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u) * a, cispo_weight(u, settings) * a)


def cispo_of_the_minimum(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -stop(minimum(bounded_exp(u) * a, cispo_weight(u, settings) * a)) * log_prob


def cispo_inside_alone(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    inside = cispo_weight(u, settings).same(bounded_exp(u))
    return cispo(log_prob, u, a, settings) if inside else dual(0)


def cispo_of_the_other_bound(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    """A bound that lies below the lower one wins, as in torch.clamp."""
    low = dual("-inf") if settings["epsilon"] is None else 1 - dual(settings["epsilon"])
    high = 1 + dual(settings["cap"]) if settings["epsilon_high"] is None else dual(settings["epsilon_high"])
    return -stop(minimum(maximum(bounded_exp(u), low), high)) * a * log_prob


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
    "ratio_for_log_prob": Alternative(
        Flag(
            "bug",
            "The weight multiplies the ratio, where log pi belongs.",
            "Each token's step is multiplied by the ratio once more, and that is not bounded.",
            ("https://arxiv.org/abs/2506.13585",),
        ),
        {"surrogate": cispo_with_ratio},
    ),
    "log_ratio_for_log_prob": Alternative(
        Flag(
            "variant",
            "The weight multiplies the log-ratio, where log pi belongs.",
            "The gradient is the same; the value is another, and 0 before the first step.",
        ),
        {"surrogate": lambda p, u, a, s: -stop(cispo_weight(u, s)) * a * u},
    ),
    "probability": Alternative(
        Flag("bug", "The weight multiplies the probability, not its log.", "Rare tokens have almost no gradient."),
        {"surrogate": lambda p, u, a, s: -stop(cispo_weight(u, s)) * a * exp(p)},
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
    "minimum_in_the_weight": Alternative(
        Flag(
            "bug",
            "The weight is PPO's minimum of both branches, as a constant.",
            "With a bad advantage the weight has no upper bound: one stale token can outweigh the batch.",
            pitfalls=("C22",),
        ),
        {"surrogate": cispo_of_the_minimum},
    ),
    "weight_0_outside": Alternative(
        Flag(
            "bug",
            "Tokens outside the bounds are dropped (weight 0), where their weight should be held at the bound.",
            "Tokens out of range have no gradient: what CISPO was made to avoid.",
            pitfalls=("C22",),
        ),
        {"surrogate": cispo_inside_alone},
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
    "upper_bound_missing": Alternative(
        Flag(
            "bug", "The weight has no upper bound; a lower one it may have.", "One stale token can outweigh the rest."
        ),
        {"surrogate": cispo_with(epsilon_high=lambda s: None, cap=lambda s: "inf")},
    ),
    "bound_read_the_other_way": Alternative(
        Flag(
            "bug",
            "The number is read as a distance from 1 where the bound itself is meant, or the reverse.",
            "With 0.2 as the bound itself every token weighs at most a fifth; with 5 as a distance the cap is 6.",
            ("https://github.com/NovaSky-AI/SkyRL/issues/1928",),
            ("C23", "R17"),
        ),
        {"surrogate": cispo_of_the_other_bound},
    ),
    "lower_bound_added": Alternative(
        Flag(
            "variant",
            "The weight has a lower bound of 0.8, which MiniMax-M1 leaves out (verl 0.9.1, by its default).",
            "Tokens that have become rare keep a large weight.",
            (VERL_0_9_1,),
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
WIDE = policy_cases.case(
    "ratios from 0.1 to 6, a good and a bad row", SPREAD, SPREAD_OLD, [1.0, -0.5], full(2, 5), "every_side_of_the_clip"
)
OBJECTIVE = Objective(
    name="cispo_loss",
    about="The bounded ratio is a constant weight of log pi: no token loses its gradient.",
    tags=("GRPO.8", "GRPO.9"),
    source=("MiniMax-M1, arXiv:2506.13585v1, eq. 4 and 5",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": policy.reduction("token_mean", free=True),
        "epsilon": Setting("the lower bound is 1 - epsilon; None: no lower bound", (None, 0.2), free=True),
        "epsilon_high": Setting("the upper bound is 1 + epsilon_high; this or cap", (0.2, None), free=True),
        "cap": Setting("the upper bound itself; this or epsilon_high", (None, 5.0), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"surrogate": cispo},
    alternatives={
        **policy_reductions.BUGS,
        **policy_ratios.RATIO,
        **policy_ratios.LEVELS,
        **without(policy_ratios.ADVANTAGES, "negated_advantages"),
        **CISPO_SURROGATES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "token_mean", "epsilon": None, "epsilon_high": 0.2, "cap": None},
            (*policy_cases.usual(False), WIDE),
        ),
        Group(
            {"reduce": "token_mean", "epsilon": None, "epsilon_high": None, "cap": 5.0},
            (*policy_cases.few(False)[:2], WIDE),
        ),
        Group(
            {"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": 0.2, "cap": None},
            (*policy_cases.few(False)[:3], WIDE),
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": None, "epsilon_high": 0.2, "cap": None},
            (policy_cases.few(False)[2], WIDE),
        ),
        Group(
            {"reduce": "sequence_sum", "epsilon": None, "epsilon_high": 0.2, "cap": None},
            (policy_cases.few(False)[2], WIDE),
        ),
        Group(
            {"reduce": "token_mean", "epsilon": None, "epsilon_high": None, "cap": 2.0},
            (WIDE, *policy_cases.NEAR_CASES[2:]),
        ),
        Group({"reduce": "token_mean", "epsilon": 0.3, "epsilon_high": 0.4, "cap": None}, (WIDE,)),
    ),
)
