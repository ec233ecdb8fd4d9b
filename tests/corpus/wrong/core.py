"""KL, log-probs, masks, means, advantages and distillation with one mistake each, as people make them."""

import torch
import torch.nn.functional as F


# objective: kl_k1
# kind: sign
# expect: caught as reversed
# named: (?i)revers|swap|exchang|sign|changed places
def k1_reversed(logprobs, ref_logprobs, mask):
    return torch.where(mask, ref_logprobs - logprobs, 0.0)


# objective: kl_k1
# kind: variant
# expect: caught as its absolute value
# named: (?i)abs|magnitude
def k1_abs(logprobs, ref_logprobs, mask):
    return torch.where(mask, (logprobs - ref_logprobs).abs(), 0.0)


# objective: kl_k2
# kind: factor
# expect: caught as without its half
# named: (?i)half|factor|twice|1/2|0\.5|doubl|mse
def k2_no_half(logprobs, ref_logprobs, mask):
    return torch.where(mask, (logprobs - ref_logprobs) ** 2, 0.0)


# objective: kl_k3
# kind: C32
# expect: caught as reversed
# named: (?i)revers|swap|exchang|changed places
def k3_reversed(logps, ref_logps, mask):
    d = torch.where(mask, logps - ref_logps, 0.0)
    return d.exp() - 1 - d


# objective: kl_k3
# kind: sign
# expect: caught as the log-ratio added
# named: (?i)sign|plus|added|log.?ratio
def k3_plus_log(logps, ref_logps, mask):
    d = torch.where(mask, ref_logps - logps, 0.0)
    return d.exp() - 1 + d


# objective: kl_k3
# stands: for the others of K1
# kind: K1
# expect: caught as without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
@torch.no_grad()
def k3_no_grad(logps, ref_logps, mask):
    d = torch.where(mask, ref_logps - logps, 0.0)
    return d.exp() - 1 - d


# objective: kl_k3
# kind: R06
# expect: caught as the value clamped
# named: (?i)clamp|clip|bound|cap
def k3_clamped(logps, ref_logps, mask):
    d = torch.where(mask, ref_logps - logps, 0.0)
    return torch.clamp(d.exp() - 1 - d, max=0.5)


# objective: kl_k3
# kind: variant
# expect: caught as k2
# named: (?i)\bk2|kl_k2|k2_
def k3_is_k2(logps, ref_logps, mask):
    return 0.5 * torch.where(mask, logps - ref_logps, 0.0) ** 2


# objective: kl_k3_with_k2_gradient
# kind: K1
# expect: caught as k3's own gradient
# named: (?i)k3|gradient|detach
def k3_plain(logps, ref_logps, mask):
    d = torch.where(mask, ref_logps - logps, 0.0)
    return d.exp() - 1 - d


# objective: kl_exact
# kind: K9
# expect: caught as the other direction
# named: (?i)revers|swap|exchang|direction|forward|changed places
def kl_div_arguments(policy_logits, ref_logits, temperature=1.0):
    p, q = (policy_logits / temperature).log_softmax(-1), (ref_logits / temperature).log_softmax(-1)
    return F.kl_div(p, q, log_target=True, reduction="none").sum(-1)


# objective: kl_exact
# kind: softmax dim
# expect: caught as the softmax over the positions
# named: (?i)dim|axis|position
def softmax_over_time(policy_logits, ref_logits, temperature=1.0):
    p, q = (policy_logits / temperature).log_softmax(1), (ref_logits / temperature).log_softmax(1)
    return (p.exp() * (p - q)).sum(-1)


# objective: kl_exact
# kind: K9
# expect: caught as the temperature on one side
# named: (?i)temperature
def temperature_once(policy_logits, ref_logits, temperature=1.0):
    p, q = (policy_logits / temperature).log_softmax(-1), ref_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


# objective: kl_exact
# kind: K6
# expect: caught as a mean over the vocabulary
# named: (?i)mean|vocab|divid|sum|V\b
def mean_over_vocabulary(policy_logits, ref_logits, temperature=1.0):
    p, q = (policy_logits / temperature).log_softmax(-1), (ref_logits / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).mean(-1)


# objective: group_advantages
# kind: C39
# expect: caught as the precedence of the division
# named: (?i)preceden|order|mean|parenthes|divi
def precedence(rewards, eps=1e-6):
    return rewards - rewards.mean(1, keepdim=True) / (rewards.std(1, keepdim=True) + eps)


# objective: group_advantages
# kind: C41
# expect: caught as statistics over the batch
# named: (?i)batch|all (rewards|groups|samples|prompts)|global
def over_the_batch(rewards, eps=1e-6):
    return (rewards - rewards.mean()) / (rewards.std() + eps)


