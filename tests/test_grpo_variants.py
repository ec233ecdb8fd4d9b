"""What came after GRPO, each against its closed form, a sum written out, or an exact expectation."""

import math

import enumeration as tiny
import pytest
import torch
from torch import nan, tensor

from torchstone.core import kl_k1, kl_k2, kl_k3, sequence_mean
from torchstone.grpo.variants import (
    centred_log_ratios,
    chord_weights,
    cispo_surrogate,
    dppo_surrogate,
    gmpo_surrogate,
    group_token_mean,
    kl_k3_with_k2_gradient,
    mixed_groups,
    off_policy_weights,
    overlong_penalties,
    quadratic_surrogate,
    ratio_weighted_kl,
    real_surrogate,
    sapo_surrogate,
    sequence_log_ratios,
    topr_surrogate,
    vespo_surrogate,
)
from torchstone.ppo import clipped_surrogate
from torchstone.reinforce.variants import soft_values

f64 = torch.float64
RATIOS = [0.1, 0.7, 1.0, 1.3, 6.0]  # on both sides of every clip below
MASK = tensor([[True, True, False], [True, True, True]])
MOVED = tensor([[0.4, -0.2, nan], [0.1, 0.2, 0.6]], dtype=f64)  # log pi - log pi_old


def one_row(ratios=RATIOS):
    """Tokens with these ratios, log pi = -1 under the present policy."""
    new = torch.full((1, len(ratios)), -1.0, dtype=f64, requires_grad=True)
    return new, (new - tensor([ratios], dtype=f64).log()).detach(), torch.ones(1, len(ratios), dtype=torch.bool)


def slopes(loss, log_probs):
    """d loss_t / d log pi_t."""
    return torch.autograd.grad(loss.sum(), log_probs)[0][0].tolist()


def test_GRPO_4_one_ratio_a_sequence_by_hand():
    found = sequence_log_ratios(MOVED, torch.zeros_like(MOVED), MASK, token_gradient=False)
    torch.testing.assert_close(found, tensor([[0.1, 0.1, 0], [0.3, 0.3, 0.3]], dtype=f64))


def test_GRPO_4_the_gradient_of_gspo_is_the_mean_score_times_ratio_times_advantage():
    log_probs = MOVED.clone().requires_grad_()
    s = sequence_log_ratios(log_probs, torch.zeros_like(MOVED), MASK, token_gradient=False)
    advantages = tensor([2.0, -1.0], dtype=f64)
    losses = clipped_surrogate(s, torch.zeros_like(s), advantages, MASK, epsilon=9.0)
    sequence_mean(losses, MASK).backward()
    first, second = -2 * math.exp(0.1) / 2, 1 * math.exp(0.3) / 3  # -A s / |y|, for each of 2 rows
    expected = tensor([[first, first, 0], [second] * 3], dtype=f64) / 2
    torch.testing.assert_close(log_probs.grad, expected)


def test_GRPO_5_each_token_moves_by_its_own_advantage():
    log_probs = MOVED.clone().requires_grad_()
    s = sequence_log_ratios(log_probs, torch.zeros_like(MOVED), MASK, token_gradient=True)
    torch.testing.assert_close(s.detach(), tensor([[0.1, 0.1, 0], [0.3, 0.3, 0.3]], dtype=f64))
    own = tensor([[1.0, 2.0, 9.0], [0.0, -1.0, 3.0]], dtype=f64)
    clipped_surrogate(s, torch.zeros_like(s), own, MASK, epsilon=9.0).sum().backward()
    expected = -own * tensor([[0.1, 0.1, 0], [0.3, 0.3, 0.3]], dtype=f64).exp()
    torch.testing.assert_close(log_probs.grad, expected.masked_fill(~MASK, 0))


def test_GRPO_6_the_penalty_of_dapo_by_hand():
    lengths = tensor([[100.0, 16384, 18432, 20480, 20481, 30000]], dtype=f64)
    penalties = overlong_penalties(lengths, max_length=20480, cache=4096)
    assert penalties.tolist() == [[0, 0, -0.5, -1, -1, -1]]
    assert overlong_penalties(tensor([[3.0, 4.0, 4.5, 5.0]]), max_length=5, cache=1).tolist() == [[0, 0, -0.5, -1]]


