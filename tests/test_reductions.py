"""How the methods reduce to one another. Each test is an edge of the map in docs/map.md."""

from functools import partial

import pytest
import torch
from objectives import OBJECTIVES

from torchstone.core import (
    Loss,
    fixed_length_mean,
    kl_exact,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_whiten,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from torchstone.distill import distill_loss, jsd_exact, jsd_top_k
from torchstone.dpo import bradley_terry_loss, dpo_loss, implicit_rewards, sequence_log_probs
from torchstone.dpo import variants as preference
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.grpo.selection import (
    clip_cov_mask,
    covariances,
    future_kl_weights,
    second_moment_mask,
    top_entropy_mask,
)
from torchstone.grpo.variants import (
    cispo_surrogate,
    gmpo_surrogate,
    group_token_mean,
    kl_k3_with_k2_gradient,
    off_policy_weights,
    ratio_weighted_kl,
    sequence_log_ratios,
)
from torchstone.ppo import clipped_surrogate, gae, ppo_loss
from torchstone.ppo.variants import (
    decoupled_gae,
    importance_surrogate,
    importance_weights,
    length_lams,
    likelihood_surrogate,
)
from torchstone.recipes import RECIPES, Choice, find
from torchstone.reinforce import discounted_returns, leave_one_out_advantages, reinforce_loss
from torchstone.reinforce.variants import (
    batch_scaled_advantages,
    best_margin_advantages,
    gdpo_advantages,
    gpg_advantages,
    length_weighted_advantages,
    max_likelihood_advantages,
    optimal_token_advantages,
    pass_at_k_advantages,
    step_group_advantages,
    whiten_completions,
)

REDUCTIONS = [token_mean, sequence_mean, sequence_sum, partial(fixed_length_mean, length=9)]
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-14)


def edge(start, end, when, note=""):
    """An arrow of docs/map.md: ``start`` is ``end`` ``when``; ``note``: up to what. docs/map.py reads it from here."""
    return lambda test: test


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    log_probs, old, other, values = torch.randn(4, 6, 5, generator=g, dtype=torch.float64).unbind()
    mask = torch.rand(6, 5, generator=g) > 0.3
    return log_probs.requires_grad_(), old, other, values, torch.randn(6, generator=g, dtype=torch.float64), mask


def gradient(loss, log_probs):
    return torch.autograd.grad(loss.value, log_probs, retain_graph=True)[0]


@edge("PPO", "REINFORCE", "ratio 1", "same gradient")
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_ppo_at_ratio_1_has_the_gradient_of_reinforce(batch, reduce):
    log_probs, _, _, _, advantages, mask = batch
    ppo = ppo_loss(log_probs, log_probs.detach(), advantages, mask, reduce=reduce, epsilon=0.2)
    reinforce = reinforce_loss(log_probs, advantages, mask, reduce=reduce)
    same(gradient(ppo, log_probs), gradient(reinforce, log_probs))


@edge("PPO", "importance sampling", "clip infinitely wide")
def test_ppo_with_an_infinitely_wide_clip_is_importance_sampling(batch):
    log_probs, old, _, _, advantages, mask = batch
    wide = clipped_surrogate(log_probs, old, advantages, mask, epsilon=1e9)
    ratio = (log_probs - old).exp()
    same(wide, (-ratio * advantages[:, None]).masked_fill(~mask, 0))


SURROGATES = [o for o in OBJECTIVES if o.surrogate]


@edge("importance sampling", "REINFORCE", "ratio 1", "same gradient")
@edge("CISPO", "REINFORCE", "ratio 1", "same gradient")
@edge("SAPO", "REINFORCE", "ratio 1", "same gradient")
@edge("VESPO", "REINFORCE", "ratio 1", "same gradient")
@edge("DPPO", "REINFORCE", "ratio 1", "same gradient")
@edge("quadratic regression", "REINFORCE", "ratio 1", "same gradient")
@edge("TOPR", "REINFORCE", "ratio 1", "same gradient")
@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
def test_every_surrogate_at_ratio_1_has_the_gradient_of_reinforce(batch, surrogate):
    log_probs, _, _, token_advantages, advantages, mask = batch
    tensors = {"log_probs": log_probs, "old_log_probs": log_probs.detach(), "mask": mask}
    tensors |= {"advantages": advantages, "token_advantages": token_advantages}
    weights = next(tensors[name] for name in surrogate.tensors if name.endswith("advantages"))
    reinforce = reinforce_loss(log_probs, weights, mask, reduce=sequence_sum)
    same(gradient(surrogate(tensors, reduce=sequence_sum), log_probs), gradient(reinforce, log_probs))


@edge("GSPO", "GRPO", "length 1")
@edge("GSPO-token", "GRPO", "length 1")
@pytest.mark.parametrize("token_gradient", [True, False])
def test_gspo_at_length_1_is_grpo(batch, token_gradient):
    log_probs, old, _, _, advantages, _ = batch
    one = torch.zeros(6, 5, dtype=torch.bool)
    one[:, 2] = True
    s = sequence_log_ratios(log_probs, old, one, token_gradient=token_gradient)
    gspo = clipped_surrogate(s, torch.zeros_like(s), advantages, one, epsilon=0.2)
    grpo = grpo_loss(log_probs, old, advantages, one, reduce=sequence_mean, epsilon=0.2, beta=0.0)
    gspo = Loss(sequence_mean(gspo, one), {})
    same(gspo.value, grpo.value)
    same(gradient(gspo, log_probs), gradient(grpo, log_probs))


