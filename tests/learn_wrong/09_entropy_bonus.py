import torch


# mistake: the sign of the other term is turned round too
# says: -1 times
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = advantages.detach() * log_probs
    if entropies is not None:
        loss = loss + entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: the entropy is detached
# says: detach|no gradient
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    if entropies is not None:
        loss = loss - entropy_coef * entropies.detach()
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: the bonus is taken out
# says: entropy.*(ignored|missing|left out|not used)
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: the sum in place of the mean
# says: sum
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum()


# mistake: the baseline is added
# says: baseline
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages + (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    if entropies is not None:
        loss = loss - entropy_coef * entropies
    return loss[mask].sum() / mask.sum().clamp(min=1)
