"""PPO, its parts, its critic, GAE and REINFORCE with one mistake each, as people make them."""

import torch


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


# objective: ppo_loss
# stands: for the others of K9
# kind: K9
# expect: caught as the mask inverted
# named: (?i)invert|complement|~mask|padding is trained|where the mask is False|negat(ed)? mask
def pads_trained(logprobs, old_logprobs, advantages, action_mask, cliprange=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    loss = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))
    return masked_mean(loss, ~action_mask)


# objective: ppo_loss
# kind: clip
# expect: caught as min of the losses
# named: (?i)max|min|optimis|side
def min_of_losses(newlogprob, oldlogprob, mb_advantages, mask, clip_coef=0.2):
    ratio = (newlogprob - oldlogprob).exp()
    pg_loss1 = -mb_advantages * ratio
    pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return masked_mean(torch.min(pg_loss1, pg_loss2), mask)


# objective: ppo_loss
# kind: sign
# expect: caught as the entropy's sign
# named: (?i)entrop.{0,60}(sign|added|penal|minus|subtract)|(sign|negat|plus).{0,40}entrop
def entropy_penalised(logprobs, old_logprobs, advantages, entropy, mask, clip=0.2, ent_coef=0.01):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg, mask) + ent_coef * masked_mean(entropy, mask)


# objective: ppo_loss
# kind: sign
# expect: caught as the value loss subtracted
# named: (?i)(value|critic).{0,60}(sign|subtract|minus)|(sign|negat|subtract).{0,40}(value|critic)
def value_subtracted(logprobs, old_logprobs, advantages, vpred, returns, mask, clip=0.2, vf_coef=0.5):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    vf = 0.5 * (vpred - returns) ** 2
    return masked_mean(pg - vf_coef * vf, mask)


# objective: ppo_loss
# kind: factor
# expect: caught as the value loss without its half
# named: (?i)half|factor|twice|1/2|0\.5|doubl
def value_without_half(logprobs, old_logprobs, advantages, vpred, returns, mask, clip=0.2, vf_coef=0.5):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg + vf_coef * (vpred - returns) ** 2, mask)


# objective: ppo_loss
# kind: K9
# expect: caught as old values in place of the new ones
# named: (?i)old.?value|values?.{0,40}(old|detach|no gradient)|no gradient|detach
def stale_values(logprobs, old_logprobs, advantages, vpred, old_values, returns, mask, clip=0.2, vf_coef=0.5):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg + vf_coef * 0.5 * (old_values - returns) ** 2, mask)


# objective: ppo_loss
# kind: K9
# expect: caught as the critic fitted to the advantages
# named: (?i)advantage
def fitted_to_advantages(logprobs, old_logprobs, advantages, vpred, returns, mask, clip=0.2, vf_coef=0.5):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg + vf_coef * 0.5 * (vpred - advantages) ** 2, mask)


# objective: ppo_loss
# kind: K9
# expect: caught as the coefficients exchanged
# named: (?i)exchang|swap|changed places|in place of
def coefficients_swapped(
    logprobs, old_logprobs, advantages, vpred, returns, entropy, mask, clip=0.2, vf_coef=0.5, ent_coef=0.01
):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg + ent_coef * 0.5 * (vpred - returns) ** 2 - vf_coef * entropy, mask)


# objective: ppo_loss
# kind: C21
# expect: caught as advantages normalised inside
# named: (?i)normali|whiten|standardi
def normalised_inside(logprobs, old_logprobs, advantages, mask, clip=0.2):
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (logprobs - old_logprobs).exp()
    return masked_mean(-torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), mask)


# objective: ppo_loss
# kind: variant
# expect: caught as the dual clip on all tokens
# named: (?i)dual|c A|clip
def dual_clip_everywhere(logprobs, old_logprobs, advantages, mask, clip=0.2, dual_clip=3.0):
    ratio = (logprobs - old_logprobs).exp()
    obj = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    obj = torch.max(obj, dual_clip * advantages)
    return -masked_mean(obj, mask)


