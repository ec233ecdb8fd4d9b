"""core: log-probs, masks, reductions, the recurrence."""

import math

import pytest
import torch
from torch import inf, nan, tensor

from torchstone import core
from torchstone.core.inputs import number
from torchstone.core.logprobs import bounded_exp, bounded_expm1
from torchstone.core.masks import last_chosen
from torchstone.core.result import mean_of

f64 = torch.float64


def random(*shape, seed=0, dtype=f64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64).to(dtype)


# --- stage 2: masks


def test_completion_mask_keeps_the_first_end_token_even_where_padding_has_the_same_id():
    completions = tensor([[5, 2, 2, 2], [2, 5, 5, 2], [5, 5, 5, 5]])
    expected = tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert core.completion_mask(completions, eos_id=2).equal(expected)


def test_completion_mask_takes_several_end_tokens():
    assert core.completion_mask(tensor([[5, 7, 2, 5]]), eos_id=[2, 7]).tolist() == [[True, True, False, False]]


def test_completion_mask_makes_its_ids_where_the_completions_are(monkeypatch):
    seen, isin = [], torch.isin
    monkeypatch.setattr(torch, "isin", lambda *given: seen.extend(x.device.type for x in given) or isin(*given))
    core.completion_mask(torch.zeros(2, 3, dtype=torch.long, device="meta"), eos_id=1)
    assert seen == ["meta", "meta"]


def test_last_chosen_steps_over_gaps_and_leaves_empty_rows_empty():
    mask = tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert last_chosen(mask).tolist() == [[False, False, True, False], [False] * 4, [False] * 3 + [True]]


# --- stage 3: log-probs


def test_CORE_1_column_t_scores_token_t_plus_1():
    logits, tokens = random(2, 5, 4), tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]])
    before = core.next_token_log_probs(logits, tokens, temperature=1.0)
    assert before.shape == (2, 4)
    for b in range(2):
        for t in range(4):
            row = logits[b, t]
            by_hand = row[tokens[b, t + 1]] - math.log(sum(math.exp(z) for z in row.tolist()))
            assert before[b, t].item() == pytest.approx(by_hand.item(), abs=1e-12)
    for t in range(5):
        perturbed = logits.clone()
        perturbed[:, t, 0] += 1
        moved = core.next_token_log_probs(perturbed, tokens, temperature=1.0) != before
        assert all(moved[:, s].all() == (s == t) for s in range(4))


def test_token_ids_of_any_integer_type_are_taken():
    logits, targets = random(2, 3, 4), tensor([[0, 1, 2], [3, 0, 1]])
    for dtype in (torch.int32, torch.int16):
        same = core.token_log_probs(logits, targets.to(dtype), temperature=1.0)
        assert same.equal(core.token_log_probs(logits, targets, temperature=1.0))


def test_next_token_mask_pairs_with_next_token_log_probs():
    chosen = tensor([[False, False, True, True, False]])  # two prompt tokens, two chosen, one pad
    assert core.next_token_mask(chosen).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_CORE_2_log_probs_are_those_of_the_distribution_that_was_sampled(temperature):
    logits = random(1, 3, 4).requires_grad_()
    every_target = torch.arange(4)[:, None].expand(4, 3)
    log_probs = core.token_log_probs(logits.expand(4, 3, 4), every_target, temperature=temperature)
    torch.testing.assert_close(log_probs.exp().sum(0), torch.ones(3, dtype=f64))
    weights = torch.exp(logits.detach() / temperature)
    torch.testing.assert_close(log_probs.exp().T[None], weights / weights.sum(-1, keepdim=True))
    (grad,) = torch.autograd.grad(log_probs[2, 1], logits)
    one_hot = tensor([0, 0, 1, 0], dtype=f64)
    torch.testing.assert_close(grad[0, 1], (one_hot - log_probs[:, 1].exp().detach()) / temperature)
    assert (grad[0, [0, 2]] == 0).all()


def test_CORE_3_entropy_is_of_the_whole_distribution():
    uniform = core.token_entropies(torch.zeros(1, 1, 8, dtype=f64), temperature=1.0)
    assert uniform.item() == pytest.approx(math.log(8))
    p = tensor([0.5, 0.25, 0.125, 0.125], dtype=f64)
    coin = core.token_entropies(p.log()[None, None], temperature=1.0)
    assert coin.item() == pytest.approx(1.75 * math.log(2))
    hotter = core.token_entropies(2 * p.log()[None, None], temperature=2.0)
    torch.testing.assert_close(hotter, coin)
    assert torch.autograd.gradcheck(
        lambda z: core.token_entropies(z, temperature=0.7), random(2, 3, 4).requires_grad_()
    )


