import torch


# mistake: k1 in place of k3
# says: k1|log-ratio
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        kl = log_probs - ref_log_probs
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


# mistake: k2 in place of k3
# says: k2|square
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        kl = 0.5 * (log_probs - ref_log_probs) ** 2
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


# mistake: the KL is right, and is subtracted
# says: subtract|sign|minus
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = ref_log_probs - log_probs
        kl = torch.exp(gap) - 1 - gap
        loss = loss - beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


# mistake: the KL is right, and the mean is over all tokens
# says: token
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = ref_log_probs - log_probs
        kl = torch.exp(gap) - 1 - gap
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    return loss.sum() / mask.sum().clamp(min=1)


# mistake: the KL is computed without a gradient
# says: detach|no gradient|gradient
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = ref_log_probs - log_probs
        kl = (torch.exp(gap) - 1 - gap).detach()
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)