@edge("GSPO-token", "GSPO", "one advantage a sequence", "same gradient")
def test_gspo_token_with_one_advantage_a_sequence_is_gspo(batch):
    log_probs, old, _, _, advantages, mask = batch
    gradients = []
    for token_gradient in (True, False):
        s = sequence_log_ratios(log_probs, old, mask, token_gradient=token_gradient)
        losses = clipped_surrogate(s, torch.zeros_like(s), advantages, mask, epsilon=0.2)
        gradients.append(gradient(Loss(sequence_mean(losses, mask), {}), log_probs))
    same(*gradients)


@edge("GMPO", "GSPO", "inside its clip", "GSPO unclipped")
def test_gmpo_inside_its_clip_is_gspo_without_one(batch):
    log_probs, old, _, _, advantages, mask = batch
    s = sequence_log_ratios(log_probs, old, mask, token_gradient=False)
    same(
        gmpo_surrogate(log_probs, old, advantages, mask, epsilon=99.0),
        importance_surrogate(s, torch.zeros_like(s), advantages, mask),
    )


@edge("CISPO", "importance sampling", "inside its bounds", "same gradient")
def test_cispo_inside_its_bounds_has_the_gradient_of_importance_sampling(batch):
    log_probs, old, _, _, advantages, mask = batch
    losses = [
        cispo_surrogate(log_probs, old, advantages, mask, epsilon=None, cap=1e9),
        importance_surrogate(log_probs, old, advantages, mask),
    ]
    same(*(gradient(Loss(token_mean(x, mask), {}), log_probs) for x in losses))


@edge("importance weights", "weight 1", "sampler = trainer")
@edge("off-policy mask", "weight 1", "sampler = trainer")
def test_weights_of_a_sampler_that_is_the_trainer_are_1(batch):
    _, old, _, _, advantages, mask = batch
    ones = mask.to(old.dtype)
    for level in ("token", "sequence", "sequence-mean"):
        same(importance_weights(old, old, mask, level=level, gate=level, low=0.5, high=2.0), ones)
    same(off_policy_weights(old, old, advantages, mask, limit=0.0), ones)


@edge("CHORD", "GRPO", "an expert of weight 0")
@edge("CHORD", "SFT", "no advantages, phi false")
def test_chord_is_grpo_and_supervised_learning_at_its_two_ends(batch):
    log_probs, old, expert, _, advantages, mask = batch
    shown = {"old_log_probs": old, "expert_log_probs": expert.clone().requires_grad_(), "expert_mask": mask}
    row = RECIPES["chord"]
    alone = row.but(likelihood=Choice("expert", coef=0.0, phi=True)).loss(log_probs, advantages, mask, **shown)
    same(
        alone.value,
        RECIPES["grpo"].but(loss_kl=Choice("none")).loss(log_probs, advantages, mask, old_log_probs=old).value,
    )
    learned = row.but(likelihood=Choice("expert", coef=1.0, phi=False)).loss(log_probs, 0 * advantages, mask, **shown)
    sft = preference.sft_loss(shown["expert_log_probs"], mask, reduce=token_mean)
    same(learned.value, sft.value)
    same(*(gradient(x, shown["expert_log_probs"]) for x in (learned, sft)))


@edge("REBEL", "IPO", "pairs, rewards 1 apart", "up to a factor")
def test_rebel_on_pairs_whose_rewards_are_one_apart_is_ipo_about_the_old_policy(batch):
    log_probs, old, _, _, _, mask = batch
    row, beta = RECIPES["rebel"].but(surrogate=Choice("quadratic", tau=0.2)), 0.1  # 1 / tau = 1 / (2 beta)
    mask = mask | (torch.arange(5) == 0)
    earned = row.advantages(torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64), mask).advantages
    rebel = row.loss(log_probs, earned, mask, old_log_probs=old, group_size=2)
    s = [x.masked_fill(~mask, 0).sum(1).view(3, 2) for x in (log_probs, old)]
    ipo = preference.ipo_loss(s[0][:, 0], s[0][:, 1], s[1][:, 0], s[1][:, 1], beta=beta)
    same(gradient(ipo, log_probs), 8 / 0.2 * gradient(rebel, log_probs))


@edge("REAL", "REINFORCE", "ratio 1, pairs of a right and a wrong", "same gradient, over tau")
@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_real_at_ratio_1_on_pairs_of_a_right_and_a_wrong_is_leave_one_out(batch, tau):
    log_probs, _, _, _, _, mask = batch
    mask = mask | (torch.arange(5) == 0)
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    row = RECIPES["real"].but(surrogate=Choice("real", tau=tau))
    earned = row.advantages(rewards, mask).advantages
    real = row.loss(log_probs, earned, mask, old_log_probs=log_probs.detach(), group_size=2)
    ahead = leave_one_out_advantages(rewards).flatten()
    same(
        gradient(real, log_probs),
        gradient(reinforce_loss(log_probs, ahead, mask, reduce=sequence_mean), log_probs) / tau,
    )