def test_a_token_that_cannot_be_chosen_adds_exactly_nothing_to_entropy_and_kl():
    possible, reference = random(1, 2, 3), random(1, 2, 3, seed=1)
    excluded = lambda x: torch.cat([x, torch.full((1, 2, 1), -inf, dtype=f64)], -1)  # noqa: E731
    for function in (
        lambda z: core.token_entropies(z, temperature=1.0),
        lambda z: core.kl_exact(z, excluded(reference) if z.shape[-1] == 4 else reference, temperature=1.0),
        lambda z: core.token_log_probs(z, tensor([[0, 2]]), temperature=1.0),
    ):
        small, large = possible.clone().requires_grad_(), excluded(possible).requires_grad_()
        one, two = function(small), function(large)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-15)
        one.sum().backward()
        two.sum().backward()
        torch.testing.assert_close(large.grad[..., :3], small.grad)
        assert (large.grad[..., 3] == 0).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_logits_are_computed_in_float32(half):
    logits, targets = 5 * random(2, 3, 50, dtype=half), torch.randint(50, (2, 3))
    exact = core.token_log_probs(logits.float(), targets, temperature=0.9)
    assert core.token_log_probs(logits, targets, temperature=0.9).equal(exact)
    assert core.token_entropies(logits, temperature=1.0).dtype == torch.float32


# --- far-off tokens


@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
def test_the_exponential_goes_on_as_its_tangent_above_20(dtype):
    x = tensor([-1000.0, -1.0, 0.0, 1e-6, 20.0, 20.5, 1000.0], dtype=dtype, requires_grad=True)
    e20 = math.exp(20)
    values = [0.0, math.exp(-1), 1.0, math.exp(1e-6), e20, 1.5 * e20, 981 * e20]
    slopes = [0.0, math.exp(-1), 1.0, math.exp(1e-6), e20, e20, e20]
    y = bounded_exp(x)
    torch.testing.assert_close(y, tensor(values, dtype=dtype))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], tensor(slopes, dtype=dtype))
    y = bounded_expm1(x)
    torch.testing.assert_close(
        y, tensor([math.expm1(v) for v in x.tolist()[:5]] + [1.5 * e20 - 1, 981 * e20 - 1], dtype=dtype)
    )
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], tensor(slopes, dtype=dtype))


@pytest.mark.parametrize("function", [bounded_exp, bounded_expm1])
def test_the_short_backward_pass_is_the_plain_one(function):
    x = torch.linspace(-30, 19.9, 50, dtype=f64, requires_grad=True)
    plain = {bounded_exp: torch.exp, bounded_expm1: torch.expm1}[function]
    one, other = (torch.autograd.grad(f(x).sum(), x, create_graph=True)[0] for f in (function, plain))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(*(torch.autograd.grad(g.sum(), x)[0] for g in (one, other)))  # and once more
    above = torch.linspace(20.1, 40, 50, dtype=f64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x) / math.exp(20), above)


# --- stage 5: the recurrence, whitening


def loop(inputs, decays):
    x, out = torch.zeros(len(inputs), dtype=f64), torch.zeros_like(inputs, dtype=f64)
    for t in reversed(range(inputs.shape[1])):
        x = out[:, t] = inputs[:, t].double() + decays[:, t].double() * x
    return out


@pytest.mark.parametrize("columns", [0, 1, 2, 3, 8, 13])
def test_CORE_10_the_recurrence_equals_the_loop(columns):
    inputs, decays = random(3, columns), torch.rand(3, columns, dtype=f64)
    torch.testing.assert_close(core.linear_recurrence(inputs, decays), loop(inputs, decays))


def test_CORE_10_the_recurrence_is_as_accurate_as_a_loop_over_a_long_row():
    inputs = random(2, 16384, dtype=torch.float32)
    decays = torch.full_like(inputs, 0.999)
    exact = loop(inputs, decays)
    error = (core.linear_recurrence(inputs, decays) - exact).abs().max() / exact.abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("columns", [0, 1, 2, 5, 8])
