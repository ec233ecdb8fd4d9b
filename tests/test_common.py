"""What every objective must do, whatever it computes. The rows are in objectives.py."""

import importlib.util
from dataclasses import replace
from functools import partial

import pytest
import torch
from objectives import ADVANTAGES, OBJECTIVES, REDUCTIONS, Objective

from torchstone import core

FAMILIES = ("reinforce", "ppo", "grpo", "dpo", "distill")
TOKEN = [o for o in OBJECTIVES if o.per_token]
PAIR = [o for o in OBJECTIVES if not o.per_token]
everywhere = pytest.mark.parametrize(
    ("objective", "how"),
    [pytest.param(o, {"reduce": r}, id=f"{o}-{n}") for o in TOKEN for n, r in REDUCTIONS.items()]
    + [pytest.param(o, {}, id=str(o)) for o in PAIR],
)
token_objectives = pytest.mark.parametrize("objective", TOKEN, ids=str)
all_objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)


def simplest(objective: Objective) -> dict:
    return {"reduce": REDUCTIONS["token_mean"]} if objective.per_token else {}


def with_gradient(batch: dict, names) -> dict:
    return {k: v.detach().clone().requires_grad_(k in names) for k, v in batch.items()}


def run(objective: Objective, batch: dict, **how):
    """Value, gradients by name, metrics as floats."""
    batch = with_gradient(batch, objective.gradients)
    loss = objective(batch, **how)
    loss.value.backward()
    gradients = {name: batch[name].grad for name in objective.gradients}
    return loss.value.detach(), gradients, {k: float(m) for k, m in loss.metrics.items()}


def assert_same(one, two, **tolerance):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 1e-9, "atol": 1e-12} | tolerance))


def rows_of(batch: dict, index) -> dict:
    return {k: v[index] for k, v in batch.items()}


def under_the_mask(batch: dict, filled: float) -> dict:
    """The batch with ``filled`` wherever the mask is False, at every token of the vocabulary."""
    hidden = {2: ~batch["mask"], 3: ~batch["mask"][..., None]}
    return {k: v if v.ndim == 1 or k == "mask" else v.masked_fill(hidden[v.ndim], filled) for k, v in batch.items()}


def padded(x: torch.Tensor, value) -> torch.Tensor:
    """Two more columns on the left of [B T] or [B T V], three on the right."""
    return torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (2, 3), value=value)


@token_objectives
@pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS)
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_lies_under_the_mask_never_matters(objective, reduce, garbage):
    batch = objective.batch()
    batch, dirty = under_the_mask(batch, 0.5), under_the_mask(batch, garbage)
    clean_run, dirty_run = run(objective, batch, reduce=reduce), run(objective, dirty, reduce=reduce)
    assert_same(clean_run, dirty_run, rtol=0, atol=0)
    for gradient in dirty_run[1].values():
        assert (gradient[~batch["mask"]] == 0).all()


@everywhere
def test_gradients_are_right_and_flow_only_where_declared(objective, how):
    batch = with_gradient(objective.batch(), objective.tensors)
    objective(batch, **how).value.backward()
    moved = {k for k in objective.tensors if batch[k].grad is not None and batch[k].grad.abs().sum() > 0}
    assert moved == set(objective.gradients)
    if objective.stops:
        return
    arguments = [objective.batch()[k].requires_grad_() for k in objective.gradients]
    value = lambda *xs: objective(objective.batch() | dict(zip(objective.gradients, xs)), **how).value  # noqa: E731,B905
    entry_by_entry = how in (simplest(objective), {})  # by the other reductions: along one random direction
    assert torch.autograd.gradcheck(value, arguments, fast_mode=not entry_by_entry)


@everywhere
def test_order_of_rows_does_not_matter(objective, how):
    batch, order = objective.batch(), torch.tensor([3, 1, 5, 0, 2, 4])
    value, gradients, metrics = run(objective, batch, **how)
    permuted = run(objective, rows_of(batch, order), **how)
    assert_same((value, {k: g[order] for k, g in gradients.items()}, metrics), permuted)


