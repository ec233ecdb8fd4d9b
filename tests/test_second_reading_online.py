"""The published rows from REINFORCE to DAPO, read a second time: each equation by hand from its source, the row unseen.

Every test goes from rewards to advantages to the loss's value and gradient, in float64, in plain loops that read like
the equation, and compares with the row of that name at 1e-10. The docstring says what was read: the paper's text, its
authors' code, or a detailed account of the paper where its text could not be had.
"""

from collections.abc import Callable
from math import comb, sqrt

import pytest
import torch
from torch import Tensor

from torchstone.recipes import RECIPES, Choice

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
LOSS = Callable[[Tensor], Tensor]  # log-probs of the trained policy [B T] -> a scalar to minimise


class Batch:
    """P prompts, G completions each, of ragged lengths: ``log_probs[p * G + g, t]`` is token t of completion g of p."""

    def __init__(self, seed: int, P: int = 3, G: int = 4, T: int = 7) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.P, self.G, self.B, self.T = P, G, P * G, T
        self.lengths = torch.randint(1, T + 1, (self.B,), generator=generator).tolist()
        self.lengths[0], self.lengths[1] = T, 1
        self.mask = torch.arange(T) < torch.tensor(self.lengths)[:, None]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.old = -normal(self.B, T).abs() - 0.05
        self.new = self.old * torch.exp(0.4 * normal(self.B, T))  # log-probs are negative
        self.ref = self.old * torch.exp(0.3 * normal(self.B, T))
        self.values, self.new_values = normal(self.B, T), normal(self.B, T)
        self.energies = normal(self.B, T).abs()
        self.greedy = normal(P)
        self.scores = normal(P, G)
        self.correct = (torch.rand((P, G), generator=generator) < 0.5).double()
        self.correct[:, 0], self.correct[:, 1] = 1.0, 0.0  # no group is tied unless a test ties it

    def rows(self) -> list[tuple[int, int, int]]:
        """Each completion: its prompt, its place in the group, its row."""
        return [(p, g, p * self.G + g) for p in range(self.P) for g in range(self.G)]


def gradient(loss: LOSS, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = log_probs.clone().requires_grad_()
    value = loss(leaf)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


def same(row: LOSS, paper: LOSS, log_probs: Tensor) -> None:
    """The row's loss and the paper's have one value and one gradient."""
    for ours, theirs in zip(gradient(row, log_probs), gradient(paper, log_probs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def mean(numbers: list[Tensor]) -> Tensor:
    return torch.stack(numbers).sum() / len(numbers)


def std(numbers: list[Tensor]) -> Tensor:
    """The sample standard deviation, over n - 1."""
    squares = [(n - mean(numbers)) ** 2 for n in numbers]
    return torch.sqrt(torch.stack(squares).sum() / (len(numbers) - 1))


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """PPO's min( r A, clip(r, 1 - low, 1 + high) A )."""
    return torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)


# --- The policy gradient of a whole completion ---


def policy_gradient(batch: Batch, advantage: dict[int, Tensor]) -> LOSS:
    """-(1/B) sum_i A_i log pi(y_i | x_i), where log pi of a completion is the sum over its tokens."""

    def loss(log_probs: Tensor) -> Tensor:
        terms = [-advantage[i] * log_probs[i, : batch.lengths[i]].sum() for _, _, i in batch.rows()]
        return mean(terms)

    return loss


@SEEDS
def test_reinforce_williams_1992_eq_11_episodic(seed):
    """Williams 1992, equation 11: dw = alpha (r - b) sum_{t=1}^{k} e(t), e(t) the score of step t; here b = 0.

    Not had: the paper's text in full. Read: an account with quotations of it ("5. Episodic REINFORCE algorithms").
    """
    batch, row = Batch(seed), RECIPES["reinforce"]
    advantage = {i: batch.scores[p, g] for p, g, i in batch.rows()}
    ours = row.advantages(batch.scores, batch.mask).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask).value, policy_gradient(batch, advantage), batch.new)


@SEEDS
def test_remax_2310_10505_algorithm_1_greedy_baseline(seed):
    """ReMax, Algorithm 1 (the authors' picture of it, liziniu/ReMax 536ba49, images/algorithm.png), lines 4 and 6.

    rews = reward(seqs) - reward(seqs_max); loss = -(log_probs.sum(dim=-1) * rews).mean().
    """
    batch, row = Batch(seed), RECIPES["remax"]
    advantage = {i: batch.scores[p, g] - batch.greedy[p] for p, g, i in batch.rows()}
    ours = row.advantages(batch.scores, batch.mask, greedy_rewards=batch.greedy).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask).value, policy_gradient(batch, advantage), batch.new)


