"""The other preference losses, each against its paper's equation written out with scalars, and at its optimum."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nan, tensor

from torchstone.core import sequence_mean, sequence_sum, token_mean
from torchstone.dpo import bradley_terry_loss, dpo_loss, sequence_log_probs
from torchstone.dpo.variants import (
    alphapo_loss,
    aot_loss,
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    bco_reward_shift,
    bco_unpaired_loss,
    discopop_loss,
    dpop_loss,
    exo_loss,
    f_dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log_sum_squares,
    mpo_loss,
    nca_loss,
    optimism_loss,
    orpo_loss,
    outcome_reward_loss,
    power_reward,
    process_reward_loss,
    robust_dpo_loss,
    sft_loss,
    shared_length_log_probs,
    simpo_loss,
    sppo_loss,
    update_reference,
    wpo_loss,
    wpo_weights,
)
from torchstone.recipes import find

f64 = torch.float64
B = 0.3  # beta
W, L = [-4.0, -2.0, -9.0], [-5.0, -7.0, -3.0]  # log pi of chosen and rejected
RW, RL = [-4.5, -6.0, -2.0], [-4.0, -2.5, -8.0]  # under the reference
U = [w - r for w, r in zip(W, RW, strict=True)]  # log-ratios, in nats: 0.5, 4, -7
V = [lo - r for lo, r in zip(L, RL, strict=True)]  # -1, -4.5, 5


def vectors(*lists):
    return [tensor(x, dtype=f64) for x in lists]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def each(formula):
    """The mean of ``formula(u, v)`` over the three pairs; u and v are log-ratios in nats."""
    return mean(formula(u, v) for u, v in zip(U, V, strict=True))


def slopes(loss, *at):
    """The gradient with respect to the policy's log-probs of the chosen and the rejected, times the number of pairs."""
    at = [x.clone().requires_grad_() for x in at]
    return [g * len(g) for g in torch.autograd.grad(loss(*at).value, at)]


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected, dtype=f64), rtol=1e-12, atol=1e-14)


PAIRED = {
    "ipo": (ipo_loss, {}, lambda u, v: (u - v - 1 / (2 * B)) ** 2),
    "robust": (
        robust_dpo_loss,
        {"flip_rate": 0.2},
        lambda u, v: (-0.8 * math.log(sigmoid(B * (u - v))) + 0.2 * math.log(sigmoid(-B * (u - v)))) / 0.6,
    ),
    "hinge": (hinge_loss, {"delta": 0.7}, lambda u, v: max(0, 0.7 - B * (u - v))),
    "apo zero": (apo_zero_loss, {}, lambda u, v: 1 - sigmoid(B * u) + sigmoid(B * v)),
    "apo down": (apo_down_loss, {}, lambda u, v: sigmoid(B * u) + 1 - sigmoid(B * (u - v))),
    "exo": (
        exo_loss,
        {"label_smoothing": 0.1},
        lambda u, v: (
            sigmoid(B * (u - v)) * math.log(sigmoid(B * (u - v)) / 0.9)
            + sigmoid(B * (v - u)) * math.log(sigmoid(B * (v - u)) / 0.1)
        ),
    ),
    "nca": (
        nca_loss,
        {},
        lambda u, v: -math.log(sigmoid(B * u)) - 0.5 * math.log(sigmoid(-B * u)) - 0.5 * math.log(sigmoid(-B * v)),
    ),
    "bco": (
        bco_loss,
        {"reward_shift": 0.4},
        lambda u, v: -math.log(sigmoid(B * u - 0.4)) - math.log(sigmoid(-(B * v - 0.4))),
    ),
    "mpo": (
        mpo_loss,
        {"preference_coef": 0.8, "quality_coef": 0.3, "reward_shift": 0.4},
        lambda u, v: (
            -0.8 * math.log(sigmoid(B * (u - v)))
            - 0.3 * (math.log(sigmoid(B * u - 0.4)) + math.log(sigmoid(-(B * v - 0.4))))
        ),
    ),
    "sppo": (sppo_loss, {}, lambda u, v: (u - 0.5 / B) ** 2 + (v + 0.5 / B) ** 2),
    "discopop": (
        discopop_loss,
        {"tau": 0.5},
        lambda u, v: (
            (1 - sigmoid(B * (u - v) / 0.5)) * -math.log(sigmoid(B * (u - v)))
            + sigmoid(B * (u - v) / 0.5) * math.exp(-B * (u - v))
        ),
    ),
}


@pytest.mark.parametrize(("loss", "options", "formula"), PAIRED.values(), ids=PAIRED)
def test_DPO_7_and_every_other_loss_on_pairs_is_its_papers_formula(loss, options, formula):
    found = loss(*vectors(W, L, RW, RL), beta=B, **options)
    close(found.value, each(formula))
    by_hand = {
        "rewards/chosen": B * mean(U),
        "rewards/rejected": B * mean(V),
        "rewards/margins": B * (mean(U) - mean(V)),
        "rewards/accuracies": 2 / 3,
        "logps/chosen": mean(W),
        "logps/rejected": mean(L),
    }
    assert {k: float(m) for k, m in found.metrics.items()} == pytest.approx(by_hand)


@pytest.mark.parametrize(("loss", "options", "formula"), PAIRED.values(), ids=PAIRED)
def test_their_gradients_are_those_of_the_formula(loss, options, formula):
    policy, refs = vectors(W, L), vectors(RW, RL)
    chosen, rejected = slopes(lambda w, lo: loss(w, lo, *refs, beta=B, **options), *policy)
    step = 1e-5
    for i, (u, v) in enumerate(zip(U, V, strict=True)):
        by_u = (formula(u + step, v) - formula(u - step, v)) / (2 * step)
        by_v = (formula(u, v + step) - formula(u, v - step)) / (2 * step)
        assert chosen[i].item() == pytest.approx(by_u, rel=1e-6, abs=1e-8)
        assert rejected[i].item() == pytest.approx(by_v, rel=1e-6, abs=1e-8)


FREE = {
    "slic": (lambda w, lo: hinge_loss(w, lo, beta=1.0, delta=1.0)),
    "simpo": (lambda w, lo: simpo_loss(w, lo, beta=2.0, gamma=0.5)),
    "orpo": (lambda w, lo: orpo_loss(w, lo, odds_coef=0.1, sft_coef=1.0)),
}
WITH_REFERENCE = {
    name: (lambda w, lo, f=f, o=o: f(w, lo, torch.zeros_like(w), torch.zeros_like(w), beta=1.0, **o))
    for name, (f, o, _) in PAIRED.items()
}


@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
@pytest.mark.parametrize("loss", [*FREE.values(), *WITH_REFERENCE.values()], ids=[*FREE, *WITH_REFERENCE])
def test_margins_of_120_and_log_probs_of_0_stay_finite(loss, dtype):
    for w, lo in ((-120.0, 0.0), (0.0, -120.0), (0.0, 0.0), (-1e-9, -1.0), (-1000.0, 0.0), (0.0, -1000.0)):
        at = [tensor([x], dtype=dtype) for x in (w, lo)]
        assert loss(*at).value.isfinite() and all(g.isfinite().all() for g in slopes(loss, *at)), (w, lo)


# IPO