# objective: group_advantages
# kind: batch
# expect: caught as the batch's deviation
# named: (?i)batch|global|all (rewards|groups|samples|prompts)
def batch_deviation(rewards, eps=1e-6):
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + eps)


# objective: group_advantages
# kind: wrong dim
# expect: caught as columns in place of rows
# named: (?i)column|axis|dim|transpos|samples? of (other|different)
def by_columns(rewards, eps=1e-6):
    return (rewards - rewards.mean(0, keepdim=True)) / (rewards.std(0, keepdim=True) + eps)


# objective: group_advantages
# kind: forgotten root
# expect: caught as divided by the variance
# named: (?i)varianc|squared|root
def by_variance(rewards, eps=1e-6):
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.var(1, keepdim=True) + eps)


# objective: group_advantages
# kind: sign
# expect: caught as the sign
# named: (?i)sign|negat|exchang|swap|minus|revers
def mean_less_reward(rewards, eps=1e-6):
    return (rewards.mean(1, keepdim=True) - rewards) / (rewards.std(1, keepdim=True) + eps)


# objective: group_advantages
# kind: variant
# expect: caught as the median
# named: (?i)median
def by_median(rewards, eps=1e-6):
    return (rewards - rewards.median(1, keepdim=True).values) / (rewards.std(1, keepdim=True) + eps)


# objective: group_advantages
# kind: C40
# expect: caught as the flag inverted
# named: (?i)invert|opposite|divide_by_std|flag|other way
def flag_inverted(rewards, scale_rewards=True, eps=1e-6):
    centred = rewards - rewards.mean(1, keepdim=True)
    if not scale_rewards:
        return centred / (rewards.std(1, keepdim=True) + eps)
    return centred


# objective: group_advantages
# kind: forgotten term
# expect: caught as the mean not subtracted
# named: (?i)mean|baseline|centr|subtract
def not_centred(rewards, eps=1e-6):
    return rewards / (rewards.std(1, keepdim=True) + eps)


# objective: group_advantages
# kind: variant
# expect: caught as min-max scaling
# named: (?i)min.?max|range|minimum
def min_max(rewards, eps=1e-6):
    lo, hi = rewards.amin(1, keepdim=True), rewards.amax(1, keepdim=True)
    return (rewards - lo) / (hi - lo + eps)


# objective: group_advantages
# kind: K7
# expect: caught as leave-one-out with a deviation
# named: (?i)leave.?one.?out|loo|sibling
def loo_scaled(rewards, eps=1e-6):
    n = rewards.shape[1]
    base = (rewards.sum(1, keepdim=True) - rewards) / (n - 1)
    return (rewards - base) / (rewards.std(1, keepdim=True) + eps)


# objective: group_advantages
# kind: K7
# expect: caught as group, then batch
# named: (?i)batch|whiten|twice|again
def group_then_batch(rewards, eps=1e-6):
    a = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + eps)
    return (a - a.mean()) / (a.std() + eps)


# objective: group_advantages
# kind: K8
# expect: caught as leave-one-out
# named: (?i)leave.?one.?out|loo|sibling|rloo
def rloo_called_grpo(rewards):
    n = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (n - 1)


# objective: leave_one_out_advantages
# kind: off-by-one
# expect: caught as divided by n
# named: (?i)\bn\b|own|self|count|divid|group.?mean|siblings
def divided_by_n(rewards):
    n = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / n


# objective: leave_one_out_advantages
# kind: K8
# expect: caught as the group's mean
# named: (?i)group|own|self|mean
def own_included(rewards):
    return rewards - rewards.mean(1, keepdim=True)


# objective: leave_one_out_advantages
# kind: wrong dim
# expect: caught as the other prompts' mean
# named: (?i)column|axis|dim|transpos|prompt
def loo_columns(rewards):
    n = rewards.shape[0]
    return rewards - (rewards.sum(0, keepdim=True) - rewards) / max(n - 1, 1)


# objective: greedy_advantages
# kind: K9
# expect: caught as another prompt's greedy reward
# named: (?i)row|roll|other|broadcast|prompt|mean
def greedy_mean(rewards, greedy_rewards):
    return rewards - greedy_rewards.mean()


# objective: length_weighted_advantages
# kind: K9
# expect: caught as the plain mean
# named: (?i)length|plain|unweighted|mean|ignor
def lengths_ignored(rewards, lengths):
    return rewards - rewards.mean(1, keepdim=True)


# objective: max_likelihood_advantages
# kind: forgotten term
# expect: caught as the mean not subtracted
# named: (?i)mean|subtract|centr|baseline
def maxrl_uncentred(rewards):
    mean = rewards.mean(1, keepdim=True)
    return torch.where(mean > 0, rewards / mean, 0.0)