def test_CORE_10_the_recurrence_has_a_gradient(columns):
    inputs, decays = random(2, columns).requires_grad_(), torch.rand(2, columns, dtype=f64).requires_grad_()
    assert torch.autograd.gradcheck(core.linear_recurrence, (inputs, decays))
    assert torch.autograd.gradgradcheck(core.linear_recurrence, (inputs, decays))


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("columns", [7, 1000, 16384])
def test_CORE_10_the_fast_form_is_the_loop_in_value_and_gradient(decay, columns):
    inputs, weights = random(2, columns, dtype=torch.float32), random(2, columns, seed=1, dtype=torch.float32)
    decays = torch.full_like(inputs, decay).masked_fill(random(2, columns, seed=2) > 3, 0.0).requires_grad_()
    fast = core.linear_recurrence(inputs.requires_grad_(), decays)
    gradients = torch.autograd.grad((fast * weights).sum(), (inputs, decays))
    x = loop(inputs.detach(), decays.detach())
    by_input = loop(weights.flip(1), decays.detach().roll(1, 1).flip(1)).flip(1)  # d x_s / d inputs_t: from the left
    exact = (x, by_input, by_input * torch.nn.functional.pad(x[:, 1:], (0, 1)))
    for one, other in zip((fast.detach(), *gradients), exact, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_CORE_10_mixed_precisions_are_computed_in_the_wider_one():
    inputs, decays = random(2, 5), random(2, 5, seed=1)
    for single in (0, 1):
        given = [x.float().to((torch.float32, f64)[i != single]) for i, x in enumerate((inputs, decays))]
        found = core.linear_recurrence(*given)
        assert found.dtype == f64
        torch.testing.assert_close(found, core.linear_recurrence(*(x.to(f64) for x in given)), rtol=0, atol=0)


def test_CORE_10_expanded_and_transposed_inputs_are_read_and_not_written():
    column, turned = random(6, 1), random(4, 6).T
    before = column.clone(), turned.clone()
    torch.testing.assert_close(core.linear_recurrence(column.expand(6, 4), turned), loop(column.expand(6, 4), turned))
    torch.testing.assert_close(core.linear_recurrence(column, column), column)
    assert column.equal(before[0]) and turned.equal(before[1])


def test_CORE_9_whitening_is_by_the_textbook():
    x, mask = tensor([[1.0, 2.0, nan], [4.0, nan, 9.0]], dtype=f64), tensor([[1, 1, 0], [1, 0, 1]]).bool()
    chosen = [1.0, 2.0, 4.0, 9.0]  # mean 4, squared deviations 9 + 4 + 0 + 25 = 38
    for correction, variance in ((0, 38 / 4), (1, 38 / 3)):
        white = core.masked_whiten(x, mask, correction=correction, eps=0.5)
        by_hand = [(v - 4) / math.sqrt(variance + 0.5) for v in chosen]
        torch.testing.assert_close(white[mask], tensor(by_hand, dtype=f64))
        kept = core.masked_whiten(x, mask, correction=correction, eps=0.5, keep_mean=True)
        torch.testing.assert_close(kept[mask], tensor(by_hand, dtype=f64) + 4)
        assert (white[~mask] == 0).all() and (kept[~mask] == 0).all()


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 1e8])
@pytest.mark.parametrize("eps", [0.0, 1e-9])
def test_whitening_equal_values_gives_exactly_zero(value, eps):
    mask = torch.ones(16, 8, dtype=torch.bool)
    for m in (mask, mask & (torch.arange(8) < 1)[None], torch.eye(16, 8).bool() & (torch.arange(16) < 1)[:, None]):
        assert (core.masked_whiten(torch.full((16, 8), value), m, correction=1, eps=eps) == 0).all()
    assert core.masked_whiten(torch.zeros(0, 4), torch.zeros(0, 4).bool(), correction=1, eps=eps).shape == (0, 4)


# --- stage 6: four reductions, four numbers

X = tensor([[1.0, nan, nan], [3.0, 4.0, 5.0]], dtype=f64)
MASK = tensor([[1, 0, 0], [1, 1, 1]]).bool()


def test_CORE_5_token_mean_weighs_every_token_the_same():
    assert core.token_mean(X, MASK).item() == 13 / 4


def test_CORE_6_sequence_mean_weighs_every_sequence_the_same():
    assert core.sequence_mean(X, MASK).item() == (1 + 4) / 2


def test_CORE_7_sequence_sum_adds_up_each_sequence():
    assert core.sequence_sum(X, MASK).item() == (1 + 12) / 2


def test_CORE_8_fixed_length_mean_divides_every_sequence_by_the_same_length():
    assert core.fixed_length_mean(X, MASK, length=4).item() == (1 / 4 + 12 / 4) / 2
    assert core.fixed_length_mean(X, MASK, length=1).item() == (1 + 12) / 2
    twice = core.fixed_length_mean(X.repeat(2, 1), MASK.repeat(2, 1), length=4)
    assert twice == core.fixed_length_mean(X, MASK, length=4)


@pytest.mark.parametrize("reduce", [core.token_mean, core.sequence_mean, core.sequence_sum])
def test_a_denominator_of_zero_gives_zero_and_a_negative_one_an_error(reduce, unchecked):
    for zero in (0, 0.0, tensor(0)):
        x = X.clone().requires_grad_()
        reduce(x, MASK, denominator=zero).backward()
        assert (x.grad == 0).all()
    with pytest.raises(ValueError, match="denominator"):
        reduce(X, MASK, denominator=-1)