@SEEDS
def test_opo_2505_23585v2_length_weighted_baseline(seed):
    """OPO: b = sum_i l_i r_i / sum_i l_i, A_i = r_i - b, exactly on-policy.

    Read: the abstract and an account of the method; the advantage from the authors' code (microsoft/LMOps 4f2a9de,
    opo/verl/trainer/ppo/core_algos.py, value_baseline "optimal"). The gradient is that of log pi(y | x), a sum.
    """
    batch, row = Batch(seed), RECIPES["opo"]
    advantage = {}
    for p, g, i in batch.rows():
        group = [p * batch.G + j for j in range(batch.G)]
        tokens = sum(batch.lengths[k] for k in group)
        baseline = sum(batch.lengths[p * batch.G + j] * batch.scores[p, j] for j in range(batch.G)) / tokens
        advantage[i] = batch.scores[p, g] - baseline
    ours = row.advantages(batch.scores, batch.mask).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask).value, policy_gradient(batch, advantage), batch.new)


@SEEDS
def test_maxrl_2602_02710_mean_of_the_successes_less_the_mean_score(seed):
    """MaxRL: g = (1/K) sum_i r_i S_i - (1/N) sum_i S_i, S_i the score of completion i, K successes of N; 0 without one.

    Read: the authors' page (zanette-labs.github.io/MaxRL) and code (tajwarfahim/maxrl c0698eb, core_algos.py,
    compute_maxrl_outcome_advantage: (r - mean) / (mean + 1e-6)). Written as the estimator, not as an advantage.
    """
    batch, row = Batch(seed), RECIPES["maxrl"]
    batch.correct[1] = 0.0  # no success: no gradient
    batch.correct[2] = 1.0  # nothing but successes: the two means cancel

    def paper(log_probs: Tensor) -> Tensor:
        objective = []
        for p in range(batch.P):
            group = [(batch.correct[p, g], p * batch.G + g) for g in range(batch.G)]
            scores = [log_probs[i, : batch.lengths[i]].sum() for _, i in group]
            successes = [s for (r, _), s in zip(group, scores, strict=True) if r == 1]
            objective.append(mean(successes) - mean(scores) if successes else 0 * mean(scores))
        return -mean(objective)

    ours = row.advantages(batch.correct, batch.mask).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask).value, paper, batch.new)


@SEEDS
def test_otb_2602_07078_optimal_token_baseline(seed):
    """OTB: A_t = G_t - B_t, B_t = sum_i G_t W_t / sum_i W_t over the group, W_t the sum of the energies up to token t.

    Read: the paper's abstract, the authors' page in verl (docs/algo/otb.md) and their code there (verl 0.9.1,
    core_algos.py, compute_optimal_token_baseline_advantage). With an outcome reward G_t is that reward at every t. The
    equation gives the tail of a completion that outlives its group the advantage 0; that code's default
    ``handle_zero_tail=True`` gives such a tail the baseline 0 in its place.
    """
    batch, row = Batch(seed), RECIPES["otb"]
    advantage = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for p in range(batch.P):
        group = [(batch.scores[p, g], p * batch.G + g) for g in range(batch.G)]
        for t in range(batch.T):
            alive = [(r, i) for r, i in group if t < batch.lengths[i]]
            weights = [batch.energies[i, : t + 1].sum() for _, i in alive]
            weighted = [w * r for w, (r, _) in zip(weights, alive, strict=True)]
            for r, i in alive:
                advantage[i, t] = r - sum(weighted) / sum(weights)

    def paper(log_probs: Tensor) -> Tensor:
        return mean([-(advantage[i] * log_probs[i])[: batch.lengths[i]].sum() for _, _, i in batch.rows()])

    ours = row.advantages(batch.scores, batch.mask, energies=batch.energies).advantages
    torch.testing.assert_close(ours, advantage, rtol=1e-10, atol=1e-10)
    same(lambda lp: row.loss(lp, ours, batch.mask).value, paper, batch.new)


@SEEDS
def test_gpg_2504_02546v3_eq_5_and_7_group_policy_gradient(seed):
    """GPG: mean over groups of (1 / sum_i |o_i|) sum_i sum_t -log pi A_i, A_i = r_i - mean, times alpha = B / (B - M).

    M is the number of groups whose answers are all right or all wrong. Read: a detailed account of the paper (eq. 5, 7)
    and the authors' README and code (AMAP-ML/GPG e096da8: F_norm = 1, alpha = B / (B - M)).
    """
    batch, row = Batch(seed, P=5), RECIPES["gpg"]
    batch.correct[1], batch.correct[3] = 1.0, 0.0
    alpha = 5 / (5 - 2)

    def paper(log_probs: Tensor) -> Tensor:
        groups = []
        for p in range(batch.P):
            center, total, tokens = mean(list(batch.correct[p])), torch.zeros((), dtype=torch.float64), 0
            for g in range(batch.G):
                i = p * batch.G + g
                tokens += batch.lengths[i]
                for t in range(batch.lengths[i]):
                    total = total - log_probs[i, t] * (batch.correct[p, g] - center)
            groups.append(total / tokens)
        return alpha * mean(groups)

    ours = row.advantages(batch.correct, batch.mask).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask, group_size=batch.G).value, paper, batch.new)


