"""The rows that choose among tokens, read a second time: each equation by hand from its source, the row unseen.

As in test_second_reading_online.py, whose batch this is. Where the row's own share would take nothing of so few tokens,
a larger one stands in its place; the other numbers are the row's.
"""

import math

import torch
from test_second_reading_online import LOSS, SEEDS, Batch, clipped, mean, same, std
from torch import Tensor

from torchstone.recipes import RECIPES, find


class Tokens(Batch):
    """The batch with entropies, random draws, and its tokens in one list: completion and position."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        self.entropies, self.draws = torch.rand(2, self.B, self.T, generator=generator, dtype=torch.float64)
        self.tokens = [(i, t) for i, length in enumerate(self.lengths) for t in range(length)]

    def advantage(self, eps: float) -> list[Tensor]:
        """(r - mean) / (std + eps) of each completion's group."""
        groups = [list(self.scores[p]) for p in range(self.P)]
        return [(self.scores[p, g] - mean(groups[p])) / (std(groups[p]) + eps) for p, g, _ in self.rows()]

    def covariance(self, A: list[Tensor]) -> dict[tuple[int, int], float]:
        """(log pi - mean log pi) (A - mean A), means over all tokens."""
        n = len(self.tokens)
        centre = sum(self.new[i, t] for i, t in self.tokens) / n, sum(A[i] for i, _ in self.tokens) / n
        return {(i, t): float((self.new[i, t] - centre[0]) * (A[i] - centre[1])) for i, t in self.tokens}

    def row_loss(self, row, ahead: dict[str, Tensor], **known) -> LOSS:
        """The row from the rewards on, its tokens weighed once, on the whole batch at the present policy."""
        earned = row.advantages(self.scores, self.mask, max_length=20480).advantages if "max_length" in row.takes(
            "advantages") else row.advantages(self.scores, self.mask).advantages  # fmt: skip
        weights = row.token_weights(self.new, earned, self.mask, **ahead)
        return lambda lp: row.loss(lp, earned, self.mask, token_weights=weights, **known).value


@SEEDS
def test_high_entropy_2506_01939_the_top_fifth_by_the_quantile(seed):
    """80/20 on DAPO: min( r A, clip(r, 0.8, 1.28) A ) where H >= tau, over the number of tokens with H >= tau.

    Not had: the paper's text. Read: two accounts that print the objective (each group's own count), and the authors'
    code (Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR 6f5dda6f, core_algos.py: one count). tau as TRL 1.16.0 has it: the
    quantile at 0.8, between two entropies in proportion.
    """
    batch, row = Tokens(seed), RECIPES["high-entropy"]
    A, H = batch.advantage(0.0), sorted(float(batch.entropies[i, t]) for i, t in batch.tokens)
    place = 0.8 * (len(H) - 1)
    k = math.floor(place)
    tau = H[k] + (place - k) * (H[min(k + 1, len(H) - 1)] - H[k])
    chosen = [(i, t) for i, t in batch.tokens if batch.entropies[i, t] >= tau]
    assert 0 < len(chosen) < len(H) / 4

    def paper(log_probs: Tensor) -> Tensor:
        return -mean([clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), A[i], 0.2, 0.28) for i, t in chosen])

    ours = batch.row_loss(row, {"entropies": batch.entropies}, old_log_probs=batch.old)
    same(ours, paper, batch.new)


@SEEDS
def test_clip_cov_2505_22617v1_eq_10_to_12(seed):
    """Clip-Cov: r A, and no gradient for floor(r N) of the tokens whose covariance is within the bounds, at random.

    Not had: the paper's text. Read: an account with equations 10 to 12; the authors' code (PRIME-RL/
    Entropy-Mechanism-of-RL 8850579, core_algos.py). The draw is the batch's: the smallest numbers are taken.
    """
    batch, row = Tokens(seed), find("clip-cov:tokens.share=0.1+tokens.low=0.2")
    A = batch.advantage(1e-6)
    cov = batch.covariance(A)
    able = sorted((x for x in batch.tokens if 0.2 <= cov[x] <= 5.0), key=lambda x: float(batch.draws[x]))
    dropped = set(able[: int(0.1 * len(batch.tokens))])
    assert dropped and len(dropped) < len(able)

    def paper(log_probs: Tensor) -> Tensor:
        terms = [
            0 * log_probs[x] if x in dropped else -torch.exp(log_probs[x] - batch.old[x]) * A[x[0]]
            for x in batch.tokens
        ]
        return mean(terms)

    same(batch.row_loss(row, {"draws": batch.draws}, old_log_probs=batch.old), paper, batch.new)


