import torch


# mistake: what is under the mask is summed too
# says: mask|padding
def token_mean(x, mask, *, denominator=None):
    n = mask.sum() if denominator is None else denominator
    return x.sum() / n


# mistake: divided by all positions
# says: width|padding|positions
def token_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    if denominator is None:
        denominator = x.numel()
    return x.sum() / denominator


# mistake: the denominator that is given is divided by besides the own count
# says: twice|again
def token_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    mean = x.sum() / mask.sum()
    if denominator is not None:
        mean = mean / denominator
    return mean


# mistake: the denominator is ignored
# says: denominator
def sequence_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    rows = x.sum(1) / mask.sum(1).clamp(min=1)
    return rows.sum() / mask.any(1).sum()


# mistake: a mean over tokens
# says: token
def sequence_mean(x, mask, *, denominator=None):
    n = mask.sum() if denominator is None else denominator
    return (x * mask).sum() / n
