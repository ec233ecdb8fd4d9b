"""PPO: rewards, GAE with gaps, the clip on both sides for both signs, the value error."""

import math

import enumeration as tiny
import pytest
import torch
from torch import nan, tensor

from torchstone.core import kl_k1, masked_whiten, sequence_sum, token_mean
from torchstone.grpo import grpo_loss
from torchstone.ppo import (
    AdaptiveKL,
    clipped_surrogate,
    clipped_value_error,
    explained_variance,
    gae,
    ppo_loss,
    shaped_rewards,
)
from torchstone.reinforce import discounted_returns, reinforce_loss

f64 = torch.float64
ONE = torch.ones(1, 1, dtype=torch.bool)


# --- stage 4: rewards


def test_PPO_1_the_kl_is_paid_per_token_and_the_score_comes_with_the_last():
    log_probs = tensor([[-1.0, -2.0, nan], [-1.0, nan, -3.0], [nan, nan, nan]])
    ref = tensor([[-1.5, -1.0, nan], [-1.0, nan, -2.0], [nan, nan, nan]])
    mask = tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0]]).bool()
    rewards = shaped_rewards(tensor([10.0, 20.0, nan]), log_probs, ref, mask, beta=0.1)
    torch.testing.assert_close(rewards, tensor([[-0.05, 10.1, 0], [0, 0, 20.1], [0, 0, 0]]))


def test_PPO_1_the_kl_makes_the_expected_return_the_regularised_objective():
    theta, reference = tiny.parameters(), tiny.parameters(7).detach()
    scores = tiny.rewards().sum(1)
    rewards = shaped_rewards(scores, tiny.log_probs(theta), tiny.log_probs(reference), tiny.mask, beta=0.3)
    p, q = tiny.probabilities(theta), tiny.probabilities(reference)
    objective = (p * scores).sum() - 0.3 * (p * (p.log() - q.log())).sum()
    torch.testing.assert_close(tiny.expected(theta)(rewards, tiny.mask), objective)
    assert not rewards.requires_grad
    returns = discounted_returns(rewards, tiny.mask, gamma=1.0)
    loss = reinforce_loss(tiny.log_probs(theta), returns, tiny.mask, reduce=tiny.expected(theta))
    torch.testing.assert_close(-tiny.gradient(loss.value, theta), tiny.gradient(objective, theta))


def test_PPO_2_the_controller_raises_beta_above_the_target_and_lowers_it_below():
    controller = AdaptiveKL(beta=0.2, target=6.0, gain=0.1)
    assert controller.update(6.0).beta == pytest.approx(0.2)
    assert controller.update(6.6).beta == pytest.approx(0.2 * (1 + 0.1 * 0.1))
    assert controller.update(600.0).beta == pytest.approx(0.2 * 1.02)  # the error is cut at 0.2
    assert controller.update(0.0).beta == pytest.approx(0.2 * 0.98)
    assert controller.update(600.0).update(600.0).beta == pytest.approx(0.2 * 1.02**2)


# --- stage 5: GAE


def summed_series(rewards, values, chosen, gamma, lam):
    """GAE by its definition: sum_l (gamma lam)^l delta_{t+l} over the chosen positions, in plain Python."""
    advantages = [0.0] * len(rewards)
    for i, t in enumerate(chosen):
        for l, s in enumerate(chosen[i:]):  # noqa: E741
            later = chosen[i + l + 1 :]
            delta = rewards[s] + (gamma * values[later[0]] if later else 0.0) - values[s]
            advantages[t] += (gamma * lam) ** l * delta
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.8), (0.99, 0.0), (0.0, 0.5)])
def test_PPO_3_and_PPO_4_and_PPO_5_gae_is_the_summed_series_with_gaps_in_the_mask(gamma, lam):
    g = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(20, 7, generator=g, dtype=f64) for _ in range(2))
    mask = torch.rand(20, 7, generator=g) > 0.4
    rewards, values = rewards.masked_fill(~mask, nan), values.masked_fill(~mask, 1e30)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for b in range(20):
        chosen = mask[b].nonzero().flatten().tolist()
        by_hand = summed_series(rewards[b].tolist(), values[b].tolist(), chosen, gamma, lam)
        torch.testing.assert_close(advantages[b], tensor(by_hand, dtype=f64))
    torch.testing.assert_close(returns[mask], (advantages + values)[mask])
    assert (returns[~mask] == 0).all()


