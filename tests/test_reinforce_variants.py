"""Other baselines: what their expected gradient is, on a policy whose every group of completions is listed."""

import math
import re
from itertools import combinations, product
from math import sqrt
from pathlib import Path

import enumeration as tiny
import pytest
import torch
from objectives import ADVANTAGES
from torch import nan, tensor

from torchstone.core import masked_whiten, sequence_sum
from torchstone.reinforce import reinforce_loss
from torchstone.reinforce.variants import (
    batch_scaled_advantages,
    best_margin_advantages,
    gdpo_advantages,
    gpg_advantages,
    greedy_advantages,
    length_weighted_advantages,
    max_likelihood_advantages,
    optimal_token_advantages,
    pass_at_k_advantages,
    soft_values,
    step_group_advantages,
    whiten_completions,
)

f64 = torch.float64
LENGTHS = tiny.mask.sum(1).double()
REWARDS = tiny.rewards().sum(1)
SOLVED = tensor([float(c[-1] == 2) for c in tiny.COMPLETIONS], dtype=f64)  # a reward of 0 or 1


groups = pytest.mark.parametrize("advantages", [row for row in ADVANTAGES if row.siblings], ids=str)
every_row = pytest.mark.parametrize("advantages", ADVANTAGES, ids=str)


def every_group(theta, size):
    """Every group of ``size`` completions [M G], as rows of the table, and each group's probability."""
    rows = tensor(list(product(range(tiny.N), repeat=size)))
    return rows, tiny.probabilities(theta)[rows].prod(1)


def expected_gradient(theta, size, advantages_of):
    """E[ mean_i A_i grad log pi(y_i) ] over all groups; ``advantages_of`` maps rows [M G] to advantages [M G]."""
    rows, p = every_group(theta, size)
    flat = rows.flatten()
    weights = p.detach().repeat_interleave(size) / size
    loss = reinforce_loss(
        tiny.log_probs(theta)[flat],
        advantages_of(rows).flatten(),
        tiny.mask[flat],
        reduce=lambda x, _: (weights * x.sum(1)).sum(),
    )
    return -tiny.gradient(loss.value, theta)


def objective(theta, rewards=REWARDS):
    return (tiny.probabilities(theta) * rewards).sum()


def greedy_row(theta):
    """The number of the completion that takes the likeliest token at each step."""
    prefix = ()
    while prefix not in tiny.COMPLETIONS:
        prefix = (*prefix, int(theta[tiny.PREFIXES.index(prefix)].argmax()))
    return tiny.COMPLETIONS.index(prefix)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 2])
def test_REINFORCE_6_a_greedy_baseline_keeps_the_gradient(size, seed):
    theta = tiny.parameters(seed)
    greedy = REWARDS[greedy_row(theta)]
    assert greedy.abs() > 0.1
    with_baseline = expected_gradient(
        theta, size, lambda rows: greedy_advantages(REWARDS[rows], greedy.expand(len(rows)))
    )
    torch.testing.assert_close(with_baseline, tiny.gradient(objective(theta), theta))


def test_REINFORCE_6_by_hand_ties_and_unscored():
    rewards = tensor([[1.0, 2.0], [nan, 5.0], [3.0, 4.0]])
    advantages = greedy_advantages(rewards, tensor([2.0, 4.0, nan]), scored=tensor([[1, 1], [0, 1], [0, 0]]).bool())
    assert advantages.tolist() == [[-1, 0], [0, 1], [0, 0]]
    assert greedy_advantages(tensor([[1.0], [2.0]]), tensor([0.5, 4.0])).tolist() == [[0.5], [-2]]  # a group of one
    for reward in (0.1, 0.7, 1 / 3):
        assert (greedy_advantages(torch.full((2, 5), reward), torch.full((2,), reward)) == 0).all()


@pytest.mark.parametrize("size", [2, 3])
def test_REINFORCE_7_with_its_own_sample_the_gradient_lacks_that_of_the_expected_baseline_over_n(size):
    theta = tiny.parameters()
    rows, p = every_group(theta, size)
    baselines = (LENGTHS * REWARDS)[rows].sum(1) / LENGTHS[rows].sum(1)
    expected_baseline = (p * baselines).sum()  # its gradient by autograd through the groups' probabilities
    found = expected_gradient(theta, size, lambda rows: length_weighted_advantages(REWARDS[rows], LENGTHS[rows]))
    true = tiny.gradient(objective(theta), theta)
    torch.testing.assert_close(found, true - tiny.gradient(expected_baseline, theta) / size)
    assert (found - true).norm() > 0.05 * true.norm()
    assert (found - true * (1 - 1 / size)).norm() > 0.01 * true.norm()  # nor is it the plain mean's 1 - 1/n


def test_REINFORCE_7_is_the_best_constant_baseline_where_the_squared_score_grows_with_the_length():
    theta = torch.zeros_like(tiny.parameters()).requires_grad_()  # uniform: each token's score has squared norm 2/3
    p = tiny.probabilities(theta).detach()
    scores = torch.stack(
        [tiny.gradient(row, theta) for row in tiny.log_probs(theta).masked_fill(~tiny.mask, 0).sum(1)]
    ).flatten(1)
    torch.testing.assert_close(scores.square().sum(1), LENGTHS * 2 / 3)

    def variance(b):
        gradients = (REWARDS - b)[:, None] * scores
        return (p * gradients.square().sum(1)).sum() - (p[:, None] * gradients).sum(0).square().sum()

    counts = (p * 27).round().long()  # a group of 27 that holds each completion as often as it is likely
    group = torch.arange(tiny.N).repeat_interleave(counts)
    best = (REWARDS[group] - length_weighted_advantages(REWARDS[group][None], LENGTHS[group][None])[0])[0]
    torch.testing.assert_close(best, (p * LENGTHS * REWARDS).sum() / (p * LENGTHS).sum())
    for other in (best - 0.01, best + 0.01, (p * REWARDS).sum(), tensor(0.0)):
        assert variance(best) < variance(other)
    # E|s|^2 (r - b)^2 is a parabola in b with its lowest point at b*
    torch.testing.assert_close(variance(best + 0.3) - variance(best), 0.09 * (p * LENGTHS).sum() * 2 / 3)


