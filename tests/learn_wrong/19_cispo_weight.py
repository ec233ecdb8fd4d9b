import torch


# mistake: log pi is missing: the clipped ratio alone
# says: log
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    low = 0.0 if epsilon is None else 1 - epsilon
    weight = torch.clamp(ratio, low, 1 + epsilon_high)
    loss = -weight * advantages
    return torch.where(mask, loss, 0.0)


# mistake: the weight is not detached
# says: detach
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    low = 0.0 if epsilon is None else 1 - epsilon
    weight = torch.clamp(ratio, low, 1 + epsilon_high)
    loss = -weight * advantages * log_probs
    return torch.where(mask, loss, 0.0)


# mistake: PPO's minimum
# says: PPO|minimum|clip
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    low = 0.0 if epsilon is None else 1 - epsilon
    clipped = torch.clamp(ratio, low, 1 + epsilon_high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    return torch.where(mask, loss, 0.0)


# mistake: the minus sign is missing
# says: sign|negat|wrong way
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    low = 0.0 if epsilon is None else 1 - epsilon
    weight = torch.clamp(ratio, low, 1 + epsilon_high).detach()
    loss = weight * advantages * log_probs
    return torch.where(mask, loss, 0.0)


# mistake: no bound above
# says: bound
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    low = 0.0 if epsilon is None else 1 - epsilon
    weight = torch.clamp(ratio, min=low).detach()
    loss = -weight * advantages * log_probs
    return torch.where(mask, loss, 0.0)
