"""PPO, its parts, its critic and its advantages, right, as people write them."""

import torch
import torch.nn as nn
import torch.nn.functional as F


# objective: ppo_loss
# expect: edges
# at: reduce=token_mean
# style: CleanRL's names; policy loss only
def cleanrl_pg(newlogprob, b_logprobs, mb_advantages, mask, clip_coef=0.2):
    logratio = newlogprob - b_logprobs
    ratio = logratio.exp()
    pg_loss1 = -mb_advantages * ratio
    pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return (torch.max(pg_loss1, pg_loss2) * mask).sum() / mask.sum()


# objective: ppo_loss
# call: f(log_probs, old_log_probs, advantages, values, old_values, returns, entropies, mask, epsilon, value_epsilon, entropy_coef, value_coef)
# expect: edges
# at: reduce=token_mean
# style: CleanRL's whole loss: policy, clipped critic, entropy
def cleanrl_full(
    newlogprob,
    logprobs,
    advantages,
    newvalue,
    values,
    returns,
    entropy,
    mask,
    clip_coef=0.2,
    clip_coef_value=0.2,
    ent_coef=0.01,
    vf_coef=0.5,
):
    ratio = (newlogprob - logprobs).exp()
    pg = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - clip_coef, 1 + clip_coef))
    v_unclipped = (newvalue - returns) ** 2
    v_clipped = values + torch.clamp(newvalue - values, -clip_coef_value, clip_coef_value)
    v = 0.5 * torch.max(v_unclipped, (v_clipped - returns) ** 2)
    mean = lambda x: (x * mask).sum() / mask.sum()
    return mean(pg) - ent_coef * mean(entropy) + vf_coef * mean(v)


def masked_mean(x, mask):
    return torch.where(mask, x, torch.zeros_like(x)).sum() / mask.sum().clamp(min=1)


class PolicyLoss(nn.Module):
    def __init__(self, clip_eps_low=0.2, clip_eps_high=0.2):
        super().__init__()
        self.clip_eps_low, self.clip_eps_high = clip_eps_low, clip_eps_high

    def forward(self, log_probs, old_log_probs, advantages, action_mask):
        ratio = torch.where(action_mask, log_probs - old_log_probs, torch.zeros_like(log_probs)).exp()
        surr1 = ratio * advantages
        surr2 = ratio.clamp(1 - self.clip_eps_low, 1 + self.clip_eps_high) * advantages
        return masked_mean(-torch.min(surr1, surr2), action_mask)


# objective: ppo_loss
# expect: pass
# at: reduce=token_mean, epsilon=0.2
# style: OpenRLHF's actor loss as a module, a masked mean that is safe
actor_loss = PolicyLoss()


# objective: ppo_loss
# expect: edges
# at: reduce=sequence_mean
# style: row means, dual clip
def dual_clip_rows(logp, old_logp, adv, mask, eps=0.2, dual_clip=3.0):
    ratio = torch.exp(logp - old_logp)
    loss = -torch.min(ratio * adv, torch.clamp(ratio, 1 - eps, 1 + eps) * adv)
    loss = torch.where(adv < 0, torch.min(loss, -dual_clip * adv), loss)
    m = mask.float()
    return ((loss * m).sum(1) / m.sum(1).clamp(min=1)).mean()


# objective: ppo_loss
# expect: pass
# at: reduce=token_mean, epsilon=0.2, value_epsilon=0.2, value_coef=0.5, entropy_coef=0.01
# style: stable-baselines-like, everything built in, only the chosen tokens taken
def boolean_index(log_prob, old_log_prob, advantages, values, old_values, returns, entropy, mask):
    if mask.sum() == 0:
        return (
            torch.nan_to_num(log_prob).sum() * 0
            + torch.nan_to_num(values).sum() * 0
            + torch.nan_to_num(entropy).sum() * 0
        )
    log_prob, old_log_prob, advantages = log_prob[mask], old_log_prob[mask], advantages[mask]
    values, old_values, returns, entropy = values[mask], old_values[mask], returns[mask], entropy[mask]
    ratio = torch.exp(log_prob - old_log_prob)
    policy_loss = -torch.min(advantages * ratio, advantages * torch.clamp(ratio, 0.8, 1.2)).mean()
    values_pred = old_values + torch.clamp(values - old_values, -0.2, 0.2)
    value_loss = torch.max(
        F.mse_loss(values, returns, reduction="none"), F.mse_loss(values_pred, returns, reduction="none")
    )
    return policy_loss + 0.5 * (0.5 * value_loss.mean()) - 0.01 * entropy.mean()


