"""PPO on a small bandit in which a completion is two tokens and only the second one brings the reward.

Problem: for each of three prompts pick one of four tokens, then another; the noisy reward comes at the end. A critic
(a table) says what to expect before each token, GAE turns that into an advantage per token, and each batch of samples
serves eight epochs of clipped updates.
Known answers: the best completion of each prompt; and, as all 16 completions can be listed, the exact value of each
prompt under the learned policy, which the critic should have found.
Look at: kl, exactly 0 in a batch's first epoch (the policy still *is* the one that sampled), more in its last; the
share of tokens clipped; how much of the returns the critic explains; how much further the batch goes without the clip.
"""

import torch
from common import every_tenth, finish, lines, options, table
from torch import Tensor

from torchstone.core import token_entropies, token_log_probs, token_mean
from torchstone.drawing import MUTED, PPO
from torchstone.ppo import explained_variance, gae, ppo_loss

P, V, BATCH, EPOCHS = 3, 4, 256, 8  # prompts, tokens to choose from, completions and updates per batch
MEANS = torch.rand(P, V, V, generator=torch.Generator().manual_seed(0))  # mean reward; the noise has deviation 0.2
MEANS[torch.arange(P), torch.tensor([1, 3, 2]), torch.tensor([2, 0, 3])] = torch.tensor(
    [1.2, 1.6, 2.0]
)  # the best ones


def run(steps: int, epsilon: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Train; give back P(completion) [P V V], the critic's value of each prompt [P], and six metrics per batch."""
    torch.manual_seed(seed)
    logits = torch.zeros(P, 1 + V, V, requires_grad=True)  # state 0: nothing written yet; 1 + a: token a written
    values = torch.zeros(P, 1 + V, requires_grad=True)
    optimizer = torch.optim.Adam([logits, values], lr=0.05)
    mask, average, history = torch.ones(BATCH, 2, dtype=torch.bool), MEANS.mean(), []
    for _ in range(steps):
        # 1 prompts [B 1]
        prompts = torch.randint(P, (BATCH, 1))
        # 2 rollout [B T]: the first token, then the second
        first = torch.multinomial(logits[prompts[:, 0], 0].softmax(1), 1)
        second = torch.multinomial(logits[prompts, 1 + first][:, 0].softmax(1), 1)
        tokens, states = torch.cat([first, second], 1), torch.cat([0 * first, 1 + first], 1)
        # 3 log-probs and values [B T], before any update
        old_log_probs = token_log_probs(logits[prompts, states], tokens, temperature=1.0)
        old_values = values[prompts, states]
        # 4 rewards [B T]: all with the last token
        scores = MEANS[prompts, first, second] + 0.2 * torch.randn(BATCH, 1)
        rewards = torch.cat([0 * scores, scores], 1)
        # 5 advantages [B T]
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=0.95)
        losses = []
        for _ in range(EPOCHS):
            # 6 loss; the entropy bonus keeps the policy from settling too early
            now = logits[prompts, states]
            loss = ppo_loss(
                token_log_probs(now, tokens, temperature=1.0), old_log_probs, advantages, mask, reduce=token_mean,
                epsilon=epsilon, values=values[prompts, states], old_values=old_values, returns=returns,
                value_epsilon=0.2, value_coef=0.5,
                entropies=token_entropies(now, temperature=1.0), entropy_coef=0.02,
            )  # fmt: skip
            # 7 update
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
            losses.append({name: float(m) for name, m in loss.metrics.items()})
        pi = (logits[:, 0].softmax(1)[:, :, None] * logits[:, 1:].softmax(2)).detach()  # every completion
        best = pi.flatten(1).gather(1, MEANS.flatten(1).argmax(1, keepdim=True)).mean()
        average = 0.9 * average + 0.1 * scores.mean()  # moving average
        clipped = losses[-1]["clip_ratio/low_mean"] + losses[-1]["clip_ratio/high_mean"]
        kls = losses[0]["approx_kl"], losses[-1]["approx_kl"]
        history.append([average, best, *kls, clipped, explained_variance(old_values, returns, mask)])
    return pi, values[:, 0].detach(), torch.tensor(history)


if __name__ == "__main__":
    args = options(__doc__, steps=60)
    pi, critic, history = run(args.steps, 0.2, args.seed)
    _, _, free = run(1, 1e9, args.seed)  # the same first batch, without a clip
    columns = ["step", "reward (moving)", "P(best)", "kl, first", "kl, last", "clipped", "explained"]
    table(columns, ([i + 1, *history[i].tolist()] for i in every_tenth(args.steps)), digits=4)

    exact = (pi * MEANS).sum((1, 2))
    print("\nvalue of each prompt")
    lines({"exact": exact, "critic": critic})
    print()
    best, off, far = history[-1, 1], (critic - exact).abs().max(), free[0, 3] / history[0, 3]
    finish(
        args,
        {
            f"P(best completion) is {best:.3f} (known answer: 1; needed: above 0.9)": bool(best > 0.9),
            f"the critic is within {off:.3f} of the exact values (needed: 0.15)": bool(off < 0.15),
            "the KL is exactly 0 in the first epoch of every batch": bool((history[:, 2] == 0).all()),
            f"without the clip the first batch moves {far:.1f} times as far (needed: above 1.2)": bool(far > 1.2),
        },
        title="PPO on a bandit of two tokens",
        ylabel="probability, share of tokens",
        curves={"P(best completion)": (history[:, 1], PPO), "clipped": (history[:, 4], MUTED)},
        known={"P(best completion)": 1.0},
    )
