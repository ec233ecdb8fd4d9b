"""Around the clip: the unclipped surrogate, and weights for a sampler that is not the trainer."""

import math

import enumeration as tiny
import pytest
import torch
from torch import nan, tensor

from torchstone.core import token_mean
from torchstone.ppo import clipped_surrogate, ppo_loss
from torchstone.ppo.variants import (
    AdaptiveEntropy,
    decoupled_gae,
    importance_surrogate,
    importance_weights,
    length_lams,
    likelihood_surrogate,
)

f64 = torch.float64
MASK = tensor([[True, True, True, False], [True, False, True, False]])
OLD = tensor([[2.0, 0.5, 1.0, nan], [3.0, nan, 0.1, nan]], dtype=f64).log()  # ratios to a sampler at probability 1
SAMPLER = torch.zeros(2, 4, dtype=f64)


def weights(**how):
    return importance_weights(OLD, SAMPLER, MASK, **how)


def rows(*numbers):
    return tensor(numbers, dtype=f64)


def test_PPO_12_expects_the_policy_gradient_of_the_present_policy_under_the_samples_of_another():
    z, other = torch.randn(2, 6, dtype=f64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    every, advantages = torch.ones(6, 1, dtype=torch.bool), torch.arange(6.0, dtype=f64)
    log_p, log_q = torch.log_softmax(z, 0), torch.log_softmax(other, 0)
    losses = importance_surrogate(log_p[:, None], log_q[:, None], advantages, every)[:, 0]
    (estimate,) = torch.autograd.grad((log_q.exp() * losses).sum(), z, retain_graph=True)
    (true,) = torch.autograd.grad(-(log_p.exp() * advantages).sum(), z)
    torch.testing.assert_close(estimate, true)


@pytest.mark.parametrize(("sampler", "token_error"), [(0, 0.0), (1, 0.3)])
def test_PPO_12_is_unbiased_at_the_sampler_alone_and_the_ratio_of_the_whole_completion_everywhere(sampler, token_error):
    theta, old = tiny.parameters(0), tiny.parameters(sampler).detach()
    new, drawn, A = tiny.log_probs(theta), tiny.log_probs(old), tiny.rewards().sum(1)
    true = tiny.gradient(-(tiny.probabilities(theta) * A).sum(), theta)
    by_token = tiny.expected(old)(importance_surrogate(new, drawn, A, tiny.mask), tiny.mask)
    off = (tiny.gradient(by_token, theta) - true).norm() / true.norm()
    assert off < 1e-14 if sampler == 0 else off > token_error
    ratio = (new - drawn).masked_fill(~tiny.mask, 0).sum(1).exp()
    whole = tiny.gradient(-(tiny.probabilities(old) * ratio * A).sum(), theta)
    torch.testing.assert_close(whole, true)


def test_PPO_13_levels_by_hand():
    torch.testing.assert_close(weights(level="token", gate=None), rows([2, 0.5, 1, 0], [3, 0, 0.1, 0]))
    torch.testing.assert_close(weights(level="sequence", gate=None), rows([1, 1, 1, 0], [0.3, 0, 0.3, 0]))
    root = math.sqrt(0.3)
    torch.testing.assert_close(weights(level="sequence-mean", gate=None), rows([1, 1, 1, 0], [root, 0, root, 0]))


def test_PPO_13_whole_sequences_make_expectations_exact_and_tokens_do_not():
    theta, sampler = tiny.parameters(0).detach(), tiny.parameters(1).detach()
    old, drawn = tiny.log_probs(theta), tiny.log_probs(sampler)
    f = tiny.rewards().sum(1)
    true = (tiny.probabilities(theta) * f).sum()
    estimate = lambda level: (  # noqa: E731
        tiny.probabilities(sampler) * importance_weights(old, drawn, tiny.mask, level=level, gate=None)[:, 0] * f
    ).sum()
    torch.testing.assert_close(estimate("sequence"), true)
    assert abs(estimate("token") - true) > 0.01


def test_PPO_14_truncation_by_hand():
    torch.testing.assert_close(weights(level="token", gate=None, high=2.0), rows([2, 0.5, 1, 0], [2, 0, 0.1, 0]))
    both = weights(level="token", gate=None, low=0.7, high=1.5)
    torch.testing.assert_close(both, rows([1.5, 0.7, 1, 0], [1.5, 0, 0.7, 0]))
    assert weights(level="sequence", gate=None, low=0.5)[1, 0] == 0.5


def test_PPO_15_masking_by_hand_the_gate_has_a_level_of_its_own():
    by_token = weights(level="token", gate="token", low=0.2, high=2.5)
    torch.testing.assert_close(by_token, rows([2, 0.5, 1, 0], [0, 0, 0, 0]))
    by_mean = weights(level="token", gate="sequence-mean", low=0.5, high=5.0)  # sqrt(0.3) = 0.55: the row stays
    torch.testing.assert_close(by_mean, rows([2, 0.5, 1, 0], [3, 0, 0.1, 0]))
    by_product = weights(level="sequence", gate="sequence", low=0.5, high=5.0)
    torch.testing.assert_close(by_product, rows([1, 1, 1, 0], [0, 0, 0, 0]))


def test_PPO_15_at_level_one_the_gate_is_all_there_is():
    by_mean = weights(level="one", gate="sequence-mean", low=0.6, high=1.5)  # the rows' means: 1 and sqrt(0.3) = 0.55
    torch.testing.assert_close(by_mean, rows([1, 1, 1, 0], [0, 0, 0, 0]))
    by_token = weights(level="one", gate="token", low=0.2, high=2.5)
    torch.testing.assert_close(by_token, rows([1, 1, 1, 0], [0, 0, 0, 0]))
    assert torch.equal(weights(level="one", gate="sequence"), MASK.to(f64))  # no bound: nothing is dropped


def test_PPO_15_what_passes_a_gate_weighs_no_more_than_the_cap_and_the_cap_decides_nothing():
    capped = weights(level="token", gate="sequence-mean", low=0.5, high=5.0, kept_max=1.5)
    torch.testing.assert_close(capped, rows([1.5, 0.5, 1, 0], [1.5, 0, 0.1, 0]))
    narrow = weights(level="token", gate="sequence-mean", low=0.6, high=5.0, kept_max=0.25)  # below the gate's bound
    torch.testing.assert_close(narrow, rows([0.25, 0.25, 0.25, 0], [0, 0, 0, 0]))


def test_PPO_15_a_token_of_which_the_sampler_says_nothing_passes_no_gate():
    lost = SAMPLER.clone()
    lost[0, 1] = nan  # a chosen token
    for level, gate, kept in (("token", "token", [1, 0, 1, 0]), ("one", "sequence", [0, 0, 0, 0])):
        found = importance_weights(SAMPLER, lost, MASK, level=level, gate=gate, low=0.5, high=2.0)
        assert found[0].tolist() == kept


def test_PPO_13_the_mean_of_a_row_of_one_token_is_that_token():
    one = tensor([[False, True, False, False], [True, False, True, False]])
    found = importance_weights(OLD, SAMPLER, one, level="sequence-mean", gate=None)
    torch.testing.assert_close(found, rows([0, 0.5, 0, 0], [math.sqrt(0.3), 0, math.sqrt(0.3), 0]))


def test_PPO_14_and_PPO_15_a_ratio_on_a_bound_is_inside():
    on = importance_weights(SAMPLER, SAMPLER, MASK, level="token", gate="token", low=1.0, high=2.0)
    under = importance_weights(SAMPLER, SAMPLER, MASK, level="token", gate="token", low=0.5, high=1.0)
    assert torch.equal(on, MASK.to(f64)) and torch.equal(under, MASK.to(f64))
    assert torch.equal(weights(level="token", gate=None, low=1.0, high=1.0), MASK.to(f64))  # nothing is left to differ


@pytest.mark.parametrize("level", ["token", "sequence", "sequence-mean"])
def test_importance_weights_are_constants_finite_far_away_and_1_where_the_programs_agree(level):
    far = (1000 * torch.randn(2, 4, dtype=f64)).requires_grad_()
    found = importance_weights(far, SAMPLER, MASK, level=level, gate=None)
    assert found.isfinite().all() and not found.requires_grad
    same = importance_weights(OLD, OLD, MASK, level=level, gate=level, low=0.9, high=1.1)
    assert torch.equal(same, MASK.to(f64))


def test_a_ratio_capped_from_both_sides_is_the_dual_clip():
    """INTELLECT-2's two-sided clip, min(min(r, delta) A, clip(r) A), written out as its paper has it."""
    g = torch.Generator().manual_seed(0)
    log_probs, old = 2 * torch.randn(2, 200, 1, generator=g, dtype=f64)
    advantages, every = torch.randn(200, generator=g, dtype=f64), torch.ones(200, 1, dtype=torch.bool)
    ratio, A = (log_probs - old).exp(), advantages[:, None]
    two_sided = -torch.minimum(ratio.clamp(max=4) * A, ratio.clamp(0.8, 1.2) * A)
    torch.testing.assert_close(
        clipped_surrogate(log_probs, old, advantages, every, epsilon=0.2, dual_clip=4.0), two_sided
    )
    assert (ratio[A < 0] > 4).any()


def test_weights_multiply_the_loss_before_the_reduction():
    log_probs, old, advantages = OLD - 0.1, OLD, tensor([1.0, -1.0], dtype=f64)
    weighted = lambda x, mask: token_mean(x * weights(level="token", gate=None), mask)  # noqa: E731
    loss = ppo_loss(log_probs, old, advantages, MASK, reduce=weighted, epsilon=0.2)
    by_hand = -math.exp(-0.1) * (2 + 0.5 + 1 - 3 - 0.1) / 5
    assert loss.value.item() == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("level", {"level": "word", "gate": None}),
        ("gate", {"level": "token", "gate": "word"}),
        ("gate", {"level": "token", "gate": "one"}),
        ("kept_max", {"level": "token", "gate": None, "kept_max": 2.0}),
        ("kept_max", {"level": "token", "gate": "token", "kept_max": -1.0}),
        ("low", {"level": "token", "gate": None, "low": -0.1}),
        ("high", {"level": "token", "gate": None, "low": 2.0, "high": 1.0}),
        ("high", {"level": "token", "gate": None, "high": nan}),
    ],
)
def test_bad_input_is_named(argument, how, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        weights(**how)


def one_row(*numbers):
    return tensor([numbers], dtype=f64), torch.ones(1, len(numbers), dtype=torch.bool)


def test_PPO_16_by_hand():
    (rewards, mask), (values, _) = one_row(0.0, 1.0), one_row(0.5, 0.25)  # the errors are -0.25 and 0.75
    advantages, returns = decoupled_gae(rewards, values, mask, gamma=1.0, lam=0.95, value_lam=1.0)
    torch.testing.assert_close(advantages, rows([0.4625, 0.75]))
    torch.testing.assert_close(returns, rows([1, 1]))
    advantages, returns = decoupled_gae(rewards, values, mask, gamma=1.0, lam=1.0, value_lam=0.0)
    torch.testing.assert_close(advantages, rows([0.5, 0.75]))
    torch.testing.assert_close(returns, rows([0.25, 1]))


def test_PPO_16_a_lambda_for_each_completion_is_that_completions_alone():
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 4, generator=g, dtype=f64)
    mask = tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    lams = tensor([0.5, 0.9, 0.1])
    found = decoupled_gae(rewards, values, mask, gamma=0.9, lam=lams, value_lam=1 - lams)
    for row, lam in enumerate(lams.tolist()):
        part = (x[row : row + 1] for x in (rewards, values, mask))
        alone = decoupled_gae(*part, gamma=0.9, lam=lam, value_lam=1 - lam)
        for ours, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-6, atol=1e-6)  # lams are float32


