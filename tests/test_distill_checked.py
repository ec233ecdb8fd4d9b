"""The checker on losses of distillation as people write them: right ones pass, wrong ones are caught and named."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from torchstone import conformance
from torchstone.conformance.fit.aliases import role, setting
from torchstone.core import sequence_sum
from torchstone.grpo.variants import dppo_surrogate

# What plain code forgets: NaN under the mask (its gradient), logits of -inf, batches without a token.
FORGOTTEN = {
    "nan_under_mask", "mask_multiplied", "multiplied_by_mask", "zero_times_inf", "minus_inf_logits", "all_masked",
    "zero_over_zero", "infinite_divergence", "extreme_logits", "empty_tail",
}  # fmt: skip


def mixed(student_logits, teacher_logits, beta, temperature):
    """log pi, log pi_T, log M, as TRL's generalized_jsd_loss has them."""
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    b = torch.tensor(beta, dtype=student.dtype)
    return student, teacher, torch.stack([student + torch.log1p(-b), teacher + torch.log(b)]).logsumexp(0)


def terms(student_logits, teacher_logits, beta, temperature=1.0):
    student, teacher, mixture = mixed(student_logits, teacher_logits, beta, temperature)
    if beta == 0:
        return F.kl_div(student, teacher, reduction="none", log_target=True)
    if beta == 1:
        return F.kl_div(teacher, student, reduction="none", log_target=True)
    to_teacher = F.kl_div(mixture, teacher, reduction="none", log_target=True)
    return beta * to_teacher + (1 - beta) * F.kl_div(mixture, student, reduction="none", log_target=True)


def masked_mean(x, mask):
    return torch.where(mask.bool(), x, 0.0).sum() / mask.sum().clamp(min=1)


# ---------------------------------------------------------------------------------------------------------------- right


def gkd(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0, reduction="batchmean",
        num_items_in_batch=None):  # fmt: skip
    jsd = terms(student_logits, teacher_logits, beta, temperature)
    if labels is not None:
        jsd = jsd[labels != -100]
    if num_items_in_batch is not None:
        return jsd.sum() / num_items_in_batch
    count = (labels != -100).sum().clamp_min(1) if labels is not None else jsd.size(0)
    return jsd.sum() / count if reduction == "batchmean" else jsd.sum()


class DistillationLoss(torch.nn.Module):
    def __init__(self, jsd_beta=0.5, tau=1.0):
        super().__init__()
        self.beta, self.tau = jsd_beta, tau

    def forward(self, logits, teacher_logits, completion_mask):
        keep = completion_mask.bool()[..., None]
        chosen = (torch.where(keep, z, torch.zeros_like(z)) for z in (logits, teacher_logits))
        return masked_mean(terms(*chosen, self.beta, self.tau).sum(-1), completion_mask)


def forward_kl(logits_s, logits_t):
    return kl_divergence(Categorical(logits=logits_t), Categorical(logits=logits_s))


def hinton_without_t2(student_logits, teacher_logits, T):
    return F.kl_div((student_logits / T).log_softmax(-1), (teacher_logits / T).softmax(-1), reduction="none").sum(-1)


def by_direction(logits, ref_logits, kl_direction="reverse"):
    student, teacher = Categorical(logits=logits), Categorical(logits=ref_logits)
    return kl_divergence(student, teacher) if kl_direction == "reverse" else kl_divergence(teacher, student)


def sdpo_top_k(student_logits, teacher_logits, *, distillation_topk, distillation_alpha, distillation_add_tail):
    at = student_logits.topk(distillation_topk, dim=-1).indices
    student, teacher = ((z - z.logsumexp(-1, keepdim=True)).gather(-1, at) for z in (student_logits, teacher_logits))
    if distillation_add_tail:
        student, teacher = (torch.cat([x, (1 - x.exp().sum(-1, keepdim=True)).log()], -1) for x in (student, teacher))
    return terms(student, teacher, distillation_alpha).sum(-1)