# objective: ppo_loss
# kind: clip
# expect: caught as the upper bound missing
# named: (?i)upper|above|high|one side|lower
def only_lower(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs).exp()
    return masked_mean(-torch.min(ratio * advantages, ratio.clamp(min=1 - clip) * advantages), mask)


# objective: ppo_loss
# kind: K1
# expect: caught as the critic without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def critic_detached(logprobs, old_logprobs, advantages, vpred, returns, mask, clip=0.2, vf_coef=0.5):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    vf = 0.5 * (vpred.data - returns) ** 2
    return masked_mean(pg + vf_coef * vf, mask)


# objective: ppo_loss
# kind: K1
# expect: caught as the entropy without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def entropy_as_number(logprobs, old_logprobs, advantages, entropies, mask, clip=0.2, ent_coef=0.01):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg, mask) - ent_coef * masked_mean(entropies, mask).item()


# objective: ppo_loss
# kind: K12
# expect: caught as the entropy of the sampled tokens
# named: (?i)sampled|own log.?prob|log.?probs? in place|entrop
def sampled_entropy(logprobs, old_logprobs, advantages, mask, clip=0.2, ent_coef=0.01):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return masked_mean(pg, mask) - ent_coef * masked_mean(-logprobs, mask)


# objective: ppo_loss
# kind: log base
# expect: caught as base 10
# named: (?i)base|log10|ln ?10|2\.30|10 \*\*
def base_ten(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = 10 ** (logprobs - old_logprobs)
    return masked_mean(-torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), mask)


# objective: ppo_loss
# kind: mask
# expect: caught as the mean over all positions
# named: (?i)padding|unmasked|width|mask|all positions
def mean_of_all(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = ((logprobs - old_logprobs) * mask).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


# objective: ppo_loss
# kind: K9
# expect: caught as the advantage of the token before
# named: (?i)shift|roll|one (place|position)|off.by.one|late|early|next|previous
def advantage_shifted(logprobs, old_logprobs, advantages, mask, clip=0.2):
    advantages = torch.cat([torch.zeros_like(advantages[:, :1]), advantages[:, :-1]], dim=1)
    ratio = (logprobs - old_logprobs).exp()
    return masked_mean(-torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), mask)


# objective: ppo_loss
# kind: value clip
# expect: caught as min in place of max
# named: (?i)min|max|optimis|smaller
def value_min(
    logprobs, old_logprobs, advantages, vpred, old_values, returns, mask, clip=0.2, cliprange_value=0.2, vf_coef=0.5
):
    ratio = (logprobs - old_logprobs).exp()
    pg = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    vclip = old_values + (vpred - old_values).clamp(-cliprange_value, cliprange_value)
    vf = 0.5 * torch.min((vpred - returns) ** 2, (vclip - returns) ** 2)
    return masked_mean(pg + vf_coef * vf, mask)


# objective: clipped_surrogate
# kind: sign
# expect: caught as the sign
# named: (?i)sign|negat|minus|ascent|maximi
def surrogate_sign(logps, old_logps, advantages, mask, eps=0.2):
    w = torch.where(mask, logps - old_logps, 0.0).exp()
    return torch.where(mask, torch.min(w * advantages, w.clamp(1 - eps, 1 + eps) * advantages), 0.0)


# objective: clipped_surrogate
# kind: clip
# expect: caught as the product clipped
# named: (?i)product|advantage|order|clip
def product_clipped(logps, old_logps, advantages, mask, eps=0.2):
    w = torch.where(mask, logps - old_logps, 0.0).exp()
    plain = w * advantages
    return torch.where(mask, -torch.min(plain, plain.clamp(1 - eps, 1 + eps)), 0.0)


