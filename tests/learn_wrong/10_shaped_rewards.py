import torch


# mistake: the KL is added to the reward
# says: added|sign|other way|revers
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    kl = torch.where(mask, log_probs - ref_log_probs, 0.0)
    rewards = beta * kl
    for b in range(len(scores)):
        where = mask[b].nonzero()
        if len(where):
            rewards[b, where[-1]] += scores[b]
    return rewards.detach()


# mistake: the score stands in the last column
# says: score
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    rewards = -beta * (log_probs - ref_log_probs)
    rewards[:, -1] += scores
    return torch.where(mask, rewards, 0.0).detach()


# mistake: the score at every token
# says: every token|each token
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    rewards = scores[:, None] - beta * (log_probs - ref_log_probs)
    return torch.where(mask, rewards, 0.0).detach()


# mistake: beta is forgotten
# says: beta
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    rewards = torch.where(mask, -(log_probs - ref_log_probs), 0.0).detach()
    for b in range(len(scores)):
        where = mask[b].nonzero()
        if len(where):
            rewards[b, where[-1]] += scores[b]
    return rewards


# mistake: the last token is looked for by counting, which is wrong where the row has gaps
# says: count|length|gap
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    rewards = torch.where(mask, -beta * (log_probs - ref_log_probs), 0.0).detach()
    last = (mask.sum(1) - 1).clamp(min=0)
    rewards[torch.arange(len(scores)), last] += scores
    return rewards * mask
