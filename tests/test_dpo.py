"""DPO: the loss, its gradient in closed form, and the optimum that it must reach."""

import math

import pytest
import torch
from torch import nan, tensor

from torchstone.dpo import bradley_terry_loss, dpo_loss, implicit_rewards, sequence_log_probs

f64 = torch.float64
ZERO = torch.zeros(1, dtype=f64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def test_DPO_1_the_log_prob_of_a_completion_is_a_sum_or_a_mean():
    log_probs = tensor([[nan, -1.0, -2.0], [nan, -6.0, nan], [nan, nan, nan]])
    mask = tensor([[0, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()  # the prompt's column is not scored
    assert sequence_log_probs(log_probs, mask, average=False).tolist() == [-3.0, -6.0, 0.0]
    assert sequence_log_probs(log_probs, mask, average=True).tolist() == [-1.5, -6.0, 0.0]
    x = random(2, 3).requires_grad_()
    for average in (True, False):
        assert torch.autograd.gradcheck(lambda x, a=average: sequence_log_probs(x, mask[:2], average=a), x)


def test_DPO_2_the_implicit_reward_is_beta_times_the_log_ratio():
    assert implicit_rewards(tensor([-1.0]), tensor([-3.0]), beta=0.5).tolist() == [1.0]


def test_DPO_3_the_margin_is_the_difference_of_implicit_rewards():
    loss = dpo_loss(tensor([-1.0]), tensor([-2.0]), tensor([-3.0]), tensor([-2.5]), beta=0.5)
    margin = 0.5 * ((-1 + 3) - (-2 + 2.5))
    metrics = {name: float(m) for name, m in loss.metrics.items()}
    assert metrics == pytest.approx(
        {
            "rewards/chosen": 1.0,
            "rewards/rejected": 0.25,
            "rewards/margins": margin,
            "rewards/accuracies": 1.0,
            "logps/chosen": -1.0,
            "logps/rejected": -2.0,
        }
    )
    assert loss.value.item() == pytest.approx(math.log(1 + math.exp(-margin)))


def test_DPO_4_policy_equal_to_reference_costs_log_2_and_a_tie_is_no_win():
    x = random(5)
    loss = dpo_loss(x, x - 1, x, x - 1, beta=0.1)
    assert loss.value.item() == pytest.approx(math.log(2))
    assert float(loss.metrics["rewards/accuracies"]) == 0


def test_DPO_4_the_gradient_in_closed_form():
    """grad L = -beta sigmoid(r_l - r_w) (grad log pi(y_w) - grad log pi(y_l)), with smoothing: sigmoid(-h) - s."""
    for smoothing in (0.0, 0.1, 0.5):
        chosen, rejected = random(4).requires_grad_(), random(4, seed=1).requires_grad_()
        ref = random(2, 4, seed=2)
        dpo_loss(chosen, rejected, *ref, beta=0.3, label_smoothing=smoothing).value.backward()
        h = 0.3 * ((chosen - ref[0]) - (rejected - ref[1])).detach()
        closed = -0.3 * (torch.sigmoid(-h) - smoothing) / 4
        torch.testing.assert_close(chosen.grad, closed)
        torch.testing.assert_close(rejected.grad, -closed)


@pytest.mark.parametrize("margin", [120.0, -120.0, 1000.0, -1000.0])
def test_DPO_4_a_far_off_margin_neither_overflows_nor_loses_its_gradient(margin):
    chosen = tensor([margin], requires_grad=True)
    zero = torch.zeros(1)
    loss = dpo_loss(chosen, zero, zero, zero, beta=1.0)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(max(0.0, -margin))
    assert chosen.grad.item() == (0.0 if margin > 0 else -1.0)


def test_DPO_4_a_rejected_completion_that_is_impossible_costs_nothing_more():
    chosen, rejected = torch.zeros(2, requires_grad=True), torch.tensor([-math.inf, 0.0], requires_grad=True)
    loss = dpo_loss(chosen, rejected, torch.zeros(2), torch.zeros(2), beta=1.0).value
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) / 2)
    assert chosen.grad.tolist() == [0, -0.25] and rejected.grad.tolist() == [0, 0.25]


def test_DPO_4_label_smoothing_is_used_and_stops_at_a_finite_margin():
    h = tensor([0.7], dtype=f64)
    plain, smooth = (dpo_loss(h, ZERO, ZERO, ZERO, beta=1.0, label_smoothing=s).value for s in (0.0, 0.1))
    assert smooth.item() == pytest.approx(0.9 * plain.item() + 0.1 * math.log(1 + math.exp(0.7)))
    stop = torch.full((1,), math.log(0.9 / 0.1), dtype=f64, requires_grad=True)  # sigmoid(h) = 1 - smoothing
    dpo_loss(stop, ZERO, ZERO, ZERO, beta=1.0, label_smoothing=0.1).value.backward()
    assert abs(stop.grad.item()) < 1e-12


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_DPO_4_its_optimum_is_the_reference_times_exp_r_over_beta(beta):
    """Every pair of five completions, labelled by Bradley-Terry with a known reward, in expectation."""
    rewards, ref = random(5), torch.log_softmax(random(5, seed=1), 0)
    i, j = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    i, j = i[i != j], j[i != j]
    wins = torch.sigmoid(rewards[i] - rewards[j])  # P(y_i is preferred to y_j)
    theta = torch.zeros(5, dtype=f64, requires_grad=True)
    optimiser = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        log_pi = torch.log_softmax(theta, 0)
        losses = [
            p * dpo_loss(log_pi[a], log_pi[b], ref[a], ref[b], beta=beta).value
            for a, b, p in zip(i.split(1), j.split(1), wins, strict=True)
        ]
        (total := torch.stack(losses).sum()).backward()
        return total

    optimiser.step(step)
    optimum = torch.softmax(ref + rewards / beta, 0)
    torch.testing.assert_close(torch.softmax(theta.detach(), 0), optimum, rtol=1e-5, atol=1e-6)


def test_DPO_5_and_DPO_6_bradley_terry_by_hand():
    loss = bradley_terry_loss(tensor([1.0, 0.0]), tensor([0.0, 2.0]))
    by_hand = [-math.log(1 / (1 + math.exp(-1))), -math.log(1 / (1 + math.exp(2)))]
    assert loss.value.item() == pytest.approx(sum(by_hand) / 2)
    metrics = {name: float(m) for name, m in loss.metrics.items()}
    assert metrics == {"accuracy": 0.5, "reward_gap": -0.5, "mean_reward": 0.75}


def test_DPO_6_a_tie_is_no_win_and_an_unused_centring_cannot_overflow():
    tie = bradley_terry_loss(tensor([1.0, 2.0]), tensor([1.0, 1.0]))
    assert float(tie.metrics["accuracy"]) == 0.5
    huge = tensor([1e30], requires_grad=True)  # its square is inf in float32, and 0 * inf is nan
    loss = bradley_terry_loss(huge, torch.zeros(1)).value
    loss.backward()
    assert loss.item() == 0 and huge.grad.item() == 0


def test_DPO_6_the_margin_is_subtracted_inside():
    chosen, rejected = tensor([1.0, 3.0]), tensor([0.0, 1.0])
    shifted = bradley_terry_loss(chosen - tensor([0.5, 2.0]), rejected).value
    assert bradley_terry_loss(chosen, rejected, margin=tensor([0.5, 2.0])).value.item() == shifted.item()
    assert bradley_terry_loss(chosen, rejected, margin=0.5).value > bradley_terry_loss(chosen, rejected).value


@pytest.mark.parametrize("margin", [-89.0, -1000.0, 1000.0])
def test_DPO_6_a_far_off_reward_stays_finite(margin):
    chosen = tensor([margin], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(1))
    loss.value.backward()
    assert loss.value.item() == max(0.0, -margin) and chosen.grad.isfinite()


PAIR = torch.zeros(2)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("margin", lambda: bradley_terry_loss(PAIR, PAIR, margin=nan)),
        ("rejected_log_probs", lambda: dpo_loss(PAIR, PAIR[:1], PAIR, PAIR, beta=0.1)),
        ("chosen_log_probs", lambda: dpo_loss(PAIR[None], PAIR, PAIR, PAIR, beta=0.1)),
        ("ref_log_probs", lambda: implicit_rewards(PAIR, PAIR[:1], beta=0.1)),
        ("margin", lambda: bradley_terry_loss(PAIR, PAIR, margin=PAIR[:1])),
        ("denominator", lambda: bradley_terry_loss(PAIR, PAIR, denominator=-2)),
        ("mask", lambda: sequence_log_probs(PAIR[None], torch.ones(1, 2), average=True)),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
