"""GRPO: group advantages, ties, what dividing by the deviation does to the gradient."""

import math
from itertools import product

import pytest
import torch
from torch import nan, tensor

from torchstone.core import kl_k1, kl_k2, kl_k3, sequence_mean, token_mean
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.ppo import clipped_surrogate

f64 = torch.float64
GRPO = {"divide_by_std": True, "correction": 1, "eps": 1e-4}


def test_GRPO_1_without_the_deviation_the_advantage_is_the_distance_to_the_mean():
    rewards = tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 4.0, 6.0, 8.0]])
    advantages = group_advantages(rewards, divide_by_std=False, correction=1, eps=0.0)
    assert advantages.tolist() == [[0.75, -0.25, -0.25, -0.25], [-3, -1, 1, 3]]


@pytest.mark.parametrize(("correction", "eps", "first"), [(1, 1e-4, 1.4997), (1, 1e-6, 1.5), (0, 1e-8, 1.7320508)])
def test_GRPO_2_the_deviation_is_named_by_the_caller(correction, eps, first):
    rewards = tensor([[1.0, 0.0, 0.0, 0.0]], dtype=f64)
    advantages = group_advantages(rewards, divide_by_std=True, correction=correction, eps=eps)
    variance = (0.75**2 + 3 * 0.25**2) / (4 - correction)
    by_hand = [d / (math.sqrt(variance) + eps) for d in (0.75, -0.25, -0.25, -0.25)]
    torch.testing.assert_close(advantages, tensor([by_hand], dtype=f64))
    assert advantages[0, 0].item() == pytest.approx(first, abs=5e-5)


def test_GRPO_2_statistics_are_of_each_group_not_of_the_batch():
    rewards = tensor([[0.0, 1.0], [10.0, 12.0]], dtype=f64)
    advantages = group_advantages(rewards, divide_by_std=True, correction=0, eps=0.0)
    torch.testing.assert_close(advantages, tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=f64))


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 0.0, 1.0, 1e6])
@pytest.mark.parametrize("size", [2, 3, 5, 8, 12, 16, 64])
@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, f64, torch.bfloat16], ids=str)
def test_GRPO_2_equal_rewards_give_exactly_zero(reward, size, eps, dtype):
    rewards = torch.full((16, size), reward, dtype=dtype)
    for divide_by_std, correction in product((True, False), (0, 1)):
        advantages = group_advantages(rewards, divide_by_std=divide_by_std, correction=correction, eps=eps)
        assert (advantages == 0).all()


@pytest.mark.parametrize(("size", "reward", "off"), [(8, 0.7, 2**-24), (15, 0.98, 2**-22)])
@pytest.mark.parametrize("eps", [1e-9, 1e-8, 1e-6, 1e-4])
def test_GRPO_2_equal_rewards_by_the_plain_formula_get_a_rounding_error_over_eps(size, reward, off, eps):
    r = torch.full((2, size), reward)
    plain = (r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + eps)
    assert plain.abs().flatten().tolist() == pytest.approx([off / eps] * 2 * size)
    assert not group_advantages(r, divide_by_std=True, correction=1, eps=eps).any()


def test_GRPO_2_unscored_members_get_zero_and_enter_no_statistic():
    rewards = tensor([[nan, 1.0, 3.0, 5.0], [nan, nan, nan, 0.7], [nan, 0.7, 0.7, 0.7]], dtype=f64)
    advantages = group_advantages(rewards, scored=~rewards.isnan(), **GRPO)
    alone = group_advantages(rewards[:1, 1:], **GRPO)
    torch.testing.assert_close(advantages[:1, 1:], alone)
    assert advantages[0, 0] == 0 and (advantages[1:] == 0).all()


def test_GRPO_2_negative_ties_with_unscored_members():
    rewards = tensor([[-0.7, -0.7, nan, -0.7]])
    assert (group_advantages(rewards, scored=~rewards.isnan(), **GRPO) == 0).all()