def test_REINFORCE_7_by_hand():
    rewards = tensor([[1.0, 0.0, 4.0], [nan, 1.0, 3.0], [nan, nan, 5.0], [2.0, 6.0, 9.0]])
    lengths = tensor([[1, 2, 1], [9, 1, 3], [9, 9, 9], [4, 4, 0]])
    expected = tensor([[-0.25, -1.25, 2.75], [0, -1.5, 0.5], [0, 0, 0], [-2, 2, 5]])  # baselines 5/4, 10/4, none, 4
    for like in (lengths, lengths.float(), lengths.bfloat16(), lengths.int(), lengths * 10):
        torch.testing.assert_close(length_weighted_advantages(rewards, like, scored=~rewards.isnan()), expected)


def test_REINFORCE_7_lengths_under_unscored_rewards_do_not_matter():
    rewards, scored = tensor([[1.0, 3.0, nan]]), tensor([[True, True, False]])
    for length in (nan, torch.inf, 0.0, 1e9):
        lengths = tensor([[1.0, 1.0, length]])
        assert length_weighted_advantages(rewards, lengths, scored=scored).tolist() == [[-1, 1, 0]]


def test_REINFORCE_7_without_a_token_there_is_nothing_to_learn():
    advantages = length_weighted_advantages(tensor([[1.0, 2.0], [1.0, 2.0]]), tensor([[0, 0], [1, 1]]))
    assert advantages.tolist() == [[0, 0], [-0.5, 0.5]]
    unscored = tensor([[True, False]])
    assert length_weighted_advantages(tensor([[1.0, 2.0]]), tensor([[0, 1]]), scored=unscored).tolist() == [[0, 0]]


def test_REINFORCE_8_by_hand():
    rewards = tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])  # alpha = 4 / (4 - 2)
    expected = [[1.5, -0.5, -0.5, -0.5], [0] * 4, [0] * 4, [1, 1, -1, -1]]
    assert gpg_advantages(rewards).tolist() == expected
    assert gpg_advantages(2 * rewards - 1).tolist() == [[2 * a for a in row] for row in expected]  # rewards of +-1
    assert (gpg_advantages(torch.ones(3, 4)) == 0).all()  # no group with a signal
    rewards = tensor([[0.0, 1, 2], [1, 1, 1], [0, 0, 3]])  # a reward equal to the mean: alpha = 3 / 2
    assert gpg_advantages(rewards).tolist() == [[-1.5, 0, 1.5], [0, 0, 0], [-1.5, -1.5, 3]]


def test_REINFORCE_8_counts_a_group_that_could_not_be_scored_as_one_without_a_signal():
    rewards = tensor([[1.0, 3.0, nan], [nan, nan, 5.0], [nan, nan, nan]])
    assert gpg_advantages(rewards, scored=~rewards.isnan()).tolist() == [[-3, 3, 0], [0, 0, 0], [0, 0, 0]]


def test_REINFORCE_8_the_mean_over_all_groups_is_the_mean_over_those_with_a_signal():
    g = torch.Generator().manual_seed(0)
    log_probs = torch.randn(20, 6, generator=g, dtype=f64, requires_grad=True)
    mask = torch.rand(20, 6, generator=g) > 0.3
    mask[:, 0] = True
    rewards = tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=f64)
    mixed = tensor([0, 2, 4])
    rows = (mixed[:, None] * 4 + torch.arange(4)).flatten()
    centred = (rewards - rewards.mean(1, keepdim=True))[mixed].flatten()
    whole = reinforce_loss(log_probs, gpg_advantages(rewards).flatten(), mask, reduce=sequence_sum)
    part = reinforce_loss(log_probs[rows], centred, mask[rows], reduce=sequence_sum)
    torch.testing.assert_close(tiny.gradient(whole.value, log_probs), tiny.gradient(part.value, log_probs))


def truncated_likelihood(theta, order):
    """-sum_k (1 - p)^k / k up to ``order``, the first terms of log p: MaxRL's objective, its eq. 6."""
    p = objective(theta, SOLVED)
    return -sum((1 - p) ** k / k for k in range(1, order + 1))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_REINFORCE_9_the_expected_gradient_is_that_of_the_truncated_log_likelihood(size):
    theta = tiny.parameters()
    assert 0.1 < objective(theta, SOLVED) < 0.9
    found = expected_gradient(theta, size, lambda rows: max_likelihood_advantages(SOLVED[rows]))
    torch.testing.assert_close(found, tiny.gradient(truncated_likelihood(theta, size - 1), theta))
    assert (found - tiny.gradient(truncated_likelihood(theta, size), theta)).norm() > 0.01


@pytest.mark.parametrize("size", [2, 3])
def test_REINFORCE_9_counting_hopeless_groups_as_minus_one_would_add_an_order(size):
    theta = tiny.parameters()

    def advantages(rows):  # MaxRL's eq. 10 keeps the control variate where nothing succeeded; its algorithm 1 does not
        hopeless = SOLVED[rows].sum(1, keepdim=True) == 0
        return torch.where(hopeless, -1.0, max_likelihood_advantages(SOLVED[rows]))

    found = expected_gradient(theta, size, advantages)
    torch.testing.assert_close(found, tiny.gradient(truncated_likelihood(theta, size), theta))