def test_PPO_4_removing_the_gaps_changes_nothing():
    rewards, values = tensor([[0.0, 9, 9, 1, 9, 2]]), tensor([[1.0, 9, 9, 2, 9, 3]])
    mask = tensor([[1, 0, 0, 1, 0, 1]]).bool()
    with_gaps, _ = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    compact, _ = gae(rewards[mask][None], values[mask][None], mask[mask][None], gamma=0.9, lam=0.8)
    torch.testing.assert_close(with_gaps[mask][None], compact)


def test_PPO_4_any_critic_leaves_the_gradient_unbiased_at_lambda_1_and_only_the_true_one_below():
    theta = tiny.parameters()
    true = tiny.gradient((tiny.probabilities(theta) * tiny.rewards().sum(1)).sum(), theta)
    wrong = torch.randn(len(tiny.PREFIXES), dtype=f64, generator=torch.Generator().manual_seed(5))
    p = tiny.probabilities(theta).detach()
    to_go = discounted_returns(tiny.rewards(), tiny.mask, gamma=1.0)
    right = torch.zeros(len(tiny.PREFIXES), dtype=f64)  # V(prefix) = E[return from here | prefix]
    for state in range(len(tiny.PREFIXES)):
        here = (tiny.states == state) & tiny.mask
        weights = p[:, None].expand_as(here)[here]
        right[state] = (weights * to_go[here]).sum() / weights.sum()

    def gradient(values, lam):
        advantages, _ = gae(tiny.rewards(), values[tiny.states], tiny.mask, gamma=1.0, lam=lam)
        loss = reinforce_loss(tiny.log_probs(theta), advantages, tiny.mask, reduce=tiny.expected(theta))
        return -tiny.gradient(loss.value, theta)

    torch.testing.assert_close(gradient(wrong, 1.0), true)
    torch.testing.assert_close(gradient(right, 0.0), true)
    torch.testing.assert_close(gradient(right, 0.7), true)
    assert (gradient(wrong, 0.7) - true).norm() > 0.05 * true.norm()


def test_PPO_6_explained_variance_of_a_perfect_a_constant_and_a_reversed_critic():
    returns, mask = tensor([[1.0, 2.0, nan], [3.0, nan, nan]]), tensor([[1, 1, 0], [1, 0, 0]]).bool()
    for values, expected in ((returns, 1.0), (0 * returns + 5, 0.0), (-returns, -3.0)):
        assert explained_variance(values, returns, mask).item() == pytest.approx(expected, abs=1e-6)
    assert explained_variance(returns, 0 * returns + 2, mask) == 0  # returns that do not vary


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, -0.7])
def test_PPO_6_returns_that_do_not_vary_explain_nothing(reward):
    every = torch.ones(16, 8, dtype=torch.bool)
    values = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert explained_variance(values, torch.full((16, 8), reward), every) == 0
    assert explained_variance(values[:, :0], values[:, :0], every[:, :0]) == 0


def test_what_stage_5_gives_is_constant():
    x, every = torch.randn(2, 3, requires_grad=True), torch.ones(2, 3, dtype=torch.bool)
    advantages, returns = gae(x, x, every, gamma=0.9, lam=0.9)
    constants = advantages, returns, explained_variance(x, x, every), discounted_returns(x, every, gamma=1.0)
    assert not any(c.requires_grad for c in (*constants, masked_whiten(x, every, correction=1, eps=0.0)))


def test_on_the_edge_nothing_counts_as_clipped():
    log_probs, every = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    advantages = tensor([[1.0, -1.0, 0.0]])
    on_policy = ppo_loss(log_probs, log_probs, advantages, every, reduce=token_mean, epsilon=0.0).metrics
    far = tensor([[0.0, 0.0, 5.0]]), tensor([[0.0, 0.0, -5.0]])
    for metrics in (
        on_policy,
        *(ppo_loss(x, log_probs, advantages, every, reduce=token_mean, epsilon=0.2).metrics for x in far),
    ):
        assert float(metrics["clip_ratio/low_mean"]) == float(metrics["clip_ratio/high_mean"]) == 0


def test_a_term_of_weight_0_is_reported_but_cannot_hurt():
    log_probs, every, huge = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.full((1, 3), 1e30)
    terms = {"values": huge, "returns": -huge, "entropies": huge}
    loss = ppo_loss(log_probs, log_probs, torch.ones(1), every, reduce=token_mean, epsilon=0.2, **terms)
    assert loss.value == -1 and {"value_loss", "entropy"} <= set(loss.metrics)
    reference = torch.full((1, 3), -torch.inf)
    how = {"reduce": token_mean, "epsilon": 0.2, "beta": 0.0, "kl": kl_k1}
    loss = grpo_loss(log_probs, log_probs, torch.ones(1), every, ref_log_probs=reference, **how)
    assert loss.value == -1 and "kl" in loss.metrics


