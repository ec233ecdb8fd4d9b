import torch
import torch.nn.functional as F


# mistake: The logits at a position score the token at that same position, which the model has just read, instead of the next token: there is no shift.
# says: not_shifted
def next_token_log_probs(logits, tokens, *, temperature):
    logps = torch.log_softmax(logits / temperature, dim=-1)
    picked = torch.gather(logps, 2, tokens.unsqueeze(-1)).squeeze(-1)
    return picked[:, :-1]


# mistake: The shift goes in the wrong direction: the logits of position t + 1 score the token of position t.
# says: shifted_backwards
def next_token_log_probs(logits, tokens, *, temperature):
    logits = logits[:, 1:] / temperature
    targets = tokens[:, :-1]
    logps = logits.log_softmax(-1)
    return logps.gather(-1, targets[..., None])[..., 0]


# mistake: The temperature divides the chosen token's logit but not the logits in the normaliser (the logsumexp), so the result is not a log-probability.
# says: temperature_not_in_the_normaliser
def next_token_log_probs(logits, tokens, *, temperature):
    logits = logits[:, :-1]
    targets = tokens[:, 1:].unsqueeze(-1)
    chosen = torch.gather(logits / temperature, -1, targets).squeeze(-1)
    return chosen - torch.logsumexp(logits, dim=-1)


# mistake: Returns the negative log-likelihood (the cross-entropy): the sign is wrong.
# says: \(negated\)
def next_token_log_probs(logits, tokens, *, temperature):
    scaled = logits[:, :-1, :] / temperature
    targets = tokens[:, 1:]
    B, S, V = scaled.shape
    nll = F.cross_entropy(scaled.reshape(-1, V), targets.reshape(-1), reduction="none")
    return nll.reshape(B, S)


# mistake: The temperature divides the log-probabilities after the softmax instead of the logits before it, so the distribution is not normalised.
# says: temperature_after
def next_token_log_probs(logits, tokens, *, temperature):
    log_probs = torch.log_softmax(logits[:, :-1], dim=-1)
    log_probs = log_probs.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
    return log_probs / temperature
