import math

import torch


# mistake: A token with logit -inf gives 0 * -inf = NaN instead of adding exactly 0.
# says: minus_inf_logits
def token_entropies(logits, *, temperature):
    log_pi = torch.log_softmax(logits / temperature, dim=-1)
    pi = log_pi.exp()
    return -(pi * log_pi).sum(dim=-1)


# mistake: The probabilities are taken without the temperature and only the logs with it: that is a cross-entropy of two distributions.
# says: temperature_not_in_the_weights
def token_entropies(logits, *, temperature):
    probs = torch.softmax(logits, dim=-1)
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    log_probs = log_probs.masked_fill(logits == float("-inf"), 0.0)
    return -(probs * log_probs).sum(-1)


# mistake: The terms are averaged over the vocabulary instead of summed, so the entropy is V times too small.
# says: mean_over_vocabulary
def token_entropies(logits, *, temperature):
    logp = torch.log_softmax(logits / temperature, -1)
    p = logp.exp()
    plogp = p * torch.where(torch.isinf(logp), torch.zeros_like(logp), logp)
    return -plogp.mean(-1)


# mistake: The probabilities are detached, so the gradient flows only through the log (where it adds up to zero).
# says: detached
def token_entropies(logits, *, temperature):
    logits = logits / temperature
    with torch.no_grad():
        p = torch.softmax(logits, dim=-1)
    logp = torch.log_softmax(logits, dim=-1)
    logp = logp.masked_fill(torch.isneginf(logits), 0.0)
    return -torch.sum(p * logp, dim=-1)


# mistake: The entropy is divided by log V, so it lies between 0 and 1 instead of being in nats.
# says: \(normalised\)
def token_entropies(logits, *, temperature):
    logp = torch.log_softmax(logits / temperature, dim=-1)
    p = logp.exp()
    entropy = -(p * logp.masked_fill(p == 0, 0.0)).sum(dim=-1)
    return entropy / math.log(logits.shape[-1])
