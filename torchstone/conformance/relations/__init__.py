"""What must hold for any objective, whatever its numbers are: no golden value, only one answer against another.

check_relations(my_loss, "grpo_loss")                    arguments matched as ``check`` does
check_relations(my_loss, {"lp": "log_probs", ...})       a plain function of tensors; each name with its role
relations_of(call, batch, shapes)                        call(inputs) gives (output, gradients)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchstone.conformance.relations import gradients, masks, rows, run
from torchstone.conformance.relations.by_objective import matched
from torchstone.conformance.relations.by_roles import plain
from torchstone.conformance.relations.subject import Answer, Batch, Call, Refused, Relation, Subject

__all__ = ["Answer", "Relation", "check_relations", "relations_of"]

RELATIONS: tuple[Callable[[Subject], Relation], ...] = (
    run.same_twice, run.inputs_unchanged,
    masks.padding, masks.junk, masks.nan,
    rows.split, rows.permutation, rows.square,
    gradients.scale, gradients.sign, gradients.beta, gradients.gradient,
    run.in_float32,
)  # fmt: skip


def check_relations(
    function: Callable[..., Any], kind: str | Mapping[str, str] | None = None, *,
    names: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None,
    output: str | int | None = None, arrays: str | None = None, layout: str | None = None, time_limit: float = 10.0,
) -> list[Relation]:  # fmt: skip
    """Check a function against itself.

    Args:
        function: any callable.
        kind: an objective's name; or, for a function that is none of them, parameter -> role, such as
            {"lp": "log_probs", "adv": "advantages", "mask": "mask"}; what is left out or None is told by the names.
        names, settings, output, arrays, layout, time_limit: as in ``conformance.check``.

    Returns: a ``Relation`` for each that is asked, in a fixed order.
    Raises ValueError: no such objective, role or parameter.
    """
    roles = dict(names or {})
    if isinstance(kind, str):
        asked = matched(function, kind, roles, settings or {}, output, arrays, layout, time_limit)
    else:
        asked = plain(function, roles | dict(kind or {}), settings or {}, output, time_limit)
    return relations_of(*asked)


def relations_of(
    call: Call, batch: Batch, shapes: Mapping[str, str], declared: Sequence[str] = ("log_probs",)
) -> list[Relation]:
    """All relations for one way to call a function.

    Args:
        call: given a batch, its output and gradients.
        batch: our names -> tensors in float64, bool or int64, and numbers (``beta``).
        shapes: names of the dimensions, such as "B T"; rows are B, N or P, and columns T.
        declared: the arguments that a gradient should flow through.
    """
    try:
        subject = Subject(call, batch, shapes, declared)
    except Refused as e:
        return [Relation("runs", "fail", str(e))]
    first = RELATIONS[0](subject)
    if first.status == "fail":
        return [first]  # against changing numbers nothing can be compared
    return [first, *(ask(subject) for ask in RELATIONS[1:])]
