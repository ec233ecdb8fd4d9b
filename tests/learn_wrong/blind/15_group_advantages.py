import torch


# mistake: A group of equal rewards is not treated apart: rounding of the mean divided by a tiny eps (or 0 / 0) does not give exactly 0.
# says: float_ties
def group_advantages(rewards, *, divide_by_std, correction, eps):
    r = rewards.detach()
    advantages = r - r.mean(dim=1, keepdim=True)
    if divide_by_std:
        var = advantages.square().sum(dim=1, keepdim=True) / max(r.shape[1] - correction, 1)
        advantages = advantages / (var.sqrt() + eps)
    return advantages


# mistake: The deviation is that of the whole batch instead of that of each group.
# says: batch_deviation
def group_advantages(rewards, *, divide_by_std, correction, eps):
    r = rewards.detach()
    equal = (r == r[:, :1]).all(dim=1, keepdim=True)
    advantages = r - r.mean(dim=1, keepdim=True)
    if divide_by_std:
        std = torch.std(r, correction=correction)
        advantages = advantages / (std + eps)
    return torch.where(equal, 0.0, advantages)


# mistake: correction is ignored: torch's std is always the sample deviation (n - 1).
# says: correction is left out
def group_advantages(rewards, *, divide_by_std, correction, eps):
    r = rewards.detach()
    equal = (r == r[:, :1]).all(dim=1, keepdim=True)
    advantages = r - r.mean(dim=1, keepdim=True)
    if divide_by_std:
        advantages = advantages / (r.std(dim=1, keepdim=True) + eps)
    return torch.where(equal, torch.zeros_like(r), advantages)


# mistake: eps is added to the variance, under the root, instead of to the deviation.
# says: eps_inside_the_root
def group_advantages(rewards, *, divide_by_std, correction, eps):
    r = rewards.detach()
    equal = (r == r[:, :1]).all(dim=1, keepdim=True)
    adv = r - r.mean(dim=-1, keepdim=True)
    if divide_by_std:
        var = adv.pow(2).sum(dim=-1, keepdim=True) / max(r.shape[-1] - correction, 1)
        adv = adv / torch.sqrt(var + eps)
    return adv.masked_fill(equal, 0.0)


# mistake: The advantage is divided by the variance instead of by the deviation: the square root is missing.
# says: variance_as_deviation
def group_advantages(rewards, *, divide_by_std, correction, eps):
    r = rewards.detach()
    equal = (r == r[:, :1]).all(dim=1, keepdim=True)
    centred = r - r.mean(dim=1, keepdim=True)
    if divide_by_std:
        var = centred.square().sum(dim=1, keepdim=True) / max(r.shape[1] - correction, 1)
        centred = centred / (var + eps)
    return centred.masked_fill(equal, 0.0)
