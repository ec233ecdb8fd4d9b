import torch


# mistake: The baseline is the mean of the whole group, the sample itself included: the factor n / (n - 1) is missing.
# says: own_reward_included
def leave_one_out_advantages(rewards):
    rewards = rewards.detach()
    baseline = rewards.mean(dim=1, keepdim=True)
    return rewards - baseline


# mistake: The sum over the siblings is divided by n instead of n - 1.
# says: divided_by_n
def leave_one_out_advantages(rewards):
    rewards = rewards.detach()
    n = rewards.shape[1]
    others = rewards.sum(dim=1, keepdim=True) - rewards
    return rewards - others / n


# mistake: The factor is upside down: (n - 1) / n instead of n / (n - 1).
# says: factor_inverted
def leave_one_out_advantages(rewards):
    rewards = rewards.detach()
    n = rewards.size(-1)
    return (n - 1) / n * (rewards - rewards.mean(dim=-1, keepdim=True))


# mistake: The baseline is the mean of all other samples of the batch instead of the other samples of the same prompt.
# says: batch_leave_one_out
def leave_one_out_advantages(rewards):
    r = rewards.detach()
    n = r.numel()
    baseline = (r.sum() - r) / max(n - 1, 1)
    return r - baseline


# mistake: The advantages are also divided by the group's standard deviation, as in GRPO; RLOO only subtracts.
# says: deviation
def leave_one_out_advantages(rewards):
    r = rewards.detach()
    n = r.shape[1]
    baseline = (r.sum(1, keepdim=True) - r) / max(n - 1, 1)
    adv = r - baseline
    return adv / (r.std(dim=1, keepdim=True) + 1e-6)
