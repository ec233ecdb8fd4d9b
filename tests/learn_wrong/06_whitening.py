import torch


# mistake: the mean is mended, the variance still counts the padding
# says: padding|mask
def masked_whiten(x, mask, correction, eps):
    x = torch.where(mask, x, 0.0)
    mean = x.sum() / mask.sum()
    var = (x - mean).square().sum() / (x.numel() - correction)
    whitened = (x - mean) / torch.sqrt(var + eps)
    return torch.where(mask, whitened, 0.0)


# mistake: eps is added after the root
# says: eps
def masked_whiten(x, mask, correction, eps):
    n = mask.sum()
    x = torch.where(mask, x, 0.0)
    mean = x.sum() / n
    centred = torch.where(mask, x - mean, 0.0)
    std = (centred.square().sum() / (n - correction)).sqrt()
    return centred / (std + eps)


# mistake: the padding is not set to 0
# says: padding
def masked_whiten(x, mask, correction, eps):
    chosen = x[mask]
    mean = chosen.mean()
    var = chosen.var(correction=correction)
    return (x - mean) / torch.sqrt(var + eps)


# mistake: each row for itself
# says: row
def masked_whiten(x, mask, correction, eps):
    x = torch.where(mask, x, 0.0)
    n = mask.sum(1, keepdim=True)
    mean = x.sum(1, keepdim=True) / n.clamp(min=1)
    centred = torch.where(mask, x - mean, 0.0)
    var = centred.square().sum(1, keepdim=True) / (n - correction).clamp(min=1)
    return centred / torch.sqrt(var + eps)


# mistake: divided by the variance, without a root
# says: variance
def masked_whiten(x, mask, correction, eps):
    n = mask.sum()
    x = torch.where(mask, x, 0.0)
    mean = x.sum() / n
    centred = torch.where(mask, x - mean, 0.0)
    var = centred.square().sum() / (n - correction)
    return centred / (var + eps)
