"""Stage 5 again: other baselines, and other scales. Equations and symbols are in variants.md."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchstone.core.inputs import as_float, as_ids, number, require, select
from torchstone.core.reduce import all_equal, by_deviation, check_deviation, deviations, root_mean_square
from torchstone.reinforce.returns import centred_rewards, scored_members

__all__ = [
    "greedy_advantages",
    "length_weighted_advantages",
    "gpg_advantages",
    "max_likelihood_advantages",
    "optimal_token_advantages",
    "batch_scaled_advantages",
    "soft_values",
    "gdpo_advantages",
    "whiten_completions",
    "pass_at_k_advantages",
    "best_margin_advantages",
    "step_group_advantages",
]


def greedy_advantages(
    rewards: Float[Tensor, "P G"],
    greedy_rewards: Float[Tensor, " P"],
    *,
    scored: Bool[Tensor, "P G"] | None = None,
) -> Float[Tensor, "P G"]:
    """Each sample's reward minus that of the greedy completion of the same prompt (ReMax).

        A_i = r_i - r(greedy)                                                  (REINFORCE.6)

    The greedy completion depends on the policy, not on the sample: the gradient stays unbiased, with G = 1 too.

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
        greedy_rewards: of the completion that takes the likeliest token at each step, one a prompt, in reward
            units. Treated as a constant.
        scored: False where a completion could not be scored; its reward may then be NaN. Where the greedy one could
            not, the whole row.

    Returns: reward units, detached; exactly 0 for an unscored sample and for one that ties with the greedy one.
    Raises ValueError: a shape or dtype is wrong.
    Source: Li et al. (ReMax), arXiv:2310.10505.
    """
    rewards = as_float("rewards", rewards, "P G").detach()
    greedy_rewards = as_float("greedy_rewards", greedy_rewards, rewards.shape[:1]).detach()
    return (rewards - greedy_rewards[:, None]).masked_fill(~scored_members(rewards, scored), 0)


def length_weighted_advantages(
    rewards: Float[Tensor, "P G"],
    lengths: Float[Tensor, "P G"] | Int[Tensor, "P G"],
    *,
    scored: Bool[Tensor, "P G"] | None = None,
) -> Float[Tensor, "P G"]:
    """Each sample's reward minus the mean reward of its group, where a sample weighs as much as it has tokens (OPO).

        A_i = r_i - sum_j l_j r_j / sum_j l_j,    j over the group             (REINFORCE.7)

    The best constant baseline weighs rewards by the squared norm of the score grad log pi(y | x); OPO takes that to
    grow with the length. Sample i is in its own baseline: with n samples the gradient is that of J - E[baseline] / n.

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
        lengths: l, in tokens, such as ``mask.sum(1).view(P, G)``; not negative. A completion without a token weighs 0.
            Any other weights will do. Treated as a constant.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: reward units, detached. Exactly 0 for an unscored sample, and in a group whose scored rewards are all
        equal or fewer than two, or whose scored lengths are all 0.
    Raises ValueError: a shape or dtype is wrong; G is 1.
    Source: Hao et al. (OPO), arXiv:2505.23585v2.
    """
    centred, _ = centred_rewards(rewards, scored)
    fits = isinstance(lengths, Tensor) and lengths.shape == centred.shape and not lengths.dtype.is_complex
    require(fits and lengths.dtype != torch.bool, "lengths", f"a number tensor of shape {list(centred.shape)}", lengths)
    ignored = ~scored_members(rewards, scored)
    weights = lengths.detach().to(centred.dtype).masked_fill(ignored, 0)
    total = weights.sum(1, keepdim=True)
    baseline = (weights * centred).sum(1, keepdim=True) / torch.where(total > 0, total, 1)
    return (centred - baseline).masked_fill(ignored | (total <= 0), 0)


def gpg_advantages(rewards: Float[Tensor, "P G"], *, scored: Bool[Tensor, "P G"] | None = None) -> Float[Tensor, "P G"]:
    """Each sample's reward against its group's mean, scaled up for the groups of the batch that teach nothing (GPG).

        A_i = alpha (r_i - mean r),    alpha = B / (B - M)                     (REINFORCE.8)

    B counts the groups, M those without a signal: their scored rewards are all equal or fewer than two. The mean over
    all groups is then the mean over the others. alpha changes from batch to batch, as a learning rate would.

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
            alpha is counted over these P rows: give the whole batch, before it is split into micro-batches.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: reward units, detached. Exactly 0 for an unscored sample and in a group without a signal.
    Raises ValueError: a shape or dtype is wrong; G is 1.
    Source: Chu et al. (GPG), arXiv:2504.02546v4, eq. 6-8, with F_norm = 1.
    """
    centred, _ = centred_rewards(rewards, scored)
    mixed = (centred != 0).any(1).sum()
    return centred * centred.shape[0] / mixed.clamp(min=1)


def max_likelihood_advantages(
    rewards: Float[Tensor, "P G"], *, scored: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """Each sample's reward against its group's mean, divided by that mean (MaxRL).

        A_i = (r_i - mean r) / mean r,    0 where mean r = 0                   (REINFORCE.9)

    With rewards 0 or 1, success rate p and n samples, the mean over the group of A_i grad log pi(y_i) is in expectation
    the gradient of -sum_{k=1}^{n-1} (1 - p)^k / k: that of p at n = 2, that of log p as n grows.

    Args:
        rewards: one a completion, 0 or 1 (or any r >= 0 that counts successes); row p holds the G samples of
            prompt p. Treated as a constant.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: unitless, detached. Exactly 0 for an unscored sample, and in a group whose scored rewards are all equal
        or fewer than two, or have no positive mean.
    Raises ValueError: a shape or dtype is wrong; G is 1.
    Source: Tajwar et al. (MaxRL), arXiv:2602.02710, algorithm 1; the objective: eq. 6.
    """
    centred, n = centred_rewards(rewards, scored)
    counted = rewards.detach().to(centred.dtype).masked_fill(~scored_members(rewards, scored), 0)
    mean = counted.sum(1, keepdim=True) / n.clamp(min=1)
    return centred / torch.where(mean > 0, mean, torch.inf)  # x / inf = 0


def optimal_token_advantages(
    returns: Float[Tensor, "B T"],
    energies: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    group_size: int,
) -> Float[Tensor, "B T"]:
    """At each step, the return minus its mean over the group, weighted by the energy spent so far (OTB).

        W_it = sum_{s <= t} w_is,    w_is = |grad log pi(y_is | x, y_i,<s)|^2
        A_it = G_it - sum_j W_jt G_jt / sum_j W_jt,    j over the group's rows with a token at t    (REINFORCE.10)

    The baseline minimises sum_j W_jt (G_jt - b)^2. The squared norm with respect to the logits needs no backward pass:
    w = 1 - 2 pi(y) + sum_v pi(v)^2. Sample i is in its own baseline, which biases the gradient as in OPO.

    Args:
        returns: G, in reward units, the reward-to-go of ``discounted_returns``. Treated as a constant.
        energies: w, not negative, one a token. Treated as a constant.
        mask: True where the policy chose the token. A row that was not scored is False throughout.
        group_size: G. Rows p*G to p*G+G-1 belong to one prompt, and their step t stands in the same column.

    Returns: reward units, detached; exactly 0 where ``mask`` is False, and where the group's returns at that step are
        all equal or fewer than two (the end of the longest completion), or have no energy.
    Raises ValueError: a shape or dtype is wrong; ``group_size`` is below 2 or does not divide B.
    Source: Li et al. (OTB), arXiv:2602.07078v2.
    """
    returns, energies = select(mask, returns=returns, energies=energies)
    fits = isinstance(group_size, int) and group_size >= 2 and len(mask) % group_size == 0
    require(fits, "group_size", f"an integer of at least 2 that divides the {len(mask)} rows", group_size)
    prompts, steps = len(mask) // group_size, mask.shape[1]
    groups = [x.unflatten(0, (prompts, group_size)) for x in (returns, energies.cumsum(1), mask)]
    rewards, weights, alive = (x.transpose(1, 2).flatten(0, 1) for x in groups)  # [P*T G]: each step is a group
    advantages = length_weighted_advantages(rewards, weights, scored=alive)
    return advantages.unflatten(0, (prompts, steps)).transpose(1, 2).flatten(0, 1)


def batch_scaled_advantages(
    rewards: Float[Tensor, "P G"],
    *,
    within_groups: bool,
    correction: int,
    eps: float,
    scored: Bool[Tensor, "P G"] | None = None,
) -> Float[Tensor, "P G"]:
    """Each sample's reward against its group's mean, on one scale for the whole batch (Lite PPO, ScaleRL).

        A_i = (r_i - mean r) / (S + eps),    S = std over the batch of r_j, or of r_j - mean r    (REINFORCE.11)

    Groups keep their weight relative to one another, where the group's own deviation makes them all weigh the same.
    The deviation of the rewards themselves also counts how far the groups' means lie apart.

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
            S is taken over these P rows: give the whole batch, before it is split into micro-batches. A group that
            ties is in S as well (within_groups: as zeros); one that is left out of the batch is not: unscored.
        within_groups: False takes S of the rewards (Lite PPO), True of the rewards less their group's mean (ScaleRL).
        correction: 0 for the population deviation, 1 for the sample deviation (sum / (n - 1)), n samples in the batch.
        eps: added to the deviation, in reward units.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: unitless, detached. Exactly 0 for an unscored sample, and in a group whose scored rewards are all equal
        or fewer than two.
    Raises ValueError: a shape or dtype is wrong; G is 1; ``correction`` is not 0 or 1; ``eps`` is negative.
    Source: Liu et al. (Lite PPO), arXiv:2508.08221, eq. 6 and section 4.1.2; Khatri et al. (ScaleRL), arXiv:2510.13786,
        section 4 (unnumbered).
    """
    check_deviation(correction, eps)
    require(isinstance(within_groups, bool), "within_groups", "True or False", within_groups)
    centred, _ = centred_rewards(rewards, scored)
    counted = scored_members(rewards, scored)
    spread = centred if within_groups else rewards.detach().to(centred.dtype)
    _, std = deviations(spread, counted, correction)
    return by_deviation(centred, std, eps)


def soft_values(
    rewards: Float[Tensor, "P N"], *, beta: float, scored: Bool[Tensor, "P N"] | None = None
) -> Float[Tensor, " P"]:
    """The most that a policy can earn on a prompt, less beta for each nat of its KL to the one that drew the samples.

        V = beta log( (1 / N) sum_i exp(r_i / beta) )                          (REINFORCE.16)

    A small beta gives the best reward, a large one the mean. The estimate is below the true value on average, the more
    so the smaller beta and N are: it knows only rewards that were drawn.

    Args:
        rewards: one a completion, in reward units; row p holds N samples of the reference for prompt p. Treated as a
            constant.
        beta: reward units per nat.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: reward units, one a prompt, detached; exactly 0 for a prompt without a scored sample.
    Raises ValueError: a shape or dtype is wrong; N is 0; ``beta`` is not positive.
    Source: Brantley et al. (A*-PO), arXiv:2505.20686; Kimi k1.5, arXiv:2501.12599, section 2.3.2 (tau log Z).
    """
    number("beta", beta, above=0)
    rewards = as_float("rewards", rewards, "P N").detach()
    require(rewards.shape[1] >= 1, "rewards", "at least 1 sample a prompt", rewards)
    members = scored_members(rewards, scored)
    best = rewards.masked_fill(~members, -torch.inf).amax(1, keepdim=True)
    losses = ((rewards - best).double() / beta).expm1().masked_fill(~members, 0)  # exp(r / beta) / exp(best / beta) - 1
    values = best[:, 0] + beta * (losses.sum(1) / members.sum(1).clamp(min=1)).log1p()
    return values.to(rewards.dtype).masked_fill(~members.any(1), 0)


def gdpo_advantages(
    rewards: Float[Tensor, "P G K"],
    weights: Float[Tensor, " K"] | None = None,
    *,
    correction: int,
    eps: float,
    scored: Bool[Tensor, "P G"] | None = None,
) -> Float[Tensor, "P G"]:
    """Several rewards, each on its own scale within the group before they are added (GDPO).

        A_i = sum_k w_k (r_ik - mean r_k) / (std r_k + eps),    mean and std over the group      (REINFORCE.12)

    Added first and scaled then, as GRPO does it, a reward that varies more drowns the others, and two completions of
    one sum have one advantage, whatever they earned it with. ``whiten_completions`` follows in the paper.

    Args:
        rewards: K a completion, each in its own unit; ``rewards[p, g]`` are those of the g-th sample of prompt p.
            Treated as a constant.
        weights: w, one a reward, unitless, taken as they are; None: all 1. Treated as a constant.
        correction: 0 for the population deviation, 1 for the sample deviation (sum / (n - 1)).
        eps: added to each deviation, in its reward's unit.
        scored: False where a completion could not be scored by every function; its rewards may then be NaN.

    Returns: unitless, detached. Exactly 0 for an unscored sample, and where the terms cancel up to rounding (a sum
        within 8 units of rounding of its group's largest terms); a reward that ties in its group adds exactly 0.
    Raises ValueError: a shape or dtype is wrong; G is 1; K is 0; ``correction`` is not 0 or 1; ``eps`` is
        negative.
    Source: Liu et al. (GDPO), arXiv:2601.05242v1, eq. 4, 5 and 7, where nothing is added to the deviation.
    """
    check_deviation(correction, eps)
    rewards = as_float("rewards", rewards, "P G K").detach()
    require(rewards.shape[2] >= 1, "rewards", "at least 1 reward a completion", rewards)
    w = rewards.new_ones(rewards.shape[2:]) if weights is None else as_float("weights", weights, rewards.shape[2:])
    scored = scored_members(rewards[..., 0], scored)[..., None].expand(rewards.shape)
    each, counted = (x.transpose(1, 2).flatten(0, 1) for x in (rewards, scored))  # [P*K G]: a group for each reward
    centred, n = centred_rewards(each, counted)
    std = root_mean_square(centred, n - correction)
    scaled = by_deviation(centred, std, eps)
    terms = w.detach()[:, None] * scaled.unflatten(0, rewards.shape[::2])  # [P K G]
    rounding = 8 * torch.finfo(terms.dtype).eps * terms.abs().sum(1).amax(1, keepdim=True)
    return terms.sum(1).masked_fill(terms.sum(1).abs() <= rounding, 0)


def whiten_completions(
    advantages: Float[Tensor, "P G"], *, correction: int, eps: float, scored: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """Advantages with mean 0 and deviation 1 over the completions of the batch, where each counts once (GDPO).

        A <- (A - mean A) / (std A + eps),    mean and std over the batch's completions          (REINFORCE.13)

    ``masked_whiten`` is over tokens: there a completion counts as often as it has tokens.

    Args:
        advantages: one a completion. Mean and deviation are over these P rows: give the whole batch. Treated as a
            constant.
        correction: 0 for the population deviation, 1 for the sample deviation.
        eps: added to the deviation, in the unit of ``advantages``.
        scored: False where a completion could not be scored: it enters no statistic.

    Returns: unitless, detached; exactly 0 for an unscored sample, and everywhere if all are equal.
    Raises ValueError: a shape or dtype is wrong; ``correction`` is not 0 or 1; ``eps`` is negative.
    Source: Liu et al. (GDPO), arXiv:2601.05242v1, eq. 6.
    """
    check_deviation(correction, eps)
    advantages = as_float("advantages", advantages, "P G").detach()
    centred, std = deviations(advantages, scored_members(advantages, scored), correction)
    return by_deviation(centred, std, eps)


def pass_at_k_advantages(
    rewards: Float[Tensor, "P G"], *, k: int, eps: float, scored: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """What a sample adds to sets of k, of which one right answer is enough (Pass@k training).

        R = 1 - C(m, k) / C(n, k),    sigma = sqrt(R (1 - R)),    m of the group's n samples wrong
        A_i = (1 - R) / (sigma + eps)    for a right one
        A_i = (1 - R - C(m - 1, k - 1) / C(n - 1, k - 1)) / (sigma + eps)    for a wrong one     (REINFORCE.14)

    R is the share of the sets of k that hold a right answer. A_i is the mean, over the sets that hold sample i, of
    their best reward less R, by the deviation of the sets'. Prompts that are solved now and then are left alone; k = 1
    is GRPO's advantage with the deviation over n.

    Args:
        rewards: one a completion; row p holds the G samples of prompt p. Above 0 is right, all else is wrong. Treated
            as a constant.
        k: samples of a set, from 1 to G.
        eps: added to the deviation.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: unitless, detached. Exactly 0 for an unscored sample, in a group of fewer than k scored samples, and where
        all sets have a right answer, or none has.
    Raises ValueError: a shape or dtype is wrong; G is 1; ``k`` is no integer from 1 to G; ``eps`` is negative.
    Source: Chen et al. (Pass@k training), arXiv:2508.10751, by its authors' README and code (RUCAIBox/Passk_Training
        c3ba575), where eps is 1e-6.
    """
    number("eps", eps, at_least=0)
    centred, n = centred_rewards(rewards, scored)
    require(type(k) is int and 1 <= k <= rewards.shape[1], "k", f"an integer from 1 to {rewards.shape[1]}", k)
    counted = scored_members(rewards, scored)
    right = (rewards.detach() > 0) & counted
    m = n - right.sum(1, keepdim=True)
    none_right = _share_of_sets(m, n, k)  # 1 - R
    sigma = ((1 - none_right) * none_right).sqrt()
    gain = none_right - torch.where(right, 0, _share_of_sets(m - 1, n - 1, k - 1))
    return torch.where(counted & (n >= k) & (sigma > 0), gain / (sigma + eps), 0).to(centred.dtype)


def _share_of_sets(m: Float[Tensor, "P 1"], n: Float[Tensor, "P 1"], k: int) -> Float[Tensor, "P 1"]:
    """C(m, k) / C(n, k): how many sets of k from n have all of theirs among m; 0 where k is above m."""
    j = torch.arange(k, device=m.device, dtype=m.dtype)
    return ((m - j).clamp(min=0) / (n - j).clamp(min=1)).prod(1, keepdim=True)


def best_margin_advantages(
    rewards: Float[Tensor, "P G"],
    *,
    divide_by_std: bool,
    correction: int,
    eps: float,
    scored: Bool[Tensor, "P G"] | None = None,
) -> Float[Tensor, "P G"]:
    """What the group's best reward would lose without this sample: leave-one-out for the best of G (pass@k, k = G).

        A_i = max_j r_j - max_{j != i} r_j    [/ (std r + eps), with divide_by_std]    (REINFORCE.15)

    Only the best sample gains, by how far the second is behind; where two are equally good, none does. The baseline
    does not depend on sample i, so without the deviation the gradient of E[max r] stays unbiased.

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
        divide_by_std: False is the paper's, True verl's default.
        correction: 0 for the population deviation, 1 for the sample deviation.
        eps: added to the deviation, in reward units.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: reward units, unitless with ``divide_by_std``; detached. Exactly 0 for an unscored sample, and in a group
        whose best scored rewards tie or that has fewer than two.
    Raises ValueError: a shape or dtype is wrong; G is 1; ``correction`` is not 0 or 1; ``eps`` is negative.
    Source: Tang et al., arXiv:2503.19595, by accounts; verl 0.9.1, core_algos.py (grpo_passk).
    """
    check_deviation(correction, eps)
    centred, n = centred_rewards(rewards, scored)
    left_out = ~scored_members(rewards, scored) | (n < 2)
    best = rewards.detach().to(centred.dtype).masked_fill(left_out, -torch.inf)
    margins = (best - best.topk(2).values[:, 1:]).masked_fill(left_out, 0).clamp(min=0)
    std = root_mean_square(centred, n - correction)
    return by_deviation(margins, std, eps) if divide_by_std else margins


def step_group_advantages(
    returns: Float[Tensor, " N"],
    groups: Int[Tensor, " N"],
    *,
    divide_by_std: bool,
    correction: int,
    eps: float,
) -> Float[Tensor, " N"]:
    """Each turn of an agent against the turns that were taken in the same state (GiGPO's second level).

        A_i = R_i - mean R_j    [/ (std R_j + eps), with divide_by_std],    j in i's group    (REINFORCE.17)

    ``group_advantages`` for groups of any size. GiGPO adds it, times a weight (1), to the advantage of the whole
    episode among those of its task.

    Args:
        returns: R, one a turn, in reward units: what was earned from it on, discounted. Treated as a constant.
        groups: an id for each turn, not negative: equal for the turns of one task that began in one state. The caller
            says which states are equal; the same state of two tasks has two ids.
        divide_by_std: True divides by the group's deviation.
        correction: 0 for the population deviation, 1 for the sample deviation.
        eps: added to the deviation, in reward units.

    Returns: reward units, unitless with ``divide_by_std``; detached. Exactly 0 in a group of one turn or of equal
        returns.
    Raises ValueError: a shape or dtype is wrong; ``correction`` is not 0 or 1; ``eps`` is negative.
    Source: Feng et al. (GiGPO), arXiv:2505.10978, by accounts; ROLL 8eb27cc2, roll/pipeline/agentic/utils.py.
    """
    check_deviation(correction, eps)
    returns = as_float("returns", returns, "N").detach()
    same = as_ids("groups", groups, returns.shape)[:, None] == groups  # [N N]: turn j is in turn i's group
    if len(returns) == 0:
        return returns
    centred, n = _centred_in(returns, same)
    std = root_mean_square(torch.where(same, centred, 0), n[:, None] - correction)[:, 0]
    return by_deviation(centred, std, eps) if divide_by_std else centred


def _centred_in(returns: Float[Tensor, " N"], same: Bool[Tensor, "N N"]) -> tuple[Float[Tensor, " N"], Tensor]:
    """``R_i - mean R_j`` over the turns of i's group, and their number; exactly 0 where they tie."""
    n = same.sum(1)
    every = returns.expand(same.shape)
    means = torch.where(same, every, 0).sum(1) / n.clamp(min=1)
    return (returns - means).masked_fill(all_equal(every, same)[:, 0], 0), n