def test_REINFORCE_9_by_hand():
    rewards = tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [nan, 0, nan, 2]])
    expected = [[3, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0] * 4, [0] * 4, [0, -1, 0, 1]]
    found = max_likelihood_advantages(rewards, scored=~rewards.isnan())
    torch.testing.assert_close(found, tensor(expected))


def test_REINFORCE_9_has_no_unit_and_no_sense_without_successes():
    rewards = tensor([[1.0, 0.0, 3.0]])
    torch.testing.assert_close(max_likelihood_advantages(rewards), max_likelihood_advantages(rewards * 1e-6))
    assert (max_likelihood_advantages(tensor([[1.0, -1.0], [1.0, -3.0]])) == 0).all()  # a mean of 0 or below


@groups
@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 0.0, -1 / 3])
@pytest.mark.parametrize("size", range(2, 20))
def test_equal_rewards_give_exactly_zero(advantages, reward, size):
    rewards = torch.full((3, size), reward)
    assert (advantages(rewards) == 0).all()
    scored = torch.ones(3, size, dtype=torch.bool)
    scored[1, 0] = scored[2, 1:] = False
    assert (advantages(rewards.masked_fill(~scored, nan), scored=scored) == 0).all()


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("size", range(2, 20))
def test_equal_rewards_give_exactly_zero_whatever_the_weights(reward, size):
    weights = torch.rand(3, size, generator=torch.Generator().manual_seed(size)) * 1000
    assert (length_weighted_advantages(torch.full((3, size), reward), weights) == 0).all()
    mask = torch.ones(3 * size, 4, dtype=torch.bool)
    energies = weights.flatten()[:, None].expand(-1, 4)
    returns = torch.full((3 * size, 4), reward)
    assert (optimal_token_advantages(returns, energies, mask, group_size=size) == 0).all()


@groups
def test_unscored_samples_enter_nothing(advantages):
    rewards = tensor([[2.0, nan, 1.0, 0.5]], dtype=f64)
    found = advantages(rewards, scored=~rewards.isnan())
    expected = advantages(rewards[:, [0, 2, 3]])
    assert found[0, 1] == 0
    torch.testing.assert_close(found[:, [0, 2, 3]], expected)


@groups
def test_samples_and_prompts_may_come_in_any_order(advantages):
    g = torch.Generator().manual_seed(0)
    rewards = torch.rand(5, 6, generator=g, dtype=f64)
    rewards[2] = 1.0
    columns, prompts = torch.randperm(6, generator=g), torch.randperm(5, generator=g)
    torch.testing.assert_close(advantages(rewards[prompts][:, columns]), advantages(rewards)[prompts][:, columns])


@groups
def test_another_unit_of_rewards_is_another_unit_of_advantages_or_none(advantages):
    rewards = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=f64)
    torch.testing.assert_close(advantages(4 * rewards), 4.0**advantages.unit * advantages(rewards))


@every_row
@pytest.mark.parametrize("dtype", [torch.float32, f64, torch.bfloat16, torch.float16], ids=str)
def test_advantages_are_detached_and_at_least_float32(advantages, dtype):
    rewards = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    before = rewards.detach().clone()
    found = advantages(rewards)
    assert not found.requires_grad and (rewards == before).all()
    assert found.dtype == (f64 if dtype == f64 else torch.float32)
    upcast = rewards.detach().to(found.dtype)
    torch.testing.assert_close(found, advantages(upcast), rtol=1e-6, atol=1e-7)


@every_row
def test_no_prompts_no_advantages(advantages):
    assert advantages(torch.zeros(0, 6)).shape == (0, 6)


RIGHT_IN_FOUR = tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]], dtype=f64)  # one, and three


def test_REINFORCE_11_by_hand():
    # the rewards are 1 as often as 0: their variance is 1 / 4 over n = 8, and 2 / 7 over n - 1
    whole = {"within_groups": False, "eps": 0.0}
    expected = tensor([[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5]], dtype=f64)
    torch.testing.assert_close(batch_scaled_advantages(RIGHT_IN_FOUR, correction=0, **whole), expected)
    by_sample = batch_scaled_advantages(RIGHT_IN_FOUR, correction=1, **whole)
    torch.testing.assert_close(by_sample, expected * (7 / 8) ** 0.5)
    # less the group's mean their squares are 9 / 16 once and 1 / 16 three times: 3 / 16 on average
    within = batch_scaled_advantages(RIGHT_IN_FOUR, within_groups=True, correction=0, eps=0.0)
    torch.testing.assert_close(within, expected / 2 / (3 / 16) ** 0.5)
    damped = batch_scaled_advantages(RIGHT_IN_FOUR, within_groups=False, correction=0, eps=0.5)
    torch.testing.assert_close(damped, expected / 2)


def test_REINFORCE_11_a_batch_in_parts_has_another_deviation():
    whole = batch_scaled_advantages(tensor([[0.0, 1], [0, 4]]), within_groups=True, correction=0, eps=0.0)
    parts = [
        batch_scaled_advantages(r, within_groups=True, correction=0, eps=0.0) for r in tensor([[[0.0, 1]], [[0, 4]]])
    ]
    assert [part.tolist() for part in parts] == [[[-1, 1]], [[-1, 1]]]
    torch.testing.assert_close(whole, tensor([[-0.5, 0.5], [-2, 2]]) / (17 / 8) ** 0.5)  # (2 / 4 + 2 * 4) / 4


