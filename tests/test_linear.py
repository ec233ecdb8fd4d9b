"""fast/linear.py: the numbers and gradients of the full logits, without the full logits."""

import itertools
import math
import weakref
from functools import partial

import pytest
import torch
from torch import inf, nan
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone import core, grpo
from torchstone.fast import linear

f64 = torch.float64
B, T, H, V = 2, 5, 3, 11


def random(*shape, seed=0, dtype=f64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=f64).to(dtype)


def head(dtype=f64, width=H, vocabulary=V):
    """hidden, weight, bias, all of them leaves, and targets; the first and last ids are among them."""
    leaves = random(B, T, width), random(vocabulary, width, seed=1), random(vocabulary, seed=2)
    hidden, weight, bias = (x.to(dtype).requires_grad_() for x in leaves)
    targets = torch.randint(vocabulary, (B, T), generator=torch.Generator().manual_seed(3))
    targets[0, 0], targets[-1, -1] = 0, vocabulary - 1
    return hidden, weight, bias, targets


def plain(hidden, weight, targets, *, temperature, bias=None):
    """Log-probs and entropies through the full logits."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    log_probs = core.token_log_probs(logits, targets, temperature=temperature)
    return log_probs, core.token_entropies(logits, temperature=temperature)


def same(ours, theirs, inputs, atol=1e-12, rtol=1e-12):
    """Both pairs agree, and so do their gradients for some incoming gradient."""
    upstream = [random(*x.shape, seed=4 + i, dtype=x.dtype) for i, x in enumerate(ours)]
    ours = [*ours, *torch.autograd.grad(ours, inputs, upstream, materialize_grads=True)]
    theirs = [*theirs, *torch.autograd.grad(theirs, inputs, upstream, materialize_grads=True, retain_graph=True)]
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=atol, rtol=rtol)


@pytest.fixture(params=[1, 2, 9, 20, 33, 10**6], ids="tile {}".format)
def tile(request, monkeypatch):
    """Tiles of one logit, of some rows and columns (with a rest, and without), and of everything."""
    monkeypatch.setattr(linear, "TILE", {"cpu": request.param})


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *(x.untyped_storage().nbytes() // x.element_size() for x in made)])
        return out


# --- the general form


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_CORE_4_values_and_gradients_are_those_of_the_full_logits(tile, with_bias, temperature):
    hidden, weight, bias, targets = head()
    options = {"temperature": temperature, "bias": bias if with_bias else None}
    expected = plain(hidden, weight, targets, **options)
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    same([core.linear_log_probs(hidden, weight, targets, **options)], expected[:1], inputs)
    same(core.linear_log_probs_and_entropies(hidden, weight, targets, **options), expected, inputs)


@pytest.mark.parametrize("tile_size", [2**10, 2**20])
def test_float32_is_as_accurate_as_the_full_logits(monkeypatch, tile_size):
    monkeypatch.setattr(linear, "TILE", {"cpu": tile_size})
    hidden, weight, bias, targets = head(torch.float32, width=16, vocabulary=3000)
    exact = plain(*(x.double() for x in (hidden, weight)), targets, temperature=0.3, bias=bias.double())
    ours = core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=0.3, bias=bias)
    exact = [x.float() for x in exact]
    same(ours, exact, [hidden, weight, bias], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)), ids=str)
def test_only_the_gradients_asked_for_are_worked_out(needed, monkeypatch):
    monkeypatch.setattr(linear, "TILE", {"cpu": 20})
    *leaves, targets = head()
    leaves = [x.detach().requires_grad_(need) for x, need in zip(leaves, needed, strict=True)]
    hidden, weight, bias = leaves
    log_probs = core.linear_log_probs(hidden, weight, targets, temperature=0.7, bias=bias)
    assert log_probs.requires_grad == any(needed)
    if any(needed):
        inputs = [x for x in leaves if x.requires_grad]
        same([log_probs], plain(hidden, weight, targets, temperature=0.7, bias=bias)[:1], inputs)
        largest = Largest()
        with largest:
            core.linear_log_probs(hidden, weight, targets, temperature=0.7, bias=bias).sum().backward()
        assert largest.numel <= max(x.numel() for x in (hidden, *inputs))  # no room for the gradient of a frozen head
        assert [x.grad is not None for x in leaves] == list(needed)


@pytest.mark.parametrize("size", [1, 2, 9, 20, 10**6])
@pytest.mark.parametrize("rows", [0, 1, 10])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tiles_cover_all_logits_once_and_none_is_larger_than_its_limit(monkeypatch, size, rows, device):
    limit = {"cpu": size} if device == "cpu" else {}
    monkeypatch.setattr(linear, "TILE", limit)
    monkeypatch.setattr(linear, "TILE_ELSEWHERE", size)
    hidden, weight = random(rows, H).to(device), random(V, H).to(device)
    seen = torch.zeros(rows, V, dtype=torch.long)
    for r, c, w, z in linear._tiles(hidden, weight, None, 1.0):
        assert z.shape == (r.stop - r.start, c.stop - c.start) and z.numel() <= size and len(w) == z.shape[1]
        assert rows == 0 or z.numel() > 0
        seen[r, c] += 1
    assert (seen == 1).all()


def test_there_is_room_only_for_the_gradients_asked_for_and_only_they_can_be_differentiated():
    hidden, weight, bias, targets = head()
    for needed in itertools.product([False, True], repeat=3):
        room = linear._room(hidden, weight, bias, list(needed))
        assert [x is not None for x in room] == list(needed)
    flat = hidden.reshape(-1, H), weight, bias, targets.flatten(), 1.0
    for entropies in (False, True):
        found = linear._LinearLogProbs.apply(*flat, entropies)
        assert [x.requires_grad for x in found] == [True, False, entropies]


def test_a_tied_head_gets_both_gradients():
    embedding, ids = random(V, H).requires_grad_(), torch.randint(V, (B, T))
    both = [
        f(torch.nn.functional.embedding(ids, embedding).tanh(), embedding, ids.flip(1), temperature=0.7)
        for f in (lambda *a, **k: [core.linear_log_probs(*a, **k)], lambda *a, **k: plain(*a, **k)[:1])
    ]
    same(*both, [embedding])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_hidden_states_and_weights_are_computed_in_float32(tile, half):
    hidden, weight, bias, targets = head(half)
    full = [x.detach().float().requires_grad_() for x in (hidden, weight, bias)]
    ours = core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=0.9, bias=bias)
    exact = core.linear_log_probs_and_entropies(*full[:2], targets, temperature=0.9, bias=full[2])
    assert all(one.equal(two) for one, two in zip(ours, exact, strict=True))
    (ours[0] + ours[1]).sum().backward()
    (exact[0] + exact[1]).sum().backward()
    for x, y in zip((hidden, weight, bias), full, strict=True):
        assert x.grad.dtype == half and x.grad.equal(y.grad.to(half))


def test_mixed_dtypes_are_computed_in_the_wider_one():
    hidden, weight, bias, targets = head()
    for dtypes in itertools.product((torch.bfloat16, torch.float32, f64), repeat=2):
        h, w = (x.detach().to(dtype).requires_grad_() for x, dtype in zip((hidden, weight), dtypes, strict=True))
        wide = torch.promote_types(torch.promote_types(*dtypes), torch.float32)
        log_probs = core.linear_log_probs(h, w, targets, temperature=1.0, bias=bias)
        assert log_probs.dtype == wide
        log_probs.sum().backward()
        assert (h.grad.dtype, w.grad.dtype) == dtypes


def test_strided_and_expanded_tensors_give_the_same_numbers(tile):
    hidden, weight, bias, targets = head()
    hidden, weight = (x.detach().mT.contiguous().requires_grad_() for x in (hidden, weight))
    row, scalar = random(1, 1, H).requires_grad_(), random(1).requires_grad_()
    for h, w, b in ((hidden.mT, weight.mT, bias[::1]), (row.expand(B, T, H), scalar.expand(V, H), scalar.expand(V))):
        inputs = [hidden, weight, bias] if b.is_contiguous() else [row, scalar]
        expected = plain(h, w, targets.T.contiguous().T, temperature=0.7, bias=b)
        same(core.linear_log_probs_and_entropies(h, w, targets, temperature=0.7, bias=b), expected, inputs)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_an_empty_batch_gives_empty_values_and_zero_gradients(shape):
    _, weight, bias, _ = head()
    hidden, targets = torch.zeros(*shape, H, dtype=f64).requires_grad_(), torch.zeros(shape, dtype=torch.long)
    for values in core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=1.0, bias=bias):
        assert values.shape == shape
        values.sum().backward(retain_graph=True)
    loss = core.linear_loss(hidden, weight, targets, summed, temperature=1.0)
    loss.value.backward()
    assert loss.value == 0 and hidden.grad.shape == hidden.shape
    assert (weight.grad == 0).all() and (bias.grad == 0).all()


def test_an_excluded_token_contributes_exactly_nothing(tile):
    hidden, weight, bias, targets = head()
    kept = [0, 2, 10]  # whole tiles of columns are excluded
    shut = torch.full((V,), -inf, dtype=f64)
    shut[kept] = bias.detach()[kept]
    shut.requires_grad_()
    targets = torch.tensor(kept)[targets % 3]
    ours = core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=0.7, bias=shut)
    same(ours, plain(hidden, weight, targets, temperature=0.7, bias=shut), [hidden, weight, shut])
    log_probs, entropies = core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=0.7, bias=shut)
    (log_probs + entropies).sum().backward()
    out = [v for v in range(V) if v not in kept]
    assert (weight.grad[out] == 0).all() and (shut.grad[out] == 0).all()


def test_every_target_is_found_whatever_tile_it_lies_in(tile):
    hidden, weight, bias, _ = head()
    for target in range(V):
        targets = torch.full((B, T), target)
        ours = core.linear_log_probs(hidden, weight, targets, temperature=0.7, bias=bias)
        same([ours], plain(hidden, weight, targets, temperature=0.7, bias=bias)[:1], [hidden, weight, bias])


def test_huge_logits_neither_overflow_nor_vanish(tile):
    hidden, weight, bias, targets = head()
    ours = core.linear_log_probs_and_entropies(1e4 * hidden, weight, targets, temperature=0.7, bias=bias)
    expected = plain(1e4 * hidden, weight, targets, temperature=0.7, bias=bias)
    same(ours, expected, [hidden, weight, bias], atol=1e-9, rtol=1e-11)


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(linear, "TILE", {"cpu": 20})
    hidden, weight, bias, targets = head()
    both = lambda h, w, b: core.linear_log_probs_and_entropies(h, w, targets, temperature=0.7, bias=b)  # noqa: E731
    assert torch.autograd.gradcheck(both, (hidden, weight, bias))


def test_the_full_logits_are_never_held():
    hidden, weight, targets = random(4, 256, 8).requires_grad_(), random(8192, 8).requires_grad_(), torch.zeros(4, 256)
    largest = Largest()
    with largest:
        both = core.linear_log_probs_and_entropies(hidden, weight, targets.long(), temperature=1.0)
        (both[0] + both[1]).sum().backward()
    assert largest.numel <= 2**20 < 4 * 256 * 8192 / 7
    largest.numel = 0
    with largest:
        core.linear_loss(hidden, weight, targets.long(), summed, temperature=1.0).value.backward()
    assert largest.numel <= 0.15 * 4 * 256 * 8192


def test_a_half_weight_is_never_converted_as_a_whole(monkeypatch):
    monkeypatch.setattr(linear, "TILE", {"cpu": 100})
    hidden, weight, bias, targets = (x if x.dtype == torch.long else x.detach() for x in head(torch.bfloat16))
    largest = Largest()
    converted = []
    plain_to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a, **k: converted.append(x.shape) or plain_to(x, *a, **k))
    with largest:
        core.linear_log_probs(hidden.requires_grad_(), weight, targets, temperature=1.0, bias=bias).sum().backward()
    assert (V, H) not in converted and (10, H) in converted


def test_a_second_derivative_is_an_error():
    hidden, weight, _, targets = head()
    log_probs = core.linear_log_probs(hidden, weight, targets, temperature=1.0)
    (gradient,) = torch.autograd.grad(log_probs.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_log_probs has no second derivative"):
        gradient.sum().backward()
    value = core.linear_loss(hidden, weight, targets, summed, temperature=1.0).value
    with pytest.raises(RuntimeError, match="linear_loss has no second derivative"):
        torch.autograd.grad(value, hidden, create_graph=True)


def test_torch_func_takes_its_gradient():
    hidden, weight, bias, targets = (x.detach() for x in head())
    total = lambda f, h: f(h, weight, targets, temperature=0.7, bias=bias)  # noqa: E731
    ours = torch.func.grad(lambda h: total(core.linear_log_probs, h).sum())(hidden)
    torch.testing.assert_close(ours, torch.func.grad(lambda h: total(plain, h)[0].sum())(hidden))


def test_autocast_does_not_lower_the_precision():
    hidden, weight, bias, targets = head(torch.float32)
    exact = core.linear_log_probs(hidden, weight, targets, temperature=0.7, bias=bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert core.linear_log_probs(hidden, weight, targets, temperature=0.7, bias=bias).equal(exact)
        fused = core.linear_loss(hidden, weight, targets, summed, temperature=0.7, bias=bias).value
        found = torch.autograd.grad(fused, (hidden, weight, bias))
    torch.testing.assert_close(fused, exact.sum())
    for one, two in zip(found, torch.autograd.grad(exact.sum(), (hidden, weight, bias)), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_entropies_are_worked_out_only_if_asked_for(monkeypatch):
    hidden, weight, _, targets = head()
    seen, forward = [], linear._forward
    monkeypatch.setattr(linear, "_forward", lambda *given: seen.append((given[-1], forward(*given)[2].shape)) or
                        forward(*given))  # fmt: skip
    core.linear_log_probs(hidden, weight, targets, temperature=1.0)
    core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=1.0)
    assert seen == [(False, (0,)), (True, (B * T,))]


def test_inputs_are_not_modified_and_a_graph_can_be_used_twice():
    inputs = head()
    before = [x.detach().clone() for x in inputs]
    hidden, weight, bias, targets = inputs
    both = core.linear_log_probs_and_entropies(hidden, weight, targets, temperature=0.7, bias=bias)
    first, second = (torch.autograd.grad(both[0].sum(), hidden, retain_graph=True)[0] for _ in range(2))
    assert first.equal(second) and all(x.equal(y) for x, y in zip(inputs, before, strict=True))


# --- the fused form


def summed(log_probs, *_):
    return core.Loss(log_probs.sum(), {})


@pytest.fixture(params=[1, 3, 4, 128], ids="{} rows".format)
def chunks(request, monkeypatch):
    monkeypatch.setattr(linear, "LOSS_ROWS", request.param)
    monkeypatch.setattr(linear, "LOSS_LOGITS", 1)
    monkeypatch.setattr(linear, "LOSS_COLUMNS", 4)


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_fused_loss_is_the_loss_of_the_log_probs(chunks, with_bias):
    hidden, weight, bias, targets = head()
    options = {"temperature": 0.7, "bias": bias if with_bias else None}
    old, advantages, mask = random(B, T, seed=5) - 2, random(B, T, seed=6), random(B, T, seed=7) > -0.5
    mask[0, :4] = False  # a chunk may have nothing to count
    old[~mask] = nan
    reduce = partial(core.token_mean, denominator=mask.sum())
    loss = lambda x, old, ref, a, m: grpo.grpo_loss(  # noqa: E731
        x, old, a, m, reduce=reduce, epsilon=0.2, beta=0.1, ref_log_probs=ref
    )
    others = old, random(B, T, seed=8) - 2, advantages, mask
    expected = loss(plain(hidden, weight, targets, **options)[0], *others)
    fused = core.linear_loss(hidden, weight, targets, loss, *others, **options)
    assert fused.metrics.keys() == expected.metrics.keys()
    for name, metric in expected.metrics.items():
        assert float(fused.metrics[name]) == pytest.approx(float(metric), abs=1e-12)
    same([fused.value], [expected.value], [hidden, weight, *([bias] if with_bias else [])])


@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)), ids=str)
def test_a_fused_loss_works_out_only_the_gradients_asked_for(chunks, needed):
    *leaves, targets = head()
    hidden, weight, bias = (x.detach().requires_grad_(need) for x, need in zip(leaves, needed, strict=True))
    fused = core.linear_loss(hidden, weight, targets, summed, temperature=0.7, bias=bias).value
    expected = plain(hidden, weight, targets, temperature=0.7, bias=bias)[0].sum()
    torch.testing.assert_close(fused, expected)
    assert fused.requires_grad == any(needed)
    if any(needed):
        same([fused], [expected], [x for x in (hidden, weight, bias) if x.requires_grad])
    with torch.no_grad():
        fused = core.linear_loss(hidden, weight, targets, summed, temperature=0.7, bias=bias).value
    assert not fused.requires_grad and fused == pytest.approx(expected.item())


def test_a_fused_loss_of_a_frozen_model_needs_no_gradient(monkeypatch):
    seen, room = [], linear._room
    monkeypatch.setattr(linear, "_room", lambda *given: seen.append(given[3]) or room(*given))
    hidden, weight, _, targets = head()
    constant = lambda log_probs, *_: core.Loss(log_probs.detach().sum(), {})  # noqa: E731
    core.linear_loss(hidden.detach(), weight.detach(), targets, constant, temperature=1.0)
    core.linear_loss(hidden, weight.detach(), targets, summed, temperature=1.0)
    with torch.no_grad():
        core.linear_loss(hidden, weight, targets, constant, temperature=1.0)
    assert seen == [[False] * 3, [True, False, False], [False] * 3]


def test_a_fused_loss_of_many_rows_takes_an_eighth_of_them_at_once():
    seen = []
    count = lambda log_probs, *_: seen.append(log_probs.numel()) or core.Loss(log_probs.sum(), {})  # noqa: E731
    hidden, targets = random(4, 300, H), torch.zeros(4, 300, dtype=torch.long)
    core.linear_loss(hidden, random(V, H), targets, count, temperature=1.0)
    assert seen == [150] * 8


@pytest.mark.parametrize("vocabulary", [1, V])
def test_a_fused_loss_of_many_logits_is_held_to_its_limit(monkeypatch, vocabulary):
    monkeypatch.setattr(linear, "LOSS_ROWS", 1)
    monkeypatch.setattr(linear, "LOSS_LOGITS", 5 * vocabulary - 1)
    seen = []
    count = lambda log_probs, *_: seen.append(log_probs.numel()) or core.Loss(log_probs.sum(), {})  # noqa: E731
    hidden, targets = random(4, 10, H), torch.zeros(4, 10, dtype=torch.long)
    core.linear_loss(hidden, random(vocabulary, H), targets, count, temperature=1.0)
    assert seen == [4] * 10
    core.linear_loss(hidden[:1, :1], random(vocabulary, H), targets[:1, :1], count, temperature=1.0)
    assert seen == [4] * 10 + [1]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_a_fused_loss_of_half_inputs_is_computed_in_float32(chunks, half):
    hidden, weight, bias, targets = head(half)
    full = [x.detach().float().requires_grad_() for x in (hidden, weight, bias)]
    ours = core.linear_loss(hidden, weight, targets, summed, temperature=0.9, bias=bias).value
    exact = core.linear_loss(full[0], full[1], targets, summed, temperature=0.9, bias=full[2]).value
    assert ours.equal(exact)
    ours.backward()
    exact.backward()
    for x, y in zip((hidden, weight, bias), full, strict=True):
        assert x.grad.dtype == half and x.grad.equal(y.grad.to(half))


def test_a_fused_loss_excludes_tokens_exactly(chunks):
    hidden, weight, bias, _ = head()
    shut = bias.detach().masked_fill(torch.arange(V) < 5, -inf).requires_grad_()
    targets = torch.full((B, T), 7)
    fused = core.linear_loss(hidden, weight, targets, summed, temperature=0.7, bias=shut).value
    expected = plain(hidden, weight, targets, temperature=0.7, bias=shut)[0].sum()
    same([fused], [expected], [hidden, weight, shut])


def test_the_gradient_of_a_fused_loss_is_handed_out_once():
    hidden, weight, _, targets = head()
    value = core.linear_loss(hidden, weight, targets, summed, temperature=1.0).value
    (3 * value).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands out its gradients once"):
        value.backward()


def test_checkpointing_does_not_start_the_loop_again_for_each_chunk(monkeypatch):
    monkeypatch.setattr(linear, "LOSS_ROWS", 2)
    hidden, weight, _, targets = head()
    calls = []
    counted = lambda log_probs, *_: calls.append(1) or core.Loss(log_probs.square().sum(), {})  # noqa: E731
    compute = lambda h, w: core.linear_loss(h, w, targets, counted, temperature=1.0).value  # noqa: E731
    expected = torch.autograd.grad(compute(hidden, weight), (hidden, weight))
    chunks = len(calls)
    value = torch.utils.checkpoint.checkpoint(compute, hidden, weight, use_reentrant=False)
    found = torch.autograd.grad(value, (hidden, weight))
    assert len(calls) == 3 * chunks > 3
    torch.testing.assert_close(found, expected)


def test_a_fused_gradient_of_half_weights_is_scaled_before_it_is_rounded():
    """As a loss scaler needs it: 2^-20 of this gradient is 0 in float16."""
    hidden, weight, _, targets = head(torch.float16)
    tiny = lambda log_probs, *_: core.Loss(2.0**-26 * log_probs.sum(), {})  # noqa: E731
    value = core.linear_loss(hidden, weight, targets, tiny, temperature=1.0).value
    (scaled,) = torch.autograd.grad(2.0**26 * value, weight)
    value = core.linear_loss(hidden, weight, targets, summed, temperature=1.0).value
    assert scaled.dtype == torch.float16
    torch.testing.assert_close(scaled, torch.autograd.grad(value, weight)[0])


def test_a_metric_that_only_some_chunks_report_is_kept(monkeypatch):
    monkeypatch.setattr(linear, "LOSS_ROWS", 2)
    hidden, weight, _, targets = head()
    one, seen = torch.ones(()), []

    def first(log_probs, *_):
        seen.append(1)
        return core.Loss(log_probs.sum(), {"first": core.Mean(one, one)} if len(seen) == 1 else {})

    assert float(core.linear_loss(hidden, weight, targets, first, temperature=1.0).metrics["first"]) == 1
    assert len(seen) > 1


# --- bfloat16 on a GPU: factors as they are, sums in float32. No GPU here: the product is emulated, then only faked


def bfloat16_head():
    return [x.detach().requires_grad_() if x.is_floating_point() else x for x in head(torch.bfloat16, 16, 40)]


def everything(hidden, weight, bias, targets):
    """Log-probs, log-probs with entropies, a fused loss, and the gradients of all to hidden, weight and bias."""
    options, upstream = {"temperature": 0.7, "bias": bias}, random(*targets.shape, seed=9).to(hidden.device)
    log_probs = core.linear_log_probs(hidden, weight, targets, **options)
    both = core.linear_log_probs_and_entropies(hidden, weight, targets, **options)
    fused = core.linear_loss(hidden, weight, targets, lambda x, u: core.Loss((u * x).sum(), {}), upstream, **options)
    totals = (upstream * log_probs).sum(), (upstream * (both[0] + both[1])).sum(), fused.value
    return [log_probs, *both, fused.value], [torch.autograd.grad(x, (hidden, weight, bias)) for x in totals]


@pytest.mark.parametrize("confident", [False, True])
def test_bfloat16_factors_round_only_the_gradient_of_the_logits(tile, chunks, monkeypatch, confident):
    hidden, weight, bias, targets = bfloat16_head()
    if confident:  # p near 1: what is rounded must be p - 1, not p
        bias.data[7], targets = 12, torch.full((B, T), 7)
    full = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    exact, exact_gradients = everything(*full, targets)
    mm, seen = torch.mm, []

    def emulated(a, b, *, out_dtype, out):
        seen.append((a.dtype, b.dtype, out_dtype, out.dtype, out.stride(1)))
        return mm(a.float(), b.float(), out=out)

    monkeypatch.setattr(torch, "mm", emulated)
    monkeypatch.setattr(linear, "WIDE_SUMS", ["cpu"])
    ours, gradients = everything(hidden, weight, bias, targets)
    assert set(seen) == {(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32, 1)}
    for one, two in zip(ours, exact, strict=True):  # values: products of bfloat16 numbers are exact in float32
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-5, check_dtype=False)
    for one, two in zip(itertools.chain(*gradients), itertools.chain(*exact_gradients), strict=True):
        # two roundings to 8 bits, of dL/dz and of the result, by 2**-9 at most each; the first averages out in a sum
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.double(), two, rtol=2**-8, atol=2**-8 * two.abs().max().item())


def test_float16_and_a_mixed_pair_are_still_multiplied_in_float32(monkeypatch):
    monkeypatch.setattr(linear, "WIDE_SUMS", ["cpu"])
    for dtypes in itertools.product(linear.FLOATS, repeat=2):
        hidden, weight, _, targets = head()
        h = linear._flat(hidden.to(dtypes[0]), weight.to(dtypes[1]), targets, 1.0, None)[0]
        both = dtypes == (torch.bfloat16, torch.bfloat16)
        assert h.dtype == (torch.bfloat16 if both else torch.promote_types(torch.promote_types(*dtypes), torch.float32))


class Peak(TorchDispatchMode):
    """Records the most bytes that live tensors took, of those made meanwhile."""

    held = most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for storage in {x.untyped_storage() for x in tree_leaves(out) if isinstance(x, torch.Tensor)}:
            if id(storage) not in before:
                self.add(storage.nbytes())
                weakref.finalize(storage, self.add, -storage.nbytes())
        return out

    def add(self, size):
        self.held += size
        self.most = max(self.most, self.held)


@pytest.mark.parametrize("entropies", [False, True])
def test_bfloat16_at_the_size_of_benchmarks_gpu_takes_torchs_own_rules_and_less_than_2_gib(monkeypatch, entropies):
    """On the meta device: torch's checks of shapes, dtypes and devices, without numbers."""
    monkeypatch.setattr(linear, "WIDE_SUMS", ["meta"])
    rows, width, vocabulary, bf16 = 16384, 4096, 151_936, torch.bfloat16
    hidden, weight = (torch.empty(n, width, dtype=bf16, device="meta", requires_grad=True) for n in (rows, vocabulary))
    targets, bias = torch.empty(rows, dtype=torch.long, device="meta"), torch.empty(vocabulary, device="meta")
    assert linear._flat(hidden[None], weight, targets[None], 1.0, bias)[0].dtype == bf16
    peak = Peak()
    with torch.no_grad(), peak:
        log_probs, lse, h = linear._forward._init_fn(hidden, weight, bias, targets, 1.0, entropies)
        upstream = (log_probs, h if entropies else None)
        found = linear._backward._init_fn(*upstream, hidden, weight, bias, targets, lse, h, 1.0, [True, True, False])
    assert [(x.dtype, x.shape) for x in found] == [(bf16, hidden.shape), (bf16, weight.shape)]
    assert {log_probs.dtype, lse.dtype, h.dtype} == {torch.float32}
    assert 0 < peak.most - sum(x.nbytes for x in found) < 2**31
    everything(hidden[None], weight, bias.requires_grad_(), targets[None])