@SEEDS
def test_kl_cov_2505_22617v1_eq_10_13_and_14(seed):
    """KL-Cov: r A, less |log r| for the top k N tokens by covariance (beta 1).

    Not had: the paper's text. Read: an account with equations 10, 13 and 14, which print a KL; the authors' code
    (8850579, core_algos.py: abs of the log-ratio).
    """
    batch, row = Tokens(seed), find("kl-cov:tokens.share=0.1")
    A = batch.advantage(1e-6)
    cov = batch.covariance(A)
    paying = set(sorted(batch.tokens, key=lambda x: -cov[x])[: int(0.1 * len(batch.tokens))])
    assert paying

    def paper(log_probs: Tensor) -> Tensor:
        terms = []
        for x in batch.tokens:
            log_ratio = log_probs[x] - batch.old[x]
            terms.append(-torch.exp(log_ratio) * A[x[0]] + (torch.abs(log_ratio) if x in paying else 0))
        return mean(terms)

    same(batch.row_loss(row, {}, old_log_probs=batch.old), paper, batch.new)


@SEEDS
def test_m2po_2510_01161_eq_4_and_5_and_algorithm_1(seed):
    """M2PO: (1/G) sum_i (1/|o_i|) sum_t M r A, r to the policy that sampled; M by algorithm 1 with 0.04.

    Read: the paper (a copy): eq. 4 and 5, algorithm 1, and its note that the averages are over all tokens.
    """
    batch, row = Tokens(seed), RECIPES["m2po"]
    A = batch.advantage(0.0)
    squares = {}
    for i, t in batch.tokens:
        r = math.exp(batch.new[i, t] - batch.old[i, t])
        if (A[i] > 0 and r > 1) or (A[i] < 0 and r < 1):
            squares[i, t] = math.log(r) ** 2
    moved = len(squares)
    while sum(squares.values()) / len(squares) > 0.04:
        del squares[max(squares, key=squares.__getitem__)]
    assert 0 < len(squares) < moved
    kept = {(i, t) for i, t in batch.tokens
            if (i, t) in squares or (batch.new[i, t] - batch.old[i, t]) * A[i] <= 0}  # fmt: skip

    def paper(log_probs: Tensor) -> Tensor:
        completions = []
        for i, length in enumerate(batch.lengths):
            terms = [((i, t) in kept) * torch.exp(log_probs[i, t] - batch.old[i, t]) * A[i] for t in range(length)]
            completions.append(-mean(terms))
        return mean(completions)

    # the engine's log-probs are those of the policy that sampled
    ours = batch.row_loss(row, {"sampler_log_probs": batch.old}, sampler_log_probs=batch.old)
    same(ours, paper, batch.new)


@SEEDS
def test_fipo_2603_19835_eq_3_to_8(seed):
    """FIPO: DAPO with A f, f = clip(exp(F), 1, 1.2), F the discounted sum of later log-ratios where the ratio is <= 10.

    Read: the paper (a copy, without appendix A): eq. 3 to 8, tau 32. That f is 1 for a bad token beyond a bound is said
    there without the number; 4 is ms-swift's (3602360). f is a constant there.
    """
    batch, row = Tokens(seed), RECIPES["fipo"]
    batch.new[::2] += 7 * (batch.new - batch.old)[::2]  # some ratios beyond 4 and 10
    A, d = batch.advantage(0.0), (batch.new - batch.old).tolist()
    assert max(d[i][t] for i, t in batch.tokens) > math.log(10)
    weight = {}
    for i, t in batch.tokens:
        later = range(t, batch.lengths[i])
        F = sum(2 ** (-(k - t) / 32) * d[i][k] for k in later if math.exp(d[i][k]) <= 10)
        weight[i, t] = 1.0 if A[i] < 0 and math.exp(d[i][t]) > 4 else min(max(math.exp(F), 1.0), 1.2)
    assert len({round(w, 6) for w in weight.values()}) > 2

    def paper(log_probs: Tensor) -> Tensor:
        groups = []
        for p in range(batch.P):
            rows = [p * batch.G + g for g in range(batch.G)]
            terms = [
                -clipped(torch.exp(log_probs[i, t] - batch.old[i, t]), A[i] * weight[i, t], 0.2, 0.28)
                for i in rows
                for t in range(batch.lengths[i])
            ]
            groups.append(mean(terms))
        return mean(groups)

    earned = row.advantages(batch.scores, batch.mask, max_length=20480).advantages
    known = {"old_log_probs": batch.old, "group_size": batch.G}
    same(lambda lp: row.loss(lp, earned, batch.mask, **known).value, paper, batch.new)
