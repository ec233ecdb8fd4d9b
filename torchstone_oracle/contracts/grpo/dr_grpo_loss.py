"""dr_grpo_loss: the clip, no KL, row sums over a constant length."""

from __future__ import annotations

from ...contract import Alternative, Flag, Group, Objective, Setting
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import TRL, VERL, without

LENGTH_ONLY = Alternative(
    Flag(
        "bug",
        "Divided by the constant length, and not by the number of rows.",
        "Twice the batch is twice the step; micro-batches change the gradient.",
        (f"{VERL}/pull/4510", f"{TRL}/issues/3138"),
        ("C08", "R07"),
    ),
    {"reduce": lambda x, marks, settings: policy_reductions.plain_sum(x, marks, settings) / settings["length"]},
)

LENGTH = Setting(
    "the constant that row sums are divided by, such as the longest completion allowed", (8, 16), free=True
)
OBJECTIVE = Objective(
    name="dr_grpo_loss",
    about="The clipped surrogate with no KL; row sums over a constant length, then the mean over rows.",
    tags=("GRPO.3", "PPO.8", "CORE.8"),
    source=("Liu et al., Dr. GRPO, arXiv:2503.20783v2, section 3.2 and listing 1",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": policy.LOSS, **policy.METRICS},
    metrics=tuple(policy.METRICS),
    settings={
        "reduce": policy.reduction("fixed_length_mean"),
        "length": LENGTH,
        "epsilon": policy.EPSILON,
        "epsilon_high": policy.EPSILON_HIGH,
    },
    compute=policy.policy_loss_and_metrics,
    steps=policy.STEPS,
    alternatives={
        **policy_reductions.VARIANTS,
        **without(policy_reductions.BUGS, "row_loss_times_length"),
        "length_only": LENGTH_ONLY,
        **policy_ratios.RATIO,
        **policy_ratios.LEVELS,
        **policy_ratios.ADVANTAGES,
        **policy_surrogates.ALTERNATIVES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
        "counts_out_of_range": policy_surrogates.OUT_OF_RANGE,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "fixed_length_mean", "length": 8, "epsilon": 0.2, "epsilon_high": None},
            policy_cases.usual(False),
        ),
        Group(
            {"reduce": "fixed_length_mean", "length": 16, "epsilon": 0.2, "epsilon_high": 0.28},
            policy_cases.few(False)[:3],
        ),
        Group(
            {"reduce": "fixed_length_mean", "length": 4, "epsilon": 0.1, "epsilon_high": 0.4},
            policy_cases.few(False)[:1],
        ),
    ),
)