def verl_top_k(student_logits, teacher_logits, topk):
    teacher, at = teacher_logits.log_softmax(-1).topk(topk, dim=-1)
    student = student_logits.log_softmax(-1).gather(-1, at)
    return (teacher.exp() * (teacher - student)).sum(-1)


def tinker(sampled_logprobs, teacher_logprobs, mask, kl_penalty_coef, kl_discount_factor):
    advantages = torch.zeros_like(sampled_logprobs)
    for row, keep in enumerate(mask.bool()):
        penalty = -kl_penalty_coef * (sampled_logprobs[row, keep] - teacher_logprobs[row, keep]).detach()
        running, out = 0.0, []
        for x in reversed(penalty.tolist()):
            running = x + kl_discount_factor * running
            out.append(running)
        advantages[row, keep] = advantages.new_tensor(out[::-1])
    return advantages


def slime(advantages, student_log_probs, teacher_log_probs, opd_kl_coef=1.0):
    return advantages - opd_kl_coef * (student_log_probs - teacher_log_probs)


def sampled_token(logprobs, teacher_logprobs, response_mask):
    logprobs, teacher_logprobs = (torch.where(response_mask, x, 0.0) for x in (logprobs, teacher_logprobs))
    return masked_mean((logprobs - teacher_logprobs).detach() * logprobs, response_mask)


def prime_rl(trainer_logprobs, inference_logprobs, teacher_logprobs, loss_mask, teacher_tau=1.0):
    x, mu, t = (torch.where(loss_mask, v, 0.0) for v in (trainer_logprobs, inference_logprobs, teacher_logprobs))
    return -masked_mean((x - mu).exp() * teacher_tau * (t - x.detach()), loss_mask)


class ReverseKL(torch.nn.Module):
    """As torchtune has it: labels, and an ignore_index of its own."""

    def __init__(self, ignore_index=-100):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, student_logits, teacher_logits, labels):
        keep = labels != self.ignore_index
        return kl_divergence(Categorical(logits=student_logits[keep]), Categorical(logits=teacher_logits[keep])).mean()


def of_log_probs(student_logprobs, teacher_logprobs, beta=0.5):
    """Log-probs of the whole vocabulary in place of logits, as ms-swift passes them."""
    return terms(student_logprobs, teacher_logprobs, beta).sum(-1)


def temperature_written_in(student_logits, teacher_logits, beta):
    return terms(student_logits, teacher_logits, beta, 2.0).sum(-1)


def top_k_rescaled(student_logits, teacher_logits, loss_top_k, beta=0.5):
    at = student_logits.topk(loss_top_k, dim=-1).indices
    return terms(student_logits.gather(-1, at), teacher_logits.gather(-1, at), beta).sum(-1)


def verl_k1(old_log_prob, teacher_log_prob, response_mask):
    """The policy's own log-probs under the name that they have before the update."""
    return torch.where(response_mask, teacher_log_prob - old_log_prob, 0.0).detach()


RIGHT = [
    (temperature_written_in, "jsd_exact"), (of_log_probs, "jsd_exact"), (ReverseKL, "jsd_loss"),
    (top_k_rescaled, "jsd_top_k"), (verl_k1, "teacher_advantages"),
    (gkd, "jsd_loss"), (DistillationLoss, "jsd_loss"), (forward_kl, "jsd_exact"), (hinton_without_t2, "jsd_exact"),
    (by_direction, "jsd_exact"), (sdpo_top_k, "jsd_top_k"), (verl_top_k, "jsd_top_k"), (tinker, "teacher_advantages"),
    (slime, "teacher_advantages"), (sampled_token, "distill_loss"), (prime_rl, "distill_loss"),
]  # fmt: skip


def names(report):
    return {name for d in report.diagnoses if not d.accepted for name in d.names}


@pytest.mark.parametrize(("function", "objective"), RIGHT, ids=lambda x: getattr(x, "__name__", ""))
def test_right_ones_pass_but_for_what_plain_code_forgets(function, objective):
    report = conformance.check(function, objective)
    assert names(report) <= FORGOTTEN and not report.unexplained, (names(report), report.unexplained[:2])
    assert sum(r.status == "pass" for r in report.results) >= 8


