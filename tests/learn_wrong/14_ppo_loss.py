import torch


# mistake: the minus signs are taken away, and the minimum is left
# says: sign|negat|wrong way
def ppo_loss(
    log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high=None,
    values=None, old_values=None, returns=None, value_epsilon=None, value_coef=0.0,
    entropies=None, entropy_coef=0.0,
):  # fmt: skip
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    surr1 = ratio * advantages
    high = epsilon if epsilon_high is None else epsilon_high
    surr2 = torch.clamp(ratio, 1 - epsilon, 1 + high) * advantages
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


# mistake: the clip is taken out
# says: clip
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
    loss = surr1
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.max(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: the clipped product alone
# says: minimum|maximum|clipped
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
    loss = surr2
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.max(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: the policy is right, and the maximum of the critic was turned into a minimum
# says: minimum|smaller
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
    loss = torch.max(surr1, surr2)
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.min(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: the policy is right, and the entropy is added
# says: entropy
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
    loss = torch.max(surr1, surr2)
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.max(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss + entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)
