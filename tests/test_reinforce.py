"""REINFORCE: its gradient is the policy gradient, with and without a baseline."""

import enumeration as tiny
import pytest
import torch
from torch import nan, tensor

from torchstone.core import sequence_sum, token_entropies
from torchstone.reinforce import discounted_returns, leave_one_out_advantages, reinforce_loss, reinforce_surrogate

f64 = torch.float64


def objective(theta, gamma=1.0):
    """J: the exact expectation of the (discounted) sum of rewards."""
    discounts = gamma ** torch.arange(tiny.T, dtype=f64)
    return (tiny.probabilities(theta) * (tiny.rewards() * discounts).sum(1)).sum()


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_REINFORCE_1_the_return_is_the_discounted_sum_over_chosen_tokens(gamma):
    rewards = tensor([[1.0, nan, 2.0, nan, 4.0, nan]], dtype=f64)
    mask = tensor([[1, 0, 1, 0, 1, 0]]).bool()
    by_hand = [1 + gamma * (2 + gamma * 4), 0, 2 + gamma * 4, 0, 4, 0]
    torch.testing.assert_close(discounted_returns(rewards, mask, gamma=gamma), tensor([by_hand], dtype=f64))


def test_REINFORCE_1_tool_output_costs_no_discount():
    rewards, mask = tensor([[0.0, 0, 0, 0, 0, 1]]), tensor([[1, 1, 0, 0, 1, 1]]).bool()
    assert discounted_returns(rewards, mask, gamma=1.0).tolist() == [[1, 1, 0, 0, 1, 1]]


