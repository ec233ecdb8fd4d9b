import torch
import torch.nn.functional as F


# mistake: The reference's log-ratio is added instead of subtracted.
# says: reference_added
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    ref_chosen = ref_chosen_log_probs.detach()
    ref_rejected = ref_rejected_log_probs.detach()
    pi_logratios = chosen_log_probs - rejected_log_probs
    ref_logratios = ref_chosen - ref_rejected
    h = beta * (pi_logratios + ref_logratios)
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return loss.mean()


# mistake: beta multiplies the loss instead of the margin inside the sigmoid.
# says: beta_outside
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    ref_chosen = ref_chosen_log_probs.detach()
    ref_rejected = ref_rejected_log_probs.detach()
    h = (chosen_log_probs - ref_chosen) - (rejected_log_probs - ref_rejected)
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return beta * loss.mean()


# mistake: The factor (1 - label_smoothing) of the first term is missing.
# says: first_term_unweighted
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    ref_chosen = ref_chosen_log_probs.detach()
    ref_rejected = ref_rejected_log_probs.detach()
    chosen_rewards = beta * (chosen_log_probs - ref_chosen)
    rejected_rewards = beta * (rejected_log_probs - ref_rejected)
    h = chosen_rewards - rejected_rewards
    loss = -F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return loss.mean()


# mistake: Each implicit reward goes through its own log-sigmoid instead of their difference through one.
# says: each_reward_alone
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    ref_chosen = ref_chosen_log_probs.detach()
    ref_rejected = ref_rejected_log_probs.detach()
    r_chosen = beta * (chosen_log_probs - ref_chosen)
    r_rejected = beta * (rejected_log_probs - ref_rejected)
    loss = -(1 - label_smoothing) * (F.logsigmoid(r_chosen) + F.logsigmoid(-r_rejected))
    loss = loss - label_smoothing * (F.logsigmoid(-r_chosen) + F.logsigmoid(r_rejected))
    return loss.mean()


# mistake: The term of the flipped labels has the wrong sign: it is subtracted from the loss instead of added.
# says: label_smoothing_sign
def dpo_loss(
    chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, *, beta, label_smoothing=0.0
):
    ref_chosen = ref_chosen_log_probs.detach()
    ref_rejected = ref_rejected_log_probs.detach()
    h = beta * ((chosen_log_probs - ref_chosen) - (rejected_log_probs - ref_rejected))
    losses = -(1 - label_smoothing) * F.logsigmoid(h) + label_smoothing * F.logsigmoid(-h)
    return losses.mean()
