"""One call of somebody's function on one case: inputs in, outputs and gradients out, as nested lists of floats."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.ask.returns import Found, defined, differentiated, read, shape_of, unpacked
from torchstone.conformance.fit.arguments import array, keywords
from torchstone.conformance.fit.calling import Calling
from torchstone.conformance.fit.signature import Signature
from torchstone.conformance.fit.target import AWAITED, Overtime, TargetError, contained, describe, limited, out_of_reach
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Vectors, leaves


@dataclass(frozen=True)
class Trial:
    """A function with everything that is needed to call it; ``time_limit``: seconds for one case.

    ``first``: what came back when a case was first asked in float64, however early that was.
    """

    function: Callable[..., Any]
    signature: Signature
    calling: Calling
    vectors: Vectors
    time_limit: float
    first: dict[Any, Outcome] = field(default_factory=dict, compare=False, repr=False)

    def run(self, case: Case, precision: str = "float64") -> Outcome:
        """Run one case in "float64" or "float32"; whatever the function does, an ``Outcome`` comes back."""
        found = self._run(case, precision)
        if precision == "float64":
            self.first.setdefault(self.asked(case), found)
        return found

    def asked(self, case: Case) -> Any:
        """What tells one question from another: the layout, the case and its settings."""
        return self.calling, case.id, repr(sorted(case.settings.items())), *sorted(case.inputs)

    def _run(self, case: Case, precision: str) -> Outcome:
        try:
            quiet = contextlib.redirect_stdout(io.StringIO())
            with warnings.catch_warnings(), quiet, contained(precision), limited(self.time_limit):
                warnings.simplefilter("ignore")
                found = (_by_row if self.calling.rewards == "row" else _call)(self, case, precision)
                return _without_held(found, self.vectors)
        except Overtime as e:
            return Outcome("timeout", detail=str(e))
        except (KeyboardInterrupt, TargetError):
            raise
        except (Exception, SystemExit) as e:
            if (lacks := out_of_reach(e)) is not None:
                raise TargetError(lacks) from e
            return Outcome("refused", detail=describe(e))


def _without_held(outcome: Outcome, vectors: Vectors) -> Outcome:
    """What callers hold constant has no gradient to compare; only whether one flows there is kept."""
    if outcome.gradients is None or not vectors.held:
        return outcome
    moved = tuple(k for k in vectors.held for g in [outcome.gradients.get(k)] if any(x != 0 for _, x in leaves(g)))
    gradients = {k: g for k, g in outcome.gradients.items() if k not in vectors.held}
    return replace(outcome, gradients=gradients, moved=moved)


def _by_row(trial: Trial, case: Case, precision: str) -> Outcome:
    """A function of one group, on each row of the rewards."""
    flat = replace(trial, calling=replace(trial.calling, rewards="flat"))
    parts = []
    for i in range(len(next(iter(case.inputs.values())))):
        row = replace(case, inputs={k: [x[i]] for k, x in case.inputs.items()}, expected=None)
        parts.append(_call(flat, row, precision))
    bad = next((p for p in parts if p.kind != "numbers"), None)
    if bad is not None:
        return bad
    outputs = {k: [x for p in parts for x in p.outputs[k]] for k in parts[0].outputs}
    return replace(parts[0], outputs=outputs, single=all(p.single for p in parts))


def _call(trial: Trial, case: Case, precision: str) -> Outcome:
    arguments = trial.vectors.arguments
    leaves = {k: array(x, arguments[k], precision) for k, x in case.inputs.items()}
    wanted = [k for k in leaves if arguments[k].gradient and leaves[k].is_floating_point()]
    if trial.calling.arrays == "jax":
        return _call_jax(trial, case, leaves, wanted)
    if trial.calling.arrays == "numpy":
        found = _read(trial, case, {k: x.numpy().copy() for k, x in leaves.items()}, leaves)
        return found if isinstance(found, Outcome) else _outcome(found, None)
    return _call_torch(trial, case, leaves, wanted)


def _call_torch(trial: Trial, case: Case, leaves: dict[str, Tensor], wanted: list[str]) -> Outcome:
    for k in wanted:
        leaves[k].requires_grad_()
    before = {k: x.detach().clone() for k, x in leaves.items()}
    views = {k: x * 1 if k in wanted else x.clone() for k, x in leaves.items()}  # changes in place are allowed
    found = _read(trial, case, views, leaves)
    changed = tuple(
        k
        for k, x in views.items()
        if not torch.equal(torch.nan_to_num(x.detach().float()), torch.nan_to_num(before[k].float()))
    )
    if isinstance(found, Outcome):
        return replace(found, changed=changed)
    free = {k: leaves[k] for k in wanted}
    return replace(_outcome(found, _gradients(trial.vectors, case, found, free)), changed=changed)


def _gradients(vectors: Vectors, case: Case, found: Found, free: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """By each free leaf; 0 for a loss without a gradient; None for what is one number a token and has none."""
    first = next(iter(vectors.returns))
    primary = found.outputs[first]
    if free and getattr(primary, "requires_grad", False):  # a number of NumPy has no such attribute
        total = differentiated(primary, vectors, case)
        slopes = torch.autograd.grad(total, list(free.values()), allow_unused=True)
        return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(free.items(), slopes, strict=True)}
    if free and shape_of(vectors.returns[first].shape, vectors, case) == ():
        return {k: torch.zeros_like(x) for k, x in free.items()}
    return None


def _call_jax(trial: Trial, case: Case, leaves: dict[str, Tensor], wanted: list[str]) -> Outcome:
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    arrays = {k: jnp.asarray(x.numpy()) for k, x in leaves.items()}
    kept: dict[str, Found] = {}

    def value(free: dict[str, Any]) -> tuple[Any, Any]:
        found = _read(trial, case, arrays | free, leaves)
        if isinstance(found, Outcome):
            raise ValueError(found.detail)
        kept["found"] = found
        where, primary = defined(trial.vectors, case), found.outputs[next(iter(trial.vectors.returns))]
        return (jnp.where(jnp.asarray(where), primary, 0) if where is not None else primary).sum(), found.outputs

    free = {k: arrays[k] for k in wanted}
    if wanted:
        slopes, outputs = jax.grad(value, has_aux=True)(free)
    else:
        outputs, slopes = value({})[1], None
    plain = Found({k: torch.tensor(np.array(x)) for k, x in outputs.items()}, kept["found"].reduced)
    return _outcome(plain, None if slopes is None else {k: torch.tensor(np.array(g)) for k, g in slopes.items()})


def _read(trial: Trial, case: Case, values: dict[str, Any], leaves: dict[str, Tensor]) -> Found | Outcome:
    """Call the function on these values, and find our outputs in what it gives."""
    function, signature = trial.function, trial.signature
    of_call: Any = function
    if signature.constructor is not None:
        inner = keywords(signature.constructor, function.__init__, trial.calling, case, values, leaves)
        ahead, inner = signature.constructor.containers.pack(inner)
        function = function(*ahead, **inner)
        of_call = inspect.signature(getattr(function, "forward", function))
    passed = keywords(signature, of_call, trial.calling, case, values, leaves)
    positional = [passed.pop(name) for name in signature.positional if name in passed]
    first, passed = signature.containers.pack(passed)
    result = function(*first, *positional, **passed)
    if inspect.iscoroutine(result):
        result.close()
        raise TargetError(AWAITED)
    found = read(
        unpacked(result, trial.calling, case, leaves), trial.vectors, case, values.get("mask"), trial.calling.output
    )
    return Outcome("shape", detail=found) if isinstance(found, str) else found


def _outcome(found: Found, gradients: dict[str, Tensor] | None) -> Outcome:
    tensors = [torch.as_tensor(x).detach() for x in (*found.outputs.values(), *(gradients or {}).values())]
    single = all(
        torch.equal(torch.nan_to_num(x.double()), torch.nan_to_num(x.float().double())) for x in tensors if x.numel()
    )
    return Outcome(
        "numbers",
        {k: torch.as_tensor(x).detach().tolist() for k, x in found.outputs.items()},
        None if gradients is None else {k: g.tolist() for k, g in gradients.items()},
        reduced=found.reduced,
        single=single,
    )
