"""The functions to mend: each has one mistake that was met in public code (docs/pitfalls.md), as people write it."""

# mypy: ignore-errors

import math

import torch
import torch.nn.functional as F


def masked_whiten(x, mask, correction, eps):
    x = torch.where(mask, x, 0.0)
    mean = x.mean()
    var = (x - mean).square().sum() / (x.numel() - correction)
    whitened = (x - mean) / torch.sqrt(var + eps)
    return torch.where(mask, whitened, 0.0)


def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    if entropies is not None:
        loss = loss + entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


def ppo_loss(
    log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None,
    values=None, old_values=None, returns=None, value_epsilon=None, value_coef=0.0,
    entropies=None, entropy_coef=0.0,
):  # fmt: skip
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    surr1 = -ratio * advantages
    high = epsilon if epsilon_high is None else epsilon_high
    surr2 = -torch.clamp(ratio, 1 - epsilon, 1 + high) * advantages
    loss = torch.min(surr1, surr2)
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.max(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = log_probs - ref_log_probs
        kl = torch.exp(gap) - 1 - gap
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return (x.sum(1) / lengths.max().clamp(min=1)).sum() / rows


def sequence_log_probs(log_probs, mask, average):
    total = log_probs.sum(1)
    if average:
        return total / mask.sum(1).clamp(min=1)
    return total


def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    loss = -F.logsigmoid(chosen_rewards - rejected_rewards)
    if margin is not None:
        loss = loss + margin
    return loss.mean()


def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy
