"""distill_loss: the policy gradient of the teacher's advantages."""

from __future__ import annotations

from typing import Any

from ...contract import Argument, Group, Objective
from ..ppo.approx_kl import APPROX_KLS
from ..shared import policy, policy_reductions, teacher
from ..shared.common import CONSTANT_LOG_PROBS, MASK, without
from ..shared.policy_surrogates import LOSS_NEGATED
from ..shared.teacher_alternatives import BATCHES, DISCOUNTS, OTHERS, SIGNALS, TEACHER_NOT_DETACHED
from ..shared.teacher_losses import KL_METRICS, SAMPLERS_SIGNAL, SUMMED, SURROGATES

OWN, SAMPLED = teacher.usual(sampled=False), teacher.usual(sampled=True)


def choices(reduce: str, gamma: float) -> dict[str, Any]:
    return {"reduce": reduce, "gamma": gamma}


OBJECTIVE = Objective(
    name="distill_loss",
    about="-A log pi, or -rho A where another policy sampled, A the teacher's log-ratio of the token and of what "
    "follows: the policy gradient of KL(policy || teacher).",
    tags=("DISTILL.4", "DISTILL.1", "CORE.5"),
    source=teacher.SOURCE,
    arguments={**teacher.ARGUMENTS, "mask": MASK, "old_log_probs": CONSTANT_LOG_PROBS},
    returns={
        "loss": Argument("", "nats squared, or nats with old_log_probs"),
        "kl": Argument("", "nats, k1 to the teacher, mean over tokens"),
        "approx_kl": Argument("", "nats, to the old policy, mean over tokens"),
    },
    metrics=("kl", "approx_kl"),
    settings={"reduce": policy.reduction("token_mean", free=True), "gamma": teacher.GAMMA},
    compute=teacher.whole_loss,
    steps=teacher.LOSS_STEPS,
    alternatives={
        **policy_reductions.VARIANTS,
        "summed": SUMMED,
        **{k: policy_reductions.BUGS[k] for k in ("padded_width", "unmasked_mean", "mask_multiplied", "zero_over_zero",
                                                  "empty_rows_counted")},
        **without(SIGNALS, "wrong_direction", "half", "bits"),
        **without(DISCOUNTS, "multiplied_by_mask", "one_minus_gamma"),
        **OTHERS,
        **BATCHES,
        **without(SURROGATES, "advantage_negated"),
        "loss_negated": LOSS_NEGATED,
        "signal_of_the_sampler": SAMPLERS_SIGNAL,
        "teacher_not_detached": TEACHER_NOT_DETACHED,
        **KL_METRICS,
        **without(APPROX_KLS, "negative_ratio_as_approx_kl"),
    },
    edges=teacher.TEACHER_EDGES,
    groups=(
        Group(choices("token_mean", 0.0), OWN),
        Group(choices("token_mean", 0.0), (*SAMPLED[:6], SAMPLED[8], SAMPLED[10], SAMPLED[11])),
        *(Group(choices("token_mean", gamma), (*OWN[:3], *SAMPLED[1:3], OWN[5])) for gamma in (1.0, 0.9)),
        *(
            Group(choices(reduce, 0.0), (*OWN[:3], SAMPLED[1], OWN[8]))
            for reduce in ("sequence_mean", "sequence_sum")
        ),
        Group(choices("sequence_sum", 1.0), (*OWN[:3], SAMPLED[1])),
        Group(choices("sequence_mean", 0.99), (OWN[1],)),
    ),
)  # fmt: skip
