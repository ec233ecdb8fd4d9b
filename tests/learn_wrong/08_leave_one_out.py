import torch


# mistake: the mean of the whole group, the own reward included
# says: own reward|included|mean of the (whole )?group
def leave_one_out_advantages(rewards):
    return rewards - rewards.mean(dim=1, keepdim=True)


# mistake: divided by n in place of n - 1
# says: \bn\b
def leave_one_out_advantages(rewards):
    G = rewards.shape[1]
    baseline = (rewards.sum(1, keepdim=True) - rewards) / G
    return rewards - baseline


# mistake: the columns are taken for the groups
# says: column|order|prompt|group
def leave_one_out_advantages(rewards):
    n = rewards.shape[0]
    baseline = (rewards.sum(0, keepdim=True) - rewards) / (n - 1)
    return rewards - baseline


# mistake: the sign is turned round
# says: sign
def leave_one_out_advantages(rewards):
    n = rewards.size(1)
    others = (rewards.sum(1, keepdim=True) - rewards) / (n - 1)
    return others - rewards


# mistake: the mean of the whole batch
# says: batch
def leave_one_out_advantages(rewards):
    return rewards - rewards.mean()
