"""Other ratios, other surrogates, other KL terms: what came after GRPO. Equations and symbols are in variants.md.

Stage 3 log-ratios of whole sequences; stage 4 penalties for length; stage 5 which groups teach; stage 6 losses.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, check_mask, number, per_token, require, select
from torchstone.core.kl import kl_k2, kl_k3
from torchstone.core.logprobs import bounded_exp, log_ratios
from torchstone.core.reduce import Count, all_equal, sequence_mean
from torchstone.reinforce.loss import reinforce_surrogate
from torchstone.reinforce.returns import scored_members

# fmt: off
__all__ = [
    "sequence_log_ratios", "centred_log_ratios", "overlong_penalties", "mixed_groups",
    "cispo_surrogate", "sapo_surrogate", "gmpo_surrogate", "vespo_surrogate", "dppo_surrogate",
    "quadratic_surrogate", "topr_surrogate", "real_surrogate",
    "kl_k3_with_k2_gradient", "ratio_weighted_kl", "off_policy_weights", "chord_weights", "group_token_mean",
]
# fmt: on


def sequence_log_ratios(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    token_gradient: bool,
) -> Float[Tensor, "B T"]:
    """One log-ratio a sequence, the mean of its tokens' (GSPO): pass it on as log-probs, with zeros as the old ones.

        log s = (1 / |y|) sum_t (log pi(y_t | x, y_<t) - log pi_old(y_t | x, y_<t))             (GRPO.4)
        log s_t = sg[log s] + log pi(y_t | x, y_<t) - sg[log pi(y_t | x, y_<t)]    GSPO-token    (GRPO.5)

    sg[.] is a constant. The two have one value; their gradients differ if tokens have advantages of their own.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        token_gradient: False is GSPO: the gradient of one token's term reaches every token of its row. True is
            GSPO-token: it reaches that token alone.

    Returns: nats per token, the same at every token of a row; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.

    Example: ``clipped_surrogate(s, torch.zeros_like(s), advantages, mask, epsilon=3e-4, epsilon_high=4e-4)``, reduced
        by ``sequence_mean``. Reduced by ``token_mean`` a sequence counts as often as it has tokens.
    Source: Zheng et al. (GSPO), arXiv:2507.18071v2, eq. 7 and 14.
    """
    token = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
    sequence = (token.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)).expand(token.shape)  # GRPO.4
    if token_gradient:
        sequence = sequence.detach() + token - token.detach()  # GRPO.5
    return sequence.masked_fill(~mask, 0)


def centred_log_ratios(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    group_size: int,
) -> Float[Tensor, "B T"]:
    """The completion's summed log-ratio less the mean of its group's (REBEL): pass it on as GRPO.4, zeros as old ones.

        s_i = sum_t (log pi(y_it | x, y_i,<t) - log pi_old(y_it | x, y_i,<t))
        c_i = s_i - mean_j s_j,    j over the group's completions that chose a token            (GRPO.25)

    What all completions of a prompt have in common is gone, as in a difference of two: the unknown constant of the
    optimum of a KL-regularised reward, its log-normaliser, among it.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that the update begins with, in nats. Treated as a constant.
        mask: True where the policy chose the token; rows p * group_size to (p + 1) * group_size - 1 belong to prompt
            p. Other entries may hold anything, NaN included.
        group_size: G, completions of each prompt; it divides the number of rows.

    Returns: nats, the same at every token of a row; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``group_size`` does not divide the rows.
    Source: Gao et al. (REBEL), arXiv:2404.16767, for pairs; a group of two is a pair.
    """
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
    _check_groups(mask, group_size)
    whole, chose = log_rho.sum(1).view(-1, group_size), mask.any(1).view(-1, group_size)
    centred = whole - whole.sum(1, keepdim=True) / chose.sum(1, keepdim=True).clamp(min=1)
    return centred.reshape(-1, 1).expand(log_rho.shape).masked_fill(~mask, 0)


def _check_groups(mask: Bool[Tensor, "B T"], group_size: int) -> None:
    """Raise ``ValueError`` unless the rows are whole groups."""
    fits = type(group_size) is int and group_size > 0 and len(mask) % group_size == 0
    require(fits, "group_size", f"a positive integer that divides the {len(mask)} rows", group_size)


def overlong_penalties(lengths: Float[Tensor, "P G"], *, max_length: int, cache: int) -> Float[Tensor, "P G"]:
    """DAPO's soft punishment of long completions, to add to the rewards.

        0                                     if |y| <= max_length - cache
        (max_length - cache - |y|) / cache    if |y| <= max_length
        -1                                    beyond                                        (GRPO.6)

    Args:
        lengths: |y|, in tokens, as floating-point numbers, in the shape of the rewards.
        max_length: L_max, the longest completion that generation allows, in tokens.
        cache: L_cache, the last tokens before it, over which the penalty grows from 0 to -1.

    Returns: reward units, from -1 to 0, detached.
    Raises ValueError: a shape or dtype is wrong; ``cache`` is not positive, or above ``max_length``.
    Source: Yu et al. (DAPO), arXiv:2503.14476v2, eq. 13.
    """
    number("cache", cache, above=0)
    number("max_length", max_length, at_least=cache)
    lengths = as_float("lengths", lengths, "P G").detach()
    return ((max_length - cache - lengths) / cache).clamp(-1, 0)


def mixed_groups(rewards: Float[Tensor, "P G"], *, scored: Bool[Tensor, "P G"] | None = None) -> Bool[Tensor, " P"]:
    """Which prompts' groups hold more than one reward: DAPO's dynamic sampling draws others in place of the rest.

        keep_p = max_i r_i > min_i r_i    over the group's scored samples                    (GRPO.7)

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: True for the groups to keep. To drop the others from a batch rather than replace them, mask their rows:
        ``mask & keep.repeat_interleave(G)[:, None]``; they then enter no count either.
    Raises ValueError: a shape or dtype is wrong.
    Source: Yu et al. (DAPO), arXiv:2503.14476v2, eq. 11.
    """
    rewards = as_float("rewards", rewards, "P G")
    return ~all_equal(rewards, scored_members(rewards, scored))[:, 0]


def cispo_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    epsilon: float | None,
    epsilon_high: float | None = None,
    cap: float | None = None,
) -> Float[Tensor, "B T"]:
    """The clip bounds the weight of a token, and no token loses its gradient.

        L_t = -sg[ clip(rho_t, 1 - epsilon, 1 + epsilon_high) ] A_t log pi(y_t | x, y_<t)    (GRPO.8)
        L_t = -sg[ min(rho_t, cap) ] A_t log pi(y_t | x, y_<t)                               (GRPO.9)

    Published code means either by "epsilon_high": 0.2 as 1 + epsilon_high bounds the ratio at 1.2; as a cap, at 0.2.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it, not through rho_t.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        epsilon: the lower bound is 1 - epsilon; None is no lower bound.
        epsilon_high: the upper bound is 1 + epsilon_high. Give this or ``cap``.
        cap: the upper bound itself. Give this or ``epsilon_high``.

    Returns: the unit of ``advantages`` x nats, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; an epsilon is negative; not just one of ``epsilon_high``, ``cap``;
        ``cap`` is below 1 - epsilon.
    Source: MiniMax (MiniMax-M1), arXiv:2506.13585v1, eq. 4 and 5.
    """
    require((epsilon_high is None) != (cap is None), "epsilon_high", "either epsilon_high or cap", (epsilon_high, cap))
    for name, x in (("epsilon", epsilon), ("epsilon_high", epsilon_high), ("cap", cap)):
        if x is not None:
            number(name, x, at_least=0)
    high = cap if epsilon_high is None else 1 + epsilon_high
    low = 0.0 if epsilon is None else 1 - epsilon
    require(cap is None or cap >= low, "cap", f"a number of at least 1 - epsilon, {low}", cap)
    ratios = bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs")).detach()
    return ratios.clamp(low, high) * reinforce_surrogate(log_probs, advantages, mask)


def sapo_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    tau_positive: float,
    tau_negative: float,
) -> Float[Tensor, "B T"]:
    """A soft gate in place of the clip: the further the ratio is from 1, the less of its gradient is left, and never 0.

        L_t = -f(rho_t) A_t,    f(rho) = (4 / tau) sigmoid(tau (rho - 1))                         (GRPO.10)

    tau is tau_positive where A_t > 0 and tau_negative elsewhere. At rho = 1 the slope of f is 1, whatever tau is. By
    its log-prob a token has rho f'(rho) A_t: at tau = 1 that grows to 1.57 A_t at rho = 2.06, and falls from there.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        tau_positive, tau_negative: how fast the gate closes, per unit of ratio.

    Returns: the unit of ``advantages``, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; a tau is not positive.
    Source: Gao et al. (SAPO), arXiv:2511.20347.
    """
    number("tau_positive", tau_positive, above=0)
    number("tau_negative", tau_negative, above=0)
    advantages = per_token("advantages", advantages, mask)
    ratios = bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs"))
    tau = torch.full_like(ratios, tau_negative).masked_fill(advantages > 0, tau_positive)
    return -4 / tau * torch.sigmoid(tau * (ratios - 1)) * advantages


def gmpo_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    epsilon: float,
    epsilon_high: float | None = None,
) -> Float[Tensor, "B T"]:
    """The geometric mean of a sequence's clipped ratios in place of the arithmetic mean: outliers weigh less.

        u_t = log rho_t,    c_t = min(u_t, epsilon_high) where A > 0, else max(u_t, -epsilon)
        L_t = -exp( (1 / |y|) sum_t c_t ) A                                                 (GRPO.11)

    The clip is in nats: it bounds the ratio between exp(-epsilon) and exp(epsilon_high).

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``; its sign decides which side is clipped.
            Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        epsilon, epsilon_high: the clip of the log-ratio, in nats; ``epsilon_high`` is ``epsilon`` if None.

    Returns: the unit of ``advantages``, the same ratio at every token of a row; exactly 0 where ``mask`` is False.
        Reduce it by ``sequence_mean``.
    Raises ValueError: a shape or dtype is wrong; an epsilon is negative.
    Source: Zhao et al. (GMPO), arXiv:2507.20673v3, eq. 4.
    """
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    number("epsilon", epsilon, at_least=0)
    number("epsilon_high", epsilon_high, at_least=0)
    advantages = per_token("advantages", advantages, mask)
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
    clipped = torch.where(advantages > 0, log_rho.clamp(max=epsilon_high), log_rho.clamp(min=-epsilon))
    means = clipped.masked_fill(~mask, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return -bounded_exp(means) * advantages


def vespo_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    k_positive: float,
    lambda_positive: float,
    k_negative: float,
    lambda_negative: float,
) -> Float[Tensor, "B T"]:
    """A smooth weight of the whole sequence's ratio, 1 on policy, falling to 0 on both sides.

        W = prod_t rho_t,    phi(W) = W^k exp(lambda (1 - W))
        L_t = -sg[ phi(W) ] A_t log pi(y_t | x, y_<t)                                       (GRPO.12)

    k and lambda are the positive ones where A_t >= 0, and the negative ones elsewhere.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it, not through W.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        k_positive, k_negative: the power of W: how fast the weight rises from W = 0.
        lambda_positive, lambda_negative: how fast it falls for large W. The weight is largest at W = k / lambda.

    Returns: the unit of ``advantages`` x nats, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; a k or lambda is negative.
    Source: Shen et al. (VESPO), arXiv:2602.10693v3, eq. 20.
    """
    for name, x in (("k_positive", k_positive), ("k_negative", k_negative)):
        number(name, x, at_least=0)
    for name, x in (("lambda_positive", lambda_positive), ("lambda_negative", lambda_negative)):
        number(name, x, at_least=0)
    positive = per_token("advantages", advantages, mask) >= 0
    log_w = log_ratios(log_probs, old_log_probs, mask, "old_log_probs").detach().sum(1, keepdim=True)
    k = torch.full(mask.shape, k_negative, dtype=log_w.dtype, device=log_w.device).masked_fill(positive, k_positive)
    rate = torch.full_like(k, lambda_negative).masked_fill(positive, lambda_positive)
    phi = bounded_exp(k * log_w + rate * (1 - bounded_exp(log_w)))
    return phi * reinforce_surrogate(log_probs, advantages, mask)


def dppo_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    divergence: str,
    epsilon: float,
    epsilon_high: float | None = None,
    cap: float | None,
) -> Float[Tensor, "B T"]:
    """The trust region is drawn around the token's *probability*, not its ratio: rare tokens may move by any factor.

        p = pi(y_t | x, y_<t),  q = pi_old(y_t | x, y_<t)
        D_t = |p - q|    or    q log(q / p) + (1 - q) log((1 - q) / (1 - p))
        drop_t = D_t > epsilon_high and p > q where A_t > 0, else D_t > epsilon and p < q
        L_t = -sg[ (1 - drop_t) min(rho_t, cap) ] A_t log pi(y_t | x, y_<t)                   (GRPO.13)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it, not through rho_t.
        old_log_probs: the same tokens under the policy that sampled them, in nats: as the engine reported them, not as
            the trainer computes them again (section 5.2 of the paper). Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        divergence: D between "this token" and "another": ``"tv"`` (total variation) or ``"kl"``.
        epsilon, epsilon_high: how far the token may be lowered, and raised, in units of D (probability, or nats);
            ``epsilon_high`` is ``epsilon`` if None.
        cap: bound of the ratio as a weight; None is no bound.

    Returns: the unit of ``advantages`` x nats, per token; exactly 0 where ``mask`` is False. 1 - p and 1 - q count as
        no less than eps / 2 of the dtype, 6e-8 in float32: the KL form is finite where p rounds to 1.
    Raises ValueError: a shape or dtype is wrong; ``divergence`` is unknown; an epsilon is negative; ``cap`` is not
        positive.
    Source: Qi et al. (DPPO, binary forms), arXiv:2602.04879v3, eq. 12-14; the cap is C of eq. 23.
    """
    require(divergence in ("tv", "kl"), "divergence", "'tv' or 'kl'", divergence)
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    number("epsilon", epsilon, at_least=0)
    number("epsilon_high", epsilon_high, at_least=0)
    if cap is not None:
        number("cap", cap, above=0)
    positive = per_token("advantages", advantages, mask) > 0
    ratios = bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs")).detach()
    log_p, log_q = (x.detach() for x in select(mask, log_probs=log_probs, old_log_probs=old_log_probs))
    p, q = log_p.exp(), log_q.exp()
    not_p, not_q = ((-x.expm1()).clamp(min=torch.finfo(x.dtype).eps / 2) for x in (log_p, log_q))
    d = (p - q).abs() if divergence == "tv" else q * (log_q - log_p) + not_q * (not_q / not_p).log()
    raised, lowered = (d > epsilon_high) & (p > q), (d > epsilon) & (p < q)
    keep = ~torch.where(positive, raised, lowered)
    return keep * ratios.clamp(max=math.inf if cap is None else cap) * reinforce_surrogate(log_probs, advantages, mask)


def quadratic_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    tau: float,
) -> Float[Tensor, "B T"]:
    """The log-ratio is pulled to A / tau, from above and from below: a regression in place of a clip.

        L_t = -A_t s_t + (tau / 2) s_t^2,    s_t = log pi(y_t | x, y_<t) - log pi_old(y_t | x, y_<t)    (GRPO.24)

    It is (A_t - tau s_t)^2 / (2 tau) less a constant: the squared error that papers print has 2 tau times its gradient.
    At s = 0 its gradient is the policy gradient. The papers' s is the sum over the completion: pass that on as
    log-probs, with zeros as the old ones, and reduce by ``sequence_mean``, so that a completion counts once. Frameworks
    take each token's own.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that s is taken to, in nats: the one that sampled, or a frozen
            reference. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        tau: the price of leaving that policy, in reward units per nat: the weight of a KL whose optimum is s = A / tau.

    Returns: the unit of ``advantages`` x nats, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``tau`` is negative.
    Source: Richemond et al. (DRO), arXiv:2405.19107; Kimi k1.5, arXiv:2501.12599, eq. 3; Kimi K2, arXiv:2507.20534v2,
        section 3.2.3; A*-PO, arXiv:2505.20686.
    """
    number("tau", tau, at_least=0)
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
    return tau / 2 * log_rho.square() - per_token("advantages", advantages, mask) * log_rho


def topr_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low_positive: float,
    high_positive: float,
    low_negative: float,
    high_negative: float,
) -> Float[Tensor, "B T"]:
    """Good completions count in full, whoever drew them; bad ones as far as the policy would still draw them.

        W = prod_t rho_t
        L_t = -sg[ clip(W, low, high) ] A_t log pi(y_t | x, y_<t)                               (GRPO.26)

    The bounds are the positive ones where A_t >= 0, and the negative ones elsewhere. TOPR's are 1 and 1, so that what
    is good is learned as in supervised learning, and 0 and 1: what is bad and has become rare has no gradient, so that
    log-probs do not fall without end.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it, not through W.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``; the paper's is the reward, 1 or -1. Treated as
            a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        low_positive, high_positive, low_negative, high_negative: bounds of the weight.

    Returns: the unit of ``advantages`` x nats, per token; exactly 0 where ``mask`` is False. Reduce it by
        ``sequence_sum``: the completion's log-probability counts as a sum.
    Raises ValueError: a shape or dtype is wrong; a bound is negative, or a pair of them swapped.
    Source: Le Roux et al. (TOPR), arXiv:2503.14286v2, eq. 7 and 8.
    """
    bounds = {"positive": (low_positive, high_positive), "negative": (low_negative, high_negative)}
    for side, (low, high) in bounds.items():
        number(f"low_{side}", low, at_least=0)
        number(f"high_{side}", high, at_least=low)
    log_w = log_ratios(log_probs, old_log_probs, mask, "old_log_probs").detach().sum(1, keepdim=True)
    good, bad = (bounded_exp(log_w).clamp(*pair) for pair in bounds.values())
    weights = torch.where(per_token("advantages", advantages, mask) >= 0, good, bad)
    return weights * reinforce_surrogate(log_probs, advantages, mask)


def real_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    group_size: int,
    tau: float,
) -> Float[Tensor, "B T"]:
    """Rewards as labels: each group is a classification of its completions by their log-ratios.

        s_i = (1 / |y_i|) sum_t (log pi(y_it | x, y_i,<t) - log pi_old(y_it | x, y_i,<t))
        L = log(1 + sum_{i right} exp(-s_i / tau)) + log(1 + sum_{i wrong} exp(s_i / tau))      (GRPO.27)

    A completion's gradient is 1 / tau times its share of a sum that has a 1 beside it: never above 1 / tau in all, most
    for the right ones that have become rare and the wrong ones that have become likely. L is 0 for a group without
    both kinds.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        advantages: one a sequence ``[B]`` or one a token ``[B T]``: a completion is right where their sum is above 0,
            and else wrong. Rewards of 1 and 0 are labels as they are. Their size does not count.
        mask: True where the policy chose the token; rows p * group_size to (p + 1) * group_size - 1 belong to prompt
            p. A row without a True is in no sum. Other entries may hold anything, NaN included.
        group_size: G, completions of each prompt; it divides the number of rows. Groups stay whole in a micro-batch.
        tau: nats per token: a smaller one looks at the completions nearest to the border alone.

    Returns: L of the group, unitless, the same at every token of its rows; exactly 0 where ``mask`` is False. Reduce
        it by ``group_token_mean``, so that each group counts once.
    Raises ValueError: a shape or dtype is wrong; ``group_size`` does not divide the rows; ``tau`` is not positive.
    Source: Zhai et al. (REAL), arXiv:2602.05630v1, by its authors' code (Red-RL/REAL 1c30726).
    """
    number("tau", tau, above=0)
    check_mask(mask)
    _check_groups(mask, group_size)
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
    s = (log_rho.sum(1) / mask.sum(1).clamp(min=1)).view(-1, group_size) / tau
    chose, good = mask.any(1).view(s.shape), (per_token("advantages", advantages, mask).sum(1) > 0).view(s.shape)
    right, wrong = chose & good, chose & ~good
    losses = _log_one_plus(-s, right) + _log_one_plus(s, wrong)
    losses = losses.masked_fill(~(right.any(1) & wrong.any(1)), 0)
    return losses.repeat_interleave(group_size)[:, None].expand(mask.shape).masked_fill(~mask, 0)


def _log_one_plus(x: Float[Tensor, "P G"], which: Bool[Tensor, "P G"]) -> Float[Tensor, " P"]:
    """log(1 + sum of exp(x) over which)."""
    one = x.new_zeros(len(x), 1)
    return torch.logsumexp(torch.cat([one, x.masked_fill(~which, -torch.inf)], 1), 1)


def kl_k3_with_k2_gradient(
    log_probs: Float[Tensor, "B T"], ref_log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """The value of k3, which estimates KL(pi || pi_ref), with the gradient of k2, which estimates that KL's gradient.

        sg[k3] + k2 - sg[k2]                                                                (GRPO.14)

    Args:
        log_probs: log pi(y_t | x, y_<t) of tokens that pi sampled, in nats. Gradient flows through it.
        ref_log_probs: the same tokens under the frozen reference, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.

    Returns: nats per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: KL.2 and KL.3; verl 0.9.1 names it ``k3+``.
    """
    k2 = kl_k2(log_probs, ref_log_probs, mask)
    return kl_k3(log_probs, ref_log_probs, mask).detach() + k2 - k2.detach()


def ratio_weighted_kl(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    kl: Callable[[Tensor, Tensor, Tensor], Tensor] = kl_k3,
) -> Float[Tensor, "B T"]:
    """An estimate of KL(pi || pi_ref) from tokens of an *older* policy: right in value and gradient, given the prefix.

        rho_t KL_t,    with gradient through rho_t                                       (GRPO.15)

    On tokens of pi_old the plain k3 is biased. On tokens of pi itself its gradient is that of KL(pi_ref || pi); here
    the ratio's own gradient turns it into that of KL(pi || pi_ref), on policy too. The prefixes stay as pi_old drew
    them, so that over completions of several tokens it is neither the KL of the sequences nor its gradient.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant.
        ref_log_probs: the same tokens under the frozen reference, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        kl: the estimator per token: ``kl_k3``, or ``kl_k1``. (k2 estimates no KL.)

    Returns: nats per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: DeepSeek-AI (DeepSeek-V3.2), arXiv:2512.02556v1, eq. 7.
    """
    (log_probs,) = select(mask, log_probs=log_probs)  # once, so that both factors' gradients add up in float32
    ratios = bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs"))
    return ratios * kl(log_probs, ref_log_probs, mask)


def off_policy_weights(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    limit: float,
) -> Float[Tensor, "B T"]:
    """0 for a bad completion that the policy has left too far behind, 1 for all others (DeepSeek-V3.2).

        w_t = 0 where A_t < 0 and (1 / |y|) sum_t (log pi_old - log pi) > limit, else 1     (GRPO.16)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Treated as a constant.
        old_log_probs: the same tokens under the policy that sampled them, in nats: as the engine reported them, not as
            the trainer computes them again (the paper, under eq. 9). Treated as a constant.
        advantages: A, one a sequence ``[B]`` or one a token ``[B T]``. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        limit: delta, the mean distance in nats per token that is still allowed.

    Returns: weights of 0 or 1 to multiply the surrogate by; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``limit`` is negative.
    Source: DeepSeek-AI (DeepSeek-V3.2), arXiv:2512.02556v1, eq. 9.
    """
    number("limit", limit, at_least=0)
    log_ratio = sequence_log_ratios(log_probs, old_log_probs, mask, token_gradient=False).detach()
    dropped = (per_token("advantages", advantages, mask) < 0) & (-log_ratio > limit)
    return (mask & ~dropped).to(log_ratio.dtype)


def chord_weights(log_probs: Float[Tensor, "E T"], mask: Bool[Tensor, "E T"]) -> Float[Tensor, "E T"]:
    """How much each token of an expert's answer is to teach: most where the policy is in two minds about it (CHORD).

        w_t = sg[ p (1 - p) ],    p = pi(y_t | x, y_<t)                                         (GRPO.28)

    What the policy knows already (p near 1) and what it would never say (p near 0) both teach little: the second is
    what breaks its own ways when an expert writes otherwise.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the expert's tokens as the policy is now, in nats. Treated as a constant.
        mask: True at the expert's tokens. Other entries may hold anything, NaN included.

    Returns: weights from 0 to 1 / 4, detached, to multiply the negative log-likelihood by; 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Zhang et al. (CHORD-phi), arXiv:2508.11408, by accounts and ms-swift 3602360.
    """
    (log_p,) = (x.detach() for x in select(mask, log_probs=log_probs))
    return (log_p.exp() * -log_p.expm1()).masked_fill(~mask, 0)


def group_token_mean(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, group_size: int, denominator: Count | None = None
) -> Float[Tensor, ""]:
    """Every token weighs the same within its group, and every group the same: DAPO and CISPO as printed.

        sum_p ( sum_{i in p} sum_t x_it / sum_{i in p} |y_i| ) / N,    N = number of groups with a True    (GRPO.17)

    Frameworks take ``token_mean`` of the whole batch instead: prompts with long answers then weigh more.

    Args:
        x: any value per token. Gradient flows through it.
        mask: True at the tokens that count; rows p * group_size to (p + 1) * group_size - 1 belong to prompt p.
        group_size: G, completions of each prompt; it divides the number of rows.
        denominator: N, in groups. Default: the groups with a True. At 0 the result is 0.
    Raises ValueError: a shape or dtype is wrong; ``group_size`` does not divide the rows; ``denominator`` is negative.
    Source: Yu et al. (DAPO), arXiv:2503.14476v2, eq. 8; MiniMax-M1, arXiv:2506.13585, eq. 4.
    """
    (x,) = select(mask, x=x)
    _check_groups(mask, group_size)
    groups = len(mask) // group_size
    return sequence_mean(x.reshape(groups, -1), mask.reshape(groups, -1), denominator=denominator)
