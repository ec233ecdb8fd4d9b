import torch


# mistake: The first end token is left out of the completion's mask, so the policy is never trained to stop.
# says: end_masked
def completion_mask(completions, *, eos_id):
    ids = torch.as_tensor(eos_id, device=completions.device).reshape(-1)
    is_eos = torch.isin(completions, ids)
    return is_eos.cumsum(dim=1) == 0


# mistake: next_token_mask drops the last column instead of the first, so the mask is shifted by one against the log-probs.
# says: not_shifted
def next_token_mask(chosen):
    return chosen[:, :-1]


# mistake: In a row without an end token argmax gives 0, so only the first token is kept instead of the whole row.
# says: first_token_without_end
def completion_mask(completions, *, eos_id):
    ids = torch.as_tensor(eos_id, device=completions.device).reshape(-1)
    is_eos = torch.isin(completions, ids)
    first = is_eos.int().argmax(dim=1, keepdim=True)
    positions = torch.arange(completions.shape[1], device=completions.device)
    return positions[None, :] <= first


# mistake: The mask reaches to the last end token instead of the first, so padding that uses the end token's id is counted.
# says: until_last_end
def completion_mask(completions, *, eos_id):
    ids = torch.as_tensor(eos_id, device=completions.device).reshape(-1)
    is_eos = torch.isin(completions, ids)
    T = completions.shape[1]
    positions = torch.arange(T, device=completions.device).expand_as(completions)
    last = torch.where(is_eos, positions, -1).max(dim=1, keepdim=True).values
    last = torch.where(last < 0, T - 1, last)
    return positions <= last


# mistake: next_token_mask asks that both the token before and the token predicted were chosen, so the first token of each completion is lost.
# says: first_token_lost
def next_token_mask(chosen):
    return chosen[:, :-1] & chosen[:, 1:]
