import torch


# mistake: the mean divides by the padded width
# says: width
def sequence_log_probs(log_probs, mask, average):
    total = torch.where(mask, log_probs, 0.0).sum(1)
    if average:
        return total / mask.shape[1]
    return total


# mistake: always the mean
# says: mean|average
def sequence_log_probs(log_probs, mask, average):
    total = torch.where(mask, log_probs, 0.0).sum(1)
    return total / mask.sum(1).clamp(min=1)


# mistake: the end token is dropped
# says: end|last
def sequence_log_probs(log_probs, mask, average):
    ends = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    mask = mask & ~ends
    total = torch.where(mask, log_probs, 0.0).sum(1)
    if average:
        return total / mask.sum(1).clamp(min=1)
    return total


# mistake: the mask is turned round
# says: invert|not chosen|other way|False|padding
def sequence_log_probs(log_probs, mask, average):
    total = log_probs.masked_fill(mask, 0.0).sum(1)
    if average:
        return total / mask.sum(1).clamp(min=1)
    return total


# mistake: one number for the whole batch
# says: \[B\]
def sequence_log_probs(log_probs, mask, average):
    total = torch.where(mask, log_probs, 0.0).sum()
    if average:
        return total / mask.sum().clamp(min=1)
    return total
