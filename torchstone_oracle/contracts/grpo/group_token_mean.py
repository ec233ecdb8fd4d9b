"""group_token_mean: a mean over each group's tokens, then over groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core, grpo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual, total
from ..shared import policy_reductions
from ..shared.common import EDGES, MASK, NAN, Marks, Matrix, Settings, entries, full, hidden


def mean_of_groups(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    return {"mean": steps["reduce"](inputs["x"], inputs["mask"], settings["group_size"], inputs.get("denominator"))}


def by_group(x: Matrix, marks: Marks, group_size: int, denominator: Dual | None) -> Dual:
    return grpo.group_token_mean(entries(x, marks), group_size, denominator)


def strided(x: Matrix, marks: Marks, group_size: int, denominator: Dual | None) -> Dual:
    """Rows p, p + P, p + 2 P, ... as one group."""
    prompts = len(x) // group_size
    order = [g * prompts + p for p in range(prompts) for g in range(group_size)]
    return by_group([x[i] for i in order], [marks[i] for i in order], group_size, denominator)


def all_groups_counted(x: Matrix, marks: Marks, group_size: int, denominator: Dual | None) -> Dual:
    return by_group(x, marks, group_size, dual(len(x) // group_size) if denominator is None else denominator)


X = [[1.0, -0.5, 0.25], [2.0, 0.75, -1.0], [0.5, 1.5, -0.25], [-2.0, 1.0, 0.125]]
X_MASK = [[True, True, True], [True, False, False], [True, True, False], [False, True, True]]
X_EMPTY = [[True, True, False], [False, False, True], [False] * 3, [False] * 3]
OBJECTIVE = Objective(
    name="group_token_mean",
    about="The mean over the tokens of each prompt's group, then over prompts: DAPO and CISPO as printed.",
    tags=("GRPO.17",),
    source=("Yu et al., DAPO, arXiv:2503.14476v2, eq. 8", "MiniMax-M1, arXiv:2506.13585v1, eq. 4"),
    arguments={
        "x": Argument("B T", "any", gradient=True),
        "mask": MASK,
        "denominator": Argument("", "groups in the whole batch"),
    },
    returns={"mean": Argument("", "that of x")},
    settings={"group_size": Setting("completions of each prompt", (2, 4))},
    compute=mean_of_groups,
    steps={"reduce": by_group},
    alternatives={
        "token_mean": Alternative(
            Flag(
                "variant",
                "The mean over all tokens of the batch (as frameworks take it).",
                "Prompts with long answers weigh more.",
                ("https://arxiv.org/abs/2503.14476",),
                ("C01",),
            ),
            {"reduce": lambda x, marks, g, n: core.token_mean(x, marks)},
        ),
        "sequence_mean": Alternative(
            policy_reductions.SEQUENCE_MEAN, {"reduce": lambda x, marks, g, n: core.sequence_mean(x, marks)}
        ),
        "sum_over_groups": Alternative(
            Flag("bug", "The means of the groups are added up.", "Twice the prompts is twice the step."),
            {"reduce": lambda x, marks, g, n: by_group(x, marks, g, dual(1))},
        ),
        "groups_interleaved": Alternative(
            Flag(
                "bug", "Row i belongs to prompt i mod P in place of i // G.", "Groups mix prompts.", pitfalls=("C41",)
            ),
            {"reduce": strided},
        ),
        "empty_groups_counted": Alternative(
            Flag("bug", "A group without a chosen token counts.", "All others are scaled down.", pitfalls=("C61",)),
            {"reduce": all_groups_counted},
        ),
        "denominator_ignored": Alternative(
            Flag(
                "bug",
                "Each micro-batch divides by its own groups.",
                "Micro-batches with few groups weigh more: the gradient depends on the split.",
                pitfalls=("C02", "C11"),
            ),
            {"reduce": lambda x, marks, g, n: by_group(x, marks, g, None)},
        ),
        "padding_counted": Alternative(
            Flag("bug", "Divided by group_size x padded width.", "Short groups weigh less.", pitfalls=("C06",)),
            {
                "reduce": lambda x, marks, g, n: (
                    total(v for row in entries(x, marks) for v in row)
                    / (g * len(x[0]))
                    / (sum(1 for i in range(0, len(x), g) if any(map(any, marks[i : i + g]))) if n is None else n)
                    if any(map(any, marks))
                    else dual(0)
                )
            },
        ),
    },
    edges=EDGES,
    groups=(
        Group(
            {"group_size": 2},
            (
                Case("two groups, all chosen", {"x": X, "mask": full(4, 3)}),
                Case("two groups of unequal length", {"x": X, "mask": X_MASK}, ("ragged_mask", "gaps_in_mask")),
                Case("a group without a chosen token", {"x": X, "mask": X_EMPTY}, ("empty_row", "ragged_mask")),
                Case(
                    "NaN under the mask",
                    {"x": hidden(X, X_MASK, NAN), "mask": X_MASK},
                    ("nan_under_mask", "gaps_in_mask"),
                ),
                Case("no chosen token at all", {"x": X, "mask": [[False] * 3] * 4}, ("all_masked",)),
                Case("half of a batch of 4 groups", {"x": X, "mask": X_MASK, "denominator": 4}, ("ragged_mask",)),
            ),
        ),
        Group({"group_size": 4}, (Case("one group", {"x": X, "mask": X_MASK}, ("ragged_mask", "gaps_in_mask")),)),
        Group(
            {"group_size": 1}, (Case("groups of one row", {"x": X, "mask": X_MASK}, ("ragged_mask", "gaps_in_mask")),)
        ),
    ),
)