# --- A clipped ratio and a critic ---


def gae(batch: Batch, rewards: Tensor, gamma: float, lam: float) -> Tensor:
    """PPO's equations 11 and 12 for whole completions: nothing follows the last token."""
    advantages = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for i, length in enumerate(batch.lengths):
        for t in range(length):
            for k in range(t, length):
                next_value = batch.values[i, k + 1] if k + 1 < length else 0.0
                delta = rewards[i, k] + gamma * next_value - batch.values[i, k]
                advantages[i, t] += (gamma * lam) ** (k - t) * delta
    return advantages


def token_rewards(batch: Batch, beta: float) -> Tensor:
    """InstructGPT's reward of each token: -beta log pi/pi_ref, and the score on top at the last one."""
    rewards = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for p, g, i in batch.rows():
        for t in range(batch.lengths[i]):
            rewards[i, t] = -beta * (batch.old[i, t] - batch.ref[i, t])
        rewards[i, batch.lengths[i] - 1] += batch.scores[p, g]
    return rewards


def tokens(batch: Batch, table: Tensor) -> list[Tensor]:
    return [table[i, t] for i, length in enumerate(batch.lengths) for t in range(length)]


@SEEDS
def test_ppo_1707_06347v2_eq_7_9_11_and_instructgpt_2203_02155_eq_2(seed):
    """PPO: eq. 7 (epsilon 0.2), 9, 11 and 12 (lambda 0.95) on InstructGPT's reward (eq. 2, beta 0.02, no discount).

    Read: accounts checked against 1707.06347v2 (Table 3) and 2203.02155v1 (Appendix C.4); and, of openai's
    lm-human-preferences cbfd210, train_policy.py: advantages whitened over all tokens (variance over n, 1e-8 under the
    root), the value clipped to within 0.2 of the old one, 0.5 max of the two squares, its weight 0.1, and the mean over
    all tokens of the batch.
    """
    batch, row = Batch(seed), RECIPES["ppo"]
    raw = gae(batch, token_rewards(batch, 0.02), gamma=1.0, lam=0.95)
    returns = raw + batch.values
    center = mean(tokens(batch, raw))
    variance = mean([(a - center) ** 2 for a in tokens(batch, raw)])
    white = (raw - center) / torch.sqrt(variance + 1e-8)

    def paper(log_probs: Tensor, values: Tensor) -> Tensor:
        terms = []
        for i, length in enumerate(batch.lengths):
            for t in range(length):
                policy = -clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), white[i, t], 0.2, 0.2)
                near = torch.clamp(values[i, t], batch.values[i, t] - 0.2, batch.values[i, t] + 0.2)
                target = returns[i, t]
                critic = 0.5 * torch.maximum((values[i, t] - target) ** 2, (near - target) ** 2)
                terms.append(policy + 0.1 * critic)
        return mean(terms)

    ours = row.advantages(
        batch.scores, batch.mask, old_log_probs=batch.old, ref_log_probs=batch.ref, values=batch.values
    )

    def loss(log_probs: Tensor, values: Tensor) -> Tensor:
        fixed = {"old_log_probs": batch.old, "old_values": batch.values, "returns": ours.returns}
        return row.loss(log_probs, ours.advantages, batch.mask, values=values, **fixed).value

    same(lambda lp: loss(lp, batch.new_values), lambda lp: paper(lp, batch.new_values), batch.new)
    same(lambda v: loss(batch.new, v), lambda v: paper(batch.new, v), batch.new_values)


@SEEDS
def test_vc_ppo_2503_01491_two_lambdas(seed):
    """VC-PPO: lambda 0.95 for the actor's advantage, 1.0 for the critic's target, no discount; PPO's clip.

    Read: an account (M. Song, "Notes on VC-PPO", with the paper's equations and setup). At lambda 1 the critic's target
    is the sum of the rewards from here on. Epsilon 0.2, the critic's weight 1 and the mean over tokens are not there.
    """
    batch, row = Batch(seed), RECIPES["vc-ppo"]
    rewards = token_rewards(batch, 0.0)
    advantage = gae(batch, rewards, gamma=1.0, lam=0.95)

    def paper(log_probs: Tensor, values: Tensor) -> Tensor:
        terms = []
        for p, g, i in batch.rows():
            for t in range(batch.lengths[i]):
                policy = -clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), advantage[i, t], 0.2, 0.2)
                terms.append(policy + 0.5 * (values[i, t] - batch.scores[p, g]) ** 2)
        return mean(terms)

    ours = row.advantages(batch.scores, batch.mask, values=batch.values)

    def loss(log_probs: Tensor, values: Tensor) -> Tensor:
        fixed = {"old_log_probs": batch.old, "returns": ours.returns}
        return row.loss(log_probs, ours.advantages, batch.mask, values=values, **fixed).value

    same(lambda lp: loss(lp, batch.new_values), lambda lp: paper(lp, batch.new_values), batch.new)
    same(lambda v: loss(batch.new, v), lambda v: paper(batch.new, v), batch.new_values)


