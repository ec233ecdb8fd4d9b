import torch


# mistake: the logits are not shifted: position t scores its own token
# says: shift
def next_token_log_probs(logits, tokens, *, temperature):
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    return log_p.gather(-1, tokens[..., None]).squeeze(-1)[:, 1:]


# mistake: the temperature is forgotten
# says: temperature
def next_token_log_probs(logits, tokens, *, temperature):
    log_p = torch.log_softmax(logits[:, :-1], dim=-1)
    return log_p.gather(-1, tokens[:, 1:, None]).squeeze(-1)


# mistake: the softmax is taken over the positions
# says: (position|dimension|axis|normalis)
def next_token_log_probs(logits, tokens, *, temperature):
    log_p = torch.log_softmax(logits[:, :-1] / temperature, dim=1)
    return log_p.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)


# mistake: the logit itself, without the log of the sum
# says: (not normalised|raw logit|logit itself|no softmax|nothing was subtracted)
def next_token_log_probs(logits, tokens, *, temperature):
    z = logits[:, :-1] / temperature
    return z.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


# mistake: the temperature divides the log-probs
# says: temperature.*after|after.*temperature|divide
def next_token_log_probs(logits, tokens, *, temperature):
    log_p = logits.log_softmax(-1) / temperature
    out = log_p[:, :-1].gather(-1, tokens[:, 1:, None])
    return out[..., 0]
