"""jsd_exact: the generalised Jensen-Shannon divergence of whole distributions."""

from __future__ import annotations

from ...contract import Argument, Group, Objective
from ..shared import divergences as shared
from ..shared.divergence_alternatives import ALTERNATIVES
from ..shared.divergences import (
    EXTREME,
    NEITHER,
    NOT_POLICY,
    NOT_TEACHER,
    PLAIN_CASES,
    SAME,
    SINGLE,
    SQUARE,
    THREE,
    infinite,
)

INSIDE = (*PLAIN_CASES, SAME, NEITHER, NOT_POLICY, NOT_TEACHER, EXTREME, SQUARE, THREE, SINGLE)
OBJECTIVE = Objective(
    name="jsd_exact",
    about="beta KL(teacher || M) + (1 - beta) KL(policy || M), M = beta teacher + (1 - beta) policy, of each "
    "position's whole distribution; KL(teacher || policy) at beta 0, KL(policy || teacher) at 1.",
    tags=("DISTILL.2",),
    source=shared.SOURCE,
    arguments=shared.ARGUMENTS,
    returns={"jsd": Argument("B T", "nats")},
    settings={"beta": shared.BETA, "temperature": shared.TEMPERATURE},
    compute=shared.every_position,
    steps=shared.STEPS,
    alternatives=ALTERNATIVES,
    edges=shared.DIVERGENCE_EDGES,
    groups=(
        Group({"beta": 0.5, "temperature": 1.0}, INSIDE),
        Group({"beta": 0.0, "temperature": 1.0},
              (*PLAIN_CASES, SAME, NEITHER, NOT_TEACHER, infinite(NOT_POLICY), EXTREME)),
        Group({"beta": 1.0, "temperature": 1.0},
              (*PLAIN_CASES, SAME, NEITHER, NOT_POLICY, EXTREME)),
        Group({"beta": 0.1, "temperature": 1.0}, (*PLAIN_CASES, NOT_POLICY)),
        Group({"beta": 0.9, "temperature": 1.0}, (*PLAIN_CASES, NOT_TEACHER)),
        *(Group({"beta": beta, "temperature": 2.0}, PLAIN_CASES) for beta in (0.0, 0.5, 1.0)),
        *(Group({"beta": beta, "temperature": 0.5}, PLAIN_CASES[:1]) for beta in (0.0, 0.5, 1.0)),
        Group({"beta": 0.9, "temperature": 0.5}, (PLAIN_CASES[2], NEITHER)),
    ),
)  # fmt: skip