@SEEDS
@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_vapo_2504_05118v3_eq_4_to_10_length_clip_higher_and_right_answers(seed, alpha):
    """VAPO: lambda = 1 - 1 / (alpha l) (eq. 5), tokens alike (7), clip 0.2 / 0.28 (8), L_PPO + 0.1 L_NLL (9, 10).

    L_NLL = -(1 / sum_{o in T} |o|) sum_{o in T} log pi(o), T the right answers. Read: accounts with equation numbers.
    alpha is 0.05 there, for completions of thousands of tokens; at 0.4 completions of three tokens look ahead too.
    """
    batch, row = Batch(seed), RECIPES["vapo"]
    row = row.but(advantage=Choice("critic", **{**row.advantage.numbers, "alpha": alpha}))
    rewards = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    right = [i for p, g, i in batch.rows() if batch.correct[p, g] == 1]
    advantage = torch.zeros_like(rewards)
    for p, g, i in batch.rows():
        rewards[i, batch.lengths[i] - 1] = batch.correct[p, g]
    for i, length in enumerate(batch.lengths):
        advantage[i] = gae(batch, rewards, gamma=1.0, lam=max(0.0, 1 - 1 / (alpha * length)))[i]

    def paper(log_probs: Tensor) -> Tensor:
        terms, answers = [], []
        for p, g, i in batch.rows():
            for t in range(batch.lengths[i]):
                policy = -clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), advantage[i, t], 0.2, 0.28)
                terms.append(policy + 0.5 * (batch.new_values[i, t] - batch.correct[p, g]) ** 2)
                answers += [-log_probs[i, t]] if i in right else []
        return mean(terms) + 0.1 * mean(answers)

    ours = row.advantages(batch.correct, batch.mask, values=batch.values)

    def loss(log_probs: Tensor) -> Tensor:
        fixed = {"old_log_probs": batch.old, "returns": ours.returns, "values": batch.new_values}
        return row.loss(log_probs, ours.advantages, batch.mask, right=batch.correct.flatten() == 1, **fixed).value

    same(loss, paper, batch.new)


@SEEDS
def test_dual_clip_1912_09729_eq_5_floor_of_a_negative_advantage(seed):
    """Dual-clip PPO: E_t[ max( min( r A, clip(r, 1 - eps, 1 + eps) A ), c A ) ] where A < 0, and PPO's min elsewhere.

    Read: accounts of the objective; the same authors' Honor of Kings Arena (2209.08483, Appendix G: epsilon 0.2, c 3)
    and their code (tencent-ailab/hok_env c6e0029, aiarena/1v1/common/algorithm_torch.py, which writes it min(r, 3)).
    The advantages are the test's own and the critic is right, so that this is the policy's loss alone.
    """
    batch, row = Batch(seed), RECIPES["ppo-dual-clip"]
    batch.new[:4] = batch.old[:4] + 1.5  # ratios of 4.5: above c
    advantage, returns = batch.energies - 1, batch.values

    def paper(log_probs: Tensor) -> Tensor:
        terms = []
        for i, length in enumerate(batch.lengths):
            for t in range(length):
                a = advantage[i, t]
                kept = clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), a, 0.2, 0.2)
                terms.append(-torch.maximum(kept, 3 * a) if a < 0 else -kept)
        return mean(terms)

    def loss(log_probs: Tensor) -> Tensor:
        critic = {"values": batch.values, "returns": returns}
        return row.loss(log_probs, advantage, batch.mask, old_log_probs=batch.old, **critic).value

    same(loss, paper, batch.new)


# --- A clipped ratio and a group ---