@edge("A*-PO", "Kimi's regression", "the reference samples")
def test_a_star_po_on_samples_of_the_reference_is_kimis_with_another_baseline(batch):
    log_probs, old, _, _, _, mask = batch
    tau = RECIPES["a*-po"].surrogate.numbers["tau"]
    kimi = RECIPES["kimi-k1.5"].but(advantage=Choice("prompt-value"), surrogate=Choice("quadratic", tau=tau))
    rewards, values = torch.rand(3, 2, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    found = []
    for row in (kimi, RECIPES["a*-po"]):
        earned = row.advantages(rewards, mask, prompt_values=values).advantages
        found.append(row.loss(log_probs, earned, mask, **row.used("loss", dict(old_log_probs=old, ref_log_probs=old))))
    same(found[0].value, found[1].value)
    same(*(gradient(x, log_probs) for x in found))


@edge("decoupled PPO", "PPO", "sampler = trainer")
def test_decoupled_ppo_on_samples_of_the_trainer_is_ppo(batch):
    log_probs, old, _, _, advantages, mask = batch
    row = RECIPES["decoupled-ppo"]
    found = row.loss(log_probs, advantages, mask, old_log_probs=old, sampler_log_probs=old)
    ppo = ppo_loss(log_probs, old, advantages, mask, reduce=token_mean, epsilon=row.surrogate.numbers["epsilon"])
    same(found.value, ppo.value)
    same(gradient(found, log_probs), gradient(ppo, log_probs))


@edge("high-entropy tokens", "weight 1", "share 1")
@edge("Clip-Cov", "weight 1", "a share below one token")
@edge("M2PO", "weight 1", "on policy")
@edge("FIPO", "weight 1", "on policy")
def test_tokens_that_nothing_sets_apart_weigh_1(batch):
    log_probs, old, other, _, advantages, mask = batch
    assert torch.equal(top_entropy_mask(other.abs(), mask, share=1.0), mask)
    spread = covariances(log_probs, advantages, mask)
    bounds = {"low": -9.0, "high": 9.0}
    assert torch.equal(clip_cov_mask(spread, other, mask, share=0.9 / int(mask.sum()), **bounds), mask)
    assert torch.equal(second_moment_mask(old, old, advantages, mask, limit=0.0), mask)
    future = {"half_life": 32.0, "epsilon": 0.2, "epsilon_high": 0.2, "reset": 0.5}
    same(future_kl_weights(old, old, advantages, mask, **future), mask.to(old.dtype))


@edge("KL-Cov", "importance sampling", "coef 0")
def test_kl_cov_without_a_price_is_importance_sampling(batch):
    log_probs, old, _, _, advantages, mask = batch
    row = find("kl-cov:tokens.coef=0+tokens.share=0.5")
    weights = row.token_weights(log_probs, advantages, mask)
    assert 0 < weights.sum() < mask.sum()
    loss = row.loss(log_probs, advantages, mask, old_log_probs=old, token_weights=weights)
    plain = Loss(token_mean(importance_surrogate(log_probs, old, advantages, mask), mask), {})
    same(loss.value, plain.value)
    same(gradient(loss, log_probs), gradient(plain, log_probs))


@edge("group token mean", "token mean", "one group")
def test_one_group_makes_the_group_token_mean_the_token_mean(batch):
    x, mask = batch[0], batch[-1]
    same(group_token_mean(x, mask, group_size=6), token_mean(x, mask))


@edge("group token mean", "sequence mean", "groups of one")
def test_groups_of_one_make_the_group_token_mean_the_sequence_mean(batch):
    x, mask = batch[0], batch[-1]
    same(group_token_mean(x, mask, group_size=1), sequence_mean(x, mask))


@edge("ratio-weighted k3", "k2", "on policy, on average", "same gradient")
@edge("k3, gradient of k2", "k2", "on policy, on average", "same gradient")
def test_ratio_weighted_k3_on_policy_has_the_gradient_of_k2_on_average():
    z, ref = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    every = torch.ones(7, 1, dtype=torch.bool)
    log_p, log_ref = (torch.log_softmax(x, 0)[:, None] for x in (z, ref))
    terms = [
        ratio_weighted_kl(log_p, log_p.detach(), log_ref, every),
        kl_k3_with_k2_gradient(log_p, log_ref, every),
        kl_k2(log_p, log_ref, every),
    ]
    weights = log_p.detach().exp()
    weighted, straight_through, k2 = (torch.autograd.grad((weights * x).sum(), z, retain_graph=True)[0] for x in terms)
    same(weighted, k2)
    same(straight_through, k2)


@edge("GRPO", "PPO", "β = 0", "PPO without critic")
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_grpo_without_kl_is_ppo_without_critic(batch, reduce):
    log_probs, old, _, _, advantages, mask = batch
    grpo = grpo_loss(log_probs, old, advantages, mask, reduce=reduce, epsilon=0.2, epsilon_high=0.3, beta=0.0)
    ppo = ppo_loss(log_probs, old, advantages, mask, reduce=reduce, epsilon=0.2, epsilon_high=0.3)
    same(grpo.value, ppo.value)
    same(gradient(grpo, log_probs), gradient(ppo, log_probs))


@edge("leave-one-out", "reward - group mean", "always", "times G / (G - 1)")
@pytest.mark.parametrize("size", [2, 3, 8])
def test_leave_one_out_is_the_undivided_group_advantage_times_g_over_g_minus_1(size):
    rewards = torch.randn(4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    centred = group_advantages(rewards, divide_by_std=False, correction=0, eps=0.0)
    same(leave_one_out_advantages(rewards), centred * size / (size - 1))


@edge("GAE", "return - V", "λ = 1")
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gae_at_lambda_1_is_the_return_less_the_value(batch, gamma):
    rewards, _, _, values, _, mask = batch
    advantages, returns = gae(rewards.detach(), values, mask, gamma=gamma, lam=1.0)
    to_go = discounted_returns(rewards.detach(), mask, gamma=gamma)
    same(returns, to_go)
    same(advantages, to_go - values.masked_fill(~mask, 0))


@edge("GAE", "reward-to-go", "λ = 1, V = 0")
def test_gae_without_a_critic_at_lambda_1_is_the_reward_to_go(batch):
    rewards, _, _, values, _, mask = batch
    advantages, _ = gae(rewards.detach(), torch.zeros_like(values), mask, gamma=0.9, lam=1.0)
    same(advantages, discounted_returns(rewards.detach(), mask, gamma=0.9))


@edge("GAE", "TD error", "λ = 0")
def test_gae_at_lambda_0_is_the_td_error(batch):
    rewards, _, _, values, _, _ = batch
    full = torch.ones_like(values, dtype=torch.bool)
    advantages, _ = gae(rewards.detach(), values, full, gamma=0.9, lam=0.0)
    following = torch.cat([values[:, 1:], torch.zeros(6, 1, dtype=torch.float64)], 1)
    same(advantages, rewards.detach() + 0.9 * following - values)


@edge("decoupled GAE", "GAE", "one λ for both")
def test_decoupled_gae_with_one_lambda_is_gae(batch):
    rewards, _, _, values, _, mask = batch
    given = rewards.detach(), values, mask
    for ours, plain in zip(
        decoupled_gae(*given, gamma=0.9, lam=0.7, value_lam=0.7), gae(*given, gamma=0.9, lam=0.7), strict=True
    ):
        same(ours, plain)


@edge("length-adaptive GAE", "return - V", "large α", "in the limit")  # noqa: RUF001
def test_length_adaptive_gae_becomes_the_return_less_the_value(batch):
    rewards, _, _, values, _, mask = batch
    lams = length_lams(mask, alpha=1e9)
    advantages, _ = gae(rewards.detach(), values, mask, gamma=1.0, lam=lams)
    to_go = discounted_returns(rewards.detach(), mask, gamma=1.0) - values.masked_fill(~mask, 0)
    torch.testing.assert_close(advantages, to_go, rtol=1e-7, atol=1e-7)


@edge("likelihood of right answers", "REINFORCE", "rewards 0 or 1, no baseline")
@edge("likelihood of right answers", "SFT", "all are right")
def test_the_likelihood_of_right_answers_is_reinforce_on_their_reward(batch):
    log_probs, _, _, _, advantages, mask = batch
    right = advantages > 0
    for marks in (right, torch.ones_like(right)):
        losses = Loss(token_mean(likelihood_surrogate(log_probs, marks, mask), mask), {})
        reinforce = reinforce_loss(log_probs, marks.double(), mask, reduce=token_mean)
        same(losses.value, reinforce.value)
        same(gradient(losses, log_probs), gradient(reinforce, log_probs))
    same(losses.value, preference.sft_loss(log_probs, mask, reduce=token_mean).value)


@edge("sequence mean", "token mean", "equal lengths")
@edge("fixed-length mean", "token mean", "all of that length")
@edge("sequence sum", "token mean", "equal lengths T", "times T")
def test_rows_of_equal_length_make_the_three_means_one(batch):
    x, full = batch[0], torch.ones(6, 5, dtype=torch.bool)
    same(token_mean(x, full), sequence_mean(x, full))
    same(token_mean(x, full), fixed_length_mean(x, full, length=5))
    same(token_mean(x, full), sequence_sum(x, full) / 5)


@edge("DPO", "Bradley-Terry", "implicit rewards")
def test_dpo_is_a_bradley_terry_reward_model_whose_reward_is_implicit():
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 7, dtype=torch.float64)
    rewards = [implicit_rewards(p, r, beta=0.3) for p, r in ((chosen, ref_chosen), (rejected, ref_rejected))]
    dpo = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.3)
    same(dpo.value, bradley_terry_loss(*rewards).value)


