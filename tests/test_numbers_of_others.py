"""Numbers that stand in other projects' own tests, or follow from the formula and inputs that stand there.

Each row cites the file and lines at the commit read (listed in docs/sources.md).
"""

import math
from functools import partial

import pytest
import torch
from torch import nan, tensor

from torchstone import core
from torchstone.dpo import dpo_loss, sequence_log_probs
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.ppo import clipped_surrogate, gae, ppo_loss, shaped_rewards
from torchstone.reinforce import discounted_returns, leave_one_out_advantages

f64 = torch.float64
close = partial(torch.testing.assert_close, rtol=1e-5, atol=2e-6)


def matrix(*rows):
    """Rows of any length, padded with nan, and the mask of what was given."""
    width = max(map(len, rows))
    x = tensor([[*row, *[nan] * (width - len(row))] for row in rows], dtype=f64)
    return x, ~x.isnan()


def bools(*rows):
    return tensor(rows).bool()


def test_tianshou_episodic_returns():  # tianshou test/base/test_returns.py:29-46
    rewards, mask = matrix([0], [1, 2, 3], [4, 5], [6, 7])
    expected, _ = matrix([0], [1.23, 2.3, 3], [4.5, 5], [6.7, 7])
    close(discounted_returns(rewards, mask, gamma=0.1), expected.nan_to_num())


def test_tianshou_gae_returns():  # tianshou test/base/test_returns.py:78-107 (it passes the next state's values)
    rewards, mask = matrix([101, 102, 103, 200], [104, 105, 106, 201], [107, 108, 109, 202])
    values, _ = matrix([0, 2, 3, 4], [0, 5, 6, 7], [0, 8, 9, 10])
    expected = [
        [454.8344, 376.1143, 291.298, 200],
        [464.5610, 383.1085, 295.387, 201],
        [474.2876, 390.1027, 299.476, 202],
    ]
    close(gae(rewards, values, mask, gamma=0.99, lam=0.95)[1], tensor(expected, dtype=f64))


def test_tianshou_issue_869_nothing_is_bootstrapped_after_the_end():
    rewards, mask = matrix([1, 1, 1])
    advantages, returns = gae(rewards, 2 * rewards, mask, gamma=0.9, lam=0.9)
    close(advantages, tensor([[0.7919, -0.01, -1]], dtype=f64))
    close(returns, tensor([[2.7919, 1.99, 1]], dtype=f64))


def test_torchtune_gae_and_whitening():  # torchtune tests/torchtune/rlhf/test_rewards.py:161-237
    rewards, mask = matrix([0, 0, 0, 1])
    advantages, returns = gae(rewards, rewards, mask, gamma=0.9, lam=0.95)
    close(returns, tensor([[0.6579225, 0.7695, 0.9, 1]], dtype=f64))
    whiten = partial(core.masked_whiten, correction=1, eps=1e-8)
    close(whiten(advantages, mask), tensor([[0.1900151525, 0.4687358924, 0.7947250620, -1.4534761070]], dtype=f64))
    three = bools([1, 1, 1, 0])
    close(whiten(advantages, three), tensor([[-0.9729536599, -0.0520584062, 1.0250120661, 0]], dtype=f64))
    kept = tensor([[-0.1971461599, 0.7237490938, 1.8008195661, 0]], dtype=f64)
    close(whiten(advantages, three, keep_mean=True), kept)  # torchtune's shift_mean=True


def test_verl_gae_steps_over_tool_output():  # verl tests/trainer/ppo/test_core_algos_on_cpu.py:143-197
    rewards = tensor([[0, 0, 0.1, 0.1, 0.1, 0, 0, 0.1, 1, 0, 0]], dtype=f64)
    mask = bools([0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0])
    values = torch.full_like(rewards, 1e6).masked_scatter(mask, tensor([4, 5, 6, 7, 9], dtype=f64))
    for discount, advantages in (
        (1.0, [-2.6, -3.7, -4.8, -5.9, -8]),
        (0.9, [-1.538568, -2.640208, -3.8768, -5.28, -8]),
    ):
        close(gae(rewards, values, mask, gamma=discount, lam=discount)[0][mask], tensor(advantages, dtype=f64))