@everywhere
@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (1, 1, 1, 1, 1, 1)])
def test_micro_batches_add_up_to_the_batch(objective, how, sizes):
    batch = objective.batch()
    whole = run(objective, batch, **how)
    if objective.per_token:
        name = next(n for n, r in REDUCTIONS.items() if r is how["reduce"])
        count = int(batch["mask"].sum() if name == "token_mean" else batch["mask"].any(1).sum())
        how = {"reduce": partial(how["reduce"], denominator=count)}
    else:
        how = {"denominator": len(batch["margin"])}
    batch = with_gradient(batch, objective.gradients)
    total, pooled = torch.zeros((), dtype=torch.float64), {}
    for rows in torch.arange(6).split(sizes):
        part = objective(rows_of(batch, rows), **how)
        part.value.backward()
        total += part.value.detach()
        pooled = {k: pooled[k] + m if k in pooled else m for k, m in part.metrics.items()}
    metrics = {k: float(m) for k, m in pooled.items()}
    assert_same(whole, (total, {k: batch[k].grad for k in objective.gradients}, metrics))


@token_objectives
@pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS)
def test_more_padding_changes_nothing(objective, reduce):
    batch = objective.batch()
    wider = {k: v if v.ndim == 1 else padded(v, float("nan")) for k, v in batch.items() if k != "mask"}
    wider["mask"] = padded(batch["mask"], False)
    value, gradients, metrics = run(objective, batch, reduce=reduce)
    padded_value, padded_gradients, padded_metrics = run(objective, wider, reduce=reduce)
    cut = {k: g[:, 2:-3] for k, g in padded_gradients.items()}
    assert_same((value, gradients, metrics), (padded_value, cut, padded_metrics))


@token_objectives
@pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS)
def test_a_row_without_a_choice_is_not_counted(objective, reduce):
    batch = objective.batch()
    batch["mask"][2] = False
    batch = {k: v if k == "mask" else v.index_fill(0, torch.tensor([2]), float("nan")) for k, v in batch.items()}
    others = torch.tensor([0, 1, 3, 4, 5])
    value, gradients, metrics = run(objective, batch, reduce=reduce)
    without = run(objective, rows_of(batch, others), reduce=reduce)
    assert_same((value, {k: g[others] for k, g in gradients.items()}, metrics), without)
    assert all((g[2] == 0).all() for g in gradients.values())


@token_objectives
@pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS)
@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_without_a_choice_gives_zero(objective, reduce, rows):
    batch = objective.batch(rows=3)
    batch = {k: torch.full_like(v, float("nan"))[:rows] for k, v in batch.items() if k != "mask"}
    batch["mask"] = torch.zeros(rows, 5, dtype=torch.bool)
    value, gradients, metrics = run(objective, batch, reduce=reduce)
    assert value == 0 and all((g == 0).all() for g in gradients.values()) and all(m == 0 for m in metrics.values())


@pytest.mark.parametrize("objective", PAIR, ids=str)
def test_no_pairs_give_zero(objective):
    value, _, metrics = run(objective, objective.batch(rows=0))
    assert value == 0 and all(m == 0 for m in metrics.values())


@pytest.mark.parametrize("objective", [o for o in TOKEN if "advantages" in o.tensors], ids=str)
def test_one_advantage_a_sequence_is_that_advantage_at_each_token_even_if_B_equals_T(objective):
    batch = {k: v[:5] for k, v in objective.batch().items()}
    assert batch["mask"].shape == (5, 5)
    spread = batch | {"advantages": batch["advantages"][:, None].expand(5, 5)}
    one, two = (objective(b, reduce=REDUCTIONS["token_mean"]).value for b in (batch, spread))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@all_objectives
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("distance", [1000.0, -1000.0, 89.0, -89.0, 20.0, 21.0])
def test_far_off_values_stay_finite(objective, distance, dtype):
    batch = objective.batch(dtype=dtype)
    far = batch[objective.gradients[0]]
    batch[objective.gradients[0]] = far + distance if far.ndim < 3 else far * distance  # a shift of all logits is none
    value, gradients, metrics = run(objective, batch, **simplest(objective))
    assert value.isfinite() and all(g.isfinite().all() for g in gradients.values())
    assert all(torch.tensor(m).isfinite() for m in metrics.values())


@all_objectives
def test_float32_agrees_with_float64(objective):
    exact = run(objective, objective.batch(), **simplest(objective))
    single = run(objective, objective.batch(dtype=torch.float32), **simplest(objective))
    assert single[0].dtype == torch.float32
    assert_same(exact, single, rtol=2e-5, atol=2e-5, check_dtype=False)


@all_objectives
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_inputs_are_computed_in_float32(objective, half):
    batch = objective.batch(dtype=half)
    value, gradients, metrics = run(objective, batch, **simplest(objective))
    upcast = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    exact_value, exact_gradients, exact_metrics = run(objective, upcast, **simplest(objective))
    assert value.dtype == torch.float32
    assert_same((value, metrics), (exact_value, exact_metrics), rtol=0, atol=0)
    assert_same((gradients,), ({k: g.to(half) for k, g in exact_gradients.items()},), rtol=0, atol=0)


