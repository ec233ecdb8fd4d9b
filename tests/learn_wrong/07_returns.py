import torch


# mistake: a gap costs a discount
# says: discount|gap
def discounted_returns(rewards, mask, *, gamma):
    out = torch.zeros_like(rewards)
    after = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        after = torch.where(mask[:, t], rewards[:, t], 0.0) + gamma * after
        out[:, t] = after
    return torch.where(mask, out, 0.0)


# mistake: the return of the whole completion at every token
# says: whole|same return|every token
def discounted_returns(rewards, mask, *, gamma):
    rewards = torch.where(mask, rewards, 0.0)
    total = rewards.sum(1, keepdim=True).expand_as(rewards)
    return torch.where(mask, total, 0.0)


# mistake: from the left, what came before
# says: left|before|past|forward
def discounted_returns(rewards, mask, *, gamma):
    out = torch.zeros_like(rewards)
    g = torch.zeros(rewards.shape[0], dtype=rewards.dtype)
    for t in range(rewards.shape[1]):
        g = torch.where(mask[:, t], rewards[:, t] + gamma * g, g)
        out[:, t] = g
    return out * mask


# mistake: a reward on a token that was not chosen is counted
# says: reward.*(not chosen|mask|counted|leak)|(not chosen|mask).*reward
def discounted_returns(rewards, mask, *, gamma):
    out = torch.zeros_like(rewards)
    g = torch.zeros(rewards.shape[0], dtype=rewards.dtype)
    for t in reversed(range(rewards.shape[1])):
        g = rewards[:, t] + torch.where(mask[:, t], gamma, 1.0) * g
        out[:, t] = g
    return torch.where(mask, out, 0.0)


# mistake: the own reward is left out
# says: own reward
def discounted_returns(rewards, mask, *, gamma):
    B, T = rewards.shape
    out = torch.zeros_like(rewards)
    for b in range(B):
        g = 0.0
        for t in range(T - 1, -1, -1):
            if mask[b, t]:
                out[b, t] = gamma * g
                g = rewards[b, t] + gamma * g
    return out
