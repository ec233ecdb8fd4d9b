import torch


# mistake: the sum in place of the mean
# says: sum
def sequence_log_ratios(log_probs, old_log_probs, mask):
    ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    mean = ratio.sum(1, keepdim=True)
    return mean * mask


# mistake: the mean over the padded width
# says: padd|width
def sequence_log_ratios(log_probs, old_log_probs, mask):
    ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    mean = ratio.mean(1, keepdim=True)
    return mean * mask


# mistake: old less new
# says: invert|other way|swap|old|sign
def sequence_log_ratios(log_probs, old_log_probs, mask):
    ratio = torch.where(mask, old_log_probs - log_probs, 0.0)
    mean = ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return mean * mask


# mistake: the log of the mean of the ratios
# says: arithmetic|mean of the ratios
def sequence_log_ratios(log_probs, old_log_probs, mask):
    ratio = torch.exp(torch.where(mask, log_probs - old_log_probs, 0.0)) * mask
    mean = ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return torch.log(mean) * mask


# mistake: the log-ratio of each token
# says: token
def sequence_log_ratios(log_probs, old_log_probs, mask):
    return torch.where(mask, log_probs - old_log_probs, 0.0)
