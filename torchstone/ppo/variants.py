"""Around PPO: no clip, another program's samples, two traces, right answers once more. Equations are in variants.md."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, check_flags, check_mask, number, per_token, require, select
from torchstone.core.logprobs import bounded_exp, log_ratios
from torchstone.ppo.gae import gae

__all__ = [
    "importance_surrogate", "importance_weights", "AdaptiveEntropy", "decoupled_gae", "length_lams",
    "likelihood_surrogate",
]  # fmt: skip

GATES = ("token", "sequence", "sequence-mean")
LEVELS = (*GATES, "one")


def importance_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """The loss per token that PPO clips, without the clip: nothing holds the ratio.

        L_t = -rho_t A_t,    rho_t = pi(y_t | x, y_<t) / pi_old(y_t | x, y_<t)    (PPO.12)

    At pi = pi_old its gradient is the policy gradient. Away from it the prefixes stay as pi_old drew them: rho_t is
    exact for completions of one token, and biased for longer ones; the ratio of the whole completion is exact.

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
    kept_max: float | None = None,
) -> Float[Tensor, "B T"]:
    """What each token's loss is multiplied by where the engine that sampled computes other log-probs than the trainer.

        u_t = log pi_old(y_t | x, y_<t) - log pi_sampler(y_t | x, y_<t)
        w_t = exp(u_t)    or, for a whole sequence,    w = exp(sum_t u_t)    or    w = exp(mean_t u_t)    (PPO.13)
        truncated:    clip(w, low, high)                                                                (PPO.14)
        masked:       min(w, kept_max) where low <= s <= high, else 0;  s is a w, at the gate's level   (PPO.15)

    Truncation keeps every token and bounds the variance; masking throws away what the sampler drew from too far off,
    and at level "one" does nothing else. All bias the gradient. Multiply the loss per token by the weights, before the
    reduction.

    Args:
        old_log_probs: under the policy that sampled, as the *trainer* computes it, in nats. Treated as a constant.
        sampler_log_probs: the same tokens as the *sampler* (an inference engine) reported them. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        level: of w: ``"token"``, ``"sequence"`` (the product over tokens), ``"sequence-mean"`` (the geometric mean) or
            ``"one"`` (w = 1).
        gate: None truncates w. Otherwise w is masked, and the gate names the level of s. NaN passes no gate.
        low, high: bounds of the ratio; None is no bound.
        kept_max: with a gate, the largest weight of what is kept; None is no bound.

    Returns: weights, unitless and detached; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``level`` or ``gate`` is unknown; the bounds are negative or swapped;
        ``kept_max`` is negative, or given without a gate.
    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025): truncation;
        Li et al., "When Speed Kills Stability" (2025), by the author's page in verl 1dda039b9: masks of sequences. TRL
        1.16.0, verl 0.9.1 and OpenRLHF 0.11.2 differ in levels (variants.md).
    """
    require(level in LEVELS, "level", f"one of {', '.join(LEVELS)}", level)
    require(gate is None or gate in GATES, "gate", f"None or one of {', '.join(GATES)}", gate)
    low, high = 0.0 if low is None else low, math.inf if high is None else high
    number("low", low, at_least=0)
    require(isinstance(high, int | float) and high >= low, "high", "a number that is not below low", high)
    alone = "None without a gate: high is then the largest weight"
    require(gate is not None or kept_max is None, "kept_max", alone, kept_max)
    if kept_max is not None:
        number("kept_max", kept_max, at_least=0)
    log_ratio = log_ratios(old_log_probs, sampler_log_probs, mask, "sampler_log_probs").detach()
    weights = bounded_exp(_at(level, log_ratio, mask))
    if gate is None:
        weights = weights.clamp(low, high)
    else:
        ratios = bounded_exp(_at(gate, log_ratio, mask))
        kept = (ratios >= low) & (ratios <= high)  # and not NaN
        weights = weights.clamp(max=math.inf if kept_max is None else kept_max).masked_fill(~kept, 0)
    return weights.masked_fill(~mask, 0)


