"""orpo_loss: fine-tuning that also raises the odds of the chosen completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import dpo
from ...contract import Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, exp, log, log_sigmoid, mpf
from ..shared.common import Settings, Steps, bug
from ..shared.pairs import DENOMINATOR, LOSS, PAIR, PAIR_EDGES, SHARED, TWO_ONLY, as_given, each, four


def with_odds(odds: Callable[[Dual], Dual] = dpo.log_odds, sft: bool = True, sign: int = 1) -> Step:
    """ORPO's two terms. Its rewards carry no beta: odds_coef stands before the logarithm."""

    def one(w: Dual, v: Dual, odds_coef: Any, sft_coef: Any) -> Dual:
        return (-(sft_coef if sft else 0) * w) - odds_coef * log_sigmoid(sign * (odds(w) - odds(v)))

    return each(one, "odds_coef", "sft_coef")


def orpo(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    win, lose = steps["order"](*(inputs[k] for k in PAIR))
    return {"loss": steps["reduce"](steps["losses"](win, lose, inputs, settings), settings["denominator"])}


P = four([-0.5, -1.25, -0.75], [-1.5, -0.375, -2.0])
THREE = (
    Case("three pairs", P, ("both_signs",)),
    Case("two likely pairs", four([-0.25, -0.125], [-0.75, -0.375])),
    Case("one pair", four([-1.5], [-0.625]), ("one_pair",)),
)
NO_PAIRS = (Case("no pairs", four([], []), ("no_pairs",), "acceptable"),)
ORPO_SETTINGS = (
    {"odds_coef": 0.1, "sft_coef": 1},
    {"odds_coef": 0.5, "sft_coef": 0.5},
    {"odds_coef": 0.5, "sft_coef": 0},
)
OBJECTIVE = Objective(
    "orpo_loss", "Supervised fine-tuning that also raises the odds of the chosen completion.", ("DPO.11", "DPO.12"),
    ("Hong et al., arXiv:2403.07691v2, eq. 3-7",), TWO_ONLY, LOSS,
    {"odds_coef": Setting("lambda.", (0.1,), free=True), "sft_coef": Setting("1 in the paper.", (1,)),
     "denominator": DENOMINATOR}, orpo,
    {"order": as_given, "losses": with_odds(), "reduce": dpo.pair_mean},
    {
        **SHARED,
        "sft_term_missing": bug("The supervised term is missing.", "Nothing raises the chosen likelihood itself.",
                                {"losses": with_odds(sft=False)}),
        "odds_sign_flipped": bug("The odds ratio has the wrong sign.", "The rejected completion's odds rise.",
                                 {"losses": with_odds(sign=-1)}, pitfalls=("C76",)),
        "log_probs_for_odds": bug("log P stands where log odds should.", "Likely completions are pushed less.",
                                  {"losses": with_odds(lambda p: p)}),
        "biased_odds": bug("log(1.0001 - P) keeps the logarithm finite.", "The odds of likely completions are too small.",  # noqa: E501
                           {"losses": with_odds(lambda p: p - log(mpf("1.0001") - exp(p)))}, pitfalls=("C75", "R21"),
                           links=("https://github.com/hpcaitech/ColossalAI/pull/6407",)),
    },
    PAIR_EDGES | {"certain": Flag("edge", "A mean log-prob of 0 or just below: value and gradient stay finite.",
                                  "log(1 - 1) is -inf, and the gradient NaN.", pitfalls=("C75", "R21"))},
    (
        *(Group({**s, "denominator": None}, (*THREE, *none))
          for s, none in zip(ORPO_SETTINGS, [NO_PAIRS, *[()] * (len(ORPO_SETTINGS) - 1)], strict=True)),
        Group({**ORPO_SETTINGS[0], "denominator": None}, (
            Case("a chosen mean log-prob of -2^-13", four([-0.0001220703125, -0.5], [-1.5, -1.0]), ("certain",)),
            Case("a rejected mean log-prob of 0", four([-0.5, -0.75], [0.0, -1.0]), ("certain",), "acceptable", True),
        )),
        Group({**ORPO_SETTINGS[0], "denominator": 5}, (Case("3 pairs of a batch of 5", P, ("micro_batch",)),)),
    ),
)  # fmt: skip