@all_objectives
def test_inputs_are_not_modified_and_metrics_carry_no_gradient(objective):
    batch = with_gradient(objective.batch(), objective.gradients)
    before = {k: v.detach().clone() for k, v in batch.items()}
    loss = objective(batch, **simplest(objective))
    assert_same((before,), ({k: v.detach() for k, v in batch.items()},), rtol=0, atol=0)
    assert not any(m.total.requires_grad or m.count.requires_grad for m in loss.metrics.values())


@all_objectives
def test_strides_do_not_matter(objective):
    batch = objective.batch()
    strided = {k: v.mT.contiguous().mT if v.ndim > 1 else v.repeat(2)[::2].copy_(v) for k, v in batch.items()}
    assert_same(run(objective, batch, **simplest(objective)), run(objective, strided, **simplest(objective)))


def wrong_inputs(x: torch.Tensor) -> dict[str, object]:
    """What one argument may be given by mistake."""
    wrong = {"an integer tensor": x.long(), "a list": x.tolist(), "one row too few": x[:-1], "another dim": x[None]}
    if x.ndim > 1:
        wrong |= {"a column": x[:, :1], "a column too many": torch.cat([x, x[:, :1]], 1), "transposed": x.mT}
    return wrong | {"a column vector": x[:, None] if x.ndim == 1 else x[..., None]}


@all_objectives
def test_a_wrong_input_is_named(objective, unchecked):
    how, batch = simplest(objective), objective.batch()
    for name in objective.tensors:
        for what, x in wrong_inputs(batch[name]).items():
            with pytest.raises(ValueError, match=r"expected .*got") as error:
                objective(batch | {name: x}, **how)
            first_is_short = what == "one row too few" and not objective.per_token and name == objective.tensors[0]
            blamed = objective.tensors[1] if first_is_short else name  # the first of a pair says how many there are
            assert str(error.value).split(":")[0] == objective.argument[blamed], what


@pytest.mark.parametrize(
    ("objective", "number", "value"), [(o, k, x) for o in OBJECTIVES for k, x in o.refused()], ids=str
)
def test_a_number_out_of_range_is_named(objective, number, value, unchecked):
    wrong = replace(objective, numbers={**objective.numbers, number: value})
    with pytest.raises(ValueError, match=f"^{number}: expected .*, got"):
        wrong(objective.batch(), **simplest(objective))


def test_every_number_that_must_be_refused_is_one_of_the_objectives():
    assert all(o.outside.keys() <= o.numbers.keys() for o in OBJECTIVES)


def called(function) -> set[str]:
    """The name of a row's function, or the names that a helper of objectives.py calls."""
    while isinstance(function, partial):
        function = function.func
    return set(function.__code__.co_names) if function.__module__ == Objective.__module__ else {function.__name__}


def test_every_public_objective_has_a_row():
    found = [f"torchstone.{f}{v}" for f in FAMILIES for v in ("", ".variants")]
    modules = [core, *(importlib.import_module(m) for m in found if importlib.util.find_spec(m))]
    names = {name for module in modules for name in module.__all__}
    endings = ("_loss", "_surrogate", "_error", "_advantages")
    objectives = {n for n in names if n.startswith(("kl_", "jsd_")) or n.endswith(endings)}
    held = set().union(*(called(row.function) for row in [*OBJECTIVES, *ADVANTAGES]))
    assert objectives - held == ELSEWHERE.keys()


ELSEWHERE = {
    "kl_exact": "of logits: test_kl.py",
    "jsd_exact": "of logits, the token's part of jsd_loss: test_distill.py",
    "jsd_top_k": "of logits: test_distill.py",
    "teacher_advantages": "those of distill_loss: test_distill.py",
    "linear_loss": "any loss, from hidden states: test_linear.py",
    "aot_loss": "sorts the batch, so that micro-batches do not add up: test_dpo_variants.py",
    "real_surrogate": "couples a group's rows, so that only whole groups add up: test_grpo_variants.py",
    "reinforce_surrogate": "the token's part of reinforce_loss: test_reinforce.py",
}


@token_objectives
def test_a_mask_that_is_not_bool_is_an_error(objective, unchecked):
    batch = objective.batch()
    for mask in (batch["mask"].float(), batch["mask"].long(), batch["mask"][0], batch["mask"][:, :1], None):
        with pytest.raises(ValueError, match="expected"):
            objective(batch | {"mask": mask}, **simplest(objective))