def _at(level: str, log_ratio: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Log-ratios per token, or their sum or mean over the row at every token of it; of a weight of 1, zeros."""
    if level in ("token", "one"):
        return log_ratio if level == "token" else torch.zeros_like(log_ratio)
    total = log_ratio.sum(1, keepdim=True)
    return (total if level == "sequence" else total / mask.sum(1, keepdim=True).clamp(min=1)).expand(log_ratio.shape)


def decoupled_gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float | Float[Tensor, " B"],
    value_lam: float | Float[Tensor, " B"],
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """GAE with a lambda for the policy and another for what the critic learns (VC-PPO).

        A_t = GAE_t(gamma, lam),    R_t = GAE_t(gamma, value_lam) + V_t                         (PPO.16)

    With value_lam = 1 the critic learns the return itself, however long the completion; with a smaller lam the
    policy's gradient still varies less. In ``gae`` one lambda is both: at 0.95 a reward 100 tokens ahead counts 0.6%.

    Args:
        rewards, values, mask, gamma: as in ``gae``.
        lam: of the advantages, in [0, 1]; one number, or one a completion ``[B]`` (``length_lams``), taken as they
            are.
        value_lam: of the returns, likewise.

    Returns: (advantages, returns), as ``gae`` has them.
    Raises ValueError: a shape or dtype is wrong; a number is outside [0, 1].
    Source: Yuan et al. (VC-PPO), arXiv:2503.01491, by accounts.
    """
    check_mask(mask)
    if isinstance(value_lam, Tensor):
        as_float("value_lam", value_lam, mask.shape[:1])
    else:
        number("value_lam", value_lam, at_least=0, at_most=1)
    advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=lam)
    _, returns = gae(rewards, values, mask, gamma=gamma, lam=value_lam)
    return advantages, returns


def length_lams(mask: Bool[Tensor, "B T"], *, alpha: float) -> Float[Tensor, " B"]:
    """A lambda for each completion: the longer it is, the further ahead its tokens look (VAPO).

        lam_b = max(0, 1 - 1 / (alpha |y_b|))                                                   (PPO.17)

    The weights of GAE's errors, lam^0 + lam^1 + ..., then add up to about alpha |y_b|: the same share of each
    completion. Up to 1 / alpha tokens lam is 0, where the formula itself would fall below.

    Args:
        mask: True where the policy chose the token; |y_b| counts them.
        alpha: the share, above 0.

    Returns: unitless, in [0, 1), float64; 0 for a completion without a token.
    Raises ValueError: ``mask`` is no bool tensor of two dimensions; ``alpha`` is not above 0.
    Source: Yue et al. (VAPO), arXiv:2504.05118v3, eq. 4 and 5, by accounts; the floor at 0 as in NeMo-RL 7ea279a.
    """
    check_mask(mask)
    number("alpha", alpha, above=0)
    return 1 - 1 / (alpha * mask.sum(1, dtype=torch.float64)).clamp(min=1)


def likelihood_surrogate(
    log_probs: Float[Tensor, "B T"], right: Bool[Tensor, " B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Supervised learning on the samples that turned out right, to be added to a policy gradient (VAPO).

        L_t = -[y is right] log pi(y_t | x, y_<t)                                               (PPO.18)

    Its mean is over the tokens of right answers alone: ``token_mean(losses, mask, denominator=N)``, N counted in the
    whole batch. A part of the batch that has few right answers then weighs no more than its share.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        right: which completions are right. The caller judges.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.

    Returns: nats, per token; exactly 0 for other completions and where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Yue et al. (VAPO), arXiv:2504.05118v3, eq. 9 and 10, by accounts.
    """
    check_mask(mask)
    check_flags("right", right, mask.shape[:1])
    (log_probs,) = select(mask, log_probs=log_probs)
    return torch.where(right[:, None], -log_probs, 0)


@dataclass(frozen=True)
class AdaptiveEntropy:
    """A coefficient of the entropy bonus that keeps the entropy from falling below a target, and no longer than needed.

        coef <- clip( coef + delta if H < target else coef - delta, low, high )
        the next step's bonus: coef if H < target, else 0                                   (PPO.19)

    Args:
        coef: the present coefficient, in loss per nat: 0.0 at the start in the authors' scripts.
        target: the mean entropy wanted, in nats a token.
        delta: by how much the coefficient moves with each update.
        high, low: its bounds.
        entropy: the H that was measured last, in nats; None before the first update, when there is no bonus.
    Raises ValueError: ``low`` is negative; ``high`` is below ``low``; ``coef`` is outside the two; ``target`` or
        ``delta`` is not positive; an entropy is negative or not finite.
    Source: He et al. (Skywork-OR1), arXiv:2505.22312, section 3.2.5, by the authors' code (64e96af), whose first
        update has the bonus on. TRL 1.16.0 moves up at H = target too.
    """

    coef: float
    target: float
    delta: float
    high: float
    low: float = 0.0
    entropy: float | None = None

    def __post_init__(self) -> None:
        number("target", self.target, above=0)
        number("delta", self.delta, above=0)
        number("low", self.low, at_least=0)
        number("high", self.high, at_least=self.low)
        number("coef", self.coef, at_least=self.low, at_most=self.high)
        if self.entropy is not None:
            number("entropy", self.entropy, at_least=0)

    @property
    def bonus(self) -> float:
        """What the next update's loss takes off for each nat of entropy."""
        return self.coef if self.entropy is not None and self.entropy < self.target else 0.0

    def update(self, entropy: float) -> "AdaptiveEntropy":
        """The controller after one update of mean entropy ``entropy``, over all tokens of its batch, in nats."""
        entropy = float(entropy)
        number("entropy", entropy, at_least=0)
        moved = self.coef + (self.delta if entropy < self.target else -self.delta)
        return replace(self, coef=min(max(moved, self.low), self.high), entropy=entropy)