def test_REINFORCE_11_unscored_rewards_are_in_no_deviation():
    rewards = tensor([[0.0, 2, nan], [5, nan, nan]])
    within = batch_scaled_advantages(rewards, within_groups=True, correction=0, eps=0.0, scored=~rewards.isnan())
    torch.testing.assert_close(within, tensor([[-1.0, 1, 0], [0, 0, 0]]) / (2 / 3) ** 0.5)  # squares 1, 1, 0
    raw = batch_scaled_advantages(rewards, within_groups=False, correction=1, eps=0.0, scored=~rewards.isnan())
    torch.testing.assert_close(raw, tensor([[-1.0, 1, 0], [0, 0, 0]]) / (38 / 6) ** 0.5)  # 0, 2, 5: 49/9 + 1/9 + 64/9


TWO_REWARDS = tensor([[[0.0, 0], [1, 2]], [[0, 0], [0, 1]]], dtype=f64)  # the first ties in the second group


def test_REINFORCE_12_by_hand():
    half = 2**-0.5  # (0, 1), (0, 2) or (0, 100) less their mean over the sample's deviation are -+0.7071
    plain = {"correction": 1, "eps": 0.0}
    found = gdpo_advantages(TWO_REWARDS, **plain)
    torch.testing.assert_close(found, tensor([[-2, 2], [-1, 1]], dtype=f64) * half)
    torch.testing.assert_close(gdpo_advantages(TWO_REWARDS * tensor([1.0, 100]), **plain), found)  # in any units
    weighted = gdpo_advantages(TWO_REWARDS, tensor([3.0, -1.0], dtype=f64), **plain)
    torch.testing.assert_close(weighted, tensor([[-2, 2], [1, -1]], dtype=f64) * half)
    assert gdpo_advantages(TWO_REWARDS, correction=0, eps=0.0).tolist() == [[-2, 2], [-1, 1]]
    damped = gdpo_advantages(TWO_REWARDS, correction=0, eps=0.5)  # 0.5 / (0.5 + 0.5) and 1 / (1 + 0.5)
    torch.testing.assert_close(damped, tensor([[-7 / 6, 7 / 6], [-0.5, 0.5]], dtype=f64))


def test_REINFORCE_12_tells_apart_what_a_sum_does_not():
    rewards = tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]], dtype=f64)
    sums = rewards.sum(2)
    found = gdpo_advantages(rewards, correction=0, eps=0.0)
    assert sums[0, 0] == sums[0, 1] and found[0, 0] > found[0, 1]  # the rarer of the two is worth more
    torch.testing.assert_close(found[0, 0] - found[0, 1], tensor(3 / 2**0.5 - 2, dtype=f64))  # 1 of 3; 1 of 2


def test_REINFORCE_12_unscored_rewards_enter_nothing():
    rewards = tensor([[[0.0, 0], [nan, nan], [1, 2]]])
    found = gdpo_advantages(rewards, correction=0, eps=0.0, scored=tensor([[True, False, True]]))
    assert found.tolist() == [[-2, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_REINFORCE_12_rewards_that_cancel_add_up_to_exactly_0(dtype):
    """Two rewards of which one rises where the other falls: without weights the sum of their scales is nothing."""
    pairs = [[[1, -120], [0, -80]], [[1, -333], [0, -71]], [[0, -20], [1, -77]]]
    assert not gdpo_advantages(tensor(pairs, dtype=dtype), correction=1, eps=0.0).any()
    first = torch.rand(50, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    opposite = torch.stack([first, 1 - first], 2)
    assert not gdpo_advantages(opposite, correction=1, eps=1e-8).any()
    apart = gdpo_advantages(opposite, tensor([1.0, 0.999], dtype=dtype), correction=1, eps=0.0)
    one = gdpo_advantages(opposite[..., :1], correction=1, eps=0.0)
    torch.testing.assert_close(apart, 0.001 * one, rtol=1e-2, atol=1e-5)  # small, and not 0


def test_REINFORCE_12_refuses_rewards_and_weights_that_do_not_fit(unchecked):
    plain = {"correction": 1, "eps": 0.0}
    for wrong in (TWO_REWARDS[..., 0], TWO_REWARDS.long(), TWO_REWARDS[None]):
        with pytest.raises(ValueError, match=r"^rewards: expected .*\[P G K\].*got"):
            gdpo_advantages(wrong, **plain)
    for wrong in (torch.ones(3), torch.ones(1, 2), torch.ones(2).long()):
        with pytest.raises(ValueError, match=r"^weights: expected .*\[2\].*got"):
            gdpo_advantages(TWO_REWARDS, wrong, **plain)
    with pytest.raises(ValueError, match=r"^rewards: expected at least 2"):
        gdpo_advantages(TWO_REWARDS[:, :1], **plain)
    with pytest.raises(ValueError, match=r"^rewards: expected at least 1 reward"):
        gdpo_advantages(TWO_REWARDS[..., :0], **plain)


def test_REINFORCE_13_by_hand():
    sums = tensor([[-(2**0.5), 2**0.5], [-(2**-0.5), 2**-0.5]], dtype=f64)  # squares 2, 2, 1/2, 1/2: 5/3 over n - 1
    found = whiten_completions(sums, correction=1, eps=0.0)
    torch.testing.assert_close(found, sums / (5 / 3) ** 0.5)
    torch.testing.assert_close(found, tensor([[-1.0954451, 1.0954451], [-0.5477226, 0.5477226]], dtype=f64))
    shifted = whiten_completions(
        tensor([[1.0, 2], [3, nan]]), correction=0, eps=1.0, scored=tensor([[1, 1], [1, 0]]).bool()
    )
    torch.testing.assert_close(shifted, tensor([[-1.0, 0], [1, 0]]) / ((2 / 3) ** 0.5 + 1))


def test_REINFORCE_13_a_batch_in_parts_has_other_statistics_and_tokens_have_others_than_completions():
    sums = tensor([[-2.0, 2.0], [-1.0, 4.0]])
    whole = whiten_completions(sums, correction=0, eps=0.0)
    parts = torch.cat([whiten_completions(part, correction=0, eps=0.0) for part in sums.split(1)])
    assert (whole - parts).abs().max() > 0.2
    mask = torch.arange(9) < tensor([[1], [9], [1], [1]])
    of_tokens = masked_whiten(sums.flatten()[:, None].expand(4, 9), mask, correction=0, eps=0.0)
    assert (of_tokens[:, 0] - whole.flatten()).abs().max() > 0.2  # nine tokens of 2 lift the mean over tokens


def test_REINFORCE_14_by_hand():
    found = pass_at_k_advantages(tensor([[1.0, 0, 0, 0]], dtype=f64), k=2, eps=0.0)
    torch.testing.assert_close(found, tensor([[1.0, -1 / 3, -1 / 3, -1 / 3]], dtype=f64))  # R 1/2, sigma 1/2, share 2/3
    by_one = pass_at_k_advantages(tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]], dtype=f64), k=1, eps=0.0)
    torch.testing.assert_close(by_one, tensor([[3.0, -1, -1, -1], [1, 1, 1, -3]], dtype=f64) / sqrt(3))
    for settled in ([1.0, 1, 1, 1], [0.0, 0, 0, 0], [1.0, 1, 1, 0]):  # of the last, every set of two has a right one
        assert pass_at_k_advantages(tensor([settled]), k=2, eps=0.0).tolist() == [[0] * 4]
    unscored = tensor([[1.0, nan, 0, 0, 0], [1, nan, nan, nan, nan]])
    found = pass_at_k_advantages(unscored, k=2, eps=0.5, scored=~unscored.isnan())
    torch.testing.assert_close(found, tensor([[0.5, 0, -1 / 6, -1 / 6, -1 / 6], [0] * 5]))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("solved", range(7))
