"""KL, log-probs, masks, means, group advantages, distillation, right, as people write them."""

import torch
import torch.nn.functional as F


# objective: kl_k1
# expect: edges
# style: a difference
def k1(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs) * mask


# objective: kl_k2
# expect: pass
# style: masked_fill, a square
def k2(logp, ref_logp, mask):
    return 0.5 * (logp - ref_logp).masked_fill(~mask, 0.0).square()


# objective: kl_k3
# expect: edges
# style: TRL's line
def k3_trl(per_token_logps, ref_per_token_logps, completion_mask):
    return (
        torch.exp(ref_per_token_logps - per_token_logps) - (ref_per_token_logps - per_token_logps) - 1
    ) * completion_mask


# objective: kl_k3
# expect: pass
# style: expm1, selected first
def k3_expm1(log_prob, ref_log_prob, mask):
    gap = torch.where(mask, ref_log_prob - log_prob, torch.zeros_like(log_prob))
    return torch.expm1(gap) - gap


# objective: kl_k3
# expect: edges
# style: by the ratio r and (r - 1) - log r, no mask
def k3_ratio(logprobs, ref_logprobs):
    ratio = torch.exp(ref_logprobs - logprobs)
    return (ratio - 1) - ratio.log()


# objective: kl_exact
# expect: edges
# style: log-softmax of both
def full_kl(logits, ref_logits, temperature=1.0):
    logp = F.log_softmax(logits / temperature, dim=-1)
    logq = F.log_softmax(ref_logits / temperature, dim=-1)
    return (logp.exp() * (logp - logq)).sum(-1)


# objective: kl_exact
# expect: edges
# at: temperature=1.0
# style: F.kl_div with its arguments in its own order
def full_kl_torch(policy_logits, ref_logits):
    logp, logq = policy_logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return F.kl_div(logq, logp, log_target=True, reduction="none").sum(-1)


# objective: kl_k3_with_k2_gradient
# expect: pass
# style: straight through
def k3_plus(logp, ref_logp, mask):
    d = torch.where(mask, ref_logp - logp, 0.0)
    k2, k3 = 0.5 * d**2, d.exp() - 1 - d
    return k2 + (k3 - k2).detach()


# objective: group_advantages
# expect: edges
# style: TRL's, flat rewards and a group size
# call: f(rewards.flatten(), rewards.shape[1]).view_as(rewards)
# at: divide_by_std=True, correction=1, eps=1e-4
def trl_advantages(rewards, num_generations):
    mean_grouped = rewards.view(-1, num_generations).mean(dim=1).repeat_interleave(num_generations, dim=0)
    std_grouped = rewards.view(-1, num_generations).std(dim=1).repeat_interleave(num_generations, dim=0)
    return (rewards - mean_grouped) / (std_grouped + 1e-4)


# objective: group_advantages
# expect: edges
# at: divide_by_std=True, correction=0, eps=1e-8
# style: population deviation
def population(rewards):
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=1, keepdim=True).sqrt() + 1e-8)


# objective: group_advantages
# expect: edges
# at: divide_by_std=False, correction=1, eps=0.0
# style: Dr. GRPO: the mean alone
def centred(rewards):
    return rewards - rewards.mean(-1, keepdim=True)


# objective: group_advantages
# stands: for the others of K3
# expect: edges
# style: a flag for the deviation
def flagged(rewards, scale=True, eps=1e-6):
    out = rewards - rewards.mean(1, keepdim=True)
    if scale:
        out = out / (rewards.std(1, keepdim=True) + eps)
    return out


# objective: group_advantages
# expect: edges
# call: f(rewards.flatten(), torch.arange(rewards.shape[0]).repeat_interleave(rewards.shape[1])).view_as(rewards)
# at: divide_by_std=True, correction=1, eps=1e-6
# style: verl's index: scores gathered by prompt in a dictionary
def verl_index(scores, index):
    by_prompt = {}
    for i, s in zip(index.tolist(), scores):
        by_prompt.setdefault(i, []).append(s)
    out = torch.zeros_like(scores)
    for n, i in enumerate(index.tolist()):
        group = torch.stack(by_prompt[i])
        out[n] = (scores[n] - group.mean()) / (group.std() + 1e-6)
    return out


# objective: group_advantages
# expect: pass
# at: divide_by_std=True, correction=1, eps=1e-4
# style: ties set to 0, the unscored left out
def careful(rewards, scored):
    out = torch.zeros_like(rewards)
    for p in range(rewards.shape[0]):
        r = rewards[p][scored[p]]
        if len(r) > 1 and bool((r != r[0]).any()):
            out[p][scored[p]] = (r - r.mean()) / (r.std() + 1e-4)
    return out


# objective: leave_one_out_advantages
# expect: edges
# style: total less own
def rloo(rewards):
    n = rewards.shape[1]
    baseline = (rewards.sum(1, keepdim=True) - rewards) / (n - 1)
    return rewards - baseline


# objective: leave_one_out_advantages
# expect: edges
# style: a loop over the siblings
def rloo_loop(rewards):
    out = torch.empty_like(rewards)
    for p in range(rewards.size(0)):
        for i in range(rewards.size(1)):
            others = torch.cat([rewards[p, :i], rewards[p, i + 1 :]])
            out[p, i] = rewards[p, i] - others.mean()
    return out


# objective: greedy_advantages
# expect: pass
# style: ReMax
def remax(rewards, greedy_rewards):
    return rewards - greedy_rewards[:, None]