# ---------------------------------------------------------------------------------------------------------------- wrong


def beta_weighs_the_student(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0):
    jsd = terms(teacher_logits, student_logits, beta, temperature)[labels != -100]
    return jsd.sum() / (labels != -100).sum().clamp_min(1)


def forward_called_reverse(student_logits, teacher_logits, kl_direction="reverse"):
    p, q = (z.log_softmax(-1) for z in (student_logits, teacher_logits))
    input, target = (p, q) if kl_direction == "reverse" else (q, p)
    return F.kl_div(input, target, log_target=True, reduction="none").sum(-1)


def kl_towards_mixture(student_logits, teacher_logits, beta):
    student, teacher, m = mixed(student_logits, teacher_logits, beta, 1.0)
    if beta in (0, 1):
        return (-1) ** int(beta) * (student - teacher).mul((student if beta == 0 else teacher).exp()).sum(-1)
    return beta * (m.exp() * (m - teacher)).sum(-1) + (1 - beta) * (m.exp() * (m - student)).sum(-1)


def no_log_target(student_logits, teacher_logits):
    return F.kl_div(student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="none").sum(-1)


def softmax_into_kl_div(student_logits, teacher_logits, T=1.0):
    return F.kl_div((student_logits / T).softmax(-1), (teacher_logits / T).softmax(-1), reduction="none").sum(-1)


def elementwise_mean(student_logits, teacher_logits, mask):
    keep = mask.bool()
    target = teacher_logits[keep].softmax(-1)
    return F.kl_div(student_logits[keep].log_softmax(-1), target, reduction="mean") if keep.any() else 0 * target.sum()


def hinton(student_logits, teacher_logits, T):
    soft = F.softmax(teacher_logits / T, dim=-1)
    return T**2 * (soft * (soft.log() - F.log_softmax(student_logits / T, dim=-1))).sum(-1)


def only_the_student_is_softened(student_logits, teacher_logits, temperature):
    return kl_divergence(Categorical(logits=teacher_logits), Categorical(logits=student_logits / temperature))


def mean_of_logs(student_logits, teacher_logits, beta):
    p, q = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    if beta in (0, 1):
        return terms(p, q, beta).sum(-1)
    m = torch.lerp(p, q, beta)
    return (beta * q.exp() * (q - m) + (1 - beta) * p.exp() * (p - m)).sum(-1)


def nothing_at_the_ends(student_logits, teacher_logits, beta):
    p, q = student_logits.softmax(-1), teacher_logits.softmax(-1)
    m = beta * q + (1 - beta) * p
    entropy = lambda x: -torch.special.xlogy(x, x).sum(-1)  # noqa: E731
    return entropy(m) - beta * entropy(q) - (1 - beta) * entropy(p)


def softmax_before_categorical(student_logits, teacher_logits, beta, temperature):
    probs = [(z / temperature).softmax(-1) for z in (student_logits, teacher_logits)]
    return terms(*probs, beta).sum(-1)


def labels_not_used(student_logits, teacher_logits, labels=None, beta=0.5):
    return terms(student_logits, teacher_logits, beta).sum(-1).mean()


def off_by_one(student_logits, teacher_logits, mask, beta=0.5):
    moved = torch.cat([teacher_logits[:, 1:], teacher_logits[:, :1]], dim=1)
    return masked_mean(terms(student_logits, moved, beta).sum(-1), mask)


def cross_entropy_for_both(student_logits, teacher_logits, beta):
    p, q = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    if beta in (0, 1):
        a, b = (q, p) if beta == 0 else (p, q)
        return F.cross_entropy(b.flatten(0, 1), a.exp().flatten(0, 1), reduction="none").view(b.shape[:2])
    m = (beta * q.exp() + (1 - beta) * p.exp()).log()
    return -(beta * q.exp() + (1 - beta) * p.exp()).mul(m).sum(-1)


def clamped_top_k(student_logits, teacher_logits, topk):
    return verl_top_k(student_logits, teacher_logits, topk).clamp_min(0.0)


