import torch


# mistake: the padded width in place of the constant
# says: width
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return (x.sum(1) / x.shape[1]).sum() / rows


# mistake: each row by its own length
# says: own|mean in each|sequence|row
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return (x.sum(1) / lengths.clamp(min=1)).sum() / rows


# mistake: not divided by the number of rows
# says: rows|summed|sum
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    return (x.sum(1) / length).sum()


# mistake: divided by the length, and by the tokens
# says: mean length
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return x.sum() / length / mask.sum().clamp(min=1)


# mistake: the length is left out
# says: sum in each row
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return x.sum(1).sum() / rows
