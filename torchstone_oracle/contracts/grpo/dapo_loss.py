"""dapo_loss: clip-higher, no KL, a mean over all tokens."""

from __future__ import annotations

from ...contract import Group, Objective, Setting
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import without

OBJECTIVE = Objective(
    name="dapo_loss",
    about="The clipped surrogate with clip-higher and no KL, averaged over all tokens of the batch.",
    tags=("GRPO.3", "PPO.8", "CORE.5"),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 8 to 12 (token mean over the batch, as frameworks take it)",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": policy.LOSS, **policy.METRICS},
    metrics=tuple(policy.METRICS),
    settings={
        "reduce": policy.reduction("token_mean"),
        "epsilon": policy.EPSILON,
        "epsilon_high": Setting("How far above 1 the ratio may go: further than below, clip-higher.", (0.28, None)),
    },
    compute=policy.policy_loss_and_metrics,
    steps=policy.STEPS,
    alternatives={
        **without(policy_reductions.VARIANTS, "token_mean"),
        **without(policy_reductions.BUGS, "empty_rows_counted", "row_loss_times_length"),
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
            {"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": 0.28},
            (*policy_cases.usual(False), policy_cases.BETWEEN_THE_BOUNDS),
        ),
        Group({"reduce": "token_mean", "epsilon": 0.2, "epsilon_high": None}, policy_cases.few(False)[:3]),
        Group({"reduce": "token_mean", "epsilon": 0.1, "epsilon_high": 0.4}, policy_cases.few(False)[:1]),
    ),
)
