"""fast/: each tuned form equals its plain form, in value and in gradient. (fast/linear.py: test_linear.py.)"""

import math

import pytest
import torch

from torchstone.core import linear_recurrence, logprobs
from torchstone.core.scan import column_by_column
from torchstone.fast import pointwise

f64 = torch.float64
FAR = [-1000.0, -30.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 19.9, 20.0, 20.1, 30.0, 1000.0]


def values_and_gradients(function, *inputs, weights):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    return value.detach(), *torch.autograd.grad((value * weights).sum(), inputs)


@pytest.mark.parametrize("columns", [1, 2, 3, 8, 13, 100])
def test_the_recurrence_is_the_sum_column_by_column(columns):
    torch.manual_seed(0)
    inputs, decays, weights = (torch.randn(3, columns, dtype=f64) for _ in range(3))
    decays[0, ::3], decays[1, ::2] = 0.0, 1.0
    fast = values_and_gradients(linear_recurrence, inputs, decays, weights=weights)
    plain = values_and_gradients(column_by_column, inputs, decays, weights=weights)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
@pytest.mark.parametrize("name", ["bounded_exp", "bounded_expm1"])
def test_the_bounded_exponential_is_the_plain_one(name, dtype):
    x, weights = torch.tensor(FAR, dtype=dtype), torch.linspace(-1, 2, len(FAR), dtype=dtype)
    fast = values_and_gradients(getattr(pointwise, name), x, weights=weights)
    plain = values_and_gradients(getattr(logprobs, name), x, weights=weights)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other)
    ends = torch.tensor([-math.inf, math.inf], dtype=dtype)
    assert getattr(pointwise, name)(ends).equal(getattr(logprobs, name)(ends))
    assert getattr(pointwise, name)(torch.tensor(math.nan)).isnan()


def test_the_minimum_with_a_clip_is_that_of_torch():
    ratios = torch.tensor([0.0, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 1e9], dtype=f64).repeat(3, 1)
    advantages = torch.tensor([[2.0], [-3.0], [0.0]], dtype=f64).expand(ratios.shape)
    weights = torch.linspace(1, 2, ratios.numel(), dtype=f64).view(ratios.shape)
    low, high = 0.8, 1.2  # two of the ratios stand right on them
    fast = lambda r: pointwise.minimum(r * advantages, pointwise.clip(r, low, high) * advantages)  # noqa: E731
    plain = lambda r: torch.minimum(r * advantages, r.clamp(low, high) * advantages)  # noqa: E731
    one, other = (values_and_gradients(f, ratios, weights=weights) for f in (fast, plain))
    assert one[0].equal(other[0]) and one[1].equal(other[1])
    assert pointwise.minimum(torch.tensor(math.nan), torch.tensor(1.0)).isnan()