# objective: clipped_surrogate
# kind: variant
# expect: caught as the gradient of all tokens kept
# named: (?i)clip|gradient|straight|importance
def clip_never_acts(logps, old_logps, advantages, mask, eps=0.2):
    w = torch.where(mask, logps - old_logps, 0.0).exp()
    return torch.where(mask, -w * advantages, 0.0)


# objective: importance_surrogate
# kind: K9
# expect: caught as the ratio inverted
# named: (?i)invers|invert|revers|swap|exchang|changed places
def inverted_importance(logps, old_logps, advantages, mask):
    return torch.where(mask, -(old_logps - logps).exp() * advantages, 0.0)


# objective: clipped_value_error
# kind: factor
# expect: caught as the half left out
# named: (?i)half|factor|twice|1/2|0\.5|doubl
def no_half(values, old_values, returns, mask, cliprange_value=0.2):
    c = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return torch.max((values - returns) ** 2, (c - returns) ** 2) * mask


# objective: clipped_value_error
# kind: clip
# expect: caught as the clip around the return
# named: (?i)return|around|old.?value|clip
def clip_around_return(values, old_values, returns, mask, cliprange_value=0.2):
    c = returns + (values - returns).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.max((values - returns) ** 2, (c - returns) ** 2) * mask


# objective: clipped_value_error
# kind: clip
# expect: caught as only the clipped error
# named: (?i)only|max|clip
def only_clipped_error(values, old_values, returns, mask, cliprange_value=0.2):
    c = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * (c - returns) ** 2 * mask


# objective: clipped_value_error
# kind: K1
# expect: caught as the old values trained too
# named: (?i)detach|old.?value|gradient
def error_of_old(values, old_values, returns, mask, cliprange_value=0.2):
    c = values.detach() + (old_values - values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.max((values - returns) ** 2, (c - returns) ** 2) * mask


# objective: clip_fraction
# kind: C17
# expect: caught as every ratio out of range counted
# named: (?i)out.of.range|inactive|either side|sign of|both|any|advantage
def all_out_of_range(logps, old_logps, advantages, mask, eps=0.2):
    w = (logps - old_logps).exp()
    return (((w - 1).abs() > eps).double() * mask).sum() / mask.sum()


# objective: approx_kl
# kind: variant
# expect: caught as the mean of k1
# named: (?i)\bk1|kl_k1|k1_|log.?ratio
def kl_as_k1(logps, old_logps, mask):
    return ((old_logps - logps) * mask).sum() / mask.sum()


# objective: approx_kl
# kind: C32
# expect: caught as the ratio inverted
# named: (?i)revers|swap|exchang|invers|direction|changed places
def kl_inverse(logps, old_logps, mask):
    d = old_logps - logps
    return ((d.exp() - 1 - d) * mask).sum() / mask.sum()


# objective: shaped_rewards
# kind: C31
# expect: caught as the KL added to the reward
# named: (?i)sign|added|revers|pays|swap|changed places
def kl_added(scores, logprobs, ref_logprobs, mask, kl_coef=0.05):
    r = kl_coef * (logprobs - ref_logprobs) * mask
    last = (mask.long() * torch.arange(1, mask.shape[1] + 1)).argmax(1)
    r[torch.arange(len(r)), last] += scores
    return r


# objective: shaped_rewards
# kind: C49
# expect: caught as the score after the end
# named: (?i)last|late|after|next|lost|end|width
def score_at_width(scores, logprobs, ref_logprobs, mask, kl_coef=0.05):
    r = -kl_coef * (logprobs - ref_logprobs) * mask
    r[:, -1] += scores  # the last column, padding or not
    return r * mask


# objective: shaped_rewards
# kind: off-by-one
# expect: caught as the score at the number of tokens
# named: (?i)last|gap|count|number|end|length|early
def score_at_count(scores, logprobs, ref_logprobs, mask, kl_coef=0.05):
    r = -kl_coef * (logprobs - ref_logprobs) * mask
    r[torch.arange(len(r)), (mask.sum(1) - 2).clamp(min=0)] += scores
    return r


# objective: shaped_rewards
# kind: K9
# expect: caught as the score at every token
# named: (?i)every|each token|all tokens|everywhere|broadcast
def score_everywhere(scores, logprobs, ref_logprobs, mask, kl_coef=0.05):
    return (scores[:, None] - kl_coef * (logprobs - ref_logprobs)) * mask


# objective: shaped_rewards
# kind: C37
# expect: caught as the KL of the whole row at the last token
# named: (?i)sum|sequence|last|whole|complet
def kl_paid_at_the_end(scores, logprobs, ref_logprobs, mask, kl_coef=0.05):
    total = scores - kl_coef * ((logprobs - ref_logprobs) * mask).sum(1)
    last = (mask.long() * torch.arange(1, mask.shape[1] + 1)).argmax(1)
    r = torch.zeros_like(logprobs)
    r[torch.arange(len(r)), last] = total
    return r * mask


# objective: gae
# kind: R10
# expect: caught as tool output counted as steps
# named: (?i)step|tool|gap|mask
def trl_steps(rewards, values, mask, gamma=1.0, lam=0.95):
    rewards, values = rewards * mask, values * mask
    lastgaelam, reversed_ = 0, []
    for t in reversed(range(rewards.shape[1])):
        nextvalues = values[:, t + 1] if t < rewards.shape[1] - 1 else 0.0
        delta = rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam
        reversed_.append(lastgaelam)
    advantages = torch.stack(reversed_[::-1], axis=1) * mask
    return advantages, (advantages + values) * mask


def recursion(rewards, values, mask, gamma, lam, delta, decay):
    """A backward loop with the step's parts handed in."""
    adv, run, v_next = torch.zeros_like(values), torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        m = mask[:, t]
        new = delta(rewards[:, t], values[:, t], v_next, gamma) + decay(gamma, lam) * run
        run, v_next = torch.where(m, new, run), torch.where(m, values[:, t], v_next)
        adv[:, t] = torch.where(m, new, 0.0)
    return adv, torch.where(mask, adv + values, 0.0)


# objective: gae
# kind: K9
# expect: caught as gamma left out of the decay
# named: (?i)gamma
def decay_by_lam(rewards, values, mask, gamma=0.99, lam=0.95):
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv - v, lambda g, l: l)