def test_GRPO_7_a_group_teaches_if_its_scored_rewards_differ():
    rewards = tensor([[0.7] * 8, [0.7] * 7 + [0.8], [1, nan] * 4, [0, 1, nan, nan] * 2])
    keep = mixed_groups(rewards, scored=~rewards.isnan())
    assert keep.tolist() == [False, True, False, True]
    assert mixed_groups(rewards[:2]).tolist() == [False, True]


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_GRPO_8_clips_the_weight_and_keeps_every_gradient(advantage):
    new, old, mask = one_row()
    loss = cispo_surrogate(new, old, tensor([advantage], dtype=f64), mask, epsilon=0.2, epsilon_high=0.28)
    weights = [0.8, 0.8, 1.0, 1.28, 1.28]
    assert loss[0].tolist() == pytest.approx([-w * advantage * -1 for w in weights])
    assert slopes(loss, new) == pytest.approx([-w * advantage for w in weights])


def test_GRPO_8_without_a_lower_bound():
    new, old, mask = one_row()
    loss = cispo_surrogate(new, old, tensor([1.0], dtype=f64), mask, epsilon=None, epsilon_high=0.28)
    assert slopes(loss, new) == pytest.approx([-0.1, -0.7, -1.0, -1.28, -1.28])


@pytest.mark.parametrize(("cap", "weights"), [(5.0, [0.1, 0.7, 1, 1.3, 5]), (0.2, [0.1, 0.2, 0.2, 0.2, 0.2])])
def test_GRPO_9_the_same_number_as_a_cap_is_another_algorithm(cap, weights):
    new, old, mask = one_row()
    loss = cispo_surrogate(new, old, tensor([1.0], dtype=f64), mask, epsilon=None, cap=cap)
    assert slopes(loss, new) == pytest.approx([-w for w in weights])


def test_GRPO_9_a_cap_at_the_floor_gives_every_token_that_weight():
    new, old, mask = one_row()
    loss = cispo_surrogate(new, old, tensor([1.0], dtype=f64), mask, epsilon=0.5, cap=0.5)
    assert slopes(loss, new) == pytest.approx([-0.5] * 5)


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.5), (-2.0, 3.0)])
def test_GRPO_10_the_gradient_is_a_bell_around_ratio_1(advantage, tau):
    new, old, mask = one_row()
    options = {"tau_positive": 1.5, "tau_negative": 3.0}
    loss = sapo_surrogate(new, old, tensor([advantage], dtype=f64), mask, **options)
    gate = [1 / (1 + math.exp(-tau * (r - 1))) for r in RATIOS]
    assert loss[0].tolist() == pytest.approx([-4 / tau * p * advantage for p in gate])
    bell = [4 * p * (1 - p) * r for p, r in zip(gate, RATIOS, strict=True)]
    assert bell[2] == 1 and slopes(loss, new) == pytest.approx([-b * advantage for b in bell])


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_GRPO_11_is_the_product_of_clipped_ratios_to_the_power_of_one_over_the_length(advantage):
    new, old, mask = one_row()
    loss = gmpo_surrogate(new, old, tensor([advantage], dtype=f64), mask, epsilon=0.4, epsilon_high=0.3)
    low, high = math.exp(-0.4), math.exp(0.3)
    sided = [min(r, high) if advantage > 0 else max(r, low) for r in RATIOS]
    mean = math.prod(sided) ** (1 / len(RATIOS))
    assert loss[0].tolist() == pytest.approx([-mean * advantage] * 5)
    moves = [c == r for c, r in zip(sided, RATIOS, strict=True)]  # a clipped token passes no gradient
    assert slopes(loss, new) == pytest.approx([-mean * advantage * m for m in moves])


def test_GRPO_11_a_small_advantage_is_clipped_on_its_side_and_one_token_is_its_own_mean():
    new, old, mask = one_row([2.0, 0.5])
    alone = mask & tensor([True, False])
    options = {"epsilon": 0.4, "epsilon_high": 0.3}
    good = gmpo_surrogate(new, old, tensor([0.5], dtype=f64), mask, **options)
    assert good[0].tolist() == pytest.approx([-0.5 * math.sqrt(math.exp(0.3) * 0.5)] * 2)
    bad = gmpo_surrogate(new, old, tensor([-0.5], dtype=f64), alone, **options)
    assert bad[0].tolist() == pytest.approx([0.5 * 2.0, 0.0])


def test_GRPO_12_the_weight_is_1_on_policy_and_highest_at_k_over_lambda():
    options = {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0}
    for advantage, k, rate in ((1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)):
        A = tensor([advantage], dtype=f64)
        phi = lambda w: w**k * math.exp(rate * (1 - w))  # noqa: E731, B023
        for ratios in ([1.0, 1.0], [0.5, 0.8], [2.0, 1.7], [k / rate, 1.0]):
            new, old, mask = one_row(ratios)
            found = slopes(vespo_surrogate(new, old, A, mask, **options), new)
            assert found == pytest.approx([-advantage * phi(math.prod(ratios))] * 2)
        assert phi(1.0) == 1 and max(phi(w / 100) for w in range(1, 500)) <= phi(k / rate)


