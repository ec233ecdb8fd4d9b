import torch


# mistake: The log-ratios are summed over the tokens instead of averaged: 1 / |y| is missing.
# says: \(sum\)
def sequence_log_ratios(log_probs, old_log_probs, mask):
    log_ratio = torch.where(mask, log_probs - old_log_probs.detach(), 0.0)
    seq = log_ratio.sum(dim=1, keepdim=True)
    return torch.where(mask, seq, 0.0)


# mistake: The sum is divided by the padded width instead of by the completion's own number of tokens.
# says: padded_length
def sequence_log_ratios(log_probs, old_log_probs, mask):
    log_ratio = torch.where(mask, log_probs - old_log_probs.detach(), 0.0)
    seq = log_ratio.mean(dim=1, keepdim=True)
    return torch.where(mask, seq.expand_as(log_ratio), 0.0)


# mistake: Returns the ratio s itself instead of its logarithm.
# says: ratio_not_its_log
def sequence_log_ratios(log_probs, old_log_probs, mask):
    log_ratio = torch.where(mask, log_probs - old_log_probs.detach(), 0.0)
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    s = torch.exp(log_ratio.sum(dim=1, keepdim=True) / lengths)
    return torch.where(mask, s.expand_as(log_ratio), 0.0)


# mistake: It takes the log of the arithmetic mean of the tokens' ratios instead of the mean of their log-ratios (the geometric mean).
# says: arithmetic_mean
def sequence_log_ratios(log_probs, old_log_probs, mask):
    log_ratio = torch.where(mask, log_probs - old_log_probs.detach(), 0.0)
    ratio = torch.where(mask, torch.exp(log_ratio), 0.0)
    lengths = mask.sum(dim=1, keepdim=True)
    mean_ratio = ratio.sum(dim=1, keepdim=True) / lengths.clamp(min=1)
    log_s = torch.log(torch.where(lengths > 0, mean_ratio, 1.0))
    return torch.where(mask, log_s, 0.0)


# mistake: The sequence's log-ratio is detached and each token's own gradient is put back (GSPO-token), so the gradient is not that of the mean.
# says: GSPO-token
def sequence_log_ratios(log_probs, old_log_probs, mask):
    log_ratio = torch.where(mask, log_probs - old_log_probs.detach(), 0.0)
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    log_s = log_ratio.sum(1, keepdim=True) / lengths
    log_s = log_ratio - log_ratio.detach() + log_s.detach()
    return torch.where(mask, log_s, 0.0)