def forgot_the_gather(student_logits, teacher_logits, topk):
    p, q = (z.log_softmax(-1).topk(topk).values for z in (student_logits, teacher_logits))
    return (q.exp() * (q - p)).sum(-1)


def teacher_renormalised(student_logits, teacher_logits, topk):
    q, at = teacher_logits.topk(topk)
    q = q.log_softmax(-1)
    return F.kl_div(student_logits.log_softmax(-1).gather(-1, at), q, reduction="none", log_target=True).sum(-1)


def verl_k3(log_prob, ref_log_prob, response_mask):
    u = torch.where(response_mask, ref_log_prob - log_prob, 0.0)
    return masked_mean(torch.expm1(u) - u, response_mask)


def k3_in_the_reward(logprobs, teacher_logprobs, loss_mask):
    u = torch.where(loss_mask, teacher_logprobs - logprobs, 0.0).detach()
    return masked_mean((u.exp() - u - 1) * torch.where(loss_mask, logprobs, 0.0), loss_mask)


def mean_log_ratio(student_logps, teacher_logps, mask):
    return (torch.where(mask, student_logps - teacher_logps.detach(), 0.0)).sum() / mask.sum().clamp(min=1)


def maximised(logprobs, teacher_logprobs, mask):
    gain = torch.where(mask, teacher_logprobs - logprobs, 0.0).detach()
    return masked_mean(gain * torch.where(mask, logprobs, 0.0), mask)


def not_held(logprobs, teacher_logprobs, mask):
    logprobs, teacher_logprobs = (torch.where(mask, x, 0.0) for x in (logprobs, teacher_logprobs))
    return -masked_mean((teacher_logprobs - logprobs) * logprobs, mask)


def stale_log_ratio(trainer_logprobs, inference_logprobs, teacher_logprobs, loss_mask):
    x, mu, t = (torch.where(loss_mask, v, 0.0) for v in (trainer_logprobs, inference_logprobs, teacher_logprobs))
    return -masked_mean((x - mu).exp() * (t - mu), loss_mask)


def tinker_over_gaps(sampled_logprobs, teacher_logprobs, mask, kl_penalty_coef, kl_discount_factor):
    d = -kl_penalty_coef * torch.where(mask.bool(), sampled_logprobs - teacher_logprobs, 0.0).detach()
    t = torch.arange(d.shape[1], dtype=d.dtype)
    weights = torch.tril(torch.as_tensor(kl_discount_factor, dtype=d.dtype) ** (t[:, None] - t).clamp(min=0))
    return d @ weights


def cumsum_of_the_past(logprobs, teacher_logprobs, mask, gamma):
    d = torch.where(mask, teacher_logprobs - logprobs, 0.0).detach()
    out = torch.zeros_like(d)
    for row, keep in enumerate(mask):
        chosen = d[row, keep]
        t = torch.arange(len(chosen))
        out[row, keep] = torch.tril(torch.as_tensor(gamma, dtype=d.dtype) ** (t[:, None] - t).clamp(min=0)) @ chosen
    return out


def penalty_never_negative(student_log_probs, teacher_log_probs, opd_kl_coef):
    return -opd_kl_coef * F.relu(student_log_probs - teacher_log_probs)


def squared_error(logprobs, teacher_logprobs, mask):
    return F.mse_loss(logprobs[mask], teacher_logprobs[mask]) if mask.any() else 0 * logprobs.sum()


def matched_logits(student_logits, teacher_logits):
    return F.mse_loss(student_logits, teacher_logits, reduction="none").mean(-1)


@torch.no_grad()
def without_a_gradient(student_logits, teacher_logits, mask):
    return masked_mean(kl_divergence(*(Categorical(logits=z) for z in (student_logits, teacher_logits))), mask)


def torchtune_forward(student_logits, teacher_logits, labels, ignore_index=-100):
    product = (teacher_logits.softmax(-1) * student_logits.log_softmax(-1)).sum(-1)
    return -masked_mean(product, labels != ignore_index)