@pytest.mark.parametrize("size", [1e30, 1e20, 1e-20, 1e-30])
def test_GRPO_2_very_large_and_very_small_rewards_have_a_deviation_too(size):
    rewards = tensor([[size, 0.0, 0.0, 0.0]])
    advantages = group_advantages(rewards, divide_by_std=True, correction=1, eps=0.0)
    torch.testing.assert_close(advantages, tensor([[1.5, -0.5, -0.5, -0.5]]))


def test_GRPO_2_a_group_is_scaled_by_itself():
    rewards = tensor([[1e-30, 0.0], [1e30, 0.0]])  # a square of either is no float32 number
    advantages = group_advantages(rewards, divide_by_std=True, correction=1, eps=0.0)
    half = math.sqrt(0.5)  # two numbers d apart deviate by d / sqrt 2
    torch.testing.assert_close(advantages, tensor([[half, -half]] * 2))


def test_advantages_are_constants():
    assert not group_advantages(torch.rand(2, 3, requires_grad=True), **GRPO).requires_grad


# --- the bias of the group's deviation, by enumeration of every group


def every_group(logits, size):
    """All groups of ``size`` answers to one prompt: log-probs [K size], rewards [K size], probability [K].

    Three answers, of which the last is right: reward 1; the others 0.
    """
    log_p = torch.log_softmax(logits, 0)
    groups = torch.tensor(list(product(range(3), repeat=size)))
    return log_p[groups], (groups == 2).to(f64), log_p.detach()[groups].sum(1).exp()


def expected_gradient(logits, size, **options):
    log_probs, rewards, p = every_group(logits, size)
    advantages = group_advantages(rewards, **options).reshape(-1, 1)
    flat, mask = log_probs.reshape(-1, 1), torch.ones(len(advantages), 1, dtype=torch.bool)
    average = lambda x, mask: (p.repeat_interleave(size)[:, None] * x).sum() / size  # noqa: E731
    loss = grpo_loss(flat, flat.detach(), advantages, mask, reduce=average, epsilon=0.2, beta=0.0)
    return -torch.autograd.grad(loss.value, logits)[0]


def deviation_factor(p, size):
    """What dividing by the population deviation multiplies a prompt's gradient by, at success rate p:

    E[ sqrt(k (G - k)) / G ] / (p (1 - p)),    k ~ Binomial(G, p)
    """
    binomial = [math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)]
    return sum(w * math.sqrt(k * (size - k)) / size for k, w in enumerate(binomial)) / (p * (1 - p))


@pytest.mark.parametrize("size", [2, 4, 5])
@pytest.mark.parametrize("right", [-3.0, 0.0, 3.0])
def test_GRPO_2_dividing_by_the_deviation_scales_each_prompt_by_its_difficulty(size, right):
    logits = tensor([0.3, -0.2, right], dtype=f64, requires_grad=True)
    success = torch.softmax(logits, 0)[2]
    (true,) = torch.autograd.grad(success, logits, retain_graph=True)
    without = expected_gradient(logits, size, divide_by_std=False, correction=0, eps=0.0)
    torch.testing.assert_close(without, (1 - 1 / size) * true)  # the group's own mean costs 1 / G, for every prompt
    divided = expected_gradient(logits, size, divide_by_std=True, correction=0, eps=0.0)
    torch.testing.assert_close(divided, deviation_factor(success.item(), size) * true)


def test_GRPO_2_the_deviations_bias_grows_with_the_group():
    """How much more a nearly hopeless prompt weighs than one solved half the time."""
    ratio = {size: deviation_factor(1e-9, size) / deviation_factor(0.5, size) for size in (2, 4, 16, 64)}
    assert ratio[2] == pytest.approx(1)  # two samples: the deviation of an untied group is always 1/2
    assert ratio[4] == pytest.approx(math.sqrt(3) / (math.sqrt(3) / 2 + 3 / 4))  # by hand: 1.07
    assert deviation_factor(1e-9, 16) == pytest.approx(math.sqrt(15))  # one success: sqrt(G - 1)
    assert ratio[4] < ratio[16] < ratio[64] and ratio[64] > 3.5


