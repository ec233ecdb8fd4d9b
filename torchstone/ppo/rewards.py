"""Stage 4: a score for the whole completion, and a price per token for leaving the reference."""

from dataclasses import dataclass, replace

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
        mask: True where the policy chose the token. Other entries may hold anything, NaN included. A row without a
            True gets no reward, its score included.
        beta: price of the KL, in reward units per nat.

    Returns: reward units, detached; 0 where ``mask`` is False. Each row sums to score - beta log(pi / pi_ref).
    Raises ValueError: a shape or dtype is wrong; ``beta`` is negative.
    Source: Ziegler et al., arXiv:1909.08593v2, eq. 2; Ouyang et al., arXiv:2203.02155v1, section 3.5.
    """
    number("beta", beta, at_least=0)
    penalties = beta * kl_k1(log_probs, ref_log_probs, mask)
    scores = as_float("scores", scores, mask.shape[:1])
    return (scores[:, None].expand(mask.shape).masked_fill(~last_chosen(mask), 0) - penalties).detach()


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL coefficient that steers the measured KL towards a target. A fixed coefficient is just a number.

        e = clip(KL / target - 1, -max_error, max_error),    beta <- beta (1 + gain e)    (PPO.2)

    Args:
        beta: the present coefficient, in reward units per nat.
        target: the KL(pi || pi_ref) wanted, in nats per completion (or per token: the unit ``update`` is given).
        gain: K_beta, unitless: 0.1 in the paper; TRL's former PPO and verl use samples per update / horizon.
        max_error: bound of the error, unitless: 0.2 in the paper.
    Raises ValueError: ``beta`` is negative; ``target``, ``gain`` or ``max_error`` is not positive.
    Source: Ziegler et al., arXiv:1909.08593v2, section 2.2 (unnumbered).
    """

    beta: float
    target: float
    gain: float
    max_error: float = 0.2

    def __post_init__(self) -> None:
        number("beta", self.beta, at_least=0)
        for name in ("target", "gain", "max_error"):
            number(name, getattr(self, name), above=0)

    def update(self, kl: float) -> "AdaptiveKL":
        """The controller after one update in which ``kl`` was measured, in the unit of ``target``."""
        error = min(max(float(kl) / self.target - 1, -self.max_error), self.max_error)
        return replace(self, beta=self.beta * (1 + self.gain * error))