@edge("DPO", "a symmetric loss", "label smoothing ½")
def test_half_the_labels_flipped_makes_dpo_symmetric():
    pair, ref = torch.randn(2, 7, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    how = {"beta": 0.3, "label_smoothing": 0.5}
    same(dpo_loss(*pair, *ref, **how).value, dpo_loss(*pair.flip(0), *ref.flip(0), **how).value)
    flipped = dpo_loss(*pair.flip(0), *ref.flip(0), beta=0.3, label_smoothing=0.8).value
    same(dpo_loss(*pair, *ref, beta=0.3, label_smoothing=0.2).value, flipped)


@edge("k3", "k2", "near the reference", "in the limit")
def test_k3_is_k2_near_the_reference():
    log_probs = torch.randn(1, 50, dtype=torch.float64)
    every = torch.ones(1, 50, dtype=torch.bool)
    for step in (1e-2, 1e-3):
        k2, k3 = (k(log_probs + step, log_probs, every) for k in (kl_k2, kl_k3))
        torch.testing.assert_close(k3, k2, rtol=step, atol=0)


@edge("OPO", "reward - group mean", "equal lengths")
def test_opo_at_equal_lengths_is_the_undivided_group_advantage():
    rewards = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centred = group_advantages(rewards, divide_by_std=False, correction=0, eps=0.0)
    same(length_weighted_advantages(rewards, torch.full((4, 6), 9)), centred)


@pytest.fixture
def rewards():
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@edge("GPG", "reward - group mean", "no tied group")
def test_gpg_without_a_tied_group_is_the_undivided_group_advantage():
    rewards = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same(gpg_advantages(rewards), group_advantages(rewards, divide_by_std=False, correction=0, eps=0.0))


@edge("MaxRL", "leave-one-out", "two samples", "rewards 0 or 1")
def test_maxrl_of_two_samples_scored_0_or_1_is_leave_one_out():
    rewards = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    same(max_likelihood_advantages(rewards), leave_one_out_advantages(rewards))


@edge("pass@k advantage", "GRPO advantage", "k = 1", "rewards 0 or 1, deviation over n")
def test_pass_at_1_is_grpo():
    rewards = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    grpo = group_advantages(rewards, divide_by_std=True, correction=0, eps=0.1)
    same(pass_at_k_advantages(rewards, k=1, eps=0.1), grpo)


@edge("best of G", "leave-one-out", "two samples", "where it is above 0")
def test_the_margin_of_the_better_of_two_is_leave_one_out_without_its_loss():
    rewards = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    margins = best_margin_advantages(rewards, divide_by_std=False, correction=0, eps=0.0)
    same(margins, leave_one_out_advantages(rewards).clamp(min=0))


@edge("GiGPO's turns", "GRPO advantage", "states of G turns each")
@pytest.mark.parametrize("divide_by_std", [True, False])
def test_turns_in_groups_of_one_size_are_grpo(rewards, divide_by_std):
    numbers = {"divide_by_std": divide_by_std, "correction": 1, "eps": 0.1}
    states = torch.arange(4).repeat_interleave(6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    found = torch.empty(24, dtype=torch.float64)
    found[order] = step_group_advantages(rewards.flatten()[order], states[order], **numbers)
    same(found.view(4, 6), group_advantages(rewards, **numbers))


@edge("GDPO advantage", "GRPO advantage", "one reward", "before it is whitened")
@edge("GDPO advantage", "GRPO advantage", "copies of one reward", "times their weights' sum")
def test_gdpo_of_one_reward_is_grpo(rewards):
    numbers = {"correction": 1, "eps": 0.1}
    grpo = group_advantages(rewards, divide_by_std=True, **numbers)
    same(gdpo_advantages(rewards[..., None], **numbers), grpo)
    same(gdpo_advantages(torch.stack([rewards] * 3, -1), **numbers), 3 * grpo)


@edge("whitened completions", "whitened tokens", "equal lengths", "eps 0")
def test_whitening_completions_of_one_length_is_whitening_tokens(rewards):
    tokens = rewards.flatten()[:, None].expand(24, 5)
    every = torch.ones(24, 5, dtype=torch.bool)
    white = whiten_completions(rewards, correction=0, eps=0.0)
    same(white.flatten()[:, None].expand(24, 5), masked_whiten(tokens, every, correction=0, eps=0.0))


@edge("Lite PPO advantage", "GRPO advantage", "one group")
@edge("ScaleRL advantage", "GRPO advantage", "one group")
@pytest.mark.parametrize("within_groups", [True, False])
def test_the_batchs_deviation_of_one_group_is_its_own(rewards, within_groups):
    numbers = {"correction": 1, "eps": 0.1}
    for group in rewards.split(1):
        grpo = group_advantages(group, divide_by_std=True, **numbers)
        same(batch_scaled_advantages(group, within_groups=within_groups, **numbers), grpo)


@edge("ScaleRL advantage", "Lite PPO advantage", "groups of one mean")
def test_both_deviations_of_the_batch_are_one_where_all_groups_have_one_mean(rewards):
    level = rewards - rewards.mean(1, keepdim=True) + 3
    numbers = {"correction": 0, "eps": 0.0}
    lite = batch_scaled_advantages(level, within_groups=False, **numbers)
    same(batch_scaled_advantages(level, within_groups=True, **numbers), lite)


@edge("optimal token baseline", "OPO", "one step", "energies as lengths")
def test_the_optimal_token_baseline_at_one_step_is_opo_with_energies_for_lengths():
    returns, energies = torch.rand(2, 12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(12, 1, dtype=torch.bool)
    tokens = optimal_token_advantages(returns, energies, mask, group_size=4)
    same(tokens.view(3, 4), length_weighted_advantages(returns.view(3, 4), energies.view(3, 4)))


@pytest.fixture
def pairs():
    """Log-probs of chosen and rejected, under the policy (with gradient) and under the reference."""
    g = torch.Generator().manual_seed(0)
    w, lo, ref_w, ref_lo = (-5 * torch.rand(4, 7, generator=g, dtype=torch.float64)).unbind()
    return w.requires_grad_(), lo.requires_grad_(), ref_w, ref_lo


def same_with_gradient(one, two, factor, pairs):
    """one = factor * two, in value and in the gradient of both sides' log-probs."""
    same(one.value, factor * two.value)
    for a, b in zip(*(torch.autograd.grad(x.value, pairs[:2], allow_unused=True) for x in (one, two)), strict=True):
        same(a, factor * b)


@edge("robust DPO", "DPO", "flip rate 0")
def test_robust_dpo_at_flip_rate_0_is_dpo(pairs):
    same_with_gradient(
        preference.robust_dpo_loss(*pairs, beta=0.3, flip_rate=0.0), dpo_loss(*pairs, beta=0.3), 1, pairs
    )


@edge("WPO", "DPO", "weights 1")
def test_wpo_with_weights_of_1_is_dpo(pairs):
    ones = torch.ones(7, dtype=torch.float64)
    same_with_gradient(preference.wpo_loss(*pairs, ones, beta=0.3), dpo_loss(*pairs, beta=0.3), 1, pairs)


@edge("TPO", "CPO", "gold = chosen", "CPO with a mean over tokens")
def test_tpo_whose_gold_completion_is_the_chosen_one_is_cpo(batch):
    log_probs, other, _, _, _, mask = batch
    masks = (mask, mask.flip(0))
    gold = {"gold_log_probs": log_probs, "gold_mask": mask}
    tpo = find("triple-po").loss(log_probs, other, *masks, **gold)
    cpo = find("cpo:objective.beta=0.01+sft.mean=token").loss(log_probs, other, *masks)
    same(tpo.value, cpo.value)
    same(gradient(tpo, log_probs), gradient(cpo, log_probs))


@edge("MPO", "DPO", "quality weight 0")
@edge("MPO", "BCO", "preference weight 0")
@pytest.mark.parametrize("preference_coef", [0.0, 1.0])
def test_mpo_with_one_of_its_two_weights_is_dpo_or_bco(batch, preference_coef):
    log_probs, old, other, values, _, _ = batch
    four = [x.sum(1) for x in (log_probs, old, other, values)]
    coefs = {"preference_coef": preference_coef, "quality_coef": 1 - preference_coef}
    found = preference.mpo_loss(*four, beta=0.3, reward_shift=0.4, **coefs)
    alone = dpo_loss(*four, beta=0.3) if preference_coef else preference.bco_loss(*four, beta=0.3, reward_shift=0.4)
    same(found.value, alone.value)
    same(gradient(found, log_probs), gradient(alone, log_probs))


@edge("RPO", "DPO", "SFT weight 0")
def test_rpo_with_an_sft_weight_of_0_is_dpo(batch):
    log_probs, old, other, values, _, mask = batch
    mask = mask | (torch.arange(5) == 0)
    pair = {"chosen_log_probs": log_probs, "rejected_log_probs": old, "chosen_mask": mask, "rejected_mask": mask}
    pair |= {"ref_chosen_log_probs": other, "ref_rejected_log_probs": values}
    row = find("rpo:sft.coef=0")
    sums = [sequence_log_probs(x, mask, average=False) for x in (log_probs, old, other, values)]
    found, alone = row.loss(**pair), dpo_loss(*sums, beta=row.objective.numbers["beta"])
    same(found.value, alone.value)
    same(gradient(found, log_probs), gradient(alone, log_probs))


@edge("LD-DPO", "DPO", "equal lengths")
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_ld_dpo_on_completions_of_equal_lengths_is_dpo(batch, alpha):
    """And at alpha 1 for any lengths."""
    log_probs, old, other, values, _, mask = batch
    x = torch.stack([log_probs, old]).detach().requires_grad_()
    masks = (mask, mask.flip(1) if alpha < 1 else mask.flip(0))  # as many tokens in each row, in other places
    tokens = ((x[0], *masks), (x[1], *masks[::-1]), (other, *masks), (values, *masks[::-1]))
    found = [
        dpo_loss(*(score(row, own, others) for row, own, others in tokens), beta=0.4)
        for score in (
            partial(preference.shared_length_log_probs, alpha=alpha),
            lambda row, own, _: sequence_log_probs(row, own, average=False),
        )
    ]
    same(found[0].value, found[1].value)
    same(gradient(found[0], x), gradient(found[1], x))


@edge("AOT", "DPO", "one pair")
def test_aot_of_one_pair_is_dpo(pairs):
    one = [x[:1] for x in pairs]
    for paired in (True, False):
        same(preference.aot_loss(*one, beta=0.3, paired=paired).value, dpo_loss(*one, beta=0.3).value)


@edge("SimPO", "DPO", "no margin", "uniform reference")
def test_simpo_without_a_margin_is_dpo_with_a_uniform_reference(pairs):
    uniform = torch.full((7,), -3.0, dtype=torch.float64)
    simpo = preference.simpo_loss(*pairs[:2], beta=2.0, gamma=0.0)
    same_with_gradient(simpo, dpo_loss(*pairs[:2], uniform, uniform, beta=2.0), 1, pairs)


@edge("ORPO", "DPO", "no SFT term, unlikely completions", "uniform reference, β = 1, times the odds weight")
def test_orpo_of_unlikely_completions_is_dpo_with_a_uniform_reference(pairs):
    unlikely = [x - 40 for x in pairs[:2]]  # 1 - p rounds to 1, and the odds are p
    orpo = preference.orpo_loss(*unlikely, odds_coef=0.2, sft_coef=0.0)
    uniform = torch.zeros(7, dtype=torch.float64)
    same_with_gradient(orpo, dpo_loss(*unlikely, uniform, uniform, beta=1.0), 0.2, pairs)


@edge("hinge", "SLiC", "uniform reference", "times β, margin δ / β")
def test_hinge_with_a_uniform_reference_is_slic(pairs):
    uniform = torch.full((7,), -3.0, dtype=torch.float64)
    hinge = preference.hinge_loss(*pairs[:2], uniform, uniform, beta=0.5, delta=1.0)
    slic = preference.hinge_loss(*pairs[:2], beta=1.0, delta=2.0)  # beta times SLiC at the margin 1 / beta
    same_with_gradient(hinge, slic, 0.5, pairs)


@edge("APO zero", "KTO", "reference point 0, weights 1", "times 2")
def test_apo_zero_is_twice_kto_at_reference_point_0(pairs):
    w, lo, ref_w, ref_lo = pairs
    desirable = torch.arange(14) < 7
    how = {"beta": 0.3, "reference_point": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    kto = preference.kto_loss(torch.cat([w, lo]), torch.cat([ref_w, ref_lo]), desirable, **how)
    same_with_gradient(preference.apo_zero_loss(*pairs, beta=0.3), kto, 2, pairs)


@edge("BCO", "DPO", "reward shift = the pair's mean", "twice the value at β / 2")
def test_bco_shifted_by_a_pairs_mean_reward_is_twice_dpo_at_half_beta(pairs):
    one = [x[:1] for x in pairs]
    shift = 0.3 * (one[0] - one[2] + one[1] - one[3])[0] / 2
    bco = preference.bco_loss(*one, beta=0.3, reward_shift=shift)
    same(bco.value, 2 * dpo_loss(*one, beta=0.15).value)


@edge("f-DPO", "DPO", "reverse KL")
def test_f_dpo_with_the_reverse_kl_is_dpo(pairs):
    kl = preference.f_dpo_loss(*pairs, beta=0.3, divergence="reverse-kl")
    same_with_gradient(kl, dpo_loss(*pairs, beta=0.3), 1, pairs)
    nearly = preference.f_dpo_loss(*pairs, beta=0.3, divergence="alpha", alpha=1e-14)
    same_with_gradient(nearly, dpo_loss(*pairs, beta=0.3), 1, pairs)


@edge("f-DPO, power 1", "f-DPO", "forward KL")
def test_f_dpo_at_alpha_1_is_the_forward_kl(pairs):
    alpha = preference.f_dpo_loss(*pairs, beta=0.3, divergence="alpha", alpha=1.0)
    same_with_gradient(alpha, preference.f_dpo_loss(*pairs, beta=0.3, divergence="forward-kl"), 1, pairs)


@edge("DPOP", "DPO", "chosen above the reference")
def test_dpop_where_the_chosen_completions_are_above_the_reference_is_dpo(pairs):
    w, lo, ref_w, ref_lo = pairs
    above = w.detach() - ref_w.abs()
    found = preference.dpop_loss(w, lo, above, ref_lo, beta=0.3, penalty_coef=5.0)
    same_with_gradient(found, dpo_loss(w, lo, above, ref_lo, beta=0.3), 1, pairs)
    free = preference.dpop_loss(*pairs, beta=0.3, penalty_coef=0.0)
    same_with_gradient(free, dpo_loss(*pairs, beta=0.3), 1, pairs)


@edge("XPO", "DPO", "optimism 0")
def test_xpo_without_optimism_is_dpo(pairs):
    tokens = [x[:, None] for x in pairs]
    masks = [torch.ones(7, 1, dtype=torch.bool)] * 2
    ref = {"ref_chosen_log_probs": tokens[2], "ref_rejected_log_probs": tokens[3]}
    which = torch.arange(7) % 2 == 0
    xpo = find("xpo:sft.coef=0").loss(*tokens[:2], *masks, **ref, chosen_is_from_reference=which)
    same_with_gradient(xpo, dpo_loss(*pairs, beta=0.1), 1, pairs)


@edge("AlphaPO", "SimPO", "power 0")
def test_alphapo_at_alpha_0_is_simpo(pairs):
    how = {"beta": 2.0, "gamma": 0.5}
    for alpha in (0.0, 1e-14):
        alphapo = preference.alphapo_loss(*pairs[:2], **how, alpha=alpha)
        same_with_gradient(alphapo, preference.simpo_loss(*pairs[:2], **how), 1, pairs)


@edge("AlphaPO", "f-DPO", "no margin, uniform reference", "same power")
def test_alphapo_without_a_margin_is_f_dpo_of_its_alpha_with_a_uniform_reference(pairs):
    zero = torch.zeros(7, dtype=torch.float64)
    alphapo = preference.alphapo_loss(*pairs[:2], beta=0.3, gamma=0.0, alpha=0.4)
    f_dpo = preference.f_dpo_loss(*pairs[:2], zero, zero, beta=0.3, divergence="alpha", alpha=0.4)
    same_with_gradient(alphapo, f_dpo, 1, pairs)


@edge("BCO, unpaired", "BCO", "as many good as bad")
def test_unpaired_bco_of_both_sides_of_pairs_is_bco(pairs):
    w, lo, ref_w, ref_lo = pairs
    desirable, how = torch.arange(14) < 7, {"beta": 0.3, "reward_shift": 0.4}
    unpaired = preference.bco_unpaired_loss(torch.cat([w, lo]), torch.cat([ref_w, ref_lo]), desirable, **how)
    same_with_gradient(unpaired, preference.bco_loss(*pairs, **how), 1, pairs)


@edge("hard SPPO", "IPO", "less its centring term", "half of it at β / 2")
def test_hard_sppo_is_half_of_ipo_at_half_beta_and_of_centred_log_ratios(pairs):
    w, lo, ref_w, ref_lo = pairs
    centred = ((w - ref_w) + (lo - ref_lo)).square().mean() / 2
    sppo = preference.sppo_loss(*pairs, beta=0.3)
    ipo = preference.ipo_loss(*pairs, beta=0.15)
    same_with_gradient(sppo._replace(value=sppo.value - centred), ipo, 0.5, pairs)


@edge("EXO", "DPO", "same label smoothing", "same minimum")
def test_exo_stops_at_the_margin_of_cdpo():
    zero = torch.zeros(1, dtype=torch.float64)
    stop = torch.tensor([0.8 / 0.2], dtype=torch.float64).log().requires_grad_()
    for loss in (preference.exo_loss, dpo_loss):
        value = loss(stop, zero, zero, zero, beta=1.0, label_smoothing=0.2).value
        same(torch.autograd.grad(value, stop)[0], zero)


@edge("SFT", "REINFORCE", "advantage 1")
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_sft_is_reinforce_with_advantage_1(batch, reduce):
    log_probs, _, _, _, advantages, mask = batch
    sft = preference.sft_loss(log_probs, mask, reduce=reduce)
    reinforce = reinforce_loss(log_probs, torch.ones_like(advantages), mask, reduce=reduce)
    same(sft.value, reinforce.value)
    same(gradient(sft, log_probs), gradient(reinforce, log_probs))


@edge("outcome model", "process model", "one label for all tokens")
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_an_outcome_reward_model_is_a_process_reward_model_with_one_label(batch, reduce):
    logits, _, _, _, labels, mask = batch
    outcome = preference.outcome_reward_loss(logits, labels, mask, reduce=reduce)
    process = preference.process_reward_loss(logits, labels[:, None].expand(6, 5), mask, reduce=reduce)
    same(outcome.value, process.value)
    same(gradient(outcome, logits), gradient(process, logits))


@edge("distillation", "REINFORCE", "log-ratio", "as reward")
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_distillation_is_reinforce_with_the_teachers_log_ratio_as_reward(batch, reduce, gamma):
    log_probs, _, teacher, _, _, mask = batch
    returns = discounted_returns(-kl_k1(log_probs, teacher, mask), mask, gamma=gamma)
    reinforce = reinforce_loss(log_probs, returns, mask, reduce=reduce)
    distill = distill_loss(log_probs, teacher, mask, reduce=reduce, gamma=gamma)
    same(distill.value, reinforce.value)
    same(gradient(distill, log_probs), gradient(reinforce, log_probs))


@pytest.fixture
def vocabularies():
    """Logits of a policy (with gradient) and of its teacher, two positions of seven tokens."""
    z, teacher = torch.randn(2, 1, 2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z.requires_grad_(), teacher


@edge("teacher advantages", "reverse KL", "discount 0, on average", "same gradient")
@edge("k2 in the loss", "reverse KL", "on average", "same gradient")
@edge("k3 in the loss", "forward KL", "on average", "same gradient")
def test_what_a_sampled_token_estimates(vocabularies):
    z, teacher = vocabularies
    log_p, log_q = (torch.log_softmax(x, -1)[0].T for x in (z, teacher))  # each token of the vocabulary is a sample
    weights, every = log_p.detach().exp(), torch.ones(7, 2, dtype=torch.bool)
    expect = lambda x, mask: (weights * x).sum()  # noqa: E731
    reverse, forward = kl_exact(z, teacher, temperature=1.0), jsd_exact(z, teacher, beta=0.0, temperature=1.0)
    for estimate, exact in (
        (distill_loss(log_p, log_q, every, reduce=expect, gamma=0.0).value, reverse),
        (expect(kl_k2(log_p, log_q, every), every), reverse),
        (expect(kl_k3(log_p, log_q, every), every), forward),
    ):
        same(*(torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (estimate, exact)))


@edge("JSD", "reverse KL", "β = 1", "by definition")
@edge("JSD", "forward KL", "β = 0", "by definition")
def test_jsd_has_the_two_kls_as_its_ends(vocabularies):
    z, teacher = vocabularies
    log_p, log_q = torch.log_softmax(z, -1), torch.log_softmax(teacher, -1)
    reverse, forward = (log_p.exp() * (log_p - log_q)).sum(-1), (log_q.exp() * (log_q - log_p)).sum(-1)
    same(jsd_exact(z, teacher, beta=1.0, temperature=1.0), reverse)
    same(jsd_exact(z, teacher, beta=0.0, temperature=1.0), forward)


@edge("top-k JSD", "JSD", "k = V")
@pytest.mark.parametrize("rest", ["tail", "renormalise", "drop"])
def test_jsd_of_every_token_is_jsd(vocabularies, rest):
    z, teacher = vocabularies
    for of in ("teacher", "policy"):
        top = jsd_top_k(z, teacher, k=7, of=of, rest=rest, beta=0.3, temperature=1.0)
        same(top, jsd_exact(z, teacher, beta=0.3, temperature=1.0))
