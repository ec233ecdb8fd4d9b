import torch


# mistake: no minus sign
# says: sign
def token_entropies(logits, *, temperature):
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    return (log_p.exp() * log_p).sum(-1)


# mistake: the temperature is forgotten
# says: temperature
def token_entropies(logits, *, temperature):
    p = torch.softmax(logits, dim=-1)
    return -(p * torch.log(p)).sum(-1)


# mistake: a mean over the vocabulary in place of a sum
# says: mean over the vocabulary|divided by V|mean
def token_entropies(logits, *, temperature):
    log_p = torch.log_softmax(logits / temperature, -1)
    return -(log_p.exp() * log_p).mean(-1)


# mistake: the probabilities as weights are missing
# says: weight|probabilit
def token_entropies(logits, *, temperature):
    log_p = torch.log_softmax(logits / temperature, -1)
    return -log_p.sum(-1)


# mistake: one number for the whole batch
# says: \[B T\]
def token_entropies(logits, *, temperature):
    log_p = torch.log_softmax(logits / temperature, -1)
    return -(log_p.exp() * log_p).sum()
