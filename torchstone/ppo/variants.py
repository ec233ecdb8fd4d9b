"""Around PPO: a controller for the KL's price, the surrogate without a clip, weights for another program's samples."""

import math
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import bounded_exp, log_ratios, number, per_token, require

__all__ = ["importance_surrogate", "importance_weights"]

LEVELS = ("token", "sequence", "sequence-mean")


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
        number("beta", self.beta, 0)
        for name in ("target", "gain", "max_error"):
            number(name, getattr(self, name), low=0, strict=True)

    def update(self, kl: float) -> "AdaptiveKL":
        """The controller after one update in which ``kl`` was measured, in the unit of ``target``."""
        error = min(max(float(kl) / self.target - 1, -self.max_error), self.max_error)
        return replace(self, beta=self.beta * (1 + self.gain * error))


def importance_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """The loss per token that PPO clips, without the clip: unbiased one step from the sampling policy, and no brake.

        L_t = -r_t(theta) A_t,    r_t(theta) = pi(y_t | x, y_<t) / pi_old(y_t | x, y_<t)    (PPO.12)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.

    Returns: the unit of ``advantages``, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Schulman et al., arXiv:1707.06347v2, eq. 6.
    """
    ratios = bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs"))
    return -ratios * per_token("advantages", advantages, mask)


def importance_weights(
    old_log_probs: Float[Tensor, "B T"],
    sampler_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    level: str,
    gate: str | None,
    low: float | None = None,
    high: float | None = None,
) -> Float[Tensor, "B T"]:
    """What each token's loss is multiplied by where the program that sampled computes other log-probs than the trainer.

        u_t = log pi_old(y_t | x, y_<t) - log pi_sampler(y_t | x, y_<t)
        w_t = exp(u_t)    or, for a whole sequence,    w = exp(sum_t u_t)    or    w = exp(mean_t u_t)    (PPO.13)
        truncated:    clip(w, low, high)                                                                (PPO.14)
        masked:       w where low <= s <= high, else 0;    s is a w, at the level of the gate           (PPO.15)

    Truncation keeps every token and bounds the variance; masking throws away what the sampler drew from too far off.
    Both bias the gradient. Multiply the loss per token by the weights, before the reduction.

    Args:
        old_log_probs: under the policy that sampled, as the *trainer* computes it, in nats. Treated as a constant.
        sampler_log_probs: the same tokens as the *sampler* (an inference engine) reported them. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        level: of w: ``"token"``, ``"sequence"`` (the product over tokens) or ``"sequence-mean"`` (the geometric mean).
        gate: None truncates w. Otherwise w is masked, and the gate names the level of s.
        low, high: bounds of the ratio; None is no bound.

    Returns: weights, unitless and detached; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``level`` or ``gate`` is unknown; the bounds are negative or swapped.
    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025): truncation;
        TRL 1.16.0, verl 0.9.1 and OpenRLHF 0.11.2 differ in levels (README.md, Choices).
    """
    require(level in LEVELS, "level", f"one of {', '.join(LEVELS)}", level)
    require(gate is None or gate in LEVELS, "gate", f"None or one of {', '.join(LEVELS)}", gate)
    low, high = 0.0 if low is None else low, math.inf if high is None else high
    number("low", low, 0)
    require(isinstance(high, int | float) and high >= low, "high", "a number that is not below low", high)
    moved = log_ratios(old_log_probs, sampler_log_probs, mask, "sampler_log_probs").detach()
    weights = bounded_exp(_at(level, moved, mask))
    if gate is None:
        weights = weights.clamp(low, high)
    else:
        ratios = bounded_exp(_at(gate, moved, mask))
        weights = weights.masked_fill((ratios < low) | (ratios > high), 0)
    return weights.masked_fill(~mask, 0)


def _at(level: str, moved: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Log-ratios per token, or their sum or mean over the row at every token of it."""
    if level == "token":
        return moved
    total = moved.sum(1, keepdim=True)
    return (total if level == "sequence" else total / mask.sum(1, keepdim=True).clamp(min=1)).expand(moved.shape)
