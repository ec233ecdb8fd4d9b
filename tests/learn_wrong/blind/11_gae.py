import torch


# mistake: V_{t+1} is read from the next column instead of from the next chosen token, so before a gap the next value is taken as 0.
# says: next_value_of_the_next_place
def gae(rewards, values, mask, *, gamma, lam):
    rewards = torch.where(mask, rewards.detach(), 0.0)
    values = torch.where(mask, values.detach(), 0.0)
    T = rewards.shape[1]
    advantages = torch.zeros_like(rewards)
    last_adv = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(T)):
        next_value = values[:, t + 1] if t + 1 < T else torch.zeros_like(last_adv)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        last_adv = torch.where(mask[:, t], delta + gamma * lam * last_adv, last_adv)
        advantages[:, t] = torch.where(mask[:, t], last_adv, 0.0)
    returns = torch.where(mask, advantages + values, 0.0)
    return advantages, returns


# mistake: The recursion of the advantage multiplies by lam only: gamma is missing.
# says: gamma_missing_in_trace
def gae(rewards, values, mask, *, gamma, lam):
    rewards, values = rewards.detach(), values.detach()
    advantages = torch.zeros_like(rewards)
    adv = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(adv)
    for t in reversed(range(rewards.shape[1])):
        chosen = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        adv = torch.where(chosen, delta + lam * adv, adv)
        next_value = torch.where(chosen, values[:, t], next_value)
        advantages[:, t] = torch.where(chosen, adv, 0.0)
    returns = torch.where(mask, advantages + values, 0.0)
    return advantages, returns


# mistake: The critic's target is the discounted reward-to-go instead of A + V.
# says: returns_are_rewards_to_go
def gae(rewards, values, mask, *, gamma, lam):
    rewards, values = rewards.detach(), values.detach()
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    adv = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(adv)
    ret = torch.zeros_like(adv)
    for t in reversed(range(rewards.shape[1])):
        m = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        adv = torch.where(m, delta + gamma * lam * adv, adv)
        ret = torch.where(m, rewards[:, t] + gamma * ret, ret)
        next_value = torch.where(m, values[:, t], next_value)
        advantages[:, t] = adv
        returns[:, t] = ret
    return torch.where(mask, advantages, 0.0), torch.where(mask, returns, 0.0)


# mistake: The last chosen token is bootstrapped with its own value instead of with V = 0 after it.
# says: bootstraps_beyond_the_end
def gae(rewards, values, mask, *, gamma, lam):
    rewards, values = rewards.detach(), values.detach()
    B, T = rewards.shape
    advantages = torch.zeros_like(rewards)
    adv = torch.zeros_like(rewards[:, 0])
    seen = torch.zeros(B, dtype=torch.bool, device=rewards.device)
    bootstrap = torch.zeros_like(adv)
    for t in reversed(range(T)):
        m = mask[:, t]
        nxt = torch.where(seen, bootstrap, values[:, t])
        delta = rewards[:, t] + gamma * nxt - values[:, t]
        adv = torch.where(m, delta + gamma * lam * adv, adv)
        bootstrap = torch.where(m, values[:, t], bootstrap)
        seen = seen | m
        advantages[:, t] = torch.where(m, adv, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


# mistake: The advantage is multiplied by gamma * lam at tool output as well, so a gap costs discount.
# says: gaps_cost_decay
def gae(rewards, values, mask, *, gamma, lam):
    rewards = torch.where(mask, rewards.detach(), 0.0)
    values = torch.where(mask, values.detach(), 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    for t in reversed(range(rewards.shape[1])):
        m = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        delta = torch.where(m, delta, 0.0)
        running = delta + gamma * lam * running
        next_value = torch.where(m, values[:, t], next_value)
        advantages[:, t] = running
    advantages = torch.where(mask, advantages, 0.0)
    returns = torch.where(mask, advantages + values, 0.0)
    return advantages, returns
