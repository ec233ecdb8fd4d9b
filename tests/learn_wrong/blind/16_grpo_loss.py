import torch


# mistake: Half mended: the sign of the log-ratio was changed in the exponent but not in the linear term.
# says: wrong sign of its last term
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = log_probs - ref_log_probs
        kl = torch.exp(-gap) - 1 - gap
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


# mistake: The KL is taken between the reference and the old policy, so it has no gradient to the present one.
# says: kl_of_the_old_policy
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = ref_log_probs - old_log_probs
        kl = torch.exp(gap) - 1 - gap
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


# mistake: The KL is k1, the plain log-ratio, instead of k3.
# says: \(k1\)
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        gap = log_probs - ref_log_probs
        kl = gap
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


# mistake: The KL is mended but subtracted from the loss, so leaving the reference is rewarded.
# says: kl_subtracted
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


# mistake: The formula is mended but the KL is computed without gradient, so it is only logged and does not hold the policy.
# says: kl_detached
def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None, beta=0.0, ref_log_probs=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    if ref_log_probs is not None:
        with torch.no_grad():
            gap = ref_log_probs - log_probs
            kl = torch.exp(gap) - 1 - gap
        loss = loss + beta * kl
    loss = torch.where(mask, loss, 0.0)
    lengths = mask.sum(1)
    return (loss.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)
