"""real_surrogate: a group's completions are classified by their log-ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import grpo
from ...contract import Argument, Case, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual, exp, log, mean, stop, total
from ..shared import policy
from ..shared.common import EDGES, NAN, Row, Settings, bug, full, hidden, variant
from .centred_log_ratios import EMPTY, GAPS, NEW, OLD, RAGGED, counted, one_by_one, side_by_side

Scored = list[tuple[Row, bool]]  # of each completion of a group: its log-ratios, and whether it is right


def classified(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    marks = inputs["mask"]
    rows = [
        (steps["counted"](new, old, on), bool(steps["right"](dual(a))))
        for new, old, on, a in zip(
            inputs["log_probs"], inputs["old_log_probs"], marks, inputs["advantages"], strict=True
        )
    ]
    found: dict[int, Dual] = {}
    for group in steps["groups"](range(len(rows)), settings["group_size"]):
        loss = steps["loss"]([rows[i] for i in group if any(marks[i])], settings["tau"])
        found |= dict.fromkeys(group, loss)
    return {"losses": [[found[i] if m else None for m in on] for i, on in enumerate(marks)]}


def of_means(group: Scored, tau: float) -> Dual:
    return grpo.real([mean(row) for row, _ in group], [r for _, r in group], tau)


def of_sums(group: Scored, tau: float) -> Dual:
    return grpo.real([total(row) for row, _ in group], [r for _, r in group], tau)


def without_both_kinds(group: Scored, tau: float) -> Dual:
    """The two logarithms as they are, whether there is something in both or not."""
    good = total(exp(-mean(row) / dual(tau)) for row, r in group if r)
    bad = total(exp(mean(row) / dual(tau)) for row, r in group if not r)
    return log(1 + good) + log(1 + bad)


def one_by_itself(group: Scored, tau: float) -> Dual:
    if not 0 < sum(r for _, r in group) < len(group):
        return dual(0)
    return total(log(1 + exp((-mean(row) if r else mean(row)) / dual(tau))) for row, r in group)


def without_the_border(group: Scored, tau: float) -> Dual:
    if not 0 < sum(r for _, r in group) < len(group):
        return dual(0)
    good = total(exp(-mean(row) / dual(tau)) for row, r in group if r)
    bad = total(exp(mean(row) / dual(tau)) for row, r in group if not r)
    return log(good) + log(bad)


def case(comment: str, advantages: Sequence[float], mask: Any, *flags: str, junk: Any = None, new: Any = None) -> Case:
    new = NEW if new is None else new
    given = (new, OLD) if junk is None else (hidden(new, mask, junk), hidden(OLD, mask, junk))
    inputs = {"log_probs": given[0], "old_log_probs": given[1], "advantages": list(advantages), "mask": mask}
    return Case(comment, inputs, flags)


CASES = (
    case("a right and a wrong one in each group", [1.0, 0.0, 0.0, 1.0], full(4, 3)),
    case("advantages for labels: their size does not count", [0.25, -0.75, -2.0, 0.5], full(4, 3)),
    case("a group without a wrong one", [1.0, 1.0, 1.0, 0.0], full(4, 3)),
    case("on policy", [1.0, 0.0, 0.0, 1.0], full(4, 3), new=OLD),
    case("ragged, with junk", [1.0, 0.0, 0.0, 1.0], RAGGED, "ragged_mask", "junk_under_mask", junk=-6.0),
    case("gaps, NaN under the mask", [0.0, 1.0, 1.0, 0.0], GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    case("a completion without a token", [1.0, 0.0, 0.0, 1.0], EMPTY, "empty_row"),
    case("no chosen token at all", [1.0, 0.0, 0.0, 1.0], [[False] * 3] * 4, "all_masked"),
)
OBJECTIVE = Objective(
    name="real_surrogate",
    about="log(1 + sum of right exp(-s / tau)) + log(1 + sum of wrong exp(s / tau)) of a group, at each of its tokens.",
    tags=("GRPO.27",),
    source=("Zhai et al., REAL, arXiv:2602.05630v1, by its authors' code, Red-RL/REAL 1c30726",),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"losses": Argument("B T", "none")},
    settings={
        "group_size": Setting("completions of each prompt", (2, 4)),
        "tau": Setting("nats per token", (0.5, 1.0), free=True),
    },
    compute=classified,
    steps={"counted": counted, "right": lambda a: a > 0, "groups": side_by_side, "loss": of_means},
    alternatives={
        "sides_swapped": bug(
            "Right and wrong have changed places.",
            "Wrong answers are made more likely.",
            {"right": lambda a: not a > 0},
        ),
        "zero_is_right": bug(
            "A reward of 0 counts as right.",
            "With rewards of 0 and 1 all are right, and nothing is learned.",
            {"right": lambda a: a >= 0},
        ),
        "sum_of_tokens": variant(
            "s is the sum over the completion, not its mean.",
            "Long completions are far from the border at once.",
            {"loss": of_sums},
        ),
        "both_kinds_not_asked": variant(
            "A group without a wrong one, or without a right one, counts too.",
            "What is right in a solved prompt is pushed up still.",
            {"loss": without_both_kinds},
        ),
        "each_by_itself": variant(
            "A cross-entropy for each completion: log(1 + exp) of each, summed.",
            "A group of many right answers moves by as many 1 / tau, not by one.",
            {"loss": one_by_itself},
        ),
        "no_border": variant(
            "log sum exp without the 1.",
            "Right and wrong are told from one another, and not from where they stand now.",
            {"loss": without_the_border},
        ),
        "tau_inverted": bug(
            "s times tau.",
            "A small tau makes all completions move alike.",
            {"loss": lambda group, tau: of_means(group, 1 / tau)},
        ),
        "detached": bug(
            "No gradient flows.",
            "The policy does not learn.",
            {"loss": lambda group, tau: stop(of_means(group, tau))},
            pitfalls=("C22",),
        ),
        "other_layout": bug(
            "The rows were laid out the other way round: completions of other prompts are taken for siblings.",
            "Answers to other questions are classified together.",
            {"groups": one_by_one},
            pitfalls=("C41",),
        ),
    },
    edges=EDGES,
    groups=(
        Group({"group_size": 2, "tau": 0.5}, CASES),
        Group({"group_size": 4, "tau": 2.0}, CASES[:5]),
    ),
)