def test_GRPO_10_and_GRPO_12_any_positive_rate_will_do_and_is_not_rounded():
    new, old, mask = one_row()
    A = tensor([-2.0], dtype=f64)
    soft = sapo_surrogate(new, old, A, mask, tau_positive=0.3, tau_negative=0.3)
    expected = [8 / 0.3 / (1 + math.exp(-0.3 * (r - 1))) for r in RATIOS]
    assert soft[0].tolist() == pytest.approx(expected, rel=1e-14)
    new, old, mask = one_row([1.1, 1.2])
    rates = {f"{k}_{s}": 0.3 for k in ("k", "lambda") for s in ("positive", "negative")}
    smooth = vespo_surrogate(new, old, A, mask, **rates)  # 0.3 is no float32 number
    phi = 1.32**0.3 * math.exp(0.3 * (1 - 1.32))
    assert smooth[0].tolist() == pytest.approx([-2 * phi] * 2, rel=1e-14)
    uneven = vespo_surrogate(new, old, A.abs() / 4, mask, **rates | {"k_positive": 0.0, "lambda_positive": 0.0})
    assert uneven[0].tolist() == [0.5, 0.5]
    new, old, mask = one_row()
    sided = sapo_surrogate(new, old, A.abs() / 4, mask, tau_positive=0.3, tau_negative=3.0)  # any A above 0 is good
    assert sided[0].tolist() == pytest.approx([-x / 4 for x in expected], rel=1e-14)


def test_GRPO_13_a_rare_token_may_grow_by_any_factor_and_a_common_one_may_not():
    probability = tensor([[0.02, 0.6, 0.6, 0.02]], dtype=f64)
    sampled = tensor([[0.001, 0.3, 0.9, 0.9]], dtype=f64)  # ratios 20, 2, 0.67, 0.02
    every = torch.ones(1, 4, dtype=torch.bool)
    cases = ((1.0, 5.0, [5, 0, 2 / 3, 0.02 / 0.9]), (-1.0, 5.0, [5, 2, 0, 0]), (1.0, None, [20, 0, 2 / 3, 0.02 / 0.9]))
    for advantage, cap, weights in cases:
        log_probs = probability.log().requires_grad_()
        A = tensor([advantage], dtype=f64)
        loss = dppo_surrogate(log_probs, sampled.log(), A, every, divergence="tv", epsilon=0.2, cap=cap)
        assert slopes(loss, log_probs) == pytest.approx([-w * advantage for w in weights])


def test_GRPO_13_by_the_kl_of_this_token_or_another():
    p, q = tensor([[0.02, 0.6, 0.6, 0.4]], dtype=f64), tensor([[0.001, 0.3, 0.9, 0.4]], dtype=f64)
    kl = lambda q, p: q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))  # noqa: E731
    distances = [kl(*pair) for pair in zip(q[0].tolist(), p[0].tolist(), strict=True)]
    assert distances == pytest.approx([0.0162, 0.1838, 0.2263, 0.0], abs=5e-5)
    for advantage, keep in ((1.0, [1, 0, 1, 1]), (-1.0, [1, 1, 0, 1])):
        log_probs, A = p.log().requires_grad_(), tensor([advantage], dtype=f64)
        every = torch.ones(1, 4, dtype=torch.bool)
        loss = dppo_surrogate(log_probs, q.log(), A, every, divergence="kl", epsilon=0.1, cap=5.0)
        weights = [k * min(r, 5) for k, r in zip(keep, (p / q)[0].tolist(), strict=True)]
        assert slopes(loss, log_probs) == pytest.approx([-w * advantage for w in weights])


def test_GRPO_13_the_two_divergences_by_hand_and_a_token_on_the_bound_stays():
    p, q = tensor([[0.6]], dtype=f64), tensor([[0.5]], dtype=f64)  # tv 0.1, kl 0.0204
    kl = 0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    for (new, old), advantage in (((p, q), 0.5), ((q, p), -0.5)):  # raised, and lowered
        measures = {"tv": (new.log().exp() - old.log().exp()).abs().item()}
        measures["kl"] = kl if new is p else 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
        for divergence, measure in measures.items():
            kept = []
            for factor in (0.99, 1.0, 1.01):
                limits = {"epsilon": factor * measure, "epsilon_high": factor * measure, "cap": 0.5}
                A = tensor([advantage], dtype=f64)
                loss = dppo_surrogate(new.log(), old.log(), A, new > 0, divergence=divergence, **limits)
                kept.append(loss.item() / (-0.5 * advantage * new.log().item()))  # the cap is the weight
            assert kept[0] == 0 and kept[2] == pytest.approx(1)
            assert divergence == "kl" or kept[1] == pytest.approx(1)


