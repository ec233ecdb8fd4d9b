"""docs/pitfalls.md on packages that are pinned in requirements-frameworks.txt: each line, run.

A test bears the id of its line. Numbers are worked out by hand, or by plain torch beside them.
"""

import ast
import math
from importlib.metadata import files
from types import SimpleNamespace
from typing import Any

import cases_verl
import cases_verl_distill
import pytest
import torch
from batch import DistillBatch, leaf, value_and_grads
from torch import Tensor, tensor

from torchstone.frameworks.liger import functions as liger
from torchstone.frameworks.openrlhf import functions as openrlhf
from torchstone.frameworks.trl import functions as trl
from torchstone.frameworks.trl import load as trl_load
from torchstone.frameworks.verl import functions as verl

for framework in (trl, liger, verl, openrlhf):
    framework.FRAMEWORK.prepare()

TOKEN = torch.ones(2, 1, dtype=torch.bool)  # two completions of one token
ONES = torch.ones(2)
CLIP: dict[str, Any] = {"epsilon": 0.2, "epsilon_high": None}
LOSSES = openrlhf.module(openrlhf.LOSS)


def column(x: float, rows: int = 2) -> Tensor:
    """[rows 1], float32."""
    return torch.full((rows, 1), x)


def gradient(loss: Any, x: Tensor) -> tuple[float, Tensor]:
    value, gradients = value_and_grads(loss(x := leaf(x)), x=x)
    return float(value), gradients["x"]


@pytest.mark.parametrize(
    ("group_advantages", "expected"),
    [
        (openrlhf.group_advantages, 2**-24 / 1e-9),
        (verl.group_advantages, 2**-24 / (2**-24 * math.sqrt(8 / 7) + 1e-6)),
        (trl.group_advantages, 2**-24 / (2**-24 * math.sqrt(8 / 7) + 1e-4)),
    ],
)
def test_R03_C42_equal_rewards_get_an_advantage(group_advantages: Any, expected: float) -> None:
    rewards = torch.full((2, 8), 0.7)
    assert (rewards.mean(1) - rewards[:, 0]).tolist() == [-(2**-24)] * 2 and not rewards.std(1).any()
    found = group_advantages(rewards, True)
    assert found.flatten().tolist() == pytest.approx([expected] * found.numel(), rel=1e-4)


@pytest.mark.parametrize(("framework", "bounded"), [(trl, False), (liger, False), (openrlhf, True), (verl, True)])
def test_R04_a_clipped_token_with_a_log_ratio_of_89(framework: Any, bounded: bool) -> None:
    given: dict[str, Any] = {"old_log_probs": column(-90.0), "advantages": ONES, "mask": TOKEN, **CLIP}

    def loss(x: Tensor) -> Tensor:
        found = framework.dapo_loss(log_probs=x, **given)
        return found["loss"] if isinstance(found, dict) else found

    value, by_log_probs = gradient(loss, column(-1.0))
    assert value == pytest.approx(-1.2)  # -min(e^89 A, 1.2 A)
    assert by_log_probs.isnan().all() if not bounded else not by_log_probs.any()


@pytest.mark.parametrize("gap", (88.7, 88.8, 89.0, 200.0))
def test_R05_since_0_11_2_k3_far_from_the_reference_is_10_with_gradient_0(gap: float) -> None:
    value, by_log_probs = gradient(lambda x: openrlhf.kl("k3")(x, torch.zeros(1)).sum(), tensor([-gap]))
    assert value == 10 and by_log_probs.tolist() == [0]


@pytest.mark.parametrize("framework", (openrlhf, verl))
def test_R06_k3_is_cut_at_10_with_gradient_0(framework: Any) -> None:
    value, by_log_probs = gradient(lambda x: framework.kl("k3")(x, torch.zeros(1)).sum(), tensor([-3.0]))
    assert value == 10 and by_log_probs.tolist() == [0]
    k3, of_k3 = gradient(lambda x: (torch.exp(-x) - 1 + x).sum(), tensor([-3.0]))
    assert (k3, of_k3.item()) == pytest.approx((16.1, -19.1), abs=0.02)  # e^3 - 4 and 1 - e^3