# --- stage 6: the clip


def surrogate_and_slope(ratio, advantage, **options):
    log_prob = tensor([[math.log(ratio)]], dtype=f64, requires_grad=True)
    loss = clipped_surrogate(log_prob, torch.zeros_like(log_prob), tensor([advantage], dtype=f64), ONE, **options)
    loss.sum().backward()
    return loss.item(), log_prob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [  # epsilon 0.2, epsilon_high 0.3; slope = d loss / d log pi
        (1.0, 2.0, -2.0, -2.0),
        (1.25, 2.0, -2.5, -2.5),  # inside
        (1.4, 2.0, -2.6, 0.0),  # better than the clip allows: no more reward
        (0.5, 2.0, -1.0, -1.0),  # too low for a good token: the way back stays open
        (0.5, -2.0, 1.6, 0.0),  # worse token already pushed down: no more reward
        (1.4, -2.0, 2.8, 2.8),  # bad token pushed up: full price
    ],
)
def test_PPO_7_and_PPO_8_both_sides_of_the_clip_for_both_signs(ratio, advantage, loss, slope):
    got = surrogate_and_slope(ratio, advantage, epsilon=0.2, epsilon_high=0.3)
    assert got == pytest.approx((loss, slope))


@pytest.mark.parametrize(("ratio", "loss", "slope"), [(2.9, 5.8, 5.8), (3.1, 6.0, 0.0), (0.5, 1.6, 0.0)])
def test_PPO_9_dual_clip_bounds_the_loss_of_a_bad_token(ratio, loss, slope):
    assert surrogate_and_slope(ratio, -2.0, epsilon=0.2, dual_clip=3.0) == pytest.approx((loss, slope))
    good = {"epsilon": 0.2, "dual_clip": 3.0}
    assert surrogate_and_slope(5.0, 2.0, **good) == surrogate_and_slope(5.0, 2.0, epsilon=0.2)


