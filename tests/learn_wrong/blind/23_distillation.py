import torch


# mistake: The sign is wrong: log pi - log pi_T, which rewards the tokens that the teacher finds unlikely.
# says: wrong_direction
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, log_probs - teacher_log_probs, 0.0).detach()
    out = torch.zeros_like(d)
    A = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        A = torch.where(mask[:, t], d[:, t] + gamma * A, A)
        out[:, t] = torch.where(mask[:, t], A, 0.0)
    return out


# mistake: Every place costs a discount, tool output too, instead of chosen tokens only.
# says: gaps_cost_discount
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, teacher_log_probs - log_probs, 0.0).detach()
    advantages = torch.zeros_like(d)
    running = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        running = d[:, t] + gamma * running
        advantages[:, t] = running
    return torch.where(mask, advantages, 0.0)


# mistake: Only the next token's log-ratio is added, not the next advantage: the sum stops after one step.
# says: one_step_ahead
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, teacher_log_probs - log_probs, 0.0).detach()
    out = torch.zeros_like(d)
    following = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        out[:, t] = torch.where(mask[:, t], d[:, t] + gamma * following, 0.0)
        following = torch.where(mask[:, t], d[:, t], following)
    return out


# mistake: The difference of the probabilities is taken instead of the difference of the log-probabilities.
# says: probabilities_subtracted
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.exp(teacher_log_probs) - torch.exp(log_probs)
    d = torch.where(mask, d, 0.0).detach()
    out = torch.zeros_like(d)
    A = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        A = torch.where(mask[:, t], d[:, t] + gamma * A, A)
        out[:, t] = torch.where(mask[:, t], A, 0.0)
    return out


# mistake: The advantages are not detached: gradient flows through the policy's log-probs in them.
# says: not_detached
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, teacher_log_probs.detach() - log_probs, 0.0)
    columns = []
    A = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        A = torch.where(mask[:, t], d[:, t] + gamma * A, A)
        columns.append(torch.where(mask[:, t], A, 0.0))
    return torch.stack(columns[::-1], dim=1)