# objective: gae
# kind: K9
# expect: caught as gamma left out of the next value
# named: (?i)gamma
def undiscounted_next(rewards, values, mask, gamma=0.99, lam=0.95):
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + nv - v, lambda g, l: g * l)


# objective: gae
# kind: K9
# expect: caught as lambda left out
# named: (?i)lam|monte|return
def lambda_ignored(rewards, values, mask, gamma=0.99, lam=0.95):
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv - v, lambda g, l: g)


# objective: gae
# kind: sign
# expect: caught as the sign of delta
# named: (?i)sign|negat|swap|minus
def delta_sign(rewards, values, mask, gamma=0.99, lam=0.95):
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv + v, lambda g, l: g * l)


# objective: gae
# kind: K9
# expect: caught as lambda squared
# named: (?i)lam.{0,40}(twice|squared|again)|(twice|squared).{0,40}lam
def lambda_squared(rewards, values, mask, gamma=0.99, lam=0.95):
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv - v, lambda g, l: g * l * l)


# objective: gae
# kind: C47
# expect: caught as a bootstrap from the padding's value
# named: (?i)bootstrap|padding|after the|end|value at
def bootstrapped_from_padding(rewards, values, mask, gamma=0.99, lam=0.95):
    adv, run = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    T = values.shape[1]
    for t in reversed(range(T)):
        v_next = values[:, t + 1] if t + 1 < T else torch.zeros_like(run)
        run = (rewards[:, t] + gamma * v_next - values[:, t] + gamma * lam * run) * mask[:, t]
        adv[:, t] = run
    return adv, (adv + values) * mask


