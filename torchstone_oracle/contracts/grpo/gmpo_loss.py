"""gmpo_loss: the geometric mean of clipped ratios."""

from __future__ import annotations

from collections.abc import Sequence

from ... import grpo, ppo
from ...contract import Alternative, Flag, Group, Objective, Setting, Step
from ...numbers import Dual, clip, dual, log, maximum, mean, minimum, total
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Row, Settings, chosen, without
from .gspo_loss import GSPO_CASES, GSPO_LEVELS


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
OBJECTIVE = Objective(
    name="gmpo_loss",
    about="The geometric mean of a completion's clipped ratios, averaged over completions.",
    tags=("GRPO.11", "CORE.6"),
    source=("Zhao et al., GMPO, arXiv:2507.20673v3, eq. 4 and algorithm 1",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": policy.LOSS},
    settings={
        "reduce": policy.reduction("sequence_mean"),
        "epsilon": Setting("the lower bound of the log-ratio is -epsilon", (0.4,), free=True),
        "epsilon_high": Setting("its upper bound; epsilon if None", (None,), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"level": gmpo_level, "surrogate": lambda p, u, a, s: ppo.importance_surrogate(u, a)},
    alternatives={
        **without(policy_reductions.VARIANTS, "sequence_mean"),
        **without(policy_reductions.BUGS, "mask_multiplied", "unmasked_mean"),
        "empty_rows_counted_at_1": policy_reductions.EMPTY_ROWS_AT_1,
        **policy_ratios.RATIO,
        **GMPO_LEVELS,
        **without(policy_ratios.ADVANTAGES, "whitened_advantages"),
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"reduce": "sequence_mean", "epsilon": 0.4, "epsilon_high": None}, policy_cases.usual(False)),
        Group(
            {"reduce": "sequence_mean", "epsilon": 0.2, "epsilon_high": 0.45},
            (*policy_cases.few(False)[:3], *GSPO_CASES[:1]),
        ),
        Group({"reduce": "sequence_mean", "epsilon": 0.3, "epsilon_high": 0.1}, policy_cases.few(False)[:1]),
    ),
)
