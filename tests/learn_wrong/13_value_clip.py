import torch


# mistake: the smaller of the two errors
# says: minimum|smaller
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    error = (values - returns) ** 2
    if epsilon is not None:
        clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
        error = torch.min(error, (clipped - returns) ** 2)
    return torch.where(mask, error / 2, 0.0)


# mistake: the half is missing
# says: half|twice|times 2|2 times
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    error = (values - returns) ** 2
    if epsilon is not None:
        clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
        error = torch.max(error, (clipped - returns) ** 2)
    return torch.where(mask, error, 0.0)


# mistake: only the clipped error
# says: clipped|maximum
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    if epsilon is not None:
        values = old_values + torch.clamp(values - old_values, -epsilon, epsilon)
    return torch.where(mask, 0.5 * (values - returns) ** 2, 0.0)


# mistake: the clip is around the return, which makes it the plain squared error
# says: plain squared error
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    error = (values - returns).square()
    if epsilon is not None:
        clipped = returns + torch.clamp(values - returns, -epsilon, epsilon)
        error = torch.maximum(error, (clipped - returns).square())
    return torch.where(mask, error / 2, 0.0)


# mistake: the larger of the two distances to the old value, not to the return
# says: old
def clipped_value_error(values, old_values, returns, mask, *, epsilon):
    error = (values - returns).square()
    if epsilon is not None:
        clipped = torch.clamp(values - old_values, -epsilon, epsilon)
        error = torch.maximum(error, (clipped - returns).square())
    return torch.where(mask, error / 2, 0.0)
