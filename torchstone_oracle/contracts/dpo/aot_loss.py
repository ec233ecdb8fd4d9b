"""aot_loss: DPO between sorted values."""

from __future__ import annotations

from ... import dpo
from ...contract import Inputs, Setting, Step
from ...core import Row
from ...numbers import dual, stop
from ..shared.common import Settings, bug
from ..shared.pairs import PAIR, REFERENCE, WRONG, objective
from .dpo_loss import SMOOTHING


def sorted_losses(paired: bool | None = None, ordered: bool = True) -> Step:
    """AOT: h_i between sorted values; of the two models if paired, else of the two kinds of completions."""

    def losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
        order = dpo.ascending if ordered else list
        u, v = win, lose
        if settings["paired"] if paired is None else paired:
            beta = settings["beta"]
            u = [beta * (dual(a) - b) for a, b in zip(*(inputs[k] for k in PAIR), strict=True)]
            v = [beta * (stop(a) - stop(b)) for a, b in zip(*(inputs[k] for k in REFERENCE), strict=True)]
        return [dpo.dpo(a, b, settings["label_smoothing"]) for a, b in zip(order(u), order(v), strict=True)]

    return losses


OBJECTIVE = objective(
    "aot_loss", "DPO between sorted values.", ("DPO.25",), "Melnyk et al., arXiv:2406.05882", sorted_losses(),
    {"not_sorted": bug("The values are not sorted.", WRONG, {"losses": sorted_losses(ordered=False)}),
     "label_smoothing_ignored": bug("label_smoothing is not used.", "Noisy labels are trusted fully.",
                                    settings={"label_smoothing": 0}, pitfalls=("C72",))},
    {"label_smoothing": SMOOTHING, "paired": Setting("Sort preferences, or each kind of completion.")},
    ({"label_smoothing": 0, "paired": False}, {"label_smoothing": 0.1, "paired": True}), plain_dpo=False,
)  # fmt: skip
