import math

import torch


def _exp(u, top=20.0):
    below = torch.exp(u.clamp(max=top))
    return torch.where(u > top, math.exp(top) * (1 + u - top), below)


# mistake: max instead of min of the two objectives: the optimistic one is taken, so the clip works on the wrong side.
# says: maximum_of_both
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = torch.where(mask, advantages.detach(), 0.0)
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = _exp(torch.where(mask, log_probs - old_log_probs.detach(), 0.0))
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -torch.max(ratio * advantages, clipped * advantages)
    return torch.where(mask, loss, 0.0)


# mistake: The clipped term alone is used, without the min with the unclipped one: harm beyond the clip costs nothing and has no gradient.
# says: no_minimum
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = torch.where(mask, advantages.detach(), 0.0)
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = _exp(torch.where(mask, log_probs - old_log_probs.detach(), 0.0))
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high)
    loss = -clipped * advantages
    return torch.where(mask, loss, 0.0)


# mistake: The two bounds are exchanged: epsilon_high is used below 1 and epsilon above.
# says: bounds_swapped
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = torch.where(mask, advantages.detach(), 0.0)
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = _exp(torch.where(mask, log_probs - old_log_probs.detach(), 0.0))
    clipped = torch.clamp(ratio, 1 - high, 1 + epsilon)
    surr1 = ratio * advantages
    surr2 = clipped * advantages
    return torch.where(mask, -torch.minimum(surr1, surr2), 0.0)


# mistake: The min is taken of the ratios before they are multiplied by the advantage, which is wrong where the advantage is negative.
# says: min where A < 0
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = torch.where(mask, advantages.detach(), 0.0)
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = _exp(torch.where(mask, log_probs - old_log_probs.detach(), 0.0))
    ratio = torch.min(ratio, torch.clamp(ratio, 1 - epsilon, 1 + high))
    return torch.where(mask, -ratio * advantages, 0.0)


# mistake: The log-ratio is clipped to [-epsilon, epsilon_high] instead of the ratio to [1 - epsilon, 1 + epsilon_high].
# says: clip_in_nats
def clipped_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = torch.where(mask, advantages.detach(), 0.0)
    high = epsilon if epsilon_high is None else epsilon_high
    log_ratio = torch.where(mask, log_probs - old_log_probs.detach(), 0.0)
    ratio = _exp(log_ratio)
    clipped = torch.exp(torch.clamp(log_ratio, -epsilon, high))
    loss = -torch.min(ratio * advantages, clipped * advantages)
    return torch.where(mask, loss, 0.0)
