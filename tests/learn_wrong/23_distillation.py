import torch


# mistake: the student less the teacher
# says: direction|sign|other way|away|swap
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, log_probs - teacher_log_probs, 0.0).detach()
    out = torch.zeros_like(d)
    after = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        after = torch.where(mask[:, t], d[:, t] + gamma * after, after)
        out[:, t] = after
    return torch.where(mask, out, 0.0)


# mistake: a gap costs a discount
# says: discount|gap
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, teacher_log_probs - log_probs, 0.0).detach()
    out = torch.zeros_like(d)
    after = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        after = d[:, t] + gamma * after
        out[:, t] = after
    return torch.where(mask, out, 0.0)


# mistake: each token alone, gamma is not used
# says: gamma|alone|discount|follow
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    return torch.where(mask, teacher_log_probs - log_probs, 0.0).detach()


# mistake: probabilities in place of their logs
# says: probabilit
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, teacher_log_probs.exp() - log_probs.exp(), 0.0).detach()
    out = torch.zeros_like(d)
    after = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        after = torch.where(mask[:, t], d[:, t] + gamma * after, after)
        out[:, t] = after
    return torch.where(mask, out, 0.0)


# mistake: a gradient flows into it
# says: detach|gradient|constant
def teacher_advantages(log_probs, teacher_log_probs, mask, *, gamma):
    d = torch.where(mask, teacher_log_probs - log_probs, 0.0)
    out = []
    after = torch.zeros_like(d[:, 0])
    for t in reversed(range(d.shape[1])):
        after = torch.where(mask[:, t], d[:, t] + gamma * after, after)
        out.insert(0, after)
    return torch.where(mask, torch.stack(out, 1), 0.0)
