"""process_reward_loss: at the end of each step: is the step right?"""

from __future__ import annotations

from ... import dpo
from ...contract import Argument
from ..shared.tokens import token_objective
from .outcome_reward_loss import JUDGED

OBJECTIVE = token_objective(
    "process_reward_loss", "At the end of each step: is the step right?", "DPO.29",
    "Lightman et al., arXiv:2305.20050v1", "logits", {"step_labels": Argument("B T", "share")},
    {"step_labels": [[1, 0, 1, 0.25], [0, 1, 0.5, 0], [0, 1, 1, 0]]}, dpo.cross_entropy, JUDGED,
)  # fmt: skip
