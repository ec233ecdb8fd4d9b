import torch


# mistake: The return is discounted at every place, so tool output between the choices costs a discount too.
# says: gaps_cost_discount
def discounted_returns(rewards, mask, *, gamma):
    rewards = torch.where(mask, rewards.detach(), 0.0)
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return torch.where(mask, returns, 0.0)


# mistake: Rewards that lie on tool output or padding are counted.
# says: rewards_leak
def discounted_returns(rewards, mask, *, gamma):
    rewards = rewards.detach()
    returns = torch.zeros_like(rewards)
    running = torch.zeros(rewards.shape[0], dtype=rewards.dtype, device=rewards.device)
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + torch.where(mask[:, t], gamma * running, running)
        returns[:, t] = running
    return torch.where(mask, returns, 0.0)


# mistake: The return is reset to 0 at tool output instead of being carried over it, so choices before a gap get nothing of what comes after.
# says: reset_at_gaps
def discounted_returns(rewards, mask, *, gamma):
    rewards = rewards.detach()
    out = torch.zeros_like(rewards)
    g = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.size(1))):
        g = torch.where(mask[:, t], rewards[:, t] + gamma * g, torch.zeros_like(g))
        out[:, t] = g
    return out


# mistake: Every choice gets the return of the whole completion instead of the rewards from there on (no reward-to-go).
# says: whole_return
def discounted_returns(rewards, mask, *, gamma):
    r = torch.where(mask, rewards.detach(), 0.0)
    g = torch.zeros_like(r[:, 0])
    for t in reversed(range(r.shape[1])):
        g = torch.where(mask[:, t], r[:, t] + gamma * g, g)
    return torch.where(mask, g.unsqueeze(1).expand_as(r), 0.0)


# mistake: The discount is counted from the start of the completion (gamma^k) instead of from the present choice (gamma^(k - t)).
# says: discounted_from_start
def discounted_returns(rewards, mask, *, gamma):
    r = torch.where(mask, rewards.detach(), 0.0)
    step = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    discounted = r * r.new_tensor(gamma) ** step
    to_go = discounted.flip(1).cumsum(dim=1).flip(1)
    return torch.where(mask, to_go, 0.0)