@SEEDS
def test_grpo_2402_03300v3_eq_3_and_4(seed):
    """GRPO, equations 3 and 4: A = (r - mean) / std of the group, each completion's mean, less beta k3 (beta 0.04).

    Read: the paper's text (v3): eq. 3 and 4 in section 4.1.1, the advantage in 4.1.2, "The KL coefficient is 0.04" in
    4.2. It says neither epsilon (0.2 here, PPO's) nor which standard deviation: over n - 1 here, as in TRL and verl.
    """
    batch, row, beta = Batch(seed), RECIPES["grpo"], 0.04
    batch.scores[1] = batch.scores[1, 0]  # a tied group: nothing to prefer
    advantage = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for p, g, i in batch.rows():
        if p != 1:
            group = list(batch.scores[p])
            advantage[i, : batch.lengths[i]] = (batch.scores[p, g] - mean(group)) / std(group)

    def paper(log_probs: Tensor) -> Tensor:
        completions = []
        for i, length in enumerate(batch.lengths):
            terms = []
            for t in range(length):
                kept = clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), advantage[i, t], 0.2, 0.2)
                ratio = torch.exp(batch.ref[i, t] - log_probs[i, t])
                terms.append(-(kept - beta * (ratio - torch.log(ratio) - 1)))
            completions.append(mean(terms))
        return mean(completions)

    ours = row.advantages(batch.scores, batch.mask).advantages
    same(
        lambda lp: row.loss(lp, ours, batch.mask, old_log_probs=batch.old, ref_log_probs=batch.ref).value,
        paper,
        batch.new,
    )


@SEEDS
def test_dr_grpo_2503_20783v2_section_3_2_and_listing_1(seed):
    """Dr. GRPO: A = r - mean; (1/G) sum_i sum_t min( r A, clip(r) A ), each completion's sum over a constant.

    Read: an account checked against v2 (Figure 1, Listing 1: MAX_TOKENS; Table 6: epsilon 0.2, beta 0) and the authors'
    code (sail-sg/understand-r1-zero dfca49d, train_zero_math.py: masked_sum / generate_max_length, A = rewards - mean).
    """
    batch, row, limit = Batch(seed), RECIPES["dr_grpo"], 11

    def paper(log_probs: Tensor) -> Tensor:
        completions = []
        for p, g, i in batch.rows():
            advantage, total = batch.correct[p, g] - mean(list(batch.correct[p])), torch.zeros((), dtype=torch.float64)
            for t in range(batch.lengths[i]):
                total = total - clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), advantage, 0.2, 0.2)
            completions.append(total / limit)
        return mean(completions)

    ours = row.advantages(batch.correct, batch.mask).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask, old_log_probs=batch.old, max_length=limit).value, paper, batch.new)


@SEEDS
def test_dapo_2503_14476v2_eq_8_9_and_11_clip_higher_tokens_of_a_group_and_dynamic_sampling(seed):
    """DAPO, equations 8, 9 and 11: groups of one accuracy dropped, clipped to 0.8 and 1.28, mean of a group's tokens.

    Read: the paper's text (v2), numbers in section 4.1, no KL in 2.3, rewards of 1 and -1 in equation 7. The standard
    deviation, which the paper does not specify, is over n - 1 as in the verl recipe that its README points to.
    """
    batch, row = Batch(seed, P=4), RECIPES["dapo"]
    batch.correct[1], batch.correct[2] = 1.0, 0.0
    rewards = 2 * batch.correct - 1
    kept = [p for p in range(batch.P) if 0 < batch.correct[p].sum() < batch.G]
    assert row.keep(rewards).tolist() == [p in kept for p in range(batch.P)] == [True, False, False, True]
    rows = [i for p, _, i in batch.rows() if p in kept]

    def paper(log_probs: Tensor) -> Tensor:
        groups = []
        for p in kept:
            group, total, count = list(rewards[p]), torch.zeros((), dtype=torch.float64), 0
            for g in range(batch.G):
                i = p * batch.G + g
                advantage = (rewards[p, g] - mean(group)) / std(group)
                count += batch.lengths[i]
                for t in range(batch.lengths[i]):
                    ratio = torch.exp(log_probs[i, t] - batch.old[i, t])
                    total = total - clipped(ratio, advantage, 0.2, 0.28)
            groups.append(total / count)
        return mean(groups)

    mask = batch.mask[rows]
    ours = row.advantages(rewards[kept], mask, max_length=20480).advantages

    def loss(log_probs: Tensor) -> Tensor:
        old = batch.old[rows]
        return row.loss(log_probs[rows], ours, mask, old_log_probs=old, group_size=batch.G).value

    same(loss, paper, batch.new)


def test_dapo_2503_14476v2_eq_13_soft_overlong_punishment():
    """DAPO, equation 13, added to the reward before equation 9: L_max 20480, L_cache 4096 (section 4.1)."""
    row, limit, cache = RECIPES["dapo"], 20480, 4096
    lengths = [100, limit - cache, limit - cache + 1, 18432, limit, limit + 1]
    rewards = torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    shaped = []
    for reward, length in zip(rewards[0], lengths, strict=True):
        penalty = 0.0
        if limit - cache < length <= limit:
            penalty = ((limit - cache) - length) / cache
        if limit < length:
            penalty = -1.0
        shaped.append(reward + penalty)
    paper = torch.stack([(s - mean(shaped)) / std(shaped) for s in shaped])
    mask = torch.arange(limit + 1) < torch.tensor(lengths)[:, None]
    ours = row.advantages(rewards, mask, max_length=limit).advantages
    torch.testing.assert_close(ours, paper[:, None] * mask, rtol=1e-10, atol=1e-10)