@pytest.mark.parametrize(("log_p", "log_q"), [(-1e-7, -0.02), (-3e-7, -0.01), (-1e-6, -2e-6), (-0.02, -1e-7), (-2, -1)])
@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_GRPO_13_near_probability_1_float32_drops_the_tokens_that_float64_drops(log_p, log_q, factor):
    p, q = math.exp(log_p), math.exp(log_q)
    distance = q * (log_q - log_p) + math.expm1(log_q) * math.log(math.expm1(log_p) / math.expm1(log_q))
    for dtype in (torch.float32, f64):
        new, old, A = (
            tensor([[log_p]], dtype=dtype),
            tensor([[log_q]], dtype=dtype),
            tensor([p - q], dtype=dtype).sign(),
        )
        limits = {"epsilon": factor * distance, "cap": 5.0}
        loss = dppo_surrogate(new, old, A, new < 0, divergence="kl", **limits)
        assert bool(loss.any()) == (factor > 1)


def test_GRPO_13_where_a_probability_rounds_to_1_the_divergence_is_finite():
    """log p = 0 in float32 says 1 - p < 6e-8: from q = 1 - 1.2e-7 the divergence is below 3e-8 or so, not inf."""
    sure, every = tensor([[0.0]], requires_grad=True), torch.ones(1, 1, dtype=torch.bool)
    for log_q, weight in ((-1.2e-7, 1.0), (-1e-3, 1.001), (-0.1, 0.0), (0.0, 1.0)):
        old = tensor([[log_q]])
        loss = dppo_surrogate(sure, old, tensor([1.0]), every, divergence="kl", epsilon=0.05, cap=5.0)
        assert slopes(loss, sure) == pytest.approx([-weight], abs=1e-6)


def test_GRPO_24_by_hand_of_tokens_and_of_the_whole_completion():
    zeros, A, both = torch.zeros(1, 2, dtype=f64), tensor([1.0], dtype=f64), torch.ones(1, 2, dtype=torch.bool)
    s = tensor([[0.1, 0.3]], dtype=f64)
    tokens = quadratic_surrogate(s, zeros, A, both, tau=0.5)
    torch.testing.assert_close(tokens, tensor([[-0.1 + 0.0025, -0.3 + 0.0225]], dtype=f64))
    whole = quadratic_surrogate(s.sum(1, keepdim=True).expand(1, 2), zeros, A, both, tau=0.5)
    torch.testing.assert_close(sequence_mean(whole, both), tensor(-0.4 + 0.04, dtype=f64))


@pytest.mark.parametrize("tau", [0.25, 2.0])
def test_GRPO_24_pulls_to_A_over_tau_from_above_and_from_below(tau):
    s = tensor([[-1.0, 0.5 / tau, 3.0]], dtype=f64, requires_grad=True)
    loss = quadratic_surrogate(s, torch.zeros_like(s), tensor([0.5]), torch.ones(1, 3, dtype=torch.bool), tau=tau)
    assert slopes(loss, s) == pytest.approx([-0.5 - tau, 0, 3 * tau - 0.5], abs=1e-15)


def test_GRPO_24_is_the_squared_error_over_2_tau_less_a_constant():
    s = torch.linspace(-2, 2, 9, dtype=f64)[None].requires_grad_()
    A, every = tensor([0.7], dtype=f64), torch.ones(1, 9, dtype=torch.bool)
    loss = quadratic_surrogate(s, torch.zeros_like(s), A, every, tau=0.3)
    torch.testing.assert_close((A - 0.3 * s) ** 2, 2 * 0.3 * loss + A**2)
    (squared,) = torch.autograd.grad(((A - 0.3 * s) ** 2).sum(), s)
    torch.testing.assert_close(squared[0], 2 * 0.3 * tensor(slopes(loss, s), dtype=f64))


