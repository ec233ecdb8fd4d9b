import math

import torch
import torch.nn.functional as F


# mistake: only one end is mended: both are the forward KL
# says: forward|direction|both ends|end
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: the ends are right, and the mixture's weights are exchanged
# says: mixture|weight
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(1 - beta), log_p + math.log(beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: a mean over the vocabulary
# says: mean|vocabulary
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).mean(-1)
    if beta == 1:
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).mean(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).mean(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).mean(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: the special cases are taken out, and log(0) raises
# says: math domain
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: the weights of the two KLs are exchanged too
# says: weight
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return (1 - beta) * to_teacher + beta * to_policy