# objective: ppo_loss
# expect: edges
# at: reduce=sequence_sum, epsilon=0.2
# style: the objective maximised and negated at the end, a sum per row
def negated_at_the_end(logits_logp, behaviour_logp, advantages, mask):
    objective = torch.zeros(logits_logp.shape[0], dtype=logits_logp.dtype)
    ratio = torch.exp(logits_logp - behaviour_logp)
    objective = objective + (torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages) * mask).sum(1)
    return -objective.mean()


# objective: ppo_loss
# expect: edges
# call: f({"logprobs": log_probs, "old_logprobs": old_log_probs, "advantages": advantages, "response_mask": mask}, {"cliprange": epsilon})
# at: reduce=token_mean, epsilon=0.2
# style: a batch and a config, both dictionaries
def two_dicts(batch, config):
    ratio = torch.exp(batch["logprobs"] - batch["old_logprobs"])
    eps = config["cliprange"]
    losses = torch.max(-batch["advantages"] * ratio, -batch["advantages"] * torch.clamp(ratio, 1 - eps, 1 + eps))
    return (losses * batch["response_mask"]).sum() / batch["response_mask"].sum()


# objective: ppo_loss
# expect: pass
# at: reduce=token_mean
# style: no min: branches of where by the sign of the advantage
def branches(logp, logp_old, advantages, mask, clip_low=0.2, clip_high=0.28):
    ratio = torch.exp(torch.where(mask, logp - logp_old, 0.0))
    good = ratio.clamp(max=1 + clip_high)
    bad = ratio.clamp(min=1 - clip_low)
    loss = -torch.where(advantages > 0, good, bad) * advantages
    return torch.where(mask, loss, 0.0).sum() / mask.sum().clamp(min=1)


# objective: ppo_loss
# expect: edges
# at: reduce=token_mean
# style: policy and entropy, no critic
def policy_and_entropy(logprobs, old_logprobs, advantages, entropies, mask, epsilon=0.2, entropy_coef=0.01):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    return ((pg - entropy_coef * entropies) * mask).sum() / mask.sum().clamp(min=1)


# objective: clipped_surrogate
# expect: edges
# style: per token, nothing reduced
def surrogate(log_probs, old_log_probs, advantages, mask, eps=0.2):
    ratio = (log_probs - old_log_probs).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages) * mask


# objective: clipped_surrogate
# expect: pass
# style: masked_fill on both sides
def surrogate_safe(logp, old_logp, adv, mask, eps_low=0.2, eps_high=0.28):
    x = (logp - old_logp).masked_fill(~mask, 0.0).exp()
    loss = torch.maximum(-x * adv, -torch.clamp(x, 1 - eps_low, 1 + eps_high) * adv)
    return loss.masked_fill(~mask, 0.0)


# objective: importance_surrogate
# expect: edges
# style: a one-liner
def plain_ratio_loss(logps, old_logps, advantages, mask):
    return -(logps - old_logps).exp() * advantages * mask


# objective: clipped_value_error
# call: f(values, old_values, returns, mask, epsilon)
# expect: edges
# style: TRL's former PPO
def value_loss(vpreds, values, returns, mask, cliprange_value=0.2):
    clipped = torch.clamp(vpreds, values - cliprange_value, values + cliprange_value)
    return 0.5 * torch.max(torch.square(vpreds - returns), torch.square(clipped - returns)) * mask