@pytest.mark.parametrize(("steps", "value", "reward"), [(6, 1, 10), (7, 2, 20), (13, 3, 30)])
def test_open_instruct_one_reward_at_the_end(steps, value, reward):  # open_instruct/test_rl_utils.py:160-200
    rewards, mask = matrix([0] * (steps - 1) + [reward])
    advantages, returns = gae(rewards, torch.full_like(rewards, value), mask, gamma=1.0, lam=1.0)
    assert (advantages == reward - value).all() and (returns == reward).all()


def test_masked_means():
    x, _ = matrix([1, 2, 3, 4, 5])  # torchtune tests/torchtune/rlhf/test_rewards.py:123-157
    whitened = core.masked_whiten(x, bools([1, 1, 1, 0, 0]), correction=1, eps=1e-8)
    close(whitened, tensor([[-1.0, 0, 1, 0, 0]], dtype=f64))
    x, _ = matrix([1, 2, nan, 4])  # verl tests/utils/test_torch_functional.py:60-71
    assert core.token_mean(x, bools([1, 0, 0, 1])) == 2.5
    x, mask = matrix([1, 2, 3], [4, 5, 6])[0], bools([1, 1, 0], [1, 0, 0])  # open_instruct/test_rl_utils.py:341-353
    assert core.sequence_mean(x, mask) == 2.75 and core.token_mean(x, mask).item() == pytest.approx(7 / 3)
    x, mask = matrix([1, 3, 9], [2, 4, 0], [8, 0, 0])[0], bools([1, 1, 0], [1, 1, 0], [1, 0, 0])
    assert core.sequence_mean(x, mask).item() == pytest.approx(13 / 3)  # OpenRLHF tests/test_loss_aggregation.py:63-85
    x, mask = matrix([1, 3], [5, 7])[0], bools([1, 1], [0, 0])
    assert core.sequence_mean(x, mask) == 2  # OpenRLHF tests/test_loss_aggregation.py:88-96: empty rows do not count


def test_openrlhf_micro_batches():  # OpenRLHF tests/test_loss_aggregation.py:166-208
    parts = [matrix([1, 2]), matrix([3, 4, 5], [6, 7])]
    assert sum(core.token_mean(x, mask, denominator=7) for x, mask in parts) == 4


def test_openrlhf_policy_loss():  # OpenRLHF tests/test_loss_aggregation.py:99-126 and 283-291
    log_probs = tensor([[-0.2, -0.4, -0.1], [-0.7, -0.3, -0.2], [-0.6, -0.1, -0.5]], dtype=f64)
    moved = tensor([[0.03, -0.04, 0.01], [0.02, 0.05, -0.03], [0.04, 0.0, -0.02]], dtype=f64)
    advantages = tensor([[1, -0.5, 0], [0.3, -1.2, 0.5], [1.5, 0, -0.7]], dtype=f64)
    mask = bools([1, 1, 0], [1, 1, 1], [1, 0, 1])
    loss = ppo_loss(log_probs, log_probs - moved, advantages, mask, reduce=core.token_mean, epsilon=0.2)
    close(loss.value, tensor(-0.1364135, dtype=f64))
    log_probs = torch.full((2, 2), -0.6931, requires_grad=True)
    advantages, mask = tensor([[2.0, 2], [1, 0]]), bools([1, 1], [1, 0])
    how = {"reduce": core.sequence_mean, "epsilon": 0.2, "beta": 0.0}
    loss = grpo_loss(log_probs, log_probs.detach(), advantages, mask, **how)
    loss.value.backward()
    assert loss.value == -1.5 and log_probs.grad.tolist() == [[-0.5, -0.5], [-0.5, 0]]


def test_open_instruct_clip():  # open_instruct/test_olmo_core_train_modules.py:200-239
    ratios, mask = matrix([1.5, 0.5, 1.0])
    one = torch.ones(1, dtype=f64)
    surrogate = clipped_surrogate(ratios.log(), torch.zeros_like(ratios), one, mask, epsilon=0.2)
    close(surrogate, tensor([[-1.2, -0.5, -1.0]], dtype=f64))


