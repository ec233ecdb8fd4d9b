"""teacher_advantages: the teacher's log-ratio of each sampled token, and of what follows."""

from __future__ import annotations

from ...contract import Argument, Group, Objective
from ..shared import teacher
from ..shared.common import MASK, without
from ..shared.teacher_alternatives import (
    BATCHES,
    DISCOUNTS,
    NOT_DETACHED,
    OTHERS,
    SIGNALS,
    TEACHER_NOT_DETACHED,
)

CASES = teacher.usual(sampled=False)
OBJECTIVE = Objective(
    name="teacher_advantages",
    about="log pi_T - log pi of each chosen token, a constant, and with gamma the discounted sum of what follows.",
    tags=("DISTILL.1",),
    source=teacher.SOURCE,
    arguments={**teacher.ARGUMENTS, "mask": MASK},
    returns={"advantages": Argument("B T", "nats")},
    settings={"gamma": teacher.GAMMA},
    compute=teacher.advantages_alone,
    steps=teacher.ADVANTAGE_STEPS,
    alternatives={
        **without(SIGNALS, "half"),
        **DISCOUNTS,
        **OTHERS,
        **BATCHES,
        "not_detached": NOT_DETACHED,
        "teacher_not_detached": TEACHER_NOT_DETACHED,
    },
    edges=teacher.TEACHER_EDGES,
    groups=(
        Group({"gamma": 0.0}, CASES),
        Group({"gamma": 1.0}, (*CASES[:8], CASES[13])),
        Group({"gamma": 0.9}, CASES[:8]),
        Group({"gamma": 0.99}, CASES[1:3]),
    ),
)
