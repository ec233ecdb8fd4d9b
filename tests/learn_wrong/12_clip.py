import torch


# mistake: the minus sign is missing
# says: sign|negat|minus
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    return torch.where(mask, torch.min(ratio * advantages, clipped * advantages), 0.0)


# mistake: the maximum in place of the minimum
# says: maxim|minim
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.max(ratio * advantages, clipped * advantages)
    return torch.where(mask, loss, 0.0)


# mistake: the ratio is old over new
# says: invert|upside|old over new|other way|swap
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(old_log_probs - log_probs)
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    return torch.where(mask, -torch.minimum(ratio * advantages, clipped * advantages), 0.0)


# mistake: only the clipped ratio, no minimum
# says: minimum
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(log_probs - old_log_probs).clamp(1 - epsilon, 1 + high)
    return torch.where(mask, -ratio * advantages, 0.0)


# mistake: epsilon_high is not used
# says: epsilon_high|upper
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    A = advantages if advantages.ndim == 2 else advantages.unsqueeze(1)
    ratio = (log_probs - old_log_probs).exp()
    s1 = ratio * A
    s2 = ratio.clamp(1 - epsilon, 1 + epsilon) * A
    return torch.where(mask, -torch.min(s1, s2), 0.0)
