"""gspo_loss: the clip on one ratio a completion."""

from __future__ import annotations

from collections.abc import Sequence

from ... import grpo
from ...contract import Alternative, Flag, Group, Objective, Setting
from ...numbers import Dual, bounded_exp, dual, log, mean, stop, total
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Row, Settings, chosen, full, plus, without

TIGHT_EPSILON = Setting("how far below 1 the ratio of a sequence may go", (3e-4, 0.2), free=True)
TIGHT_EPSILON_HIGH = Setting("how far above 1 the ratio of a sequence may go", (4e-4, None, 0.28), free=True)


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
        {"level": policy.each_token},
    ),
    "sequence_product": policy_ratios.LEVELS["sequence_product"],
    "mean_over_padding": Alternative(
        Flag(
            "bug",
            "The mean of log-ratios is taken over the padded row.",
            "The ratio of a short completion depends on what lies in its padding.",
            pitfalls=("C36",),
        ),
        {"level": policy_ratios.unmasked_level},
    ),
    "mask_multiplied": Alternative(
        policy_reductions.BUGS["mask_multiplied"].flag,
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
    policy_cases.case(
        "sequence ratios above and below the clip, good and bad rows",
        plus(SEQUENCES_OLD, [[0.75, 0.25], [-0.5, -0.125], [0.625, -0.0625], [0.125, -0.75]]),
        SEQUENCES_OLD,
        [1.0, 0.5, -0.75, -1.0],
        full(4, 2),
        "every_side_of_the_clip",
    ),
    policy_cases.case(
        "sequence ratios inside the clip, tokens outside",
        plus(SEQUENCES_OLD[:2], [[0.5, -0.375], [-0.625, 0.5]]),
        SEQUENCES_OLD[:2],
        [1.0, -0.5],
        full(2, 2),
    ),
)
TINY = 1 / 4096
GSPO_TINY = (
    policy_cases.case(
        "the published clip: every side of it",
        plus(SEQUENCES_OLD, [[3 * TINY, TINY], [-4 * TINY, 0.0], [4 * TINY, 2 * TINY], [-TINY, -5 * TINY]]),
        SEQUENCES_OLD,
        [1.0, 0.5, -0.75, -1.0],
        full(4, 2),
        "every_side_of_the_clip",
    ),
    policy_cases.case(
        "inside the published clip",
        plus(SEQUENCES_OLD[:2], [[3 * TINY, -TINY], [-TINY, 0.0]]),
        SEQUENCES_OLD[:2],
        [1.0, -0.5],
        full(2, 2),
    ),
)
GSPO_SURROGATES = without(
    policy_surrogates.ALTERNATIVES,
    "absolute_upper_bound",
    "clip_in_nats",
    "no_ratio",
    "detached_surrogate",
    "advantage_rescaled_between_branches",
)
OBJECTIVE = Objective(
    name="gspo_loss",
    about="PPO's clip on one ratio a completion, the geometric mean of its tokens', averaged over completions.",
    tags=("GRPO.4", "PPO.8", "CORE.6"),
    source=("Zheng et al., GSPO, arXiv:2507.18071v2, eq. 5 and 7",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": policy.LOSS},
    settings={
        "reduce": policy.reduction("sequence_mean"),
        "epsilon": TIGHT_EPSILON,
        "epsilon_high": TIGHT_EPSILON_HIGH,
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"level": gspo_ratio},
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_mean"),
        **without(policy_reductions.BUGS, "mask_multiplied", "unmasked_mean"),
        "empty_rows_counted_at_1": policy_reductions.EMPTY_ROWS_AT_1,
        **without(policy_ratios.RATIO, "old_one_later"),
        **GSPO_LEVELS,
        **without(policy_ratios.ADVANTAGES, "whitened_advantages"),
        **GSPO_SURROGATES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.28}, (*policy_cases.usual(False), *GSPO_CASES)
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": 3e-4, "epsilon_high": 4e-4},
            (*GSPO_TINY, *policy_cases.few(False)[1:]),
        ),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": None}, (*GSPO_CASES, *policy_cases.few(False))
        ),
    ),
)
