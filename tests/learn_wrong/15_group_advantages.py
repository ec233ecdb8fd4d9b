import torch


# mistake: mean and deviation of the whole batch
# says: batch
def group_advantages(rewards, *, divide_by_std, correction, eps):
    advantages = rewards - rewards.mean()
    if divide_by_std:
        advantages = advantages / (rewards.std(correction=correction) + eps)
    return advantages


# mistake: the columns are taken for the groups
# says: column|prompt
def group_advantages(rewards, *, divide_by_std, correction, eps):
    mean = rewards.mean(dim=0, keepdim=True)
    centred = rewards - mean
    tied = (rewards == rewards[:1]).all(dim=0, keepdim=True)
    centred = torch.where(tied, 0.0, centred)
    if not divide_by_std:
        return centred
    std = rewards.std(dim=0, correction=correction, keepdim=True)
    return torch.where(tied, 0.0, centred / (std + eps))


# mistake: ties are forgotten: 0 / 0 where eps is 0, and rounding where it is small
# says: equal|tie|same reward
def group_advantages(rewards, *, divide_by_std, correction, eps):
    mean = rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True, correction=correction)
    if divide_by_std:
        return (rewards - mean) / (std + eps)
    return rewards - mean


# mistake: eps is inside the root
# says: eps|root
def group_advantages(rewards, *, divide_by_std, correction, eps):
    mean = rewards.mean(dim=1, keepdim=True)
    centred = rewards - mean
    tied = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    centred = torch.where(tied, 0.0, centred)
    if not divide_by_std:
        return centred
    var = rewards.var(dim=1, correction=correction, keepdim=True)
    return torch.where(tied, 0.0, centred / torch.sqrt(var + eps))


# mistake: the bracket is missing: the mean alone is divided
# says: bracket|preced|mean is divided|divided
def group_advantages(rewards, *, divide_by_std, correction, eps):
    mean = rewards.mean(dim=1, keepdim=True)
    centred = rewards - mean
    tied = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    centred = torch.where(tied, 0.0, centred)
    if not divide_by_std:
        return centred
    std = rewards.std(dim=1, correction=correction, keepdim=True)
    return torch.where(tied, 0.0, rewards - mean / (std + eps))
