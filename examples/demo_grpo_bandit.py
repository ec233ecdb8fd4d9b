"""GRPO on four prompts at once: each sample is judged against the others of its own prompt.

Problem: each prompt has four possible answers. Prompt 0 pays 0 or 1; prompt 1 the same divided by ten; prompt 2 has a
half-right answer; prompt 3 pays 0.7 whatever the answer, so its groups are tied. A KL term of weight beta pulls to
the reference.
Known answer, without dividing by the deviation: pi = pi_ref exp(r / b) / Z with b = beta G / (G - 1), since
subtracting the group's own mean shrinks the reward's pull by 1 - 1/G. (kl_k2, whose gradient is that of the KL.)
Look at: the tied prompt, whose advantages are exactly 0 although 0.7 is no round number in binary; and prompts 0 and
1, which differ tenfold in scale: divided by the deviation they learn the same, undivided they do not.
"""

import torch
from common import every_tenth, finish, lines, options, table
from torch import Tensor

from torchstone.core import kl_k2, sequence_mean, token_log_probs
from torchstone.drawing import GRPO, INK, MUTED
from torchstone.grpo import group_advantages, grpo_loss

REWARDS = torch.tensor([[0, 0, 1, 0], [0, 0.1, 0, 0], [0.5, 0, 0, 1], [0.7, 0.7, 0.7, 0.7]])  # [prompts answers]
REFERENCE = torch.log_softmax(torch.tensor([0.5, 0.0, -0.5, 0.0]), 0).expand(4, 4)  # log pi_ref of each answer
COPIES, G, BETA = 32, 8, 0.25  # groups of each prompt in a batch, samples in a group, weight of the KL


def run(steps: int, divide_by_std: bool) -> tuple[Tensor, Tensor]:
    """Train; give back pi [prompts answers] and the reward (moving), tied groups, kl, and P(best) of prompts 0-2."""
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    average, history = REWARDS.mean(), []
    for _ in range(steps):
        # 1 prompts: P = 4 * COPIES of them, each G times: B = P * G rows, row p * G + g
        prompts = torch.arange(4).repeat(COPIES).repeat_interleave(G)
        # 2 rollout [B T]: one token each
        answers = torch.multinomial(logits.softmax(1)[prompts], 1)
        mask = torch.ones_like(answers, dtype=torch.bool)
        # 3 log-probs [B T]
        log_probs = token_log_probs(logits[prompts, None], answers, temperature=1.0)
        ref_log_probs = token_log_probs(REFERENCE[prompts, None], answers, temperature=1.0)
        # 4 rewards [P G]
        rewards = REWARDS[prompts, answers[:, 0]].view(-1, G)
        # 5 advantages [P G] -> [B]
        advantages = group_advantages(rewards, divide_by_std=divide_by_std, correction=1, eps=1e-4)
        # 6 loss: one update a batch, so the policy is its own old policy and the clip is idle
        loss = grpo_loss(
            log_probs, log_probs.detach(), advantages.flatten(), mask, reduce=sequence_mean, epsilon=0.2,
            beta=BETA, ref_log_probs=ref_log_probs, kl=kl_k2,
        )  # fmt: skip
        # 7 update
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        schedule.step()
        average = 0.9 * average + 0.1 * rewards.mean()
        tied = (advantages == 0).all(1).float().mean()
        best = logits.detach().softmax(1).gather(1, REWARDS.argmax(1, keepdim=True))[:3, 0]
        history.append([average, tied, float(loss.metrics["kl"]), *best])
    return logits.detach().softmax(1), torch.tensor(history)


if __name__ == "__main__":
    args = options(__doc__, steps=200)
    pi, history = run(args.steps, divide_by_std=False)
    divided, _ = run(args.steps, divide_by_std=True)
    columns = ["step", "reward (moving)", "tied groups", "kl term", *(f"P(best) {p}" for p in range(3))]
    table(columns, ([i + 1, *history[i].tolist()] for i in every_tenth(args.steps)))

    optimum = torch.softmax(REFERENCE + REWARDS / (BETA * G / (G - 1)), 1)
    for p in range(4):
        print(f"\nprompt {p}: probability of each answer")
        lines({"closed form": optimum[p], "learned": pi[p], "divided by std": divided[p]})
    print()
    off = (pi - optimum).abs().max()
    finish(
        args,
        {
            f"every probability is within {off:.3f} of the closed form (needed: 0.03)": bool(off < 0.03),
            "the tied prompt has not moved at all": bool((pi[3] == REFERENCE[3].softmax(0)).all()),
            "undivided, prompt 1 stays near the reference; divided, it learns": bool(
                pi[1, 1] < 0.4 < 0.8 < divided[1, 1]
            ),
        },
        title="GRPO on four prompts, without dividing by the deviation",
        ylabel="probability of the best answer",
        curves={f"prompt {p}": (history[:, 3 + p], c) for p, c in enumerate([GRPO, MUTED, INK])},
        known={f"prompt {p}": float(optimum[p, REWARDS[p].argmax()]) for p in range(3)},
    )