def test_REINFORCE_14_is_the_mean_over_all_sets_of_k(k, solved):
    """Every set of k from six samples: its best reward, standardised over the sets, and averaged over those with i."""
    rewards = [1.0] * solved + [0.0] * (6 - solved)
    sets = list(combinations(range(6), k))
    best = [max(rewards[i] for i in one) for one in sets]
    mean = sum(best) / len(sets)
    deviation = sqrt(sum((b - mean) ** 2 for b in best) / len(sets))
    of_each = [[b - mean for b, one in zip(best, sets, strict=True) if i in one] for i in range(6)]
    expected = [sum(gains) / len(gains) / deviation if deviation else 0.0 for gains in of_each]
    found = pass_at_k_advantages(tensor([rewards], dtype=f64), k=k, eps=0.0)
    torch.testing.assert_close(found, tensor([expected], dtype=f64))
    assert abs(found.sum().item()) < 1e-12


def test_REINFORCE_14_refuses_a_k_that_is_no_number_of_samples(unchecked):
    for wrong in (0, 5, 2.0, True, None):
        with pytest.raises(ValueError, match=r"^k: expected an integer from 1 to 4, got"):
            pass_at_k_advantages(torch.rand(2, 4), k=wrong, eps=0.0)


def test_REINFORCE_15_by_hand():
    plain = {"divide_by_std": False, "correction": 0, "eps": 0.0}
    rewards = tensor([[1.0, 0.25, 0], [2, 3, 3], [-5, -1, -4], [nan, 1, nan]], dtype=f64)
    found = best_margin_advantages(rewards, **plain, scored=~rewards.isnan())
    assert found.tolist() == [[0.75, 0, 0], [0, 0, 0], [0, 3, 0], [0, 0, 0]]
    scaled = best_margin_advantages(tensor([[1.0, 0, 0, 0]], dtype=f64), divide_by_std=True, correction=1, eps=0.5)
    torch.testing.assert_close(scaled, tensor([[1.0, 0, 0, 0]], dtype=f64))  # the deviation is 1/2


@pytest.mark.parametrize("size", [2, 3])
def test_REINFORCE_15_expects_the_gradient_of_the_best_reward(size):
    theta = tiny.parameters()
    rows, p = every_group(theta, size)
    best = tiny.gradient((p * REWARDS[rows].amax(1)).sum(), theta)
    plain = {"divide_by_std": False, "correction": 0, "eps": 0.0}
    found = expected_gradient(theta, size, lambda rows: best_margin_advantages(REWARDS[rows], **plain))
    torch.testing.assert_close(size * found, best)  # expected_gradient is a mean over the group


def test_REINFORCE_17_by_hand():
    returns, groups = tensor([1.0, 5.0, 3.0, 7.0, 0.1, 0.1, 0.1]), tensor([4, 9, 4, 2, 0, 0, 0])
    plain = {"divide_by_std": False, "correction": 0, "eps": 0.0}
    assert step_group_advantages(returns, groups, **plain).tolist() == [-1, 0, 1, 0, 0, 0, 0]
    scaled = step_group_advantages(returns, groups, divide_by_std=True, correction=1, eps=0.0)
    torch.testing.assert_close(scaled, tensor([-1.0, 0, 1, 0, 0, 0, 0]) / sqrt(2))


def test_REINFORCE_17_refuses_groups_that_do_not_fit(unchecked):
    for wrong in (torch.ones(3), torch.ones(2).long(), torch.ones(3, 1).long(), None):
        with pytest.raises(ValueError, match=r"^groups: expected an integer tensor of shape \[3\], got"):
            step_group_advantages(torch.rand(3), wrong, divide_by_std=False, correction=0, eps=0.0)


