import math

import torch


def _exp(u, top=20.0):
    below = torch.exp(u.clamp(max=top))
    return torch.where(u > top, math.exp(top) * (1 + u - top), below)


# mistake: k3 takes the log-ratio the wrong way round (log pi - log pi_ref), so it does not estimate KL(pi || pi_ref).
# says: reversed_kl
def kl_k3(log_probs, ref_log_probs, mask):
    u = torch.where(mask, log_probs - ref_log_probs.detach(), 0.0)
    return _exp(u) - 1 - u


# mistake: k2 lacks the factor one half.
# says: no_half
def kl_k2(log_probs, ref_log_probs, mask):
    log_ratio = torch.where(mask, log_probs - ref_log_probs.detach(), 0.0)
    return log_ratio.square()


# mistake: k1 has the wrong sign: log pi_ref - log pi.
# says: reversed_kl
def kl_k1(log_probs, ref_log_probs, mask):
    ref = ref_log_probs.detach()
    return torch.where(mask, ref - log_probs, torch.zeros_like(log_probs))


# mistake: k3 clamps u at 20 instead of going on along the tangent, so above it the value stands still and the gradient is 0.
# says: far_log_ratio
def kl_k3(log_probs, ref_log_probs, mask):
    u = torch.where(mask, ref_log_probs.detach() - log_probs, 0.0)
    u = torch.clamp(u, max=20.0)
    return torch.exp(u) - 1 - u


# mistake: The masked entries are multiplied by 0 instead of replaced, so NaN in padding stays NaN.
# says: nan_under_mask
def kl_k2(log_probs, ref_log_probs, mask):
    gap = log_probs - ref_log_probs.detach()
    return 0.5 * gap.pow(2) * mask