def test_torchtune_kl_in_the_reward():  # torchtune tests/torchtune/rlhf/test_rewards.py:12-80
    log_probs, mask = matrix([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8])
    ref, _ = matrix([0.2, 0.3, 0.4], [0.6, 0.7, 0.8], [0.9, 1.0, 1.1])
    rewards = shaped_rewards(tensor([1, 2, 3], dtype=f64), log_probs, ref, mask, beta=0.5)
    close(rewards, tensor([[0.05, 0.05, 1.05], [0.1, 0.1, 2.1], [0.15, 0.15, 3.15]], dtype=f64))


def test_kl_estimators():
    log_probs, mask = matrix([-1, -2, -0.3])  # torchrl test/llm/test_llm_objectives.py:1187-1192
    ref, _ = matrix([-0.5, -2.5, -0.1])
    close(core.kl_k3(log_probs, ref, mask), tensor([[0.1487212707, 0.1065306597, 0.0214027582]], dtype=f64))
    log_probs, mask = matrix([-1e-4, -1e-6, -1])  # rlhf-book code/tests/test_kl3_stability.py:22-59, arguments swapped
    k3 = core.kl_k3(log_probs.float(), torch.zeros(1, 3), mask)
    close(k3.double(), tensor([[5e-9, 5e-13, math.e - 2]], dtype=f64), rtol=0.05, atol=1e-12)


def test_group_advantages():
    rewards = tensor(
        [[0.0, 0, 0, 1], [1, 1, 1, 1.0078125]], dtype=torch.bfloat16
    )  # OpenRLHF tests/test_reward_shaping.py
    d = tensor([[1.0], [0.0078125]])
    close(leave_one_out_advantages(rewards), d * tensor([[-1 / 3, -1 / 3, -1 / 3, 1]]))
    group = partial(group_advantages, correction=1, eps=1e-9)
    close(group(rewards, divide_by_std=False), d * tensor([[-0.25, -0.25, -0.25, 0.75]]))
    close(group(rewards, divide_by_std=True), tensor([[-0.5, -0.5, -0.5, 1.5]]).expand(2, 4))
    scored = tensor([[1, 2, 3, nan]], dtype=f64)  # TRL tests/test_utils.py:316-331: the deviation without NaN is 1
    advantages = group_advantages(scored, divide_by_std=True, correction=1, eps=0.0, scored=~scored.isnan())
    assert advantages.tolist() == [[-1, 0, 1, 0]]
    pair = group_advantages(tensor([[1.0, 3.0]]), divide_by_std=True, correction=0, eps=0.0)
    assert pair.tolist() == [[-1, 1]]  # TRL tests/experimental/test_async_grpo_trainer.py:691-694


def test_torchtune_dpo():  # torchtune tests/torchtune/rlhf/loss/test_dpo_loss.py:33-80
    chosen, rejected = tensor([-0.5, -10, -1], dtype=f64), tensor([-0.1, -30, -21], dtype=f64)
    ref_chosen, ref_rejected = tensor([-0.5, -10.1, -0.1], dtype=f64), tensor([-0.1, -20.1, -0.1], dtype=f64)
    pairs = (chosen, rejected, ref_chosen, ref_rejected)
    each = [dpo_loss(*(x[[n]] for x in pairs), beta=0.1).value.item() for n in range(3)]
    assert each == pytest.approx([0.6931472, 0.3132617, 0.1269280], abs=1e-6)
    assert dpo_loss(*pairs, beta=0.1).value.item() == pytest.approx(0.3777790, abs=1e-6)


def test_open_instruct_sequence_log_probs():  # open_instruct/test_dpo_utils.py:44-110
    log_probs, mask = matrix([-1, -2, -3], [nan, nan, nan])
    assert sequence_log_probs(log_probs, mask, average=True).tolist() == [-2.0, 0.0]
    one = lambda x: tensor([x], dtype=f64)  # noqa: E731
    right = dpo_loss(one(0), one(-5), one(-1), one(-1), beta=0.1).value.item()
    wrong = dpo_loss(one(-5), one(0), one(-1), one(-1), beta=0.1).value.item()
    assert (right, wrong) == pytest.approx((0.4740770, 0.9740770), abs=1e-6)
