"""Losses on preference pairs and thumbs, right, as people write them."""

import torch
import torch.nn as nn
import torch.nn.functional as F


# objective: dpo_loss
# expect: pass
# style: the authors' names, a tuple with the rewards
def preference_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    beta=0.1,
    label_smoothing=0.0,
):
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    logits = pi_logratios - ref_logratios
    losses = -F.logsigmoid(beta * logits) * (1 - label_smoothing) - F.logsigmoid(-beta * logits) * label_smoothing
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps).detach()
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps).detach()
    return losses.mean(), chosen_rewards.mean(), rejected_rewards.mean()


# objective: dpo_loss
# expect: pass
# style: softplus
def dpo_softplus(pi_w, pi_l, ref_w, ref_l, beta=0.1):
    return F.softplus(-beta * ((pi_w - ref_w) - (pi_l - ref_l))).mean()


# objective: dpo_loss
# expect: pass
# style: cross-entropy of two implicit rewards
def dpo_cross_entropy(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    rewards = torch.stack(
        [beta * (policy_chosen_logps - ref_chosen_logps), beta * (policy_rejected_logps - ref_rejected_logps)], dim=1
    )
    target = torch.zeros(rewards.shape[0], dtype=torch.long)
    return F.cross_entropy(rewards, target)


# objective: dpo_loss
# expect: pass
# at: beta=0.5
# style: beta built in
def dpo_built_in(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    margin = 0.5 * (chosen_logps - ref_chosen_logps) - 0.5 * (rejected_logps - ref_rejected_logps)
    return F.binary_cross_entropy_with_logits(margin, torch.ones_like(margin))


# objective: dpo_loss
# expect: edges
# style: log of sigmoid by hand
def dpo_by_hand(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -torch.log(1 / (1 + torch.exp(-h))).mean()


class DPOLoss(nn.Module):
    def __init__(self, beta=0.1, label_smoothing=0.0):
        super().__init__()
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        logits = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
        losses = (
            -F.logsigmoid(self.beta * logits) * (1 - self.label_smoothing)
            - F.logsigmoid(-self.beta * logits) * self.label_smoothing
        )
        return losses.mean()


# objective: dpo_loss
# expect: pass
# at: beta=0.1, label_smoothing=0.0
# style: an instance of a module of OpenRLHF's kind
dpo_module = DPOLoss(0.1)


# objective: dpo_loss
# stands: for the others of K14
# expect: pass
# call: f(torch.cat([chosen_log_probs, rejected_log_probs]), torch.cat([ref_chosen_log_probs, ref_rejected_log_probs]), 0.1)
# at: beta=0.1
# style: chosen and rejected in one tensor
def dpo_concatenated(policy_logps, reference_logps, beta=0.1):
    chosen, rejected = (policy_logps - reference_logps).chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


# objective: dpo_loss
# expect: pass
# call: f({"chosen": chosen_log_probs, "rejected": rejected_log_probs}, {"chosen": ref_chosen_log_probs, "rejected": ref_rejected_log_probs}, 0.1)
# at: beta=0.1
# style: one dictionary a model
def dpo_two_dicts(policy_logps, reference_logps, beta=0.1):
    gain = {k: beta * (policy_logps[k] - reference_logps[k]) for k in ("chosen", "rejected")}
    return F.softplus(gain["rejected"] - gain["chosen"]).mean()


# objective: ipo_loss
# expect: pass
# style: a flag on DPO's function
def ipo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    logits = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return ((logits - 1 / (2 * beta)) ** 2).mean()


# objective: ipo_loss
# expect: pass
# style: tau in place of beta
def ipo_tau(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, tau=0.1):
    h = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
    return F.mse_loss(h, torch.full_like(h, 0.5 / tau))


# objective: simpo_loss
# expect: pass
# style: the ratio of gamma to beta resolved by the caller
def simpo(policy_chosen_logps, policy_rejected_logps, beta=2.0, gamma=1.0):
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps) - gamma).mean()


# objective: orpo_loss
# expect: edges
# style: TRL's odds ratio
def orpo(chosen_logps, rejected_logps, lambda_=0.1):
    log_odds = (chosen_logps - rejected_logps) - (
        torch.log1p(-torch.exp(chosen_logps)) - torch.log1p(-torch.exp(rejected_logps))
    )
    return (-chosen_logps - lambda_ * F.logsigmoid(log_odds)).mean()


# objective: kto_loss
# stands: for the others of K14
# expect: pass
# style: labels and a given reference point
def kto(policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    logratios = policy_logps - reference_logps
    losses = torch.where(
        labels.bool(),
        desirable_weight * (1 - torch.sigmoid(beta * (logratios - kl))),
        undesirable_weight * (1 - torch.sigmoid(beta * (kl - logratios))),
    )
    return losses.mean()


# objective: kto_loss
# expect: pass
# call: f(log_probs[desirable], log_probs[~desirable], ref_log_probs[desirable], ref_log_probs[~desirable], 0.5, 0.1, 1.25, 0.5)
# at: beta=0.1, reference_point=0.5, desirable_weight=1.25, undesirable_weight=0.5
# style: TRL's four tensors
def kto_four(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    kl,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.0,
):
    chosen = 1 - F.sigmoid(beta * ((policy_chosen_logps - reference_chosen_logps) - kl))
    rejected = 1 - F.sigmoid(beta * (kl - (policy_rejected_logps - reference_rejected_logps)))
    return torch.cat((desirable_weight * chosen, undesirable_weight * rejected), 0).mean()


# objective: kto_loss
# expect: pass
# style: signs in place of branches
def kto_signs(logps, ref_logps, desirable, reference_point, beta=0.1, w_d=1.0, w_u=1.0):
    sign = desirable.to(logps.dtype) * 2 - 1
    weight = torch.where(desirable, w_d, w_u)
    return (weight * torch.sigmoid(-sign * beta * (logps - ref_logps - reference_point))).mean()


# objective: kto_reference_point
# expect: pass
# style: a clamped mean without a gradient
@torch.no_grad()
def kto_kl(policy_KL_logps, reference_KL_logps):
    return (policy_KL_logps - reference_KL_logps).mean().clamp(min=0)


# objective: hinge_loss
# expect: pass
# style: relu
def hinge(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, delta=1.0):
    return torch.relu(delta - beta * (chosen_logps - rejected_logps - ref_chosen_logps + ref_rejected_logps)).mean()


# objective: apo_zero_loss
# expect: pass
# style: TRL's two losses
def apo_zero(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    losses_chosen = 1 - F.sigmoid(beta * (chosen_logps - ref_chosen_logps))
    losses_rejected = F.sigmoid(beta * (rejected_logps - ref_rejected_logps))
    return (losses_chosen + losses_rejected).mean()


# objective: exo_loss
# expect: pass
# style: a KL of two Bernoulli distributions
def exo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.125):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    log_p = torch.stack([F.logsigmoid(h), F.logsigmoid(-h)])
    log_q = torch.log(torch.tensor([1 - label_smoothing, label_smoothing], dtype=h.dtype))[:, None]
    return (log_p.exp() * (log_p - log_q)).sum(0).mean()


# objective: nca_loss
# expect: pass
# style: one term a reward
def nca(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    r_w, r_l = beta * (chosen_logps - ref_chosen_logps), beta * (rejected_logps - ref_rejected_logps)
    return (-F.logsigmoid(r_w) - 0.5 * F.logsigmoid(-r_w) - 0.5 * F.logsigmoid(-r_l)).mean()


# objective: sppo_loss
# expect: pass
# style: the hard form
def sppo_hard(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    a, b = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    return ((a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2).mean()


# objective: robust_dpo_loss
# expect: pass
# style: TRL's
def robust(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.1):
    z = beta * (chosen_logps - rejected_logps - ref_chosen_logps + ref_rejected_logps)
    return (
        (-F.logsigmoid(z) * (1 - label_smoothing) + F.logsigmoid(-z) * label_smoothing) / (1 - 2 * label_smoothing)
    ).mean()


# objective: bradley_terry_loss
# expect: pass
# style: a reward model's pair loss with an optional margin
def pair_wise_loss(chosen_reward, reject_reward, margin=None):
    diff = chosen_reward - reject_reward
    if margin is not None:
        diff = diff - margin
    return -F.logsigmoid(diff).mean()


# objective: wpo_loss
# expect: pass
# style: detached weights
def wpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, weights, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -(weights.detach() * F.logsigmoid(h)).mean()


# objective: aot_loss
# expect: pass
# at: paired=False, label_smoothing=0.0
# style: sorted by kind, unpaired
def aot_unpaired(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    u, _ = torch.sort(chosen_logps - ref_chosen_logps)
    v, _ = torch.sort(rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (u - v)).mean()


# objective: sft_loss
# expect: edges
# at: reduce=token_mean
# style: a masked token mean
def nll(logps, loss_mask):
    return -(logps * loss_mask).sum() / loss_mask.sum()


# objective: sequence_log_probs
# expect: edges
# style: the DPO authors' flag
def get_batch_logps(per_token_logps, loss_mask, average_log_prob=False):
    if average_log_prob:
        return (per_token_logps * loss_mask).sum(-1) / loss_mask.sum(-1)
    return (per_token_logps * loss_mask).sum(-1)


# objective: implicit_rewards
# expect: pass
# style: a one-liner
def dpo_reward(policy_logps, reference_logps, beta=0.1):
    return beta * (policy_logps - reference_logps)
