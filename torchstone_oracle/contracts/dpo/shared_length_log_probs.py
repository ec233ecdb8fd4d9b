"""shared_length_log_probs: what a completion has beyond the shorter one of its pair counts less."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective, Setting
from ...numbers import Dual
from ..shared.common import (
    EDGES,
    LLAMA_FACTORY_FF6D4D1,
    LOG_PROBS,
    MASK,
    NAN,
    Settings,
    Steps,
    bug,
    full,
    hidden,
    marks,
    variant,
)
from ..shared.tokens import MULTIPLIED, PADDING, SCORES

OTHER = Argument("B U", "True at the tokens of the pair's other completion", kind="bool")


def scores(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    x, mask = inputs["log_probs"], steps["mask"](inputs["mask"])
    rows = zip(x, mask, inputs["other_mask"], steps["hidden"](x, mask), strict=True)
    return {"log_probs": [steps["row"](row, m, other, settings["alpha"]) + extra for row, m, other, extra in rows]}


def weighed(row: Any, m: Any, shared: int, alpha: Any) -> Dual:
    """The tokens that count, the first ``shared`` of them in full."""
    return dpo.shared_length_log_prob(row, m, [True] * shared, alpha)


def by_column(row: Any, m: Any, other: Any, alpha: Any) -> Dual:
    """Tokens are counted from the first one that counts, gaps included."""
    first = m.index(True) if any(m) else 0
    inside = [t < first + sum(other) for t in range(len(m))]
    head = dpo.sequence_log_prob(row, [a and b for a, b in zip(m, inside, strict=True)], False)
    return head + alpha * dpo.sequence_log_prob(row, [a and not b for a, b in zip(m, inside, strict=True)], False)


def one_early(row: Any, m: Any, other: Any, alpha: Any) -> Dual:
    return weighed(row, m, max(0, min(sum(m), sum(other)) - 1), alpha)


def head_and_tail_exchanged(row: Any, m: Any, other: Any, alpha: Any) -> Dual:
    whole = dpo.sequence_log_prob(row, m, False)
    return (1 + alpha) * whole - dpo.shared_length_log_prob(row, m, other, alpha)


CASES = (
    ("every token counts, beyond two others", full(3, 4), marks("11 11 11"), None, ()),
    ("longer, shorter, equal", marks("1111 1100 1110"), marks("11000 11111 11100"), None, ("ragged_mask",)),
    ("gaps: tokens are counted", marks("1011 0111 1101"), marks("110 010 011"), None, ("gaps_in_mask",)),
    ("gaps in the other completion", marks("1111 1110 1111"), marks("1010 0101 1001"), None, ("gaps_in_mask",)),
    ("junk in the padding", marks("1110 1100 1000"), marks("110 100 111"), -7.5, ("junk_under_mask",)),
    ("NaN in the padding", marks("1110 1100 1000"), marks("110 100 111"), NAN, ("nan_under_mask",)),
    ("a row without a token", marks("1111 0000 1110"), marks("100 110 110"), None, ("empty_row",)),
    ("no token at all", marks("0000 0000 0000"), marks("11 10 00"), None, ("all_masked",)),
)


def case(comment: str, mask: Any, other: Any, junk: float | None, flags: tuple[str, ...]) -> Case:
    x = SCORES if junk is None else hidden(SCORES, mask, junk)
    return Case(comment, {"log_probs": x, "mask": mask, "other_mask": other}, flags)


OBJECTIVE = Objective(
    "shared_length_log_probs",
    "A completion's log-probability, of which the part beyond the shorter one of its pair counts alpha times.",
    ("DPO.30",), ("Liu et al. (LD-DPO), arXiv:2409.06411, eq. 11 of the ICLR 2025 submission",),
    {"log_probs": LOG_PROBS, "mask": MASK, "other_mask": OTHER}, {"log_probs": Argument("B", "nats")},
    {"alpha": Setting("What a token beyond the shorter completion's length counts: 1 is the sum.", (0.5,))}, scores,
    {"mask": lambda mask: mask, "hidden": lambda x, mask: [Dual(0)] * len(x), "row": dpo.shared_length_log_prob},
    {
        "tail_in_full": variant(
            "The sum over all tokens, as in DPO.", "Long completions are rewarded for their length again.",
            {"row": lambda row, m, other, alpha: dpo.sequence_log_prob(row, m, False)}),
        "tail_cut": variant(
            "What is beyond the shorter completion is left out: alpha is 0.",
            "The end of a long completion, its end token included, is not learnt.",
            {"row": lambda row, m, other, alpha: dpo.shared_length_log_prob(row, m, other, 0)}),
        "whole_weighed": bug(
            "All of a longer completion is multiplied by alpha, not what is beyond the other one.",
            "The longer completion counts less than the shorter one.",
            {"row": lambda row, m, other, alpha: dpo.sequence_log_prob(row, m, False)
             * (alpha if sum(m) > sum(other) else 1)}),
        "columns_counted": variant(
            "Columns from the first token are counted, not tokens of the mask: a gap takes a place.",
            "A tool's text shortens what the policy wrote.", {"row": by_column}, links=(LLAMA_FACTORY_FF6D4D1,)),
        "one_token_early": bug(
            "The length is one too short.", "The shorter completion's last token, its end token, counts alpha times.",
            {"row": one_early}),
        "head_and_tail_exchanged": bug(
            "The first tokens count alpha times, those beyond the other completion in full.",
            "What the two have in common is played down, and length is worth more.", {"row": head_and_tail_exchanged}),
        "padding_included": PADDING,
        "mask_multiplied": MULTIPLIED,
    },
    EDGES, tuple(Group({"alpha": alpha}, tuple(case(*c) for c in CASES)) for alpha in (0.5, 0.125)),
)  # fmt: skip