@pytest.mark.parametrize("parts", (1, 2, 4))
def test_R07_since_0_7_1_the_norm_is_a_mean_over_rows(parts: int) -> None:
    losses = torch.ones(4, 3)
    found = [verl.core().agg_loss(x, torch.ones_like(x), "seq-mean-token-sum-norm") for x in losses.chunk(parts)]
    assert sum(found) / parts == 1.0


@pytest.mark.parametrize("parts", (1, 2))
def test_R08_since_0_8_0_a_micro_batch_divides_by_the_batchs_tokens(parts: int) -> None:
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 1:] = 0
    advantages, config, total = tensor([[-1.0], [0.0]]).expand(2, 9), verl.config(), 0.0
    for rows in torch.arange(2).chunk(parts):
        x = torch.full((len(rows), 9), -1.0)
        data = cases_verl.inputs(mask[rows], old_log_probs=x, advantages=advantages[rows])
        cases_verl.tensordict_utils.assign_non_tensor(data, batch_num_tokens=10, global_batch_size=2)
        total += float(cases_verl.losses.ppo_loss(config, {"log_probs": cases_verl.model_output(x)}, data)[0])
    assert total == pytest.approx(0.1)
    alone = [verl.token_mean(-advantages[rows], mask[rows]) for rows in torch.arange(2).chunk(parts)]
    assert float(sum(alone)) / parts == pytest.approx(0.1 if parts == 1 else 0.5)


GAP, LAST = tensor([[True, True, False, False, True, True]]), tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])