# objective: clipped_value_error
# expect: pass
# style: OpenRLHF's with no clip by default
def critic_loss(values, old_values, returns, action_mask, clip_eps=None):
    diff = torch.where(action_mask, values - returns, 0.0)
    loss = diff**2
    if clip_eps is not None:
        pred = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
        loss = torch.max(loss, torch.where(action_mask, pred - returns, 0.0) ** 2)
    return 0.5 * loss


# objective: clip_fraction
# expect: edges
# style: only where the gradient is gone
def clipfrac(log_probs, old_log_probs, advantages, mask, eps=0.2):
    ratio = (log_probs - old_log_probs).exp()
    gone = ((advantages > 0) & (ratio > 1 + eps)) | ((advantages < 0) & (ratio < 1 - eps))
    return (gone * mask).sum() / mask.sum()


# objective: approx_kl
# expect: edges
# style: CleanRL: (ratio - 1) - logratio
@torch.no_grad()
def approx_kl(newlogprob, oldlogprob, mask):
    logratio = newlogprob - oldlogprob
    return (((logratio.exp() - 1) - logratio) * mask).sum() / mask.sum()


# objective: adaptive_kl
# expect: pass
# call: f(beta, kl, 0.1, target)
# at: gain=0.1, max_error=0.2
# style: a function of the present coefficient
def update_kl_coef(kl_coef, current_kl, gain, target):
    error = min(max(current_kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + gain * error)


# objective: shaped_rewards
# expect: edges
# style: the score at the last chosen token by an index
def compute_rewards(scores, logprobs, ref_logprobs, masks, kl_coef=0.05):
    rewards = []
    for score, lp, rlp, m in zip(scores, logprobs, ref_logprobs, masks):
        reward = -kl_coef * (lp - rlp) * m
        last = m.nonzero()[-1]
        reward = reward.index_add(0, last, score[None])
        rewards.append(reward)
    return torch.stack(rewards)


# objective: shaped_rewards
# call: f(scores, log_probs, ref_log_probs, mask, beta)
# expect: pass
# style: the last place by a flipped argmax
def shaped(reward_scores, old_logps, ref_logps, mask, beta=0.05):
    T = mask.shape[1]
    last = T - 1 - mask.flip(1).long().argmax(1)
    at_last = (torch.arange(T) == last[:, None]) & mask
    kl = torch.where(mask, old_logps - ref_logps, torch.zeros_like(old_logps))
    return torch.where(at_last, reward_scores[:, None], torch.zeros_like(kl)) - beta * kl


# objective: gae
# expect: pass
# style: verl's: what is masked is stepped over
def verl_gae(token_level_rewards, values, response_mask, gamma=1.0, lam=0.95):
    keep = response_mask.bool()
    rewards, values = token_level_rewards.masked_fill(~keep, 0.0), values.masked_fill(~keep, 0.0)
    nextvalues, lastgaelam, out = 0.0, 0.0, []
    mask = keep.to(values.dtype)
    for t in range(values.shape[-1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam_ = delta + gamma * lam * lastgaelam
        nextvalues = values[:, t] * mask[:, t] + (1 - mask[:, t]) * nextvalues
        lastgaelam = lastgaelam_ * mask[:, t] + (1 - mask[:, t]) * lastgaelam
        out.append(lastgaelam * mask[:, t])
    advantages = torch.stack(out[::-1], dim=1)
    return advantages, (advantages + values) * mask


# objective: gae
# expect: pass
# style: each row on its own, its chosen tokens gathered, in plain Python
def gae_rows(rewards, values, mask, gamma=0.99, lam=0.95):
    adv = torch.zeros_like(rewards)
    ret = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        steps = mask[b].nonzero().flatten().tolist()
        running, next_value = 0.0, 0.0
        for t in reversed(steps):
            delta = rewards[b, t] + gamma * next_value - values[b, t]
            running = delta + gamma * lam * running
            next_value = values[b, t]
            adv[b, t] = running
            ret[b, t] = running + values[b, t]
    return adv, ret


# objective: gae
# expect: pass
# at: gamma=1.0, lam=1.0
# style: gamma and lambda 1: return less value
def monte_carlo_gae(rewards, values, mask):
    r = torch.where(mask, rewards, 0.0)
    v = torch.where(mask, values, 0.0)
    to_go = r.flip(1).cumsum(1).flip(1)
    returns = torch.where(mask, to_go, 0.0)
    return returns - v, returns


# objective: gae
# expect: pass
# style: the weights (gamma lambda)^(j - i) as a matrix over the chosen tokens
def matrix_gae(rewards, values, mask, gamma=0.99, lam=0.9):
    r, v = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    rank = mask.long().cumsum(1)
    steps = rank[:, None, :] - rank[:, :, None]
    later = (steps >= 0) & mask[:, None, :] & mask[:, :, None]
    nxt = (steps == 1) & later
    v_next = (nxt.to(v.dtype) * v[:, None, :]).sum(2)
    delta = r + gamma * v_next - v
    weights = torch.where(later, (gamma * lam) ** steps.clamp(min=0).to(v.dtype), 0.0)
    adv = (weights * delta[:, None, :]).sum(2)
    adv = torch.where(mask, adv, 0.0)
    return adv, adv + v


# objective: explained_variance
# expect: edges
# style: only the chosen tokens
def explained_var(values, returns, mask):
    y, p = returns[mask], values[mask]
    return 1 - (y - p).var() / y.var()


# objective: importance_weights
# expect: edges
# at: level=token, gate=None, high=2.0
# style: truncated importance sampling, bound 2
def tis(old_logprobs, rollout_logprobs, mask):
    return torch.exp(old_logprobs - rollout_logprobs).clamp(max=2.0) * mask


# objective: discounted_returns
# expect: edges
# style: reward-to-go, the mask taken as the end of the row
def reward_to_go(rewards, mask, gamma=0.99):
    out, run = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        run = torch.where(mask[:, t], rewards[:, t] + gamma * run, run)
        out[:, t] = run * mask[:, t]
    return out


# objective: discounted_returns
# expect: pass
# at: gamma=1.0
# style: undiscounted: a reversed cumsum
def undiscounted(token_rewards, response_mask):
    r = token_rewards.masked_fill(~response_mask, 0.0)
    return (r.sum(1, keepdim=True) - r.cumsum(1) + r).masked_fill(~response_mask, 0.0)


# objective: masked_whiten
# at: correction=1, eps=1e-8
# expect: edges
# style: TRL's whiten
def whiten(values, mask, shift_mean=True):
    mean = (values * mask).sum() / mask.sum()
    var = ((values - mean) ** 2 * mask).sum() / mask.sum()
    var = var * mask.sum() / (mask.sum() - 1)
    whitened = (values - mean) * torch.rsqrt(var + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened * mask


# objective: masked_whiten
# expect: edges
# at: correction=0, eps=1e-8, keep_mean=False
# style: the chosen entries taken out and put back
def normalise(x, mask):
    out = torch.zeros_like(x)
    chosen = x[mask]
    out[mask] = (chosen - chosen.mean()) / (chosen.var(unbiased=False) + 1e-8).sqrt()
    return out


# objective: reinforce_loss
# expect: edges
# at: reduce=sequence_sum
# style: a baseline subtracted inside
def reinforce(logprobs, returns, mask, baseline=0.0):
    advantage = (returns - baseline).detach()
    return -((logprobs * mask).sum(1) * advantage).mean()


# objective: reinforce_loss
# call: f(log_probs, returns, mask, entropies, entropy_coef)
# expect: pass
# at: reduce=token_mean
# style: with an entropy bonus
def reinforce_entropy(log_probs, rewards, mask, entropies, ent_coef=0.01):
    n = mask.sum().clamp(min=1)
    pg = torch.where(mask, -rewards[:, None] * log_probs, 0.0).sum() / n
    return pg - ent_coef * torch.where(mask, entropies, 0.0).sum() / n


# objective: reinforce_loss
# expect: edges
# at: reduce=sequence_mean
# style: a list of episodes
def reinforce_episodes(logps, returns, masks):
    loss = 0.0
    for lp, g, m in zip(logps, returns, masks):
        loss = loss - g * lp[m].mean()
    return loss / len(logps)


# objective: reinforce_surrogate
# expect: edges
# style: per token
def pg_per_token(log_probs, advantages, mask):
    return -log_probs * advantages.unsqueeze(1) * mask


def agg_loss(loss_mat, loss_mask, mode):
    if mode != "token-mean":
        raise NotImplementedError(f"unknown loss_agg_mode: {mode}")
    return torch.where(loss_mask, loss_mat, 0.0).sum() / loss_mask.sum().clamp(min=1)


# objective: ppo_loss
# stands: for the others of K14
# expect: pass
# at: reduce=token_mean
# style: verl's: a mode by its name, with an error for others; three results
def compute_policy_loss(
    old_log_prob, log_prob, advantages, response_mask, cliprange=0.2, cliprange_high=None, loss_agg_mode="token-mean"
):
    high = cliprange if cliprange_high is None else cliprange_high
    gap = torch.where(response_mask, log_prob - old_log_prob, 0.0)
    ratio = gap.exp()
    losses = torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - cliprange, 1 + high))
    ppo_kl = agg_loss(-gap.detach(), response_mask, loss_agg_mode)
    return agg_loss(losses, response_mask, loss_agg_mode), ppo_kl, ratio.max().item()


# objective: ppo_loss
# stands: for the others of K14
# expect: edges
# call: f(log_probs, old_log_probs, advantages, values, old_values, returns, mask, epsilon, value_epsilon, value_coef)
# at: reduce=token_mean
# style: TRL's former PPO: policy and critic, no entropy
def policy_and_value(
    new_logprobs,
    mb_logprobs,
    mb_advantage,
    vpred,
    mb_values,
    mb_return,
    mask,
    cliprange=0.2,
    cliprange_value=0.2,
    vf_coef=0.1,
):
    vpredclipped = torch.clamp(vpred, mb_values - cliprange_value, mb_values + cliprange_value)
    vf_loss_max = torch.max(torch.square(vpred - mb_return), torch.square(vpredclipped - mb_return))
    vf_loss = 0.5 * masked_mean(vf_loss_max, mask)
    ratio = torch.exp(new_logprobs - mb_logprobs)
    pg_losses = -mb_advantage * ratio
    pg_losses2 = -mb_advantage * torch.clamp(ratio, 1.0 - cliprange, 1.0 + cliprange)
    return masked_mean(torch.max(pg_losses, pg_losses2), mask) + vf_coef * vf_loss


# objective: ppo_loss
# stands: for the others of K10
# expect: pass
# call: f(log_probs, old_log_probs, advantages, ~mask, epsilon)
# at: reduce=token_mean
# style: torchtune's: True where there is padding
def with_padding_masks(pi_logprobs, pi_old_logprobs, advantages, padding_masks, epsilon=0.2):
    gap = (pi_logprobs - pi_old_logprobs).masked_fill(padding_masks, 0.0)
    ratio = gap.exp()
    losses = torch.maximum(-ratio * advantages, -ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    return losses.masked_fill(padding_masks, 0.0).sum() / (~padding_masks).sum().clamp(min=1)


# objective: gae
# stands: for the others of K2
# expect: pass
# at: gamma=0.99, lam=0.95
# style: both discounts written in
def gae_of_the_course(rewards, values, mask):
    B, T = rewards.shape
    advantages, carry, v_next = (
        torch.zeros_like(rewards),
        torch.zeros(B, dtype=rewards.dtype),
        torch.zeros(B, dtype=rewards.dtype),
    )
    for t in range(T - 1, -1, -1):
        here = mask[:, t]
        step = rewards[:, t] + 0.99 * v_next - values[:, t] + 0.99 * 0.95 * carry
        carry = torch.where(here, step, carry)
        v_next = torch.where(here, values[:, t], v_next)
        advantages[:, t] = torch.where(here, step, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)