# objective: gpg_advantages
# kind: variant
# expect: caught as alpha left out
# named: (?i)alpha|scale
def gpg_no_alpha(rewards):
    return rewards - rewards.mean(1, keepdim=True)


# objective: token_log_probs
# kind: softmax dim
# expect: caught as the softmax over the positions
# named: (?i)dim|axis|position
def logps_over_time(logits, labels, temperature=1.0):
    return (logits / temperature).log_softmax(1).gather(2, labels[..., None])[..., 0]


# objective: token_log_probs
# kind: C56
# expect: caught as the temperature left out
# named: (?i)temperature
def temperature_left_out(logits, labels, temperature=1.0):
    return logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]


# objective: token_log_probs
# kind: K9
# expect: caught as multiplied by the temperature
# named: (?i)temperature
def temperature_times(logits, labels, temperature=1.0):
    return (logits * temperature).log_softmax(-1).gather(2, labels[..., None])[..., 0]


# objective: token_log_probs
# kind: forgotten log
# expect: caught as the probability
# named: (?i)log|probabilit|exp
def probabilities(logits, labels, temperature=1.0):
    return (logits / temperature).softmax(-1).gather(2, labels[..., None])[..., 0]


# objective: token_log_probs
# kind: forgotten norm
# expect: caught as the raw logit
# named: (?i)normal|logsumexp|softmax|raw|logit
def raw_logit(logits, labels, temperature=1.0):
    return (logits / temperature).gather(2, labels[..., None])[..., 0]


# objective: next_token_log_probs
# kind: C54
# expect: caught as not shifted
# named: (?i)shift|off.by.one|align|own token|same position
def not_shifted(logits, input_ids, temperature=1.0):
    logp = F.log_softmax(logits / temperature, dim=-1)
    return logp.gather(-1, input_ids[..., None])[:, :-1, 0]


# objective: next_token_log_probs
# kind: C54
# expect: caught as shifted the wrong way
# named: (?i)shift|off.by.one|align|previous|wrong way|before
def shifted_backwards(logits, input_ids, temperature=1.0):
    logp = F.log_softmax(logits[:, 1:] / temperature, dim=-1)
    return logp.gather(-1, input_ids[:, :-1, None])[..., 0]


# objective: next_token_mask
# kind: C54
# expect: caught as the last column dropped
# named: (?i)shift|off.by.one|align|last|column
def mask_not_shifted(chosen):
    return chosen[:, :-1]


# objective: token_entropies
# kind: sign
# expect: caught as the sign
# named: (?i)sign|negat|minus
def negative_entropy(logits, temperature=1.0):
    p = (logits / temperature).softmax(-1)
    return (p * (logits / temperature).log_softmax(-1)).sum(-1)


# objective: token_entropies
# kind: log base
# expect: caught as bits
# named: (?i)bit|base|log2|0\.69|1\.44
def bits(logits, temperature=1.0):
    p = (logits / temperature).softmax(-1)
    return -(p * torch.log2(p)).sum(-1)


# objective: completion_mask
# kind: R14
# expect: caught as the end token lost
# named: (?i)end|eos|last
def eos_lost(completion_ids, eos_token_id):
    ends = torch.isin(completion_ids, torch.as_tensor(eos_token_id))
    return ends.int().cumsum(1) == 0


# objective: completion_mask
# kind: C58
# expect: caught as only the end tokens masked
# named: (?i)after|end|eos|pad
def only_pads_masked(completion_ids, eos_token_id):
    return ~torch.isin(completion_ids, torch.as_tensor(eos_token_id))


# objective: completion_mask
# stands: for the others of K11
# kind: K11
# expect: caught as the first of several end ids
# named: (?i)first|one of|several|end id
def first_id_only(completion_ids, eos_token_ids):
    eos = eos_token_ids[0] if isinstance(eos_token_ids, (list, tuple)) else eos_token_ids
    hit = (completion_ids == eos).int()
    return (hit.cumsum(1) - hit) == 0


# objective: completion_mask
# kind: K11
# expect: caught as the last of several end ids
# named: (?i)last|one of|several|end id|first
def last_id_only(completion_ids, eos_token_ids):
    ids = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids)
    for eos in ids:
        hit = (completion_ids == eos).int()
    return (hit.cumsum(1) - hit) == 0


# objective: token_mean
# kind: mask
# expect: caught as padding counted
# named: (?i)padding|unmasked|numel|width|count
def mean_with_padding(x, mask):
    return (x * mask).mean()


# objective: sequence_mean
# kind: C01
# expect: caught as the token mean
# named: (?i)token_mean|token
def token_mean_instead(x, mask):
    return (x * mask).sum() / mask.sum()


# objective: sequence_sum
# kind: K6
# expect: caught as a sum over everything
# named: (?i)sum|rows|times|batch|number
def sum_of_all(x, mask):
    return (x * mask).sum()