def mean_of_group_tokens(batch: Batch, term: Callable[[Tensor, int, int], Tensor], kept: list[int]) -> LOSS:
    """The mean over groups of (1 / sum_i |o_i|) sum_i sum_t of a term."""

    def loss(log_probs: Tensor) -> Tensor:
        groups = []
        for p in kept:
            total, count = torch.zeros((), dtype=torch.float64), 0
            for i in range(p * batch.G, (p + 1) * batch.G):
                count += batch.lengths[i]
                for t in range(batch.lengths[i]):
                    total = total + term(log_probs, i, t)
            groups.append(total / count)
        return mean(groups)

    return loss


@SEEDS
def test_lite_ppo_2508_08221_group_mean_batch_deviation_token_level_loss(seed):
    """Lite PPO: "the mean at the local (group) level and the standard deviation at the global (batch) level" (4.1.2).

    With eq. 7's loss per group over its tokens, on PPO's clip (section 5). Read: a text copy of the paper. The
    deviation (eq. 6: of the batch's rewards) is over n - 1 here, epsilon 0.2; neither is stated.
    """
    batch, row = Batch(seed), RECIPES["lite-ppo"]
    deviation = std(list(batch.scores.flatten()))
    advantage = {i: (batch.scores[p, g] - mean(list(batch.scores[p]))) / deviation for p, g, i in batch.rows()}

    def term(log_probs: Tensor, i: int, t: int) -> Tensor:
        return -clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), advantage[i], 0.2, 0.2)

    ours = row.advantages(batch.scores, batch.mask).advantages
    given = {"old_log_probs": batch.old, "group_size": batch.G}
    paper = mean_of_group_tokens(batch, term, list(range(batch.P)))
    same(lambda lp: row.loss(lp, ours, batch.mask, **given).value, paper, batch.new)


@SEEDS
def test_pass_at_k_2508_10751_of_the_authors_readme(seed):
    """Pass@k training: R = 1 - C(N_neg, k) / C(N, k), the two advantages over sqrt(R (1 - R)) + 1e-6.

    Read: the authors' README and code (RUCAIBox/Passk_Training c3ba575, code/passk_adv.py). k, and the loss around it
    (here PPO's clip and a mean over tokens), were not found.
    """
    batch, row, k = Batch(seed, G=6), RECIPES["pass-at-k"], 4
    batch.correct[0] = torch.tensor([1.0, 0, 0, 0, 0, 0])
    batch.correct[1] = torch.tensor([1.0, 0, 1, 0, 0, 0])
    advantage = {}
    for p, g, i in batch.rows():
        wrong = int((batch.correct[p] == 0).sum())
        mean_of_sets = 1 - comb(wrong, k) / comb(batch.G, k)
        sigma = sqrt(mean_of_sets * (1 - mean_of_sets)) + 1e-6
        others = comb(wrong - 1, k - 1) / comb(batch.G - 1, k - 1) if wrong else 0.0
        gain = 1 - mean_of_sets - (0 if batch.correct[p, g] == 1 else others)
        advantage[i] = torch.tensor(gain / sigma, dtype=torch.float64)

    def paper(log_probs: Tensor) -> Tensor:
        terms = []
        for i, length in enumerate(batch.lengths):
            for t in range(length):
                terms.append(-clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), advantage[i], 0.2, 0.2))
        return mean(terms)

    ours = row.advantages(batch.correct, batch.mask).advantages
    assert ours.any()
    same(lambda lp: row.loss(lp, ours, batch.mask, old_log_probs=batch.old).value, paper, batch.new)


@SEEDS
def test_grpo_passk_2503_19595_leave_one_out_of_the_best(seed):
    """Tang et al.: f(y) - f(y without i), f the best reward of the set. Read: accounts."""
    batch, row = Batch(seed), RECIPES["grpo-passk"]
    advantage = {}
    for p, g, i in batch.rows():
        others = [batch.scores[p, j] for j in range(batch.G) if j != g]
        advantage[i] = max([*others, batch.scores[p, g]]) - max(others)
    ours = row.advantages(batch.scores, batch.mask).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask).value, policy_gradient(batch, advantage), batch.new)


