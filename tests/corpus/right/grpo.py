"""GRPO and its relatives, right, as people write them."""

from dataclasses import dataclass

import torch
import torch.nn as nn


# objective: grpo_loss
# expect: edges
# style: TRL's names, the mask multiplied in
def trl_like(
    per_token_logps,
    old_per_token_logps,
    ref_per_token_logps,
    advantages,
    completion_mask,
    beta=0.04,
    epsilon_low=0.2,
    epsilon_high=0.2,
):
    coef_1 = torch.exp(per_token_logps - old_per_token_logps)
    coef_2 = torch.clamp(coef_1, 1 - epsilon_low, 1 + epsilon_high)
    per_token_loss1 = coef_1 * advantages.unsqueeze(1)
    per_token_loss2 = coef_2 * advantages.unsqueeze(1)
    per_token_loss = -torch.min(per_token_loss1, per_token_loss2)
    per_token_kl = torch.exp(ref_per_token_logps - per_token_logps) - (ref_per_token_logps - per_token_logps) - 1
    per_token_loss = per_token_loss + beta * per_token_kl
    return ((per_token_loss * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).mean()


# objective: grpo_loss
# expect: edges
# style: no reference at all, a tuple of loss and metrics
def no_reference(new_logprobs, old_logprobs, adv, response_mask, clip_range=0.2):
    keep = response_mask.bool()
    log_ratio = (new_logprobs - old_logprobs).masked_fill(~keep, 0.0)
    ratio = log_ratio.exp()
    surr1 = ratio * adv[:, None]
    surr2 = torch.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range) * adv[:, None]
    loss = -torch.minimum(surr1, surr2).masked_fill(~keep, 0.0)
    per_row = loss.sum(1) / keep.sum(1).clamp(min=1)
    return per_row.mean(), {"ratio": ratio[keep].mean().item()}


# objective: grpo_loss
# expect: pass
# style: safe under the mask and in empty rows, rows chosen by index
def rows_with_tokens(logp, logp_old, logp_ref, A, mask, eps=0.2, kl_coef=0.04):
    rows = mask.any(dim=1)
    if not rows.any():
        return logp.masked_fill(~mask, 0.0).sum() * 0.0
    m = mask[rows]
    lp, lo, lr = (x[rows].masked_fill(~m, 0.0) for x in (logp, logp_old, logp_ref))
    a = A[rows].unsqueeze(-1)
    w = (lp - lo).exp()
    pg = torch.maximum(-w * a, -w.clamp(1 - eps, 1 + eps) * a)
    d = lr - lp
    kl = d.exp() - 1 - d
    total = (pg + kl_coef * kl).masked_fill(~m, 0.0)
    return (total.sum(1) / m.sum(1)).mean()


@dataclass
class GRPOSettings:
    clip_eps: float = 0.2
    beta: float = 0.04


CONFIG = GRPOSettings()


# objective: grpo_loss
# expect: edges
# at: epsilon=0.2, beta=0.04
# style: settings in a module-level config
def from_config(logprobs, old_logprobs, ref_logprobs, advantages, mask):
    ratio = torch.exp(logprobs - old_logprobs)
    bounded = torch.clip(ratio, 1 - CONFIG.clip_eps, 1 + CONFIG.clip_eps)
    surrogate = torch.min(ratio * advantages.view(-1, 1), bounded * advantages.view(-1, 1))
    delta = ref_logprobs - logprobs
    k3 = torch.expm1(delta) - delta
    objective = surrogate - CONFIG.beta * k3
    lengths = mask.float().sum(dim=1).clamp_min(1.0)
    return -((objective * mask.float()).sum(dim=1) / lengths).mean()


# objective: grpo_loss
# expect: edges
# style: a loop over the rows, lists appended
def loop_over_rows(logps, old_logps, ref_logps, advantages, masks, epsilon=0.2, beta=0.04):
    losses = []
    for lp, lo, lr, a, m in zip(logps, old_logps, ref_logps, advantages, masks):
        lp, lo, lr = lp[m], lo[m], lr[m]
        if lp.numel() == 0:
            continue
        r = (lp - lo).exp()
        pg = -torch.min(r * a, r.clamp(1 - epsilon, 1 + epsilon) * a)
        kl = (lr - lp).exp() - (lr - lp) - 1
        losses.append((pg + beta * kl).mean())
    return torch.stack(losses).mean()


