"""One call of somebody's function on one case: inputs in, outputs and gradients out, as nested lists of floats."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone import core
from torchstone.conformance.fit import AGGREGATIONS, FILLERS, Fit
from torchstone.conformance.result import Outcome
from torchstone.conformance.target import Overtime, describe, limited
from torchstone.conformance.vectors import Argument, Case, Vectors
from torchstone.grpo.variants import group_token_mean


@dataclass(frozen=True)
class Way:
    """What a signature leaves open: the kind of arrays and of mask, and the layout of rewards and advantages.

    ``output``: which of several results to take (an index, a key or an attribute); None takes the first that fits.
    """

    arrays: str = "torch"  # or "numpy", "jax"
    mask: str = "bool"  # or "float"
    rewards: str = "P G"  # or "flat", "row"
    advantages: str = ""  # as the case has it, or "B T", "B 1", "B"
    output: str | None = None

    def says(self) -> str:
        said = [f"{self.arrays} arrays"] if self.arrays != "torch" else []
        said += [f"a {self.mask} mask"] if self.mask != "bool" else []
        said += {"flat": ["rewards as one row [P * G]"], "row": ["one group [G] at a time"]}.get(self.rewards, [])
        said += [f"advantages as [{self.advantages}]"] if self.advantages else []
        return ", ".join(said + ([f"output {self.output}"] if self.output is not None else []))


def call(
    function: Callable[..., Any], fit: Fit, way: Way, vectors: Vectors, case: Case, dtype: str = "float64",
    time_limit: float = 10.0,
) -> Outcome:  # fmt: skip
    """Run one case; whatever the function does, an ``Outcome`` comes back."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), limited(time_limit):
            warnings.simplefilter("ignore")
            if way.rewards == "row":
                return _by_row(function, fit, way, vectors, case, dtype)
            return _call(function, fit, way, vectors, case, dtype)
    except Overtime as e:
        return Outcome("timeout", detail=str(e))
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as e:
        return Outcome("refused", detail=describe(e))


def _by_row(function: Callable[..., Any], fit: Fit, way: Way, vectors: Vectors, case: Case, dtype: str) -> Outcome:
    """A function of one group, on each row of the rewards."""
    parts = []
    for i in range(len(next(iter(case.inputs.values())))):
        row = replace(case, inputs={k: [x[i]] for k, x in case.inputs.items()}, expected=None)
        parts.append(_call(function, fit, replace(way, rewards="flat"), vectors, row, dtype))
    bad = next((p for p in parts if p.kind != "numbers"), None)
    if bad is not None:
        return bad
    outputs = {k: [x for p in parts for x in p.outputs[k]] for k in parts[0].outputs}
    return replace(parts[0], outputs=outputs, single=all(p.single for p in parts))


def _call(function: Callable[..., Any], fit: Fit, way: Way, vectors: Vectors, case: Case, dtype: str) -> Outcome:
    leaves = {k: array(x, vectors.arguments[k], dtype) for k, x in case.inputs.items()}
    wanted = [k for k in leaves if vectors.arguments[k].gradient and leaves[k].is_floating_point()]
    if way.arrays == "jax":
        return _call_jax(function, fit, way, vectors, case, leaves, wanted)
    if way.arrays == "numpy":
        shown = {k: x.numpy().copy() for k, x in leaves.items()}
        found = read(
            _run(function, fit, way, case, shown, leaves),
            vectors,
            case,
            leaves.get("mask"),
            way,
        )
        return _outcome(found, None, vectors)
    for k in wanted:
        leaves[k].requires_grad_()
    before = {k: x.detach().clone() for k, x in leaves.items()}
    passed = {k: x if k in wanted else x.clone() for k, x in leaves.items()}
    views = {k: x * 1 if k in wanted else x for k, x in passed.items()}  # so that changes in place are allowed
    result = _run(function, fit, way, case, views, leaves)
    changed = tuple(
        k
        for k, x in views.items()
        if not torch.equal(torch.nan_to_num(x.detach().float()), torch.nan_to_num(before[k].float()))
    )
    found = read(result, vectors, case, leaves.get("mask"), way)
    if isinstance(found, str):
        return Outcome("shape", detail=found, changed=changed)
    primary = found.outputs[next(iter(vectors.returns))]
    gradients = None
    if wanted and shape_of(vectors.returns[next(iter(vectors.returns))].shape, vectors, case) == ():
        gradients = {k: torch.zeros_like(leaves[k]) for k in wanted}  # a loss without a gradient has the gradient 0
    if primary.requires_grad and wanted:
        chosen = _differentiated(primary, vectors, case)
        slopes = torch.autograd.grad(chosen, [leaves[k] for k in wanted], allow_unused=True)
        gradients = {k: torch.zeros_like(leaves[k]) if g is None else g for k, g in zip(wanted, slopes, strict=True)}
    return replace(_outcome(found, gradients, vectors), changed=changed)


