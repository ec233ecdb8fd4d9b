"""sppo_loss: each log-ratio is pulled to a win rate."""

from __future__ import annotations

from ... import dpo
from ...contract import Inputs
from ...core import Row
from ..shared.common import Settings, bug
from ..shared.pairs import objective


def sppo_losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
    """The hard form: the chosen always wins, the rejected never."""
    return [dpo.sppo(a, b, settings["beta"], 1, 0) for a, b in zip(win, lose, strict=True)]


OBJECTIVE = objective(
    "sppo_loss", "Each log-ratio is pulled to a win rate, here 1 and 0.", ("DPO.23",), "Wu et al., arXiv:2405.00675",
    sppo_losses,
    {"half": bug("Half of the squares.", "Half the learning rate.",
                 {"losses": lambda *x: [y / 2 for y in sppo_losses(*x)]})},
)  # fmt: skip
