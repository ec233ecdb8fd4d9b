"""The checker on functions written as people write them: right ones pass, wrong ones are named."""

import time

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchstone import conformance
from torchstone.conformance import identifier
from torchstone.conformance.evidence import plain_twin
from torchstone.conformance.fit.aliases import role, setting
from torchstone.conformance.fit.target import TargetError, resolve
from torchstone.conformance.vectors import leaves


def select(x, mask):
    return torch.where(mask, x, torch.zeros_like(x))


def token_terms(logps, old_logps, ref_logps, advantages, eps, beta, kl=lambda d: d.exp() - 1 - d):
    ratio = (logps - old_logps).exp()
    adv = advantages[:, None]
    loss = -torch.min(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv)
    return loss + beta * kl(ref_logps - logps)


def sequence_mean(x, mask):
    lengths = mask.sum(1)
    return (x.sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


def right(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    args = [torch.where(mask, x, torch.zeros_like(x)) for x in (logps, old_logps, ref_logps)]
    return sequence_mean(select(token_terms(*args, advantages, eps, beta), mask), mask)


def by_token(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    args = [torch.where(mask, x, torch.zeros_like(x)) for x in (logps, old_logps, ref_logps)]
    return select(token_terms(*args, advantages, eps, beta), mask).sum() / mask.sum().clamp(min=1)


def reversed_and_by_token(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    args = [torch.where(mask, x, torch.zeros_like(x)) for x in (logps, old_logps, ref_logps)]
    terms = token_terms(*args, advantages, eps, beta, kl=lambda d: (-d).exp() - 1 + d)
    return select(terms, mask).sum() / mask.sum().clamp(min=1)


def multiplies(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    return sequence_mean(token_terms(logps, old_logps, ref_logps, advantages, eps, beta) * mask, mask)


def per_token_without_mask(per_token_logps, old_per_token_logps, ref_per_token_logps, advantages, epsilon, beta):
    return token_terms(per_token_logps, old_per_token_logps, ref_per_token_logps, advantages, epsilon, beta)


class InAClass(torch.nn.Module):
    def __init__(self, clip_eps=0.2, kl_coef=0.04):
        super().__init__()
        self.clip_eps, self.kl_coef = clip_eps, kl_coef

    def forward(self, log_probs, old_log_probs, base_log_probs, advantages, action_mask):
        return {
            "loss": right(
                log_probs, old_log_probs, base_log_probs, advantages, action_mask, self.clip_eps, self.kl_coef
            )
        }


def names(report):
    return {name for d in report.diagnoses for name in d.names}


@pytest.mark.parametrize("function", [right, per_token_without_mask, InAClass])
def test_a_right_loss_passes_whatever_its_signature(function):
    report = conformance.check(function, "grpo_loss")
    assert report.passed and not report.diagnoses
    assert sum(r.status == "pass" for r in report.results) > 20


def test_beyond_the_bound_a_plain_exp_is_a_warning_and_no_failure():
    report = conformance.check(right, "grpo_loss")
    assert any(r.status == "warn" and "far_log_ratio" in r.flags for r in report.results)


def test_a_variant_is_named_and_can_be_accepted():
    report = conformance.check(by_token, "grpo_loss")
    assert not report.passed and names(report) == {"token_mean"} and not report.unexplained
    assert report.diagnoses[0].kind == "variant" and report.diagnoses[0].links and report.diagnoses[0].effect
    assert conformance.check(by_token, "grpo_loss", accept=["token_mean"]).passed
    with pytest.raises(ValueError, match="did you mean 'token_mean'"):
        conformance.check(by_token, "grpo_loss", accept=["token_meen"])


def test_two_mistakes_at_once_are_both_named():
    report = conformance.check(reversed_and_by_token, "grpo_loss")
    assert names(report) == {"token_mean", "reversed_kl"} and not report.unexplained


def test_nan_under_the_mask_is_an_edge_and_no_failure_but_where_strict():
    report = conformance.check(multiplies, "grpo_loss")
    assert report.verdict == "edges" and report.passed and not report.unexplained
    assert all(set(r.flags) & {"nan_under_mask"} for r in report.results if r.status == "fail")
    assert [(d.names, d.kind) for d in report.diagnoses] == [(("nan_under_mask",), "edge")]
    strict = conformance.check(multiplies, "grpo_loss", strict=True)
    assert strict.exit_status == 1 and not strict.passed
    assert conformance.check(multiplies, "grpo_loss", strict=True, accept=["nan_under_mask"]).verdict == "right"


def k3_numpy(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return np.exp(d) - 1 - d


def k3_jax(logprobs, ref_logprobs, mask):
    d = jnp.where(mask, ref_logprobs - logprobs, 0)
    return jnp.exp(d) - 1 - d


def k3_mean(logprobs, ref_logprobs, mask):
    d = torch.where(mask, ref_logprobs - logprobs, torch.zeros_like(logprobs))
    return (d.exp() - 1 - d).sum() / mask.sum().clamp(min=1)


def k3_of_the_log_ratio(log_ratio):
    return torch.exp(-log_ratio) - 1 + log_ratio


def k3_float_mask(logprobs, ref_logprobs, mask):
    d = torch.where(mask == 1.0, ref_logprobs - logprobs, torch.zeros_like(logprobs))
    return (d.exp() - 1 - d) / (1.0 - 0.0 * mask.square())


@pytest.mark.parametrize("function", [k3_numpy, k3_jax, k3_mean, k3_of_the_log_ratio, k3_float_mask])
def test_arrays_masks_and_shapes_of_other_people(function):
    report = conformance.check(function, "kl_k3")
    assert report.passed, (report.diagnoses, report.unexplained)
    assert ("Half of the proof is missing" in " ".join(report.notes)) == (function is k3_numpy)


def k3_wrong_way(logprobs, ref_logprobs):
    d = logprobs - ref_logprobs
    return d.exp() - 1 - d


def k3_half(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return 0.37 * (d.exp() - 1 - d)


def test_a_swap_is_named_and_a_constant_factor_too():
    report = conformance.check(k3_wrong_way, "kl_k3")
    assert (
        names(report) == {"reversed_kl"} and report.diagnoses[0].kind == "bug" and "C32" in report.diagnoses[0].pitfalls
    )
    assert report.diagnoses[0].matched == report.diagnoses[0].of > 0
    assert names(conformance.check(k3_half, "kl_k3")) == {"times 0.37"}


def flat(rewards, num_generations):
    grouped = rewards.view(-1, num_generations)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).view(-1)


def one_group(group_rewards):
    return (group_rewards - group_rewards.mean()) / (group_rewards.std(correction=0) + 1e-6)


@pytest.mark.parametrize(("function", "correction"), [(flat, 1), (one_group, 0)])
def test_what_nobody_agrees_on_is_read_off_and_no_failure(function, correction):
    report = conformance.check(function, "group_advantages")
    assert report.built_in["correction"] == correction and report.built_in["divide_by_std"] is True
    wrong = {
        r.case_id for r in report.results if r.status == "fail" and not set(r.flags) & {"float_ties", "equal_rewards"}
    }
    assert all("group_of_one" in r.flags for r in report.results if r.case_id in wrong)


def dpo_pairs(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    margin = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps
    return -F.logsigmoid(beta * margin), beta * margin.detach(), 0.0


def dpo_swapped(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    margin = policy_rejected_logps - policy_chosen_logps - reference_rejected_logps + reference_chosen_logps
    return -F.logsigmoid(beta * margin).mean()


def test_a_loss_per_pair_passes_and_swapped_pairs_are_caught():
    assert conformance.check(dpo_pairs, "dpo").passed
    report = conformance.check(dpo_swapped, "dpo_loss")
    assert not report.passed and names(report) and not report.unexplained


# ------------------------------------------------------------------------------------------------------ hostile targets


def raises(logprobs, ref_logprobs):
    raise RuntimeError("not today\nand not tomorrow")


def nothing(logprobs, ref_logprobs):
    return None


def wrong_shape(logprobs, ref_logprobs):
    return logprobs[:, :1, None].expand(-1, 7, 2)


def nan(logprobs, ref_logprobs):
    return logprobs * float("nan")


def slow(logprobs, ref_logprobs):
    time.sleep(30)


def changes_its_input(logprobs, ref_logprobs):
    ref_logprobs -= logprobs
    return ref_logprobs.exp() - 1 - ref_logprobs


@pytest.mark.parametrize(
    ("function", "status", "says"),
    [(raises, "error", "RuntimeError: not today"), (nothing, "error", "got NoneType"),
     (wrong_shape, "error", "expected kl"), (nan, "fail", "got nan"), (slow, "timeout", "took longer than 0.2 s")],
)  # fmt: skip
def test_a_hostile_target_is_reported_and_the_run_goes_on(function, status, says):
    report = conformance.check(function, "kl_k3", time_limit=0.2)
    bad = [r for r in report.results if r.status not in ("skip", "pass", "warn")]
    assert not report.passed and bad and bad[0].status == status and says in bad[0].detail


def test_a_change_in_place_is_noted_and_does_not_spoil_the_next_case():
    report = conformance.check(changes_its_input, "kl_k3")
    assert any("changes its inputs in place: ref_log_probs" in note for note in report.notes)


def test_what_cannot_be_fitted_says_what_to_do():
    with pytest.raises(TargetError, match=r"cannot tell what p, q should be; say so with names \(p = one of"):
        conformance.check(lambda p, q: p - q, "kl_k3")
    assert conformance.check(lambda p, q: p - q, "kl_k1", names={"p": "log_probs", "q": "ref_log_probs"}).passed
    with pytest.raises(TargetError, match="no parameter 'r'"):
        conformance.check(lambda p, q: p - q, "kl_k1", names={"r": "log_probs"})
    with pytest.raises(ValueError, match="did you mean 'kl_k3'"):
        conformance.check(right, "kl_k33")


def test_a_target_is_found_or_the_reason_is_given(tmp_path):
    (tmp_path / "losses.py").write_text("import torch\ndef k1(a, b):\n    return a - b\n")
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    assert resolve(f"{tmp_path}/losses.py:k1")(3, 1) == 2
    assert resolve("torchstone.core:kl_k1") is not None
    for target, says in (
        (f"{tmp_path}/losses.py:k2", "it has k1"),
        (f"{tmp_path}/nowhere.py:k1", "no file"),
        (f"{tmp_path}/broken.py:k1", "no module 'no_such_module'"),
        ("torchstone.core", "expected package.module:function"),
    ):
        with pytest.raises(TargetError, match=says):
            resolve(target)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("ref_per_token_logps", "ref_log_probs"), ("logprobs", "log_probs"), ("old_action_log_probs", "old_log_probs"),
     ("base_action_log_probs", "ref_log_probs"), ("policy_chosen_logps", "chosen_log_probs"), ("response_mask", "mask"),
     ("reference_rejected_logps", "ref_rejected_log_probs"), ("rollout_log_probs", "old_log_probs"),
     ("log_ratio", "log_ratios"), ("token_level_rewards", "rewards"), ("oldLogProbs", "old_log_probs"),
     ("vllm_logprobs", "sampler_log_probs")],
)  # fmt: skip
def test_the_fields_names_are_understood(name, ours):
    assert role(name) == ours


def test_the_fields_numbers_are_understood():
    for name, ours in (
        ("cliprange", "epsilon"),
        ("kl_coef", "beta"),
        ("lambd", "lam"),
        ("clip_ratio_c", "dual_clip"),
        ("ddof", "correction"),
    ):
        assert ours in setting(name)


# ------------------------------------------------------------------------------------------------------------- identify


def test_identify_names_recipes_dialects_and_objectives():
    found = conformance.identify(dpo_pairs)
    assert {"dpo_loss", "dpo", "dpo@trl-1.16.0"} <= {m.name for m in found.exact}
    found = conformance.identify(right)
    assert found.exact[0].name == "grpo" and "grpo_loss" in {m.name for m in found.exact if m.kind == "objective"}


def the_larger_of_both(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    w = (logps - old_logps).exp() * advantages[:, None]
    pg = -torch.max(w, (logps - old_logps).exp().clamp(1 - eps, 1 + eps) * advantages[:, None])
    k3 = (ref_logps - logps).exp() - (ref_logps - logps) - 1
    return (((pg + beta * k3) * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def test_identify_says_no_equality_of_a_part(monkeypatch):
    """Where advantages of 0 are all that is compared, a loss equals every loss that has its KL."""
    monkeypatch.setattr(identifier, "objectives", lambda: ("grpo_loss", "dppo_loss", "kl_k3"))
    found = conformance.identify(the_larger_of_both)
    assert not found.exact and found.near[0].name == "grpo_loss" and "maximum_of_both" in found.near[0].differs


def with_a_dual_clip(old_log_prob, log_prob, advantages, response_mask, cliprange=0.2):
    ratio = torch.where(response_mask.bool(), log_prob - old_log_prob, 0.0).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))
    loss = torch.where(advantages < 0, torch.min(-3 * advantages, loss), loss)
    return torch.where(response_mask.bool(), loss, 0.0).sum() / response_mask.sum().clamp(min=1)


def of_constant_length(logps, old_logps, adv, mask, max_tokens, eps=0.2):
    ratio = torch.where(mask, logps - old_logps, 0.0).exp()
    loss = -torch.min(ratio * adv[:, None], ratio.clamp(1 - eps, 1 + eps) * adv[:, None])
    return torch.where(mask, loss, 0.0).sum() / (len(adv) * max_tokens)


def by_a_ratio_of_both(policy_chosen_logps, policy_rejected_logps, beta=2.0, gamma_beta_ratio=0.5):
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps - gamma_beta_ratio)).mean()


@pytest.mark.parametrize(
    ("function", "names", "others"),
    [(with_a_dual_clip, {"grpo@verl-0.9.1"}, {"dapo@trl-1.16.0"}),
     (of_constant_length, {"dr_grpo", "dr_grpo_loss"}, {"grpo"}),
     (by_a_ratio_of_both, {"simpo", "simpo_loss"}, {"dpo"})],
)  # fmt: skip
def test_identify_says_what_it_equals_and_no_more(function, names, others, monkeypatch):
    some = ("dr_grpo_loss", "grpo_loss", "ppo_loss", "simpo_loss", "dpo_loss")
    monkeypatch.setattr(identifier, "objectives", lambda: some)
    found = {m.name for m in conformance.identify(function).exact}
    assert names <= found and not others & found


def test_identify_names_the_nearest_and_what_differs(monkeypatch):
    monkeypatch.setattr(identifier, "objectives", lambda: ("grpo_loss", "ppo_loss", "kl_k3"))  # all take a minute
    found = conformance.identify(reversed_and_by_token)
    assert not [m for m in found.exact if m.kind == "recipe" and not m.given]
    assert found.near


# --------------------------------------------------------------------------------- settings, gradients, evidence, edges


def returns_with_numbers_inside(rewards, mask):
    found, after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        after = torch.where(mask[:, t], rewards[:, t] + 0.93 * after, after)
        found[:, t] = torch.where(mask[:, t], after, 0.0)
    return found


def test_a_number_written_into_a_function_is_solved_for():
    report = conformance.check(returns_with_numbers_inside, "discounted_returns")
    assert report.built_in["gamma"] == pytest.approx(0.93) and report.verdict == "right"


def critic_detached(values, old_values, returns, mask, cliprange_value=0.2):
    fresh = values.detach()
    near = torch.clamp(fresh, old_values - cliprange_value, old_values + cliprange_value)
    return torch.where(mask, 0.5 * torch.max((fresh - returns) ** 2, (near - returns) ** 2), 0.0)


def random_margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta):
    margin = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps
    return -F.logsigmoid(beta * margin * (1 + 0.1 * torch.rand_like(margin))).mean()


def always_the_same(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta):
    return 0 * policy_chosen_logps.sum() + 0.7


def never_a_number(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta):
    return always_the_same(policy_chosen_logps.log(), *[policy_rejected_logps] * 3, beta)


@pytest.mark.parametrize(
    ("function", "objective", "name"),
    [(critic_detached, "clipped_value_error", "detached"), (random_margin, "dpo_loss", "not_the_same_twice"),
     (always_the_same, "dpo_loss", "constant_output"), (never_a_number, "dpo_loss", "nan_everywhere")],
)  # fmt: skip
def test_what_is_plain_to_see_is_named_at_once(function, objective, name):
    report = conformance.check(function, objective)
    assert names(report) == {name} and report.exit_status == 1 and not report.unexplained


@pytest.mark.parametrize(
    ("objective", "flag"),
    [("kl_exact", "minus_inf_logits"), ("jsd_top_k", "minus_inf_logits"), ("token_log_probs", "minus_inf_logits"),
     ("importance_weights", "extreme_ratio"), ("group_advantages", "unscored"), ("dapo_loss", "empty_row")],
)  # fmt: skip
def test_a_case_with_an_edge_has_a_plain_twin(objective, flag):
    """A function that fails on the twin too does not fail for the edge."""
    vectors = conformance.load(objective)
    for case in (c for c in vectors.cases if flag in c.flags):
        twin = plain_twin(case, vectors)
        assert flag not in twin.flags and twin.inputs != case.inputs
        numbers = [
            x for k, tree in twin.inputs.items() if vectors.arguments[k].kind == "float" for _, x in leaves(tree)
        ]
        assert numbers and all(abs(x) < 64.5 for x in numbers)


def cross_entropy_for_kl(logits, ref_logits):
    p, q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return -(p.exp() * q.detach().masked_fill(q.isinf(), 0.0)).sum(-1)


def test_what_fails_without_the_edge_too_is_no_edge():
    report = conformance.check(cross_entropy_for_kl, "kl_exact")
    assert report.verdict == "wrong" and "minus_inf_logits" not in names(report) and not report.unexplained


class Counting:
    """k3 that is another one from some call on, or up to it."""

    def __init__(self, wrong):
        self.calls, self.wrong = 0, wrong

    def __call__(self, log_probs, ref_log_probs, mask):
        self.calls += 1
        u = torch.where(mask, ref_log_probs.detach() - log_probs, 0.0)
        return (torch.expm1(u) - u) * (2 if self.wrong(self.calls) else 1)


@pytest.mark.parametrize("wrong", [lambda n: n < 3, lambda n: n > 2, lambda n: n > 20])
def test_a_function_that_is_right_in_some_of_its_calls_is_not_the_same_twice(wrong):
    report = conformance.check(Counting(wrong), "kl_k3")
    assert names(report) == {"not_the_same_twice"} and report.exit_status == 1


def refuses_other_modes(old_log_prob, log_prob, advantages, response_mask, cliprange=0.2, loss_agg_mode="token-mean"):
    if loss_agg_mode != "token-mean":
        raise ValueError(f"no such loss_agg_mode: {loss_agg_mode}")
    gap = torch.where(response_mask, log_prob - old_log_prob, 0.0).clamp(-20, 20)
    loss = -torch.min(gap.exp() * advantages, gap.exp().clamp(1 - cliprange, 1 + cliprange) * advantages)
    return torch.where(response_mask, loss, 0.0).sum() / response_mask.sum().clamp(min=1)


def test_a_mode_that_is_refused_by_its_name_is_left_out():
    report = conformance.check(refuses_other_modes, "ppo_loss")
    assert report.passed and any("it refuses loss_agg_mode" in r.detail for r in report.results if r.status == "skip")


# ------------------------------------------------------------------- forms, names and bounds that are not ours


def takes_one_end(completion_ids, eos_token_id):
    ends = completion_ids == eos_token_id
    at = torch.full((ends.size(0),), ends.size(1))
    at[ends.any(1)] = ends.int().argmax(1)[ends.any(1)]
    return torch.arange(ends.size(1)).expand(ends.size(0), -1) <= at[:, None]


def test_a_list_that_is_refused_in_every_case_is_left_out():
    report = conformance.check(takes_one_end, "completion_mask")
    assert report.passed and any("it refuses a list as eos_token_id" in r.detail for r in report.results)


def no_log_of_the_flipped(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    h = beta * (chosen - ref_chosen - rejected + ref_rejected)
    losses = (1 - label_smoothing) * torch.nn.functional.logsigmoid(h) + label_smoothing * torch.sigmoid(-h)
    return -losses.mean()


def test_changed_code_is_told_as_a_person_writes_it():
    (found,) = conformance.check(no_log_of_the_flipped, "dpo_loss").diagnoses
    assert "sigmoid(-h)` where `log_sigmoid(-h)` belongs" in found.about[0] and "__import__" not in found.about[0]


def no_bonus_above_one(newlogprob, oldlogprob, advantages, clip_coef=0.2):
    ratio = (newlogprob - oldlogprob).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip_coef, 1.0) * advantages)


def test_an_upper_bound_of_nothing_is_no_number_that_is_written_in():
    report = conformance.check(no_bonus_above_one, "clipped_surrogate")
    assert report.verdict == "wrong" and report.built_in["epsilon_high"] is None


def metric_through_numpy(values, returns):
    y_pred, y_true = values.reshape(-1).numpy(), returns.reshape(-1).numpy()
    var_y = np.var(y_true)
    return np.nan if var_y == 0 else 1 - np.var(y_true - y_pred) / var_y


def test_a_metric_that_goes_through_numpy_has_no_gradient_to_lose():
    report = conformance.check(metric_through_numpy, "explained_variance")
    assert report.verdict == "edges" and names(report) == {"equal_returns"}


def normalised(rewards, eps=1e-4):
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + eps)


def normalised_by_less(rewards, eps=1e-6):
    return normalised(rewards, eps)


@pytest.mark.parametrize(("function", "verdict"), [(normalised, "edges"), (normalised_by_less, "wrong")])
def test_equal_rewards_are_judged_at_the_functions_own_eps(function, verdict):
    report = conformance.check(function, "group_advantages")
    assert report.verdict == verdict and [d.silent for d in report.edges if d.names == ("float_ties",)] == [
        verdict == "wrong"
    ]


def by_rows(log_probs, old_log_probs, advantages, mask, epsilon, guarded):
    ratio = torch.exp(torch.where(mask, log_probs - old_log_probs, 0.0) if guarded else log_probs - old_log_probs)
    earned = advantages[:, None]
    terms = torch.minimum(ratio * earned, ratio.clamp(1 - epsilon, 1 + epsilon) * earned)
    kept = torch.where(mask, terms, 0.0) if guarded else terms * mask
    return -(kept.sum(1) / mask.sum(1).clamp(min=1)).mean()


def plain_rows(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
    return by_rows(log_probs, old_log_probs, advantages, mask, epsilon, guarded=False)


def guarded_rows(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
    return by_rows(log_probs, old_log_probs, advantages, mask, epsilon, guarded=True)


@pytest.mark.parametrize(("function", "verdict"), [(plain_rows, "edges"), (guarded_rows, "wrong")])
def test_rows_without_a_token_are_counted_unasked_by_plain_code_and_on_purpose_by_guarded(function, verdict):
    report = conformance.check(function, "grpo_loss")
    assert report.verdict == verdict and {d.kind for d in report.diagnoses if not d.accepted} == {"edge"}
    assert [d.silent for d in report.edges if d.names == ("empty_rows_counted",)] == [verdict == "wrong"]