def _call_jax(
    function: Callable[..., Any], fit: Fit, way: Way, vectors: Vectors, case: Case, leaves: dict[str, Tensor],
    wanted: list[str],
) -> Outcome:  # fmt: skip
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    arrays = {k: jnp.asarray(x.numpy()) for k, x in leaves.items()}
    first = next(iter(vectors.returns))
    kept: dict[str, Found] = {}

    def value(free: dict[str, Any]) -> tuple[Any, Any]:
        found = read(_run(function, fit, way, case, arrays | free, leaves), vectors, case, arrays.get("mask"), way)
        if isinstance(found, str):
            raise ValueError(found)
        kept["found"] = found
        defined = _defined(vectors, case)
        primary = found.outputs[first]
        return (jnp.where(jnp.asarray(defined), primary, 0) if defined is not None else primary).sum(), found.outputs

    free = {k: arrays[k] for k in wanted}
    if wanted:
        slopes, outputs = jax.grad(value, has_aux=True)(free)
    else:
        outputs, slopes = value({})[1], None
    plain = Found({k: torch.tensor(np.array(x)) for k, x in outputs.items()}, kept["found"].taken)
    gradients = None if slopes is None else {k: torch.tensor(np.array(g)) for k, g in slopes.items()}
    return _outcome(plain, gradients, vectors)


def array(x: Any, argument: Argument, dtype: str) -> Tensor:
    kinds = {"bool": torch.bool, "int": torch.int64, "float": getattr(torch, dtype)}
    return torch.tensor(x, dtype=kinds[argument.kind])


# ----------------------------------------------------------------------------------------------- inputs, in their terms


def _run(
    function: Callable[..., Any], fit: Fit, way: Way, case: Case, values: dict[str, Any], leaves: dict[str, Tensor]
) -> Any:
    if fit.constructor is not None:
        function = function(**_keywords(fit.constructor, function.__init__, way, case, values, leaves))
        signature = inspect.signature(getattr(function, "forward", function))
        return _apply(function, fit, _keywords(fit, signature, way, case, values, leaves))
    return _apply(function, fit, _keywords(fit, function, way, case, values, leaves))


def _apply(function: Callable[..., Any], fit: Fit, keywords: dict[str, Any]) -> Any:
    positional = [keywords.pop(name) for name in fit.positional if name in keywords]
    return function(*positional, **keywords)


def _keywords(
    fit: Fit, function: Any, way: Way, case: Case, values: dict[str, Any], leaves: dict[str, Tensor]
) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for theirs, ours in fit.arguments.items():
        if ours in values:
            keywords[theirs] = _laid_out(ours, values[ours], way, values, leaves)
        elif ours in FILLED and FILLED[ours] in values:
            keywords[theirs] = _constant(values[FILLED[ours]])
        elif theirs not in fit.optional:
            keywords[theirs] = None
    for theirs, ours in fit.settings.items():
        value = case.settings[ours]
        if value is None and not _default_is_none(function, theirs):
            value = {"epsilon_high": case.settings.get("epsilon"), **NO_BOUND}.get(ours)
        if value is not None or theirs not in fit.optional:
            keywords[theirs] = _value(theirs, ours, value, case)
    for theirs, what in fit.derived.items():
        keywords[theirs] = _derive(what, values, case)
    for theirs, ours in fit.fillers.items():
        keywords[theirs] = _filler(ours, values, way)
    return keywords | fit.given


NO_BOUND = {"dual_clip": 1e9, "value_epsilon": 1e9}  # for a function that has no None for it
FILLED = {"ref_log_probs": "log_probs", "old_log_probs": "log_probs"}  # an argument that this case has no need of


def _default_is_none(function: Any, name: str) -> bool:
    try:
        signature = function if isinstance(function, inspect.Signature) else inspect.signature(function)
        return signature.parameters[name].default is None
    except (TypeError, ValueError, KeyError):
        return False


def _laid_out(ours: str, x: Any, way: Way, values: dict[str, Any], leaves: dict[str, Tensor]) -> Any:
    if ours.endswith("mask") and way.mask == "float":
        like = next(v for k, v in leaves.items() if v.is_floating_point())
        return x.astype(str(like.dtype)[6:]) if not isinstance(x, Tensor) else x.to(like.dtype)
    if way.rewards == "flat" and x.ndim == 2 and ours in ("rewards", "scored", "lengths"):
        return x.reshape(-1)
    if ours in PER_ROW and way.advantages == "B":
        return x[:, 0] if x.ndim == 2 else x  # only cases whose rows are constant are asked
    if ours in PER_ROW and way.advantages and x.ndim == 1:
        column = x.reshape(-1, 1)
        return column if way.advantages == "B 1" else column * _ones(values["log_probs"])
    return x