def test_REINFORCE_10_by_hand():
    mask = tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]).bool()
    returns = tensor([[4.0, 4, 4], [1, 1, nan], [3, nan, nan], [0, 0, nan]])
    energies = tensor([[1.0, 0, 5], [0.5, 0.5, nan], [1, nan, nan], [3, 1, nan]])
    # W of the first group: 1 1 6 and 0.5 1; baselines (4 + 0.5) / 1.5 = 3, then 2.5, then a single row
    # W of the second: 1 and 3 4; baselines 3 / 4, then a single row
    expected = [[1, 1.5, 0], [-2, -1.5, 0], [2.25, 0, 0], [-0.75, 0, 0]]
    torch.testing.assert_close(optimal_token_advantages(returns, energies, mask, group_size=2), tensor(expected))


def test_REINFORCE_10_energy_is_counted_from_the_start_over_chosen_tokens_only():
    mask = tensor([[1, 0, 1], [1, 1, 1]]).bool()
    returns, energies = tensor([[3.0, nan, 3], [0, 0, 0]]), tensor([[1.0, nan, 1], [2, 2, 2]])
    # at the last step W = 2 and 6: the baseline is 6 / 8
    found = optimal_token_advantages(returns, energies, mask, group_size=2)
    assert found.tolist() == [[2, 0, 2.25], [-1, 0, -0.75]]


def test_REINFORCE_10_weighted_by_the_energy_so_far_each_steps_advantages_add_up_to_zero():
    g = torch.Generator().manual_seed(0)
    returns, energies = torch.randn(12, 7, generator=g, dtype=f64), torch.rand(12, 7, generator=g, dtype=f64)
    mask = torch.rand(12, 7, generator=g) > 0.3
    found = optimal_token_advantages(returns, energies, mask, group_size=4)
    spent = energies.masked_fill(~mask, 0).cumsum(1)
    sums = (spent * found).masked_fill(~mask, 0).unflatten(0, (3, 4)).sum(1)  # d/db of sum W (G - b)^2 is 0
    torch.testing.assert_close(sums, torch.zeros(3, 7, dtype=f64), rtol=0, atol=1e-12)
    in_group = mask.unflatten(0, (3, 4)).sum(1, keepdim=True).expand(3, 4, 7).flatten(0, 1)
    assert ((found != 0) == (mask & (in_group > 1))).all()


def test_REINFORCE_10_the_energy_of_a_token_from_its_probabilities_is_the_squared_norm_of_its_score():
    theta = tiny.parameters()
    log_probs = tiny.log_probs(theta).masked_fill(~tiny.mask, 0)
    p = torch.softmax(theta.detach(), -1)[tiny.states]
    energies = 1 - 2 * log_probs.detach().exp() + p.square().sum(-1)  # one logit a prefix and token: no chain rule
    for row, t in tiny.mask.nonzero().tolist():
        score = tiny.gradient(log_probs[row, t], theta)
        torch.testing.assert_close(energies[row, t], score.square().sum())


@pytest.mark.parametrize("size", [2, 3])
def test_REINFORCE_10_at_the_first_step_lacks_the_gradient_of_the_expected_baseline_over_n(size):
    theta = tiny.parameters()
    first = tiny.mask.clone()
    first[:, 1:] = False
    p = torch.softmax(theta.detach(), -1)[tiny.states]
    w = 1 - 2 * tiny.log_probs(theta).detach().masked_fill(~tiny.mask, 0).exp() + p.square().sum(-1)
    rows, probability = every_group(theta, size)
    flat = rows.flatten()
    returns = REWARDS[:, None].expand(-1, tiny.T)

    found = tiny.gradient(
        (
            probability.detach().repeat_interleave(size)[:, None]
            * optimal_token_advantages(returns[flat], w[flat], first[flat], group_size=size)
            * tiny.log_probs(theta).masked_fill(~first, 0)[flat]
        ).sum()
        / size,
        theta,
    )
    # on the first token's logits alone, as the other logits have no score there
    start = tiny.PREFIXES.index(())
    baseline = (probability * (w[:, 0] * REWARDS)[rows].sum(1) / w[rows, 0].sum(1)).sum()
    wanted = tiny.gradient(objective(theta) - baseline / size, theta)[start]
    torch.testing.assert_close(found[start], wanted)


# The methods that variants.md makes of what exists, run as they stand there.

PAGE = (Path(__file__).parent.parent / "torchstone/reinforce/variants.md").read_text()
IMPORTS, *RECIPES = re.findall(r"```python\n(.*?)```", PAGE.split("## Methods made of what exists")[1], re.S)
RECIPES = {code.splitlines()[0].removeprefix("# "): code for code in RECIPES}


def run_recipe(name, **given):
    exec(IMPORTS, given)
    exec(RECIPES[name], given)
    return given["advantages"], given["loss"].value


@pytest.fixture
def batch():
    """Two prompts of three completions, with gaps and of unequal length."""
    g = torch.Generator().manual_seed(0)
    log_probs, old, ref = torch.randn(3, 6, 5, generator=g, dtype=f64).unbind()
    mask = torch.rand(6, 5, generator=g) > 0.3
    mask[:, 0] = True
    rewards = torch.randn(2, 3, generator=g, dtype=f64)
    logs = {"log_probs": log_probs.requires_grad_(), "old_log_probs": old, "ref_log_probs": ref}
    return {"rewards": rewards, "mask": mask} | {k: v.masked_fill(~mask, nan) for k, v in logs.items()}


def left_out(rewards):
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def whitened(x, mask):
    """Less the mean and by the deviation (over n) of the chosen tokens, from a flat list of them."""
    chosen = x[mask]
    return (x - chosen.mean()) / chosen.std(correction=0)