# objective: fixed_length_mean
# kind: C08
# expect: caught as the batch's width
# named: (?i)width|padded|length
def width_for_length(x, mask, max_length):
    return ((x * mask).sum(1) / x.shape[1]).mean()


# objective: teacher_advantages
# kind: sign
# expect: caught as the sign
# named: (?i)sign|revers|swap|exchang|changed places|wrong way
def away_from_teacher(student_logprobs, teacher_logprobs, mask, gamma=0.0):
    d = torch.where(mask, student_logprobs - teacher_logprobs, 0.0)
    run, out = torch.zeros_like(d[:, 0]), torch.zeros_like(d)
    for t in reversed(range(d.shape[1])):
        run = torch.where(mask[:, t], d[:, t] + gamma * run, run)
        out[:, t] = torch.where(mask[:, t], run, 0.0)
    return out.detach()


# objective: distill_loss
# at: gamma=0.0
# kind: K1
# expect: caught as the advantage not detached
# named: (?i)detach|gradient
def opd_not_detached(student_logprobs, teacher_logprobs, mask):
    adv = teacher_logprobs - student_logprobs
    return -(adv * student_logprobs * mask).sum() / mask.sum()


# objective: distill_loss
# at: gamma=0.0
# kind: K8
# expect: caught as k1 in the loss
# named: (?i)\bk1|kl_k1|k1_|log.?ratio|advantage
def opd_k1(student_logprobs, teacher_logprobs, mask):
    return ((student_logprobs - teacher_logprobs.detach()) * mask).sum() / mask.sum()


# objective: jsd_exact
# kind: K9
# expect: caught as beta and 1 - beta exchanged
# named: (?i)exchang|swap|1 ?- ?beta|revers|changed places|complement
def jsd_weights_swapped(student_logits, teacher_logits, beta=0.5, temperature=1.0):
    s, t = (student_logits / temperature).softmax(-1), (teacher_logits / temperature).softmax(-1).detach()
    m = beta * t + (1 - beta) * s
    return (1 - beta) * (t * (t / m).log()).sum(-1) + beta * (s * (s / m).log()).sum(-1)


# objective: jsd_loss
# at: beta=0.0
# kind: factor
# expect: caught as multiplied by the temperature squared
# named: (?i)temperature|T\^?2|squared
def hinton_scaled(student_logits, teacher_logits, mask, temperature=1.0):
    s, t = (student_logits / temperature).log_softmax(-1), (teacher_logits / temperature).log_softmax(-1).detach()
    kl = (t.exp() * (t - s)).sum(-1) * temperature**2
    return (kl * mask).sum() / mask.sum()


# objective: log_sum_squares
# kind: forgotten square
# expect: caught as the sum of the probabilities' logs
# named: (?i)squar|sum|twice|half
def log_sum(logits, temperature=1.0):
    return torch.logsumexp((logits / temperature).log_softmax(-1) * 1.0, -1).detach() * 2


# objective: wpo_weights
# kind: K6
# expect: caught as the product of the tokens
# named: (?i)sum|product|mean|length
def weights_of_products(logps, log_normalisers, mask):
    return ((logps - log_normalisers) * mask).sum(1).exp().detach()


# objective: linear_recurrence
# kind: direction
# expect: caught as running from the left
# named: (?i)left|forward|direction|flip|revers|order
def from_the_left(inputs, decays):
    out, run = [], torch.zeros_like(inputs[:, 0])
    for t in range(inputs.shape[1]):
        run = inputs[:, t] + decays[:, t] * run
        out.append(run)
    return torch.stack(out, 1)


# objective: mixed_groups
# kind: inverted
# expect: caught as inverted
# named: (?i)invert|negat|opposite|not
def tied_groups(rewards):
    return rewards.max(1).values == rewards.min(1).values


# objective: optimal_token_advantages
# kind: forgotten step
# expect: caught as the energies not summed
# named: (?i)cumul|sum|energ|so far|accumul
def energies_not_summed(returns, energies, mask, group_size=2):
    w = (energies * mask).view(-1, group_size, energies.shape[1])
    g = (returns * mask).view_as(w)
    base = (w * g).sum(1, keepdim=True) / w.sum(1, keepdim=True).clamp(min=1e-12)
    return ((g - base).view_as(returns)) * mask


# objective: group_advantages
# stands: for the others of K10
# kind: K10
# expect: caught as the unscored in the group's mean and deviation
# named: (?i)scored
def unscored_counted(rewards, valid_mask, eps=1e-4):
    centre, spread = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    out = (rewards - centre) / (spread + eps)
    out = torch.where(rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True), 0.0, out)
    return out.masked_fill(~valid_mask, 0.0)
