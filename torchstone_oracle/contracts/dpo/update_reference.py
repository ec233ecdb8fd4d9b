"""update_reference: a reference that follows the policy."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective, Setting
from ...numbers import Dual, Number, dual
from ..shared.common import Settings, Steps, bug, variant

PARAMETERS = Argument("N", "a parameter's entries")
CASES = (
    Case("two entries", {"ref_parameters": [0.0, 2.0], "parameters": [1.0, -2.0]}),
    Case("four entries", {"ref_parameters": [-0.5, 0.25, 3.0, 0.0], "parameters": [0.75, 0.125, -1.0, 0.0]}),
    Case("the reference is the policy", {"ref_parameters": [-0.5, 0.25], "parameters": [-0.5, 0.25]}),
)


def update(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["ref_parameters"], inputs["parameters"], strict=True)
    return {"parameters": [steps["move"](ref, new, settings["alpha"]) for ref, new in rows]}


def twice(ref: Dual, new: Dual, alpha: Number) -> Dual:
    return dpo.moved_reference(dpo.moved_reference(ref, new, alpha), new, alpha)


OBJECTIVE = Objective(
    "update_reference", "The reference moves a part of the way to the policy.", ("DPO.32",),
    ("Gorbatovski et al. (TR-DPO), arXiv:2404.09656, by TRL's account",),
    {"ref_parameters": PARAMETERS, "parameters": PARAMETERS}, {"parameters": Argument("N", "a parameter's entries")},
    {"alpha": Setting("The part that comes from the policy.", (0.6,))}, update, {"move": dpo.moved_reference},
    {
        "weights_exchanged": bug(
            "alpha is the part that the reference keeps.", "The reference follows by another part than was asked for.",
            {"move": lambda ref, new, alpha: dpo.moved_reference(new, ref, alpha)}),
        "moved_twice": bug(
            "The move is made twice: alpha is 1 - (1 - alpha)^2.", "The reference follows faster than was asked for.",
            {"move": twice}),
        "added": bug(
            "The policy's part is added to the whole reference.", "The reference's weights grow at every update.",
            {"move": lambda ref, new, alpha: dual(ref) + alpha * new}),
        "never": variant("The reference stays, as in DPO.", "The reference is the start model to the end.",
                         {"move": lambda ref, new, alpha: dpo.moved_reference(ref, new, 0)}),
        "wholly": variant("A hard update: the reference becomes the policy.", "Nothing holds the policy right after.",
                          {"move": lambda ref, new, alpha: dpo.moved_reference(ref, new, 1)}),
    },
    {}, tuple(Group({"alpha": alpha}, CASES) for alpha in (0.625, 0.25)),
)  # fmt: skip