@SEEDS
def test_gdpo_2601_05242v1_eq_4_to_7_each_reward_by_itself_then_the_batch(seed):
    """GDPO: A_k = (r_k - mean) / std of the group (eq. 4), sum_k w_k A_k (5, 7), over the batch's mean and std (6).

    In GRPO's loss. Read: the paper's equations, and its example, (0, 1) -> (-0.7071, 0.7071): over n - 1. The eps of
    eq. 6 has no value (1e-8 here); epsilon 0.2 is what the authors' verl script leaves on.
    """
    batch, row = Batch(seed), RECIPES["gdpo"]
    rewards = torch.stack([batch.scores, batch.correct, 10 * batch.scores**2], 2)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    summed = {}
    for p, g, i in batch.rows():
        columns = [list(rewards[p, :, k]) for k in range(3)]
        summed[i] = sum(w * (c[g] - mean(c)) / std(c) for w, c in zip(weights, columns, strict=True))
    center, deviation = mean(list(summed.values())), std(list(summed.values()))
    advantage = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for i, length in enumerate(batch.lengths):
        advantage[i, :length] = (summed[i] - center) / (deviation + 1e-8)
    ours = row.advantages(rewards, batch.mask, reward_weights=weights).advantages
    torch.testing.assert_close(ours, advantage, rtol=1e-10, atol=1e-10)
    same(
        lambda lp: row.loss(lp, ours, batch.mask, old_log_probs=batch.old).value,
        lambda lp: completion_means(batch, lp, advantage, 0.2),
        batch.new,
    )


@SEEDS
def test_scalerl_2510_13786_section_4_cispo_to_the_sampler_and_the_batch_of_centred_advantages(seed):
    """ScaleRL, section 4: sg(min(rho, eps)) A log pi, rho to the sampler, over the tokens of a group; A by the batch.

    A_i = (r_i - the group's mean) / A_std, "standard deviation of all advantages A_i in a batch"; groups of one reward
    are left out. Read: a Markdown copy of the paper. eps 5 (not stated for the recipe itself), n - 1 (not stated).
    """
    batch, row = Batch(seed, P=4), RECIPES["scalerl"]
    batch.correct[2] = 1.0
    rewards = 2 * batch.correct - 1
    batch.new[0] = batch.old[0] + 2.0  # ratios of 7.4: above the cap
    kept = [p for p in range(batch.P) if 0 < batch.correct[p].sum() < batch.G]
    assert row.keep(rewards).tolist() == [p in kept for p in range(batch.P)] == [True, True, False, True]
    centred = {p * batch.G + g: rewards[p, g] - mean(list(rewards[p])) for p in kept for g in range(batch.G)}
    deviation = std(list(centred.values()))
    rows = list(centred)

    def term(log_probs: Tensor, i: int, t: int) -> Tensor:
        weight = torch.clamp(torch.exp(log_probs[i, t] - batch.old[i, t]), max=5.0).detach()
        return -weight * centred[i] / deviation * log_probs[i, t]

    ours = row.advantages(rewards[kept], batch.mask[rows]).advantages

    def loss(log_probs: Tensor) -> Tensor:
        given = {"sampler_log_probs": batch.old[rows], "group_size": batch.G}
        return row.loss(log_probs[rows], ours, batch.mask[rows], **given).value

    same(loss, mean_of_group_tokens(batch, term, kept), batch.new)


@SEEDS
def test_rloo_2402_14740v2_eq_3_and_section_2_3_leave_one_out(seed):
    """RLOO: R(x,y) = r(x,y) - beta log pi/pi_ref (eq. 3), each against the mean of the other k - 1 (section 2.3).

    Read: an account checked against v2 (beta 0.03 for TL;DR, Appendix C); TRL's index of papers has 0.03 too.
    """
    batch, row, beta = Batch(seed), RECIPES["rloo"], 0.03
    shaped, advantage = {}, {}
    for p, g, i in batch.rows():
        log_ratio = (batch.old - batch.ref)[i, : batch.lengths[i]].sum()
        shaped[p, g] = batch.scores[p, g] - beta * log_ratio
    for p, g, i in batch.rows():
        advantage[i] = shaped[p, g] - mean([shaped[p, j] for j in range(batch.G) if j != g])
    ours = row.advantages(batch.scores, batch.mask, old_log_probs=batch.old, ref_log_probs=batch.ref).advantages
    same(lambda lp: row.loss(lp, ours, batch.mask).value, policy_gradient(batch, advantage), batch.new)


