"""What the rows of verl, OpenRLHF and SkyRL say beside their numbers, and OpenRLHF's reward model losses."""

import inspect
import math
from typing import Any

import cases_openrlhf
import cases_skyrl
import cases_verl
import pytest
import torch
from batch import leaf, policy_batch, preference_batch, value_and_grads
from cases import BATCHES
from test_dialects import SEEDS, differs, far, per_token, run
from torch import Tensor

from torchstone.core import sequence_mean
from torchstone.dpo import bradley_terry_loss
from torchstone.frameworks.loading import casts_to_float64
from torchstone.frameworks.openrlhf import functions as openrlhf
from torchstone.frameworks.verl import functions as verl
from torchstone.ppo import clipped_value_error
from torchstone.recipes import RECIPES
from torchstone.recipes.choices import Choice


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss,with_margin", [("pairwise", False), ("pairwise", True), ("log_exp", False)])
def test_bradley_terry_is_openrlhfs_reward_loss(seed: int, loss: str, with_margin: bool) -> None:
    batch = preference_batch(seed)
    margin = batch.margins if with_margin else None
    leaves = {name: leaf(getattr(batch, name)) for name in ("chosen_rewards", "rejected_rewards")}
    value, gradients = value_and_grads(getattr(openrlhf, loss)(**leaves, margin=margin), **leaves)
    mine, mine_gradients = value_and_grads(bradley_terry_loss(**leaves, margin=margin).value, **leaves)
    assert not far(mine, value, 1e-10)
    assert not any(far(mine_gradients[name], theirs, 1e-10) for name, theirs in gradients.items())


def test_logexp_does_not_read_the_margin() -> None:
    batch = preference_batch(0)
    rewards = (batch.chosen_rewards, batch.rejected_rewards)
    assert openrlhf.log_exp(*rewards, margin=batch.margins) == openrlhf.log_exp(*rewards)


@pytest.mark.parametrize("gating", ("binary_kl", "tv"))
def test_openrlhf_can_drop_tokens_and_rows_by_the_binary_kl_or_tv_to_the_engine(gating: str) -> None:
    """Engine 0.5, trainer 0.7 and 0.5: the first token is 0.2 away, or 0.5 log(0.5 / 0.7) + 0.5 log(0.5 / 0.3) nats."""
    engine, trainer = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.7, 0.5]]).log()
    distance = 0.2 if gating == "tv" else 0.5 * math.log(25 / 21)
    ones = torch.ones(1, 2)
    for level, first in (("token", distance), ("seq", distance / 2)):
        for factor in (0.99, 1.01):
            how = {"is_correction_threshold": (0.0, factor * first), "is_correction_gating": gating}
            loss = openrlhf.module(openrlhf.LOSS).PolicyLoss(is_correction_level=level, **how)
            found = float(loss(trainer, trainer, ones, ones, rollout_log_probs=engine)[0])
            kept = {0.99: 1.0 if level == "token" else 0.0, 1.01: 1.4 + 1.0}[factor]
            assert found == pytest.approx(-kept / 2)


FLOAT32 = [name for name, case in cases_verl.CASES.items() if 1e-10 < case.rtol <= 1e-6]  # beyond it, float32 rewards


@pytest.fixture
def float64_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl's own masked_var, whose n / (n - 1) is a quotient of integers, and so float32, in float64."""
    functions = cases_verl.core_algos.verl_F
    source, factor = inspect.getsource(functions.masked_var), "mask_sum / (mask_sum - 1)"
    assert source.count(factor) == 1
    names = dict(vars(functions))
    exec(source.replace(factor, "mask_sum.double() / (mask_sum - 1)"), names)
    monkeypatch.setattr(functions, "masked_var", names["masked_var"])


@pytest.mark.usefixtures("float64_counts")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FLOAT32)
def test_but_for_a_float32_factor_verls_whitening_is_the_rows(name: str, seed: int) -> None:
    for kind in cases_verl.CASES[name].batches:
        batch = BATCHES[kind](seed)
        expected = cases_verl.CASES[name].run(batch)
        assert differs(run(RECIPES[name], batch, expected.given), expected, batch.mask, 1e-10) == []


def discounted(name: str, gaps: bool) -> tuple[Tensor, Tensor]:
    """Advantages of a row, and of its framework, with gamma 0.9 and lambda 0.8."""
    batch = policy_batch(0, gaps=gaps)
    row = RECIPES[name].but(advantage=Choice("critic", gamma=0.9, lam=0.8))
    known = {"old_log_probs": batch.old_log_probs, "ref_log_probs": batch.ref_log_probs, "values": batch.old_values}
    given = {name: known[name] for name in row.takes("advantages")}
    mine = row.advantages(batch.rewards, batch.mask, **given).advantages
    if "verl" in name:
        theirs, _ = cases_verl.advantages(batch, "gae", gamma=0.9, lam=0.8)
    else:
        theirs, _ = cases_openrlhf.estimated(batch, "gae", advantage={"gamma": 0.9, "lambd": 0.8})
    return mine, per_token(theirs, batch.mask)


