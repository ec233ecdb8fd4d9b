"""What must hold for any objective, whatever its numbers: right functions of each kind, and broken ones."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from torchstone import conformance, core
from torchstone.conformance.fit.target import TargetError
from torchstone.conformance.relations import Answer, check_relations, relations_of
from torchstone.dpo import bradley_terry_loss, dpo_loss
from torchstone.dpo.variants import apo_down_loss, discopop_loss, ipo_loss
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.ppo import clipped_surrogate, gae, ppo_loss
from torchstone.reinforce import leave_one_out_advantages, reinforce_loss

ROLES = {"lp": "log_probs", "old": "old_log_probs", "adv": "advantages", "m": "mask"}


def found(function, kind=None, **options):
    return {p.name: p for p in check_relations(function, kind, **options)}


def failing(function, kind=None, **options):
    return {p.name for p in check_relations(function, kind, **options) if p.status == "fail"}


# ---------------------------------------------------------------------------------------------------------------- right


@pytest.mark.parametrize(
    ("function", "objective"),
    [
        (core.kl_k3, "kl_k3"),
        (core.sequence_mean, "sequence_mean"),
        (core.linear_recurrence, "linear_recurrence"),
        (core.masked_whiten, "masked_whiten"),
        (reinforce_loss, "reinforce_loss"),
        (leave_one_out_advantages, "leave_one_out_advantages"),
        (clipped_surrogate, "clipped_surrogate"),
        (gae, "gae"),
        (ppo_loss, "ppo_loss"),
        (group_advantages, "group_advantages"),
        (grpo_loss, "grpo_loss"),
        (dpo_loss, "dpo_loss"),
        (ipo_loss, "ipo_loss"),
        (apo_down_loss, "apo_down_loss"),
        (discopop_loss, "discopop_loss"),
        (bradley_terry_loss, "bradley_terry_loss"),
    ],
)
def test_our_own_keep_every_relation(function, objective):
    if objective not in conformance.OBJECTIVES:
        pytest.skip("no vectors")
    kept = found(function, objective)
    assert not [p for p in kept.values() if p.status == "fail"]
    asked = {name for name, p in kept.items() if p.status != "skip"}
    assert {"the same twice", "inputs unchanged", "permutation", "float32"} <= asked
    if objective == "grpo_loss":
        assert len(asked) == len(kept)  # nothing is left out
    if objective == "masked_whiten":
        assert kept["split"].status == "warn" and "rows depend on each other" in kept["split"].detail


def clip(lp, old, adv, m, epsilon=0.2):
    log_ratios = torch.where(m, lp - old.detach(), 0.0)
    a, ratios = adv.detach()[:, None], log_ratios.exp()
    x = -torch.minimum(ratios * a, ratios.clamp(1 - epsilon, 1 + epsilon) * a)
    return torch.where(m, x, 0.0).sum() / m.sum().clamp(min=1)


def test_a_plain_function_keeps_every_relation():
    kept = found(clip, ROLES)
    assert {p.status for p in kept.values()} == {"pass", "skip"}
    assert [name for name, p in kept.items() if p.status == "skip"] == ["sign of beta"]
    assert "weighted by tokens" in kept["split"].detail


def test_names_tell_the_roles():
    def loss(per_token_logps, old_per_token_logps, advantages, completion_mask, eps_clip=0.2):
        return clip(per_token_logps, old_per_token_logps, advantages, completion_mask, eps_clip)

    assert not failing(loss)
    assert "it takes no mask" in found(lambda logp, advantages: -(logp * advantages[:, None]).sum())["padding"].detail


@pytest.mark.parametrize("layout", ["[B, 1]", "[B, T]"])
def test_advantages_in_another_layout_and_a_float_mask(layout):
    def loss(lp, old, adv, m):
        assert adv.ndim == 2 and (layout == "[B, 1]" or adv.shape == lp.shape)
        assert m.dtype == lp.dtype
        return clip(lp, old, adv[:, 0], m.bool())

    assert not failing(loss, ROLES)


# --------------------------------------------------------------------------------------------------------------- broken


def multiplied(lp, old, adv, m):
    return (clipped_by_hand(lp, old, adv) * m).sum() / m.sum()


def clipped_by_hand(lp, old, adv):
    ratios, a = (lp - old).exp(), adv[:, None]
    return -torch.minimum(ratios * a, ratios.clamp(0.8, 1.2) * a)


def padded_width(lp, old, adv, m):
    return clip(lp, old, adv, m) * m.sum() / m.numel()


def mask_ignored(lp, old, adv, m):
    return clip(lp, old, adv, torch.ones_like(m))


def sign_flipped(lp, old, adv, m):
    return -clip(lp, old, adv, m)


def whitened(lp, old, adv, m):
    return clip(lp, old, (adv - adv.mean()) / (adv.std() + 1e-8), m)


def wrong_axis(lp, old, adv, m):
    if len(lp) != lp.shape[1]:
        return clip(lp, old, adv, m)
    return clip(lp.T, old.T, adv, m.T)


def rows_numbered(lp, old, adv, m):
    by = torch.arange(1.0, len(m) + 1)[:, None]
    return clip(lp * by, old * by, adv, m)


def detached(lp, old, adv, m):
    return clip(lp.detach(), old, adv, m) + 0 * torch.where(m, lp, 0.0).sum()


def half_inside(lp, old, adv, m):
    return clip(lp, old, adv, m) if lp.dtype == torch.float64 else clip(lp.bfloat16(), old.bfloat16(), adv, m).float()


def changes_old(lp, old, adv, m):
    old.masked_fill_(~m, 0.0)
    return clip(lp, old, adv, m)


@pytest.mark.parametrize(
    ("function", "broken"),
    [
        (multiplied, {"NaN under the mask"}),
        (padded_width, {"padding"}),
        (mask_ignored, {"padding", "junk under the mask", "NaN under the mask"}),
        (sign_flipped, {"sign of the advantage"}),
        (whitened, {"scale"}),
        (wrong_axis, {"as many rows as columns"}),
        (rows_numbered, {"permutation"}),
        (detached, {"sign of the advantage", "gradient where declared"}),
        (half_inside, {"float32"}),
        (changes_old, {"inputs unchanged"}),
    ],
)
def test_each_relation_catches_its_mistake(function, broken):
    assert failing(function, ROLES) == broken


def test_an_unsure_function_is_compared_with_nothing_else():
    def loss(lp, old, adv, m):
        return clip(lp, old, adv, m) * (1 + 0.01 * torch.rand(()))

    (only,) = check_relations(loss, ROLES)
    assert (only.name, only.status) == ("the same twice", "fail")


def test_a_gradient_elsewhere_is_worth_a_word_and_no_failure():
    def loss(lp, old, adv, m):
        return torch.where(m, clipped_by_hand(lp, old, adv), 0.0).sum() / m.sum()

    told = found(loss, ROLES)["gradient where declared"]
    assert told.status == "warn" and "old_log_probs, advantages" in told.detail


@pytest.mark.parametrize(("uses", "broken"), [(True, set()), (False, {"split"})])
def test_a_denominator_must_be_used(uses, broken):
    def loss(lp, old, adv, m, denominator=None):
        total = clip(lp, old, adv, m) * m.sum()
        return total / (denominator if uses and denominator else m.sum())

    assert failing(loss, ROLES) == broken


@pytest.mark.parametrize(("sign", "broken"), [(1, set()), (-1, {"sign of beta"})])
def test_beta_must_price_the_distance(sign, broken):
    def loss(lp, old, ref, adv, m, beta):
        u = torch.where(m, ref.detach() - lp, 0.0)
        return clip(lp, old, adv, m) + sign * beta * (u.expm1() - u).sum() / m.sum()

    assert failing(loss, {**ROLES, "ref": "ref_log_probs"}) == broken


@pytest.mark.parametrize(("swap", "broken"), [(False, set()), (True, {"sign of the advantage"})])
def test_pairs(swap, broken):
    def loss(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
        margin = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
        return -logsigmoid(-beta * margin if swap else beta * margin).mean()

    assert failing(loss) == broken == failing(loss, "dpo_loss")


def test_no_gradient_skips_what_needs_one():
    def loss(lp, old, adv, m):
        return clip(lp, old, adv, m).detach()

    kept = found(loss, ROLES)
    assert kept["sign of the advantage"].status == kept["gradient where declared"].status == "skip"
    assert kept["scale"].status == "pass"


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_function_that_cannot_run_is_one_line():
    def raises(lp, m):
        raise RuntimeError("no such kernel")

    def endless(lp, m):
        while True:
            pass

    def infinite(lp, m):
        return lp.sum() * math.inf

    for function, says in ((raises, "no such kernel"), (endless, "longer than 0.2 s"), (infinite, "ordinary batch")):
        (only,) = check_relations(function, {"lp": "log_probs", "m": "mask"}, time_limit=0.2)
        assert only.status == "fail" and says in only.detail


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"lp": "logprobs"}, "expected one of log_probs"),
        ({"l": "log_probs"}, "no parameter 'l' (did you mean 'lp'?)"),
        ({}, "cannot tell what zz is"),
        ("grop_loss", "did you mean 'grpo_loss'"),
    ],
)
def test_a_wrong_name_is_told(kind, says):
    with pytest.raises(ValueError) as error:
        check_relations(lambda lp, zz: lp.sum(), kind)
    assert says in str(error.value)


def test_a_value_may_be_given_and_an_output_chosen():
    def loss(lp, m, weird):
        assert weird == "yes"
        return {"count": m.sum(), "value": torch.where(m, lp, 0.0).sum()}

    assert not failing(loss, {"lp": "log_probs", "m": "mask"}, settings={"weird": "yes"}, output="value")
    with pytest.raises(TargetError):
        check_relations(loss, {"lp": "log_probs", "m": "mask"})


def test_a_call_of_one_s_own():
    x = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def call(batch):
        x = batch["x"].requires_grad_()
        value = torch.where(batch["mask"], x, 0.0).square().sum()
        return value, {"x": torch.autograd.grad(value, x)[0]}

    kept = {p.name: p.status for p in relations_of(call, {"x": x, "mask": mask}, {"x": "B T", "mask": "B T"}, ["x"])}
    assert set(kept.values()) == {"pass", "skip"} and kept["split"] == kept["padding"] == "pass"
    assert Answer(x, None).changed == ()
