import torch
import torch.nn.functional as F


# mistake: the reference is left out
# says: reference
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    chosen = beta * chosen_log_probs
    rejected = beta * rejected_log_probs
    h = chosen - rejected
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return loss.mean()


# mistake: beta is forgotten
# says: beta
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    chosen = chosen_log_probs - ref_chosen_log_probs
    rejected = rejected_log_probs - ref_rejected_log_probs
    h = chosen - rejected
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return loss.mean()


# mistake: the minus sign is missing
# says: sign|negat|wrong way
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    chosen = beta * (chosen_log_probs - ref_chosen_log_probs)
    rejected = beta * (rejected_log_probs - ref_rejected_log_probs)
    h = chosen - rejected
    loss = (1 - label_smoothing) * F.logsigmoid(h) + label_smoothing * F.logsigmoid(-h)
    return loss.mean()


# mistake: label smoothing is not used
# says: label.smoothing
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    chosen = beta * (chosen_log_probs - ref_chosen_log_probs)
    rejected = beta * (rejected_log_probs - ref_rejected_log_probs)
    h = chosen - rejected
    loss = -F.logsigmoid(h)
    return loss.mean()


# mistake: the reference is added
# says: reference
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    chosen = beta * (chosen_log_probs + ref_chosen_log_probs)
    rejected = beta * (rejected_log_probs + ref_rejected_log_probs)
    h = chosen - rejected
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return loss.mean()
