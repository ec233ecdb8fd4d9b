"""optimal_token_advantages: a baseline for each step, weighted by the energy so far (OTB)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import reinforce
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...core import Mask
from ...numbers import Dual, stop, total
from ..shared.common import EDGES, MASK, NAN, VERL_0_9_1, Row, Settings, Steps, bug, full, hidden, marks, variant
from .discounted_returns import chosen_only


def per_step(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Column by column of each group."""
    returns, mask = inputs["returns"], inputs["mask"]
    spent = [steps["energy"](*row) for row in zip(inputs["energies"], mask, strict=True)]
    size = steps["size"](settings["group_size"], len(mask))
    advantages: list[list[Any]] = [[None] * len(mask[0]) for _ in mask]
    for t in range(len(mask[0])):
        for start in range(0, len(mask), size):
            rows = range(start, start + size)
            column = [returns[i][t] if mask[i][t] else None for i in rows]
            found = steps["column"](column, [spent[i][t] for i in rows])
            for i, a in zip(rows, found, strict=True):
                advantages[i][t] = a
    return {"advantages": advantages}


def own_energy(energies: Row, mask: Sequence[bool]) -> list[Dual | None]:
    return chosen_only(energies, mask)


def energy_before(energies: Row, mask: Sequence[bool]) -> list[Dual | None]:
    spent = reinforce.energy_spent(energies, mask)
    return [None if x is None else x - w for x, w in zip(spent, energies, strict=True)]


def whole_energy(energies: Row, mask: Sequence[bool]) -> list[Dual | None]:
    whole = total(w for w, m in zip(energies, mask, strict=True) if m)
    return chosen_only([whole] * len(mask), mask)


def energy_to_go(energies: Row, mask: Sequence[bool]) -> list[Dual | None]:
    return reinforce.energy_spent(energies[::-1], mask[::-1])[::-1]


def unmasked_energy(energies: Row, mask: Sequence[bool]) -> list[Dual | None]:
    return chosen_only([total(energies[: t + 1]) for t in range(len(mask))], mask)


def unit_energy(energies: Row, mask: Sequence[bool]) -> list[Dual | None]:
    return chosen_only([Dual(1)] * len(mask), mask)


def last_row_kept(returns: Sequence[Dual | None], spent: Sequence[Dual | None]) -> list[Dual | None]:
    """Where one row is left, its return is its advantage."""
    if sum(g is not None for g in returns) == 1:
        return [None if g is None else stop(g) for g in returns]
    return reinforce.optimal_token_advantages(returns, spent)


def ended_rows_counted(returns: Sequence[Dual | None], spent: Sequence[Dual | None]) -> list[Dual | None]:
    """The weighted sum over rows with a token, by the number of all rows."""
    pairs = [(g, w) for g, w in zip(returns, spent, strict=True) if g is not None and w is not None]
    baseline = total(g * w for g, w in pairs) / len(returns)
    return [None if g is None else stop(g - baseline) for g in returns]


G_4 = [[1.0, 0.5, 2.0], [0.0, 1.0, -1.0], [3.0, 0.0, 0.5], [0.5, 2.0, 1.0]]
W_4 = [[0.5, 0.25, 1.0], [0.25, 1.0, 0.5], [1.0, 0.5, 0.25], [0.125, 0.75, 0.5]]
TOKEN_RAGGED = marks("111 110 100 111")


