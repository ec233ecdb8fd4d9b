import torch


# mistake: The KL is estimated by k3 instead of by the log-ratio (k1), which is what the reward pays.
# says: \(k3\)
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    u = torch.where(mask, ref_log_probs - log_probs, 0.0)
    kl = torch.exp(u) - 1 - u
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    rewards = -beta * kl
    rewards = torch.where(last, rewards + scores.unsqueeze(1), rewards)
    return rewards.detach()


# mistake: The score is put at column (number of chosen tokens - 1) instead of at the last chosen token: wrong as soon as there is a gap, or an offset, in the mask.
# says: score_at_the_length
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    kl = torch.where(mask, log_probs - ref_log_probs, 0.0)
    rewards = (-beta * kl).detach()
    lengths = mask.sum(dim=1)
    rows = torch.nonzero(lengths > 0).squeeze(1)
    rewards[rows, lengths[rows] - 1] += scores[rows].detach()
    return rewards


# mistake: The KL has the wrong sign: leaving the reference is paid for instead of priced.
# says: kl_added
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    log_ratio = torch.where(mask, log_probs - ref_log_probs, 0.0)
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    rewards = beta * log_ratio
    rewards = rewards + last * scores.nan_to_num()[:, None]
    return rewards.detach()


# mistake: At the last token the score replaces the KL's price instead of being added to it.
# says: kl_lost_on_the_last_token
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    gap = torch.where(mask, log_probs - ref_log_probs, 0.0)
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    rewards = torch.where(last, scores[:, None], -beta * gap)
    return rewards.detach()


# mistake: The KL of the whole completion is paid at the last token instead of token by token.
# says: kl_on_the_last_token
def shaped_rewards(scores, log_probs, ref_log_probs, mask, *, beta):
    gap = torch.where(mask, log_probs - ref_log_probs, 0.0)
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    total = scores - beta * gap.sum(dim=1)
    return torch.where(last, total[:, None], 0.0).detach()