@pytest.mark.parametrize("name", ("ppo@verl-0.9.1", "ppo@openrlhf-0.11.2"))
@pytest.mark.parametrize("gaps", (False, True))
def test_below_1_tool_output_is_a_step_in_openrlhf_and_in_verl_is_not(name: str, gaps: bool) -> None:
    mine, theirs = discounted(name, gaps)
    assert far(mine, theirs, 1e-7) == (gaps and "openrlhf" in name)


@pytest.mark.parametrize("framework", (openrlhf, verl))
def test_k3_is_cut_at_10_with_gradient_0(framework: Any) -> None:
    log_probs = leaf(policy_batch(0).log_probs)
    with casts_to_float64():
        kl = framework.kl("k3")(log_probs, log_probs.detach() + 3)
    _, gradients = value_and_grads(kl.sum(), log_probs=log_probs)
    assert (kl == 10).all() and not gradients["log_probs"].any()


@pytest.mark.parametrize("kind", ("prefix", "gaps", "empty"))
def test_skyrls_critic_learns_by_a_mean_over_completions(kind: str) -> None:
    batch, config = BATCHES[kind](0), cases_skyrl.settings()
    data = cases_skyrl.rollout(batch)
    data["returns"] = cases_skyrl.aligned(batch.returns, batch)
    with cases_skyrl.on_a_cpu_in_float64():
        value, gradients = cases_skyrl.value_loss(batch, data, config)
    values = leaf(batch.values)
    errors = clipped_value_error(values, batch.old_values, batch.returns, batch.mask, epsilon=0.2)
    mean = sequence_mean(errors, batch.mask, denominator=len(batch.mask))
    mine, mine_gradients = value_and_grads(mean, values=values)
    assert not far(mine, value, 1e-10) and not far(mine_gradients["values"], gradients["values"], 1e-10)


def test_skyrls_clip_cov_drops_tokens_where_its_bounds_are_divided_by_the_batchs_tokens_too() -> None:
    """All tokens between 1 and 5, so that none has to be drawn."""
    batch = BATCHES["long"](0)
    n = int(batch.mask.sum())
    bounds = {"clip_ratio": 1.0, "clip_cov_lb": 1.0 / n, "clip_cov_ub": 5.0 / n}
    found = cases_skyrl.policy(batch, policy_loss_type="clip_cov", clip_cov=bounds)
    numbers = {"share": 1.0, "low": 1.0, "high": 5.0, "least": 1, "epsilon": 0.2}
    row = RECIPES["clip-cov@skyrl-0.3.0"].but(tokens=Choice("clip-cov", **numbers))
    weights = row.token_weights(batch.log_probs, found.advantages, batch.mask, old_log_probs=batch.old_log_probs,
                                draws=batch.draws)  # fmt: skip
    assert 0 < int((batch.mask & (weights == 0)).sum()) < n
    assert differs(run(row, batch, found.given), found, batch.mask, 1e-10) == []


def test_skyrls_kl_cov_has_a_penalty_that_grows_with_the_batchs_tokens() -> None:
    batch = BATCHES["gaps"](0)
    found = cases_skyrl.policy(batch, policy_loss_type="kl_cov")
    tokens = Choice("kl-cov", share=0.2, coef=1.0 * int(batch.mask.sum()), least=1)
    row = RECIPES["importance-sampling@skyrl-0.3.0"].but(tokens=tokens)
    assert differs(run(row, batch, found.given), found, batch.mask, 1e-10) == []


def test_skyrls_rollout_is_drops_tokens_on_both_sides_whatever_the_advantage() -> None:
    batch = BATCHES["prefix"](0)
    ratios = (batch.log_probs - batch.sampler_log_probs).exp()
    kept = batch.mask & (ratios > 0.8) & (ratios < 1.2)
    found = cases_skyrl.policy(batch, policy_loss_type="rollout_is")
    assert 0 < int(kept.sum()) < int(batch.mask.sum())
    mine = -(ratios * found.advantages * kept) / batch.mask.sum()
    assert not far(mine, found.gradients["log_probs"], 1e-10)


def test_skyrls_outlier_mask_drops_a_completion_for_a_single_token() -> None:
    batch = BATCHES["gaps"](0)
    ratios = (batch.old_log_probs - batch.sampler_log_probs).exp()
    kept = ~(batch.mask & ((ratios > 3.0) | (ratios < 0.25))).any(1, keepdim=True)
    bounds = {"outlier_token_is_threshold_low": 0.25, "outlier_token_is_threshold_high": 3.0}
    found = cases_skyrl.policy(batch, off_policy_correction=bounds)
    plain = cases_skyrl.policy(batch)
    assert 0 < int(kept.sum()) < len(kept)
    assert not far(plain.gradients["log_probs"] * kept, found.gradients["log_probs"], 1e-10)