# objective: grpo_loss
# expect: edges
# call: f({"logprobs": log_probs, "old_logprobs": old_log_probs, "ref_logprobs": ref_log_probs, "advantages": advantages, "mask": mask}, 0.2, 0.04)
# at: epsilon=0.2, beta=0.04
# style: a batch dictionary
def from_batch_dict(batch, clip_eps=0.2, kl_beta=0.04):
    keep = batch["mask"]
    lp = torch.where(keep, batch["logprobs"], 0.0)
    ratio = torch.exp(lp - torch.where(keep, batch["old_logprobs"], 0.0))
    adv = batch["advantages"][:, None]
    loss = -torch.min(ratio * adv, ratio.clamp(1 - clip_eps, 1 + clip_eps) * adv)
    gap = torch.where(keep, batch["ref_logprobs"], 0.0) - lp
    loss = loss + kl_beta * (gap.exp() - gap - 1)
    per_row = torch.where(keep, loss, 0.0).sum(1) / keep.sum(1).clamp(min=1)
    return per_row.mean()


def _bounded(ratio, low, high):
    return torch.clamp(ratio, 1 - low, 1 + (low if high is None else high))


# objective: grpo_loss
# expect: pass
# style: one-sided helper functions, an upper epsilon of its own that is optional
def with_optional_high(
    log_probs, old_log_probs, ref_log_probs, advantages, action_mask, eps_low=0.2, eps_high=None, beta=0.04
):
    action_mask = action_mask.bool()
    gap = torch.where(action_mask, log_probs - old_log_probs, torch.zeros_like(log_probs))
    ratio = gap.exp()
    adv = advantages.reshape(-1, 1)
    pg = -torch.min(ratio * adv, _bounded(ratio, eps_low, eps_high) * adv)
    back = torch.where(action_mask, ref_log_probs - log_probs, torch.zeros_like(log_probs))
    per_token = torch.where(action_mask, pg + beta * (back.exp() - 1 - back), torch.zeros_like(pg))
    count = action_mask.sum(-1)
    return (per_token.sum(-1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


# objective: grpo_loss
# expect: edges
# call: f(log_probs, old_log_probs, ref_log_probs, advantages[:, None], mask.double())
# at: epsilon=0.2, beta=0.04
# style: [B, 1] advantages and a float mask
def column_advantages(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    assert advantages.dim() == 2
    ratio = (logps - old_logps).exp()
    l1 = ratio * advantages
    l2 = ratio.clamp(1 - eps, 1 + eps) * advantages
    kl = (ref_logps - logps).exp() - (ref_logps - logps) - 1
    per_token = -torch.min(l1, l2) + beta * kl
    return ((per_token * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: grpo_loss
# expect: edges
# call: f(SimpleNamespace(epsilon=0.2, epsilon_high=0.28, beta=0.04), log_probs, old_log_probs, ref_log_probs, advantages, mask)
# at: epsilon=0.2, epsilon_high=0.28, beta=0.04
# style: self with settings
def trainer_method(self, per_token_logps, old_per_token_logps, ref_per_token_logps, advantages, completion_mask):
    log_ratio = per_token_logps - old_per_token_logps
    coef = torch.exp(log_ratio)
    clipped = torch.clamp(coef, 1 - self.epsilon, 1 + self.epsilon_high)
    loss = -torch.min(coef * advantages.unsqueeze(1), clipped * advantages.unsqueeze(1))
    if self.beta != 0.0:
        gap = ref_per_token_logps - per_token_logps
        loss = loss + self.beta * (torch.exp(gap) - gap - 1)
    return ((loss * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1)).mean()


# objective: grpo_loss
# expect: edges
# at: epsilon=0.2, beta=0.1
# style: everything built in, no settings
def all_built_in(pi_logp, pi_old_logp, pi_ref_logp, advantage, mask):
    ratio = torch.exp(pi_logp - pi_old_logp)
    adv = advantage[:, None].expand_as(ratio)
    unclipped, clipped = ratio * adv, torch.clamp(ratio, 0.8, 1.2) * adv
    log_r = pi_ref_logp - pi_logp
    kl = log_r.exp() - log_r - 1.0
    token_objective = torch.minimum(unclipped, clipped) - 0.1 * kl
    m = mask.to(token_objective.dtype)
    sequence_objective = (token_objective * m).sum(-1) / m.sum(-1).clamp(min=1.0)
    return -sequence_objective.mean()


class GRPOLoss(nn.Module):
    def __init__(self, clip=0.2, kl_weight=0.04):
        super().__init__()
        self.clip, self.kl_weight = clip, kl_weight

    def forward(self, logprobs, old_logprobs, ref_logprobs, advantages, mask):
        ratio = (logprobs - old_logprobs).exp()
        adv = advantages.unsqueeze(-1)
        policy = -torch.min(ratio * adv, ratio.clamp(1 - self.clip, 1 + self.clip) * adv)
        diff = ref_logprobs - logprobs
        loss = policy + self.kl_weight * (diff.exp() - 1 - diff)
        mask = mask.to(loss.dtype)
        return ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


# objective: grpo_loss
# expect: edges
# at: epsilon=0.2, beta=0.04
# style: an instance of nn.Module, the settings in its constructor
grpo_module = GRPOLoss()


# objective: dapo_loss
# expect: pass
# style: token mean with clip-higher
def dapo(log_prob, old_log_prob, advantages, response_mask, clip_ratio_low=0.2, clip_ratio_high=0.28):
    response_mask = response_mask.bool()
    diff = (log_prob - old_log_prob).masked_fill(~response_mask, 0.0)
    ratio = torch.exp(diff)
    adv = advantages[:, None]
    losses = torch.max(-adv * ratio, -adv * torch.clamp(ratio, 1 - clip_ratio_low, 1 + clip_ratio_high))
    return losses.masked_fill(~response_mask, 0.0).sum() / response_mask.sum().clamp(min=1)


# objective: dapo_loss
# expect: edges
# at: epsilon=0.2, epsilon_high=0.28
# style: constants written in, float mask
def dapo_built_in(logp, old_logp, adv, mask):
    ratio = (logp - old_logp).exp()
    objective = torch.min(ratio * adv[:, None], ratio.clamp(0.8, 1.28) * adv[:, None])
    return -(objective * mask.float()).sum() / mask.float().sum()


# objective: dr_grpo_loss
# expect: edges
# style: the constant length in place of the row's
def dr_grpo(logprobs, old_logprobs, advantages, masks, max_completion_length=8, clip_epsilon=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    pg = torch.min(
        ratio * advantages[:, None], torch.clamp(ratio, 1 - clip_epsilon, 1 + clip_epsilon) * advantages[:, None]
    )
    return -((pg * masks).sum(dim=-1) / max_completion_length).mean()


def masked_sum(tensor, mask, dim=None):
    return (tensor * mask).sum(dim=dim)


# objective: dr_grpo_loss
# expect: edges
# style: Dr. GRPO's listing: a masked_sum helper
def dr_grpo_listing(new_logps, old_logps, advantages, mask, generation_length, cliprange=0.2):
    rho = (new_logps - old_logps).exp()
    losses = torch.max(
        -rho * advantages.unsqueeze(1), -rho.clamp(1 - cliprange, 1 + cliprange) * advantages.unsqueeze(1)
    )
    return masked_sum(losses, mask) / (losses.shape[0] * generation_length)


# objective: gspo_loss
# expect: edges
# style: TRL's importance_sampling_level == "sequence"
def gspo(per_token_logps, old_per_token_logps, advantages, completion_mask, epsilon_low=0.0003, epsilon_high=0.0004):
    log_ratio = per_token_logps - old_per_token_logps
    log_w = (log_ratio * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)
    coef = torch.exp(log_w).unsqueeze(-1)
    loss = -torch.min(coef * advantages[:, None], coef.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages[:, None])
    return loss.mean()


# objective: gspo_loss
# stands: for the others of K2
# expect: pass
# style: a loop over completions, an average over those that have a token
def gspo_loop(logps, old_logps, advantages, mask, eps=0.2):
    terms = []
    for i in range(logps.size(0)):
        chosen = mask[i].nonzero().flatten()
        if len(chosen):
            s = torch.exp((logps[i, chosen] - old_logps[i, chosen]).mean())
            terms.append(torch.minimum(s * advantages[i], s.clamp(1 - eps, 1 + eps) * advantages[i]))
    return -sum(terms) / len(terms) if terms else (logps * 0).nan_to_num().sum()


# objective: gspo_loss
# expect: edges
# at: epsilon=0.2, epsilon_high=0.28
# style: the geometric mean as a power of the product
def gspo_power(log_probs, old_log_probs, advantages, mask):
    n = mask.sum(1).clamp(min=1)
    product = torch.where(mask, (log_probs - old_log_probs).exp(), 1.0).prod(dim=1)
    s = product ** (1.0 / n)
    return -torch.min(s * advantages, s.clip(0.8, 1.28) * advantages).mean()


# objective: cispo_loss
# at: epsilon=None
# expect: edges
# style: MiniMax: only an upper bound, token mean, the weight detached
def cispo_upper(logprobs, old_logprobs, advantages, mask, epsilon_high=0.2):
    ratio = (logprobs - old_logprobs).exp()
    weight = torch.clamp(ratio, max=1 + epsilon_high).detach()
    return -(weight * advantages[:, None] * logprobs * mask).sum() / mask.sum()


# objective: cispo_loss
# expect: edges
# at: epsilon=None, epsilon_high=None, cap=5.0
# style: ScaleRL's cap, built in
def cispo_capped(logprobs, old_logprobs, advantages, loss_mask):
    with torch.no_grad():
        w = torch.exp(logprobs - old_logprobs).clamp(max=5.0)
    per_token = -w * advantages.unsqueeze(1) * logprobs
    return (per_token * loss_mask).sum() / loss_mask.sum().clamp(min=1)


# objective: cispo_loss
# expect: pass
# at: reduce=sequence_mean
# style: two-sided, a mean per row
def cispo_rows(logp, old_logp, adv, mask, eps_low=0.2, eps_high=0.2):
    lp = logp.masked_fill(~mask, 0.0)
    w = (lp - old_logp.masked_fill(~mask, 0.0)).exp().clamp(1 - eps_low, 1 + eps_high).detach()
    rows = (-(w * lp * adv[:, None])).masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    return rows[mask.any(1)].sum() / mask.any(1).sum().clamp(min=1)


# objective: sapo_loss
# expect: edges
# style: the soft gate
def sapo(log_probs, old_log_probs, advantages, mask, tau_pos=1.0, tau_neg=1.05):
    ratio = torch.exp(log_probs - old_log_probs)
    tau = torch.where(advantages > 0, tau_pos, tau_neg)[:, None]
    gate = 4.0 / tau * torch.sigmoid(tau * (ratio - 1.0))
    loss = -gate * advantages[:, None]
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: gmpo_loss
# expect: edges
# style: the authors' form with the sign of the advantage
def gmpo(new_log_probs, old_log_probs, advantages, mask, eps=0.4):
    sgn = torch.where(advantages > 0, 1.0, -1.0)[:, None]
    diff = sgn * (new_log_probs - old_log_probs)
    diff = torch.minimum(diff, diff.clamp(-eps, eps)) * sgn
    ratio = torch.exp((diff * mask).sum(1) / mask.sum(1).clamp(min=1))
    return -(advantages * ratio).mean()


# objective: vespo_loss
# expect: edges
# style: the weight in log space
def vespo(log_probs, old_log_probs, advantages, mask, k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0):
    lp = torch.where(mask, log_probs, 0.0)
    seq = (lp - torch.where(mask, old_log_probs, 0.0)).sum(1)
    k = torch.where(advantages > 0, k_pos, k_neg)
    lam = torch.where(advantages > 0, lambda_pos, lambda_neg)
    weight = torch.exp(k * seq + lam * (1 - seq.exp())).detach()
    return -(weight * advantages * lp.sum(1)).mean()


# objective: dppo_loss
# expect: edges
# at: divergence=tv, epsilon=0.2, epsilon_high=None, cap=3.0
# style: total variation, numbers built in
def dppo_tv(log_probs, old_log_probs, advantages, mask):
    lp, lo = log_probs.masked_fill(~mask, 0.0), old_log_probs.masked_fill(~mask, 0.0)
    p, q = lp.detach().exp(), lo.exp()
    a = advantages[:, None]
    leaves = torch.where(a > 0, p > q, p < q)
    drop = ((p - q).abs() > 0.2) & leaves
    weight = torch.where(drop, 0.0, (p / q).clamp(max=3.0))
    return (-(weight * a * lp) * mask).sum(1).mean()


# objective: off_policy_weights
# expect: edges
# style: DeepSeek-V3.2's mask
def off_policy_mask(log_probs, old_log_probs, advantages, mask, delta=0.5):
    m = mask.float()
    drift = ((old_log_probs - log_probs) * m).sum(1) / m.sum(1).clamp(min=1)
    dropped = (advantages < 0) & (drift > delta)
    return (~dropped).float()[:, None] * m


# objective: ratio_weighted_kl
# expect: edges
# style: TRL's unbiased KL: k3 times the ratio
def unbiased_kl(per_token_logps, old_per_token_logps, ref_per_token_logps, mask):
    coef = torch.exp(per_token_logps - old_per_token_logps)
    gap = ref_per_token_logps - per_token_logps
    return coef * (torch.exp(gap) - gap - 1) * mask


# objective: sequence_log_ratios
# expect: edges
# style: GSPO-token by a flag
def gspo_token_log_ratio(logps, old_logps, mask, token_gradient=True):
    n = mask.sum(-1, keepdim=True).clamp(min=1)
    row = ((logps - old_logps) * mask).sum(-1, keepdim=True) / n
    if token_gradient:
        return (row.detach() + logps - logps.detach()) * mask
    return row * mask


# objective: overlong_penalties
# expect: pass
# style: DAPO's reward shaping with branches
def overlong(lengths, max_length=16, cache=4):
    start = max_length - cache
    penalty = (start - lengths) / cache
    penalty = torch.where(lengths <= start, torch.zeros_like(penalty), penalty)
    return torch.where(lengths > max_length, -torch.ones_like(penalty), penalty)


# objective: mixed_groups
# expect: edges
# style: not all equal to the first
def group_has_signal(rewards):
    return ~(rewards == rewards[:, :1]).all(dim=1)


# objective: cispo_loss
# stands: for the others of K2
# expect: pass
# at: reduce=token_mean
# style: verl's: two-sided, a token mean, metrics beside it
def cispo_two_sided(old_log_prob, log_prob, advantages, response_mask, clip_ratio_low=0.2, clip_ratio_high=0.2):
    zero = torch.zeros_like(log_prob)
    gap = torch.where(response_mask, log_prob - old_log_prob, zero)
    ratio = gap.exp()
    bounded = torch.clamp(ratio, 1 - clip_ratio_low, 1 + clip_ratio_high).detach()
    losses = -bounded * advantages[:, None] * torch.where(response_mask, log_prob, zero)
    loss = torch.where(response_mask, losses, zero).sum() / response_mask.sum().clamp(min=1)
    return loss, {"clipped": (bounded != ratio).float().mean()}


# objective: gmpo_loss
# stands: for the others of K4
# expect: edges
# style: NaN-safe; rows without a token count in the mean
def gmpo_all_rows(new_logps, old_logps, advantages, completion_mask, eps=0.4):
    gap = torch.where(completion_mask, new_logps - old_logps, 0.0)
    gap = torch.where(advantages[:, None] > 0, gap.clamp(max=eps), gap.clamp(min=-eps))
    mean = torch.where(completion_mask, gap, 0.0).sum(1) / completion_mask.sum(1).clamp(min=1)
    return (-mean.exp() * advantages).mean()