def steps_of(comment: str, returns: Any, energies: Any, mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(
        comment, {"returns": returns, "energies": energies, "mask": mask}, flags, tolerance={"float64": "1e-7"}, **more
    )


TOKEN_CASES = (
    steps_of("two groups of two, all chosen", G_4, W_4, full(4, 3)),
    steps_of("lengths 3, 2, 1 and 3", G_4, W_4, TOKEN_RAGGED, "ragged_mask"),
    steps_of("gaps", G_4, W_4, marks("101 111 011 110"), "gaps_in_mask"),
    steps_of("NaN in the padding", hidden(G_4, TOKEN_RAGGED, NAN), hidden(W_4, TOKEN_RAGGED, NAN), TOKEN_RAGGED,
             "ragged_mask", "nan_under_mask"),
    steps_of("64 in the gaps", hidden(G_4, marks("101 111 011 110"), 64.0), hidden(W_4, marks("101 111 011 110"), 64.0),
             marks("101 111 011 110"), "gaps_in_mask", "junk_under_mask"),
    steps_of("a row without a token", G_4, W_4, marks("111 000 110 111"), "empty_row"),
    steps_of("no token at all", G_4[:2], W_4[:2], marks("000 000"), "all_masked"),
    steps_of("equal returns: 0", [[0.1, 0.7], [0.1, 0.7]], [[0.25, 0.5], [0.5, 0.125]], full(2, 2), "tie_that_rounds",
             "rows_equal_columns"),
    steps_of("no energy: 0", G_4[:2], [[0.0, 0.5, 0.25], [0.0, 0.0, 0.0]], full(2, 3), "empty_energy"),
)  # fmt: skip
OBJECTIVE = Objective(
    name="optimal_token_advantages",
    about="At each step, the return minus its mean over the group, weighted by the energy spent so far (OTB).",
    tags=("REINFORCE.10",),
    source=("OTB, arXiv:2602.07078v2",),
    arguments={
        "returns": Argument("B T", "reward units, to go; a constant"),
        "energies": Argument("B T", "1: the squared norm of each token's score"),
        "mask": MASK,
    },
    returns={"advantages": Argument("B T", "reward units")},
    settings={"group_size": Setting("G: rows p G to p G + G - 1 belong to one prompt.", (2, 4))},
    compute=per_step,
    steps={
        "energy": reinforce.energy_spent,
        "column": reinforce.optimal_token_advantages,
        "size": lambda group_size, rows: group_size,
    },
    alternatives={
        "own_energy": bug(
            "The weight is the energy of the token alone, not of all up to it.",
            "The baseline of a step is not that of least noise.",
            {"energy": own_energy},
        ),
        "energy_before": bug(
            "The weight is the energy before the token: its own is left out.",
            "At the first token nothing weighs anything.",
            {"energy": energy_before},
        ),
        "whole_energy": variant(
            "The weight is the energy of the whole completion, at every step.",
            "The baseline knows tokens that are still to come.",
            {"energy": whole_energy},
        ),
        "energy_to_go": bug(
            "The energy is summed from the right instead of from the left.",
            "The weights are largest where least has been spent.",
            {"energy": energy_to_go},
        ),
        "unmasked_energy": bug(
            "The energy of tool output and padding is counted.",
            "What the policy did not write moves its baseline.",
            {"energy": unmasked_energy},
            pitfalls=("C19", "C48"),
        ),
        "not_weighted": variant(
            "The plain mean over the rows with a token at this step.",
            "Noisier, and simpler.",
            {"energy": unit_energy},
        ),
        "last_row_kept": variant(
            "Where one row of a group is left, its advantage is its whole return, not 0.",
            "The ends of the longest completions are reinforced whenever the reward is above 0.",
            {"column": last_row_kept},
            links=(VERL_0_9_1,),
        ),
        "ended_rows_counted": bug(
            "The weighted sum is divided by the number of rows, not by the sum of the weights.",
            "The baseline has the wrong size.",
            {"column": ended_rows_counted},
        ),
        "whole_batch": bug(
            "One baseline for the whole batch instead of one for each prompt.",
            "Easy prompts are always reinforced and hard ones never, whatever the answer.",
            {"size": lambda group_size, rows: rows},
            pitfalls=("C41",),
        ),
    },
    edges=EDGES
    | {"empty_energy": Flag("edge", "No row has spent energy.", "0 / 0 gives NaN.", pitfalls=("C61",))},
    groups=(
        Group({"group_size": 2}, TOKEN_CASES),
        Group({"group_size": 4}, TOKEN_CASES[:3]),
        Group({"group_size": 1}, (steps_of("groups of one", G_4, W_4, full(4, 3), "group_of_one", result="invalid"),)),
    ),
)  # fmt: skip
