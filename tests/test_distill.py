"""On-policy distillation, by enumeration: what each form's value and gradient are in expectation."""

import inspect
import math

import enumeration as tiny
import pytest
import torch

from torchstone import distill
from torchstone.core import kl_exact, kl_k1, kl_k2, kl_k3, sequence_sum, token_entropies, token_mean
from torchstone.distill import distill_loss, jsd_exact, jsd_loss, jsd_top_k, teacher_advantages
from torchstone.reinforce import reinforce_loss

TEACHER, SAMPLER = tiny.parameters(7).detach(), tiny.parameters(3).detach()
BETAS = (0.0, 0.3, 0.5, 0.8, 1.0)
OF, REST = ("teacher", "policy"), ("tail", "renormalise", "drop")
close = torch.testing.assert_close


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def logits_of(*distributions):
    """Logits [1 1 V] whose softmax is the given distribution."""
    return (double(d).log()[None, None] for d in distributions)


def pair(seed=0, v=7):
    g = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(3, 4, v, generator=g, dtype=torch.float64) for _ in range(2))


# ---------------------------------------------------- what the tests compare with: written out, prefix by prefix


def following():
    """Row s, column v: the prefix that token v makes of prefix s; -1 where the completion ends."""
    longer = [[(*s, v) for v in range(tiny.V)] for s in tiny.PREFIXES]
    return [[tiny.PREFIXES.index(c) if c in tiny.PREFIXES else -1 for c in row] for row in longer]


def visits(theta):
    """How likely a policy's completion goes through each prefix."""
    p, reached = torch.softmax(theta.detach(), -1), {(): double(1.0)}
    for s in sorted(tiny.PREFIXES, key=len):
        reached |= {(*s, v): reached[s] * p[tiny.PREFIXES.index(s), v] for v in range(tiny.V)}
    return torch.stack([reached[s] for s in tiny.PREFIXES])


def directions(theta):
    """The gradients of KL(pi || pi_T) and KL(pi_T || pi) at each prefix, with respect to its own logits: [S V] each."""
    p, q = torch.softmax(theta.detach(), -1), torch.softmax(TEACHER, -1)
    ratio = (p / q).log()
    return p * (ratio - (p * ratio).sum(-1, keepdim=True)), p - q


def policy_gradient(theta, sampler, gamma):
    """The expected gradient of -A log pi (or of -rho A): A adds up what ``sampler`` meets after the token."""
    p, mu, q = (torch.softmax(x.detach(), -1) for x in (theta, sampler, TEACHER))
    d, value, after = (q / p).log(), {-1: double(0.0)}, following()
    advantages = torch.zeros_like(d)
    for s in sorted(range(len(after)), key=lambda s: -len(tiny.PREFIXES[s])):
        advantages[s] = d[s] + gamma * torch.stack([value[n] for n in after[s]])
        value[s] = (mu[s] * advantages[s]).sum()
    centred = advantages - (p * advantages).sum(-1, keepdim=True)
    return -visits(sampler)[:, None] * p * centred


def of_completions(theta):
    return tiny.log_probs(theta), tiny.log_probs(TEACHER), tiny.mask


def expected_gradient(losses, theta, sampler=None):
    """Of losses [N T], over the completions of ``sampler`` (of the policy itself, if None)."""
    return tiny.gradient(tiny.expected(theta if sampler is None else sampler)(losses, tiny.mask), theta)


def completions_kl(theta):
    p, q = tiny.probabilities(theta), tiny.probabilities(TEACHER)
    return (p * (p.log() - q.log())).sum()


# ------------------------------------------------------------------------------- the teacher's log-ratio as advantage


def test_DISTILL_1_advantages_by_hand():
    log_probs, teacher = double([[-2.0, 9.0, -1.0, -4.0]]), double([[-1.0, math.nan, -3.0, -0.5]])
    mask = torch.tensor([[True, False, True, True]])
    alone, half, whole = (teacher_advantages(log_probs, teacher, mask, gamma=g) for g in (0.0, 0.5, 1.0))
    close(alone, double([[1.0, 0.0, -2.0, 3.5]]))
    close(half, double([[0.875, 0.0, -0.25, 3.5]]))  # 1 - 0.25 / 2; -2 + 3.5 / 2: the gap costs no discount
    close(whole, double([[2.5, 0.0, 1.5, 3.5]]))


def test_DISTILL_1_at_gamma_0_it_is_k1_with_the_other_sign():
    theta = tiny.parameters(0)
    close(teacher_advantages(*of_completions(theta), gamma=0.0), -kl_k1(*of_completions(theta)).detach())


def test_DISTILL_1_nothing_of_the_teacher_or_of_the_policy_is_learnt_through_it():
    x, y = (torch.zeros(1, 3, requires_grad=True) for _ in range(2))
    assert not teacher_advantages(x, y, torch.ones(1, 3, dtype=torch.bool), gamma=1.0).requires_grad