def hinton_of_labels(student_logits, teacher_logits, labels, temperature=2.0):
    return masked_mean(hinton(student_logits, teacher_logits, temperature), labels != -100)


def policy_to_mixture(student_logits, teacher_logits, beta):
    if beta in (0, 1):
        return terms(student_logits, teacher_logits, beta).sum(-1)
    student, _, m = mixed(student_logits, teacher_logits, beta, 1.0)
    return (student.exp() * (student - m)).sum(-1)


def ratio_to_teacher(log_probs, teacher_log_probs, old_log_probs, mask):
    advantages = torch.where(mask, teacher_log_probs - log_probs, 0.0).detach()
    return -masked_mean(torch.where(mask, log_probs - teacher_log_probs.detach(), 0.0).exp() * advantages, mask)


def tinker_sum(target_logprobs, sampling_logprobs, teacher_logprobs, mask):
    advantages = torch.where(mask, teacher_logprobs - target_logprobs, 0.0).detach()
    return -(torch.where(mask, target_logprobs - sampling_logprobs, 0.0).exp() * advantages).sum()


def teacher_before(logprobs, teacher_logprobs, mask):
    return sampled_token(logprobs, teacher_logprobs.roll(1, dims=1), mask)


WRONG = [
    (torchtune_forward, "jsd_loss", "cross_entropy"),
    (hinton_of_labels, "jsd_loss", "times_temperature_squared"),
    (policy_to_mixture, "jsd_exact", "skew_reverse_kl"),
    (ratio_to_teacher, "distill_loss", "ratio_to_the_teacher"),
    (tinker_sum, "distill_loss", "summed"),
    (teacher_before, "distill_loss", "teacher_one_earlier"),
    (squared_error, "distill_loss", "square_back_propagated"),
    (matched_logits, "jsd_exact", "mean_square_of_logits"),
    (without_a_gradient, "jsd_loss", "detached"),
    (beta_weighs_the_student, "jsd_loss", "teacher_and_policy_swapped"),
    (forward_called_reverse, "jsd_exact", "teacher_and_policy_swapped|ends_exchanged|kl_arguments_swapped"),
    (kl_towards_mixture, "jsd_exact", "kl_arguments_swapped"),
    (no_log_target, "jsd_exact", "log_target_missing"),
    (softmax_into_kl_div, "jsd_exact", "probabilities_as_input"),
    (elementwise_mean, "jsd_loss", "mean_over_vocabulary"),
    (hinton, "jsd_exact", "times_temperature_squared"),
    (only_the_student_is_softened, "jsd_exact", "temperature_on_policy_alone"),
    (mean_of_logs, "jsd_exact", "mixture_of_logs"),
    (nothing_at_the_ends, "jsd_exact", "formula_at_the_ends"),
    (softmax_before_categorical, "jsd_exact", "softmax_twice"),
    (labels_not_used, "jsd_loss", "mask_ignored"),
    (off_by_one, "jsd_loss", "teacher_one_later"),
    (cross_entropy_for_both, "jsd_exact", "cross_entropy"),
    (clamped_top_k, "jsd_top_k", "clamped_at_0"),
    (forgot_the_gather, "jsd_top_k", "each_its_own_tokens"),
    (teacher_renormalised, "jsd_top_k", "teacher_renormalised_alone"),
    (verl_k3, "distill_loss", "k3_back_propagated"),
    (k3_in_the_reward, "distill_loss", "k3_as_advantage"),
    (mean_log_ratio, "distill_loss", "k1_back_propagated"),
    (maximised, "distill_loss", "loss_negated"),
    (not_held, "distill_loss", "advantage_not_detached"),
    (stale_log_ratio, "distill_loss", "signal_of_the_sampler"),
    (tinker_over_gaps, "teacher_advantages", "gaps_cost_discount"),
    (cumsum_of_the_past, "teacher_advantages", "from_the_left"),
    (penalty_never_negative, "teacher_advantages", "penalty_clamped_at_0"),
]


