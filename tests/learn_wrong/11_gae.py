import torch


# mistake: the mask comes in at the end alone: the value at padding is bootstrapped from
# says: padding|mask
def gae(rewards, values, mask, *, gamma, lam):
    B, T = rewards.shape
    adv = torch.zeros_like(rewards)
    last = torch.zeros(B, dtype=rewards.dtype)
    for t in reversed(range(T)):
        next_value = values[:, t + 1] if t + 1 < T else torch.zeros(B, dtype=rewards.dtype)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        last = delta + gamma * lam * last
        adv[:, t] = last
    adv = adv * mask
    return adv.detach(), ((adv + values) * mask).detach()


# mistake: gaps are steps that cost a discount
# says: discount|gap|observation
def gae(rewards, values, mask, *, gamma, lam):
    rewards = torch.where(mask, rewards, 0.0)
    values = torch.where(mask, values, 0.0)
    adv = torch.zeros_like(rewards)
    last = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        next_value = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        last = delta + gamma * lam * last
        adv[:, t] = last
    adv = torch.where(mask, adv, 0.0)
    return adv, adv + values


# mistake: gamma is missing before the next value
# says: gamma
def gae(rewards, values, mask, *, gamma, lam):
    adv = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        a, v = 0.0, 0.0
        for t in reversed(range(rewards.shape[1])):
            if not mask[b, t]:
                continue
            delta = rewards[b, t] + v - values[b, t]
            a = delta + gamma * lam * a
            v = values[b, t]
            adv[b, t] = a
    return adv.detach(), torch.where(mask, adv + values, 0.0).detach()


# mistake: lambda is missing
# says: lam|monte carlo|lambda
def gae(rewards, values, mask, *, gamma, lam):
    adv = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        a, v = 0.0, 0.0
        for t in reversed(range(rewards.shape[1])):
            if mask[b, t]:
                delta = rewards[b, t] + gamma * v - values[b, t]
                a = delta + gamma * a
                v = values[b, t]
                adv[b, t] = a
    return adv.detach(), torch.where(mask, adv + values, 0.0).detach()


# mistake: the critic's target is the advantage
# says: returns
def gae(rewards, values, mask, *, gamma, lam):
    adv = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        a, v = 0.0, 0.0
        for t in reversed(range(rewards.shape[1])):
            if mask[b, t]:
                delta = rewards[b, t] + gamma * v - values[b, t]
                a = delta + gamma * lam * a
                v = values[b, t]
                adv[b, t] = a
    return adv.detach(), adv.detach()
