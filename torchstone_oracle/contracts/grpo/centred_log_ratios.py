"""centred_log_ratios: a completion's summed log-ratio less the mean of its group's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import grpo, ppo
from ...contract import Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, mean, stop, total
from ..shared.common import EDGES, NAN, Row, Settings, bug, full, hidden, plus, variant
from .sequence_log_ratios import ROW_INPUTS


def group_log_ratios(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    rows = [
        steps["counted"](new, old, marks)
        for new, old, marks in zip(inputs["log_probs"], inputs["old_log_probs"], inputs["mask"], strict=True)
    ]
    groups = steps["groups"](range(len(rows)), settings["group_size"])
    found = {i: c for group in groups for i, c in zip(group, steps["centre"]([rows[i] for i in group]), strict=True)}
    return {"log_ratios": [[found[i] if m else None for m in marks] for i, marks in enumerate(inputs["mask"])]}


def counted(new: Any, old: Any, marks: Sequence[bool]) -> list[Dual]:
    return [ppo.log_ratio(p, q) for p, q, m in zip(new, old, marks, strict=True) if m]


def side_by_side(rows: range, size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def one_by_one(rows: range, size: int) -> list[list[int]]:
    """Dealt out: row i belongs to prompt i modulo P."""
    return [list(rows[i :: len(rows) // size]) for i in range(len(rows) // size)]


def less(rows: Sequence[Row], baseline: Sequence[Dual]) -> list[Dual]:
    return [total(row) - b for row, b in zip(rows, baseline, strict=True)]


def siblings(rows: Sequence[Row]) -> list[Dual]:
    """The mean of the others' sums."""
    sums = [total(row) for row in rows if row]
    return [(total(sums) - total(row)) / max(1, len(sums) - 1) for row in rows]


def of_tokens(rows: Sequence[Row]) -> list[Dual]:
    """Means over a row's tokens, as in GSPO, then centred."""
    means = [mean(row) for row in rows]
    return [m - mean([x for x, row in zip(means, rows, strict=True) if row]) for m in means]


OLD = [[-1.5, -0.5, -2.0], [-1.75, -1.75, -1.25], [-1.0, -0.25, -0.5], [-0.75, -2.0, -1.5]]
NEW = plus(OLD, [[0.5, -0.5, 0.125], [1.25, -0.5, -0.0625], [-0.25, 0.375, 0.5], [-1.0, 0.25, 0.75]])
RAGGED = [[True, True, True], [True, False, False], [True, True, False], [True, True, True]]
GAPS = [[True, False, True], [False, True, True], [True, True, True], [False, False, True]]
EMPTY = [[True, True, False], [False, False, False], [True, True, True], [True, False, False]]


def ratios_case(comment: str, mask: Any, *flags: str, junk: Any = None, new: Any = None) -> Case:
    new = NEW if new is None else new
    given = (new, OLD) if junk is None else (hidden(new, mask, junk), hidden(OLD, mask, junk))
    return Case(comment, {"log_probs": given[0], "old_log_probs": given[1], "mask": mask}, flags)


CASES = (
    ratios_case("two groups of two, all chosen", full(4, 3)),
    ratios_case("ragged, with junk", RAGGED, "ragged_mask", "junk_under_mask", junk=-6.0),
    ratios_case("gaps, NaN under the mask", GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    ratios_case("a completion without a token", EMPTY, "empty_row"),
    ratios_case("no chosen token at all", [[False] * 3] * 4, "all_masked"),
)
OBJECTIVE = Objective(
    name="centred_log_ratios",
    about="One log-ratio a completion, the sum of its tokens' less the mean of its group's, at every token of it.",
    tags=("GRPO.25",),
    source=("Gao et al., REBEL, arXiv:2404.16767, for pairs",),
    arguments=ROW_INPUTS,
    returns={"log_ratios": Argument("B T", "nats")},
    settings={"group_size": Setting("completions of each prompt", (2, 4))},
    compute=group_log_ratios,
    steps={"counted": counted, "groups": side_by_side, "centre": grpo.centred},
    alternatives={
        "not_centred": variant(
            "The sum itself (Kimi K2, A*-PO).",
            "The log-normaliser of the optimum stays in: the baseline of the rewards has to take it out.",
            {"centre": lambda rows: [total(row) for row in rows]},
        ),
        "siblings_alone": variant(
            "The mean of the others, without its own.",
            "n / (n - 1) times as large: twice, for pairs, where it is the difference itself.",
            {"centre": lambda rows: less(rows, siblings(rows))},
        ),
        "mean_of_tokens": variant(
            "The mean over a completion's tokens, then centred.",
            "Length has no say: not the log-ratio of the completion.",
            {"centre": of_tokens},
        ),
        "empty_rows_counted": bug(
            "A completion without a token counts in its group's mean as one whose log-ratio is 0.",
            "What was not sampled pulls the others towards the old policy.",
            {"centre": lambda rows: less(rows, [mean([total(r) for r in rows])] * len(rows))},
        ),
        "other_layout": bug(
            "The rows were laid out the other way round: completions of other prompts are taken for siblings.",
            "Every completion is compared with answers to other questions.",
            {"groups": one_by_one},
            pitfalls=("C41",),
        ),
        "over_the_batch": bug(
            "The mean over all completions of the batch.",
            "What prompts have in common is taken out, and not what a prompt's completions have.",
            {"groups": lambda rows, size: [list(rows)]},
            pitfalls=("C41",),
        ),
        "mean_detached": bug(
            "No gradient flows through the mean.",
            "With advantages that sum to 0 none on the first term; the square pulls each completion by itself.",
            {"centre": lambda rows: less(rows, [stop(mean([total(r) for r in rows if r]))] * len(rows))},
        ),
        "padding_summed": bug(
            "What lies under False is summed too.",
            "The ratio depends on how wide the batch is padded.",
            {"counted": lambda new, old, marks: [ppo.log_ratio(p, q) for p, q in zip(new, old, strict=True)]},
            pitfalls=("C36",),
        ),
        "inverted_ratio": bug(
            "log pi_old - log pi.",
            "Good completions are made rarer.",
            {"centre": lambda rows: [-c for c in grpo.centred(rows)]},
        ),
    },
    edges=EDGES,
    groups=(Group({"group_size": 2}, CASES), Group({"group_size": 4}, CASES[:4])),
)