def test_GRPO_24_and_REINFORCE_16_fit_the_policy_that_is_best_after_its_price():
    """The best of E[r] - tau KL(pi || q) is q exp((r - V) / tau): there no sample has a gradient, and it sums to 1."""
    log_q = torch.log_softmax(tensor([0.3, -1.0, 2.0, 0.0], dtype=f64), 0)
    r, tau = tensor([1.0, 0.0, -0.5, 2.0], dtype=f64), 0.4
    counts = (1e6 * log_q.exp()).round().long()  # as many samples of each as q draws in a million
    value = soft_values(r.repeat_interleave(counts)[None], beta=tau)
    best = log_q + (r - value) / tau
    assert best.exp().sum().item() == pytest.approx(1, abs=1e-5)
    log_probs = best[:, None].requires_grad_()
    loss = quadratic_surrogate(log_probs, log_q[:, None], r - value, torch.ones(4, 1, dtype=torch.bool), tau=tau)
    assert torch.autograd.grad(loss.sum(), log_probs)[0].abs().max() < 1e-14


def test_GRPO_25_by_hand_a_row_without_a_token_has_no_say():
    mask = tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0]]).bool()
    moved = tensor([[0.5, 0.1, nan], [-0.2, nan, 0.0], [0.1, 0.2, 0.3], [nan] * 3], dtype=f64)  # sums 0.6, -0.2, 0.6
    pairs = centred_log_ratios(moved, torch.zeros_like(moved), mask, group_size=2)
    torch.testing.assert_close(pairs, tensor([[0.4, 0.4, 0], [-0.4, 0, -0.4], [0] * 3, [0] * 3], dtype=f64))
    one = centred_log_ratios(moved, torch.zeros_like(moved), mask, group_size=4)[:, 0]
    torch.testing.assert_close(one, tensor([0.8, -1.6, 0.8, 0], dtype=f64) / 3)
    with pytest.raises(ValueError, match=r"^group_size: expected a positive integer that divides the 4 rows, got 3"):
        centred_log_ratios(moved, torch.zeros_like(moved), mask, group_size=3)


def test_GRPO_25_the_gradient_flows_through_the_mean_and_what_all_have_in_common_has_none():
    log_probs = tensor([[0.5], [-0.25]], dtype=f64, requires_grad=True)
    centred = centred_log_ratios(log_probs, torch.zeros_like(log_probs), torch.ones(2, 1).bool(), group_size=2)
    (slope,) = torch.autograd.grad(centred[0, 0], log_probs)
    assert slope.flatten().tolist() == [0.5, -0.5]


@pytest.mark.parametrize("eta", [1.0, 0.25])
def test_GRPO_25_with_GRPO_24_is_rebels_regression_of_a_difference_on_a_difference(eta):
    """The authors' code (ZhaolinGao/REBEL 4ad7c11, src/tldr/rebel.py): mean of ((s_1 - s_2) - eta (r_1 - r_2))^2."""
    g = torch.Generator().manual_seed(0)
    log_probs, old = torch.randn(2, 6, 4, generator=g, dtype=f64)
    log_probs.requires_grad_()
    mask, rewards = torch.rand(6, 4, generator=g) > 0.3, torch.randn(3, 2, generator=g, dtype=f64)
    s = (log_probs - old).masked_fill(~mask, 0).sum(1).view(3, 2)
    theirs = (((s[:, 0] - s[:, 1]) - eta * (rewards[:, 0] - rewards[:, 1])) ** 2).mean()
    centred = centred_log_ratios(log_probs, old, mask, group_size=2)
    A = (rewards - rewards.mean(1, keepdim=True)).flatten()
    ours = sequence_mean(quadratic_surrogate(centred, torch.zeros_like(centred), A, mask, tau=1 / eta), mask)
    torch.testing.assert_close(theirs, 8 * eta * ours + 4 * eta**2 * (A**2).mean())
    (mine,), (slope,) = (torch.autograd.grad(x, log_probs, retain_graph=True) for x in (ours, theirs))
    torch.testing.assert_close(slope, 8 * eta * mine)


CANONICAL = {"low_positive": 1.0, "high_positive": 1.0, "low_negative": 0.0, "high_negative": 1.0}


