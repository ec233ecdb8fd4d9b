"""off_policy_weights: bad completions that the policy has left are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import grpo, ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, absolute, dual, mean, stop, total
from ..shared import policy
from ..shared.common import CONSTANT_LOG_PROBS, INF, MASK, NAN, Settings, chosen, full, plus
from .gspo_loss import SEQUENCES_OLD


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

OBJECTIVE = Objective(
    name="off_policy_weights",
    about="0 for a bad completion that the policy has left too far behind, 1 for all others.",
    tags=("GRPO.16",),
    source=("DeepSeek-AI, DeepSeek-V3.2, arXiv:2512.02556v1, eq. 8 and 9",),
    arguments={
        **{k: CONSTANT_LOG_PROBS for k in ("log_probs", "old_log_probs")},
        "advantages": policy.ARGUMENTS["advantages"],
        "mask": MASK,
    },
    returns={"weights": Argument("B T", "none")},
    settings={"limit": Setting("the mean distance that is allowed, in nats a token", (0.5, 0.125), free=True)},
    compute=weights_of_rows,
    steps={
        "log_ratio": ppo.log_ratio,
        "advantage": policy.advantage,
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
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"limit": 0.5}, OFF_POLICY_CASES),
        Group({"limit": 0.125}, OFF_POLICY_CASES[:2]),
    ),
)
