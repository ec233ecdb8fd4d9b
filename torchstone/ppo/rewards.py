"""Stage 4: a score for the whole completion, and a price per token for leaving the reference."""

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, number
from torchstone.core.kl import kl_k1
from torchstone.core.masks import last_chosen


def shaped_rewards(
    scores: Float[Tensor, " B"],
    log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float,
) -> Float[Tensor, "B T"]:
    """The KL is paid token by token, the score arrives with the last token.

        r_t = -beta (log pi(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t)) + [t is last] score    (PPO.1)

    Args:
        scores: one a completion, from a reward model or a checker, in reward units. Treated as a constant.
        log_probs: under the policy *that sampled* (the old policy), in nats. Treated as a constant.
        ref_log_probs: the same tokens under the frozen reference, in nats. Treated as a constant.
        mask: True where the policy chose the token. A row without a True gets no reward, its score included.
        beta: price of the KL, in reward units per nat.

    Returns: reward units, detached; 0 where ``mask`` is False. Each row sums to score - beta log(pi / pi_ref).
    Raises ValueError: a shape or dtype is wrong; ``beta`` is negative.
    Source: Ziegler et al., arXiv:1909.08593v2, eq. 2; Ouyang et al., arXiv:2203.02155v1, section 3.5.
    """
    number("beta", beta, 0)
    penalties = beta * kl_k1(log_probs, ref_log_probs, mask)
    scores = as_float("scores", scores, mask.shape[:1])
    return (scores[:, None].expand(mask.shape).masked_fill(~last_chosen(mask), 0) - penalties).detach()