def test_DISTILL_4_at_gamma_0_each_prefix_is_held_fixed():
    theta = tiny.parameters(0)
    reverse, _ = directions(theta)
    loss = distill_loss(*of_completions(theta), reduce=tiny.expected(theta), gamma=0.0)
    close(tiny.gradient(loss.value, theta), visits(theta)[:, None] * reverse)


def test_DISTILL_4_at_gamma_1_it_is_the_kl_of_completions():
    theta = tiny.parameters(0)
    loss = distill_loss(*of_completions(theta), reduce=tiny.expected(theta), gamma=1.0)
    close(tiny.gradient(loss.value, theta), tiny.gradient(completions_kl(theta), theta))


def test_DISTILL_4_the_two_gammas_differ_by_what_a_token_does_to_later_ones():
    theta = tiny.parameters(0)
    reverse, _ = directions(theta)
    alone, whole = visits(theta)[:, None] * reverse, tiny.gradient(completions_kl(theta), theta)
    assert (alone - whole).norm() > 0.05 * whole.norm()
    last = torch.tensor([len(s) == tiny.T - 1 for s in tiny.PREFIXES])
    close(alone[last], whole[last])  # no later tokens


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.0])
def test_DISTILL_4_at_any_gamma_it_is_the_policy_gradient_of_discounted_log_ratios(gamma):
    theta = tiny.parameters(0)
    loss = distill_loss(*of_completions(theta), reduce=tiny.expected(theta), gamma=gamma)
    close(tiny.gradient(loss.value, theta), policy_gradient(theta, theta, gamma))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_DISTILL_4_off_policy_the_sampler_chooses_the_prefixes_and_what_follows(gamma):
    theta, old = tiny.parameters(0), tiny.log_probs(SAMPLER)
    loss = distill_loss(*of_completions(theta), reduce=tiny.expected(SAMPLER), gamma=gamma, old_log_probs=old)
    found = tiny.gradient(loss.value, theta)
    close(found, policy_gradient(theta, SAMPLER, gamma))
    assert (found - policy_gradient(theta, theta, gamma)).norm() > 0.05 * found.norm()
    without = distill_loss(*of_completions(theta), reduce=tiny.expected(SAMPLER), gamma=gamma)
    assert (found - tiny.gradient(without.value, theta)).norm() > 0.05 * found.norm()  # the ratio is needed


def test_DISTILL_4_off_policy_at_gamma_0_it_is_the_reverse_kl_at_the_samplers_prefixes():
    theta, old = tiny.parameters(0), tiny.log_probs(SAMPLER)
    loss = distill_loss(*of_completions(theta), reduce=tiny.expected(SAMPLER), gamma=0.0, old_log_probs=old)
    close(tiny.gradient(loss.value, theta), visits(SAMPLER)[:, None] * directions(theta)[0])


def test_DISTILL_4_a_sampler_that_is_the_policy_changes_no_gradient():
    theta = tiny.parameters(0)
    log_probs, teacher, mask = of_completions(theta)
    one = distill_loss(log_probs, teacher, mask, reduce=token_mean, gamma=0.5)
    two = distill_loss(log_probs, teacher, mask, reduce=token_mean, gamma=0.5, old_log_probs=log_probs)
    close(tiny.gradient(one.value, theta), tiny.gradient(two.value, theta))


def test_DISTILL_4_by_hand():
    log_probs, teacher, old = double([[-1.0, -2.0]]), double([[-0.5, -4.0]]), double([[-1.0, -2.5]])
    both = torch.ones(1, 2, dtype=torch.bool)
    how = {"reduce": sequence_sum, "gamma": 0.0}
    on, off = (distill_loss(log_probs, teacher, both, old_log_probs=o, **how) for o in (None, old))
    close(on.value, double(0.5 * 1 - 2 * 2))  # A is 0.5, -2; -A log pi is 0.5, -4
    close(off.value, double(-0.5 + 2 * math.exp(0.5)))  # rho is 1, e^0.5
    assert on.metrics.keys() == {"kl"} and float(on.metrics["kl"]) == pytest.approx((-0.5 + 2) / 2)
    assert float(off.metrics["approx_kl"]) == pytest.approx((math.exp(0.5) - 1 - 0.5) / 2)


def test_DISTILL_4_the_metric_estimates_the_kl_of_policy_to_teacher():
    theta = tiny.parameters(0)
    kl = tiny.expected(theta)(kl_k1(*of_completions(theta)), tiny.mask)
    close(kl, completions_kl(theta))
    one = torch.ones(1, 1, dtype=torch.bool)
    metrics = distill_loss(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]), one, reduce=token_mean, gamma=0.0).metrics
    assert float(metrics["kl"]) == 2.0


