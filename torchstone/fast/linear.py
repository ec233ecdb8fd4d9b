"""Stage 3, with less memory: log-probabilities straight from hidden states, the logits a tile at a time.

A tile is some rows times some columns of the logits, and is overwritten by the next. On a processor it fits the cache.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torchstone.core.inputs import as_float, as_ids, number, require
from torchstone.core.result import Loss, Mean

TILE = {"cpu": 2**21}  # logits in a tile: 8 MiB in float32
TILE_ELSEWHERE = 2**26  # a GPU wants larger ones: 256 MiB
LOSS_ROWS, LOSS_LOGITS = 128, 2**26  # linear_loss holds whole rows: at least so many, above that at most so many logits
LOSS_COLUMNS = 2**13  # and multiplies so many columns at once
FLOOR = -1e4  # exp(-1e4) is 0 in every precision, and 0 * -1e4 is 0 where 0 * -inf would be nan
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WIDE_SUMS = ["cuda"] if torch.version.cuda and hasattr(torch.ops.aten.mm, "dtype_out") else []  # of bfloat16


def linear_log_probs(
    hidden: Float[Tensor, "B T H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, "B T"],
    *,
    temperature: float,
    bias: Float[Tensor, " V"] | None = None,
) -> Float[Tensor, "B T"]:
    """``token_log_probs`` of a linear head's logits, a tile at a time: ``[B T V]`` is never held.

        log pi(y) = log softmax((W h + b) / temperature)_y                     (CORE.4)

    The backward pass computes each tile again instead of keeping it: four matrix products where holding the logits
    takes three, three if the head is frozen. It works out no gradient that nobody asked for. A half-precision weight
    is converted to float32 tile by tile; but on CUDA bfloat16 hidden states and weights are multiplied as they are,
    added up in float32, and dL/dlogits is rounded to bfloat16 for its two products. There is no second derivative:
    asking for one is an error.

    Args:
        hidden: h, the last hidden states, aligned with ``targets``. Gradient flows through it.
        weight: W of the output head (tied or not). Gradient flows through it.
        targets: the token ids to score, in [0, V).
        temperature: the temperature that the tokens were sampled at.
        bias: b of the output head, if it has one; finite or -inf. Gradient flows through it.

    Returns: nats: values and gradients are those of ``token_log_probs``.
    Raises ValueError: a shape, dtype or device is wrong; temperature is not positive.
    """
    h, weight, y, b = _flat(hidden, weight, targets, temperature, bias)
    log_probs, _, _ = _LinearLogProbs.apply(h, weight, b, y, temperature, False)
    return log_probs.reshape(targets.shape)


def linear_log_probs_and_entropies(
    hidden: Float[Tensor, "B T H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, "B T"],
    *,
    temperature: float,
    bias: Float[Tensor, " V"] | None = None,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """``linear_log_probs``, and ``token_entropies`` of the same logits, from the same matrix products.

    Args:
        hidden, weight, targets, temperature, bias: see ``linear_log_probs``.

    Returns: log-probs and entropies, both in nats; gradient flows through both.
    Raises ValueError: a shape, dtype or device is wrong; temperature is not positive.
    """
    h, weight, y, b = _flat(hidden, weight, targets, temperature, bias)
    log_probs, _, entropies = _LinearLogProbs.apply(h, weight, b, y, temperature, True)
    return log_probs.reshape(targets.shape), entropies.reshape(targets.shape)


def linear_loss(
    hidden: Float[Tensor, "B T H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, "B T"],
    loss: Callable[..., Loss],
    *per_token: Shaped[Tensor, "B T"],
    temperature: float,
    bias: Float[Tensor, " V"] | None = None,
) -> Loss:
    """A loss that is a sum over tokens, with its gradient worked out in the forward pass: nothing is computed twice.

        L = sum_t l_t(log pi(y_t)),    log pi(y_t) as in (CORE.4)

    Rows are taken some at a time, each chunk as a micro-batch of one sequence: ``loss(log_probs[1 n], *slices[1 n])``.
    Values and metrics add up. That is exact where tokens are reduced with a denominator that does not depend on the
    chunk: ``partial(token_mean, denominator=mask.sum())``, or ``partial(token_mean, denominator=1)`` of terms that
    already carry their weight.

        linear_loss(hidden, weight, targets, partial(grpo_loss, reduce=..., epsilon=0.2, beta=0.0),
                    old_log_probs, advantages, mask, temperature=1.0)

    It takes three matrix products, where ``linear_log_probs`` takes four; it holds an eighth of the logits if they
    are few, at most 256 MiB of them if they are many (but no fewer than 128 rows); and it keeps the gradients until
    the backward pass, in at least float32. That pass can run once, and has no second derivative; torch.compile breaks
    its graph here.

    Args:
        hidden, weight, targets, temperature, bias: see ``linear_log_probs``.
        loss: from log-probs and slices of ``per_token`` to a ``Loss``. Gradient flows through its first argument
            alone: what else it uses is treated as a constant.
        per_token: what else ``loss`` needs of each token, such as old log-probs, advantages ``[B T]`` and the mask.

    Returns: ``Loss``: the sum of the chunks' values, and of their metrics.
    Raises ValueError: a shape, dtype or device is wrong; ``loss`` returns no scalar that depends on the log-probs.
    """
    h, weight, y, b = _flat(hidden, weight, targets, temperature, bias)
    for i, x in enumerate(per_token):
        fits = isinstance(x, Tensor) and x.shape == targets.shape and x.device == y.device
        require(fits, f"per_token[{i}]", f"a tensor of shape {list(targets.shape)} on {y.device}", x)
    flat = [x.detach().reshape(-1) for x in per_token]
    needed = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (h, weight, b)]
    with torch.no_grad():
        value, metrics, gradients = _loss_and_gradients(h, weight, b, y, loss, flat, temperature, needed)
    return Loss(_WithGradients.apply(value, h, weight, b, *gradients), metrics)


def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    loss: Callable[..., Loss], per_token: list[Tensor], temperature: float, needed: list[bool],
) -> tuple[Tensor, dict[str, Mean], list[Tensor | None]]:  # fmt: skip
    """The sum over chunks of rows, its metrics, and the needed gradients of hidden, weight and bias."""
    dtype, vocabulary = _wide(hidden), len(weight)
    value, metrics = hidden.new_zeros((), dtype=dtype), dict[str, Mean]()
    of_hidden, of_weight, of_bias = _room(hidden, weight, bias, needed, dtype)
    rows = max(LOSS_ROWS, min(math.ceil(len(hidden) / 8), LOSS_LOGITS // max(1, vocabulary)))
    buffer = hidden.new_empty(min(rows, len(hidden)), vocabulary, dtype=dtype)
    columns = _slices(vocabulary, LOSS_COLUMNS)
    for r in _slices(len(hidden), rows):
        h, y = hidden[r], targets[r, None]
        z = buffer[: len(h)]
        for c in columns:
            _logits(z[:, c], h, weight[c].to(h.dtype), None if bias is None else bias[c], temperature)
        chosen, top = z.gather(1, y), z.amax(1, keepdim=True)
        total = z.sub_(top).exp_().sum(1, keepdim=True)
        log_probs = (chosen - top - total.log()).T
        with torch.set_grad_enabled(any(needed)), saved_tensors_hooks(_as_it_is, _as_it_is):
            part = loss(log_probs.requires_grad_(any(needed)), *(x[None, r] for x in per_token))
        scalar = isinstance(part, Loss) and isinstance(part.value, Tensor) and part.value.ndim == 0
        require(scalar, "loss", "to return a Loss with a scalar value", getattr(part, "value", part))
        metrics |= {k: metrics[k] + m if k in metrics else m for k, m in part.metrics.items()}
        value += part.value.detach()
        if not any(needed):
            continue
        found = torch.autograd.grad(part.value, log_probs, allow_unused=True) if part.value.requires_grad else ()
        require(any(g is not None for g in found), "loss", "a value with a gradient to the log-probs", part.value)
        g = found[0].T / -temperature
        z.mul_(g / total).scatter_add_(1, y, -g)  # the gradient of W h + b
        for c in columns:
            of_logits = z[:, c].to(h.dtype)
            if of_hidden is not None:
                _product(of_logits, weight[c].to(h.dtype), of_hidden[r], beta=1.0)
            if of_weight is not None:
                _product(of_logits.t(), h, of_weight[c], beta=float(r.start > 0))
        if of_bias is not None:
            of_bias.add_(z.sum(0))
    return value, metrics, [of_hidden, of_weight, of_bias]


def _as_it_is(x: Tensor) -> Tensor:
    """The hooks of the gradient inside the loop: those of checkpointing around it would start the loop again."""
    return x


class _WithGradients(torch.autograd.Function):
    """Gives a value the gradients that were computed with it. The engine rounds them to their inputs' dtypes."""

    @staticmethod
    def forward(ctx, value, hidden, weight, bias, *gradients):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*gradients)
        ctx.spent = False
        return value.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            raise RuntimeError("linear_loss has no second derivative; take token_log_probs of the full logits")
        if ctx.spent:
            raise RuntimeError("linear_loss hands out its gradients once, all together; call it again")
        ctx.spent = not torch.compiler.is_compiling()  # what is traced runs any number of times: it scales copies
        scale = Tensor.mul_ if ctx.spent else Tensor.mul
        return None, *(g if g is None else scale(g, grad) for g in ctx.saved_tensors), None, None, None