# objective: length_weighted_advantages
# expect: edges
# style: OPO
def opo(rewards, lengths):
    w = lengths / lengths.sum(1, keepdim=True)
    return rewards - (w * rewards).sum(1, keepdim=True)


# objective: max_likelihood_advantages
# expect: edges
# at: eps=0.0
# style: MaxRL with where
def maxrl(rewards):
    mean = rewards.mean(1, keepdim=True)
    return torch.where(mean > 0, (rewards - mean) / mean, 0.0)


# objective: gpg_advantages
# expect: edges
# style: alpha counted over the batch's groups
def gpg(rewards):
    tied = (rewards.max(1).values == rewards.min(1).values).sum()
    alpha = rewards.shape[0] / (rewards.shape[0] - tied)
    return alpha * (rewards - rewards.mean(1, keepdim=True))


# objective: token_log_probs
# expect: pass
# style: log_softmax and gather
def gather_logps(logits, labels, temperature=1.0):
    return torch.gather((logits / temperature).log_softmax(-1), 2, labels.unsqueeze(2)).squeeze(2)


# objective: token_log_probs
# expect: pass
# style: cross-entropy with its axes moved
def by_cross_entropy(logits, targets, temperature=1.0):
    return -F.cross_entropy((logits / temperature).transpose(1, 2), targets, reduction="none")


# objective: token_log_probs
# expect: pass
# at: temperature=1.0
# style: selected logit less logsumexp
def selective(logits, index):
    return torch.gather(logits, -1, index[..., None]).squeeze(-1) - torch.logsumexp(logits, dim=-1)


# objective: next_token_log_probs
# expect: pass
# style: shifted here
def shifted_logps(logits, input_ids, temperature=1.0):
    logp = F.log_softmax(logits[:, :-1, :] / temperature, dim=-1)
    return logp.gather(-1, input_ids[:, 1:, None])[..., 0]


# objective: token_entropies
# expect: edges
# style: verl's: logsumexp less the mean logit
def entropy_from_logits(logits, temperature=1.0):
    logits = logits / temperature
    pd = torch.softmax(logits, dim=-1)
    return torch.logsumexp(logits, dim=-1) - torch.sum(pd * logits, dim=-1)


# objective: completion_mask
# expect: pass
# style: a count of the ends before; a list of ids by isin
def until_eos(completion_ids, eos_token_id):
    ends = torch.isin(completion_ids, torch.as_tensor(eos_token_id)).int()
    return (ends.cumsum(1) - ends) == 0


# objective: completion_mask
# expect: pass
# call: f(completions, [0])
# at: eos_id=0
# style: a loop with a break
def eos_loop(completion_ids, eos_ids):
    mask = torch.zeros_like(completion_ids, dtype=torch.bool)
    ids = {eos_ids} if isinstance(eos_ids, int) else set(eos_ids)
    for b, row in enumerate(completion_ids.tolist()):
        for t, token in enumerate(row):
            mask[b, t] = True
            if token in ids:
                break
    return mask


# objective: token_mean
# expect: edges
# style: a masked mean
def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum()


# objective: sequence_mean
# expect: edges
# style: a mean of row means
def row_mean(loss, mask):
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# objective: sequence_sum
# expect: edges
# style: sums of rows
def row_sum(loss, mask):
    return (loss * mask).sum(-1).mean(0)


# objective: teacher_advantages
# expect: edges
# at: gamma=0.0
# style: tinker's: the negative reverse KL of each token
def reverse_kl_advantage(student_logprobs, teacher_logprobs, mask):
    return ((teacher_logprobs - student_logprobs) * mask).detach()


# objective: distill_loss
# expect: edges
# at: gamma=0.0, reduce=token_mean
# style: the surrogate in one function
def opd_loss(student_logprobs, teacher_logprobs, mask):
    with torch.no_grad():
        adv = teacher_logprobs - student_logprobs
    return -(adv * student_logprobs * mask).sum() / mask.sum()


# objective: jsd_exact
# expect: edges
# style: TRL's GKD: kl_div to a mixture by logsumexp
def gkd(student_logits, teacher_logits, beta=0.5, temperature=1.0):
    s = F.log_softmax(student_logits / temperature, dim=-1)
    t = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(s, t, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(t, s, reduction="none", log_target=True).sum(-1)
    b = torch.tensor(beta, dtype=s.dtype)
    m = torch.logsumexp(torch.stack([s + torch.log1p(-b), t + torch.log(b)]), dim=0)
    return (
        beta * F.kl_div(m, t, reduction="none", log_target=True)
        + (1 - beta) * F.kl_div(m, s, reduction="none", log_target=True)
    ).sum(-1)


# objective: jsd_loss
# expect: edges
# at: beta=1.0, temperature=1.0, reduce=token_mean
# style: reverse KL alone
def reverse_kl_loss(student_logits, teacher_logits, mask):
    p = student_logits.softmax(-1)
    kl = (p * (student_logits.log_softmax(-1) - teacher_logits.log_softmax(-1).detach())).sum(-1)
    return (kl * mask).sum() / mask.sum()


# objective: jsd_loss
# expect: edges
# at: beta=0.0, temperature=1.0, reduce=token_mean
# style: forward KL alone
def forward_kl_loss(student_logits, teacher_logits, mask):
    q = teacher_logits.softmax(-1).detach()
    kl = (q * (teacher_logits.log_softmax(-1).detach() - student_logits.log_softmax(-1))).sum(-1)
    return (kl * mask).sum() / mask.sum()