def test_GRPO_26_by_hand_good_in_full_and_bad_by_the_product_of_ratios_at_most_1():
    moved = tensor([[0.5, 0.5], [2.0, 2.0], [0.5, 0.5], [2.0, 2.0]], dtype=f64).log().requires_grad_()
    every = torch.ones(4, 2, dtype=torch.bool)
    A = tensor([-1.0, -1.0, 1.0, 0.0], dtype=f64)
    loss = topr_surrogate(moved, torch.zeros_like(moved), A, every, **CANONICAL)
    (slope,) = torch.autograd.grad(loss.sum(), moved)
    assert slope.tolist() == [[0.25, 0.25], [1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]
    other = topr_surrogate(
        moved, torch.zeros_like(moved), A, every,
        low_positive=0.5, high_positive=2.0, low_negative=0.5, high_negative=3.0,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(other.sum(), moved)
    assert slope[:, 0].tolist() == [0.5, 3.0, -0.5, 0.0]


def test_GRPO_26_at_an_advantage_of_0_the_bounds_are_the_positive_ones():
    """0 weighs nothing either way; a token of 0 beside others shows in the weight of its row alone."""
    moved = tensor([[0.5, 0.5]], dtype=f64).log().requires_grad_()
    A = tensor([[0.0, -1.0]], dtype=f64)
    loss = topr_surrogate(moved, torch.zeros_like(moved), A, torch.ones(1, 2, dtype=torch.bool), **CANONICAL)
    assert slopes(loss, moved) == [0.0, 0.25]


def test_GRPO_26_good_completions_of_another_policy_are_learned_as_in_supervised_learning():
    """Exactly, over every completion: the expectation under the other policy, with a reward of 1 or -1."""
    theta, old = tiny.parameters(0), tiny.parameters(1).detach()
    new, drawn = tiny.log_probs(theta), tiny.log_probs(old)
    A = torch.where(tiny.rewards().sum(1) > 0.3, 1.0, -1.0).double()
    assert (A > 0).any() and (A < 0).any()
    losses = topr_surrogate(new, drawn, A, tiny.mask, **CANONICAL)
    found = tiny.gradient((tiny.probabilities(old) * losses.sum(1)).sum(), theta)
    p, q = tiny.probabilities(theta), tiny.probabilities(old)
    whole = new.masked_fill(~tiny.mask, 0).sum(1)
    good = (q * whole)[A > 0].sum()
    bad = (torch.minimum(p, q).detach() * whole)[A < 0].sum()  # q min(p / q, 1)
    torch.testing.assert_close(found, tiny.gradient(bad - good, theta))


ONE = tensor([[True, True, False], [True, True, True], [True, False, False], [True, True, False]])


def test_GRPO_27_by_hand_on_policy():
    """One right answer and three wrong ones at s = 0: log 2 + log 4; each moves by its share over tau."""
    log_probs = torch.full((4, 3), -1.0, dtype=f64, requires_grad=True)
    A = tensor([1.0, 0.0, 0.0, 0.0], dtype=f64)
    loss = real_surrogate(log_probs, torch.full((4, 3), -1.0, dtype=f64), A, ONE, group_size=4, tau=0.5)
    torch.testing.assert_close(loss, math.log(8) * ONE.double())
    (slope,) = torch.autograd.grad(loss[0, 0], log_probs)
    expected = tensor([[-1 / 2, -1 / 2, 0], [0.5 / 3] * 3, [0.5, 0, 0], [0.5 / 2, 0.5 / 2, 0]], dtype=f64)
    torch.testing.assert_close(slope, expected)


def test_GRPO_27_one_of_each_at_0_is_log_4_and_a_group_of_one_kind_is_0():
    zeros = torch.zeros(6, 1, dtype=f64)
    A = tensor([1.0, -1.0, 1.0, 2.0, 0.0, -3.0])  # mixed, all right, all wrong
    loss = real_surrogate(zeros, zeros, A, torch.ones(6, 1, dtype=torch.bool), group_size=2, tau=0.5)
    assert loss[:, 0].tolist() == pytest.approx([math.log(4)] * 2 + [0] * 4)


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_GRPO_27_no_completion_moves_by_more_than_1_over_tau_and_rare_right_ones_move_most(tau):
    s = tensor([[-40.0], [-1.0], [0.0], [40.0], [1.0], [-40.0]], dtype=f64, requires_grad=True)
    A = tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    loss = real_surrogate(s, torch.zeros_like(s), A, torch.ones(6, 1, dtype=torch.bool), group_size=6, tau=tau)
    (slope,) = torch.autograd.grad(loss[0, 0], s)
    right, wrong = -slope[:3, 0], slope[3:, 0]
    assert right.min() >= 0 and right.sum() <= 1 / tau + 1e-12 and wrong.sum() <= 1 / tau + 1e-12
    assert right.argmax() == 0 and wrong.argmax() == 0
    assert right[0].item() == pytest.approx(1 / tau, rel=1e-6)


def test_GRPO_27_whole_groups_add_up_and_a_row_without_a_token_is_in_no_sum():
    g = torch.Generator().manual_seed(0)
    log_probs, old = torch.randn(2, 6, 4, generator=g, dtype=f64)
    mask, A = torch.rand(6, 4, generator=g) > 0.3, tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    mask[2] = False
    how = {"group_size": 3, "tau": 0.5}
    whole = real_surrogate(log_probs, old, A, mask, **how)
    parts = [real_surrogate(log_probs[r], old[r], A[r], mask[r], **how) for r in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)
    pair = real_surrogate(log_probs[:2], old[:2], A[:2], mask[:2], group_size=2, tau=0.5)
    torch.testing.assert_close(whole[:2], pair)
    dirty = [x.masked_fill(~mask, nan) for x in (log_probs, old)]
    torch.testing.assert_close(real_surrogate(*dirty, A, mask, **how), whole)


@pytest.mark.parametrize(
    ("argument", "how"),
    [("group_size", {"group_size": 4, "tau": 1.0}), ("tau", {"group_size": 3, "tau": 0.0}),
     ("tau", {"group_size": 3, "tau": nan})],
)  # fmt: skip
def test_real_surrogate_names_bad_input(argument, how):
    x = torch.zeros(6, 2)
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        real_surrogate(x, x, torch.ones(6), torch.ones(6, 2, dtype=torch.bool), **how)


def test_GRPO_28_by_hand_highest_in_two_minds_and_a_constant():
    p = tensor([[1.0, 0.5, 0.1, nan]], dtype=f64)
    log_probs = p.log().requires_grad_()
    weights = chord_weights(log_probs, tensor([[True, True, True, False]]))
    torch.testing.assert_close(weights, tensor([[0.0, 0.25, 0.09, 0.0]], dtype=f64))
    assert not weights.requires_grad


def test_GRPO_28_keeps_its_digits_where_the_policy_is_nearly_sure():
    nearly = tensor([[-1e-6, -50.0]])  # 1 - p is 1e-6 less 5e-13, below what 1 - exp(x) has in float32
    found = chord_weights(nearly, torch.ones(1, 2, dtype=torch.bool))
    assert found.flatten().tolist() == pytest.approx([1e-6, math.exp(-50)], rel=3e-6)


def test_GRPO_14_value_of_k3_gradient_of_k2():
    every = torch.ones(1, 5, dtype=torch.bool)
    u = tensor([[-3.0, -0.5, 0.0, 0.5, 3.0]], dtype=f64, requires_grad=True)
    found = kl_k3_with_k2_gradient(u, torch.zeros_like(u), every)
    torch.testing.assert_close(found, kl_k3(u, torch.zeros_like(u), every))
    assert slopes(found, u) == pytest.approx(u[0].tolist())  # d (u^2 / 2) = u


@pytest.mark.parametrize("kl", [kl_k1, kl_k3])
@pytest.mark.parametrize("on_policy", [True, False])
def test_GRPO_15_expects_the_kl_and_its_gradient_on_samples_of_any_policy(kl, on_policy):
    z, other, ref = torch.randn(3, 7, dtype=f64, generator=torch.Generator().manual_seed(0))
    other = z if on_policy else other
    z = z.clone().requires_grad_()
    log_p, log_q, log_ref = (torch.log_softmax(x, 0) for x in (z, other, ref))
    true = (log_p.exp() * (log_p - log_ref)).sum()
    every = torch.ones(7, 1, dtype=torch.bool)
    terms = ratio_weighted_kl(log_p[:, None], log_q[:, None], log_ref[:, None], every, kl=kl)[:, 0]
    estimate = (log_q.exp() * terms).sum()
    torch.testing.assert_close(estimate, true)
    gradients = [torch.autograd.grad(x, z, retain_graph=True)[0] for x in (estimate, true)]
    torch.testing.assert_close(*gradients)
    plain = torch.autograd.grad((log_q.exp() * kl_k3(log_p[:, None], log_ref[:, None], every)[:, 0]).sum(), z)[0]
    assert (plain - gradients[1]).norm() > 0.05 * gradients[1].norm()


def test_GRPO_15_is_right_given_the_prefix_and_is_not_the_kl_of_the_sequences():
    theta, old, ref = tiny.parameters(0), tiny.parameters(1).detach(), tiny.parameters(2).detach()
    new, drawn, of_ref = (tiny.log_probs(x) for x in (theta, old, ref))
    found = tiny.expected(old)(ratio_weighted_kl(new, drawn, of_ref, tiny.mask), tiny.mask)
    log_p, log_ref = torch.log_softmax(theta, -1), torch.log_softmax(ref, -1)
    per_prefix = (log_p.exp() * (log_p - log_ref)).sum(-1)  # KL after each prefix
    visits = torch.zeros(len(per_prefix), dtype=f64)  # how often pi_old is there
    weights = tiny.probabilities(old)[:, None].expand(tiny.mask.shape)
    visits.index_add_(0, tiny.states[tiny.mask], weights[tiny.mask])
    given_the_prefix = (visits * per_prefix).sum()
    sequences = (tiny.probabilities(theta) * (new - of_ref).masked_fill(~tiny.mask, 0).sum(1)).sum()
    torch.testing.assert_close(found, given_the_prefix)
    torch.testing.assert_close(tiny.gradient(found, theta), tiny.gradient(given_the_prefix, theta))
    true = tiny.gradient(sequences, theta)
    assert abs(found - sequences) > 0.05 and (tiny.gradient(found, theta) - true).norm() > 0.1 * true.norm()


def test_GRPO_15_k2_is_no_kl_to_weigh():
    every = torch.ones(1, 1, dtype=torch.bool)
    half = ratio_weighted_kl(tensor([[0.5]]), tensor([[0.0]]), tensor([[0.0]]), every, kl=kl_k2)
    assert half.item() == pytest.approx(math.exp(0.5) * 0.125)


def test_GRPO_16_drops_bad_completions_that_the_policy_has_left():
    moved = tensor([[-0.5, -0.7, nan], [-0.5, -0.6, -0.7], [-0.1, 0.1, -2.0], [-0.1, 0.1, 0.0]], dtype=f64)
    mask = ~moved.isnan()
    for advantage, kept in ((-1.0, [False, False, False, True]), (1.0, [True] * 4)):
        advantages = torch.full((4,), advantage, dtype=f64)
        found = off_policy_weights(moved, torch.zeros_like(moved), advantages, mask, limit=0.5)
        assert torch.equal(found, (mask & tensor(kept)[:, None]).to(f64))  # mean distances 0.6, 0.6, 0.67, 0


def test_GRPO_16_a_completion_as_good_as_the_mean_stays_and_one_a_little_better_too():
    moved = tensor([[-1.0], [-1.0], [-1.0], [-0.5]], dtype=f64)
    advantages = tensor([0.0, 0.25, -0.25, -0.25], dtype=f64)
    found = off_policy_weights(moved, torch.zeros_like(moved), advantages, torch.ones(4, 1).bool(), limit=0.5)
    assert found.tolist() == [[1], [1], [0], [1]]  # the last lies on the limit


def test_GRPO_17_a_prompt_with_long_answers_weighs_no_more():
    x = tensor([[1.0, 2.0, nan], [3.0, nan, nan], [6.0, 6.0, 6.0], [8.0, 8.0, nan]], dtype=f64)
    mask = ~x.isnan()
    assert group_token_mean(x, mask, group_size=2).item() == pytest.approx((6 / 3 + 34 / 5) / 2)
    halves = [group_token_mean(x[i : i + 2], mask[i : i + 2], group_size=2, denominator=2) for i in (0, 2)]
    assert sum(halves).item() == pytest.approx((6 / 3 + 34 / 5) / 2)
    silent = mask & tensor([False, False, True, True])[:, None]
    assert group_token_mean(x, silent, group_size=2).item() == pytest.approx(34 / 5)


x = torch.zeros(1, 3)
every, A = torch.ones(1, 3, dtype=torch.bool), torch.ones(1)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("cache", lambda: overlong_penalties(x, max_length=5, cache=0)),
        ("max_length", lambda: overlong_penalties(x, max_length=5, cache=6)),
        ("lengths", lambda: overlong_penalties(x.long(), max_length=5, cache=2)),
        ("rewards", lambda: mixed_groups(x[0])),
        ("scored", lambda: mixed_groups(x, scored=every[:, :1])),
        ("epsilon_high", lambda: cispo_surrogate(x, x, A, every, epsilon=0.2)),
        ("epsilon_high", lambda: cispo_surrogate(x, x, A, every, epsilon=0.2, epsilon_high=0.2, cap=5.0)),
        ("cap", lambda: cispo_surrogate(x, x, A, every, epsilon=0.1, cap=0.5)),
        (
            "epsilon_high",
            lambda: dppo_surrogate(x, x, A, every, divergence="tv", epsilon=0.1, epsilon_high=-1.0, cap=5.0),
        ),
        ("limit", lambda: off_policy_weights(x, x, A, every, limit=-0.1)),
        ("group_size", lambda: group_token_mean(x, every, group_size=2)),
        ("group_size", lambda: group_token_mean(x, every, group_size=0)),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