BASELINES = {
    "none": None,
    "a number, such as a moving average": 0.7,
    "a number in a tensor": tensor(0.7, dtype=f64),
    "one a prompt": torch.full((tiny.N,), -0.3, dtype=f64),
    "a critic: one a prefix": torch.randn(len(tiny.PREFIXES), generator=torch.Generator().manual_seed(3), dtype=f64)[
        tiny.states
    ],
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("form", ["whole return", "reward-to-go"])
def test_REINFORCE_2_the_expected_gradient_is_that_of_the_expected_reward(baseline, form):
    theta = tiny.parameters()
    to_go = discounted_returns(tiny.rewards(), tiny.mask, gamma=1.0)
    returns = to_go if form == "reward-to-go" else to_go[:, 0]
    loss = reinforce_loss(tiny.log_probs(theta), returns, tiny.mask, reduce=tiny.expected(theta), baseline=baseline)
    torch.testing.assert_close(-tiny.gradient(loss.value, theta), tiny.gradient(objective(theta), theta))


def test_REINFORCE_2_a_baseline_lowers_the_variance():
    theta = tiny.parameters()
    returns = discounted_returns(tiny.rewards(), tiny.mask, gamma=1.0)[:, 0] + 5  # rewards far from 0
    spread = []
    for baseline in (0.0, 5.0):
        per_row = reinforce_surrogate(tiny.log_probs(theta), returns - baseline, tiny.mask).sum(1)
        gradients = torch.stack([tiny.gradient(row, theta) for row in per_row]).flatten(1)
        p = tiny.probabilities(theta).detach()
        spread.append((p * gradients.square().sum(1)).sum() - (p[:, None] * gradients).sum(0).square().sum())
    assert spread[1] < spread[0] / 4


def test_REINFORCE_2_below_gamma_1_the_usual_form_lacks_gamma_to_the_t():
    theta, gamma = tiny.parameters(), 0.8
    to_go = discounted_returns(tiny.rewards(), tiny.mask, gamma=gamma)
    weights = gamma ** torch.arange(tiny.T, dtype=f64).expand(tiny.N, -1)
    true = tiny.gradient(objective(theta, gamma), theta)
    expect, log_probs = tiny.expected(theta), tiny.log_probs(theta)
    exact = reinforce_loss(log_probs, to_go * weights, tiny.mask, reduce=expect)
    usual = reinforce_loss(log_probs, to_go, tiny.mask, reduce=expect)
    torch.testing.assert_close(-tiny.gradient(exact.value, theta), true)
    # the usual form, pinned: each time step's share of the gradient enters without its gamma^t
    shares = [
        -tiny.gradient(reinforce_loss(log_probs, to_go * (weights == gamma**t), tiny.mask, reduce=expect).value, theta)
        for t in range(tiny.T)
    ]
    torch.testing.assert_close(sum(gamma**t * share for t, share in enumerate(shares)), true)
    torch.testing.assert_close(sum(shares), -tiny.gradient(usual.value, theta))
    assert (sum(shares) - true).norm() > 0.05 * true.norm()


def test_REINFORCE_3_the_surrogate_pushes_up_what_was_better_than_expected():
    log_probs = tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    mask = tensor([[1, 1], [1, 0]]).bool()
    surrogate = reinforce_surrogate(log_probs, tensor([2.0, -1.0]), mask)
    assert surrogate.tolist() == [[2.0, 4.0], [-3.0, 0.0]]
    surrogate.sum().backward()
    assert log_probs.grad.tolist() == [[-2.0, -2.0], [1.0, 0.0]]


def test_REINFORCE_4_the_entropy_bonus_is_of_true_entropies():
    theta = tiny.parameters()
    log_probs, expect = tiny.log_probs(theta), tiny.expected(theta)
    entropies = token_entropies(theta[None], temperature=1.0)[0][tiny.states]
    zero = torch.zeros(tiny.N, dtype=f64)
    loss = reinforce_loss(log_probs, zero, tiny.mask, reduce=expect, entropies=entropies, entropy_coef=0.5)
    torch.testing.assert_close(loss.value, -0.5 * expect(-log_probs, tiny.mask))  # the value could be sampled,
    assert tiny.gradient(loss.value, theta).norm() > 0.05
    sampled = reinforce_loss(log_probs, zero, tiny.mask, reduce=expect, entropies=-log_probs, entropy_coef=0.5)
    gradient = tiny.gradient(sampled.value, theta)  # the gradient could not: it would be 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)
    assert float(loss.metrics["entropy"]) == pytest.approx(entropies[tiny.mask].mean().item())


def test_REINFORCE_4_by_hand():
    log_probs, mask = tensor([[-1.0, -2.0], [-3.0, nan]]), tensor([[1, 1], [1, 0]]).bool()
    entropies = tensor([[0.5, 0.25], [1.0, nan]])
    loss = reinforce_loss(
        log_probs, tensor([3.0, 1.0]), mask, reduce=sequence_sum, baseline=2.0, entropies=entropies, entropy_coef=0.1
    )
    assert loss.value.item() == pytest.approx(((1 + 2 - 0.075) + (-3 - 0.1)) / 2)
    assert float(loss.metrics["advantages"]) == pytest.approx((1 + 1 - 1) / 3)


def pairs_of_completions(theta):
    """Every group of two completions of one prompt: rewards [N*N 2], and the probability of each group."""
    i, j = torch.meshgrid(torch.arange(tiny.N), torch.arange(tiny.N), indexing="ij")
    rows, p = torch.stack([i.flatten(), j.flatten()], 1), tiny.probabilities(theta).detach()
    return rows, tiny.rewards().sum(1)[rows], p[rows].prod(1)


def test_REINFORCE_5_leaving_one_out_is_unbiased_and_the_groups_own_mean_is_not():
    theta = tiny.parameters()
    rows, rewards, p = pairs_of_completions(theta)
    log_probs, mask = tiny.log_probs(theta)[rows.flatten()], tiny.mask[rows.flatten()]
    mean_over_groups = lambda x, mask: (p.repeat_interleave(2) * x.sum(1)).sum() / 2  # noqa: E731
    true = tiny.gradient(objective(theta), theta)
    left_out = reinforce_loss(log_probs, leave_one_out_advantages(rewards).flatten(), mask, reduce=mean_over_groups)
    torch.testing.assert_close(-tiny.gradient(left_out.value, theta), true)
    own_mean = rewards.mean(1).repeat_interleave(2)
    biased = reinforce_loss(log_probs, rewards.flatten(), mask, reduce=mean_over_groups, baseline=own_mean)
    torch.testing.assert_close(-tiny.gradient(biased.value, theta), true / 2)  # 1 - 1/G of it


def test_REINFORCE_5_by_hand_and_with_unscored_samples():
    rewards = tensor([[1.0, 2.0, 6.0], [nan, 1.0, 3.0], [nan, nan, 5.0]])
    scored = ~rewards.isnan()
    expected = [[1 - 4, 2 - 3.5, 6 - 1.5], [0, -2, 2], [0, 0, 0]]
    assert leave_one_out_advantages(rewards, scored=scored).tolist() == expected


def test_REINFORCE_4_the_bonus_of_weight_1_counts_and_that_of_weight_0_cannot_hurt():
    zero, every = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    of = lambda x, coef: reinforce_loss(zero, zero, every, reduce=sequence_sum, entropies=zero + x, entropy_coef=coef)  # noqa: E731
    assert of(0.5, 1.0).value.item() == -1
    nothing = of(torch.inf, 0.0)
    assert nothing.value.item() == 0 and float(nothing.metrics["entropy"]) == torch.inf


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("size", range(2, 20))
def test_REINFORCE_5_equal_rewards_give_exactly_zero(reward, size):
    assert (leave_one_out_advantages(torch.full((3, size), reward)) == 0).all()


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("rewards", lambda: leave_one_out_advantages(torch.zeros(4, 1))),
        ("rewards", lambda: leave_one_out_advantages(torch.zeros(4))),
        ("rewards", lambda: leave_one_out_advantages(torch.zeros(4, 2).long())),
        ("scored", lambda: leave_one_out_advantages(torch.zeros(4, 2), scored=torch.ones(4, 2))),
        ("gamma", lambda: discounted_returns(torch.zeros(1, 2), torch.ones(1, 2).bool(), gamma=1.1)),
        ("gamma", lambda: discounted_returns(torch.zeros(1, 2), torch.ones(1, 2).bool(), gamma=nan)),
        ("gamma", lambda: discounted_returns(torch.zeros(1, 2), torch.ones(1, 2).bool(), gamma=-0.1)),
        (
            "entropies",
            lambda: reinforce_loss(
                torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2).bool(), reduce=sequence_sum, entropy_coef=0.1
            ),
        ),
        *[
            (
                "baseline",
                lambda b=baseline: reinforce_loss(
                    torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2).bool(), reduce=sequence_sum, baseline=b
                ),
            )
            for baseline in (nan, True)
        ],
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
