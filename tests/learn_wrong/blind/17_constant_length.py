import torch


# mistake: The padded width of the batch is used in place of the constant length.
# says: padded_width
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return (x.sum(1) / x.shape[1]).sum() / rows


# mistake: Each row is divided by its own length instead of by the constant: the length bias is back.
# says: sequence_mean
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return (x.sum(1) / lengths.clamp(min=1)).sum() / rows


# mistake: The constant length is used, but the mean is over all rows, those without a True included.
# says: empty_rows_counted
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    return (x.sum(1) / length).mean()


# mistake: The sum is divided by the constant length only: the mean over rows is missing.
# says: \(summed\)
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    return x.sum() / length


# mistake: Half mended: the longest completion of the batch is still the divisor, only bounded by the constant length.
# says: longest_row
def fixed_length_mean(x, mask, length):
    x = torch.where(mask, x, 0.0)
    lengths = mask.sum(1)
    rows = (lengths > 0).sum().clamp(min=1)
    return (x.sum(1) / lengths.max().clamp(min=1, max=length)).sum() / rows