@pytest.mark.parametrize(("function", "objective", "name"), WRONG, ids=lambda x: getattr(x, "__name__", ""))
def test_wrong_ones_are_caught_and_named(function, objective, name):
    report = conformance.check(function, objective, search=False)
    assert not report.passed and names(report) & {*name.split("|")}, (names(report), report.unexplained[:2])


# ------------------------------------------------------------------------------------------------------------ the names


@pytest.mark.parametrize(
    ("name", "ours"),
    [("student_logits", "logits"), ("teacher_logits", "teacher_logits"), ("student_log_probs", "log_probs"),
     ("teacherLogprobs", "teacher_log_probs"), ("sampled_logprobs", "log_probs"), ("labels", "targets")],
)  # fmt: skip
def test_the_names_of_distillation_are_understood(name, ours):
    assert role(name) == ours


def test_the_numbers_of_distillation_are_understood():
    for name, ours in (("distillation_topk", "k"), ("kl_direction", "beta"), ("kl_discount_factor", "gamma")):
        assert ours in setting(name)


def test_what_has_no_temperature_is_compared_at_1():
    """Whatever is wrong with it: at 2 it would be called wrong because it leaves the temperature out."""

    def weights_equal(student_logits, teacher_logits, beta=0.5):
        if beta in (0, 1):
            return terms(student_logits, teacher_logits, beta).sum(-1)
        student, teacher, m = mixed(student_logits, teacher_logits, beta, 1.0)
        return (1 - beta) * (teacher.exp() * (teacher - m) + student.exp() * (student - m)).sum(-1)

    report = conformance.check(weights_equal, "jsd_exact", search=False)
    assert not report.passed and report.built_in == {"temperature": 1.0}


def test_advantages_that_must_have_no_gradient_are_not_said_to_lack_one():
    assert not [n for n in conformance.check(verl_k1, "teacher_advantages").notes if n.startswith("no gradients")]


def test_a_teacher_that_is_not_detached_is_said_and_no_failure():
    report = conformance.check(by_direction, "jsd_exact")
    assert [d.names for d in report.diagnoses if d.accepted] == [("teacher_not_detached",)]
    detached = conformance.check(
        lambda logits, teacher_logits: by_direction(logits, teacher_logits.detach()), "jsd_exact"
    )
    assert not [d for d in detached.diagnoses if d.accepted]


def test_a_divergence_that_is_the_objectives_own_is_no_direction():
    """DPPO has a setting "divergence" of its own, "tv" or "kl"; beside a teacher the word names a KL."""

    def dppo(log_probs, old_log_probs, advantages, mask, divergence, epsilon, epsilon_high, cap):
        kept = {"divergence": divergence, "epsilon": epsilon, "epsilon_high": epsilon_high, "cap": cap}
        losses = dppo_surrogate(log_probs, old_log_probs, advantages, mask, **kept)
        return sequence_sum(losses, mask)

    assert conformance.check(dppo, "dppo_loss").passed


def test_identify_names_rows_of_distillation():
    def k3_called_reverse(student_logprobs, teacher_logprobs, mask):
        u = teacher_logprobs - student_logprobs
        return (u.exp() - 1 - u)[mask].mean()

    def halfway(student_logits, teacher_logits, mask):
        student, teacher, mixture = mixed(student_logits, teacher_logits, 0.5, 1.0)
        both = teacher.exp() * (teacher - mixture) + student.exp() * (student - mixture)
        return (0.5 * both.sum(-1))[mask].mean()

    assert {"opd-k3", "opd-k3@verl-0.9.1"} <= {m.name for m in conformance.identify(k3_called_reverse).exact}
    assert "gkd@trl-1.16.0" in {m.name for m in conformance.identify(halfway).exact}


def test_identify_tells_the_whole_vocabulary_from_its_k_likeliest_tokens_and_the_rest_as_one():
    def reverse(student_logits, teacher_logits, mask):
        student, teacher, _ = mixed(student_logits, teacher_logits, 0.5, 1.0)
        return (student.exp() * (student - teacher)).sum(-1)[mask].mean()

    names = {m.name for m in conformance.identify(reverse).exact}
    assert "opd-exact" in names and not any(name.startswith("opd-topk-tail") for name in names)
