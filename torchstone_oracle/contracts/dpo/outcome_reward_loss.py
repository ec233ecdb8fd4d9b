"""outcome_reward_loss: at every token: will the completion turn out right?"""

from __future__ import annotations

from ... import dpo
from ...contract import Argument
from ...numbers import dual, log_sigmoid, stop
from ..shared.common import bug, variant
from ..shared.tokens import token_objective

JUDGED = {
    "labels_flipped": bug("Right and wrong are exchanged.", "The reward model prefers wrong answers.",
                          {"token": lambda z, c: dpo.cross_entropy(z, 1 - dual(c))}),
    "wrong_ones_ignored": bug("Only the term of the right ones is there.", "Every answer is soon called right.",
                              {"token": lambda z, c: -stop(c) * log_sigmoid(z)}),
    "squared_error": variant("The squared distance of the logit from its label.", "The logit is not a probability's.",
                             {"token": lambda z, c: (z - stop(c)) * (z - stop(c))}),
}  # fmt: skip
OBJECTIVE = token_objective(
    "outcome_reward_loss", "At every token: will the completion turn out right?", "DPO.28",
    "Cobbe et al., arXiv:2110.14168v2, section 4.3", "logits", {"labels": Argument("B", "share")},
    {"labels": [1, 0, 0.25]}, dpo.cross_entropy, JUDGED,
)  # fmt: skip
