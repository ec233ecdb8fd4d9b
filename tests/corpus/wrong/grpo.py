"""GRPO and its relatives with one mistake each, as people make them."""

import torch


# objective: grpo_loss
# kind: K6
# expect: caught as a mean over all tokens of the batch
# named: (?i)token_mean
def tokens_in_one_mean(logps, old_logps, ref_logps, advantages, mask, epsilon=0.2, beta=0.04):
    ratio = (logps - old_logps).exp()
    pg = -torch.min(ratio * advantages[:, None], ratio.clamp(1 - epsilon, 1 + epsilon) * advantages[:, None])
    gap = ref_logps - logps
    loss = pg + beta * (gap.exp() - gap - 1)
    return (loss * mask).sum() / mask.sum()


# objective: grpo_loss
# kind: mask
# expect: caught as a mean over padding
# named: (?i)unmasked|padding|mask.{0,30}(ignored|left out|not)|no_mask|width
def plain_mean(per_token_logps, old_per_token_logps, advantages, completion_mask, epsilon=0.2):
    ratio = torch.exp(per_token_logps - old_per_token_logps)
    adv = advantages.unsqueeze(1)
    loss = -torch.min(ratio * adv, torch.clamp(ratio, 1 - epsilon, 1 + epsilon) * adv)
    loss = loss * completion_mask
    return loss.mean(dim=1).mean()


