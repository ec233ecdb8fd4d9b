import torch


# mistake: Half mended: the variance still sums the squared deviations of the padding (each adds mean^2), though it divides by the number of chosen tokens.
# says: padding_in_the_squares
def masked_whiten(x, mask, correction, eps):
    x = torch.where(mask, x, 0.0)
    n = mask.sum()
    mean = x.sum() / n.clamp(min=1)
    var = (x - mean).square().sum() / (n - correction).clamp(min=1)
    whitened = (x - mean) / torch.sqrt(var + eps)
    return torch.where(mask, whitened, 0.0)


# mistake: Half mended: the mean is still taken over all places, padding counted as zeros.
# says: centred_over_all_entries
def masked_whiten(x, mask, correction, eps):
    x = torch.where(mask, x, 0.0)
    mean = x.mean()
    var = ((x - mean).square() * mask).sum() / (mask.sum() - correction).clamp(min=1)
    whitened = (x - mean) / torch.sqrt(var + eps)
    return torch.where(mask, whitened, 0.0)


# mistake: The mean and variance are taken in each row instead of over all chosen tokens of the batch.
# says: row_by_row
def masked_whiten(x, mask, correction, eps):
    x = torch.where(mask, x, 0.0)
    n = mask.sum(dim=1, keepdim=True)
    mean = x.sum(dim=1, keepdim=True) / n.clamp(min=1)
    diff = torch.where(mask, x - mean, 0.0)
    var = diff.square().sum(dim=1, keepdim=True) / (n - correction).clamp(min=1)
    whitened = diff / torch.sqrt(var + eps)
    return torch.where(mask, whitened, 0.0)


# mistake: eps is added to the deviation, outside the square root, instead of to the variance.
# says: eps_outside
def masked_whiten(x, mask, correction, eps):
    n = mask.sum()
    x = torch.where(mask, x, 0.0)
    mean = x.sum() / n.clamp(min=1)
    centred = torch.where(mask, x - mean, 0.0)
    std = torch.sqrt(centred.square().sum() / (n - correction).clamp(min=1))
    whitened = centred / (std + eps)
    return torch.where(mask, whitened, 0.0)


# mistake: correction is ignored: torch's var always divides by N - 1.
# says: correction is left out
def masked_whiten(x, mask, correction, eps):
    chosen = x[mask]
    mean = chosen.mean()
    var = chosen.var()
    whitened = (torch.where(mask, x, 0.0) - mean) / torch.sqrt(var + eps)
    return torch.where(mask, whitened, 0.0)
