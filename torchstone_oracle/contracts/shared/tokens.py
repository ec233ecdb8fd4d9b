"""Losses of given tokens (fine-tuning, reward models): the computation, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core
from ...contract import Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, mpf, stop, total
from .common import EDGES, INF, MASK, NAN, OPENRLHF, TRL, Settings, Steps, bug, full, hidden, marks, variant

SCORES = [[-1.5, -0.25, -2.0, -0.75], [-0.5, -3.0, -1.25, -0.5], [-2.5, -1.0, -0.125, -1.75]]
RAGGED, GAPS, HOLLOW = marks("1111 1100 1000"), marks("1011 0110 1101"), marks("1100 0000 1110")


def token_cases(argument: str, values: list[list[float]], **others: Any) -> tuple[Case, ...]:
    """A matrix of tokens under every kind of mask."""

    def case(comment: str, mask: list[list[bool]], *flags: str, junk: float | None = None) -> Case:
        x = values if junk is None else hidden(values, mask, junk)
        return Case(comment, {argument: x, **others, "mask": mask}, flags)

    return (
        case("every token counts", full(3, 4)),
        case("different lengths", RAGGED, "ragged_mask"),
        case("gaps", GAPS, "gaps_in_mask"),
        case("junk in the padding", RAGGED, "junk_under_mask", junk=-7.5),
        case("NaN in the padding", RAGGED, "nan_under_mask", junk=NAN),
        case("-inf in the padding", RAGGED, "nan_under_mask", junk=-INF),
        case("a row without a token", HOLLOW, "empty_row"),
        case("no token at all", marks("0000 0000 0000"), "all_masked"),
    )


def widened(mask: list[list[bool]]) -> list[list[bool]]:
    return full(len(mask), len(mask[0])) if mask else mask


def zero_times(x: Any, mask: Any) -> list[Dual]:
    """Per row, 0 times what lies under False: 0, or nan."""
    return [total(mpf(0) * stop(v) for v, m in zip(*row, strict=True) if not m) for row in zip(x, mask, strict=True)]


PADDING = bug("Tokens under False count too.", "Prompt and padding are scored as if the policy had chosen them.",
              {"mask": widened}, pitfalls=("C59", "C36"),
              links=(f"{OPENRLHF}/pull/237", f"{TRL}/pull/2502"))  # fmt: skip
MULTIPLIED = bug("Tokens under False are multiplied by 0, not left out: 0 * nan is nan.",
                 "One NaN in the padding turns the whole update into NaN.", {"hidden": zero_times},
                 pitfalls=("C60",))  # fmt: skip


def tokens(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    first = next(iter(inputs))
    mask = steps["mask"](inputs["mask"])
    x = [
        [steps["token"](v, label) if m else None for v, label, m in zip(*rows, strict=True)]
        for rows in zip(inputs[first], labels(inputs), mask, strict=True)
    ]
    return {"loss": steps["reduce"](x, mask, settings) + total(steps["hidden"](inputs[first], mask))}


def labels(inputs: Inputs) -> list[list[Any]]:
    """One label a token, spread from one a completion, or none at all."""
    width = len(inputs["mask"][0])
    if "labels" in inputs:
        return [[c] * width for c in inputs["labels"]]
    return inputs.get("step_labels") or [[None] * width for _ in inputs["mask"]]


def asked(x: Any, mask: Any, settings: Settings) -> Dual:
    means = {"token_mean": core.token_mean, "sequence_mean": core.sequence_mean, "sequence_sum": core.sequence_sum}
    return means[settings["reduce"]](x, mask)


def token_objective(name: str, about: str, tag: str, source: str, first: str, others: Mapping[str, Argument],
                    values: Inputs, token: Step, alternatives: Mapping[str, Any]) -> Objective:  # fmt: skip
    def means(kind: str) -> Step:
        return lambda x, mask, settings: asked(x, mask, {"reduce": kind})

    shared = {
        kind: variant(f"The reduction is {kind}.", "Long and short completions weigh differently.",
                      {"reduce": means(kind)}, pitfalls=("C01",))
        for kind in ("token_mean", "sequence_mean", "sequence_sum")
    } | {"padding_included": PADDING, "mask_multiplied": MULTIPLIED}  # fmt: skip
    return Objective(
        name, about, (tag,), (source,), {first: Argument("B T", "nats", gradient=True), **others, "mask": MASK},
        {"loss": Argument("", "nats")}, {"reduce": Setting("How tokens become one number.", free=True)}, tokens,
        {"mask": lambda mask: mask, "token": token, "reduce": asked,
         "hidden": lambda x, mask: [Dual(0)] * len(x)},
        {**shared, **alternatives}, EDGES,
        tuple(Group({"reduce": kind}, token_cases(first, SCORES, **values))
              for kind in ("sequence_mean", "token_mean", "sequence_sum")),
    )  # fmt: skip
