"""optimism_loss: of each pair, the completion that the reference wrote is made less likely."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Group, Inputs, Objective
from ...numbers import Dual, dual
from ..shared.common import Settings, Steps, bug
from ..shared.pairs import BASE, DENOMINATOR, LOSS, NATS, ONE, OWN_COUNT, PAIR, PAIR_EDGES, SUMMED, TWO


def optimism(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(*(inputs[k] for k in PAIR), inputs["chosen_is_from_reference"], strict=True)
    return {"loss": steps["reduce"]([steps["term"](w, v, b) for w, v, b in rows], settings["denominator"])}


def of(base: Inputs, marks: list[bool]) -> Inputs:
    return {**{k: base[k] for k in PAIR}, "chosen_is_from_reference": marks}


CASES = (
    Case("four pairs, either side", of(BASE, [True, False, False, True])),
    Case("two pairs", of(TWO, [False, True])), Case("one pair", of(ONE, [True]), ("one_pair",)),
    Case("no pairs", of({k: [] for k in PAIR}, []), ("no_pairs",), result="acceptable"),
)  # fmt: skip
MARKS = Argument("N", "True where the reference wrote the chosen completion", kind="bool")


def both(w: Dual, v: Dual, b: bool) -> Dual:
    return w + v


OBJECTIVE = Objective(
    "optimism_loss", "Of each pair, the completion that the reference wrote is made less likely.", ("DPO.38",),
    ("arXiv:2405.21046, eq. 5",), {**dict.fromkeys(PAIR, NATS), "chosen_is_from_reference": MARKS}, LOSS,
    {"denominator": DENOMINATOR}, optimism, {"term": dpo.optimism, "reduce": dpo.pair_mean},
    {
        "sign_flipped": bug("The reference's completion is made likelier: supervised learning on it.",
                            "The policy is held where it should explore.",
                            {"term": lambda w, v, b: -dpo.optimism(w, v, b)}),
        "of_the_other_one": bug("The term is on the policy's own completion.",
                                "What the policy writes is unlearnt.", {"term": lambda w, v, b: dpo.optimism(v, w, b)}),
        "of_the_rejected": bug("The term is on the rejected completion, whoever wrote it.",
                               "Only rejected completions are explored away from.", {"term": lambda w, v, b: dual(v)}),
        "of_both": bug("The term is on both completions.", "The whole of the data is unlearnt.", {"term": both}),
        "sum_over_pairs": SUMMED, "denominator_ignored": OWN_COUNT,
    },
    PAIR_EDGES,
    (Group({"denominator": None}, CASES),
     Group({"denominator": 5}, (Case("of 5", CASES[1].inputs, ("micro_batch",)),))),
)  # fmt: skip
