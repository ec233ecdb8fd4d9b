import torch
import torch.nn.functional as F


# mistake: the margin is added to the gap
# says: margin.*(added|sign)|(added|sign).*margin
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    gap = chosen_rewards - rejected_rewards
    if margin is not None:
        gap = gap + margin
    return -F.logsigmoid(gap).mean()


# mistake: the margin is taken away outside
# says: margin
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    gap = chosen_rewards - rejected_rewards
    if margin is not None:
        return (-F.logsigmoid(gap) - margin).mean()
    return -F.logsigmoid(gap).mean()


# mistake: chosen and rejected have changed places
# says: swap|chang|rejected
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    gap = rejected_rewards - chosen_rewards
    if margin is not None:
        gap = gap - margin
    return -F.logsigmoid(gap).mean()


# mistake: the sigmoid without its log
# says: probabilit|log
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    gap = chosen_rewards - rejected_rewards
    if margin is not None:
        gap = gap - margin
    return (1 - torch.sigmoid(gap)).mean()


# mistake: the sum over pairs
# says: sum
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    gap = chosen_rewards - rejected_rewards
    if margin is not None:
        gap = gap - margin
    return -F.logsigmoid(gap).sum()
