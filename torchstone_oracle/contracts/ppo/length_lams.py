"""length_lams: a lambda for each completion, by its length (VAPO)."""

from __future__ import annotations

from typing import Any

from ... import ppo
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...numbers import Dual, dual
from ..shared.common import EDGES, MASK, Settings, Steps, bug, full, marks


def lams(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """One a row, of its length."""
    return {"lams": [steps["lam"](steps["length"](on), settings["alpha"]) for on in inputs["mask"]]}


def lam_of(length: int, alpha: Any) -> Dual:
    return ppo.length_lam(length, alpha)


def without_floor(length: int, alpha: Any) -> Dual:
    return 1 - 1 / (dual(alpha) * length) if length else dual(0)


CASES = (
    Case("rows of 5, 3 and 1", {"mask": marks("11111 11100 10000")}, ("ragged_mask",)),
    Case("tool output in between", {"mask": marks("110011 101000")}, ("gaps_in_mask",)),
    Case("eight tokens each", {"mask": full(2, 8)}),
    Case("one token", {"mask": full(1, 1)}, ("one_token",)),
    Case("an empty row", {"mask": marks("1111 0000")}, ("empty_row",)),
    Case("no chosen token at all", {"mask": marks("000 000")}, ("all_masked",)),
    Case("shorter than 1 / alpha, as long, longer", {"mask": marks("10000000 11000000 11111111")}, ("short",)),
)

OBJECTIVE = Objective(
    name="length_lams",
    about="A lambda for each completion, so that its tokens look ahead by one share of its length (VAPO).",
    tags=("PPO.17",),
    source=("VAPO, arXiv:2504.05118v3, eq. 4 and 5, by accounts",),
    arguments={"mask": MASK},
    returns={"lams": Argument("B", "none")},
    settings={"alpha": Setting("how far ahead a token looks, as a share of its completion", (0.05, 0.5, 1.5))},
    compute=lams,
    steps={"lam": lam_of, "length": lambda on: sum(on)},
    alternatives={
        "no_floor": bug(
            "1 - 1 / (alpha |y|), also where it is below 0.",
            "Short completions have a negative lambda: what was good later counts against what came before.",
            {"lam": without_floor},
        ),
        "of_the_width": bug(
            "The length is that of the padded batch.",
            "All completions have the lambda of the longest one.",
            {"length": len},
            pitfalls=("C36",),
        ),
        "up_to_the_last": bug(
            "Tool output counts in the length.",
            "Completions with tools look further ahead than the policy's own tokens reach.",
            {"length": lambda on: max((t + 1 for t, m in enumerate(on) if m), default=0)},
            pitfalls=("C48",),
        ),
    },
    edges={
        **{k: EDGES[k] for k in ("ragged_mask", "gaps_in_mask", "one_token", "empty_row", "all_masked")},
        "short": Flag("edge", "A completion of no more than 1 / alpha tokens.", "The formula is 0 or below."),
    },
    groups=tuple(Group({"alpha": alpha}, CASES) for alpha in (0.5, 1.5)),
)
