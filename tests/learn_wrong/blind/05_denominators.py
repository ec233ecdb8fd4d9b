import torch


# mistake: token_mean by default divides by all places B * T, padding counted, instead of by the True in the mask.
# says: padded_width
def token_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    n = torch.as_tensor(x.numel() if denominator is None else denominator)
    return torch.where(n == 0, 0.0, x.sum() / torch.where(n == 0, 1, n))


# mistake: sequence_mean by default divides by all rows, those without a True included.
# says: empty_rows_counted
def sequence_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    means = x.sum(1) / mask.sum(1).clamp(min=1)
    n = torch.as_tensor(len(means) if denominator is None else denominator)
    return torch.where(n == 0, 0.0, means.sum() / torch.where(n == 0, 1, n))


# mistake: sequence_mean ignores the denominator it is given and always divides by its own rows, so micro-batches do not add up to the batch.
# says: denominator_ignored
def sequence_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(dim=1)
    row_means = x.sum(dim=1) / lengths.clamp(min=1)
    has_tokens = lengths > 0
    return row_means.sum() / has_tokens.sum().clamp(min=1)


# mistake: sequence_mean divides each row's sum by the padded width T instead of by the row's own number of tokens.
# says: padded_width
def sequence_mean(x, mask, *, denominator=None):
    x = torch.where(mask, x, 0.0)
    means = x.mean(dim=1)
    n = torch.as_tensor(mask.any(dim=1).sum() if denominator is None else denominator)
    return torch.where(n == 0, 0.0, means.sum() / torch.where(n == 0, 1, n))


# mistake: token_mean with a denominator divides twice: by its own count of tokens and then by the denominator as well.
# says: divided_by_both
def token_mean(x, mask, *, denominator=None):
    total = torch.where(mask, x, 0.0).sum()
    mean = total / mask.sum().clamp(min=1)
    if denominator is not None:
        n = torch.as_tensor(denominator)
        mean = torch.where(n == 0, 0.0, mean / torch.where(n == 0, 1, n))
    return mean
