"""sequence_log_ratios: one log-ratio a completion: the mean of its tokens'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import grpo, ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...core import divided
from ...numbers import Dual, bounded_exp, dual, log, mean, stop, total
from ..shared import policy, policy_cases
from ..shared.common import EDGES, Settings


def row_log_ratios(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    for new, old, marks in zip(inputs["log_probs"], inputs["old_log_probs"], inputs["mask"], strict=True):
        own = [ppo.log_ratio(p, q) if m else dual(0) for p, q, m in zip(new, old, marks, strict=True)]
        whole = steps["whole"](steps["counted"](new, old, marks), marks)
        result.append([steps["place"](whole, u, settings) if m else None for u, m in zip(own, marks, strict=True)])
    return {"log_ratios": result}


def counted(new: Any, old: Any, marks: Sequence[bool]) -> list[Dual]:
    """The log-ratios of the chosen tokens."""
    return [ppo.log_ratio(p, q) for p, q, m in zip(new, old, marks, strict=True) if m]


def everything(new: Any, old: Any, marks: Sequence[bool]) -> list[Dual]:
    return [ppo.log_ratio(p, q) for p, q in zip(new, old, strict=True)]


def gspo_place(whole: Dual, own: Dual, settings: Settings) -> Dual:
    """(GRPO.4), or with ``token_gradient`` (GRPO.5), of which only the gradient differs."""
    return grpo.sequence_log_ratio_of_token(whole, own) if settings["token_gradient"] else whole


ROW_INPUTS = {k: a for k, a in policy.WITHOUT_REFERENCE.items() if k != "advantages"}


def row_cases(kept: Sequence[str], cases: Sequence[Case]) -> tuple[Case, ...]:
    """The usual cases with fewer arguments; far ones are ordinary here."""
    return tuple(
        Case(c.comment, {k: v for k, v in c.inputs.items() if k in kept}, tuple(f for f in c.flags if f in EDGES))
        for c in cases
        if c.result == "valid"
    )


OBJECTIVE = Objective(
    name="sequence_log_ratios",
    about="One log-ratio a completion, the mean of its tokens', at every token of it.",
    tags=("GRPO.4", "GRPO.5"),
    source=("Zheng et al., GSPO, arXiv:2507.18071v2, eq. 7 and 14",),
    arguments=ROW_INPUTS,
    returns={"log_ratios": Argument("B T", "nats a token")},
    settings={"token_gradient": Setting("False: GSPO; True: GSPO-token, each token moves its own term", (False, True))},
    compute=row_log_ratios,
    steps={"counted": counted, "whole": lambda us, marks: grpo.sequence_log_ratio(us), "place": gspo_place},
    alternatives={
        "sum": Alternative(
            Flag("bug", "The sum of log-ratios: not divided by the length.", "Long completions are always clipped."),
            {"whole": lambda us, marks: total(us)},
        ),
        "padded_length": Alternative(
            Flag(
                "bug",
                "Divided by the padded width.",
                "The ratio of a short completion is pulled towards 1.",
                (),
                ("C06",),
            ),
            {"whole": lambda us, marks: total(us) / len(marks)},
        ),
        "padding_summed": Alternative(
            Flag(
                "bug",
                "What lies under False is summed too (padding); the length is right.",
                "The ratio depends on how wide the batch is padded.",
                (),
                ("C06",),
            ),
            {"counted": everything, "whole": lambda us, marks: divided(total(us), sum(marks))},
        ),
        "ratio_not_its_log": Alternative(
            Flag("bug", "The ratio itself: exp of the log-ratio.", "exp is taken twice where the loss takes it again."),
            {"place": lambda whole, own, s: bounded_exp(gspo_place(whole, own, s))},
        ),
        "arithmetic_mean": Alternative(
            Flag("bug", "The log of the mean ratio.", "One outlier decides for the whole completion."),
            {"whole": lambda us, marks: log(mean([bounded_exp(u) for u in us] or [dual(1)]))},
        ),
        "last_token": Alternative(
            Flag("bug", "The last token's log-ratio for all.", "One token decides for the whole completion."),
            {"whole": lambda us, marks: us[-1] if us else dual(0)},
        ),
        "inverted_ratio": Alternative(
            Flag("bug", "log pi_old - log pi.", "Good completions are made rarer."),
            {"whole": lambda us, marks: -mean(us), "place": lambda whole, own, s: whole},
        ),
        "token_ratio": Alternative(
            Flag("variant", "Every token keeps its own log-ratio (GRPO).", "Tokens are clipped one by one."),
            {"place": lambda whole, own, s: own},
        ),
        "detached": Alternative(
            Flag("bug", "No gradient flows.", "The policy does not learn.", pitfalls=("C22",)),
            {"place": lambda whole, own, s: stop(whole)},
        ),
    },
    edges=EDGES,
    groups=(
        Group({"token_gradient": False}, row_cases(tuple(ROW_INPUTS), policy_cases.usual(False))),
        Group({"token_gradient": True}, row_cases(tuple(ROW_INPUTS), policy_cases.usual(False)[:6])),
    ),
)
