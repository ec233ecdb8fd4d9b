"""REINFORCE on a tiny bandit, with and without a baseline.

Problem: a policy picks one of five completions (arms) and gets a noisy reward. All rewards are positive, so
without a baseline every arm that is tried becomes more likely, and it may settle on one that it merely tried
early. A baseline, here the mean reward of the other samples (leave-one-out), asks: was this better than usual?
Known answers: the best policy always picks arm 4. And as we know the mean rewards mu, the gradient of the
expected reward J = sum_a pi_a mu_a of a softmax policy is known exactly: dJ/dtheta_a = pi_a (mu_a - J).
Look at: what the same budget buys with and without the baseline (50 learners of each kind, as one lucky run
proves nothing); then the gradients: both kinds are right on average (unbiased), but one is far noisier.
"""

from functools import partial

import torch
from common import every_tenth, finish, lines, options, table
from torch import Tensor

from torchstone.core import sequence_sum, token_log_probs
from torchstone.drawing import MUTED, REINFORCE
from torchstone.reinforce import leave_one_out_advantages, reinforce_loss

MEANS = torch.tensor([8.0, 8.5, 9.0, 9.5, 10.0])  # mean reward of each arm; the noise has deviation 1
LEARNERS, SAMPLES, LR = 100, 8, 0.2  # R (the first half without a baseline), G per learner and update, learning rate


def one_batch(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards [R G] and the gradients of R losses [R K]: each learner has its own logits and G samples."""
    logits = logits.clone().requires_grad_()
    # 1 prompt: one a learner, so B = R * G rows
    learner = torch.arange(len(logits)).repeat_interleave(SAMPLES)
    # 2 rollout [R G]: one token each
    arms = torch.multinomial(logits.softmax(1), SAMPLES, replacement=True)
    mask = torch.ones(len(learner), 1, dtype=torch.bool)
    # 3 log-probs [B 1]
    log_probs = token_log_probs(logits[learner, None], arms.view(-1, 1), temperature=1.0)
    # 4 rewards [R G]
    rewards = MEANS[arms] + torch.randn(arms.shape)
    # 5 advantages: reward - baseline, in which a sample's own reward has no part; 0 for the first half
    baseline = (rewards - leave_one_out_advantages(rewards)).view(2, -1) * torch.tensor([[0.0], [1.0]])
    # 6 loss: the mean over each learner's G rows, summed over learners
    reduce = partial(sequence_sum, denominator=SAMPLES)
    loss = reinforce_loss(log_probs, rewards.flatten(), mask, reduce=reduce, baseline=baseline.flatten())
    return rewards, torch.autograd.grad(loss.value, logits)[0]


def run(steps: int) -> Tensor:
    """Train all learners; give back reward (moving average) and P(best arm), each without and with baseline."""
    logits, average, history = torch.zeros(LEARNERS, len(MEANS)), MEANS.mean().repeat(2), []
    for _ in range(steps):
        rewards, gradient = one_batch(logits)
        # 7 update
        logits -= LR * gradient
        average = 0.9 * average + 0.1 * rewards.view(2, -1).mean(1)
        history.append(torch.cat([average, logits.softmax(1)[:, -1].view(2, -1).mean(1)]))
    return torch.stack(history)


def gradients() -> tuple[Tensor, Tensor, Tensor]:
    """At a policy that prefers arm 0: the exact gradient [K]; mean and deviation of 4000 sampled ones [2 K]."""
    pi = torch.linspace(0.5, -0.5, len(MEANS)).softmax(0)
    exact = pi * (MEANS - (pi * MEANS).sum())
    sampled = -one_batch(pi.log().expand(8000, -1))[1].view(2, 4000, -1)  # minus: the loss is -J
    return exact, sampled.mean(1), sampled.std(1)


if __name__ == "__main__":
    args = options(__doc__, steps=500)
    history = run(args.steps)
    columns = ["step", "reward, plain", "reward, baseline", "P(best), plain", "P(best), baseline"]
    table(columns, ([i + 1, *history[i].tolist()] for i in every_tenth(args.steps)))

    exact, mean, std = gradients()
    print("\ngradient dJ/dtheta of each arm; +- is its standard deviation over batches")
    lines({"exact": exact, "plain": mean[0], "+-": std[0], "baseline": mean[1], "+- ": std[1]})

    plain, best = history[-1, 2:].tolist()
    off, less = ((mean - exact).abs() / std * 4000**0.5).max().item(), (std[0] / std[1]).square().mean().item()
    print()
    finish(
        args,
        {
            f"P(best arm) is {best:.3f} with the baseline (known answer: 1; needed: above 0.9)": best > 0.9,
            f"it is {plain:.3f} without, on the same budget (needed: less)": plain < best,
            f"both gradients are unbiased: within {off:.1f} standard errors of the exact one (needed: 4)": off < 4,
            f"the baseline makes their variance {less:.0f} times smaller (needed: above 2)": less > 2,
        },
        title="REINFORCE on a tiny bandit: mean of 50 learners",
        ylabel="probability of the best arm",
        curves={"without baseline": (history[:, 2], MUTED), "with baseline": (history[:, 3], REINFORCE)},
        known={"with baseline": 1.0},
    )
