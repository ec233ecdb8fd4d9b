"""step_group_advantages: each turn against those that began in the same state (GiGPO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import reinforce
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...numbers import Dual
from ..shared.common import EDGES, Settings, Steps, bug


def advantages(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    numbers = (steps["divides"](settings["divide_by_std"]), settings["correction"], settings["eps"])
    groups = steps["groups"](inputs["groups"])
    return {"advantages": steps["alone"](steps["of"](inputs["returns"], groups, *numbers), inputs["returns"], groups)}


def keeps_the_raw(found: list[Dual], returns: Sequence[Dual], groups: Sequence[int]) -> list[Dual]:
    return [r if list(groups).count(g) == 1 else a for a, r, g in zip(found, returns, groups, strict=True)]


def runs(groups: Sequence[int]) -> list[int]:
    """A group ends where the id changes: as if turns were sorted."""
    found: list[int] = []
    for i, g in enumerate(groups):
        found.append(found[-1] if i and g == groups[i - 1] else i)
    return found


def case(comment: str, returns: list[float], groups: list[int], *flags: str) -> Case:
    return Case(comment, {"returns": returns, "groups": groups}, flags)


CASES = (
    case("groups of two, three and one", [1.0, 5.0, 3.0, 7.0, 0.5, -1.0], [4, 9, 4, 2, 9, 9], "alone"),
    case("one state", [1.0, 0.0, 0.5, 4.0], [7, 7, 7, 7]),
    case("all states differ: 0", [1.0, -2.0, 3.0], [0, 1, 2], "alone"),
    case("equal returns beside others", [0.1, 0.1, 0.1, 2.0, 3.0], [5, 5, 5, 6, 6], "tie_that_rounds"),
    case("turns of two groups by turns", [0.0, 1.0, 2.0, 5.0, -1.0, 0.25], [1, 2, 1, 2, 1, 2]),
)

OBJECTIVE = Objective(
    name="step_group_advantages",
    about="Each turn of an agent against the turns of its task that began in the same state (GiGPO).",
    tags=("REINFORCE.17",),
    source=("GiGPO, arXiv:2505.10978, by accounts", "ROLL 8eb27cc2, roll/pipeline/agentic/utils.py"),
    arguments={
        "returns": Argument("N", "reward"),
        "groups": Argument("N", "equal for the turns of one task that began in one state", kind="int"),
    },
    returns={"advantages": Argument("N", "none if divided, else reward")},
    settings={
        "divide_by_std": Setting("True: by the group's deviation", (True, False), free=True),
        "correction": Setting("0: the deviation of a population; 1: of a sample, over n - 1", (1, 0), free=True),
        "eps": Setting("added to the deviation", (1e-6, 1e-4, 0.0), free=True),
    },
    compute=advantages,
    steps={
        "of": reinforce.step_group_advantages,
        "groups": lambda groups: groups,
        "divides": lambda asked: asked,
        "alone": lambda found, returns, groups: found,
    },
    alternatives={
        "one_group": bug(
            "All turns are one group.",
            "Turns are compared with those of other states.",
            {"groups": lambda groups: [0] * len(groups)},
        ),
        "runs_of_ids": bug(
            "Only neighbours of one id are a group.",
            "Turns of one state in different episodes never meet.",
            {"groups": runs},
        ),
        "alone_keeps_its_return": bug(
            "A turn that is alone in its state keeps its return.",
            "States that were seen once are pushed by their raw return.",
            {"alone": keeps_the_raw},
        ),
        "condition_inverted": bug(
            "Divided when not asked, and not divided when asked.",
            "The run is another algorithm than its configuration says.",
            {"divides": lambda asked: not asked},
            pitfalls=("C40",),
        ),
        "negated": bug(
            "mean - R.",
            "What turned out well is unlearned.",
            {"of": lambda *given: [-a for a in reinforce.step_group_advantages(*given)]},
        ),
    },
    edges={
        "tie_that_rounds": EDGES["tie_that_rounds"],
        "alone": Flag("edge", "A turn whose state was seen once: 0.", "NaN, or its return."),
    },
    groups=(
        Group({"divide_by_std": True, "correction": 1, "eps": 1e-4}, CASES),
        Group({"divide_by_std": False, "correction": 1, "eps": 1e-4}, CASES[:2]),
        Group({"divide_by_std": True, "correction": 0, "eps": 1e-6}, CASES[:2]),
    ),
)