# --- the loss


@pytest.mark.parametrize("kl", [kl_k1, kl_k2, kl_k3])
def test_GRPO_3_the_loss_is_the_clipped_surrogate_plus_beta_times_the_kl(kl):
    g = torch.Generator().manual_seed(0)
    log_probs, old, ref = torch.randn(3, 3, 4, generator=g, dtype=f64).unbind()
    mask, advantages = torch.rand(3, 4, generator=g) > 0.3, torch.randn(3, generator=g, dtype=f64)
    loss = grpo_loss(
        log_probs, old, advantages, mask, reduce=sequence_mean, epsilon=0.2, beta=0.04, ref_log_probs=ref, kl=kl
    )
    clipped = clipped_surrogate(log_probs, old, advantages, mask, epsilon=0.2)
    divergence = kl(log_probs, ref, mask)
    torch.testing.assert_close(loss.value, sequence_mean(clipped + 0.04 * divergence, mask))
    assert float(loss.metrics["kl"]) == pytest.approx(divergence[mask].mean().item())


def test_GRPO_3_more_beta_costs_more():
    log_probs, mask = torch.full((1, 2), -1.0), torch.ones(1, 2).bool()
    for kl in (kl_k2, kl_k3):
        cost = [
            grpo_loss(
                log_probs, log_probs, torch.ones(1), mask, reduce=token_mean, epsilon=0.2, beta=beta,
                ref_log_probs=log_probs - 1, kl=kl,
            ).value
            for beta in (0.0, 0.1, 1.0)
        ]  # fmt: skip
        assert cost[0] < cost[1] < cost[2]


def test_GRPO_3_a_batch_of_tied_groups_still_learns_from_the_kl():
    log_probs, mask = torch.full((4, 2), -1.0, requires_grad=True), torch.ones(4, 2).bool()
    advantages = group_advantages(torch.full((2, 2), 0.7), **GRPO).flatten()
    old, ref = log_probs.detach(), log_probs.detach() - 1
    tied = grpo_loss(log_probs, old, advantages, mask, reduce=token_mean, epsilon=0.2, beta=0.0)
    (gradient,) = torch.autograd.grad(tied.value, log_probs)
    assert (gradient == 0).all()
    held = grpo_loss(
        log_probs, old, advantages, mask, reduce=token_mean, epsilon=0.2, beta=0.1, ref_log_probs=ref, kl=kl_k2
    )
    (gradient,) = torch.autograd.grad(held.value, log_probs)
    assert (gradient > 0).all()  # too likely: pushed back down to the reference


ROW = torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("rewards", lambda: group_advantages(torch.zeros(4, 1), **GRPO)),
        ("rewards", lambda: group_advantages(torch.zeros(4), **GRPO)),
        ("correction", lambda: group_advantages(torch.zeros(4, 2), divide_by_std=True, correction=2, eps=0.0)),
        ("correction", lambda: group_advantages(torch.zeros(4, 2), divide_by_std=True, correction=True, eps=0.0)),
        ("eps", lambda: group_advantages(torch.zeros(4, 2), divide_by_std=True, correction=1, eps=-1.0)),
        ("scored", lambda: group_advantages(torch.zeros(4, 2), scored=torch.ones(4, 2), **GRPO)),
        ("scored", lambda: group_advantages(torch.zeros(4, 2), scored=torch.ones(4, 1).bool(), **GRPO)),
        (
            "kl",
            lambda: grpo_loss(
                ROW,
                ROW,
                torch.zeros(1),
                torch.ones(1, 2).bool(),
                reduce=token_mean,
                epsilon=0.2,
                beta=0.1,
                ref_log_probs=ROW,
                kl=lambda *_: torch.zeros(2),
            ),
        ),
        (
            "ref_log_probs",
            lambda: grpo_loss(
                ROW, ROW, torch.zeros(1), torch.ones(1, 2).bool(), reduce=token_mean, epsilon=0.2, beta=0.1
            ),
        ),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
