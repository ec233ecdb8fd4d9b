import torch


# mistake: The sum is mended, but the average divides by the padded width instead of by the number of tokens of the completion.
# says: padded_width
def sequence_log_probs(log_probs, mask, average):
    log_probs = torch.where(mask, log_probs, 0.0)
    if average:
        return log_probs.mean(1)
    return log_probs.sum(1)


# mistake: Only the average is mended: the sum still counts prompt and padding.
# says: under False too
def sequence_log_probs(log_probs, mask, average):
    if average:
        total = torch.where(mask, log_probs, 0.0).sum(1)
        return total / mask.sum(1).clamp(min=1)
    return log_probs.sum(1)


# mistake: The mask is shifted by one although it fits the log-probs already, so the end token's place is lost and the place before the completion is counted.
# says: shifted by one place
def sequence_log_probs(log_probs, mask, average):
    lengths = mask.sum(1)
    total = torch.where(mask[:, 1:], log_probs[:, :-1], 0.0).sum(1)
    if average:
        return total / lengths.clamp(min=1)
    return total


# mistake: The sum is always divided by the length: average=False gives the mean per token as well.
# says: average is ignored
def sequence_log_probs(log_probs, mask, average):
    total = torch.where(mask, log_probs, 0.0).sum(1)
    total = total / mask.sum(1).clamp(min=1)
    return total


# mistake: The average divides by the number of tokens of the whole batch instead of each row's own.
# says: length_of_the_batch
def sequence_log_probs(log_probs, mask, average):
    total = torch.where(mask, log_probs, 0.0).sum(1)
    if average:
        return total / mask.sum().clamp(min=1)
    return total