def clipped(ratio, advantages):
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def to_go(x):
    return x.flip(1).cumsum(1).flip(1)


def test_every_recipe_of_the_readme_is_tested():
    source = Path(__file__).read_text()
    assert len(RECIPES) == 6 and all(f'run_recipe("{name}"' in source for name in RECIPES)


def test_recipe_rloo(batch):
    _, value = run_recipe("RLOO", **batch)
    whole = batch["log_probs"].masked_fill(~batch["mask"], 0).sum(1)
    torch.testing.assert_close(value, -(left_out(batch["rewards"]).flatten() * whole).mean())


def test_recipe_rloo_with_the_kl_paid_by_the_completion(batch):
    advantages, value = run_recipe("RLOO, KL paid by the completion", **batch)
    whole, old, ref = (batch[k].masked_fill(~batch["mask"], 0).sum(1) for k in batch if k.endswith("log_probs"))
    expected = left_out(batch["rewards"] - 0.03 * (old - ref).view(2, 3)).flatten()
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(value, -(expected * whole).mean())


def test_recipe_rloo_with_the_kl_paid_by_the_token(batch):
    advantages, value = run_recipe("RLOO, KL paid by the token", **batch)
    kl = (batch["old_log_probs"] - batch["ref_log_probs"]).masked_fill(~batch["mask"], 0)
    expected = (left_out(batch["rewards"]).flatten()[:, None] - 0.03 * to_go(kl)).masked_fill(~batch["mask"], 0)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(value, -(expected * batch["log_probs"]).masked_fill(~batch["mask"], 0).sum(1).mean())


@pytest.mark.parametrize("paid_by", ["completion", "token"])
def test_both_places_of_the_kl_follow_the_gradient_of_the_reward_less_the_kl(paid_by):
    theta, ref = tiny.parameters(), tiny.parameters(seed=7).detach()
    rows, p = every_group(theta, 2)
    flat, log_probs = rows.flatten(), tiny.log_probs(theta)
    logs = {"log_probs": log_probs, "old_log_probs": log_probs.detach(), "ref_log_probs": tiny.log_probs(ref)}
    given = {k: v[flat] for k, v in logs.items()} | {"rewards": REWARDS[rows], "mask": tiny.mask[flat]}
    name = {"completion": "RLOO, KL paid by the completion", "token": "RLOO, KL paid by the token"}[paid_by]
    advantages, _ = run_recipe(name, **given)
    weights = p.detach().repeat_interleave(2) / 2
    loss = reinforce_loss(
        given["log_probs"], advantages, given["mask"], reduce=lambda x, _: (weights * x.sum(1)).sum()
    ).value
    kl = (tiny.probabilities(theta) * (tiny.probabilities(theta) / tiny.probabilities(ref)).log()).sum()
    torch.testing.assert_close(-tiny.gradient(loss, theta), tiny.gradient(objective(theta) - 0.03 * kl, theta))
    assert tiny.gradient(0.03 * kl, theta).norm() > 0.01


def test_recipe_rloo_clipped_by_the_completion(batch):
    _, value = run_recipe("RLOO, clipped by the completion", **batch)
    moved = (batch["log_probs"] - batch["old_log_probs"]).masked_fill(~batch["mask"], 0).sum(1)
    torch.testing.assert_close(value, clipped(moved.exp(), left_out(batch["rewards"]).flatten()).mean())
    on_policy = batch | {"old_log_probs": batch["log_probs"].detach()}
    _, one = run_recipe("RLOO, clipped by the completion", **on_policy)
    _, other = run_recipe("RLOO", **on_policy)
    torch.testing.assert_close(tiny.gradient(one, batch["log_probs"]), tiny.gradient(other, batch["log_probs"]))


def test_recipe_reinforce_plus_plus(batch):
    advantages, value = run_recipe("REINFORCE++", **batch)
    mask = batch["mask"]
    kl = (batch["old_log_probs"] - batch["ref_log_probs"]).masked_fill(~mask, 0)
    expected = whitened(batch["rewards"].flatten()[:, None] - 0.01 * to_go(kl), mask)
    torch.testing.assert_close(advantages[mask], expected[mask], rtol=1e-7, atol=0)
    losses = clipped((batch["log_probs"] - batch["old_log_probs"]).exp(), expected).masked_fill(~mask, 0)
    torch.testing.assert_close(value, (losses.sum(1) / mask.sum(1)).mean(), rtol=1e-7, atol=0)


def test_recipe_reinforce_plus_plus_with_baseline(batch):
    advantages, value = run_recipe("REINFORCE++ with baseline", **batch)
    mask = batch["mask"]
    centred = (batch["rewards"] - batch["rewards"].mean(1, keepdim=True)).flatten()[:, None].expand(6, 5)
    expected = whitened(centred, mask)
    torch.testing.assert_close(advantages[mask], expected[mask], rtol=1e-7, atol=0)
    moved, away = (batch["log_probs"] - batch[k] for k in ("old_log_probs", "ref_log_probs"))
    losses = (clipped(moved.exp(), expected) + 0.001 * away**2 / 2).masked_fill(~mask, 0)
    torch.testing.assert_close(value, (losses.sum(1) / mask.sum(1)).mean(), rtol=1e-7, atol=0)


def test_whitening_over_tokens_moves_a_tied_group_off_zero(batch):
    tied = batch | {"rewards": tensor([[1.0, 1, 1], [0, 0, 1]], dtype=f64)}
    advantages, _ = run_recipe("REINFORCE++ with baseline", **tied)
    lengths = batch["mask"].sum(1)
    assert (lengths[3:] != lengths[3]).any()
    mean = (tensor([-1 / 3, -1 / 3, 2 / 3], dtype=f64) * lengths[3:]).sum() / lengths.sum()
    assert mean.abs() > 0.01
    chosen = advantages[:3][batch["mask"][:3]]
    assert (chosen == chosen[0]).all() and chosen[0].sign() == -mean.sign()