def test_a_denominator_is_not_rounded():
    for denominator in (0.1, tensor(0.1, dtype=f64)):
        assert core.token_mean(X.to(f64), MASK, denominator=denominator).item() == pytest.approx(13 / 0.1, rel=1e-15)


@pytest.mark.parametrize("value", [inf, -inf, nan, True, "1", None])
def test_a_number_is_finite_and_no_flag(value):
    number("x", -1e300)
    with pytest.raises(ValueError, match=r"^x: expected a finite number, got"):
        number("x", value)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"above": 0}, "a finite number above 0"),
        ({"at_least": 0}, "a finite number >= 0"),
        ({"at_least": 2, "at_most": 3}, "a finite number >= 2 and <= 3"),
        ({"above": 1, "at_most": 1.5}, "a finite number above 1 and <= 1.5"),
    ],
)
def test_an_error_says_the_limits_of_a_number(limits, says):
    for wrong in (-1, 0.0 if "above" in limits else -0.5, 9.0 if "at_most" in limits else math.inf):
        with pytest.raises(ValueError) as error:
            number("x", wrong, **limits)
        assert str(error.value) == f"x: expected {says}, got {wrong}"
    number("x", 1.25 if "above" in limits else 2, **limits)


def test_a_mean_of_flags_is_a_share():
    share = mean_of(tensor([True, False, True, True]), tensor([True, True, True, False]))
    assert float(share) == pytest.approx(2 / 3) and share.total.is_floating_point()


def test_a_mean_remembers_its_weight():
    m, n = core.Mean(tensor(6.0), tensor(2.0)), core.Mean(tensor(0.0), tensor(4.0))
    assert (float(m), float(n), float(m + n)) == (3.0, 0.0, 1.0)
    assert float(core.Mean(tensor(0.0), tensor(0.0))) == 0.0


# --- bad input

LOGITS, TARGETS = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("temperature", lambda: core.token_log_probs(LOGITS, TARGETS, temperature=0.0)),
        ("temperature", lambda: core.token_entropies(LOGITS, temperature=-1.0)),
        ("temperature", lambda: core.kl_exact(LOGITS, LOGITS, temperature=nan)),
        ("targets", lambda: core.token_log_probs(LOGITS, TARGETS[:, :2], temperature=1.0)),
        ("targets", lambda: core.token_log_probs(LOGITS, TARGETS.float(), temperature=1.0)),
        ("logits", lambda: core.token_log_probs(LOGITS[0], TARGETS, temperature=1.0)),
        ("logits", lambda: core.token_log_probs(LOGITS.long(), TARGETS, temperature=1.0)),
        ("tokens", lambda: core.next_token_log_probs(LOGITS, TARGETS[:, 1:], temperature=1.0)),
        ("ref_logits", lambda: core.kl_exact(LOGITS, LOGITS[:, :, :3], temperature=1.0)),
        ("temperature", lambda: core.token_log_probs(LOGITS, TARGETS, temperature=math.inf)),
        ("temperature", lambda: core.token_log_probs(LOGITS, TARGETS, temperature=None)),
        ("targets", lambda: core.token_log_probs(LOGITS, TARGETS.bool(), temperature=1.0)),
        ("tokens", lambda: core.next_token_log_probs(LOGITS, [[1, 2, 3]], temperature=1.0)),
        ("logits", lambda: core.next_token_log_probs(TARGETS, TARGETS, temperature=1.0)),
        ("chosen", lambda: core.next_token_mask(TARGETS)),
        ("chosen", lambda: core.next_token_mask(TARGETS.bool()[0])),
        ("eos_id", lambda: core.completion_mask(TARGETS, eos_id=None)),
        ("eos_id", lambda: core.completion_mask(TARGETS, eos_id=[1, 2.5])),
        ("denominator", lambda: core.token_mean(X, MASK, denominator=tensor([1.0, 2.0]))),
        ("denominator", lambda: core.token_mean(X, MASK, denominator=nan)),
        ("correction", lambda: core.masked_whiten(X, MASK, correction=-1, eps=0.0)),
        ("completions", lambda: core.completion_mask(LOGITS[0], eos_id=0)),
        ("eos_id", lambda: core.completion_mask(TARGETS, eos_id=[])),
        ("length", lambda: core.fixed_length_mean(X, MASK, length=0)),
        ("correction", lambda: core.masked_whiten(X, MASK, correction=2, eps=0.0)),
        ("correction", lambda: core.masked_whiten(X, MASK, correction=True, eps=0.0)),
        ("eps", lambda: core.masked_whiten(X, MASK, correction=0, eps=-1.0)),
        ("decays", lambda: core.linear_recurrence(X, X[:, :1])),
    ],
)
def test_bad_input_is_named(argument, call, unchecked):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        call()
