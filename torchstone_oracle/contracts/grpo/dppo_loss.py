"""dppo_loss: tokens are left out by how far their probability has moved."""

from __future__ import annotations

from typing import Any

from ... import grpo, ppo
from ...contract import Alternative, Argument, Flag, Group, Objective, Setting, Step
from ...numbers import Dual, bounded_exp, dual, exp, minimum, stop
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Settings, full, plus, without


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
DPPO_CASE = policy_cases.case(
    "rare tokens may move by a large factor, common ones may not",
    plus(DPPO_OLD, [[2.5, 0.5, -0.25, 1.5], [-1.5, -0.75, 0.5, 1.0]]),
    DPPO_OLD,
    [1.0, -0.75],
    full(2, 4),
    "every_side_of_the_clip",
)
OBJECTIVE = Objective(
    name="dppo_loss",
    about="The trust region is drawn around a token's probability; a bounded weight of log pi, summed over rows.",
    tags=("GRPO.13", "CORE.7"),
    source=("Qi et al., DPPO (binary forms), arXiv:2602.04879v3, eq. 12 to 14; the cap as in verl 0.9.1",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": policy.reduction("sequence_sum"),
        "divergence": Setting("tv: total variation; kl", ("tv", "kl")),
        "epsilon": Setting("how far a token may be lowered, in units of the divergence", (0.2, 0.15), free=True),
        "epsilon_high": Setting("how far it may be raised; epsilon if None", (None,), free=True),
        "cap": Setting("bound of the ratio as a weight", (20.0, 3.0), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"surrogate": dppo},
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_sum"),
        **policy_reductions.BUGS,
        **policy_ratios.RATIO,
        **without(policy_ratios.ADVANTAGES, "negated_advantages"),
        **DPPO_SURROGATES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "sequence_sum", "divergence": "tv", "epsilon": 0.2, "epsilon_high": None, "cap": 20.0},
            (*policy_cases.usual(False), DPPO_CASE),
        ),
        Group(
            {"reduce": "sequence_sum", "divergence": "tv", "epsilon": 0.125, "epsilon_high": 0.25, "cap": 3.0},
            (*policy_cases.few(False)[:3], DPPO_CASE),
        ),
        Group(
            {"reduce": "sequence_sum", "divergence": "kl", "epsilon": 0.05, "epsilon_high": None, "cap": 20.0},
            (*policy_cases.few(False)[:3], DPPO_CASE),
        ),
        Group(
            {"reduce": "sequence_sum", "divergence": "tv", "epsilon": 0.2, "epsilon_high": 0.1, "cap": 5.0},
            (DPPO_CASE,),
        ),
    ),
)