def _flat(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Checked, with B and T as one dimension, in the dtype to multiply in. A half-precision weight stays as it is."""
    number("temperature", temperature, above=0)
    wide = as_float("hidden", hidden, "B T H")
    fits = isinstance(weight, Tensor) and weight.ndim == 2 and weight.dtype in FLOATS
    require(fits, "weight", "a floating-point tensor of shape [V H]", weight)
    vocabulary, width = weight.shape
    require(hidden.shape[-1] == width, "hidden", f"a last dimension of {width}, that of weight", hidden)
    targets = as_ids("targets", targets, hidden.shape[:2])
    if not (hidden.dtype == weight.dtype == torch.bfloat16 and hidden.device.type in WIDE_SUMS):
        hidden = wide.to(torch.promote_types(wide.dtype, weight.dtype))
    bias = None if bias is None else as_float("bias", bias, (vocabulary,)).to(_wide(hidden))
    for name, x in (("weight", weight), ("targets", targets), ("bias", bias)):
        require(x is None or x.device == hidden.device, name, f"a tensor on {hidden.device}, like hidden", _device(x))
    return hidden.reshape(-1, width), weight, targets.reshape(-1), bias


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _device(x: Tensor | None) -> torch.device | None:
    return None if x is None else x.device


def _room(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: list[bool], dtype: torch.dtype | None = None
) -> list[Tensor | None]:
    """Room for the gradients that are needed. The weight's, the largest, is not filled: its first rows write it."""
    of_hidden, of_weight, of_bias = needed
    return [
        hidden.new_zeros(hidden.shape, dtype=_wide(hidden)) if of_hidden else None,
        weight.new_empty(weight.shape, dtype=dtype) if of_weight else None,
        bias.new_zeros(bias.shape) if of_bias and bias is not None else None,
    ]


def _tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Every tile of the logits: its rows, its columns, their weight, and the logits, in one reused buffer.

    The rows of a column follow each other, so that a gradient of the weight is complete when its columns are left.
    """
    size = TILE.get(hidden.device.type, TILE_ELSEWHERE)
    rows = max(1, min(len(hidden), math.isqrt(size)))
    columns = max(1, min(len(weight), size // rows))
    buffer = hidden.new_empty(rows * columns, dtype=_wide(hidden))
    for c in _slices(len(weight), columns):
        w = weight[c].to(hidden.dtype)
        for r in _slices(len(hidden), rows):
            z = buffer[: (r.stop - r.start) * len(w)].view(r.stop - r.start, len(w))
            yield r, c, w, _logits(z, hidden[r], w, None if bias is None else bias[c], temperature)


def _slices(length: int, size: int) -> list[slice]:
    """Ranges that cover ``length``; one empty range if it is 0."""
    return [slice(i, min(i + size, length)) for i in range(0, max(1, length), size)]


def _logits(out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """(W h + b) / temperature, written into ``out``."""
    scale = 1 / temperature
    if hidden.dtype != out.dtype:
        z = _product(hidden, weight.t(), out) if bias is None else _product(hidden, weight.t(), out).add_(bias)
        return z if scale == 1 else z.mul_(scale)
    b, beta = (out, 0.0) if bias is None else (bias, scale)
    return torch.addmm(b, hidden, weight.t(), beta=beta, alpha=scale, out=out)


def _product(a: Tensor, b: Tensor, out: Tensor, beta: float = 0.0) -> Tensor:
    """beta * out + a b, written into ``out``: no autocast. beta is 0 or 1. bfloat16 factors are summed in float32."""
    if b.dtype == out.dtype:
        return out.addmm_(a, b, beta=beta)
    product = torch.mm(a, b, out_dtype=out.dtype, out=torch.empty_like(out) if beta else out)
    return out.add_(product) if beta else out


def _in_tile(targets: Tensor, c: slice) -> tuple[Tensor, Tensor]:
    """The targets as columns of the tile, and which of them lie in it."""
    column = targets - c.start
    inside = (column >= 0) & (column < c.stop - c.start)
    return column.clamp(0, c.stop - c.start - 1)[:, None], inside


@torch.library.custom_op("torchstone::linear_log_probs", mutates_args=())
def _forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, entropies: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log pi(y), log sum exp z, and the entropy (empty unless asked for), each ``[N]``."""
    targets.new_zeros(1).expand(len(weight)).gather(0, targets)  # an id outside [0, V) is an error here, as in gather
    peak = hidden.new_full((len(hidden),), torch.finfo(_wide(hidden)).min, dtype=_wide(hidden))  # max z so far
    total, chosen, spread = torch.zeros_like(peak), torch.zeros_like(peak), torch.zeros_like(peak)
    for r, c, _, z in _tiles(hidden, weight, bias, temperature):
        column, inside = _in_tile(targets[r], c)
        chosen[r] = torch.where(inside, z.gather(1, column).squeeze(1), chosen[r])
        top = torch.maximum(peak[r], z.amax(1))
        z.sub_(top[:, None])
        drop = (peak[r] - top).clamp_(min=FLOOR)
        if entropies:  # spread: sum (z - peak) exp(z - peak)
            p = z.clamp_(min=FLOOR).exp()
            spread[r] = (spread[r] + drop * total[r]) * drop.exp() + z.mul_(p).sum(1)
        else:
            p = z.exp_()
        total[r] = total[r] * drop.exp() + p.sum(1)  # sum exp(z - peak)
        peak[r] = top
    lse = peak + total.log()
    return chosen - peak - total.log(), lse, total.log() - spread / total if entropies else peak.new_empty(0)


@torch.library.custom_op("torchstone::linear_log_probs_backward", mutates_args=())
def _backward(
    grad: Tensor, grad_entropies: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None,
    targets: Tensor, lse: Tensor, entropies: Tensor, temperature: float, needed: list[bool],
) -> list[Tensor]:  # fmt: skip
    """The gradients of those of hidden, weight and bias that are needed.

    dL/dz_v = g (1[v = y] - p_v) - e p_v (log p_v + H), with g and e the gradients of log pi(y) and of the entropy H.
    """
    of_hidden, of_weight, of_bias = _room(hidden, weight, bias, needed)
    for r, c, w, z in _tiles(hidden, weight, bias, temperature):
        g = grad[r, None] / -temperature
        z.sub_(lse[r, None])  # log p
        if grad_entropies is None:
            z.exp_().mul_(g)
        else:
            p = z.clamp_(min=FLOOR).exp()
            z.add_(entropies[r, None]).mul_(grad_entropies[r, None] / -temperature).add_(g).mul_(p)
        column, inside = _in_tile(targets[r], c)
        z.scatter_add_(1, column, -g * inside[:, None])  # z is now the gradient of W h + b
        if of_bias is not None:
            of_bias[c].add_(z.sum(0))
        z = z.to(w.dtype)
        if of_hidden is not None:
            _product(z, w, of_hidden[r], beta=1.0)
        if of_weight is not None:
            if r.start == 0:  # a half-precision gradient adds up in float32
                piece = of_weight[c] if of_weight.dtype == lse.dtype else lse.new_empty(w.shape)
            _product(z.t(), hidden[r], piece, beta=float(r.start > 0))
            if r.stop == len(hidden):
                of_weight[c] = piece
    of_hidden = None if of_hidden is None else of_hidden.to(hidden.dtype)
    return [x for x in (of_hidden, of_weight, of_bias) if x is not None]


@_forward.register_fake
def _(hidden, weight, bias, targets, temperature, entropies):  # type: ignore[no-untyped-def]
    n = len(hidden)
    return tuple(hidden.new_empty(size, dtype=_wide(hidden)) for size in (n, n, n if entropies else 0))


@_backward.register_fake
def _(grad, grad_entropies, hidden, weight, bias, targets, lse, entropies, temperature, needed):  # type: ignore[no-untyped-def]
    inputs = zip((hidden, weight, bias), needed, strict=True)
    return [x.new_empty(x.shape) for x, need in inputs if need and x is not None]


class _LinearLogProbs(torch.autograd.Function):
    """Both passes are one operation each to torch.compile, which then has no loop to unroll."""

    @staticmethod
    def forward(hidden, weight, bias, targets, temperature, entropies):  # type: ignore[no-untyped-def]
        return _forward(hidden, weight, bias, targets, temperature, entropies)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        hidden, weight, bias, targets, ctx.temperature, ctx.with_entropies = inputs
        ctx.mark_non_differentiable(output[1], *(() if ctx.with_entropies else output[2:]))
        ctx.save_for_backward(hidden, weight, bias, targets, *output[1:])

    @staticmethod
    def backward(ctx, grad, _, grad_entropies):  # type: ignore[no-untyped-def]
        hidden, weight, bias, targets, lse, entropies = ctx.saved_tensors
        grad_entropies = grad_entropies if ctx.with_entropies else None
        needed = [bool(need) for need in ctx.needs_input_grad[:3]]
        arguments = (hidden, weight, bias, targets, lse, entropies, ctx.temperature, needed)
        compute = _backward if torch.compiler.is_compiling() else _Gradients.apply
        found = iter(compute(grad, grad_entropies, *arguments))
        return *(next(found) if need else None for need in needed), None, None, None


class _Gradients(torch.autograd.Function):
    """The backward pass, as a function that says that it cannot be differentiated again."""

    @staticmethod
    def forward(*inputs):  # type: ignore[no-untyped-def]
        return tuple(_backward(*inputs))

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        pass

    @staticmethod
    def backward(ctx, *_):  # type: ignore[no-untyped-def]
        raise RuntimeError("linear_log_probs has no second derivative; take token_log_probs of the full logits")