@SEEDS
def test_reinforce_plus_plus_2501_03262v9_eq_1_4_and_5(seed):
    """REINFORCE++: A_t = r - beta sum_{i >= t} KL(i) (eq. 4), normalised over the batch (eq. 5), in PPO's clip (eq. 1).

    Read: an account checked against v9 and v1 (epsilon 0.2, beta 0.01: v1, Table 1). Equation 1 takes the mean over a
    completion's tokens, then over completions. Equation 5's deviation is over n in the authors' OpenRLHF (3c3be62,
    experience_maker.py), and floored at 1e-8 there; the paper's epsilon has no value: 1e-8 under the root here.
    """
    batch, row, beta = Batch(seed), RECIPES["reinforce++"], 0.01
    raw = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for p, g, i in batch.rows():
        for t in range(batch.lengths[i]):
            raw[i, t] = batch.scores[p, g] - beta * (batch.old - batch.ref)[i, t : batch.lengths[i]].sum()
    center = mean(tokens(batch, raw))
    deviation = torch.sqrt(mean([(a - center) ** 2 for a in tokens(batch, raw)]) + 1e-8)
    advantage = (raw - center) / deviation

    ours = row.advantages(batch.scores, batch.mask, old_log_probs=batch.old, ref_log_probs=batch.ref).advantages
    same(
        lambda lp: row.loss(lp, ours, batch.mask, old_log_probs=batch.old).value,
        lambda lp: completion_means(batch, lp, advantage, 0.2),
        batch.new,
    )


def completion_means(batch: Batch, log_probs: Tensor, advantage: Tensor, epsilon: float) -> Tensor:
    """-(1/B) sum_i (1/|o_i|) sum_t min( r A, clip(r) A )."""
    completions = []
    for i, length in enumerate(batch.lengths):
        ratio = [torch.exp(log_probs[i, t] - batch.old[i, t]) for t in range(length)]
        completions.append(mean([-clipped(ratio[t], advantage[i, t], epsilon, epsilon) for t in range(length)]))
    return mean(completions)


@SEEDS
def test_reinforce_plus_plus_baseline_2501_03262v9_eq_6_7_and_8(seed):
    """REINFORCE++ w/ baseline: A' = r - the group's mean (eq. 6), over the batch's deviation (7), less lambda k2 (8).

    J_k2 = E[ (log pi/pi_ref)^2 / 2 ], with gradient. lambda is not in the paper; 1e-3 is in the script of the authors'
    OpenRLHF of the day before v9 (1bfcc33, train_reinforce_baseline_llama_ray_hybrid_engine.sh). Read: v9, and
    an account of it.
    """
    batch, row, weight = Batch(seed), RECIPES["reinforce++-baseline"], 1e-3
    raw = torch.zeros(batch.B, batch.T, dtype=torch.float64)
    for p, g, i in batch.rows():
        raw[i, : batch.lengths[i]] = batch.scores[p, g] - mean(list(batch.scores[p]))
    center = mean(tokens(batch, raw))
    deviation = torch.sqrt(mean([(a - center) ** 2 for a in tokens(batch, raw)]) + 1e-8)
    advantage = (raw - center) / deviation

    def paper(log_probs: Tensor) -> Tensor:
        k2 = []
        for i, length in enumerate(batch.lengths):
            k2.append(mean([(log_probs[i, t] - batch.ref[i, t]) ** 2 / 2 for t in range(length)]))
        return completion_means(batch, log_probs, advantage, 0.2) + weight * mean(k2)

    ours = row.advantages(batch.scores, batch.mask).advantages
    same(
        lambda lp: row.loss(lp, ours, batch.mask, old_log_probs=batch.old, ref_log_probs=batch.ref).value,
        paper,
        batch.new,
    )


@SEEDS
def test_dual_clip_1912_09729_advantages(seed):
    """gamma 0.997, lambda 0.95: the same authors' Honor of Kings Arena (2209.08483, Appendix G); code: gamma 0.995."""
    batch, row = Batch(seed), RECIPES["ppo-dual-clip"]
    raw = gae(batch, token_rewards(batch, 0.0), gamma=0.997, lam=0.95)
    ours = row.advantages(batch.scores, batch.mask, values=batch.values)
    torch.testing.assert_close(ours.advantages, raw, rtol=1e-10, atol=1e-10)


@SEEDS
def test_dual_clip_1912_09729_the_critic(seed):
    """0.5 mean (return - value)^2, weight 1 (tencent-ailab/hok_env c6e0029, aiarena/1v1/common/algorithm_torch.py)."""
    batch, row = Batch(seed), RECIPES["ppo-dual-clip"]
    returns, nothing = batch.ref, torch.zeros_like(batch.ref)

    def paper(values: Tensor) -> Tensor:
        pairs = zip(tokens(batch, returns), tokens(batch, values), strict=True)
        return 0.5 * mean([(r - v) ** 2 for r, v in pairs])

    def loss(values: Tensor) -> Tensor:
        return row.loss(batch.new, nothing, batch.mask, old_log_probs=batch.old, values=values, returns=returns).value

    same(loss, paper, batch.new_values)
