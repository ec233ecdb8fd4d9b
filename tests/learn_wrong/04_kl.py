import torch


# mistake: k1 the other way round
# says: revers|swap|other way|sign
def kl_k1(log_probs, ref_log_probs, mask):
    return torch.where(mask, ref_log_probs - log_probs, 0.0)


# mistake: the half is missing
# says: half
def kl_k2(log_probs, ref_log_probs, mask):
    gap = torch.where(mask, log_probs - ref_log_probs, 0.0)
    return gap**2


# mistake: k3 the other way round
# says: revers|swap|other way
def kl_k3(log_probs, ref_log_probs, mask):
    u = torch.where(mask, log_probs - ref_log_probs, 0.0)
    return torch.exp(u) - 1 - u


# mistake: u is added
# says: added|plus|sign
def kl_k3(log_probs, ref_log_probs, mask):
    u = (ref_log_probs - log_probs) * mask
    return u.exp() - 1 + u


# mistake: the 1 is not taken away
# says: \b1 is|one is|minus 1|- 1|not subtracted
def kl_k3(log_probs, ref_log_probs, mask):
    u = ref_log_probs - log_probs
    return (u.exp() - u) * mask
