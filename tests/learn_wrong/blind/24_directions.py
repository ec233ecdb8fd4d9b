import math

import torch
import torch.nn.functional as F


# mistake: Half mended: beta = 0 is the forward KL now, but beta = 1 gives the forward KL as well.
# says: forward_at_both_ends
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


# mistake: The special cases are removed and beta is moved just inside the ends, where the formula gives nearly 0 instead of the two KLs.
# says: formula of the mixture
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    beta = min(max(beta, 1e-6), 1 - 1e-6)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: Mended in the wrong place: teacher and policy are exchanged at the top, so the ends are right but between them beta and 1 - beta are exchanged.
# says: exchanged_between_the_ends
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_q = F.log_softmax(logits / temperature, dim=-1)
    log_p = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: The ends are mended, but the arguments were exchanged between them too: it takes KL(M || pi_T) and KL(M || pi).
# says: mixture_first
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_q, log_m, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_p, log_m, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy


# mistake: The directions are mended, but in the reverse KL the policy's probabilities are detached, so its gradient is wrong.
# says: reverse_weights_detached
def jsd_exact(logits, teacher_logits, beta, temperature):
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    if beta == 0:
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    if beta == 1:
        return (log_p.exp().detach() * (log_p - log_q)).sum(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
    to_teacher = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    to_policy = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    return beta * to_teacher + (1 - beta) * to_policy