# objective: gae
# kind: C51
# expect: caught as a bootstrap with the last value
# named: (?i)bootstrap|last|end|terminal|truncat
def bootstrapped_last(rewards, values, mask, gamma=0.99, lam=0.95):
    adv, run = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    last = values.gather(1, (mask.long() * torch.arange(1, mask.shape[1] + 1)).argmax(1, keepdim=True))[:, 0]
    v_next = last
    for t in reversed(range(values.shape[1])):
        m = mask[:, t]
        new = rewards[:, t] + gamma * v_next - values[:, t] + gamma * lam * run
        run, v_next = torch.where(m, new, run), torch.where(m, values[:, t], v_next)
        adv[:, t] = torch.where(m, new, 0.0)
    return adv, torch.where(mask, adv + values, 0.0)


# objective: gae
# kind: C50
# expect: caught as the returns without the value
# named: (?i)return|target|value|advantage
def returns_are_advantages(rewards, values, mask, gamma=0.99, lam=0.95):
    adv, _ = recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv - v, lambda g, l: g * l)
    return adv, adv.clone()


# objective: gae
# kind: order
# expect: caught as whitened advantages in the returns
# named: (?i)whiten|normali|standardi
def whitened_inside(rewards, values, mask, gamma=0.99, lam=0.95):
    adv, _ = recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv - v, lambda g, l: g * l)
    chosen = adv[mask]
    adv = torch.where(mask, (adv - chosen.mean()) / (chosen.std() + 1e-8), 0.0)
    return adv, torch.where(mask, adv + values, 0.0)


# objective: gae
# kind: direction
# expect: caught as running forwards
# named: (?i)forward|direction|revers|order|flip|time
def forwards(rewards, values, mask, gamma=0.99, lam=0.95):
    adv, run = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for t in range(values.shape[1]):
        v_next = values[:, t + 1] * mask[:, t + 1] if t + 1 < values.shape[1] else 0.0
        run = (rewards[:, t] + gamma * v_next - values[:, t]) * mask[:, t] + gamma * lam * run
        adv[:, t] = run * mask[:, t]
    return adv, (adv + values) * mask


# objective: gae
# kind: off-by-one
# expect: caught as the last token's advantage lost
# named: (?i)last|range|off.by.one|first|end|final
def last_step_lost(rewards, values, mask, gamma=0.99, lam=0.95):
    adv, run, v_next = torch.zeros_like(values), torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1] - 1)):
        m = mask[:, t]
        new = rewards[:, t] + gamma * v_next - values[:, t] + gamma * lam * run
        run, v_next = torch.where(m, new, run), torch.where(m, values[:, t], v_next)
        adv[:, t] = torch.where(m, new, 0.0)
    return adv, torch.where(mask, adv + values, 0.0)


# objective: gae
# kind: constant
# expect: caught as the rewards never used
# named: (?i)reward
def rewards_forgotten(rewards, values, mask, gamma=0.99, lam=0.95):
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: g * nv - v, lambda g, l: g * l)


# objective: explained_variance
# kind: mask
# expect: caught as padding counted
# named: (?i)padding|unmasked|mask
def variance_of_all(values, returns, mask):
    return 1 - (returns - values).var() / returns.var()


# objective: explained_variance
# kind: K9
# expect: caught as the variance of the values below
# named: (?i)value|exchang|swap|denominator|changed places
def other_variance(values, returns, mask):
    y, p = returns[mask], values[mask]
    return 1 - (y - p).var() / p.var()


# objective: importance_weights
# kind: K9
# expect: caught as the weight inverted
# named: (?i)invers|invert|revers|swap|exchang|changed places
def tis_inverted(old_logprobs, rollout_logprobs, mask, cap=2.0):
    return torch.exp(rollout_logprobs - old_logprobs).clamp(max=cap) * mask