def test_PPO_16_refuses_a_lambda_of_another_shape(unchecked):
    (rewards, mask), wrong = one_row(0.0, 1.0), (tensor([0.5, 0.5]), tensor(0.5), tensor([1]), 1.5, -0.1)
    for lam in wrong:
        with pytest.raises(ValueError, match=r"^lam: expected .*got"):
            decoupled_gae(rewards, rewards, mask, gamma=1.0, lam=lam, value_lam=1.0)
        with pytest.raises(ValueError, match=r"^value_lam: expected .*got"):
            decoupled_gae(rewards, rewards, mask, gamma=1.0, lam=1.0, value_lam=lam)


def test_PPO_17_by_hand():
    mask = torch.arange(100) < tensor([[100], [20], [10], [0], [40]])
    mask[4, ::2] = False  # 20 of 40 are tool output
    torch.testing.assert_close(length_lams(mask, alpha=0.05), tensor([0.8, 0, 0, 0, 0], dtype=f64))
    torch.testing.assert_close(length_lams(mask, alpha=0.4), tensor([0.975, 0.875, 0.75, 0, 0.875], dtype=f64))
    (rewards, two), (values, _) = one_row(0.0, 1.0), one_row(0.5, 0.25)
    lams = length_lams(two, alpha=2.0)  # alpha l = 4
    advantages, _ = decoupled_gae(rewards, values, two, gamma=1.0, lam=lams, value_lam=1.0)
    torch.testing.assert_close(advantages, rows([0.3125, 0.75]))


