import torch


# mistake: The weight is not detached, so gradient flows through the ratio too.
# says: weight_not_detached
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    adv = advantages[:, None] if advantages.ndim == 1 else advantages
    adv = torch.where(mask, adv.detach(), 0.0)
    logp = torch.where(mask, log_probs, 0.0)
    old = torch.where(mask, old_log_probs, 0.0).detach()
    if epsilon_high is None:
        epsilon_high = epsilon
    low = 0.0 if epsilon is None else 1 - epsilon
    high = float("inf") if epsilon_high is None else 1 + epsilon_high
    rho = torch.exp((logp - old).clamp(max=20.0))
    weight = torch.clamp(rho, low, high)
    return torch.where(mask, -weight * adv * logp, 0.0)


# mistake: PPO's min of clipped and unclipped is kept, so with a negative advantage the weight is not bounded above.
# says: minimum_in_the_weight
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    adv = advantages[:, None] if advantages.ndim == 1 else advantages
    adv = torch.where(mask, adv.detach(), 0.0)
    logp = torch.where(mask, log_probs, 0.0)
    old = torch.where(mask, old_log_probs, 0.0).detach()
    if epsilon_high is None:
        epsilon_high = epsilon
    low = 0.0 if epsilon is None else 1 - epsilon
    high = float("inf") if epsilon_high is None else 1 + epsilon_high
    rho = torch.exp(logp - old).detach()
    clipped = torch.clamp(rho, low, high)
    weighted = torch.min(rho * adv, clipped * adv)
    return torch.where(mask, -weighted * logp, 0.0)


# mistake: Tokens outside the clip are dropped (weight 0) instead of having their weight bounded, so they lose their gradient.
# says: weight_0_outside
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    adv = advantages[:, None] if advantages.ndim == 1 else advantages
    adv = torch.where(mask, adv.detach(), 0.0)
    logp = torch.where(mask, log_probs, 0.0)
    old = torch.where(mask, old_log_probs, 0.0).detach()
    if epsilon_high is None:
        epsilon_high = epsilon
    low = 0.0 if epsilon is None else 1 - epsilon
    high = float("inf") if epsilon_high is None else 1 + epsilon_high
    rho = torch.exp(logp - old).detach()
    inside = (rho >= low) & (rho <= high)
    weight = torch.where(inside, rho, 0.0)
    return torch.where(mask, -weight * adv * logp, 0.0)


# mistake: The weight multiplies the log-ratio log pi - log pi_old instead of log pi.
# says: log_ratio_for_log_prob
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    adv = advantages[:, None] if advantages.ndim == 1 else advantages
    adv = torch.where(mask, adv.detach(), 0.0)
    logp = torch.where(mask, log_probs, 0.0)
    old = torch.where(mask, old_log_probs, 0.0).detach()
    if epsilon_high is None:
        epsilon_high = epsilon
    low = 0.0 if epsilon is None else 1 - epsilon
    high = float("inf") if epsilon_high is None else 1 + epsilon_high
    log_ratio = logp - old
    weight = torch.exp(log_ratio).clamp(low, high).detach()
    loss = -weight * adv * log_ratio
    return torch.where(mask, loss, 0.0)


# mistake: epsilon_high is taken as the upper bound itself instead of 1 + epsilon_high.
# says: bound_read_the_other_way
def cispo_surrogate(log_probs, old_log_probs, advantages, mask, *, epsilon, epsilon_high=None):
    adv = advantages[:, None] if advantages.ndim == 1 else advantages
    adv = torch.where(mask, adv.detach(), 0.0)
    logp = torch.where(mask, log_probs, 0.0)
    old = torch.where(mask, old_log_probs, 0.0).detach()
    if epsilon_high is None and epsilon is not None:
        epsilon_high = 1 + epsilon
    low = 0.0 if epsilon is None else 1 - epsilon
    high = float("inf") if epsilon_high is None else epsilon_high
    rho = torch.exp(logp - old).detach()
    weight = torch.clamp(rho, low, high)
    return torch.where(mask, -(weight * adv * logp), 0.0)