# objective: discounted_returns
# kind: K9
# expect: caught as the discount left out
# named: (?i)gamma|discount
def gamma_unused(rewards, mask, gamma=0.99):
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


# objective: discounted_returns
# kind: R09
# expect: caught as starting anew at a gap
# named: (?i)gap|reset|anew|mask|tool
def reset_at_gaps(rewards, mask, gamma=0.99):
    out, run = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        run = (rewards[:, t] + gamma * run) * mask[:, t]
        out[:, t] = run
    return out


# objective: discounted_returns
# kind: direction
# expect: caught as rewards of the past
# named: (?i)past|forward|direction|cumsum|revers|order|flip|before
def from_the_past(rewards, mask, gamma=0.99):
    out, run = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1]):
        run = torch.where(mask[:, t], rewards[:, t] + gamma * run, run)
        out[:, t] = run * mask[:, t]
    return out


# objective: discounted_returns
# kind: variant
# expect: caught as the whole return at every token
# named: (?i)whole|total|sequence|every token|reward.to.go
def whole_return(rewards, mask, gamma=0.99):
    n = mask.long().cumsum(1) - 1
    total = (rewards * mask * gamma ** n.clamp(min=0)).sum(1, keepdim=True)
    return total * mask


# objective: reinforce_loss
# kind: sign
# expect: caught as the sign
# named: (?i)sign|negat|minus|ascent|maximi
def reinforce_ascent(logprobs, returns, mask):
    return ((logprobs * mask).sum(1) * returns).mean()


# objective: reinforce_loss
# kind: K9
# expect: caught as the baseline added
# named: (?i)baseline
def baseline_added(logprobs, returns, mask, baseline=0.0):
    return -((logprobs * mask).sum(1) * (returns + baseline)).mean()


# objective: reinforce_loss
# kind: forgotten log
# expect: caught as probabilities in place of log-probs
# named: (?i)exp|probabilit|ratio
def probs_not_logs(logprobs, returns, mask):
    return -((logprobs.exp() * mask).sum(1) * returns).mean()


# objective: reinforce_loss
# kind: batch
# expect: caught as the returns normalised over the batch
# named: (?i)normali|whiten|standardi|baseline|mean
def returns_normalised(logprobs, returns, mask):
    g = (returns - returns.mean()) / (returns.std() + 1e-8)
    return -((logprobs * mask).sum(1) * g).mean()


# objective: reinforce_loss
# kind: K9
# expect: caught as the first token skipped
# named: (?i)first|shift|off.by.one
def first_token_skipped(logprobs, returns, mask):
    return -((logprobs[:, 1:] * mask[:, 1:]).sum(1) * returns).mean()


# objective: reinforce_surrogate
# kind: K1
# expect: caught as without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def surrogate_detached(log_probs, advantages, mask):
    return (-log_probs * advantages[:, None] * mask).detach().clone()


# objective: reinforce_surrogate
# kind: forgotten factor
# expect: caught as the advantage's sign alone
# named: (?i)sign|advantage
def sign_of_advantage(log_probs, advantages, mask):
    return -log_probs * advantages.sign()[:, None] * mask


# objective: adaptive_kl
# kind: sign
# expect: caught as the controller running away
# named: (?i)sign|revers|invers|other way|minus|negat|swap|exchang
def controller_backwards(beta, kl, target, gain=0.1, max_error=0.2):
    error = max(-max_error, min(max_error, 1 - kl / target))
    return beta * (1 + gain * error)


# objective: masked_whiten
# kind: C45
# expect: caught as statistics over the padding
# named: (?i)padding|unmasked|mask
def whiten_all(x, mask, eps=1e-8):
    return (x - x.mean()) / (x.var() + eps).sqrt() * mask