def test_DISTILL_4_a_policy_that_is_its_teacher_gets_no_gradient_from_any_sample():
    theta = TEACHER.clone().requires_grad_()
    for gamma in (0.0, 1.0):
        loss = distill_loss(*of_completions(theta), reduce=token_mean, gamma=gamma)
        assert (tiny.gradient(loss.value, theta) == 0).all()
    forward = kl_k3(*of_completions(theta))
    assert (tiny.gradient(forward[0].sum(), theta) == 0).all()


# -------------------------------------------------------------------------- the same estimators inside the loss instead


def test_k1_inside_the_loss_does_nothing():
    theta = tiny.parameters(0)
    close(expected_gradient(kl_k1(*of_completions(theta)), theta), torch.zeros_like(theta), rtol=0, atol=1e-15)


def test_k2_inside_the_loss_is_reverse_kl_with_the_prefix_held_fixed():
    theta = tiny.parameters(0)
    reverse, _ = directions(theta)
    close(expected_gradient(kl_k2(*of_completions(theta)), theta), visits(theta)[:, None] * reverse)


def test_k3_inside_the_loss_is_forward_kl_with_the_prefix_held_fixed():
    theta = tiny.parameters(0)
    reverse, forward = directions(theta)
    found = expected_gradient(kl_k3(*of_completions(theta)), theta)
    close(found, visits(theta)[:, None] * forward)
    assert torch.cosine_similarity(found.flatten(), (visits(theta)[:, None] * reverse).flatten(), dim=0) < 0.99


def test_k3_as_advantage_is_the_reverse_direction_less_the_forward_one():
    theta = tiny.parameters(0)
    reverse, forward = directions(theta)
    k3 = kl_k3(*of_completions(theta)).detach()
    loss = reinforce_loss(tiny.log_probs(theta), -k3, tiny.mask, reduce=tiny.expected(theta))
    close(tiny.gradient(loss.value, theta), visits(theta)[:, None] * (reverse - forward))


def test_k3_as_advantage_can_raise_both_kls():
    """The policy gives a token 1/4, the teacher 1/2: the step makes it less likely still."""
    z = double([0.25, 0.75]).log().requires_grad_()
    log_p, log_q = torch.log_softmax(z, 0), double([0.5, 0.5]).log()
    every = torch.ones(2, 1, dtype=torch.bool)
    weights = log_p.exp().detach()

    def step(estimate, sign):
        advantages = sign * estimate(log_p[:, None], log_q[:, None], every)[:, 0].detach()
        return torch.autograd.grad((weights * -advantages * log_p).sum(), z, retain_graph=True)[0][0]

    close(step(kl_k3, -1), double(1 / 4 - 3 / 16 * math.log(3)))  # 0.044: z, and with it pi, goes down
    close(step(kl_k1, -1), double(-3 / 16 * math.log(3)))  # -0.206: it goes up
    for kl in ((log_p.exp() * (log_p - log_q)).sum(), (log_q.exp() * (log_q - log_p)).sum()):
        slope = torch.autograd.grad(kl, z, retain_graph=True)[0][0]
        assert -slope * step(kl_k3, -1) > 0 > -slope * step(kl_k1, -1)


# ------------------------------------------------------------------------------------------------ the whole vocabulary


def test_DISTILL_2_by_hand():
    z, t = logits_of([1 / 2, 1 / 2], [1 / 4, 3 / 4])
    reverse = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    forward = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    middle = (0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)) / 2  # M is 3/8, 5/8
    middle += (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)) / 2
    for beta, value in ((1.0, reverse), (0.0, forward), (0.5, middle)):
        close(jsd_exact(z, t, beta=beta, temperature=1.0), double([[value]]))
    assert (round(reverse, 4), round(forward, 4), round(middle, 4)) == (0.1438, 0.1308, 0.0338)


def test_DISTILL_2_the_mixture_leans_to_the_teacher_as_beta_grows():
    """beta weighs the teacher: with M = pi_T / 4 + 3 pi / 4 = (7/16, 9/16)."""
    z, t = logits_of([1 / 2, 1 / 2], [1 / 4, 3 / 4])
    to_teacher = 0.25 * math.log(4 / 7) + 0.75 * math.log(12 / 9)
    to_policy = 0.5 * math.log(8 / 7) + 0.5 * math.log(8 / 9)
    close(jsd_exact(z, t, beta=0.25, temperature=1.0), double([[0.25 * to_teacher + 0.75 * to_policy]]))


def test_DISTILL_2_the_ends_are_the_two_directions_of_kl():
    z, t = pair()
    close(jsd_exact(z, t, beta=1.0, temperature=2.0), kl_exact(z, t, temperature=2.0))
    close(jsd_exact(z, t, beta=0.0, temperature=2.0), kl_exact(t, z, temperature=2.0))
    assert (kl_exact(z, t, temperature=2.0) - kl_exact(t, z, temperature=2.0)).abs().max() > 0.1


