import torch


# mistake: the end token itself is masked
# says: end
def completion_mask(completions, *, eos_id):
    ids = torch.tensor([eos_id] if isinstance(eos_id, int) else eos_id)
    ends = torch.isin(completions, ids)
    return ends.cumsum(1) == 0


# mistake: only the end tokens are masked, what follows them is not
# says: (every|each|all).*end
def completion_mask(completions, *, eos_id):
    ids = torch.tensor([eos_id] if isinstance(eos_id, int) else list(eos_id))
    return ~torch.isin(completions, ids)


# mistake: only the first of several end ids ends a completion
# says: first (end )?id|only the first
def completion_mask(completions, *, eos_id):
    if not isinstance(eos_id, int):
        eos_id = eos_id[0]
    is_end = completions == eos_id
    seen = is_end.cumsum(dim=1) - is_end.long()
    return seen == 0


# mistake: up to the second end token
# says: second end
def completion_mask(completions, *, eos_id):
    ids = torch.as_tensor(eos_id).reshape(-1)
    is_end = torch.isin(completions, ids)
    return is_end.cumsum(1) <= 1


# mistake: the mask is not shifted: the last column is cut in place of the first
# says: shift
def next_token_mask(chosen):
    return chosen[:, :-1]