# --- bad input

HIDDEN, WEIGHT, TARGETS = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize("function", ["linear_log_probs", "linear_log_probs_and_entropies", "linear_loss"])
@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("hidden", {"hidden": HIDDEN[0]}),
        ("hidden", {"hidden": HIDDEN.long()}),
        ("hidden", {"hidden": HIDDEN[..., :3]}),
        ("weight", {"weight": WEIGHT[0]}),
        ("weight", {"weight": WEIGHT.long()}),
        ("weight", {"weight": None}),
        ("weight", {"weight": WEIGHT.to("meta")}),
        ("targets", {"targets": TARGETS[:, :2]}),
        ("targets", {"targets": TARGETS.float()}),
        ("targets", {"targets": TARGETS.to("meta")}),
        ("bias", {"bias": torch.zeros(2)}),
        ("bias", {"bias": torch.zeros(5, device="meta")}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": math.inf}),
        ("temperature", {"temperature": torch.ones(())}),
    ],
)
def test_bad_input_is_named(function, argument, changed, unchecked):
    given = {"hidden": HIDDEN, "weight": WEIGHT, "targets": TARGETS, "temperature": 1.0} | changed
    given |= {"loss": summed} if function == "linear_loss" else {}
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        getattr(core, function)(**given)


def test_bad_input_of_a_fused_loss_is_named(unchecked):
    hidden = HIDDEN.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"^per_token\[1\]: expected .*, got float32 \[2\]"):
        core.linear_loss(hidden, WEIGHT, TARGETS, summed, TARGETS, torch.zeros(2), temperature=1.0)
    with pytest.raises(ValueError, match=r"^per_token\[0\]: expected a tensor of shape \[2, 3\] on cpu, got"):
        core.linear_loss(hidden, WEIGHT, TARGETS, summed, TARGETS.to("meta"), temperature=1.0)
    with pytest.raises(ValueError, match=r"^targets: expected"):
        core.linear_loss(hidden, WEIGHT, TARGETS.tolist(), summed, TARGETS, temperature=1.0)
    constant = torch.zeros((), requires_grad=True)
    for wrong in (0.0, torch.zeros(()), constant, 2 * constant):
        with pytest.raises(ValueError, match=r"^loss: expected .*, got"):
            core.linear_loss(hidden, WEIGHT, TARGETS, lambda x, v=wrong: core.Loss(v, {}), temperature=1.0)
    for loss in (lambda x: core.Loss(2 * x, {}), lambda x: x.sum()):
        with pytest.raises(ValueError, match=r"^loss: expected .*, got"):
            core.linear_loss(hidden, WEIGHT, TARGETS, loss, temperature=1.0)


@pytest.mark.parametrize("wrong", [-1, 5, -100])
def test_an_id_outside_the_vocabulary_is_an_error_as_it_is_for_the_full_logits(wrong):
    targets = TARGETS.clone()
    targets[1, 1] = wrong
    for call in (
        lambda: core.linear_log_probs(HIDDEN, WEIGHT, targets, temperature=1.0),
        lambda: core.linear_loss(HIDDEN, WEIGHT, targets, summed, temperature=1.0),
        lambda: core.token_log_probs(HIDDEN @ WEIGHT.T, targets, temperature=1.0),
    ):
        with pytest.raises(RuntimeError, match="out of bounds"):
            call()
