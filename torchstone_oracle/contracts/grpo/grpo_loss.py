"""grpo_loss: the clip with one advantage a completion, and k3 in the loss."""

from __future__ import annotations

from ... import core
from ...contract import Argument, Case, Group, Objective, Setting
from ...numbers import Dual, stop
from ..shared import policy, policy_cases, policy_kl, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import bug, without

KL_METRIC = {"kl": Argument("", "nats")}
BETA = Setting("weight of the KL to the reference", (0.04, 0.0, 0.1), free=True)


def hazards(with_reference: bool) -> tuple[Case, ...]:
    """What lies under the mask, and rows and batches without a token."""
    kept = {"gaps_in_mask", "nan_under_mask", "empty_row", "all_masked"}
    return tuple(c for c in policy_cases.usual(with_reference) if kept & set(c.flags))


def kl_of_the_old_policy(log_prob: Dual, ref_log_prob: Dual, log_ratio: Dual) -> Dual:
    return core.k3(stop(log_prob - log_ratio), ref_log_prob)


OBJECTIVE = Objective(
    name="grpo_loss",
    about="PPO's clipped surrogate, one advantage a completion, plus beta times k3: mean in each row, then over rows.",
    tags=("GRPO.3", "PPO.8", "KL.3", "CORE.6"),
    source=("Shao et al., DeepSeekMath, arXiv:2402.03300v3, eq. 3 and 4",),
    arguments=policy.ARGUMENTS,
    returns={"loss": policy.LOSS, **policy.METRICS, **KL_METRIC},
    metrics=(*policy.METRICS, *KL_METRIC),
    settings={
        "reduce": policy.reduction("sequence_mean"),
        "epsilon": policy.EPSILON,
        "epsilon_high": policy.EPSILON_HIGH,
        "beta": BETA,
    },
    compute=policy.policy_loss_and_metrics,
    steps=policy.STEPS,
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_mean"),
        **without(policy_reductions.BUGS, "row_loss_times_length"),
        **policy_ratios.RATIO,
        **policy_ratios.LEVELS,
        **policy_ratios.ADVANTAGES,
        **without(policy_surrogates.ALTERNATIVES, "one_plus_log_ratio", "clip_in_nats", "detached_surrogate"),
        **policy_kl.ALTERNATIVES,
        "kl_of_the_old_policy": bug(
            "The KL is that of the old policy to the reference: a constant.",
            "Nothing holds the present policy near the reference, and the curve is one update late.",
            {"kl": kl_of_the_old_policy},
            pitfalls=("C33",),
        ),
        "loss_negated": policy_surrogates.LOSS_NEGATED,
        "counts_out_of_range": policy_surrogates.OUT_OF_RANGE,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None, "beta": 0.04}, policy_cases.usual(True)
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None, "beta": 0.0},
            (*policy_cases.few(False), *hazards(False)),
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.4, "beta": 0.1}, policy_cases.few(True)[:1]
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0},
            (policy_cases.BETWEEN_THE_BOUNDS, *policy_cases.few(False)[:2]),
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.1, "epsilon_high": None, "beta": 0.0}, policy_cases.few(False)[:1]
        ),
    ),
)