def slope(z, t, beta, temperature=1.0):
    z = z.detach().clone().requires_grad_()
    value = jsd_exact(z, t, beta=beta, temperature=temperature)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_DISTILL_2_near_an_end_it_goes_to_0_and_over_its_distance_to_the_kl(end):
    z, t = (x / 2 for x in pair())
    value, gradient = slope(z, t, end)
    errors = []
    for distance in (1e-4, 1e-6):
        near_value, near_gradient = slope(z, t, abs(end - distance))
        assert (near_value < 10 * distance).all()  # while at the end it is the KL
        errors.append([(near_value / distance - value).abs().max(), (near_gradient / distance - gradient).abs().max()])
    assert value.mean() > 0.2 and max(errors[1]) < 1e-4
    for far, near in zip(*errors, strict=True):
        assert 90 < far / near < 110  # a hundredth of the distance, a hundredth of the error


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8])
def test_DISTILL_2_its_gradient_in_closed_form(beta):
    z, t = pair()
    p, q = torch.softmax(z, -1), torch.softmax(t, -1)
    ratio = (p / (beta * q + (1 - beta) * p)).log()
    close(slope(z, t, beta)[1], (1 - beta) * p * (ratio - (p * ratio).sum(-1, keepdim=True)))


@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_2_to_exchange_the_two_is_to_exchange_the_ends(beta):
    z, t = pair()
    close(jsd_exact(z, t, beta=beta, temperature=1.0), jsd_exact(t, z, beta=1 - beta, temperature=1.0))


@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_2_it_is_0_and_flat_only_where_both_agree(beta):
    z, t = pair()
    value, gradient = slope(z, z + 3.0, beta)  # a shift of all logits changes no distribution
    close(value, torch.zeros_like(value), rtol=0, atol=1e-14)
    close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)
    assert (slope(z, t, beta)[0] > 0.01).all()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_DISTILL_2_the_temperature_divides_both_logits_and_nothing_else(beta, temperature):
    z, t = pair()
    value, gradient = slope(z, t, beta, temperature)
    cooled_value, cooled_gradient = slope(z / temperature, t / temperature, beta)
    close(value, cooled_value)
    close(gradient, cooled_gradient / temperature)  # not multiplied by temperature^2