# objective: grpo_loss
# kind: sign
# expect: caught as the KL subtracted
# named: (?i)kl.{0,40}(sign|subtract|negat|minus|reward)|(sign|subtract|negat|minus|paid|pays).{0,40}kl
def kl_subtracted(logps, old_logps, ref_logps, advantages, mask, epsilon=0.2, beta=0.04):
    r = torch.where(mask, logps - old_logps, 0.0).exp()
    pg = -torch.min(r * advantages[:, None], r.clamp(1 - epsilon, 1 + epsilon) * advantages[:, None])
    u = torch.where(mask, ref_logps - logps, 0.0)
    loss = torch.where(mask, pg - beta * (u.exp() - u - 1), 0.0)
    return (loss.sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: sign
# expect: caught as the sign of the whole loss
# named: (?i)sign|negat|ascent|maximi|minus
def forgot_minus(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    obj = torch.min(ratio * advantages[:, None], torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps) * advantages[:, None])
    return ((obj * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: clip
# expect: caught as max in place of min
# named: (?i)max|optimis|wrong.side|other side
def max_of_both(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    obj = torch.max(ratio * advantages[:, None], torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps) * advantages[:, None])
    return -((obj * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: clip
# expect: caught as a hard clip without the min
# named: (?i)clip
def only_clipped(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    ratio = torch.clamp(torch.exp(logprobs - old_logprobs), 1 - clip_eps, 1 + clip_eps)
    return -((ratio * advantages[:, None] * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: C15
# expect: caught as the old log-probs ignored
# named: (?i)old|on.policy|ratio
def ratio_always_one(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    ratio = torch.exp(logprobs - logprobs.detach())
    obj = torch.min(ratio * advantages[:, None], torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps) * advantages[:, None])
    return -((obj * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: forgotten exp
# expect: caught as the log-ratio in place of the ratio
# named: (?i)log.?ratio|exp|ratio
def no_exp(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    ratio = logprobs - old_logprobs
    obj = torch.min(ratio * advantages[:, None], torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps) * advantages[:, None])
    return -((obj * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K9
# expect: caught as the ratio inverted
# named: (?i)invers|invert|revers|swap|exchang|upside|changed places
def ratio_upside_down(new_logps, old_logps, advantages, mask, eps=0.2):
    ratio = torch.exp(old_logps - new_logps)
    obj = torch.min(ratio * advantages[:, None], ratio.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return -((obj * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: C32
# expect: caught as k3 reversed
# named: (?i)revers|swap|exchang|direction|changed places
def k3_reversed(logp, old_logp, ref_logp, adv, mask, clip=0.2, kl_coef=0.04):
    w = (logp - old_logp).exp()
    pg = -torch.min(w * adv[:, None], w.clamp(1 - clip, 1 + clip) * adv[:, None])
    d = logp - ref_logp
    loss = pg + kl_coef * (d.exp() - 1 - d)
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: variant
# expect: caught as k1 in place of k3
# named: (?i)\bk1|kl_k1|k1_
def k1_in_the_loss(logp, old_logp, ref_logp, adv, mask, clip=0.2, kl_coef=0.04):
    w = (logp - old_logp).exp()
    pg = -torch.min(w * adv[:, None], w.clamp(1 - clip, 1 + clip) * adv[:, None])
    loss = pg + kl_coef * (logp - ref_logp)
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: variant
# expect: caught as k2 in place of k3
# named: (?i)\bk2|kl_k2|k2_
def k2_in_the_loss(logp, old_logp, ref_logp, adv, mask, clip=0.2, kl_coef=0.04):
    w = (logp - old_logp).exp()
    pg = -torch.min(w * adv[:, None], w.clamp(1 - clip, 1 + clip) * adv[:, None])
    loss = pg + kl_coef * 0.5 * (logp - ref_logp) ** 2
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K1
# expect: caught as the KL without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def kl_detached(logp, old_logp, ref_logp, adv, mask, clip=0.2, kl_coef=0.04):
    w = (logp - old_logp).exp()
    pg = -torch.min(w * adv[:, None], w.clamp(1 - clip, 1 + clip) * adv[:, None])
    with torch.no_grad():
        d = ref_logp - logp
        kl = d.exp() - d - 1
    loss = pg + kl_coef * kl
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K1
# expect: caught as the ratio without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def ratio_detached(logp, old_logp, ref_logp, adv, mask, clip=0.2, kl_coef=0.04):
    w = (logp - old_logp).exp().detach()
    pg = -torch.min(w * adv[:, None], w.clamp(1 - clip, 1 + clip) * adv[:, None])
    d = ref_logp - logp
    loss = pg + kl_coef * (d.exp() - d - 1)
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K1
# expect: caught as without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def through_item(logp, old_logp, adv, mask, clip=0.2):
    total = 0.0
    for b in range(logp.shape[0]):
        w = (logp[b] - old_logp[b]).exp()
        pg = -torch.min(w * adv[b], w.clamp(1 - clip, 1 + clip) * adv[b])
        total += ((pg * mask[b]).sum() / mask[b].sum().clamp(min=1)).item()
    return torch.tensor(total / logp.shape[0])


# objective: grpo_loss
# kind: K9
# expect: caught as the mask one place off
# named: (?i)shift|roll|one (place|position)|off.by.one|late|early
def mask_shifted(logps, old_logps, advantages, mask, eps=0.2):
    mask = torch.roll(mask, 1, dims=1)
    w = torch.where(mask, logps - old_logps, 0.0).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    pg = torch.where(mask, pg, 0.0)
    return (pg.sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K9
# expect: caught as the last token lost
# named: (?i)last|end token|final
def last_token_lost(logps, old_logps, advantages, mask, eps=0.2):
    keep = mask & (mask.long().cumsum(1) < mask.sum(1, keepdim=True))
    w = torch.where(keep, logps - old_logps, 0.0).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return (torch.where(keep, pg, 0.0).sum(1) / keep.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K9
# expect: caught as the advantages broadcast along the wrong axis
# named: (?i)broadcast|row|axis|transpos|other rows?|roll
def wrong_broadcast(logps, old_logps, advantages, mask, eps=0.2):
    w = (logps - old_logps).exp()
    adv = advantages.repeat(logps.shape[1])[: logps.numel()].view(logps.shape)  # meant repeat_interleave
    pg = -torch.min(w * adv, w.clamp(1 - eps, 1 + eps) * adv)
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# stands: for the others of K9
# kind: K9
# expect: caught as beta squared
# named: (?i)beta.{0,40}(twice|squared|again|two)|(twice|squared).{0,40}beta
def beta_twice(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    d = ref_logps - logps
    kl = beta * (d.exp() - d - 1)
    loss = pg + beta * kl
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K9
# expect: caught as the KL left out
# named: (?i)kl.{0,40}(ignored|left out|missing|dropped|no effect)|(ignored|left out|missing|without|drops?).{0,40}(kl|beta)|beta.{0,40}(ignored|left out|0)|beta_ignored|no_kl
def kl_forgotten(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    d = ref_logps - logps
    kl = d.exp() - d - 1
    metrics = {"kl": (kl * mask).sum() / mask.sum(), "beta": beta}
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean(), metrics


# objective: grpo_loss
# kind: clip
# expect: caught as the clip range applied to the log-ratio
# named: (?i)log.?ratio|nats|clip
def clip_in_log_space(logps, old_logps, advantages, mask, eps=0.2):
    lr = logps - old_logps
    w, wc = lr.exp(), lr.clamp(-eps, eps).exp()
    pg = -torch.min(w * advantages[:, None], wc * advantages[:, None])
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: clip
# expect: caught as the upper bound ignored
# named: (?i)epsilon_high|high|upper
def high_ignored(logps, old_logps, advantages, mask, epsilon_low=0.2, epsilon_high=0.28):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - epsilon_low, 1 + epsilon_low) * advantages[:, None])
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: clip
# expect: caught as the two epsilons exchanged
# named: (?i)exchang|swap|changed places|in place of
def epsilons_exchanged(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.28):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps_high, 1 + eps_low) * advantages[:, None])
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: clip
# expect: caught as an absolute bound
# named: (?i)bound|absolute|cap|clip
def absolute_bound(logps, old_logps, advantages, mask, eps=0.2):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(min=1 - eps, max=eps + 0.0) * advantages[:, None])
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K6
# expect: caught as sums of rows
# named: (?i)sequence_sum|sum.{0,30}(row|sequence|token)|length
def row_sums(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    d = ref_logps - logps
    return ((pg + beta * (d.exp() - d - 1)) * mask).sum(1).mean()


# objective: grpo_loss
# kind: K6
# expect: caught as a sum over rows, not a mean
# named: (?i)sum|rows?|batch.{0,30}(size|scale)|scale|times|divid
def sum_over_rows(logps, old_logps, advantages, mask, eps=0.2):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).sum()


# objective: grpo_loss
# kind: K6
# expect: caught as a ratio of the whole completion
# named: (?i)sequence|completion|product|gspo
def product_ratio(logps, old_logps, advantages, mask, eps=0.2):
    s = ((logps - old_logps) * mask).sum(1).exp()
    return -torch.min(s * advantages, s.clamp(1 - eps, 1 + eps) * advantages).mean()


# objective: grpo_loss
# kind: K8
# expect: caught as GSPO
# named: (?i)gspo|sequence.{0,30}ratio|geometric
def gspo_called_grpo(logps, old_logps, advantages, mask, eps=0.2):
    s = (((logps - old_logps) * mask).sum(1) / mask.sum(1).clamp(min=1)).exp()
    return -torch.min(s * advantages, s.clamp(1 - eps, 1 + eps) * advantages).mean()


# objective: grpo_loss
# kind: K8
# expect: caught as Dr. GRPO's or the width's constant
# named: (?i)dr_grpo|fixed|constant|width|padded
def by_width(logps, old_logps, advantages, mask, eps=0.2):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return ((pg * mask).sum(1) / mask.shape[1]).mean()


# objective: grpo_loss
# kind: K8
# expect: caught as REINFORCE
# named: (?i)reinforce|log.?prob|no ratio|ratio
def reinforce_called_grpo(logps, old_logps, advantages, mask, eps=0.2):
    pg = -logps * advantages[:, None]
    return ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K1
# expect: caught as gradient through the advantages, or none of the policy
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def all_in_no_grad(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    with torch.no_grad():
        w = (logps - old_logps).exp()
        pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
        d = ref_logps - logps
        loss = pg + beta * (d.exp() - d - 1)
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean().requires_grad_()


# objective: grpo_loss
# kind: K13
# expect: caught as not the same twice
# named: (?i)random|determin|same (twice|again)|twice|two calls|differs? (from|between) (call|run)
def random_rows(logps, old_logps, advantages, mask, eps=0.2):
    pick = torch.rand(logps.shape[0]) < 0.7
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    rows = (pg * mask).sum(1) / mask.sum(1).clamp(min=1)
    return (rows * pick).sum() / pick.sum().clamp(min=1)


_running = {"steps": 0}


# objective: grpo_loss
# kind: K13
# expect: caught as not the same twice
# named: (?i)random|determin|same (twice|again)|twice|two calls|differs? (from|between) (call|run)|state
def warmed_up(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    _running["steps"] += 1
    warm = beta * min(1.0, _running["steps"] / 100)
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    d = ref_logps - logps
    return (((pg + warm * (d.exp() - d - 1)) * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: constant
# expect: caught as a constant
# named: (?i)constant|no gradient|gradient|always|input
def placeholder(logps, old_logps, advantages, mask, eps=0.2):
    return logps.sum() * 0.0


# objective: grpo_loss
# kind: KL
# expect: caught as k3 without its minus one
# named: (?i)minus 1|- ?1|constant|k3|kl
def k3_without_one(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    d = ref_logps - logps
    return (((pg + beta * (d.exp() - d)) * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# kind: K6
# expect: caught as the KL averaged over tokens, the policy's part over rows
# named: (?i)kl.{0,60}(token|mean|level)|token.{0,40}kl
def two_averages(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    w = (logps - old_logps).exp()
    pg = -torch.min(w * advantages[:, None], w.clamp(1 - eps, 1 + eps) * advantages[:, None])
    d = ref_logps - logps
    kl = d.exp() - d - 1
    policy = ((pg * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    return policy + beta * (kl * mask).sum() / mask.sum()


# objective: dapo_loss
# kind: variant
# expect: caught as a mean of row means
# named: (?i)sequence_mean|row|sample
def dapo_by_rows(log_prob, old_log_prob, advantages, response_mask, clip_low=0.2, clip_high=0.28):
    r = torch.exp(log_prob - old_log_prob)
    loss = -torch.min(r * advantages[:, None], r.clamp(1 - clip_low, 1 + clip_high) * advantages[:, None])
    return ((loss * response_mask).sum(1) / response_mask.sum(1).clamp(min=1)).mean()


# objective: dapo_loss
# kind: clip
# expect: caught as the high clip never used
# named: (?i)high|upper
def dapo_symmetric(log_prob, old_log_prob, advantages, response_mask, clip_ratio_low=0.2, clip_ratio_high=0.28):
    eps = clip_ratio_low
    r = torch.exp(log_prob - old_log_prob)
    loss = -torch.min(r * advantages[:, None], r.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return (loss * response_mask).sum() / response_mask.sum().clamp(min=1)


# objective: dapo_loss
# kind: mask
# expect: caught as the denominator counting padding
# named: (?i)padding|denominator|unmasked|divid|count|width
def dapo_numel(log_prob, old_log_prob, advantages, response_mask, clip_low=0.2, clip_high=0.28):
    r = torch.exp(log_prob - old_log_prob)
    loss = -torch.min(r * advantages[:, None], r.clamp(1 - clip_low, 1 + clip_high) * advantages[:, None])
    return (loss * response_mask).sum() / response_mask.numel()


# objective: dr_grpo_loss
# kind: C08
# expect: caught as the batch's width for the constant
# named: (?i)width|length|padded|constant
def dr_grpo_width(logps, old_logps, advantages, mask, max_length=8, eps=0.2):
    r = torch.exp(logps - old_logps)
    loss = -torch.min(r * advantages[:, None], r.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return ((loss * mask).sum(1) / logps.shape[1]).mean()


# objective: dr_grpo_loss
# kind: C08
# expect: caught as not divided by the number of rows
# named: (?i)rows?|batch|sum|times|number of
def dr_grpo_sum(logps, old_logps, advantages, mask, max_length=8, eps=0.2):
    r = torch.exp(logps - old_logps)
    loss = -torch.min(r * advantages[:, None], r.clamp(1 - eps, 1 + eps) * advantages[:, None])
    return (loss * mask).sum() / max_length


# objective: gspo_loss
# kind: K6
# expect: caught as a sum of log-ratios in place of the mean
# named: (?i)sum|product|length|geometric|norm
def gspo_sum(logps, old_logps, advantages, mask, epsilon=0.2):
    s = ((logps - old_logps) * mask).sum(1).exp()
    return -torch.min(s * advantages, s.clamp(1 - epsilon, 1 + epsilon) * advantages).mean()


# objective: gspo_loss
# kind: K6
# expect: caught as the mean of the ratios
# named: (?i)arithmetic|mean of|average|order|exp
def gspo_mean_ratio(logps, old_logps, advantages, mask, epsilon=0.2):
    s = ((logps - old_logps).exp() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return -torch.min(s * advantages, s.clamp(1 - epsilon, 1 + epsilon) * advantages).mean()


# objective: gspo_loss
# kind: C25
# expect: caught as counting a sequence as often as it has tokens
# named: (?i)token_mean|tokens|length
def gspo_by_tokens(logps, old_logps, advantages, mask, epsilon=0.2):
    s = (((logps - old_logps) * mask).sum(1) / mask.sum(1).clamp(min=1)).exp()[:, None]
    loss = -torch.min(s * advantages[:, None], s.clamp(1 - epsilon, 1 + epsilon) * advantages[:, None])
    return (loss * mask).sum() / mask.sum()


# objective: gspo_loss
# kind: mask
# expect: caught as a mean over padding
# named: (?i)padding|unmasked|width|mask
def gspo_unmasked(logps, old_logps, advantages, mask, epsilon=0.2):
    s = (logps - old_logps).mean(1).exp()
    return -torch.min(s * advantages, s.clamp(1 - epsilon, 1 + epsilon) * advantages).mean()


# objective: gspo_loss
# kind: K8
# expect: caught as GRPO
# named: (?i)grpo|token.{0,30}(ratio|level)|per.token
def gspo_is_grpo(logps, old_logps, advantages, mask, epsilon=0.2):
    w = (logps - old_logps).exp()
    loss = -torch.min(w * advantages[:, None], w.clamp(1 - epsilon, 1 + epsilon) * advantages[:, None])
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: cispo_loss
# kind: C22
# expect: caught as the weight not detached
# named: (?i)detach|gradient
def cispo_no_detach(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.2):
    w = (logps - old_logps).exp().clamp(1 - eps_low, 1 + eps_high)
    return -(w * advantages[:, None] * logps * mask).sum() / mask.sum()


# objective: cispo_loss
# kind: C22
# expect: caught as the log-prob left out
# named: (?i)log.?prob|log pi|left out|detach|gradient
def cispo_no_logp(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.2):
    w = (logps - old_logps).exp().clamp(1 - eps_low, 1 + eps_high)
    return -(w * advantages[:, None] * mask).sum() / mask.sum()


# objective: cispo_loss
# kind: K8
# expect: caught as PPO's clip
# named: (?i)ppo|dapo|clip|surrogate|zero gradient|no gradient
def cispo_is_ppo(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.2):
    w = (logps - old_logps).exp()
    loss = -torch.min(w * advantages[:, None], w.clamp(1 - eps_low, 1 + eps_high) * advantages[:, None])
    return (loss * mask).sum() / mask.sum()


# objective: cispo_loss
# kind: K9
# expect: caught as the weight of the other policy
# named: (?i)invers|invert|revers|swap|exchang|changed places
def cispo_inverted(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.2):
    w = (old_logps - logps).exp().clamp(1 - eps_low, 1 + eps_high).detach()
    return -(w * advantages[:, None] * logps * mask).sum() / mask.sum()


# objective: sapo_loss
# kind: K9
# expect: caught as the temperatures exchanged
# named: (?i)exchang|swap|changed places|in place of|tau
def sapo_swapped(log_probs, old_log_probs, advantages, mask, tau_pos=1.0, tau_neg=1.05):
    w = torch.exp(log_probs - old_log_probs)
    tau = torch.where(advantages > 0, tau_neg, tau_pos)[:, None]
    loss = -4.0 / tau * torch.sigmoid(tau * (w - 1.0)) * advantages[:, None]
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: sapo_loss
# kind: C29
# expect: caught as the advantage left out
# named: (?i)advantage
def sapo_no_advantage(log_probs, old_log_probs, advantages, mask, tau_pos=1.0, tau_neg=1.05):
    w = torch.exp(log_probs - old_log_probs)
    tau = torch.where(advantages > 0, tau_pos, tau_neg)[:, None]
    loss = -4.0 / tau * torch.sigmoid(tau * (w - 1.0))
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: gmpo_loss
# kind: K6
# expect: caught as both sides clipped
# named: (?i)both|side|two|clip
def gmpo_both_sides(logps, old_logps, advantages, mask, epsilon=0.4):
    c = (logps - old_logps).clamp(-epsilon, epsilon)
    m = (c * mask).sum(1) / mask.sum(1).clamp(min=1)
    return -(m.exp() * advantages).mean()


# objective: vespo_loss
# kind: K1
# expect: caught as the weight not detached
# named: (?i)detach|gradient
def vespo_no_detach(log_probs, old_log_probs, advantages, mask, k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0):
    seq = ((log_probs - old_log_probs) * mask).sum(1)
    k = torch.where(advantages > 0, k_pos, k_neg)
    lam = torch.where(advantages > 0, lambda_pos, lambda_neg)
    weight = torch.exp(k * seq + lam * (1 - seq.exp()))
    return -(weight * advantages * (log_probs * mask).sum(1)).mean()


# objective: off_policy_weights
# kind: sign
# expect: caught as the drift with the other sign
# named: (?i)sign|revers|swap|exchang|direction|changed places
def drift_reversed(log_probs, old_log_probs, advantages, mask, delta=0.5):
    drift = ((log_probs - old_log_probs) * mask).sum(1) / mask.sum(1).clamp(min=1)
    return (~((advantages < 0) & (drift > delta))).double()[:, None] * mask


# objective: overlong_penalties
# kind: off-by-one
# expect: caught as the penalty divided by the whole length
# named: (?i)max_length|cache|length|divid|in place of
def overlong_scaled(lengths, max_length=16, cache=4):
    return torch.clamp((max_length - cache - lengths) / max_length, -1.0, 0.0)


# objective: overlong_penalties
# kind: sign
# expect: caught as the sign
# named: (?i)sign|negat|reward
def overlong_positive(lengths, max_length=16, cache=4):
    return torch.clamp((lengths - (max_length - cache)) / cache, 0.0, 1.0)


# objective: ratio_weighted_kl
# kind: K1
# expect: caught as the ratio held constant
# named: (?i)detach|gradient|constant
def weighted_kl_detached(logps, old_logps, ref_logps, mask):
    w = (logps - old_logps).exp().detach()
    d = ref_logps - logps
    return w * (d.exp() - d - 1) * mask


# objective: grpo_loss
# stands: for the others of K6
# kind: K6
# expect: caught as the clip on the wrong side for bad completions
# named: (?i)negative adv|A < 0|maximum|max_in|wrong.side|optimis|other side
def good_and_bad_apart(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
    ratio = torch.exp(log_probs - old_log_probs)
    adv = advantages[:, None].expand_as(ratio)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.where(adv > 0, torch.min(ratio, clipped) * adv, torch.min(ratio, clipped) * adv)
    return -((gain * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# stands: for the others of K9
# kind: K9
# expect: caught as the KL to the old policy
# named: (?i)kl.{0,60}\bold\b|\bold\b.{0,60}(kl|reference)|kl_to_old
def kl_to_the_sampler(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_eps=0.2, kl_weight=0.04):
    ratio = (logprobs - old_logprobs).exp()
    gain = torch.min(ratio * advantages[:, None], ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages[:, None])
    gap = old_logprobs - logprobs
    loss = kl_weight * (gap.exp() - gap - 1) - gain
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# stands: for the others of K8
# kind: K8
# expect: caught as CISPO
# named: (?i)cispo
def cispo_called_grpo(logprobs, old_logprobs, advantages, mask, epsilon_low=0.2, epsilon_high=0.28):
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    weight = ratio.clamp(1 - epsilon_low, 1 + epsilon_high).detach()
    loss = torch.where(mask, -weight * logprobs * advantages[:, None], 0.0)
    return (loss.sum(1) / mask.sum(1).clamp(min=1)).mean()
