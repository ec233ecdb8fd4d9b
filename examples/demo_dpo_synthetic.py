"""DPO on synthetic preferences whose true reward is known.

Problem: three prompts with five completions each. A judge with a hidden reward r prefers y to y' with probability
sigmoid(r(y) - r(y')) (Bradley-Terry). From a fixed set of such pairs DPO trains the policy
directly: no reward model, no sampling while it trains.
Known answers: the policy it should reach, pi_ref exp(r / beta) / Z; and the exact gradient of its loss at the start,
as the probability of every possible pair is known.
Look at: loss, which starts at log 2 = 0.693; margin and accuracy, which cannot go beyond what the judge's own
inconsistency allows; and chosen, the log-prob of preferred completions.
"""

import math

import torch
from common import every_tenth, finish, lines, options, table
from torch import Tensor

from torchstone.core import Loss
from torchstone.dpo import dpo_loss
from torchstone.drawing import DPO

REWARDS = torch.tensor([[0.0, 0.5, 1.0, 1.5, 2.0], [1.5, -1.0, 0.5, 0.0, 1.0], [0.3, 0.6, -0.9, 0.0, 1.2]])
REFERENCE = torch.log_softmax(torch.tensor([[0.6, 0.3, 0.0, -0.3, -0.6]] * 3), 1)  # log pi_ref: likes the first best
PAIRS, BATCH, BETA = 40_000, 500, 0.5


def sample_pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Prompts, chosen and rejected completions [PAIRS]: any two different ones, ranked by the noisy judge."""
    prompts, one = torch.randint(3, (PAIRS,)), torch.randint(5, (PAIRS,))
    two = (one + torch.randint(1, 5, (PAIRS,))) % 5
    one_wins = torch.rand(PAIRS) < torch.sigmoid(REWARDS[prompts, one] - REWARDS[prompts, two])
    return prompts, torch.where(one_wins, one, two), torch.where(one_wins, two, one)


def loss_on(logits: Tensor, prompts: Tensor, chosen: Tensor, rejected: Tensor) -> Loss:
    """Stages 1, 2 (given), 3 and 6; there is nothing to do in stages 4 and 5."""
    log_pi = torch.log_softmax(logits, 1)  # of whole completions, [prompts completions]
    pairs = [x[prompts, y] for x in (log_pi, REFERENCE) for y in (chosen, rejected)]
    return dpo_loss(*pairs, beta=BETA)


def exact_gradient(logits: Tensor) -> Tensor:
    """The gradient of the expected loss, with every pair weighed by its true probability; written out by hand."""
    log_pi = torch.log_softmax(logits, 1)
    h = BETA * (log_pi - REFERENCE)
    margins = h[:, :, None] - h[:, None, :]  # [prompts w l]
    judge = torch.sigmoid(REWARDS[:, :, None] - REWARDS[:, None, :])
    chances = judge / 10 / 3  # of prompt, w and l: one of ten pairs, ranked so by the judge; w = l has no gradient
    return torch.autograd.grad(-(chances * margins.sigmoid().log()).sum(), logits)[0]


def run(steps: int, data: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Train; give back pi [prompts completions], and loss, margin, accuracy, chosen, distance per update."""
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    history = []
    for _ in range(steps):
        rows = torch.randint(PAIRS, (BATCH,))
        loss = loss_on(logits, *(x[rows] for x in data))
        # 7 update
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        schedule.step()
        names = ("rewards/margins", "rewards/accuracies", "logps/chosen")
        off = (logits.detach().softmax(1) - torch.softmax(REFERENCE + REWARDS / BETA, 1)).abs().max()
        history.append([loss.value.detach(), *(float(loss.metrics[name]) for name in names), off])
    return logits.detach().softmax(1), torch.tensor(history)


if __name__ == "__main__":
    args = options(__doc__, steps=600)
    data, start = sample_pairs(), REFERENCE.clone().requires_grad_()
    (sampled,), exact = torch.autograd.grad(loss_on(start, *data).value, start), exact_gradient(start)
    pi, history = run(args.steps, data)
    table(
        ["step", "  loss", "margin", "accuracy", "chosen (nats)", "distance to the optimum"],
        ([i + 1, *history[i].tolist()] for i in every_tenth(args.steps)),
    )
    optimum = torch.softmax(REFERENCE + REWARDS / BETA, 1)
    for p in range(3):
        print(f"\nprompt {p}: gradient of each completion at the start, probability at the end")
        lines({"exact": exact[p], "sampled": sampled[p], "closed form": optimum[p], "learned": pi[p]})
    print()
    off, wrong = (pi - optimum).abs().max(), (sampled - exact).norm() / exact.norm()
    finish(
        args,
        {
            f"every probability is within {off:.3f} of pi_ref exp(r / beta) / Z (needed: 0.08)": bool(off < 0.08),
            f"the sampled gradient is within {100 * wrong:.1f} % of the exact one (needed: 10 %)": bool(wrong < 0.1),
            f"the loss starts at {history[0, 0]:.4f}, log 2": math.isclose(history[0, 0], math.log(2), rel_tol=1e-6),
        },
        title="DPO on synthetic preferences",
        ylabel="largest error of a probability",
        curves={"distance to the closed form": (history[:, 4], DPO)},
        known={"distance to the closed form": 0.0},
    )
