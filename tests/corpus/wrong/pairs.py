"""Losses on pairs and thumbs with one mistake each, as people make them."""

import torch
import torch.nn.functional as F


# objective: dpo_loss
# kind: K9
# expect: caught as chosen and rejected exchanged
# named: (?i)exchang|swap|changed places|reversed|sign|prefer
def swapped_pair(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    h = (policy_rejected_logps - policy_chosen_logps) - (reference_rejected_logps - reference_chosen_logps)
    return -F.logsigmoid(beta * h).mean()


# objective: dpo_loss
# kind: K9
# expect: caught as the reference left out
# named: (?i)reference|ref_
def no_reference(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps)).mean()


# objective: dpo_loss
# kind: sign
# expect: caught as the reference's sign
# named: (?i)sign|reference|added|plus
def reference_added(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - rejected_logps) + (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).mean()


# objective: dpo_loss
# kind: K9
# expect: caught as the references exchanged
# named: (?i)exchang|swap|changed places|reference
def references_swapped(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_rejected_logps) - (rejected_logps - ref_chosen_logps)
    return -F.logsigmoid(beta * h).mean()


# objective: dpo_loss
# kind: forgotten log
# expect: caught as the sigmoid without its log
# named: (?i)sigmoid|log
def sigmoid_only(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -torch.sigmoid(h).mean()


# objective: dpo_loss
# kind: order
# expect: caught as the log of the mean
# named: (?i)mean|order|log
def log_of_the_mean(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -torch.log(torch.sigmoid(h).mean())


# objective: dpo_loss
# kind: order
# expect: caught as the mean inside the sigmoid
# named: (?i)mean|order|inside|batch
def mean_margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -F.logsigmoid(h.mean())


# objective: dpo_loss
# kind: K6
# expect: caught as a sum over pairs
# named: (?i)sum|times|number of|batch|mean
def sum_of_pairs(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -F.logsigmoid(h).sum()


# objective: dpo_loss
# kind: K9
# expect: caught as beta left out
# named: (?i)beta
def beta_forgotten(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(h).mean()


# objective: dpo_loss
# kind: K9
# expect: caught as beta outside
# named: (?i)beta
def beta_outside(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -beta * F.logsigmoid(h).mean()


# objective: dpo_loss
# kind: K9
# expect: caught as divided by beta
# named: (?i)beta
def divided_by_beta(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)) / beta
    return -F.logsigmoid(h).mean()


# objective: dpo_loss
# kind: K9
# expect: caught as beta on the policy only
# named: (?i)beta|reference
def beta_on_policy(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(h).mean()


# objective: dpo_loss
# kind: R15
# expect: caught as the label smoothing ignored
# named: (?i)smooth
def smoothing_ignored(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.0
):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -F.logsigmoid(h).mean()


# objective: dpo_loss
# kind: sign
# expect: caught as robust DPO's sign
# named: (?i)smooth|robust|sign
def smoothing_sign(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.0):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return (-F.logsigmoid(h) * (1 - label_smoothing) + F.logsigmoid(-h) * label_smoothing).mean()


# objective: dpo_loss
# kind: K1
# expect: caught as the rejected without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def rejected_detached(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    with torch.no_grad():
        lose = rejected_logps - ref_rejected_logps
    return -F.logsigmoid(beta * ((chosen_logps - ref_chosen_logps) - lose)).mean()


# objective: dpo_loss
# kind: K1
# expect: caught as through NumPy
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient
def through_numpy(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    import numpy as np

    c, r, rc, rr = (x.detach().numpy() for x in (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps))
    h = beta * ((c - rc) - (r - rr))
    return torch.tensor(np.logaddexp(0, -h).mean())


# objective: dpo_loss
# kind: K8
# expect: caught as IPO
# named: (?i)ipo
def ipo_called_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return ((h - 1 / (2 * beta)) ** 2).mean()


# objective: dpo_loss
# kind: K8
# expect: caught as the hinge
# named: (?i)hinge
def hinge_called_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return torch.relu(1 - beta * h).mean()


# objective: dpo_loss
# stands: for the others of K13
# kind: K13
# expect: caught as not the same twice
# named: (?i)random|determin|same (twice|again)|twice|two calls|differs? (from|between) (call|run)
def noisy_margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    h = h + 0.01 * torch.randn_like(h)
    return -F.logsigmoid(beta * h).mean()


# objective: dpo_loss
# kind: K9
# expect: caught as pairs of other rows
# named: (?i)row|roll|shift|pair|broadcast|other
def every_pair(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    win, lose = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    return -F.logsigmoid(beta * (win[:, None] - lose[None, :])).mean()


# objective: dpo_loss
# kind: factor
# expect: caught as half of it
# named: (?i)half|twice|factor|0\.5|times|scale
def averaged_over_both(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -F.logsigmoid(h).sum() / (len(chosen_logps) + len(rejected_logps))


# objective: ipo_loss
# kind: factor
# expect: caught as the target 1 / beta
# named: (?i)target|half|1 ?/ ?\(?2?|twice|doubl|factor
def ipo_double_target(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return ((h - 1 / beta) ** 2).mean()


# objective: ipo_loss
# kind: K9
# expect: caught as beta inside
# named: (?i)beta
def ipo_scaled(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return ((h - 1 / (2 * beta)) ** 2).mean()


# objective: ipo_loss
# kind: K8
# expect: caught as DPO
# named: (?i)dpo|sigmoid|logistic
def ipo_is_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).mean()


# objective: simpo_loss
# kind: sign
# expect: caught as the margin added
# named: (?i)gamma|margin
def margin_added(policy_chosen_logps, policy_rejected_logps, beta=2.0, gamma=1.0):
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps) + gamma).mean()


# objective: simpo_loss
# kind: variant
# expect: caught as the margin inside of beta
# named: (?i)gamma|margin|beta
def margin_in_beta(policy_chosen_logps, policy_rejected_logps, beta=2.0, gamma=1.0):
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps - gamma)).mean()


# objective: orpo_loss
# kind: forgotten term
# expect: caught as the log-prob in place of the odds
# named: (?i)odds
def orpo_without_odds(chosen_logps, rejected_logps, alpha=0.1):
    return (-chosen_logps - alpha * F.logsigmoid(chosen_logps - rejected_logps)).mean()


# objective: orpo_loss
# kind: sign
# expect: caught as the odds' sign
# named: (?i)sign|added|minus|subtract|odds
def orpo_sign(chosen_logps, rejected_logps, lambda_=0.1):
    odds = (chosen_logps - torch.log1p(-chosen_logps.exp())) - (rejected_logps - torch.log1p(-rejected_logps.exp()))
    return (-chosen_logps + lambda_ * F.logsigmoid(odds)).mean()


# objective: orpo_loss
# kind: K9
# expect: caught as the rejected trained
# named: (?i)reject|exchang|swap|changed places
def orpo_sft_rejected(chosen_logps, rejected_logps, lambda_=0.1):
    odds = (chosen_logps - torch.log1p(-chosen_logps.exp())) - (rejected_logps - torch.log1p(-rejected_logps.exp()))
    return (-rejected_logps - lambda_ * F.logsigmoid(odds)).mean()


# objective: kto_loss
# kind: K9
# expect: caught as the thumbs exchanged
# named: (?i)invert|exchang|swap|desirable|label|changed places
def thumbs_inverted(policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    h = beta * (policy_logps - reference_logps - kl)
    good, bad = desirable_weight * (1 - torch.sigmoid(h)), undesirable_weight * (1 - torch.sigmoid(-h))
    return torch.where(labels.bool(), bad, good).mean()


# objective: kto_loss
# kind: K9
# expect: caught as the reference point left out
# named: (?i)reference.?point|\bz\b|kl
def kto_without_z(policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    h = beta * (policy_logps - reference_logps)
    good, bad = desirable_weight * (1 - torch.sigmoid(h)), undesirable_weight * (1 - torch.sigmoid(-h))
    return torch.where(labels.bool(), good, bad).mean()


# objective: kto_loss
# kind: K9
# expect: caught as the weights exchanged
# named: (?i)exchang|swap|weight|changed places
def kto_weights_swapped(
    policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
):
    h = beta * (policy_logps - reference_logps - kl)
    return torch.where(
        labels.bool(), undesirable_weight * torch.sigmoid(-h), desirable_weight * torch.sigmoid(h)
    ).mean()


# objective: kto_loss
# kind: sign
# expect: caught as the reference point added
# named: (?i)sign|reference.?point|added|plus
def kto_z_added(policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    h = beta * (policy_logps - reference_logps + kl)
    return torch.where(
        labels.bool(), desirable_weight * torch.sigmoid(-h), undesirable_weight * torch.sigmoid(h)
    ).mean()


# objective: kto_reference_point
# kind: forgotten clamp
# expect: caught as below 0
# named: (?i)clamp|below|negative|max
def z_unclamped(policy_logps, ref_logps):
    return (policy_logps - ref_logps).mean().detach()


# objective: kto_reference_point
# kind: order
# expect: caught as clamped before the mean
# named: (?i)order|before|each|clamp|mean
def z_clamped_first(policy_logps, ref_logps):
    return (policy_logps - ref_logps).clamp(min=0).mean().detach()


# objective: hinge_loss
# kind: sign
# expect: caught as the hinge turned round
# named: (?i)sign|exchang|swap|revers|changed places|negat
def hinge_turned(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, delta=1.0):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return torch.relu(delta + h).mean()


# objective: apo_zero_loss
# kind: K8
# expect: caught as APO down
# named: (?i)apo_down|down
def apo_the_other(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    w, l = beta * (chosen_logps - ref_chosen_logps), beta * (rejected_logps - ref_rejected_logps)
    return (torch.sigmoid(w) + 1 - torch.sigmoid(w - l)).mean()


# objective: nca_loss
# kind: factor
# expect: caught as the halves left out
# named: (?i)half|factor|0\.5|1/2|twice|doubl
def nca_no_halves(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    w, l = beta * (chosen_logps - ref_chosen_logps), beta * (rejected_logps - ref_rejected_logps)
    return (-F.logsigmoid(w) - F.logsigmoid(-w) - F.logsigmoid(-l)).mean()


# objective: exo_loss
# kind: K9
# expect: caught as the KL the other way round
# named: (?i)revers|other way|swap|exchang|direction|forward|dpo|changed places
def exo_forward(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.125):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    q = torch.tensor([1 - label_smoothing, label_smoothing], dtype=h.dtype)[:, None]
    log_p = torch.stack([F.logsigmoid(h), F.logsigmoid(-h)])
    return (q * (q.log() - log_p)).sum(0).mean()


# objective: sppo_loss
# kind: variant
# expect: caught as half of it
# named: (?i)half|twice|factor|0\.5|mean
def sppo_half(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    a, b = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    return 0.5 * ((a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2).mean()


# objective: bradley_terry_loss
# kind: sign
# expect: caught as chosen and rejected exchanged
# named: (?i)exchang|swap|sign|revers|changed places
def rewards_swapped(chosen_rewards, rejected_rewards):
    return -F.logsigmoid(rejected_rewards - chosen_rewards).mean()


# objective: bradley_terry_loss
# kind: sign
# expect: caught as the margin added
# named: (?i)margin
def reward_margin_added(chosen_rewards, rejected_rewards, margin=None):
    diff = chosen_rewards - rejected_rewards
    if margin is not None:
        diff = diff + margin
    return -F.logsigmoid(diff).mean()


# objective: wpo_loss
# kind: K6
# expect: caught as divided by the sum of the weights
# named: (?i)weight|denominator|sum
def weighted_mean(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, weights, beta=0.1):
    h = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -(weights * F.logsigmoid(h)).sum() / weights.sum()


# objective: robust_dpo_loss
# kind: forgotten factor
# expect: caught as not divided by 1 - 2 e
# named: (?i)divid|1 ?- ?2|denominator|scale|normalis|factor
def robust_undivided(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.1):
    z = beta * (chosen_logps - rejected_logps - ref_chosen_logps + ref_rejected_logps)
    return (-F.logsigmoid(z) * (1 - label_smoothing) + F.logsigmoid(-z) * label_smoothing).mean()


# objective: aot_loss
# at: paired=False
# kind: forgotten step
# expect: caught as not sorted
# named: (?i)sort|dpo
def aot_unsorted(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    return -F.logsigmoid(beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))).mean()


# objective: sequence_log_probs
# kind: C74
# expect: caught as the mean for the sum, and the reverse
# named: (?i)mean|sum|average|invert
def average_inverted(logps, mask, average_log_prob=False):
    total = (logps * mask).sum(-1)
    return total if average_log_prob else total / mask.sum(-1)


# objective: sft_loss
# kind: sign
# expect: caught as the sign
# named: (?i)sign|negat|minus
def likelihood(logps, mask):
    return (logps * mask).sum() / mask.sum()


# objective: implicit_rewards
# kind: K9
# expect: caught as policy and reference exchanged
# named: (?i)exchang|swap|revers|sign|changed places
def reward_reversed(policy_logps, reference_logps, beta=0.1):
    return beta * (reference_logps - policy_logps)