def test_R09_since_0_9_0_returns_pass_over_tool_output() -> None:
    assert verl.reinforce_plus_plus(LAST, GAP, 1.0).tolist() == [[1, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize(("framework", "steps"), [(verl, 2), (openrlhf, 4)])
def test_R10_gae_steps_over_tool_output_or_counts_it(framework: Any, steps: int) -> None:
    found = framework.gae(LAST, torch.zeros(1, 6), GAP, 0.9, 0.8)["advantages"]
    assert found[0, 1].item() == pytest.approx(0.72**steps) and found[0, 5] == 1


def test_R11_rloo_on_a_group_of_one() -> None:
    one = tensor([[0.7]])
    assert verl.rloo(one).tolist() == one.tolist() and verl.rloo_vectorized(one).tolist() == [[0]]


def refuses_groups_of_one(estimator: str, size: int) -> bool:
    """The check of OpenRLHF's command line, which stands under ``if __name__ == "__main__"``, on these arguments."""
    (path,) = [x for x in files("openrlhf") or () if str(x) == "openrlhf/cli/train_ppo_ray.py"]
    tree = ast.parse(path.read_text())
    checks = [x for x in ast.walk(tree) if isinstance(x, ast.If) and "requires n_samples_per_prompt" in ast.unparse(x)]
    rollout, advantage = SimpleNamespace(n_samples_per_prompt=size), SimpleNamespace(estimator=estimator)
    args = SimpleNamespace(rollout=rollout, algo=SimpleNamespace(advantage=advantage))
    innermost = min(checks, key=lambda x: len(ast.unparse(x)))
    try:
        exec(ast.unparse(innermost), {"args": args})
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("estimator", ("group_norm", "dr_grpo", "rloo"))
def test_R12_C43_a_group_of_one_is_nan_and_refused_by_the_command_line(estimator: str) -> None:
    assert openrlhf.group_advantages(tensor([[0.7], [0.2]]), True).isnan().all()
    assert refuses_groups_of_one(estimator, 1) and not refuses_groups_of_one(estimator, 2)


def test_R13_a_batch_without_a_chosen_token() -> None:
    nothing, x = torch.zeros(2, 3, dtype=torch.bool), -torch.ones(2, 3)
    for loss in (openrlhf.token_mean, openrlhf.sequence_mean):
        value, by_x = gradient(lambda x, loss=loss: loss(x, nothing), x)
        assert math.isnan(value) and by_x.isnan().all()
    for loss in (verl.token_mean, verl.sequence_mean, verl.sequence_sum):
        value, by_x = gradient(lambda x, loss=loss: loss(x, nothing.float()), x)
        assert math.isnan(value) and not by_x.any()


def test_R15_label_smoothing_is_not_used_by_dpos_default_loss() -> None:
    pairs = [tensor([x]) for x in (-1.0, -2.0, -1.5, -1.2)]
    found = trl._of_one_token(*pairs, loss_type="sigmoid", beta=1.0, label_smoothing=0.1)
    margin = (-1 + 1.5) - (-2 + 1.2)
    assert found.item() == pytest.approx(math.log1p(math.exp(-margin)))
    smoothed = 0.9 * math.log1p(math.exp(-margin)) + 0.1 * math.log1p(math.exp(margin))
    assert abs(found.item() - smoothed) > 0.1


def test_R16_ipo_by_the_mean_per_token_or_by_the_sum() -> None:
    chosen, rejected, zero = column(-1.0, 1).expand(1, 2), column(-2.0, 1).expand(1, 2), torch.zeros(1, 2)
    mask = torch.ones(2, 2, dtype=torch.bool)
    by_mean = trl.dpo(chosen, rejected, zero, zero, mask=mask, loss_type=("ipo",), beta=0.5)
    by_sum = LOSSES.DPOLoss(0.5, 0.0, True)(*(x.sum(1) for x in (chosen, rejected, zero, zero)))[0]
    assert by_mean == (1 - 1) ** 2 and by_sum == (2 - 1) ** 2  # (margin - 1 / (2 beta))^2


def cispo(framework: Any, x: Tensor, old: Tensor) -> Tensor:
    if framework is verl:
        bounds = {"clip_ratio": 0.2, "clip_ratio_low": 1.0, "clip_ratio_high": 2.0}
        return verl._loss("cispo", "token-mean", x, old, ONES, TOKEN, **bounds)
    found = framework.policy_loss(x, old, ONES, TOKEN, loss_type="cispo", epsilon_high=2.0, beta=0.0)
    return found["loss"] if framework is trl else found


@pytest.mark.parametrize(("framework", "cap"), [(trl, 2.0), (liger, 2.0), (verl, 3.0)])
def test_R17_cispos_epsilon_high_is_the_cap_or_its_distance_from_1(framework: Any, cap: float) -> None:
    x = column(-1.0)
    value, by_x = gradient(lambda x: cispo(framework, x, column(-1.0) - math.log(5)), x)
    assert value == pytest.approx(cap) and by_x.flatten().tolist() == pytest.approx([-cap / 2] * 2)


def test_R18_the_clip_is_a_dual_clip_at_3() -> None:
    x = column(-1.0)
    value, by_x = gradient(lambda x: verl._loss("vanilla", "token-mean", x, x.detach() - math.log(5), -ONES, TOKEN), x)
    assert value == 3 and not by_x.any()


@pytest.mark.parametrize(("framework", "expected"), [(trl, 1.4997), (verl, 1.499997), (openrlhf, 1.5)])
def test_R19_the_advantage_of_one_right_in_four(framework: Any, expected: float) -> None:
    rewards = tensor([[1.0, 0, 0, 0]], dtype=torch.float64).expand(2, 4)
    assert framework.group_advantages(rewards, True).flatten()[0].item() == pytest.approx(expected, abs=1e-7)


def test_R20_logexp_overflows_and_does_not_read_the_margin() -> None:
    zero = tensor([0.0])
    assert openrlhf.log_exp(tensor([-88.0]), zero).isfinite() and openrlhf.log_exp(tensor([-89.0]), zero) == math.inf
    assert openrlhf.log_exp(zero, zero, margin=tensor([5.0])).item() == pytest.approx(math.log(2))


def orpo(framework: Any, chosen: Tensor) -> Tensor:
    rejected = tensor([-1.0])
    if framework is liger:
        return liger.preference_loss("ORPO", chosen, rejected)
    return trl_load.preference_trainer("ORPO", trl_load.Tables()).odds_ratio_loss(chosen, rejected)[0].sum()


@pytest.mark.parametrize("framework", (trl, liger))
def test_R21_orpo_at_log_prob_0(framework: Any) -> None:
    assert gradient(lambda x: orpo(framework, x), tensor([0.0]))[1].isnan().all()
    assert gradient(lambda x: orpo(framework, x), tensor([-0.1]))[1].isfinite().all()


def corrected(level: str, mode: str, weights: list[float]) -> float:
    """OpenRLHF's loss of one row with advantage 1 and ratio 1: minus the mean of the tokens' weights."""
    old, mask = torch.full((1, len(weights)), -9.0), torch.ones(1, len(weights))
    how = {"is_correction_level": level, "is_correction_mode": mode, "is_correction_threshold": [0.5, 5.0]}
    return -float(LOSSES.PolicyLoss(**how)(old, old, mask, mask, rollout_log_probs=old - tensor([weights]).log())[0])


def test_R23_since_0_11_2_clip_clamps_and_mask_keeps_the_whole_weight() -> None:
    assert corrected("token", "clip", [100.0, 0.1]) == pytest.approx((5 + 0.5) / 2)
    assert corrected("seq", "mask", [100.0, 0.1, 0.5, 0.5]) == pytest.approx((100 + 0.1 + 0.5 + 0.5) / 4)
    assert corrected("seq", "mask", [100.0, 1.0]) == 0.0  # the geometric mean is 10


# ----------------------------------------------------------------- what lines on threads say of the pinned release


def policy(mask: list[list[int]], ratio: float = 1.0, **knobs: Any) -> float:
    """TRL's loss of completions with advantage 1 and this ratio, so minus the weight of the tokens; beta is 0."""
    chosen = tensor(mask).bool()
    x = torch.full(chosen.shape, -1.0)
    knobs = {"beta": 0.0, **knobs}
    return -float(trl.policy_loss(x, x - math.log(ratio), torch.ones(len(mask)), chosen, **knobs)["loss"])


def test_C06_tool_output_is_not_in_the_denominator() -> None:
    mask = [[1, 0, 1, 1], [1, 0, 0, 0]]
    assert policy(mask) == pytest.approx(1) and policy(mask, loss_type="grpo") == pytest.approx(1)


def test_C07_the_sum_in_each_row_is_not_divided_by_the_length() -> None:
    assert verl.sequence_sum(torch.ones(2, 4), tensor([[1, 1, 1, 0], [1, 0, 0, 0]])) == (3 + 1) / 2


def test_C08_dr_grpo_divides_by_the_rows_and_by_the_configured_length() -> None:
    found = policy([[1, 1, 1], [1, 0, 0]], loss_type="dr_grpo", max_completion_length=512)
    assert found == pytest.approx((3 + 1) / (2 * 512))


def test_C17_a_ratio_out_of_range_counts_only_where_the_clip_acts() -> None:
    x = column(-1.0)
    found = trl.policy_loss(x, x - math.log(5), tensor([1.0, -1.0]), TOKEN, beta=0.0)
    assert found["clip_ratio/high_mean"] == 0.5 and found["clip_ratio/low_mean"] == 0


def test_C25_with_the_default_loss_type_gspo_weighs_a_completion_by_its_length() -> None:
    """Lengths 3 and 1, advantages 1 and -1: 0 if a completion counts once, 2/4 if once for each token."""
    mask, x = tensor([[1, 1, 1], [1, 0, 0]]).bool(), torch.full((2, 3), -1.0)
    how: dict[str, Any] = {"importance_sampling_level": "sequence", "beta": 0.0}
    loss = {kind: trl.policy_loss(x, x, tensor([1.0, -1.0]), mask, loss_type=kind, **how) for kind in ("dapo", "grpo")}
    assert loss["dapo"]["loss"] == -0.5 and loss["grpo"]["loss"] == 0
    advantages = tensor([[1.0], [-1.0]]).expand(2, 3)
    assert LOSSES.PolicyLoss(policy_loss_type="gspo")(x, x, advantages, mask)[0] == 0


def test_C30_the_kl_is_added() -> None:
    config = verl.config(use_kl_loss=True, kl_loss_coef=0.5, kl_loss_type="k2")
    x = column(-1.0)
    data = cases_verl.inputs(TOKEN.long(), old_log_probs=x, advantages=column(0.0), ref_log_prob=x - 2)
    assert cases_verl.losses.ppo_loss(config, {"log_probs": cases_verl.model_output(x)}, data)[0] == 0.5 * 2**2 / 2


def test_C33_by_default_the_kl_is_times_the_ratio() -> None:
    """On policy the gradient by log pi is then log pi - log pi_ref, as k2's; without, k3's 1 - exp(-that)."""
    x, knobs = column(-1.0), {"ref": column(-1.5), "beta": 1.0}
    given = (x.detach(), torch.zeros(2), TOKEN)
    _, default = gradient(lambda x: trl.policy_loss(x, *given, **knobs)["loss"], x)
    _, plain = gradient(lambda x: trl.policy_loss(x, *given, **knobs, use_bias_correction_kl=False)["loss"], x)
    assert default.sum().item() == pytest.approx(0.5) and plain.sum().item() == pytest.approx(1 - math.exp(-0.5))


def test_C35_the_reported_kl_is_the_mean_of_minus_the_log_ratio() -> None:
    found = LOSSES.PolicyLoss()(column(-1.0), column(-0.5), column(1.0), TOKEN)
    assert found[2] == 0.5


def test_C40_group_scales_and_none_does_not() -> None:
    rewards = tensor([[0.0, 4.0], [0.0, 4.0]])
    assert trl.group_advantages(rewards, False).tolist() == [-2, 2, -2, 2]
    scaled = 2 / (math.sqrt(8) + 1e-4)
    assert trl.group_advantages(rewards, True).tolist() == pytest.approx([-scaled, scaled] * 2)


def test_C45_whitened_advantages_are_masked_again() -> None:
    mask = tensor([[1.0, 1, 0], [1, 0, 0]])
    rewards = tensor([[0.0, 1, 0], [3, 0, 0]])
    found = verl.core().compute_reinforce_plus_plus_outcome_advantage(rewards, mask, SimpleNamespace(gamma=1.0))[0]
    assert (found[mask == 0] == 0).all() and found[mask == 1].sum().abs() < 1e-6 and found.any()


def test_C60_nan_under_the_mask_is_left_out_of_the_token_mean_alone() -> None:
    x, mask = tensor([[1.0, math.nan], [3.0, 5.0]]), tensor([[1.0, 0], [1, 1]])
    assert verl.token_mean(x, mask) == 3
    assert verl.sequence_mean(x, mask).isnan() and verl.sequence_sum(x, mask).isnan()


@pytest.mark.parametrize("kind", ("DPO", "SimPO", "ORPO", "CPO"))
def test_C76_a_likelier_chosen_completion_lowers_every_loss(kind: str) -> None:
    of_dpo = {"ref_chosen_logps": tensor([-1.0]), "ref_rejected_logps": tensor([-1.0])} if kind == "DPO" else {}
    loss = lambda c, r: float(liger.preference_loss(kind, tensor([c]), tensor([r]), **of_dpo))  # noqa: E731
    assert loss(-0.5, -1.0) < loss(-1.0, -1.0) < loss(-1.0, -0.5)


def test_C79_the_margin_is_inside_the_log_sigmoid_and_the_centring_term_beside_it() -> None:
    chosen, rejected, margin = tensor([2.0]), tensor([0.5]), tensor([1.0])
    found = trl.bradley_terry_loss(chosen, rejected, 0.0, margin).item()
    assert found == pytest.approx(math.log1p(math.exp(-(2 - 0.5 - 1))))
    centred = trl.bradley_terry_loss(chosen, rejected, 0.01, margin).item()
    assert centred - found == pytest.approx(0.01 * (2 + 0.5) ** 2)


@pytest.mark.parametrize(
    ("p", "value", "slope"), [(0.3, 0.6 * math.log(2), 0.6 * 0.7), (0.9, 0.0, 0.0)], ids=["less sure", "surer"]
)
def test_C80_on_the_teachers_likeliest_token_a_term_below_0_has_no_gradient(
    p: float, value: float, slope: float
) -> None:
    """The teacher finds the token 3/5 likely, the policy p. The term is 3/5 log(3/5 / p): 3/5 log 2/3 for p = 9/10."""
    policy, teacher = (torch.tensor([[[x, 1 - x]]], dtype=torch.float64).log() for x in (p, 0.6))
    none, token = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    batch = DistillBatch(policy, teacher, none.long(), token, none, none, none[0])
    found = cases_verl_distill.distill(batch, "yaml", loss_mode="forward_kl_topk", topk=1)
    assert float(found.value) == pytest.approx(value)
    assert found.gradients["logits"].flatten().tolist() == pytest.approx([-slope, slope])