@pytest.mark.parametrize("distance", [89.0, 1000.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_PPO_8_a_far_off_token_keeps_a_finite_gradient_of_the_right_sign(distance, advantage, sign):
    log_probs = tensor([[sign * distance]], requires_grad=True)
    loss = clipped_surrogate(log_probs, torch.zeros(1, 1), tensor([advantage]), ONE, epsilon=0.2)
    loss.sum().backward()
    assert loss.isfinite() and log_probs.grad.isfinite()
    if sign > 0 and advantage < 0:
        assert log_probs.grad.item() == pytest.approx(math.exp(20), rel=1e-5)  # pushed back, hard
    else:
        assert abs(log_probs.grad.item()) < 1e-30


def test_clip_metrics_count_only_where_the_clip_removes_the_gradient():
    ratios = tensor([[1.4, 1.4, 0.5, 0.5, 1.0, 9.9]]).log()
    advantages = tensor([[1.0, -1.0, 1.0, -1.0, 1.0, nan]])
    mask = tensor([[1, 1, 1, 1, 1, 0]]).bool()
    metrics = ppo_loss(ratios, torch.zeros(1, 6), advantages, mask, reduce=token_mean, epsilon=0.2).metrics
    assert float(metrics["clip_ratio/high_mean"]) == pytest.approx(1 / 5)
    assert float(metrics["clip_ratio/low_mean"]) == pytest.approx(1 / 5)
    expected = sum(r - 1 - math.log(r) for r in (1.4, 1.4, 0.5, 0.5, 1.0)) / 5
    assert float(metrics["approx_kl"]) == pytest.approx(expected, rel=1e-5)


def test_on_policy_the_clip_is_idle_and_the_ratio_is_1():
    log_probs = torch.randn(3, 4).requires_grad_()
    mask = torch.rand(3, 4) > 0.2
    loss = ppo_loss(log_probs, log_probs.detach(), torch.randn(3), mask, reduce=sequence_sum, epsilon=0.2)
    assert {k: float(m) for k, m in loss.metrics.items()} == {
        "approx_kl": 0.0,
        "clip_ratio/low_mean": 0.0,
        "clip_ratio/high_mean": 0.0,
    }


@pytest.mark.parametrize(
    ("value", "old", "target", "epsilon", "error", "slope"),
    [
        (1.0, 9.0, 3.0, None, 2.0, -2.0),  # plain: (1 - 3)^2 / 2
        (1.0, 0.9, 3.0, 0.2, 2.0, -2.0),  # moved by less than epsilon
        (1.0, 0.0, 3.0, 0.2, 2.8**2 / 2, 0.0),  # moved towards the target, too far: no more reward
        (1.0, 2.0, 3.0, 0.2, 2.0, -2.0),  # moved away: full price
        (3.0, 4.0, 1.0, 0.2, 2.8**2 / 2, 0.0),  # the same two on the way down
        (3.0, 2.0, 1.0, 0.2, 2.0, 2.0),
    ],
)
def test_PPO_10_the_value_error_is_half_the_larger_square(value, old, target, epsilon, error, slope):
    values = tensor([[value]], dtype=f64, requires_grad=True)
    one = lambda x: tensor([[x]], dtype=f64)  # noqa: E731
    got = clipped_value_error(values, one(old), one(target), ONE, epsilon=epsilon)
    got.sum().backward()
    assert (got.item(), values.grad.item()) == pytest.approx((error, slope))


def test_PPO_10_the_plain_error_needs_no_old_values():
    zeros = torch.zeros(1, 1)
    assert clipped_value_error(zeros + 1, None, zeros, ONE, epsilon=None).item() == 0.5


def test_PPO_11_the_loss_is_policy_plus_value_minus_entropy():
    g = torch.Generator().manual_seed(0)
    log_probs, old, values, old_values, returns, entropies = (torch.randn(6, 3, 4, generator=g, dtype=f64)).unbind()
    mask, advantages = torch.rand(3, 4, generator=g) > 0.3, torch.randn(3, 4, generator=g, dtype=f64)
    loss = ppo_loss(
        log_probs, old, advantages, mask, reduce=sequence_sum, epsilon=0.2, epsilon_high=0.3, dual_clip=2.0,
        values=values, old_values=old_values, returns=returns, value_epsilon=0.1, value_coef=0.5,
        entropies=entropies, entropy_coef=0.01,
    )  # fmt: skip
    policy = clipped_surrogate(log_probs, old, advantages, mask, epsilon=0.2, epsilon_high=0.3, dual_clip=2.0)
    error = clipped_value_error(values, old_values, returns, mask, epsilon=0.1)
    by_hand = sum(sequence_sum(c * x, mask) for c, x in ((1, policy), (0.5, error), (-0.01, entropies)))
    torch.testing.assert_close(loss.value, by_hand)
    assert float(loss.metrics["value_loss"]) == pytest.approx(error[mask].mean().item())
    assert float(loss.metrics["entropy"]) == pytest.approx(entropies[mask].mean().item())


ROW = torch.zeros(1, 2)
ROW_MASK = torch.ones(1, 2).bool()


def call_ppo(**options):
    return ppo_loss(ROW, ROW, torch.zeros(1), ROW_MASK, **({"reduce": token_mean, "epsilon": 0.2} | options))


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("values", lambda: call_ppo(value_coef=0.5)),
        ("returns", lambda: call_ppo(values=ROW, value_coef=0.5)),
        ("old_values", lambda: call_ppo(values=ROW, returns=ROW, value_coef=0.5, value_epsilon=0.2)),
        ("entropies", lambda: call_ppo(entropy_coef=0.5)),
        ("beta", lambda: shaped_rewards(torch.zeros(1), ROW, ROW, ROW_MASK, beta=-1.0)),
        ("scores", lambda: shaped_rewards(torch.zeros(1, 2), ROW, ROW, ROW_MASK, beta=0.1)),
        ("gamma", lambda: gae(ROW, ROW, ROW_MASK, gamma=2.0, lam=1.0)),
        ("lam", lambda: gae(ROW, ROW, ROW_MASK, gamma=1.0, lam=-0.5)),
        ("target", lambda: AdaptiveKL(beta=0.1, target=0.0, gain=0.1)),
        ("gain", lambda: AdaptiveKL(beta=0.1, target=1.0, gain=0.0)),
        ("max_error", lambda: AdaptiveKL(beta=0.1, target=1.0, gain=0.1, max_error=0.0)),
        ("epsilon", lambda: call_ppo(epsilon=None)),
        ("entropies", lambda: call_ppo(entropy_coef=-0.5)),
        ("beta", lambda: shaped_rewards(torch.zeros(1), ROW, ROW, ROW_MASK, beta=math.inf)),
        ("scores", lambda: shaped_rewards(torch.zeros(2), ROW, ROW, ROW_MASK, beta=0.1)),
        ("gamma", lambda: gae(ROW, ROW, ROW_MASK, gamma=-0.1, lam=1.0)),
        ("lam", lambda: gae(ROW, ROW, ROW_MASK, gamma=1.0, lam=1.5)),
        ("beta", lambda: AdaptiveKL(beta=-0.1, target=1.0, gain=0.1)),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