@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_2_gradients_flow_to_the_policy_alone(beta):
    z, t = (x.requires_grad_() for x in pair())
    for value in (
        jsd_exact(z, t, beta=beta, temperature=1.0),
        *(jsd_top_k(z, t, k=3, of=of, rest=rest, beta=beta, temperature=1.0) for of in OF for rest in REST),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert gradient.abs().sum() > 0 and value.grad_fn is not None
    z = z.detach()
    assert not jsd_exact(z, t, beta=beta, temperature=1.0).requires_grad
    assert not jsd_top_k(z, t, k=3, of="teacher", rest="tail", beta=beta, temperature=1.0).requires_grad


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_DISTILL_2_a_token_that_both_exclude_might_as_well_not_be_there(beta, dtype):
    z, t = (x.to(dtype) for x in pair())
    shut_z, shut_t = (torch.cat([x, torch.full((3, 4, 2), -torch.inf, dtype=dtype)], -1) for x in (z, t))
    (value, gradient), (shut_value, shut_gradient) = slope(z, t, beta), slope(shut_z, shut_t, beta)
    close(shut_value, value)
    close(shut_gradient[..., :-2], gradient)
    assert (shut_gradient[..., -2:] == 0).all()


def test_DISTILL_2_a_token_that_one_excludes_costs_what_the_mathematics_says():
    z, t = double([[[0.0, 0.0, -torch.inf]]]), double([[[0.0, -torch.inf, 0.0]]])
    for beta in (0.3, 0.5, 0.8):
        m = -beta / 2 * math.log(beta) - (1 - beta) / 2 * math.log(1 - beta)  # the tokens that one alone has
        value, gradient = slope(z, t, beta)
        close(value, double([[m]]))
        assert gradient.isfinite().all() and gradient[..., 2] == 0
    for beta in (0.0, 1.0):
        assert jsd_exact(z, t, beta=beta, temperature=1.0).item() == torch.inf
    policy_shut, teacher_open = double([[[0.0, -torch.inf]]]), double([[[0.0, 0.0]]])
    close(jsd_exact(policy_shut, teacher_open, beta=1.0, temperature=1.0), double([[math.log(2)]]))
    close(jsd_exact(teacher_open, policy_shut, beta=0.0, temperature=1.0), double([[math.log(2)]]))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_DISTILL_2_between_the_ends_it_is_bounded(beta):
    z, t = double([[[0.0, -torch.inf]]]), double([[[-torch.inf, 0.0]]])
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    close(jsd_exact(z, t, beta=beta, temperature=1.0), double([[bound]]))
    assert (jsd_exact(*(300 * x for x in pair()), beta=beta, temperature=1.0) <= bound + 1e-12).all()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_DISTILL_2_far_off_logits_give_finite_numbers(beta, dtype):
    z, t = (1000 * x.to(dtype) for x in pair())
    value, gradient = slope(z, t, beta)
    assert value.isfinite().all() and gradient.isfinite().all()
    for of in OF:
        for rest in REST:
            z = z.detach().requires_grad_()
            value = jsd_top_k(z, t, k=3, of=of, rest=rest, beta=beta, temperature=1.0)
            (gradient,) = torch.autograd.grad(value.sum(), z)
            assert value.isfinite().all() and gradient.isfinite().all(), (of, rest)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_2_half_inputs_are_computed_in_float32(half, beta):
    z, t = (x.to(half) for x in pair())
    value, gradient = slope(z, t, beta)
    exact_value, exact_gradient = slope(z.float(), t.float(), beta)
    assert value.dtype == torch.float32
    close(value, exact_value, rtol=0, atol=0)
    close(gradient, exact_gradient.to(half), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------ its top k


def test_DISTILL_3_by_hand():
    """Of the teacher: its likeliest two are tokens 0 and 1. Of the policy: 3 and 0."""
    p, q = [0.2, 0.1, 0.1, 0.6], [0.5, 0.3, 0.1, 0.1]
    z, t = logits_of(p, q)

    def kl(one, other):
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    expected = {
        ("teacher", "tail"): ([0.2, 0.1, 0.7], [0.5, 0.3, 0.2]),
        ("teacher", "renormalise"): ([2 / 3, 1 / 3], [5 / 8, 3 / 8]),
        ("teacher", "drop"): ([0.2, 0.1], [0.5, 0.3]),
        ("policy", "tail"): ([0.6, 0.2, 0.2], [0.1, 0.5, 0.4]),
        ("policy", "renormalise"): ([3 / 4, 1 / 4], [1 / 6, 5 / 6]),
        ("policy", "drop"): ([0.6, 0.2], [0.1, 0.5]),
    }
    for (of, rest), (p_k, q_k) in expected.items():
        m = [0.3 * b + 0.7 * a for a, b in zip(p_k, q_k, strict=True)]
        for beta, value in ((1.0, kl(p_k, q_k)), (0.0, kl(q_k, p_k)), (0.3, 0.3 * kl(q_k, m) + 0.7 * kl(p_k, m))):
            close(jsd_top_k(z, t, k=2, of=of, rest=rest, beta=beta, temperature=1.0), double([[value]]))


def closed_form(z, t, k, of, rest, beta):
    """The gradient with respect to z of one position, [V]: p (D - sum p D), D the slope in each probability."""
    p, q = torch.softmax(z, 0), torch.softmax(t, 0)
    kept = torch.zeros(len(z), dtype=torch.bool)
    kept[sorted(range(len(z)), key=lambda v: -(q if of == "teacher" else p)[v])[:k]] = True

    def d(a, b):
        if beta == 1:
            return (a / b).log() + 1
        return -b / a if beta == 0 else (1 - beta) * (a / (beta * b + (1 - beta) * a)).log()

    if rest == "tail":
        slopes = torch.where(kept, d(p, q), d(p[~kept].sum(), q[~kept].sum()))
    elif rest == "renormalise":
        a, b = p / p[kept].sum(), q / q[kept].sum()
        slopes = torch.where(kept, d(a, b) - (a * d(a, b))[kept].sum(), 0) / p[kept].sum()
    else:
        slopes = torch.where(kept, d(p, q), 0)
    return p * (slopes - (p * slopes).sum())


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("k", [1, 2])
def test_DISTILL_3_the_expected_gradient_of_each_form_in_closed_form(k, of, rest, beta):
    theta = tiny.parameters(0)
    how = {"k": k, "of": of, "rest": rest, "beta": beta}
    per_state = jsd_top_k(theta[None], TEACHER[None], temperature=1.0, **how)[0]
    by_hand = torch.stack([closed_form(z, t, **how) for z, t in zip(theta.detach(), TEACHER, strict=True)])
    close(expected_gradient(per_state[tiny.states], theta), visits(theta)[:, None] * by_hand)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("of", OF)
def test_DISTILL_3_k_equal_to_the_vocabulary_is_the_whole_divergence(of, rest, beta):
    z, t = pair()
    z.requires_grad_()
    exact = jsd_exact(z, t, beta=beta, temperature=0.7)
    found = jsd_top_k(z, t, k=7, of=of, rest=rest, beta=beta, temperature=0.7)
    close(found, exact)
    close(*(torch.autograd.grad(x.sum(), z)[0] for x in (found, exact)))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("of", OF)
def test_DISTILL_3_with_the_tail_it_is_between_0_and_the_whole_and_grows_with_k(of, beta):
    z, t = pair()
    how = {"of": of, "rest": "tail", "beta": beta, "temperature": 1.0}
    values = torch.stack([jsd_top_k(z, t, k=k, **how) for k in range(1, 8)])
    assert (values >= 0).all() and (values[1:] >= values[:-1] - 1e-12).all()
    assert (values[0] < jsd_exact(z, t, beta=beta, temperature=1.0) - 1e-3).all()


@pytest.mark.parametrize("of", OF)
def test_DISTILL_3_dropped_terms_are_a_divergence_between_the_ends_and_none_at_them(of):
    z, t = pair()
    how = {"k": 3, "of": of, "temperature": 1.0}
    between = jsd_top_k(z, t, rest="drop", beta=0.5, **how)
    assert (between >= 0).all() and (between <= jsd_top_k(z, t, rest="tail", beta=0.5, **how)).all()
    teacher = [0.5, 0.3, 0.2]  # its likeliest token, alone:
    for beta, policy, value in (
        (1.0, [0.4, 0.4, 0.2], 0.4 * math.log(4 / 5)),
        (0.0, [0.6, 0.2, 0.2], 0.5 * math.log(5 / 6)),
    ):
        z, t = logits_of(policy, teacher)
        close(jsd_top_k(z, t, k=1, of="teacher", rest="drop", beta=beta, temperature=1.0), double([[value]]))
        assert value < 0


@pytest.mark.parametrize(("beta", "force"), [(1.0, 1 / 4), (0.0, -1 / 4), (0.5, 0.0)])
def test_DISTILL_3_dropping_pushes_a_policy_away_from_its_equal_at_the_ends(beta, force):
    """Policy and teacher are equal, (1/2, 1/2), and k is 1: a step down lowers the token at beta 1, raises it at 0."""
    z, t = double([[[0.0, 0.0]]]).requires_grad_(), double([[[1e-9, 0.0]]])  # token 0 is the teacher's likeliest
    value = jsd_top_k(z, t, k=1, of="teacher", rest="drop", beta=beta, temperature=1.0)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    close(gradient, double([[[force, -force]]]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_3_renormalised_it_does_not_see_where_the_other_mass_went(beta):
    """A policy with 1 % on the teacher's two tokens, in the teacher's proportion, pays nothing."""
    z, t = logits_of([0.006, 0.004, 0.99], [0.594, 0.396, 0.01])
    z.requires_grad_()
    blind = jsd_top_k(z, t, k=2, of="teacher", rest="renormalise", beta=beta, temperature=1.0)
    (gradient,) = torch.autograd.grad(blind.sum(), z)
    close(blind, torch.zeros_like(blind), rtol=0, atol=1e-12)
    close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    assert jsd_top_k(z, t, k=2, of="teacher", rest="tail", beta=beta, temperature=1.0) > 0.4


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("rest", REST)
def test_DISTILL_3_excluded_tokens_add_nothing_even_among_the_k(rest, beta):
    z, t = pair()
    shut = torch.tensor([False] * 5 + [True] * 2)
    z, t = (x.masked_fill(shut, -torch.inf) for x in (z, t))
    z.requires_grad_()
    whole = jsd_exact(z, t, beta=beta, temperature=1.0)
    for k in (5, 6, 7):  # 5 tokens can be chosen: the tail is then empty
        found = jsd_top_k(z, t, k=k, of="teacher", rest=rest, beta=beta, temperature=1.0)
        close(found, whole)
        (gradient,) = torch.autograd.grad(found.sum(), z)
        assert gradient.isfinite().all() and (gradient[..., shut] == 0).all()


def test_DISTILL_3_a_tail_that_one_of_them_does_not_have():
    """The policy takes only the two tokens of K, the teacher others too; then the other way round."""
    z, t = double([[[0.0, 0.0, -torch.inf]]]), double([[[1.0, 1.0, 0.0]]])
    kept, left = math.e / (2 * math.e + 1), 1 / (2 * math.e + 1)
    how = {"k": 2, "of": "teacher", "rest": "tail", "temperature": 1.0}
    close(jsd_top_k(z, t, beta=1.0, **how), double([[math.log(0.5 / kept)]]))
    assert jsd_top_k(z, t, beta=0.0, **how).item() == torch.inf
    m = (kept + 0.5) / 2, left / 2
    to_policy = math.log(0.5 / m[0]) / 2
    to_teacher = (2 * kept * math.log(kept / m[0]) + left * math.log(left / m[1])) / 2
    close(jsd_top_k(z, t, beta=0.5, **how), double([[to_policy + to_teacher]]))
    close(jsd_top_k(t, z, beta=0.0, **(how | {"of": "policy"})), double([[math.log(0.5 / kept)]]))


def test_DISTILL_3_a_position_without_a_tail_beside_one_that_has_it():
    """The gradient of KL(pi || pi_T) is p (log p / q - KL), here of two positions with q = (2/5, 2/5, 1/5)."""
    z, t = logits_of([3 / 4, 1 / 4, 0], [2 / 5, 2 / 5, 1 / 5])
    y, _ = logits_of([1 / 2, 1 / 4, 1 / 4], [2 / 5, 2 / 5, 1 / 5])
    z, t = torch.cat([z, y], 1).requires_grad_(), torch.cat([t, t], 1)
    found = jsd_top_k(z, t, k=2, of="teacher", rest="tail", beta=1.0, temperature=1.0)
    values = [0.75 * math.log(15 / 8) + 0.25 * math.log(5 / 8), 0.75 * math.log(5 / 4) + 0.25 * math.log(5 / 8)]
    close(found, double([values]))
    (gradient,) = torch.autograd.grad(found.sum(), z)
    a, b = math.log(3) / 16, math.log(2) / 16
    close(gradient, double([[[3 * a, -3 * a, 0], [2 * b, -3 * b, b]]]))


@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_3_the_temperature_divides_both_logits(beta):
    z, t = pair()
    for of in OF:
        for rest in REST:
            how = {"k": 3, "of": of, "rest": rest, "beta": beta}
            close(
                jsd_top_k(z, t, temperature=2.0, **how),
                jsd_top_k(z / 2, t / 2, temperature=1.0, **how),
            )


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_DISTILL_3_half_inputs_are_computed_in_float32(half):
    z, t = (x.to(half) for x in pair())
    how = {"k": 3, "of": "policy", "rest": "tail", "beta": 0.3, "temperature": 1.0}
    found = jsd_top_k(z, t, **how)
    assert found.dtype == torch.float32
    close(found, jsd_top_k(z.float(), t.float(), **how), rtol=0, atol=0)


@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("of", OF)
def test_DISTILL_3_single_precision_strides_and_devices_change_nothing(of, rest):
    how = {"k": 3, "of": of, "rest": rest, "beta": 0.3, "temperature": 0.7}
    z, t = pair()
    before = z.clone(), t.clone()
    exact = jsd_top_k(z, t, **how)
    assert torch.equal(z, before[0]) and torch.equal(t, before[1])
    close(jsd_top_k(z.float(), t.float(), **how), exact, rtol=1e-5, atol=1e-6, check_dtype=False)
    close(jsd_top_k(*(x.mT.contiguous().mT for x in (z, t)), **how), exact)
    with torch.device("meta"):  # what is made without saying where lies on the default device: here no numbers
        close(jsd_top_k(z, t, **how), exact, rtol=0, atol=0)
    assert torch.autograd.gradcheck(lambda x: jsd_top_k(x, t, **how), z.requires_grad_(), fast_mode=True)


# -------------------------------------------------------------------------------------------------------- the full loss


def full_loss(theta, sampler, beta):
    policy, teacher = theta[tiny.states], TEACHER[tiny.states]
    policy, teacher = (x.masked_fill(~tiny.mask[..., None], math.nan) for x in (policy, teacher))
    return jsd_loss(policy, teacher, tiny.mask, reduce=tiny.expected(sampler), beta=beta, temperature=1.0)


@pytest.mark.parametrize("beta", BETAS)
def test_DISTILL_5_the_expected_gradient_is_that_of_each_prefixs_divergence(beta):
    theta = tiny.parameters(0)
    p, q = torch.softmax(theta.detach(), -1), torch.softmax(TEACHER, -1)
    ratio = (p / (beta * q + (1 - beta) * p)).log()
    between = (1 - beta) * p * (ratio - (p * ratio).sum(-1, keepdim=True))
    by_hand = {1.0: directions(theta)[0], 0.0: directions(theta)[1]}.get(beta, between)
    close(tiny.gradient(full_loss(theta, theta, beta).value, theta), visits(theta)[:, None] * by_hand)
    close(tiny.gradient(full_loss(theta, SAMPLER, beta).value, theta), visits(SAMPLER)[:, None] * by_hand)


def test_DISTILL_5_reverse_kl_in_full_is_what_gamma_0_estimates():
    theta = tiny.parameters(0)
    sampled = distill_loss(*of_completions(theta), reduce=tiny.expected(theta), gamma=0.0)
    close(*(tiny.gradient(x.value, theta) for x in (full_loss(theta, theta, 1.0), sampled)))
    close(full_loss(theta, theta, 1.0).value, completions_kl(theta))  # the value is the whole KL


def test_DISTILL_5_the_loss_is_the_reduced_divergence():
    z, t = pair()
    mask = torch.tensor([[True, False, True, True], [False, True, True, False], [False] * 4])
    loss = jsd_loss(z, t, mask, reduce=token_mean, beta=0.3, temperature=2.0)
    divergences, entropies = jsd_exact(z, t, beta=0.3, temperature=2.0), token_entropies(z, temperature=2.0)
    close(loss.value, divergences[mask].mean())
    assert loss.metrics.keys() == {"jsd", "entropy"}
    assert float(loss.metrics["jsd"]) == pytest.approx(divergences[mask].mean().item())
    assert float(loss.metrics["entropy"]) == pytest.approx(entropies[mask].mean().item())


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_DISTILL_5_what_lies_under_the_mask_enters_no_arithmetic(beta):
    """Neither model's NaN is met on the way back, not even where it would be thrown away later."""
    mask = torch.tensor([[True, False, True, True]] * 3)
    z, t = (x.masked_fill(~mask[..., None], math.nan).requires_grad_() for x in pair())
    with torch.autograd.detect_anomaly():
        jsd_loss(z, t, mask, reduce=token_mean, beta=beta, temperature=1.0).value.backward()
    assert z.grad.isfinite().all() and t.grad is None


# ------------------------------------------------------------------------------------------------------------ bad input

TOP_K = {"k": 2, "of": "teacher", "rest": "tail", "beta": 0.5, "temperature": 1.0}


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        ("k", 0, "k: expected an integer from 1 to the vocabulary's 7, got 0"),
        ("k", 8, "k: expected an integer from 1 to the vocabulary's 7, got 8"),
        ("k", 2.0, "k: expected an integer from 1 to the vocabulary's 7, got 2.0"),
        ("k", True, "k: expected an integer from 1 to the vocabulary's 7, got True"),
        ("of", "student", "of: expected 'teacher' or 'policy', got 'student'"),
        ("of", None, "of: expected 'teacher' or 'policy', got None"),
        ("of", [], "of: expected 'teacher' or 'policy', got []"),
        ("rest", "renormalize", "rest: expected 'tail', 'renormalise' or 'drop', got 'renormalize'"),
        ("beta", 1.1, "beta: expected a finite number >= 0 and <= 1, got 1.1"),
        ("beta", -0.1, "beta: expected a finite number >= 0 and <= 1, got -0.1"),
        ("beta", math.nan, "beta: expected a finite number >= 0 and <= 1, got nan"),
        ("temperature", 0.0, "temperature: expected a finite number above 0, got 0.0"),
    ],
)
def test_DISTILL_3_a_bad_number_is_named(number, value, message, unchecked):
    with pytest.raises(ValueError) as error:
        jsd_top_k(*pair(), **(TOP_K | {number: value}))
    assert str(error.value) == message


def test_a_teacher_with_another_vocabulary_is_named(unchecked):
    z, t = pair()
    every = torch.ones(3, 4, dtype=torch.bool)
    for function, arguments, how in (
        (jsd_exact, (), {}),
        (jsd_top_k, (), {"k": 2, "of": "teacher", "rest": "tail"}),
        (jsd_loss, (every,), {"reduce": token_mean}),
    ):
        for teacher, shape in ((t[..., :5], "[3, 4, 5]"), (torch.cat([t, t], -1), "[3, 4, 14]"), (t[0], "[4, 7]")):
            with pytest.raises(ValueError) as error:
                function(z, teacher, *arguments, beta=0.5, temperature=1.0, **how)
            assert str(error.value) == (
                f"teacher_logits: expected a floating-point tensor of shape [3, 4, 7], got float64 {shape}"
            )
        for policy, teacher in ((z[0], t[0]), (z.tolist(), t), (None, t), (z.long(), t)):
            with pytest.raises(ValueError, match=r"^logits: expected a floating-point tensor"):
                function(policy, teacher, *arguments, beta=0.5, temperature=1.0, **how)
    with pytest.raises(ValueError, match=r"^logits: expected .* of shape \[3, 3, 7\], got float64 \[3, 4, 7\]"):
        jsd_loss(z, t, every[:, :3], reduce=token_mean, beta=0.5, temperature=1.0)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan, None, True])
