"""Which tokens teach: by hand, at the bounds, and of the whole batch against its parts."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nan, tensor

from torchstone.core import token_mean
from torchstone.grpo.selection import (
    clip_cov_mask,
    covariances,
    future_kl_weights,
    kl_cov_mask,
    second_moment_mask,
    top_entropy_mask,
)
from torchstone.ppo.variants import importance_surrogate
from torchstone.recipes import RECIPES, Choice, find

f64 = torch.float64
T, F = True, False
GAPS = tensor([[T, F, T], [T, T, F]])  # four chosen tokens, and NaN between them


def row(*numbers):
    return tensor([numbers], dtype=f64)


def every(x):
    return torch.ones_like(x, dtype=torch.bool)


def with_gaps(a, b, c, d):
    return tensor([[a, nan, b], [c, d, nan]], dtype=f64)


# ------------------------------------------------------------------------------------------------- high-entropy tokens


@pytest.mark.parametrize(
    ("share", "kept"),
    # the quantile of .1 .2 .3 .4 .5 at .8 is .42, at .7 .38, at .5 .3, at .1 .14; at .75 it is .4 itself
    [(0.2, [F, F, F, F, T]), (0.3, [F, F, F, T, T]), (0.5, [F, F, T, T, T]), (0.9, [F, T, T, T, T]), (1.0, [T] * 5),
     (0.25, [F, F, F, T, T]), (1e-6, [F, F, F, F, T])],
)  # fmt: skip
def test_GRPO_18_by_hand(share, kept):
    order = [3, 0, 4, 1, 2]  # the entropies in no order
    entropies = row(0.1, 0.2, 0.3, 0.4, 0.5)[:, order]
    assert top_entropy_mask(entropies, every(entropies), share=share)[0].tolist() == [kept[i] for i in order]


def test_GRPO_18_equal_entropies_stay_or_go_together_and_gaps_do_not_count():
    tied = row(0.0, 0.0, 0.0, 1.0)
    assert top_entropy_mask(tied, every(tied), share=0.3).tolist() == [[F, F, F, T]]  # the quantile at .7 is .1
    assert top_entropy_mask(tied, every(tied), share=0.4).tolist() == [[T] * 4]  # at .6 it is 0
    found = top_entropy_mask(with_gaps(0.1, 0.4, 0.3, 0.2), GAPS, share=0.5)
    assert found.tolist() == [[F, F, T], [T, F, F]]
    assert not top_entropy_mask(tied, ~every(tied), share=0.5).any()
    assert top_entropy_mask(tied[:, :1], every(tied[:, :1]), share=0.1).all()


@pytest.mark.parametrize("count", [2, 3, 7, 11, 50])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 0.99])
def test_GRPO_18_is_the_quantile_that_torch_has(count, share):
    entropies = torch.rand(1, count, dtype=f64, generator=torch.Generator().manual_seed(count))
    expected = entropies >= torch.quantile(entropies, 1 - share)
    near = (share * (count - 1)) % 1  # where 1 - share rounds, a token on the quantile may fall either way
    if 1e-9 < near < 1 - 1e-9:
        assert torch.equal(top_entropy_mask(entropies, every(entropies), share=share), expected)
    assert (
        top_entropy_mask(entropies, every(entropies), share=share).sum() == math.floor(share * (count - 1) + 1e-9) + 1
    )


# ---------------------------------------------------------------------------------------------------------- covariances


def test_GRPO_19_by_hand_and_its_mean_is_the_covariance():
    log_probs, advantages = row(-1.0, -2.0, -3.0, -2.0), row(1.0, -1.0, 1.0, -1.0)  # means -2 and 0
    assert covariances(log_probs, advantages, every(log_probs)).tolist() == [[1.0, 0.0, -1.0, 0.0]]
    found = covariances(with_gaps(-1.0, -2.0, -4.0, -5.0), tensor([2.0, -1.0], dtype=f64), GAPS)  # means -3 and 0.5
    assert found.tolist() == [[3.0, 0.0, 1.5], [1.5, 3.0, 0.0]]
    g = torch.Generator().manual_seed(0)
    x, A = torch.randn(2, 1, 50, dtype=f64, generator=g)
    stacked = torch.cov(torch.cat([x, A]), correction=0)[0, 1]
    torch.testing.assert_close(covariances(x, A, every(x)).mean(), stacked)


def test_GRPO_20_drops_the_smallest_draws_between_the_bounds():
    c, draws = row(0.5, 1.0, 5.0, 2.0, 6.0, 3.0), row(0.0, 0.9, 0.1, 0.5, 0.0, 0.7)
    numbers = {"low": 1.0, "high": 5.0}
    mask = every(c)
    dropped = lambda **how: (~clip_cov_mask(c, draws, mask, **numbers, **how))[0].nonzero()[:, 0].tolist()  # noqa: E731
    assert dropped(share=0.1) == []  # floor(0.6) = 0
    assert dropped(share=0.1, least=1) == [2]
    assert dropped(share=0.5) == [2, 3, 5]
    assert dropped(share=0.35) == [2, 3]  # floor(2.1)
    assert dropped(share=1.0) == [1, 2, 3, 5]  # all that there are, the bounds themselves too
    spared = tensor([[F, F, T, F, F, F]])
    assert dropped(share=0.35, spared=spared) == [3, 5]
    assert dropped(share=1.0, spared=~spared) == [2]


def test_GRPO_20_every_candidate_is_dropped_as_often_as_any_other():
    c, g = row(0.5, 1.0, 2.0, 3.0, 9.0), torch.Generator().manual_seed(0)
    counts = torch.zeros(5)
    for _ in range(900):
        counts += ~clip_cov_mask(c, torch.rand(1, 5, generator=g), every(c), share=0.2, low=1.0, high=5.0)[0]
    assert counts[0] == counts[4] == 0 and counts.sum() == 900
    assert (counts[1:4] - 300).abs().max() < 5 * math.sqrt(900 * 2 / 9)


def test_GRPO_20_and_GRPO_21_gaps_are_neither_chosen_nor_counted():
    c, draws = with_gaps(2.0, 3.0, 4.0, 1.0), with_gaps(0.4, 0.1, 0.2, 0.3)
    kept = clip_cov_mask(c, draws, GAPS, share=0.5, low=0.0, high=9.0)
    assert kept.tolist() == [[T, F, F], [F, T, F]]
    assert kl_cov_mask(c, GAPS, share=0.5).tolist() == [[F, F, T], [T, F, F]]
    for mask in (
        clip_cov_mask(c, draws, ~every(c), share=1.0, low=0.0, high=9.0),
        kl_cov_mask(c, ~every(c), share=1.0),
    ):
        assert not mask.any()


def test_GRPO_21_the_largest_pay_and_the_others_do_not():
    c = row(1.0, 0.0, -1.0, 0.0)
    paying = lambda **how: kl_cov_mask(c, every(c), **how)[0].tolist()  # noqa: E731
    assert paying(share=0.25) == [T, F, F, F] == paying(share=0.1, least=1)
    assert paying(share=0.2) == [F] * 4 and paying(share=1.0) == [T] * 4
    assert paying(share=0.5) == [T, T, F, F]  # of two equal ones the first


def test_GRPO_21_what_a_token_pays_by_hand():
    """Log-ratios .3, -.2, 0 and .1; the first three pay 2 a nat: L_t = -rho_t A_t + 2 |log rho_t|."""
    moved, paying = row(0.3, -0.2, 0.0, 0.1), row(1.0, 1.0, 1.0, 0.0)
    recipe = RECIPES["kl-cov"].but(tokens=Choice("kl-cov", share=0.75, coef=2.0))
    log_probs = moved.clone().requires_grad_()
    how = {"old_log_probs": torch.zeros_like(moved), "token_weights": paying}
    loss = recipe.loss(log_probs, tensor([1.0], dtype=f64), every(moved), **how)
    (gradient,) = torch.autograd.grad(loss.value, log_probs)
    value = sum(-math.exp(u) for u in moved[0].tolist()) + 2 * (0.3 + 0.2)
    assert loss.value.item() == pytest.approx(value / 4)
    slopes = [-math.exp(0.3) + 2, -math.exp(-0.2) - 2, -1.0, -math.exp(0.1)]
    assert gradient[0].tolist() == pytest.approx([x / 4 for x in slopes])


# ------------------------------------------------------------------------------------------------------- second moment


def test_GRPO_22_by_hand():
    moved, advantages = row(0.1, 0.3, -0.4, 0.05), row(1.0, 1.0, -1.0, -1.0)  # the last moved against its advantage
    kept = lambda limit: second_moment_mask(moved, 0 * moved, advantages, every(moved), limit=limit)[0].tolist()  # noqa: E731
    assert kept(0.04) == [T, F, F, T]  # means .0867, .05, .01
    assert kept(0.06) == [T, T, F, T] and kept(0.09) == [T, T, T, T]
    assert kept(0.0) == [F, F, F, T]
    still = second_moment_mask(moved, moved, advantages, every(moved), limit=0.0)
    assert still.all()  # on policy nothing has moved
    at_limit = second_moment_mask(row(0.5, 0.25), row(0.0, 0.0), row(1.0, 1.0), every(row(1, 1)), limit=0.15625)
    assert at_limit.all()  # their mean is the limit, exactly


def test_GRPO_22_gaps_and_an_advantage_of_0_are_not_in_t():
    moved = with_gaps(1.0, 0.1, -3.0, -0.1)
    kept = second_moment_mask(moved, 0 * moved, tensor([[1, nan, 1], [0, -1, nan]], dtype=f64), GAPS, limit=0.02)
    assert kept.tolist() == [[F, F, T], [T, T, F]]
    assert not second_moment_mask(moved, moved, tensor([1.0, 1.0], dtype=f64), ~every(moved), limit=0.0).any()


def test_GRPO_22_of_equal_tokens_the_last_goes_first():
    moved = row(0.1, 0.3, 0.3, 0.3)  # means .01, .05, .0633, .07
    kept = second_moment_mask(moved, 0 * moved, row(1.0, 1.0, 1.0, 1.0), every(moved), limit=0.055)
    assert kept.tolist() == [[T, T, F, F]]


def test_GRPO_22_in_float32_at_the_limit_one_mean_drops_what_comes_after_it():
    u = torch.full((1, 4000), 0.2)  # every mean is the limit up to float32's rounding of 0.2 itself
    kept = second_moment_mask(u, 0 * u, torch.ones(1), every(u), limit=0.04)
    assert kept.all() or not kept.any()


def test_GRPO_22_is_the_loop_of_the_algorithm():
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        u, A = torch.randn(2, 1, 30, dtype=f64, generator=g)
        left = {i: u[0, i].item() ** 2 for i in range(30) if u[0, i] * A[0, i] > 0}
        while left and sum(left.values()) / len(left) > 0.3:
            del left[max(left, key=left.__getitem__)]
        expected = [u[0, i].item() * A[0, i].item() <= 0 or i in left for i in range(30)]
        assert second_moment_mask(u, 0 * u, A, every(u), limit=0.3)[0].tolist() == expected


# ------------------------------------------------------------------------------------------------------------ future KL

FUTURE = {"half_life": 1.0, "epsilon": 0.5, "epsilon_high": 0.5}


def test_GRPO_23_by_hand():
    moved, A = row(0.1, 0.2), tensor([1.0], dtype=f64)
    weights = lambda **how: future_kl_weights(moved, 0 * moved, A, every(moved), **FUTURE | how)[0].tolist()  # noqa: E731
    assert weights() == pytest.approx([math.exp(0.1 + 0.5 * 0.2), math.exp(0.2)])
    assert weights(epsilon=0.0, epsilon_high=0.2) == [1.2, 1.2]
    assert weights(half_life=2.0) == pytest.approx([math.exp(0.1 + 0.2 / math.sqrt(2)), math.exp(0.2)])
    assert weights(half_life=1e-3) == pytest.approx([math.exp(0.1), math.exp(0.2)])
    assert weights(limit=1.2) == pytest.approx([math.exp(0.1), 1.0])  # a ratio of 1.22 says nothing
    assert weights(limit=1.1) == [1.0, 1.0]
    falling = future_kl_weights(-10 * moved, 0 * moved, A, every(moved), **FUTURE)
    assert falling.tolist() == [[0.5, 0.5]]
    still = future_kl_weights(moved, moved, A, every(moved), **FUTURE)
    assert still.tolist() == [[1.0, 1.0]]


def test_GRPO_23_a_bad_token_with_a_large_ratio_weighs_1_and_a_good_one_does_not():
    moved, how = row(0.4, 0.1), FUTURE | {"epsilon_high": 1.0, "reset": math.exp(0.3)}
    for A, first in ((1.0, math.exp(0.45)), (-1.0, 1.0), (0.0, math.exp(0.45))):
        found = future_kl_weights(moved, 0 * moved, tensor([A], dtype=f64), every(moved), **how)
        assert found[0].tolist() == pytest.approx([first, math.exp(0.1)])


def test_GRPO_23_the_next_token_is_the_next_chosen_one():
    moved, A = with_gaps(0.1, 0.2, -0.1, 0.3), tensor([1.0, 1.0], dtype=f64)
    found = future_kl_weights(moved, 0 * moved, A, GAPS, **FUTURE)
    expected = [[math.exp(0.2), 0.0, math.exp(0.2)], [math.exp(0.05), math.exp(0.3), 0.0]]
    torch.testing.assert_close(found, tensor(expected, dtype=f64))


# ------------------------------------------------------------------------------------------------ whole and micro-batch


def spread(b, r):
    return covariances(b["log_probs"][r], b["A"][r], b["mask"][r])


WHOLE = {  # of two rows that are two micro-batches: a call on some of the rows
    "entropy": lambda b, r: top_entropy_mask(b["entropies"][r], b["mask"][r], share=0.5),
    "clip-cov": lambda b, r: clip_cov_mask(spread(b, r), b["draws"][r], b["mask"][r], share=0.5, low=0.1, high=9.0),
    "kl-cov": lambda b, r: kl_cov_mask(spread(b, r), b["mask"][r], share=0.5),
    "second moment": lambda b, r: second_moment_mask(
        b["log_probs"][r], b["old"][r], b["A"][r], b["mask"][r], limit=0.04
    ),
}
SPLIT = {
    "log_probs": tensor([[-1.0, -1.3], [-1.1, -2.0]], dtype=f64),
    "old": tensor([[-1.3, -1.4], [-1.0, -1.9]], dtype=f64),
    "A": tensor([1.0, -1.0], dtype=f64), "entropies": tensor([[0.1, 0.2], [0.3, 0.4]], dtype=f64),
    "draws": tensor([[0.5, 0.2], [0.3, 0.1]], dtype=f64), "mask": torch.ones(2, 2, dtype=torch.bool),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_mask_of_the_whole_batch_adds_up_over_micro_batches_and_one_made_in_them_is_another(name):
    """Squares .09 .01 and .01 .01 have the mean .03, the first two alone .05; the entropies' whole upper half is row 2;
    an advantage that a micro-batch shares has no covariance there."""
    chosen, parts = WHOLE[name](SPLIT, slice(None)), (slice(0, 1), slice(1, 2))
    losses = importance_surrogate(SPLIT["log_probs"], SPLIT["old"], SPLIT["A"], SPLIT["mask"])
    count = SPLIT["mask"].sum()
    whole = token_mean(losses * chosen, SPLIT["mask"])
    summed = sum(token_mean((losses * chosen)[r], SPLIT["mask"][r], denominator=count) for r in parts)
    torch.testing.assert_close(summed, whole)
    assert not torch.equal(chosen, torch.cat([WHOLE[name](SPLIT, r) for r in parts]))


def test_a_weight_of_the_future_is_the_same_in_any_micro_batch():
    arguments = [SPLIT[k] for k in ("log_probs", "old", "A", "mask")]
    whole = future_kl_weights(*arguments, **FUTURE)
    parts = [future_kl_weights(*(x[a:b] for x in arguments), **FUTURE) for a, b in pairwise(range(3))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("name", ["high-entropy", "clip-cov", "kl-cov", "m2po"])
def test_a_row_that_judges_the_whole_batch_does_not_go_without(name, unchecked):
    recipe = RECIPES[name]
    given = recipe.used("loss", {"old_log_probs": SPLIT["old"], "sampler_log_probs": SPLIT["old"]})
    with pytest.raises(
        ValueError, match=r"token_weights: the recipe .* needs a weight for each token, .*, since tokens is"
    ):
        recipe.loss(SPLIT["log_probs"], SPLIT["A"], SPLIT["mask"], **given)
    for wrong in (SPLIT["draws"][:1], SPLIT["draws"][:, :1], SPLIT["mask"]):
        with pytest.raises(ValueError, match=r"token_weights: expected a floating-point tensor of shape \[2, 2\]"):
            recipe.loss(SPLIT["log_probs"], SPLIT["A"], SPLIT["mask"], **given, token_weights=wrong)


def test_the_mean_over_the_chosen_tokens_is_that_over_all_of_them_by_their_share():
    log_probs, known = SPLIT["log_probs"], {"entropies": SPLIT["entropies"]}
    for counted, denominator in (("chosen", 2), ("all", 4)):
        recipe = find(f"high-entropy:tokens.counted={counted}+tokens.share=0.5")
        weights = recipe.token_weights(log_probs, SPLIT["A"], SPLIT["mask"], **known)
        loss = recipe.loss(log_probs, SPLIT["A"], SPLIT["mask"], old_log_probs=log_probs, token_weights=weights)
        assert loss.value.item() == pytest.approx(2 / denominator)  # row 2: -1 * A for each of its two tokens
    with pytest.raises(ValueError, match="reduction: expected token-mean with high-entropy"):
        find("high-entropy:reduction=group-token-mean")
    with pytest.raises(ValueError, match="counted: expected 'all' or 'chosen', got 'some'"):
        find("high-entropy:tokens.counted=some").token_weights(log_probs, SPLIT["A"], SPLIT["mask"], **known)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_all_are_constants(kind):
    x = torch.rand(2, 3, dtype=kind, requires_grad=True)
    A, mask = torch.ones(2, dtype=kind), torch.ones(2, 3, dtype=torch.bool)
    found = [covariances(x, A, mask), future_kl_weights(x, x, A, mask, **FUTURE)]
    masks = [top_entropy_mask(x, mask, share=0.5), clip_cov_mask(x, x, mask, share=0.5, low=0.0, high=1.0)]
    masks += [kl_cov_mask(x, mask, share=0.5), second_moment_mask(x, 0 * x.detach(), A, mask, limit=0.1)]
    assert not any(y.requires_grad for y in (*found, *masks)) and all(m.dtype == torch.bool for m in masks)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("share", lambda x, A, m: top_entropy_mask(x, m, share=0.0)),
        ("share", lambda x, A, m: top_entropy_mask(x, m, share=1.1)),
        ("share", lambda x, A, m: kl_cov_mask(x, m, share=nan)),
        ("share", lambda x, A, m: clip_cov_mask(x, x, m, share=-0.1, low=0.0, high=1.0)),
        ("least", lambda x, A, m: kl_cov_mask(x, m, share=0.1, least=-1)),
        ("least", lambda x, A, m: kl_cov_mask(x, m, share=0.1, least=True)),
        ("low", lambda x, A, m: clip_cov_mask(x, x, m, share=0.1, low=-math.inf, high=1.0)),
        ("high", lambda x, A, m: clip_cov_mask(x, x, m, share=0.1, low=2.0, high=1.0)),
        ("spared", lambda x, A, m: clip_cov_mask(x, x, m, share=0.1, low=0.0, high=1.0, spared=m[:1])),
        ("spared", lambda x, A, m: clip_cov_mask(x, x, m, share=0.1, low=0.0, high=1.0, spared=x)),
        ("draws", lambda x, A, m: clip_cov_mask(x, x[:1], m, share=0.1, low=0.0, high=1.0)),
        ("entropies", lambda x, A, m: top_entropy_mask(x[0], m, share=0.1)),
        ("advantages", lambda x, A, m: covariances(x, A[:1], m)),
        ("mask", lambda x, A, m: covariances(x, A, m.float())),
        ("limit", lambda x, A, m: second_moment_mask(x, x, A, m, limit=-0.1)),
        ("old_log_probs", lambda x, A, m: second_moment_mask(x, x[:1], A, m, limit=0.1)),
        ("half_life", lambda x, A, m: future_kl_weights(x, x, A, m, half_life=0.0, epsilon=0.1, epsilon_high=0.1)),
        ("epsilon", lambda x, A, m: future_kl_weights(x, x, A, m, half_life=1.0, epsilon=1.1, epsilon_high=0.1)),
        ("epsilon_high", lambda x, A, m: future_kl_weights(x, x, A, m, half_life=1.0, epsilon=0.1, epsilon_high=-0.1)),
        ("limit", lambda x, A, m: future_kl_weights(x, x, A, m, **FUTURE, limit=-1.0)),
        ("reset", lambda x, A, m: future_kl_weights(x, x, A, m, **FUTURE, reset=nan)),
        ("advantages", lambda x, A, m: future_kl_weights(x, x, A[:2], m, **FUTURE)),
        ("spared", lambda x, A, m: clip_cov_mask(x, x, m, share=0.5, low=0.0, high=1.0, spared=[True])),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    x, A, mask = torch.rand(3, 2), torch.ones(3), torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        call(x, A, mask)