def test_DPO_7_the_gradient_is_zero_where_the_log_ratios_differ_by_one_over_two_beta():
    zero = torch.zeros(1, dtype=f64)
    at = tensor([1 / (2 * B)], dtype=f64), zero
    assert slopes(lambda w, lo: ipo_loss(w, lo, zero, zero, beta=B), *at)[0].abs().item() < 1e-14
    beyond = slopes(lambda w, lo: ipo_loss(w, lo, zero, zero, beta=B), at[0] + 1, zero)
    close(beyond[0], [2.0])  # pulled back, by twice the excess in nats, whatever beta is
    close(beyond[1], [-2.0])


def test_DPO_7_its_optimum_is_reached_where_the_preference_is_the_log_ratio_difference():
    """In expectation over labels with P(y_1 > y_2) = p the gradient is 0 at h / beta = (p - 1/2) / beta."""
    zero = torch.zeros(1, dtype=f64)
    for p in (0.5, 0.8, 1.0):
        one, two = tensor([(p - 0.5) / B], dtype=f64), zero
        won = slopes(lambda a, b: ipo_loss(a, b, zero, zero, beta=B), one, two)[0]
        lost = slopes(lambda b, a: ipo_loss(b, a, zero, zero, beta=B), two, one)[1]
        assert abs((p * won + (1 - p) * lost).item()) < 1e-13


def test_DPO_7_sums_and_means_are_two_objectives():
    log_probs, mask = -torch.rand(2, 4, dtype=f64) - 0.1, tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    results = []
    for average in (False, True):
        w, lo = sequence_log_probs(log_probs, mask, average=average).split(1)
        results.append(ipo_loss(w, lo, 0 * w, 0 * w, beta=B).value)
    rows = [log_probs[0].sum(), log_probs[1, :2].sum()]
    close(results[0], (rows[0] - rows[1] - 0.5 / B) ** 2)
    close(results[1], (rows[0] / 4 - rows[1] / 2 - 0.5 / B) ** 2)


# Robust DPO


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.45])
def test_DPO_8_over_both_flips_it_is_the_loss_and_the_gradient_under_clean_labels(rate):
    w, lo, rw, rl = vectors(W, L, RW, RL)

    def expected(w, lo):
        clean = robust_dpo_loss(w, lo, rw, rl, beta=B, flip_rate=rate)
        flipped = robust_dpo_loss(lo, w, rl, rw, beta=B, flip_rate=rate)
        return clean._replace(value=(1 - rate) * clean.value + rate * flipped.value)

    close(expected(w, lo).value, each(lambda u, v: -math.log(sigmoid(B * (u - v)))))
    for found, sign in zip(slopes(expected, w, lo), (-1, 1), strict=True):
        close(found, [sign * B * sigmoid(-B * (u - v)) for u, v in zip(U, V, strict=True)])


# Hinge


def test_DPO_9_beyond_the_margin_nothing_moves_and_before_it_every_pair_the_same():
    w, lo = vectors([-1.0, -1.0, -1.0], [-2.5, -1.5, 1.0])
    chosen, rejected = slopes(lambda w, lo: hinge_loss(w, lo, beta=2.0, delta=2.0), w, lo)
    assert chosen.tolist() == [0.0, -2.0, -2.0] and rejected.tolist() == [0.0, 2.0, 2.0]


def test_DPO_9_slic_is_the_hinge_of_the_log_probs_themselves():
    found = hinge_loss(*vectors(W, L), beta=1.0, delta=1.5).value
    close(found, mean(max(0, 1.5 - w + lo) for w, lo in zip(W, L, strict=True)))


# SimPO


def test_DPO_10_the_margin_is_outside_of_beta():
    found = simpo_loss(*vectors([-0.5, -1.0], [-0.9, -0.7]), beta=2.0, gamma=0.5)
    close(found.value, mean(-math.log(sigmoid(x)) for x in (2 * 0.4 - 0.5, 2 * -0.3 - 0.5)))
    assert float(found.metrics["rewards/margins"]) == pytest.approx(2 * (0.4 - 0.3) / 2)  # without gamma
    assert float(found.metrics["rewards/accuracies"]) == 0.5
    chosen, rejected = slopes(lambda w, lo: simpo_loss(w, lo, beta=2.0, gamma=0.5), *vectors([-0.5], [-0.9]))
    close(chosen, [-2 * sigmoid(-0.3)])
    close(rejected, [2 * sigmoid(-0.3)])


# ORPO


def log_odds(x):
    return x - math.log(-math.expm1(x))


def test_DPO_11_and_DPO_12_the_odds_of_the_mean_log_prob():
    w, lo = [-0.5, -3.0, -1e-4], [-1.5, -0.01, -2.0]
    found = orpo_loss(*vectors(w, lo), odds_coef=0.2, sft_coef=0.7).value
    terms = [-0.7 * a - 0.2 * math.log(sigmoid(log_odds(a) - log_odds(b))) for a, b in zip(w, lo, strict=True)]
    close(found, mean(terms))


