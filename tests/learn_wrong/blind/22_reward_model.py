import torch
import torch.nn.functional as F


# mistake: The margin is inside the sigmoid, but added instead of subtracted.
# says: margin_added
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    diff = chosen_rewards - rejected_rewards
    if margin is not None:
        diff = diff + margin
    return -F.logsigmoid(diff).mean()


# mistake: The margin multiplies the difference of the rewards instead of being subtracted from it.
# says: margin_multiplies_the_difference
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    diff = chosen_rewards - rejected_rewards
    if margin is not None:
        diff = margin * diff
    return -F.logsigmoid(diff).mean()


# mistake: With a margin a hinge loss takes the place of the log-sigmoid.
# says: margin_of_a_hinge
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    diff = chosen_rewards - rejected_rewards
    if margin is not None:
        return F.relu(margin - diff).mean()
    return -F.logsigmoid(diff).mean()


# mistake: The margin is still outside the sigmoid: it weighs the loss of each pair.
# says: margin_weighs_the_pair
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    loss = -F.logsigmoid(chosen_rewards - rejected_rewards)
    if margin is not None:
        loss = loss * margin
    return loss.mean()


# mistake: Half mended: the margin is subtracted inside the sigmoid, and still added to the loss as well.
# says: margin_inside_and_outside
def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=None):
    diff = chosen_rewards - rejected_rewards
    if margin is not None:
        loss = -F.logsigmoid(diff - margin) + margin
    else:
        loss = -F.logsigmoid(diff)
    return loss.mean()
