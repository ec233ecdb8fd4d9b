"""The small float64 batches on which every framework's loss is run, deterministic from a seed.

`policy_batch` has 3 prompts with 4 completions each (12 rows) of at most 7 tokens; `preference_batch` has 6 pairs of at
most 7 tokens; `distill_batch` has 6 completions of at most 7 tokens over a vocabulary of 160. Padding holds finite
values that must not matter. `two_token_logits` turns chosen log-probs into logits over a vocabulary of two, for code
that takes logits or hidden states: the leaf stays the token's log-prob.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PROMPTS, GROUP, ROWS, TOKENS, PAIRS, VOCABULARY = 3, 4, 12, 7, 6, 160
LENGTHS = (7, 4, 6, 2, 5, 7, 1, 6, 3, 7, 5, 6)  # of the 12 completions
# log pi - log pi_old of single tokens: within 0.2, beyond 0.2 and 0.28, beyond a factor of 3, on both sides
LOG_RATIOS = (-1.4, -0.45, -0.24, -0.08, 0.06, 0.21, 0.4, 1.3)


@dataclass(frozen=True)
class PolicyBatch:
    """Rows are prompt-major: row p * GROUP + g. All tensors are float64 except the masks (bool)."""

    log_probs: Tensor  # [B T] under the policy being trained
    old_log_probs: Tensor  # [B T] under the policy at rollout, as the trainer computes it
    ref_log_probs: Tensor  # [B T] under the reference
    sampler_log_probs: Tensor  # [B T] as the inference engine reported them
    mask: Tensor  # [B T] tokens to learn from
    advantages: Tensor  # [B] both signs, that of the reward minus its group's mean
    token_advantages: Tensor  # [B T] both signs in a row
    rewards: Tensor  # [P G] without ties, positive
    greedy_rewards: Tensor  # [P]
    values: Tensor  # [B T]
    old_values: Tensor  # [B T] some of them further than 0.2 from values
    returns: Tensor  # [B T]
    entropies: Tensor  # [B T] of the policy
    draws: Tensor  # [B T] random numbers

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(-1)


@dataclass(frozen=True)
class PreferenceBatch:
    """Token log-probs of pairs under the policy and the reference. All tensors are float64 except the masks (bool)."""

    chosen: Tensor  # [N T]
    rejected: Tensor  # [N T]
    ref_chosen: Tensor  # [N T]
    ref_rejected: Tensor  # [N T]
    chosen_mask: Tensor  # [N T]
    rejected_mask: Tensor  # [N T]
    chosen_rewards: Tensor  # [N] of a reward model
    rejected_rewards: Tensor  # [N]
    margins: Tensor  # [N] >= 0, stated by the data set
    kl: Tensor  # [2N T] under the policy, of completions paired with other prompts (KTO's estimate of the KL)
    ref_kl: Tensor  # [2N T] under the reference
    kl_mask: Tensor  # [2N T]


@dataclass(frozen=True)
class DistillBatch:
    """Completions that the policy sampled, with both models' logits. All float64 except the ids and the mask (bool)."""

    logits: Tensor  # [B T V] of the policy, at the positions that chose the tokens
    teacher_logits: Tensor  # [B T V]
    ids: Tensor  # [B T] the sampled tokens
    mask: Tensor  # [B T] tokens to learn from
    old_log_probs: Tensor  # [B T] of the sampled tokens before the update, some ratios beyond 2
    sampler_log_probs: Tensor  # [B T] as the inference engine reported them
    advantages: Tensor  # [B] the task's own

    def sampled(self, logits: Tensor) -> Tensor:
        """Log-probs [B T] of the sampled tokens under these logits [B T V]."""
        return logits.log_softmax(-1).gather(-1, self.ids[..., None])[..., 0]


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=generator)


def _prefix_mask(lengths: Tensor) -> Tensor:
    return torch.arange(TOKENS)[None] < lengths[:, None]


