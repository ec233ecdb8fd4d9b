"""sft_loss: the negative log-likelihood of given completions."""

from __future__ import annotations

from ..shared.common import bug
from ..shared.tokens import token_objective

OBJECTIVE = token_objective(
    "sft_loss", "The negative log-likelihood of given completions.", "DPO.26", "Pang et al., arXiv:2404.19733v3, eq. 1",
    "log_probs", {}, {}, lambda x, _: -x,
    {"sign_flipped": bug("The likelihood itself is minimised.", "The model unlearns the chosen answers.",
                         {"token": lambda x, _: x}, pitfalls=("C76",))},
)  # fmt: skip
