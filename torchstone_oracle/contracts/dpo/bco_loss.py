"""bco_loss: two separate judgements in place of a comparison."""

from __future__ import annotations

from ... import dpo
from ...contract import Setting
from ...numbers import Dual
from ..shared.common import bug, variant
from ..shared.pairs import each, judged, objective


def bco_without_shift(win: Dual, lose: Dual) -> Dual:
    return dpo.bco(win, lose, 0)


OBJECTIVE = objective(
    "bco_loss", "Two separate judgements in place of a comparison.", ("DPO.22",), "arXiv:2404.04656, eq. 7 and 8",
    each(dpo.bco, "reward_shift"),
    {"shift_added": judged(bug, "The shift is added.", "The judgements are further from balance.",
                           lambda w, v, d: dpo.bco(w, v, -d), "reward_shift"),
     "shift_ignored": judged(variant, "No shift.", "Rewards that drift saturate one term.", bco_without_shift)},
    {"reward_shift": Setting("d, a constant.", (0,))}, ({"reward_shift": 0}, {"reward_shift": 0.25}),
)  # fmt: skip