def policy_batch(seed: int = 0, *, gaps: bool = False) -> PolicyBatch:
    """A rollout. Rows of each advantage sign see every entry of LOG_RATIOS; whole rows lean to both sides as well.

    Args:
        seed: of the generator
        gaps: masks with holes (tool output inside a completion) instead of right-padded prefixes
    """
    generator = torch.Generator().manual_seed(seed)
    # four levels per group, shuffled, with jitter: no ties, two above and two below the group's mean
    levels = torch.tensor([0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    order = torch.stack([torch.randperm(GROUP, generator=generator) for _ in range(PROMPTS)])
    rewards = levels[order] + _uniform(generator, -0.05, 0.05, PROMPTS, GROUP)
    sign = (rewards - rewards.mean(1, keepdim=True)).sign().view(-1)
    mask = _prefix_mask(torch.tensor(LENGTHS))
    if gaps:
        mask[:, 2] = False  # column 2 is tool output in every row, column 4 in every other row
        mask[::2, 4] = False

    log_ratio = _uniform(generator, -0.5, 0.5, ROWS, TOKENS)
    for side in (-1, 1):  # the chosen tokens of each sign go through a shuffled LOG_RATIOS again and again
        chosen = mask & (sign == side)[:, None]
        count = int(chosen.sum())
        cycle = torch.tensor(LOG_RATIOS, dtype=torch.float64).repeat(count // len(LOG_RATIOS) + 1)[:count]
        jitter = _uniform(generator, -0.005, 0.005, count)
        log_ratio[chosen] = (cycle + jitter)[torch.randperm(count, generator=generator)]

    base = _uniform(generator, -3.6, -1.6, ROWS, TOKENS)  # so low that the sampler, 1.5 above, stays below 0
    log_probs, old = base + log_ratio.clamp(max=0), base - log_ratio.clamp(min=0)  # log_ratio apart, all below 0
    off = torch.tensor([-1.5, -0.3, 0.02, 0.1, 0.3, 1.2], dtype=torch.float64)  # sampler against trainer, in nats
    drift = off[torch.randint(len(off), (ROWS, TOKENS), generator=generator)]
    return PolicyBatch(
        log_probs=log_probs,
        old_log_probs=old,
        ref_log_probs=base - _uniform(generator, 0.0, 0.9, ROWS, TOKENS),
        sampler_log_probs=old - drift - _uniform(generator, 0.0, 0.01, ROWS, TOKENS),
        mask=mask,
        advantages=sign * _uniform(generator, 0.2, 1.6, ROWS),
        token_advantages=_uniform(generator, -1.5, 1.5, ROWS, TOKENS),
        rewards=rewards,
        greedy_rewards=_uniform(generator, 0.0, 1.0, PROMPTS),
        values=_uniform(generator, -1.0, 1.0, ROWS, TOKENS),
        old_values=_uniform(generator, -1.0, 1.0, ROWS, TOKENS),
        returns=_uniform(generator, -1.0, 1.0, ROWS, TOKENS),
        entropies=_uniform(generator, 0.1, 2.0, ROWS, TOKENS),
        draws=_uniform(generator, 0.0, 1.0, ROWS, TOKENS),
    )


def preference_batch(seed: int = 0) -> PreferenceBatch:
    """Six pairs whose implicit margins have both signs and straddle hinge corners; lengths differ within a pair."""
    generator = torch.Generator().manual_seed(1000 + seed)
    chosen_lengths = torch.tensor([7, 3, 5, 1, 6, 4])
    rejected_lengths = torch.tensor([5, 6, 2, 4, 7, 4])
    lean = torch.tensor([2.0, -2.0, 0.3, -0.3, 0.05, 1.0], dtype=torch.float64)[
        :, None
    ]  # per row, in nats over the row

    def side(lengths: Tensor, lean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = _prefix_mask(lengths)
        base = _uniform(generator, -2.5, -0.2, PAIRS, TOKENS)
        gap = lean / lengths[:, None] + _uniform(generator, -0.2, 0.2, PAIRS, TOKENS)
        return base + gap.clamp(max=0), base - gap.clamp(min=0), mask

    chosen, ref_chosen, chosen_mask = side(chosen_lengths, lean)
    rejected, ref_rejected, rejected_mask = side(rejected_lengths, -lean.roll(2, 0))
    base = _uniform(generator, -2.5, -0.6, 2 * PAIRS, TOKENS)
    drift = _uniform(generator, -0.2, 0.5, 2 * PAIRS, TOKENS)  # positive on the mean: KTO clamps its KL at 0
    return PreferenceBatch(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=ref_chosen,
        ref_rejected=ref_rejected,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
        chosen_rewards=_uniform(generator, -2.0, 2.0, PAIRS),
        rejected_rewards=_uniform(generator, -2.0, 2.0, PAIRS),
        margins=_uniform(generator, 0.0, 1.0, PAIRS),
        kl=base + drift,
        ref_kl=base,
        kl_mask=torch.cat([rejected_mask, chosen_mask]).roll(1, 0),
    )


def distill_batch(seed: int = 0, *, gaps: bool = False, spread: float = 1.0) -> DistillBatch:
    """Completions of every length from 1 to 7, tokens that both models find likely or not, and a moved policy.

    Args:
        seed: of the generator
        gaps: masks with holes (tool output inside a completion) instead of right-padded prefixes
        spread: how far apart the logits of one position are
    """
    generator = torch.Generator().manual_seed(2000 + seed)
    shape = (PAIRS, TOKENS, VOCABULARY)
    logits, teacher = (spread * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    ids = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(PAIRS, TOKENS)
    mask = _prefix_mask(torch.tensor([7, 3, 5, 1, 6, 4]))
    if gaps:
        mask[:, 2] = False
        mask[::2, 4] = False
    log_probs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    off = torch.tensor(LOG_RATIOS, dtype=torch.float64)
    old, sampler = (
        log_probs
        - off[torch.randint(len(off), mask.shape, generator=generator)]
        - _uniform(generator, 0, 0.01, *mask.shape)
        for _ in range(2)
    )
    advantages = _uniform(generator, -1.0, 1.0, PAIRS)
    return DistillBatch(logits, teacher, ids, mask, old, sampler, advantages)


def leaf(tensor: Tensor) -> Tensor:
    """A copy that takes gradients."""
    return tensor.detach().clone().requires_grad_()


def value_and_grads(loss: Tensor, **leaves: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradient by each named leaf, zeros where the loss does not depend on it."""
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    named = zip(leaves, grads, leaves.values(), strict=True)
    return loss.detach(), {name: torch.zeros_like(x) if g is None else g for name, g, x in named}


def two_token_logits(log_probs: Tensor) -> Tensor:
    """Logits [... 2] over a vocabulary of two whose log_softmax at token 0 is log_probs; already normalised.

    d log_softmax[0] / d log_probs is 1, so a gradient by log_probs is that by the token's log-prob. log_probs < 0.
    """
    return torch.stack([log_probs, torch.log(-torch.expm1(log_probs))], -1)


def log_sum_sq_probs(log_probs: Tensor) -> Tensor:
    """log(sum_v p_v^2) of the same vocabulary of two: what WPO's alignment subtracts from a token's log-prob."""
    return torch.logsumexp(2 * two_token_logits(log_probs), -1)
