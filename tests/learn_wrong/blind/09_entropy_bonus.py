import torch


# mistake: The entropy is added to the advantage, detached, so the bonus gives no gradient through the entropy itself but only weighs log-probs.
# says: entropy_in_the_advantage
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    if entropies is not None:
        advantages = advantages + entropy_coef * entropies
    loss = -advantages.detach() * log_probs
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: The sign is mended but the entropy is detached, so the bonus has no gradient.
# says: entropy_detached
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    if entropies is not None:
        loss = loss - entropy_coef * entropies.detach()
    return loss[mask].sum() / mask.sum().clamp(min=1)


# mistake: The entropy is averaged over all places, padding counted, instead of over the chosen tokens.
# says: entropy_unmasked
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    loss = loss[mask].sum() / mask.sum().clamp(min=1)
    if entropies is not None:
        loss = loss - entropy_coef * entropies.mean()
    return loss


# mistake: The entropies are summed over the chosen tokens instead of averaged, so the bonus grows with the number of tokens.
# says: entropy_summed
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    loss = loss[mask].sum() / mask.sum().clamp(min=1)
    if entropies is not None:
        loss = loss - entropy_coef * entropies[mask].sum()
    return loss


# mistake: The sampled token's -log pi is used in place of the entropy of the whole distribution.
# says: sampled_entropy
def reinforce_loss(log_probs, returns, mask, baseline=None, entropies=None, entropy_coef=0.0):
    advantages = returns if returns.ndim == 2 else returns[:, None]
    if baseline is not None:
        one_a_row = torch.is_tensor(baseline) and baseline.ndim == 1
        advantages = advantages - (baseline[:, None] if one_a_row else baseline)
    loss = -advantages.detach() * log_probs
    if entropies is not None:
        loss = loss - entropy_coef * (-log_probs)
    return loss[mask].sum() / mask.sum().clamp(min=1)