ONE = torch.ones(4, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("rewards", lambda: greedy_advantages(torch.zeros(4), torch.zeros(4))),
        ("greedy_rewards", lambda: greedy_advantages(torch.zeros(4, 2), torch.zeros(2))),
        ("greedy_rewards", lambda: greedy_advantages(torch.zeros(4, 2), torch.zeros(4, 1))),
        ("greedy_rewards", lambda: greedy_advantages(torch.zeros(4, 2), torch.zeros(4).long())),
        ("scored", lambda: greedy_advantages(torch.zeros(4, 2), torch.zeros(4), scored=torch.ones(4, 2))),
        ("scored", lambda: greedy_advantages(torch.zeros(4, 2), torch.zeros(4), scored=torch.ones(4).bool())),
        ("rewards", lambda: length_weighted_advantages(torch.zeros(4), torch.zeros(4))),
        ("lengths", lambda: length_weighted_advantages(torch.zeros(4, 2), torch.zeros(8))),
        ("lengths", lambda: length_weighted_advantages(torch.zeros(4, 2), torch.zeros(4, 1))),
        ("lengths", lambda: length_weighted_advantages(torch.zeros(4, 2), torch.zeros(4, 2).bool())),
        ("lengths", lambda: length_weighted_advantages(torch.zeros(4, 2), [[1, 2]] * 4)),
        ("mask", lambda: optimal_token_advantages(ONE.float(), ONE.float(), ONE.float(), group_size=2)),
        ("returns", lambda: optimal_token_advantages(ONE[:, :2].float(), ONE.float(), ONE, group_size=2)),
        ("energies", lambda: optimal_token_advantages(ONE.float(), ONE[:, 0].float(), ONE, group_size=2)),
        ("group_size", lambda: optimal_token_advantages(ONE.float(), ONE.float(), ONE, group_size=1)),
        ("group_size", lambda: optimal_token_advantages(ONE.float(), ONE.float(), ONE, group_size=3)),
        ("group_size", lambda: optimal_token_advantages(ONE.float(), ONE.float(), ONE, group_size=2.0)),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()


@groups
@pytest.mark.parametrize(
    ("argument", "shape", "how"),
    [
        ("rewards", (4, 1), {}),
        ("rewards", (4,), {}),
        ("scored", (4, 2), {"scored": torch.ones(4, 2)}),
        ("scored", (4, 2), {"scored": torch.ones(4, 1).bool()}),
    ],
)
def test_a_group_that_cannot_be_compared_is_named(advantages, argument, shape, how, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        advantages(torch.zeros(shape), **how)


@every_row
def test_integer_rewards_are_named(advantages, unchecked):
    with pytest.raises(ValueError, match=r"^(rewards|returns): expected a floating-point tensor .*, got int64"):
        advantages(torch.zeros(4, 2).long())


def test_REINFORCE_16_by_hand_and_between_the_mean_and_the_best():
    value = soft_values(tensor([[0.0, 1.0], [3.0, nan]]), beta=0.5, scored=tensor([[1, 1], [1, 0]]).bool())
    assert value.tolist() == pytest.approx([0.5 * math.log((1 + math.exp(2)) / 2), 3.0])
    rewards = tensor([[0.0, 1.0, 0.25]], dtype=torch.float64)
    values = [soft_values(rewards, beta=beta).item() for beta in (1e-3, 0.5, 1e6)]
    assert values[0] == pytest.approx(1, abs=2e-3) and values[2] == pytest.approx(1.25 / 3, abs=1e-6)
    assert values[0] > values[1] > values[2]


def test_REINFORCE_16_in_float32_from_the_smallest_beta_to_the_largest():
    for beta, value in ((1e8, 0.5), (1e30, 0.5), (1e-46, 1.0), (1e-300, 1.0)):  # the mean; the best
        assert soft_values(tensor([[0.0, 1.0]]), beta=beta).tolist() == pytest.approx([value], rel=1e-6)
    with pytest.raises(ValueError, match=r"^rewards: expected at least 1 sample"):
        soft_values(torch.zeros(2, 0), beta=1.0)


def test_REINFORCE_16_survives_rewards_that_overflow_and_prompts_without_a_score():
    rewards = tensor([[1000.0, 999.0], [-4000.0, -5000.0], [nan, nan]])
    found = soft_values(rewards, beta=0.01, scored=tensor([[1, 1], [1, 1], [0, 0]]).bool())
    least = 0.01 * math.log(2)  # of two samples one counts
    assert found.tolist() == pytest.approx([1000 - least, -4000 - least, 0])
    assert not soft_values(rewards.nan_to_num().requires_grad_(), beta=1.0).requires_grad


def test_REINFORCE_16_is_below_the_true_value_on_average():
    """All ordered pairs of samples of a reward that is 1 with probability 1 / 4, else 0."""
    drawn = tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    chance = tensor([1, 3, 3, 9], dtype=torch.float64) / 16
    true = 0.5 * math.log(math.exp(2) / 4 + 3 / 4)
    assert (chance * soft_values(drawn, beta=0.5)).sum().item() < true - 0.05


@pytest.mark.parametrize("beta", [0.0, -1.0, nan])
def test_soft_values_refuse_a_beta_that_is_not_positive(beta):
    with pytest.raises(ValueError, match=r"^beta: expected .*, got"):
        soft_values(tensor([[0.0, 1.0]]), beta=beta)