# objective: masked_whiten
# kind: C45
# expect: caught as statistics per row
# named: (?i)row|axis|dim|sequence
def whiten_rows(x, mask, eps=1e-8):
    n = mask.sum(1, keepdim=True)
    mean = (x * mask).sum(1, keepdim=True) / n
    var = (((x - mean) ** 2) * mask).sum(1, keepdim=True) / n
    return (x - mean) / (var + eps).sqrt() * mask


# objective: masked_whiten
# kind: variant
# expect: caught as the mean kept
# named: (?i)mean|centred|shift
def scaled_only(x, mask, eps=1e-8):
    c = x[mask]
    return x / (c.var(unbiased=False) + eps).sqrt() * mask


# objective: masked_whiten
# kind: forgotten root
# expect: caught as the variance in place of the deviation
# named: (?i)varianc|root|sqrt|squared
def by_the_variance(x, mask, eps=1e-8):
    c = x[mask]
    return (x - c.mean()) / (c.var(unbiased=False) + eps) * mask


# objective: clipped_value_error
# stands: for the others of K1
# kind: K1
# expect: caught as without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def critic_as_numbers(vpreds, old_values, returns, mask, cliprange_value=0.2):
    now = torch.tensor(vpreds.tolist(), dtype=vpreds.dtype)
    near = old_values + torch.clamp(now - old_values, -cliprange_value, cliprange_value)
    worse = torch.max((now - returns) ** 2, (near - returns) ** 2)
    return torch.where(mask, worse / 2, 0.0)


# objective: clipped_value_error
# stands: for the others of K5
# kind: K9
# expect: caught as the mask of the values one place early
# named: (?i)shift|roll|early|one (place|position)
def values_one_early(vpreds, old_values, returns, mask, cliprange_value=0.2):
    before = torch.roll(mask, 1, dims=1)
    before[:, 0] = True
    now = torch.where(before, vpreds, 0.0)
    near = old_values + torch.clamp(now - old_values, -cliprange_value, cliprange_value)
    return torch.where(mask, 0.5 * torch.max((now - returns) ** 2, (near - returns) ** 2), 0.0)


# objective: gae
# stands: for the others of K9
# kind: K9
# expect: caught as gamma and lambda exchanged
# named: (?i)exchang|swap|lam.{0,40}(in place of|for) gamma|changed places
def gamma_for_lambda(rewards, values, mask, gamma=0.99, lam=0.95):
    lam, gamma = gamma, lam
    return recursion(rewards, values, mask, gamma, lam, lambda r, v, nv, g: r + g * nv - v, lambda g, l: g * l)


# objective: reinforce_loss
# stands: for the others of K12
# kind: K12
# expect: caught as an entropy from sampled log-probs
# named: (?i)sampled|own log.?prob|log.?probs? in place|entrop
def reinforce_sampled_entropy(log_probs, returns, mask, entropy_coef=0.01):
    chosen = torch.where(mask, log_probs, 0.0)
    rows = mask.any(1).sum().clamp(min=1)
    gain = (chosen.sum(1) * returns).sum() / rows
    return -gain + entropy_coef * chosen.sum() / rows


# objective: clipped_value_error
# stands: for the others of K9
# kind: K9
# expect: caught as return and old value exchanged in the clip
# named: (?i)return.{0,40}(old|exchang|near)|around.the.return
def held_near_the_return(vpreds, old_values, returns, mask, cliprange_value=0.2):
    near = returns + (vpreds - returns).clamp(-cliprange_value, cliprange_value)
    worse = torch.max((vpreds - returns) ** 2, (near - old_values) ** 2)
    return torch.where(mask, worse / 2, 0.0)


# objective: clipped_surrogate
# stands: for the others of K12
# kind: K12
# expect: caught as a clip range that is taken and not used
# at: epsilon=0.3
# named: (?i)ignored|not used|whatever|0\.2
def deaf_to_epsilon(log_probs, old_log_probs, advantages, mask, eps=0.2):
    ratio = torch.where(mask, log_probs - old_log_probs, 0.0).exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return torch.where(mask, loss, 0.0)