def test_DPO_11_the_gradient_in_closed_form():
    """d log odds / d log p = 1 / (1 - p)."""
    w, lo = [-0.5, -3.0], [-1.5, -0.01]
    chosen, rejected = slopes(lambda w, lo: orpo_loss(w, lo, odds_coef=0.2, sft_coef=0.7), *vectors(w, lo))
    weights = [0.2 * sigmoid(log_odds(b) - log_odds(a)) for a, b in zip(w, lo, strict=True)]
    close(chosen, [-0.7 - k / -math.expm1(a) for k, a in zip(weights, w, strict=True)])
    close(rejected, [k / -math.expm1(b) for k, b in zip(weights, lo, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
def test_DPO_11_where_a_log_prob_rounds_to_0_the_log_odds_go_on_as_their_tangent(dtype):
    loss = lambda w, lo: orpo_loss(w, lo, odds_coef=1.0, sft_coef=0.0)  # noqa: E731
    one = tensor([-math.log(2.0)], dtype=dtype)  # odds 1, log-odds 0
    found = [loss(one, tensor([x], dtype=dtype)).value.item() for x in (-1e-7, -2.1e-9, 0.0)]
    assert found[0] == pytest.approx(log_odds(-1e-7), rel=1e-6)  # -log sigmoid(-a) is a, for a of 16 and more
    assert found[1] == pytest.approx(20.0, abs=0.02)
    assert found[2] == pytest.approx(21.0, rel=1e-6)  # 20 + slope (1 + e^20) times the distance e^-20
    assert all(a < b for a, b in pairwise(found))
    (up, down) = slopes(loss, one, tensor([0.0], dtype=dtype))
    assert down.item() == pytest.approx(1 + math.exp(20), rel=1e-6) and up.item() == pytest.approx(-2.0)


@pytest.mark.parametrize("beyond", [1e-9, 1e-3])
def test_DPO_11_the_tangent_has_the_slope_at_20(beyond):
    """1 / (1 - p) at log-odds 20 is 1 + e^20, to the last digit."""
    last = -math.log1p(math.exp(-20.0))
    how = {"odds_coef": 1.0, "sft_coef": 0.0}
    chosen, rejected = tensor([-40.0], dtype=f64), tensor([last + beyond], dtype=f64)
    slope = slopes(lambda w, lo: orpo_loss(w, lo, **how), chosen, rejected)[1]
    assert slope.item() == pytest.approx(1 + math.exp(20.0), rel=1e-14)


# KTO


def test_DPO_13_the_reference_point_is_the_mean_log_ratio_not_below_0_and_a_constant():
    log_probs = tensor([-1.0, -2.0, -6.0], requires_grad=True)
    point = kto_reference_point(log_probs, tensor([-2.0, -5.0, -4.0]))
    assert point.item() == pytest.approx((1 + 3 - 2) / 3) and not point.requires_grad
    assert kto_reference_point(tensor([-3.0]), tensor([-1.0])).item() == 0
    assert kto_reference_point(torch.zeros(0), torch.zeros(0)).item() == 0


@pytest.mark.parametrize("as_tensor", [False, True])
def test_DPO_14_gains_and_losses_by_hand(as_tensor):
    desirable, z = tensor([True, False, True]), 0.6
    point = tensor(z, dtype=f64, requires_grad=True) if as_tensor else z
    how = {"beta": B, "reference_point": point, "desirable_weight": 1.1, "undesirable_weight": 1.7}
    found = kto_loss(*vectors(W, RW), desirable, **how)
    terms = [
        1.1 - 1.1 * sigmoid(B * (U[0] - z)),
        1.7 - 1.7 * sigmoid(B * (z - U[1])),
        1.1 - 1.1 * sigmoid(B * (U[2] - z)),
    ]
    close(found.value, mean(terms))
    by_hand = {
        "rewards/chosen": B * (U[0] + U[2]) / 2,
        "rewards/rejected": B * U[1],
        "logps/chosen": (W[0] + W[2]) / 2,
        "logps/rejected": W[1],
        "kl": z,
    }
    assert {k: float(m) for k, m in found.metrics.items()} == pytest.approx(by_hand)
    log_probs = tensor(W, dtype=f64, requires_grad=True)
    kto_loss(log_probs, tensor(RW, dtype=f64), desirable, **how).value.backward()
    s = [sigmoid(B * (u - z)) for u in U]
    slope = [x * (1 - x) * B / 3 for x in s]
    close(log_probs.grad, [-1.1 * slope[0], 1.7 * slope[1], -1.1 * slope[2]])
    assert not as_tensor or point.grad is None


def test_DPO_14_weights_below_1_weigh_less():
    how = {"beta": B, "reference_point": 0.0, "desirable_weight": 0.5, "undesirable_weight": 0.25}
    found = kto_loss(*vectors(W, RW), tensor([True, False, False]), **how).value
    terms = [0.5 * sigmoid(-B * U[0]), 0.25 * sigmoid(B * U[1]), 0.25 * sigmoid(B * U[2])]
    close(found, mean(terms))
    nothing = kto_loss(*vectors(W, RW), UP[[0, 1, 1]], **how | {"desirable_weight": 0.0, "undesirable_weight": 0.0})
    assert nothing.value.item() == 0


def test_DPO_14_a_far_off_completion_stays_finite():
    how = {"beta": 1.0, "reference_point": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    for x in (120.0, -120.0, 1000.0, -1000.0, 0.0):
        log_probs = torch.full((2,), x, requires_grad=True)
        loss = kto_loss(log_probs, torch.zeros(2), tensor([True, False]), **how)
        loss.value.backward()
        assert loss.value.item() == pytest.approx(0.5) and log_probs.grad.isfinite().all()


# APO: what moves, and which way


def test_DPO_15_and_DPO_16_zero_raises_the_chosen_and_down_lowers_it():
    zero = torch.zeros(1, dtype=f64)
    for loss, chosen, rejected in ((apo_zero_loss, -B / 4, B / 4), (apo_down_loss, 0.0, B / 4)):
        found = slopes(lambda w, lo, f=loss: f(w, lo, zero, zero, beta=B), zero, zero)
        close(torch.cat(found), [chosen, rejected])  # down: the chosen's two terms cancel at the reference ...
    far = slopes(lambda w, lo: apo_down_loss(w, lo, zero, zero, beta=B), zero, zero - 20)
    assert far[0].item() > 0  # ... and it falls once the rejected has fallen


# WPO


def test_DPO_17_the_normaliser_is_the_chance_that_two_draws_agree():
    p, q = [0.5, 0.3, 0.2], [0.5**0.5, 0.3**0.5, 0.2**0.5]
    logits = tensor([[p]], dtype=f64).log().requires_grad_()
    assert log_sum_squares(logits, temperature=1.0).item() == pytest.approx(math.log(0.25 + 0.09 + 0.04))
    total = sum(q)
    hot = sum((x / total) ** 2 for x in q)
    assert log_sum_squares(logits, temperature=2.0).item() == pytest.approx(math.log(hot))
    assert not log_sum_squares(logits, temperature=1.0).requires_grad
    never = tensor([[[0.0, -math.inf, 0.0]]])
    assert log_sum_squares(never, temperature=1.0).item() == pytest.approx(math.log(0.5))


def test_DPO_18_the_weight_is_a_geometric_mean_over_the_tokens():
    log_probs = tensor([[0.5, 0.2, nan], [0.9, nan, nan], [nan] * 3], dtype=f64).log().requires_grad_()
    normalisers = tensor([[0.4, 0.3, nan], [0.8, nan, nan], [nan] * 3], dtype=f64).log()
    mask = tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    found = wpo_weights(log_probs, normalisers, mask)
    close(found, [math.sqrt(0.5 / 0.4 * 0.2 / 0.3), 0.9 / 0.8, 1.0])
    assert not found.requires_grad
    close(wpo_weights(log_probs, None, mask), [math.sqrt(0.1), 0.9, 1.0])


def test_DPO_19_the_weights_multiply_the_loss_and_stay_constants():
    w, lo, rw, rl = vectors(W, L, RW, RL)
    weights = tensor([0.5, 2.0, 0.1], dtype=f64, requires_grad=True)
    terms = [-math.log(sigmoid(B * (u - v))) for u, v in zip(U, V, strict=True)]
    found = wpo_loss(w.requires_grad_(), lo, rw, rl, weights, beta=B)
    close(found.value.detach(), (0.5 * terms[0] + 2 * terms[1] + 0.1 * terms[2]) / 3)  # over pairs, not over weights
    found.value.backward()
    assert weights.grad is None
    assert float(found.metrics["rewards/margins"]) == pytest.approx(B * (mean(U) - mean(V)))


# EXO, NCA, BCO, SPPO, DiscoPOP


def test_DPO_20_it_is_zero_exactly_where_the_policy_doubts_as_much_as_the_label():
    zero = torch.zeros(1, dtype=f64)
    at = tensor([math.log(0.9 / 0.1)], dtype=f64)  # sigmoid(h) = 0.9
    loss = lambda w, lo: exo_loss(w, lo, zero, zero, beta=1.0, label_smoothing=0.1)  # noqa: E731
    assert abs(loss(at, zero).value.item()) < 1e-15 and slopes(loss, at, zero)[0].abs().item() < 1e-15
    assert loss(at + 1, zero).value > 0 and loss(at - 1, zero).value > 0


def test_DPO_21_it_pulls_the_chosen_reward_to_log_2_and_the_rejected_down():
    """d/dr_w = -sigmoid(-r_w) + sigmoid(r_w) / 2, which is 0 at r_w = log 2."""
    zero = torch.zeros(1, dtype=f64)
    nca = lambda w, lo: nca_loss(w, lo, zero, zero, beta=1.0)  # noqa: E731
    chosen, rejected = slopes(nca, tensor([math.log(2)], dtype=f64), zero)
    assert chosen.abs().item() < 1e-15 and rejected.item() == pytest.approx(0.25)


def test_DPO_22_the_shift_moves_both_rewards_and_takes_no_gradient():
    w, lo, rw, rl = vectors(W, L, RW, RL)
    shift = tensor(0.4, dtype=f64, requires_grad=True)
    found = bco_loss(w.requires_grad_(), lo, rw, rl, beta=1.0, reward_shift=shift)
    moved = bco_loss(w.detach() - 0.4, lo - 0.4, rw, rl, beta=1.0, reward_shift=0.0)
    close(found.value.detach(), moved.value)
    found.value.backward()
    assert shift.grad is None


@pytest.mark.parametrize("shift", [-3.0, -0.4, 0.0, 0.7, 5.0])
def test_DPO_22_is_at_least_dpos_loss_wherever_the_shift_is(shift):
    """The paper's theorem: sigmoid(a) sigmoid(b) < sigmoid(a + b), here with a = r_w - d and b = d - r_l."""
    for i in range(3):
        pair = [x[i : i + 1] for x in vectors(W, L, RW, RL)]
        assert bco_loss(*pair, beta=B, reward_shift=shift).value > dpo_loss(*pair, beta=B).value


GOOD = tensor([True, True, True, False])
REWARDS = tensor([0.2, 0.4, 0.6, -0.4], dtype=f64)


def test_DPO_33_the_shift_is_the_mean_of_two_means_and_a_constant():
    """(0.4 - 0.4) / 2; pooled it would be 0.2."""
    rewards = REWARDS.clone().requires_grad_()
    shift = bco_reward_shift(rewards, GOOD)
    assert shift.item() == pytest.approx(0, abs=1e-15) and not shift.requires_grad
    assert bco_reward_shift(REWARDS, ~GOOD).item() == pytest.approx(0, abs=1e-15)
    assert bco_reward_shift(REWARDS, tensor([True, True, False, False])).item() == pytest.approx(0.2)
    assert bco_reward_shift(REWARDS[:3], GOOD[:3]).item() == pytest.approx(0.2)  # no bad ones: half of the good's mean
    assert bco_reward_shift(REWARDS[:0], GOOD[:0]).item() == 0


@pytest.mark.parametrize(("shift", "expected", "one_mean"), [(0.0, 1.02923, 0.51541), (0.2, 1.03892, 0.56045)])
def test_DPO_34_each_kind_has_a_mean_of_its_own(shift, expected, one_mean):
    """By hand: log(1 + exp(-x)) of x = r - d for the good, d - r for the bad; three good, one bad."""
    good = [math.log1p(math.exp(-(r - shift))) for r in (0.2, 0.4, 0.6)]
    bad = math.log1p(math.exp(-0.4 - shift))
    assert sum(good) / 3 + bad == pytest.approx(expected, abs=6e-6)
    assert (sum(good) + bad) / 4 == pytest.approx(one_mean, abs=6e-6)
    log_probs = (REWARDS / 0.1 - 5).requires_grad_()
    ref = torch.full((4,), -5.0, dtype=f64)
    loss = bco_unpaired_loss(log_probs, ref, GOOD, beta=0.1, reward_shift=shift)
    assert loss.value.item() == pytest.approx(expected, abs=6e-6)
    (slope,) = torch.autograd.grad(loss.value, log_probs)
    close(slope, [*(-0.1 / 3 * sigmoid(shift - r) for r in (0.2, 0.4, 0.6)), 0.1 * sigmoid(-0.4 - shift)])
    by_hand = {"rewards/chosen": 0.4, "rewards/rejected": -0.4, "logps/chosen": -1.0, "logps/rejected": -9.0}
    assert {k: float(m) for k, m in loss.metrics.items()} == pytest.approx(by_hand)


def test_DPO_33_and_35_on_parts_of_a_batch_take_the_shift_and_the_counts_of_the_whole():
    """A micro-batch of good completions alone: by its own shift or its own counts the parts do not add up."""
    log_probs, ref = REWARDS / 0.1 - 5, torch.full((4,), -5.0, dtype=f64)
    parts = (slice(0, 2), slice(2, 4))
    shift = bco_reward_shift(REWARDS, GOOD)

    def of(rows, d, **counts):
        found = bco_unpaired_loss(log_probs[rows], ref[rows], GOOD[rows], beta=0.1, reward_shift=d, **counts)
        return found.value

    whole = of(slice(0, 4), shift)
    counts = {"desirable_denominator": 3, "undesirable_denominator": 1}
    close(sum(of(rows, shift, **counts) for rows in parts), whole)
    own_shifts = [bco_reward_shift(REWARDS[rows], GOOD[rows]) for rows in parts]
    assert abs(sum(of(r, d, **counts) for r, d in zip(parts, own_shifts, strict=True)) - whole) > 0.01
    assert abs(sum(of(rows, shift) for rows in parts) - whole) > 0.1
    assert of(slice(0, 0), shift).item() == 0


def test_DPO_35_a_power_has_slope_1_at_0_a_limit_above_and_a_tangent_far_below():
    x = tensor([0.0, math.log(2), -math.log(2), 50.0, -100.0], dtype=f64, requires_grad=True)
    found = power_reward(x, 0.5)
    far = -2 * (math.expm1(20) + math.exp(20) * 30)  # exponent 50: the tangent at 20
    close(found, [0, 2 - math.sqrt(2), 2 - 2 * math.sqrt(2), 2 - 2 * math.exp(-25), far])
    (slope,) = torch.autograd.grad(found.sum(), x)
    close(slope, [1, math.sqrt(0.5), math.sqrt(2), math.exp(-25), math.exp(20)])
    assert power_reward(x, 0.0) is x
    for alpha in (1e-12, 1e-40, -1e-46):  # float32 has no 1e-46, and no 1 / 1e-40
        near = tensor([0.7, -0.3], requires_grad=True)
        (slope,) = torch.autograd.grad(power_reward(near, alpha).sum(), near)
        close(slope.double(), [1.0, 1.0])
    close(power_reward(tensor([0.7, -0.3], dtype=f64), 1e-9), [0.7 - 0.245e-9, -0.3 - 0.045e-9])


@pytest.mark.parametrize(
    ("divergence", "alpha", "difference", "expected"),
    [
        ("reverse-kl", None, 1.38629, 0.62623),
        ("forward-kl", None, 1.5, 0.62096),
        ("js", None, 0.69315, 0.65909),
        ("alpha", 0.5, 1.41421, 0.62493),
        ("alpha", 0.3, 1.39631, 0.62577),
        ("alpha", 0.7, 1.44133, 0.62368),
    ],
)
def test_DPO_36_each_divergence_by_hand(divergence, alpha, difference, expected):
    """Ratios 2 and 1/2 at beta 0.1; f'(u) as the paper's table has it: -1/u, log(2u/(1+u)), -u^-alpha / alpha."""
    prime = {
        "reverse-kl": math.log,
        "forward-kl": lambda u: -1 / u,
        "js": lambda u: math.log(2 * u / (1 + u)),
        "alpha": lambda u: -(u**-alpha) / alpha,
    }[divergence]
    assert prime(2) - prime(0.5) == pytest.approx(difference, abs=6e-6)
    zero, log_2 = torch.zeros(1, dtype=f64), tensor([math.log(2)], dtype=f64)
    how = {"beta": 0.1, "divergence": divergence, "alpha": alpha}
    loss = f_dpo_loss(log_2, -log_2, zero, zero, **how)
    assert loss.value.item() == pytest.approx(math.log1p(math.exp(-0.1 * (prime(2) - prime(0.5)))), rel=1e-12)
    assert loss.value.item() == pytest.approx(expected, abs=6e-6)
    by_hand = {"rewards/chosen": 0.1 * (prime(2) - prime(1)), "rewards/rejected": 0.1 * (prime(0.5) - prime(1)),
               "rewards/margins": 0.1 * difference, "rewards/accuracies": 1.0, "logps/chosen": math.log(2),
               "logps/rejected": -math.log(2)}  # fmt: skip
    assert {k: float(m) for k, m in loss.metrics.items()} == pytest.approx(by_hand, abs=1e-6)
    chosen, rejected = slopes(lambda w, lo: f_dpo_loss(w, lo, zero, zero, **how), zero, zero)
    start = 0.025 if divergence == "js" else 0.05  # at the reference: DPO's beta / 2, and half of it
    close(chosen, [-start])
    close(rejected, [start])


@pytest.mark.parametrize("divergence", ["js", "forward-kl"])
def test_DPO_36_which_completion_is_ahead_is_still_seen_where_both_rewards_round_to_their_limit(divergence):
    w, lo, zero = tensor([30.0]), tensor([20.0]), torch.zeros(1)
    ahead, behind = (f_dpo_loss(*pair, zero, zero, beta=0.1, divergence=divergence) for pair in ((w, lo), (lo, w)))
    assert float(ahead.metrics["rewards/margins"]) < 1e-7
    assert float(ahead.metrics["rewards/accuracies"]) == 1 and float(behind.metrics["rewards/accuracies"]) == 0


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 0.02975), (0.25, 0.24100), (-1.0, 0.69315), (0.0, 0.34513)])
def test_DPO_37_the_power_of_the_mean_probability_by_hand(alpha, expected):
    """p 1/2 and 1/4, beta 2, gamma 0.5: alpha 1: 1 - 1/p = -1 and -3; alpha -1: p - 1 = -0.5 and -0.75."""
    w, lo = (tensor([-math.log(n)], dtype=f64) for n in (2, 4))
    reward = (lambda p: (1 - p**-alpha) / alpha) if alpha else math.log
    h = 2 * (reward(0.5) - reward(0.25)) - 0.5
    loss = alphapo_loss(w, lo, beta=2.0, gamma=0.5, alpha=alpha)
    assert loss.value.item() == pytest.approx(math.log1p(math.exp(-h)), rel=1e-12)
    assert loss.value.item() == pytest.approx(expected, abs=6e-6)
    chosen, rejected = slopes(lambda w, lo: alphapo_loss(w, lo, beta=2.0, gamma=0.5, alpha=alpha), w, lo)
    close(chosen, [-2 * sigmoid(-h) * 0.5**-alpha])
    close(rejected, [2 * sigmoid(-h) * 0.25**-alpha])
    assert float(loss.metrics["rewards/chosen"]) == pytest.approx(2 * reward(0.5))
    assert float(loss.metrics["logps/rejected"]) == pytest.approx(-math.log(4))


def test_DPO_38_the_term_is_on_the_references_own_completion():
    """-4 and -3 of (-4, -5), (-9, -3): mean -3.5; DPO's h of 0.3 with 1e-3 of -5: 0.54936."""
    w, lo = vectors([-4.0, -9.0], [-5.0, -3.0])
    marks = tensor([True, False])
    loss = optimism_loss(w, lo, marks)
    assert loss.value.item() == -3.5 and float(loss.metrics["logps/from_reference"]) == -3.5
    chosen, rejected = slopes(lambda a, b: optimism_loss(a, b, marks), w, lo)
    assert chosen.tolist() == [1, 0] and rejected.tolist() == [0, 1]
    assert optimism_loss(w, lo, ~marks).value.item() == -7
    assert optimism_loss(w[:1], lo[:1], marks[:1], denominator=2).value.item() == -2
    zero, at = torch.zeros(1, dtype=f64), tensor([-5.0], dtype=f64)
    one = tensor([True])
    dpo = dpo_loss(at, at, at - 3, at, beta=0.1)  # r_w 0.3, r_l 0
    assert (dpo.value + 1e-3 * optimism_loss(at, zero, one).value).item() == pytest.approx(0.54936, abs=6e-6)


def test_DPO_39_below_the_reference_the_chosen_one_is_charged_above_it_is_dpo():
    """s_w -1, s_l -2, beta 0.1, lambda 5: h = 0.1 (1 - 5) = -0.4; DPO's is 0.1."""
    zero = torch.zeros(1, dtype=f64)
    below, low = tensor([-1.0], dtype=f64), tensor([-2.0], dtype=f64)
    of = lambda w, lo: dpop_loss(w, lo, zero, zero, beta=0.1, penalty_coef=5.0)  # noqa: E731
    assert of(below, low).value.item() == pytest.approx(0.91302, abs=6e-6)
    assert of(below, low).value.item() == pytest.approx(math.log1p(math.exp(0.4)), rel=1e-12)
    assert dpo_loss(below, low, zero, zero, beta=0.1).value.item() == pytest.approx(0.64440, abs=6e-6)
    chosen, rejected = slopes(of, below, low)
    close(chosen, [-sigmoid(0.4) * 0.1 * 6])
    close(rejected, [sigmoid(0.4) * 0.1])
    for w in (zero, -below):  # at the reference, where training starts, and above
        found, expected = slopes(of, w, low), slopes(lambda a, b: dpo_loss(a, b, zero, zero, beta=0.1), w, low)
        assert of(w, low).value == dpo_loss(w, low, zero, zero, beta=0.1).value
        assert found[0] == expected[0] and found[1] == expected[1]
    assert float(of(below, low).metrics["rewards/chosen"]) == pytest.approx(-0.1)  # without the charge


def test_DPO_23_each_log_ratio_is_pulled_to_its_own_win_rate():
    rates = vectors([0.9, 0.6, 0.5], [0.2, 0.4, 0.3])
    found = sppo_loss(*vectors(W, L, RW, RL), beta=B, chosen_win_rates=rates[0], rejected_win_rates=rates[1]).value
    eta = 1 / B  # the paper's symbol
    terms = [
        (U[i] - eta * (p - 0.5)) ** 2 + (V[i] - eta * (q - 0.5)) ** 2
        for i, (p, q) in enumerate([(0.9, 0.2), (0.6, 0.4), (0.5, 0.3)])
    ]
    close(found, mean(terms))


def test_DPO_24_it_goes_over_from_the_logistic_to_the_exponential_loss():
    zero = torch.zeros(1, dtype=f64)
    for h, expected in ((-3.0, math.log1p(math.exp(3.0))), (3.0, math.exp(-3.0))):
        found = discopop_loss(tensor([h], dtype=f64), zero, zero, zero, beta=1.0, tau=0.05).value
        assert found.item() == pytest.approx(expected, rel=1e-12)
    at_0 = slopes(lambda w, lo: discopop_loss(w, lo, zero, zero, beta=1.0, tau=0.05), zero, zero)[0]
    close(at_0, [(1 - math.log(2)) / (4 * 0.05) - 0.75])  # above 0: it rises there
    far = discopop_loss(tensor([-120.0]), *[torch.zeros(1)] * 3, beta=1.0, tau=0.05).value
    assert far.item() == pytest.approx(120.0)


# AOT


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("paired", [False, True])
def test_DPO_25_sorted_values_are_compared(paired, smoothing):
    w, lo, rw, rl = (
        [-2.0, -7.0, -6.0],
        [-4.5, -5.5, -3.5],
        [-4.0, -3.5, -1.5],
        [-5.0, -8.5, -2.0],
    )  # each difference in another order
    found = aot_loss(*vectors(w, lo, rw, rl), beta=B, paired=paired, label_smoothing=smoothing).value
    one, two = ((w, lo), (rw, rl)) if paired else ((w, rw), (lo, rl))
    better, worse = (sorted(a - b for a, b in zip(*both, strict=True)) for both in (one, two))
    h = [B * (a - b) for a, b in zip(better, worse, strict=True)]
    close(found, mean(-(1 - smoothing) * math.log(sigmoid(x)) - smoothing * math.log(sigmoid(-x)) for x in h))


@pytest.mark.parametrize("paired", [False, True])
def test_DPO_25_the_gradient_goes_back_to_the_completion_that_it_came_from(paired):
    w, lo, rw, rl = vectors(W, L, RW, RL)
    how = {"beta": B, "paired": paired}
    assert torch.autograd.gradcheck(
        lambda a, b: aot_loss(a, b, rw, rl, **how).value, (w.requires_grad_(), lo.requires_grad_())
    )
    with torch.no_grad():
        order = [2, 0, 1]
        close(aot_loss(w[order], lo[order], rw[order], rl[order], **how).value, aot_loss(w, lo, rw, rl, **how).value)
        if not paired:  # which rejected completion stands beside which chosen one does not matter
            close(aot_loss(w, lo[order], rw, rl[order], **how).value, aot_loss(w, lo, rw, rl, **how).value)


def test_DPO_25_ties_are_matched_in_the_order_given():
    """Equal values: the first of them meets the smallest of the others, on every run and machine."""
    zero, spread = torch.zeros(64, dtype=f64), torch.linspace(-3, 3, 64, dtype=f64)
    pull = -B * torch.sigmoid(B * spread)  # as slopes has it: of each pair's own term
    paired = slopes(lambda w, lo: aot_loss(w, lo, spread, zero, beta=B, paired=True), zero, zero)
    close(paired[0], pull)  # h_i = -beta spread_i
    chosen = slopes(lambda w, lo: aot_loss(w, lo, zero, zero, beta=B, paired=False), zero, spread)
    close(chosen[0], pull)
    rejected = slopes(lambda w, lo: aot_loss(w, lo, zero, zero, beta=B, paired=False), spread, zero)
    close(rejected[1], -pull.flip(0))


def test_DPO_25_the_denominator_counts_pairs():
    how = {"beta": B, "paired": True}
    whole = aot_loss(*vectors(W, L, RW, RL), **how).value
    close(aot_loss(*vectors(W, L, RW, RL), **how, denominator=6).value, whole / 2)


# Terms per token


# MPO


def test_DPO_31_the_shift_moves_the_judgements_and_not_the_comparison_by_hand():
    """Rewards 0.3 and -0.1, d 0.1: the comparison is 0.51302, the judgements 1.19628 (Python's math alone)."""
    w, lo = tensor([0.3], dtype=f64), tensor([-0.1], dtype=f64)
    zero = torch.zeros(1, dtype=f64)
    both = {"beta": 1.0, "preference_coef": 0.8, "quality_coef": 0.2}
    found = mpo_loss(w, lo, zero, zero, reward_shift=0.1, **both).value.item()
    assert found == pytest.approx(0.8 * math.log1p(math.exp(-0.4)) + 0.4 * math.log1p(math.exp(-0.2)))
    assert found == pytest.approx(0.64967, abs=5e-6)
    moved = slopes(lambda a, b: mpo_loss(a, b, zero, zero, reward_shift=5.0, **both | {"quality_coef": 0.0}), w, lo)
    close(torch.cat(moved), [-0.8 * sigmoid(-0.4), 0.8 * sigmoid(-0.4)])
    shift = tensor(0.1, dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(mpo_loss(w.requires_grad_(), lo, zero, zero, reward_shift=shift, **both).value, w)
    assert shift.grad is None and slope.item() == pytest.approx(-0.8 * sigmoid(-0.4) - 0.2 * sigmoid(-0.2))


# TR-DPO


def test_DPO_32_the_reference_takes_a_part_of_the_policy_by_hand():
    """ref (0, 2), theta (1, -2), alpha 0.6: (0.6, -0.4); a second time as far again: (0.84, -1.36)."""
    ref, theta = {"w": tensor([0.0, 2.0], dtype=f64)}, {"w": tensor([1.0, -2.0], dtype=f64, requires_grad=True)}
    once = update_reference(ref, theta, alpha=0.6)
    close(once["w"], [0.6, -0.4])
    close(update_reference(once, theta, alpha=0.6)["w"], [0.84, -1.36])
    close(ref["w"], [0.0, 2.0])  # the old one is left as it was
    assert not once["w"].requires_grad
    for alpha, same in ((0.0, ref), (1.0, theta)):
        assert update_reference(ref, theta, alpha=alpha)["w"].tolist() == same["w"].tolist()


def test_DPO_32_right_after_a_hard_update_the_loss_is_that_of_the_start():
    """log 2, and the gradient -beta / 2 by the chosen and +beta / 2 by the rejected completion's log-prob."""
    policy, reference = torch.nn.Linear(3, 5, dtype=f64), torch.nn.Linear(3, 5, dtype=f64)
    x, ids = torch.randn(2, 3, dtype=f64), tensor([1, 4])
    found = []
    for _ in range(2):
        w, lo = policy(x).log_softmax(-1)[torch.arange(2), ids].detach().requires_grad_().split(1)
        ref = reference(x).log_softmax(-1)[torch.arange(2), ids].detach().split(1)
        loss = dpo_loss(w, lo, *ref, beta=B).value
        found.append([loss.item(), *(g.item() for g in torch.autograd.grad(loss, (w, lo)))])
        moved = update_reference(dict(reference.named_parameters()), dict(policy.named_parameters()), alpha=1.0)
        reference.load_state_dict(moved)
    assert found[0][0] != pytest.approx(math.log(2)) and found[1] == pytest.approx([math.log(2), -B / 2, B / 2])


def test_DPO_32_at_its_ends_it_is_the_one_or_the_other_whatever_they_hold_and_shares_no_memory():
    ref, theta = {"w": tensor([0.5, math.inf])}, {"w": tensor([-math.inf, 1.5])}
    for alpha, end in ((0.0, ref), (1.0, theta)):
        found = update_reference(ref, theta, alpha=alpha)["w"]
        assert found.tolist() == end["w"].tolist()
        assert found.data_ptr() != end["w"].data_ptr()


def test_DPO_32_half_precision_is_rounded_once():
    ref, theta = {"w": tensor([1.0]).bfloat16()}, {"w": tensor([1.0078125]).bfloat16()}  # neighbours
    found = update_reference(ref, theta, alpha=0.6)["w"]
    assert found.dtype == torch.bfloat16 and found.item() == 1.0078125  # 1.0047 is nearer to it


# LD-DPO


def test_DPO_30_what_is_beyond_the_shorter_completion_counts_alpha_times_by_hand():
    """Chosen -1, -1, a gap before; rejected -1, -2, -3: pi is -2 and -4.5, of the reference -3 and -2.5."""
    w, lo = tensor([[nan, -1.0, -1.0]], dtype=f64), tensor([[-1.0, -2.0, nan, -3.0]], dtype=f64)
    w_mask, l_mask = tensor([[False, True, True]]), tensor([[True, True, False, True]])
    ref_w, ref_l = w - 0.5, tensor([[-1.0, -1.0, nan, -1.0]], dtype=f64)
    score = [
        shared_length_log_probs(x, mask, other, alpha=0.5)
        for x, mask, other in (
            (w, w_mask, l_mask),
            (lo, l_mask, w_mask),
            (ref_w, w_mask, l_mask),
            (ref_l, l_mask, w_mask),
        )
    ]
    close(torch.cat(score), [-2.0, -4.5, -3.0, -2.5])
    assert dpo_loss(*score, beta=0.5).value.item() == pytest.approx(math.log1p(math.exp(-1.5)))  # h 1.5: 0.20141
    alone = dpo_loss(*score[:3], ref_l.where(l_mask, 0).sum(1), beta=0.5)  # only the policy is weighed
    assert alone.value.item() == pytest.approx(math.log1p(math.exp(-1.25)))  # 0.25193


def test_DPO_30_its_gradient_is_1_up_to_the_shared_length_and_alpha_after():
    mask, other = tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).bool(), tensor([[0, 1, 1], [1, 1, 1]]).bool()
    x = torch.randn(2, 5, dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(shared_length_log_probs(x, mask, other, alpha=0.25).sum(), x)
    close(slope, [[1.0, 0.0, 1.0, 0.25, 0.25], [1.0, 1.0, 0.0, 0.0, 0.0]])
    close(shared_length_log_probs(x, mask, other & False, alpha=0.25), 0.25 * x.where(mask, 0).sum(1))


def test_DPO_30_at_alpha_0_what_is_beyond_the_shared_length_may_be_impossible():
    mask, other = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    x = tensor([[-1.0, -2.0, -math.inf]], requires_grad=True)
    found = shared_length_log_probs(x, mask, other, alpha=0.0)
    assert found.item() == -3 and torch.autograd.grad(found, x)[0].tolist() == [[1, 1, 0]]
    assert shared_length_log_probs(x, mask, other, alpha=0.5).item() == -math.inf


def test_DPO_30_a_longer_chosen_completion_begins_as_won_where_the_policy_alone_is_weighed():
    long, short = torch.full((1, 6), -2.0, dtype=f64), torch.full((1, 2), -2.0, dtype=f64)
    masks = {"chosen_mask": torch.ones(1, 6).bool(), "rejected_mask": torch.ones(1, 2).bool()}
    values = []
    for change in ("", ":log_prob.policy_only=true"):
        row = find(f"ld-dpo{change}")
        values.append(
            row.loss(long, short, **masks, ref_chosen_log_probs=long, ref_rejected_log_probs=short).value.item()
        )
    # 4 tokens of -2 nats, half of them left out: a log-ratio of 4 at beta 0.1
    assert values == pytest.approx([math.log(2), math.log1p(math.exp(-0.4))])


def test_DPO_26_the_reduction_decides_what_a_long_completion_weighs():
    log_probs, mask = tensor([[-1.0, -2.0, nan], [-4.0, nan, nan]]), tensor([[1, 1, 0], [1, 0, 0]]).bool()
    expected = {sequence_mean: (1.5 + 4) / 2, sequence_sum: (3 + 4) / 2, token_mean: 7 / 3}
    for reduce, value in expected.items():
        found = sft_loss(log_probs, mask, reduce=reduce)
        assert found.value.item() == pytest.approx(value)
        assert float(found.metrics["nll_loss"]) == pytest.approx(7 / 3)


def test_DPO_27_centring_holds_the_sum_of_the_two_rewards_at_0():
    chosen, rejected = tensor([1.0, 3.0], dtype=f64), tensor([0.5, -1.0], dtype=f64)
    plain = bradley_terry_loss(chosen, rejected).value
    found = bradley_terry_loss(chosen, rejected, centre=0.01)
    close(found.value, plain + 0.01 * (1.5**2 + 2.0**2) / 2)
    expected = {"accuracy": 1.0, "reward_gap": 2.25, "mean_reward": 0.875}
    assert {k: float(m) for k, m in found.metrics.items()} == expected
    grads = slopes(lambda w, lo: bradley_terry_loss(w, lo, centre=0.01), chosen, rejected)
    bare = slopes(bradley_terry_loss, chosen, rejected)
    close(grads[0] - bare[0], [0.02 * 1.5, 0.02 * 2.0])
    close(grads[1] - bare[1], [0.02 * 1.5, 0.02 * 2.0])


def test_DPO_28_and_DPO_29_the_cross_entropy_of_each_verdict_by_hand():
    logits = tensor([[2.0, nan, -1.0], [0.5, 3.0, nan]], dtype=f64)
    mask = tensor([[1, 0, 1], [1, 1, 0]]).bool()
    right, wrong = (lambda z: -math.log(sigmoid(z))), (lambda z: -math.log(sigmoid(-z)))
    outcome = outcome_reward_loss(logits, tensor([1.0, 0.0], dtype=f64), mask, reduce=token_mean)
    close(outcome.value, mean([right(2), right(-1), wrong(0.5), wrong(3)]))
    assert float(outcome.metrics["accuracy"]) == 0.25
    steps = tensor([[1.0, nan, 0.0], [0.25, 1.0, nan]], dtype=f64)
    process = process_reward_loss(logits, steps, mask, reduce=token_mean)
    close(process.value, mean([right(2), wrong(-1), 0.25 * right(0.5) + 0.75 * wrong(0.5), right(3)]))
    assert float(process.metrics["accuracy"]) == 0.75


def test_DPO_28_and_DPO_29_doubt_on_either_side_counts_as_no():
    logits, labels = tensor([[0.0, 1.0, 1.0]]), tensor([[0.0, 0.5, 0.5]])  # right, wrong, wrong
    found = process_reward_loss(logits, labels, torch.ones(1, 3, dtype=torch.bool), reduce=token_mean)
    assert float(found.metrics["accuracy"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("z", [120.0, -120.0, 1000.0, -1000.0])
def test_DPO_28_a_far_off_verdict_stays_finite(z):
    logits = torch.full((2, 1), z, requires_grad=True)
    loss = outcome_reward_loss(logits, tensor([1.0, 0.0]), torch.ones(2, 1, dtype=torch.bool), reduce=token_mean)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(abs(z) / 2)
    assert logits.grad.flatten().tolist() == ([0.0, 0.5] if z > 0 else [-0.5, 0.0])


PAIR, FOUR, MASK = torch.zeros(2), [torch.zeros(2)] * 4, torch.ones(2, 3, dtype=torch.bool)
UP = tensor([True, False])
KTO = {"beta": 0.1, "reference_point": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        *[("chosen_log_probs", lambda f=f, o=o: f(PAIR[None], *FOUR[1:], beta=B, **o)) for f, o, _ in PAIRED.values()],
        *[("ref_rejected_log_probs", lambda f=f, o=o: f(*FOUR[:3], PAIR[:1], beta=B, **o))
          for f, o, _ in PAIRED.values()],
        *[("ref_chosen_log_probs", lambda f=f, o=o: f(PAIR, PAIR, None, PAIR, beta=B, **o))
          for f, o, _ in PAIRED.values()],
        *[("ref_chosen_log_probs", lambda f=f, o=o: f(PAIR, PAIR, None, None, beta=B, **o))
          for f, o, _ in PAIRED.values() if f is not hinge_loss],
        ("ref_rejected_log_probs", lambda: hinge_loss(PAIR, PAIR, PAIR, beta=1.0, delta=1.0)),
        ("denominator", lambda: ipo_loss(*FOUR, beta=0.1, denominator=-1)),
        ("rejected_log_probs", lambda: simpo_loss(PAIR, PAIR[:1], beta=2.0, gamma=0.5)),
        ("rejected_log_probs", lambda: orpo_loss(PAIR, PAIR[:1], odds_coef=0.1, sft_coef=1.0)),
        ("reference_point", lambda: kto_loss(PAIR, PAIR, UP, **KTO | {"reference_point": PAIR})),
        ("reference_point", lambda: kto_loss(PAIR, PAIR, UP, **KTO | {"reference_point": None})),
        ("desirable", lambda: kto_loss(PAIR, PAIR, UP.float(), **KTO)),
        ("desirable", lambda: kto_loss(PAIR, PAIR, UP[:1], **KTO)),
        ("desirable", lambda: kto_loss(PAIR, PAIR, [True, False], **KTO)),
        ("ref_log_probs", lambda: kto_loss(PAIR, PAIR[:1], UP, **KTO)),
        ("ref_log_probs", lambda: kto_reference_point(PAIR, PAIR[:1])),
        ("temperature", lambda: log_sum_squares(torch.zeros(1, 2, 3), temperature=0.0)),
        ("logits", lambda: log_sum_squares(torch.zeros(2, 3), temperature=1.0)),
        ("log_normalisers", lambda: wpo_weights(torch.zeros(2, 3), torch.zeros(2, 2), MASK)),
        ("mask", lambda: wpo_weights(torch.zeros(2, 3), None, MASK.float())),
        ("weights", lambda: wpo_loss(*FOUR, PAIR[:1], beta=0.1)),
        ("weights", lambda: wpo_loss(*FOUR, 1.0, beta=0.1)),
        ("reward_shift", lambda: bco_loss(*FOUR, beta=0.1, reward_shift=PAIR)),
        ("desirable", lambda: bco_reward_shift(PAIR, UP.float())),
        ("rewards", lambda: bco_reward_shift(PAIR[None], UP)),
        ("desirable", lambda: bco_unpaired_loss(PAIR, PAIR, UP[:1], beta=0.1, reward_shift=0.0)),
        ("reward_shift", lambda: bco_unpaired_loss(PAIR, PAIR, UP, beta=0.1, reward_shift=None)),
        *[(name, lambda n=name, x=x: bco_unpaired_loss(PAIR, PAIR, UP, beta=0.1, reward_shift=0.0, **{n: x}))
          for name in ("desirable_denominator", "undesirable_denominator") for x in (-1, PAIR)],
        ("reward_shift", lambda: bco_unpaired_loss(PAIR, PAIR, UP, beta=0.1, reward_shift=math.inf)),
        ("alpha", lambda: power_reward(PAIR, nan)),
        ("divergence", lambda: f_dpo_loss(*FOUR, beta=0.1, divergence="kl")),
        ("alpha", lambda: f_dpo_loss(*FOUR, beta=0.1, divergence="js", alpha=0.5)),
        ("alpha", lambda: f_dpo_loss(*FOUR, beta=0.1, divergence="alpha")),
        ("ref_chosen_log_probs", lambda: f_dpo_loss(PAIR, PAIR, None, PAIR, beta=0.1, divergence="js")),
        ("rejected_log_probs", lambda: alphapo_loss(PAIR, PAIR[:1], beta=2.0, gamma=0.5, alpha=0.25)),
        ("chosen_is_from_reference", lambda: optimism_loss(PAIR, PAIR, UP.float())),
        ("rejected_log_probs", lambda: optimism_loss(PAIR, PAIR[:1], UP)),
        ("penalty_coef", lambda: dpop_loss(*FOUR, beta=0.1, penalty_coef=-1.0)),
        ("chosen_win_rates", lambda: sppo_loss(*FOUR, beta=0.1, chosen_win_rates=PAIR[:1])),
        ("beta", lambda: aot_loss(*FOUR, beta=0.0, paired=True)),
        ("label_smoothing", lambda: aot_loss(*FOUR, beta=0.1, paired=True, label_smoothing=2.0)),
        ("ref_chosen_log_probs", lambda: aot_loss(PAIR, PAIR, PAIR[:1], PAIR, beta=0.1, paired=False)),
        ("parameters", lambda: update_reference({"w": PAIR}, {"v": PAIR}, alpha=0.5)),
        *[("parameters", lambda x=x: update_reference({"w": PAIR}, x, alpha=0.5))
          for x in (None, [PAIR], iter([("w", PAIR)]))],
        ("ref_parameters", lambda: update_reference(iter([("w", PAIR)]), {"w": PAIR}, alpha=0.5)),
        (r"parameters\['w'\]", lambda: update_reference({"w": PAIR}, {"w": PAIR[:1]}, alpha=0.5)),
        (r"ref_parameters\['w'\]", lambda: update_reference({"w": UP}, {"w": PAIR}, alpha=0.5)),
        *[("alpha", lambda a=a: update_reference({"w": PAIR}, {"w": PAIR}, alpha=a)) for a in (-0.1, 1.1, nan)],
        ("reward_shift", lambda: mpo_loss(*FOUR, beta=0.1, preference_coef=1.0, quality_coef=1.0, reward_shift=PAIR)),
        ("other_mask", lambda: shared_length_log_probs(torch.zeros(2, 3), MASK, MASK[:1], alpha=0.5)),
        ("other_mask", lambda: shared_length_log_probs(torch.zeros(2, 3), MASK, MASK.float(), alpha=0.5)),
        ("log_probs", lambda: shared_length_log_probs(torch.zeros(2, 2), MASK, MASK, alpha=0.5)),
        *[("alpha", lambda a=a: shared_length_log_probs(torch.zeros(2, 3), MASK, MASK, alpha=a))
          for a in (-0.1, 1.1, nan)],
        ("log_probs", lambda: sft_loss(torch.zeros(2, 2), MASK, reduce=token_mean)),
        ("labels", lambda: outcome_reward_loss(torch.zeros(2, 3), torch.zeros(2, 3), MASK, reduce=token_mean)),
        ("labels", lambda: outcome_reward_loss(torch.zeros(2, 3), UP, MASK, reduce=token_mean)),
        ("step_labels", lambda: process_reward_loss(torch.zeros(2, 3), PAIR, MASK, reduce=token_mean)),
        ("mask", lambda: process_reward_loss(*[torch.zeros(2, 3)] * 2, MASK[0], reduce=token_mean)),
    ],
)  # fmt: skip
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
