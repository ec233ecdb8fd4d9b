import torch


# mistake: The smaller of the two squared errors is taken (min) instead of the larger.
# says: minimum_of_both
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    returns = returns.detach()
    loss = (values - returns) ** 2
    if epsilon is not None:
        old_values = old_values.detach()
        clipped = torch.clamp(values, old_values - epsilon, old_values + epsilon)
        loss = torch.min(loss, (clipped - returns) ** 2)
    return torch.where(mask, 0.5 * loss, 0.0)


# mistake: The factor one half is missing.
# says: no_half
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    returns = returns.detach()
    error = (values - returns).square()
    if epsilon is not None:
        old_values = old_values.detach()
        clipped = old_values + torch.clamp(values - old_values, -epsilon, epsilon)
        error = torch.maximum(error, (clipped - returns).square())
    return torch.where(mask, error, 0.0)


# mistake: Only the clipped error is used, without the max with the unclipped one, so a critic outside the clip has no gradient at all.
# says: clipped_only
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    returns = returns.detach()
    if epsilon is not None:
        old_values = old_values.detach()
        values = old_values + torch.clamp(values - old_values, -epsilon, epsilon)
    loss = 0.5 * (values - returns) ** 2
    return torch.where(mask, loss, 0.0)


# mistake: The clip is centred on the present value instead of on the old one: it moves V towards V_old by at most epsilon.
# says: around_the_new_value
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    returns = returns.detach()
    loss = (values - returns) ** 2
    if epsilon is not None:
        old_values = old_values.detach()
        v_clip = values + torch.clamp(old_values - values, -epsilon, epsilon)
        loss = torch.max(loss, (v_clip - returns) ** 2)
    return torch.where(mask, loss / 2, 0.0)


# mistake: The max is taken of the signed errors before they are squared, so for a negative error the smaller one is chosen.
# says: larger_of_the_signed_errors
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    returns = returns.detach()
    error = values - returns
    if epsilon is not None:
        old_values = old_values.detach()
        v_clip = old_values + torch.clamp(values - old_values, -epsilon, epsilon)
        error = torch.max(error, v_clip - returns)
    return torch.where(mask, error.pow(2) / 2, 0.0)
