"""Every objective with its named alternatives and its cases, in the order of data flow."""

from __future__ import annotations

from ..contract import Objective
from . import core, dpo, grpo, ppo, reinforce, wpo

OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in [
        *core.OBJECTIVES,
        *reinforce.OBJECTIVES,
        *ppo.OBJECTIVES,
        *grpo.OBJECTIVES,
        *dpo.OBJECTIVES,
        *wpo.OBJECTIVES,
    ]
}