def test_PPO_17_the_weights_of_the_errors_add_up_to_a_share_of_the_completion(unchecked):
    lengths = tensor([200, 2000, 20000])
    lams = length_lams(torch.arange(20000) < lengths[:, None], alpha=0.05)
    weights = lams[:, None] ** torch.arange(20000, dtype=f64)
    torch.testing.assert_close(weights.sum(1), 0.05 * lengths.double())
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"^alpha: expected .*got"):
            length_lams(MASK, alpha=wrong)


LOGS = tensor([[-1.0, -3.0, nan, nan], [-2.0, -2.0, -2.0, -2.0], [-5.0, -5.0, -5.0, -5.0]], dtype=f64)
LOG_MASK, RIGHT = ~LOGS.isnan(), tensor([True, False, False])


def test_PPO_18_by_hand(unchecked):
    losses = likelihood_surrogate(LOGS, RIGHT, LOG_MASK)
    assert losses.tolist() == [[1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    count = LOG_MASK[RIGHT].sum()
    assert token_mean(losses, LOG_MASK, denominator=count) == 2  # whatever the other 8 tokens are
    assert token_mean(losses, LOG_MASK) == 0.4  # over all tokens it is another loss
    assert likelihood_surrogate(LOGS, ~RIGHT, LOG_MASK)[1:].tolist() == [[2] * 4, [5] * 4]
    for wrong in (RIGHT.float(), RIGHT[:2], LOG_MASK, None):
        with pytest.raises(ValueError, match=r"^right: expected .*got"):
            likelihood_surrogate(LOGS, wrong, LOG_MASK)


def test_PPO_18_micro_batches_need_the_right_answers_of_the_whole_batch():
    right = tensor([True, True, False])
    whole = token_mean(likelihood_surrogate(LOGS, right, LOG_MASK), LOG_MASK, denominator=LOG_MASK[right].sum())
    parts = [(LOGS[i : i + 1], right[i : i + 1], LOG_MASK[i : i + 1]) for i in range(3)]
    losses = [likelihood_surrogate(*part) for part in parts]
    with_whole = [token_mean(x, m, denominator=6) for x, (_, _, m) in zip(losses, parts, strict=True)]
    by_part = [token_mean(x, m, denominator=m[r].sum()) for x, (_, r, m) in zip(losses, parts, strict=True)]
    torch.testing.assert_close(whole, tensor(2.0, dtype=f64))  # (1 + 3 + 4 * 2) / 6
    torch.testing.assert_close(torch.stack(with_whole).sum(), whole)
    assert torch.stack(by_part).sum() == 4  # 2 and 2: each micro-batch would weigh its right answers anew


SKYWORK = {"coef": 0.0, "target": 0.2, "delta": 1e-4, "high": 0.005}  # its scripts


def test_PPO_19_the_bonus_grows_below_the_target_and_is_off_above_it():
    controller, seen = AdaptiveEntropy(**SKYWORK), []
    assert controller.bonus == 0.0
    for entropy in (0.3, 0.1, 0.1, 0.25, 0.1, 0.2):
        controller = controller.update(entropy)
        seen.append((controller.coef, controller.bonus))
    assert seen == [pytest.approx(x) for x in ((0, 0), (1e-4, 1e-4), (2e-4, 2e-4), (1e-4, 0), (2e-4, 2e-4), (1e-4, 0))]


def test_PPO_19_the_coefficient_stays_within_its_bounds():
    low = AdaptiveEntropy(**SKYWORK | {"coef": 0.003, "low": 0.002, "delta": 0.0015})
    assert low.update(0.3).coef == 0.002 and low.update(0.3).update(0.3).coef == 0.002
    assert low.update(0.1).coef == pytest.approx(0.0045) and low.update(0.1).update(0.1).coef == 0.005
    assert AdaptiveEntropy(**SKYWORK | {"coef": 0.003}).bonus == 0.0  # nothing is measured yet


@pytest.mark.parametrize(
    ("argument", "how"),
    [("coef", {"coef": -0.1}), ("target", {"target": 0.0}), ("delta", {"delta": nan}), ("high", {"low": 0.01}),
     ("low", {"low": -1e-9}), ("coef", {"coef": 0.006}), ("entropy", {"entropy": nan})],
)  # fmt: skip
def test_a_controller_that_cannot_be_is_refused(argument, how):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        AdaptiveEntropy(**SKYWORK | how)


@pytest.mark.parametrize("entropy", [nan, math.inf, -1.0])
def test_an_entropy_that_cannot_be_is_refused(entropy):
    with pytest.raises(ValueError, match=r"^entropy: expected .*, got"):
        AdaptiveEntropy(**SKYWORK).update(entropy)
