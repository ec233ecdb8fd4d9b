import torch


# mistake: The minus signs are taken away and the min kept, so the objective itself is minimised: the policy's loss has the wrong sign.
# says: sign of the loss is flipped
def ppo_loss(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    epsilon,
    epsilon_high=None,
    values=None,
    old_values=None,
    returns=None,
    value_epsilon=None,
    value_coef=0.0,
    entropies=None,
    entropy_coef=0.0,
):
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


# mistake: Only the clipped term is left: tokens that did harm beyond the clip have no gradient either.
# says: no_minimum
def ppo_loss(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    epsilon,
    epsilon_high=None,
    values=None,
    old_values=None,
    returns=None,
    value_epsilon=None,
    value_coef=0.0,
    entropies=None,
    entropy_coef=0.0,
):
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


# mistake: The min is mended, but now the product of ratio and advantage is clipped to [1 - epsilon, 1 + epsilon_high] instead of the ratio.
# says: around the product
def ppo_loss(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    epsilon,
    epsilon_high=None,
    values=None,
    old_values=None,
    returns=None,
    value_epsilon=None,
    value_coef=0.0,
    entropies=None,
    entropy_coef=0.0,
):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    surr1 = -ratio * advantages
    high = epsilon if epsilon_high is None else epsilon_high
    surr2 = -torch.clamp(ratio * advantages, 1 - epsilon, 1 + high)
    loss = torch.max(surr1, surr2)
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.max(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: The policy's term is mended, but the critic's max was turned into a min.
# says: minimum_of_both
def ppo_loss(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    epsilon,
    epsilon_high=None,
    values=None,
    old_values=None,
    returns=None,
    value_epsilon=None,
    value_coef=0.0,
    entropies=None,
    entropy_coef=0.0,
):
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


# mistake: The clip is applied only where the advantage is positive: with a negative advantage tokens below 1 - epsilon still have a gradient.
# says: no lower
def ppo_loss(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    epsilon,
    epsilon_high=None,
    values=None,
    old_values=None,
    returns=None,
    value_epsilon=None,
    value_coef=0.0,
    entropies=None,
    entropy_coef=0.0,
):
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_probs - old_log_probs)
    surr1 = -ratio * advantages
    high = epsilon if epsilon_high is None else epsilon_high
    surr2 = -torch.clamp(ratio, 1 - epsilon, 1 + high) * advantages
    loss = torch.where(advantages > 0, torch.max(surr1, surr2), surr1)
    if values is not None:
        error = (values - returns) ** 2
        if value_epsilon is not None:
            clipped = old_values + torch.clamp(values - old_values, -value_epsilon, value_epsilon)
            error = torch.max(error, (clipped - returns) ** 2)
        loss = loss + value_coef * 0.5 * error
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)