PER_ROW = ("advantages", "returns", "baseline")  # one number a row, or one a token


def _ones(x: Any) -> Any:
    return torch.ones_like(x) if isinstance(x, Tensor) else x * 0 + 1


def _constant(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def _value(theirs: str, ours: str, value: Any, case: Case) -> Any:
    """A setting as the function wants it: the name of a reduction or an estimator as the function itself."""
    if ours == "reduce":
        return AGGREGATIONS.get(value, value) if theirs != "reduce" else reduction(case)
    if ours == "kl" and isinstance(value, str):
        return getattr(core, value)
    return value


def reduction(case: Case) -> Callable[[Any, Any], Any]:
    """The reduction that this case's settings name; a mean over tokens if they name none."""
    name = case.settings.get("reduce", "token_mean")
    if name == "fixed_length_mean":
        return partial(core.fixed_length_mean, length=case.settings["length"])
    if name == "group_token_mean":
        return partial(group_token_mean, group_size=case.settings["group_size"])
    return getattr(core, name)


def _derive(what: str, values: dict[str, Any], case: Case) -> Any:
    if what == "gamma_beta_ratio":
        return case.settings["gamma"] / case.settings["beta"]
    if what == "group_size":
        return len(next(x for k, x in case.inputs.items() if k == "rewards")[0])
    other = next(values[k] for k in ("old_log_probs", "ref_log_probs") if k in values)
    moved = values["log_probs"] - other
    if what == "log_ratios":
        return moved
    return moved.exp() if isinstance(moved, Tensor) else math.e**moved


def _filler(ours: str, values: dict[str, Any], way: Way) -> Any:
    neutral = FILLERS[ours]
    if neutral == "0":
        return 0.0
    like = next(x for x in values.values() if getattr(x, "ndim", 0) == 2)
    if neutral == "all True":
        ones = _ones(_constant(like))
        return ones if way.mask == "float" else ones > 0
    return _constant(values.get(neutral, values.get("log_probs", like)))


# -------------------------------------------------------------------------------------------- results, in our own terms


@dataclass
class Found:
    outputs: dict[str, Any]
    taken: str = ""


def read(result: Any, vectors: Vectors, case: Case, mask: Any, way: Way) -> Found | str:
    """Our outputs among what came back; a sentence where the first is not there."""
    candidates = list(_candidates(result))
    first, *rest = vectors.returns
    shape = shape_of(vectors.returns[first].shape, vectors, case)
    if way.output is not None:
        candidates = [c for c in candidates if c[0] == way.output or c[0].split(".")[-1] == way.output]
        if not candidates:
            have = ", ".join(label or "one result" for label, _ in _candidates(result))
            raise LookupError(f"no output {way.output!r}; it has {have}")
    same = (lambda x: tuple(x.shape) == shape, "")
    reshaped = (lambda x: _size(x) == math.prod(shape), "reshaped")
    free = [c for c in candidates if getattr(c[1], "requires_grad", False)] if shape == () else []
    found = (
        (x, by, name)
        for pool in (free, candidates)  # of several numbers the loss is the one with a gradient
        for fits, by in (same, reshaped, *_reductions(shape, case, mask))
        for name, x in pool
        if fits(x)
    )
    primary, taken, label = next(found, (None, "", ""))
    if primary is None:
        have = ", ".join(f"{name or 'result'} {list(x.shape)}" for name, x in candidates) or type(result).__name__
        return f"expected {first} of shape {list(shape)}, got {have}"
    if taken == "reshaped":
        primary, taken = primary.reshape(shape), ""
    elif taken == "tokens":
        primary = _reduced(primary, case)
    elif taken == "rows":
        primary = primary.sum() / max(len(primary), 1)
    outputs = {first: primary}
    others = [(name, x) for name, x in _candidates(result) if name != label]
    for name in rest:
        wanted = vectors.returns[name]
        other = next((x for n, x in others if n.split(".")[-1] == name), None)
        if other is None and not wanted.metric and way.output is None:
            expected = shape_of(wanted.shape, vectors, case)
            other = next((x for _, x in others if tuple(x.shape) == expected), None)
        if other is not None:
            outputs[name] = other
    return Found(outputs, taken)


def _reduced(x: Any, case: Case) -> Any:
    """One number of one a token, as the case's settings say. A reduction is linear: its gradient is its weights."""
    mask = torch.tensor(case.inputs["mask"])
    if isinstance(x, Tensor):
        return reduction(case)(x, mask)
    ones = torch.ones(mask.shape, dtype=torch.float64, requires_grad=True)
    (weights,) = torch.autograd.grad(reduction(case)(ones, mask), ones)
    return (x * weights.numpy())[mask.numpy()].sum()


def _reductions(shape: tuple[int, ...], case: Case, mask: Any) -> list[tuple[Callable[[Any], bool], str]]:
    """What else a result may be: per token or per row where one number is expected, or the reverse."""
    if shape == ():
        rows = {len(x) for x in case.inputs.values() if isinstance(x, list)}
        matrix = tuple(mask.shape) if mask is not None else None
        return [(lambda x: tuple(x.shape) == matrix, "tokens"), (lambda x: x.ndim == 1 and x.shape[0] in rows, "rows")]
    if len(shape) == 2 and mask is not None:
        return [(lambda x: _size(x) == 1, "mean")]
    return []


def _size(x: Any) -> int:
    return math.prod(x.shape)


def _candidates(result: Any, label: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a result that is an array or a number, with its index, key or attribute."""
    if isinstance(result, bool | int | float):
        yield label, torch.tensor(result, dtype=torch.bool if isinstance(result, bool) else torch.float64)
    elif hasattr(result, "shape") and hasattr(result, "ndim"):
        yield (
            label,
            result if result.ndim or isinstance(result, Tensor) or not hasattr(result, "item") else result.reshape(()),
        )
    elif isinstance(result, Mapping):
        for k, x in result.items():
            yield from _candidates(x, f"{label}.{k}" if label else str(k))
    elif isinstance(result, list | tuple) and not hasattr(result, "_fields"):
        if result and all(
            isinstance(x, bool | int | float) or (isinstance(x, list) and x and isinstance(x[0], int | float))
            for x in result
        ):
            yield label, torch.tensor(result)
            return
        for i, x in enumerate(result):
            yield from _candidates(x, f"{label}.{i}" if label else str(i))
    elif hasattr(result, "total") and hasattr(result, "count") and not hasattr(result, "_fields"):
        yield label, torch.tensor(float(result), dtype=torch.float64)
    elif result is not None:
        names = getattr(result, "_fields", None) or list(getattr(result, "__dict__", {}))
        for k in sorted(names, key=lambda k: k not in ("loss", "value")) if not hasattr(result, "_fields") else names:
            yield from _candidates(getattr(result, k), f"{label}.{k}" if label else str(k))


def shape_of(shape: str, vectors: Vectors, case: Case) -> tuple[int, ...]:
    """The sizes behind the names of the dimensions, from this case's inputs. "S-1" is one less than S."""
    sizes: dict[str, int] = {}
    for k, x in case.inputs.items():
        for name in vectors.arguments[k].shape.split():
            sizes.setdefault(name, len(x))
            x = x[0] if len(x) else []
    return tuple(
        sizes[n.removesuffix("-1")] - n.endswith("-1") if n.removesuffix("-1") in sizes else int(n)
        for n in shape.split()
    )


def _defined(vectors: Vectors, case: Case) -> Any:
    """Where the first output is compared; None where everywhere."""
    if case.expected is not None:
        expected = case.expected.outputs[next(iter(vectors.returns))]
        return [[x is not None for x in row] for row in expected] if _is_matrix(expected) else None
    return case.inputs.get("mask") if vectors.returns[next(iter(vectors.returns))].shape == "B T" else None


def _is_matrix(x: Any) -> bool:
    return isinstance(x, list) and bool(x) and isinstance(x[0], list)


def _differentiated(primary: Tensor, vectors: Vectors, case: Case) -> Tensor:
    defined = _defined(vectors, case)
    if defined is None or primary.ndim != 2:
        return primary.sum()
    where = torch.tensor(defined)
    return primary[where].sum() if where.shape == primary.shape else primary.sum()


def _outcome(found: Found | str, gradients: dict[str, Tensor] | None, vectors: Vectors) -> Outcome:
    if isinstance(found, str):
        return Outcome("shape", detail=found)
    tensors = [torch.as_tensor(x).detach() for x in (*found.outputs.values(), *(gradients or {}).values())]
    single = all(
        torch.equal(torch.nan_to_num(x.double()), torch.nan_to_num(x.float().double())) for x in tensors if x.numel()
    )
    return Outcome(
        "numbers",
        {k: torch.as_tensor(x).detach().tolist() for k, x in found.outputs.items()},
        None if gradients is None else {k: g.tolist() for k, g in gradients.items()},
        taken=found.taken,
        single=single,
    )