def test_DISTILL_1_a_gamma_outside_0_and_1_is_named(gamma, unchecked):
    one = torch.ones(1, 1, dtype=torch.bool)
    for function, how in ((teacher_advantages, {}), (distill_loss, {"reduce": token_mean})):
        with pytest.raises(ValueError, match=r"^gamma: expected a finite number >= 0 and <= 1, got"):
            function(torch.zeros(1, 1), torch.zeros(1, 1), one, gamma=gamma, **how)


def test_what_published_code_disagrees_on_has_no_default():
    for name in distill.__all__:
        parameters = inspect.signature(getattr(distill, name)).parameters.values()
        assert {p.name for p in parameters if p.default is not p.empty} <= {"old_log_probs"}


@pytest.mark.filterwarnings("ignore:reduction")
def test_what_torchs_kl_div_means():
    """Its first argument is the second of the KL, and "mean" divides by the vocabulary too."""
    (z, t), every = pair(), torch.ones(3, 4, dtype=torch.bool)
    log_p, log_q = torch.log_softmax(z, -1), torch.log_softmax(t, -1)
    kl_div = torch.nn.functional.kl_div
    close(kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1), jsd_exact(z, t, beta=0.0, temperature=1.0))
    mean = kl_div(log_p, log_q, reduction="mean", log_target=True)
    close(7 * mean, jsd_loss(z, t, every, reduce=token_mean, beta=0.0, temperature=1.0).value)
