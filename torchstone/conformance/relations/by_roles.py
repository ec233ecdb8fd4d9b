"""A function of torch tensors that is no known objective: called by keyword, on a batch made for its roles."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.conformance.fit.aliases import role, setting
from torchstone.conformance.fit.target import Overtime, TargetError, describe, limited
from torchstone.conformance.relations.subject import Answer, Batch, Call, Refused, first_that_runs
from torchstone.terminal import near

ROLES = {
    "log_probs": "B T", "old_log_probs": "B T", "ref_log_probs": "B T", "sampler_log_probs": "B T", "mask": "B T",
    "advantages": "B", "values": "B T", "old_values": "B T", "returns": "B T", "entropies": "B T", "rewards": "P G",
    "scores": "B", "baseline": "B T", "logits": "B T V", "ref_logits": "B T V", "targets": "B T", "x": "B T",
    "chosen_log_probs": "N", "rejected_log_probs": "N", "ref_chosen_log_probs": "N", "ref_rejected_log_probs": "N",
    "chosen_rewards": "N", "rejected_rewards": "N", "margin": "N",
}  # fmt: skip
NUMBERS = {
    "epsilon": 0.2, "epsilon_high": 0.2, "value_epsilon": 0.2, "dual_clip": 3.0, "beta": 0.1, "gamma": 0.95,
    "lam": 0.9, "eps": 1e-6, "temperature": 1.0, "correction": 1, "label_smoothing": 0.0, "value_coef": 0.5,
    "entropy_coef": 0.01, "group_size": 2, "length": 8, "denominator": None,
}  # fmt: skip
FLOWS = (
    "log_probs", "values", "entropies", "logits", "x", "chosen_log_probs", "rejected_log_probs", "chosen_rewards",
    "rejected_rewards",
)  # fmt: skip
SIZES = {"B": 4, "T": 5, "N": 5, "P": 3, "G": 4, "V": 6}


def plain(
    function: Callable[..., Any], roles: Mapping[str, str], settings: Mapping[str, Any], output: str | int | None,
    time_limit: float,
) -> tuple[Call, Batch, dict[str, str], tuple[str, ...]]:  # fmt: skip
    """The arguments of ``Subject`` for a function of torch tensors by keyword, on a batch made for its roles.

    Args:
        function: no class.
        roles: parameter -> role; what is left out is told by the names.
        settings: parameter -> a value, passed as it is.
        output: which of several results: an index, a key or an attribute.
        time_limit: seconds for one call.

    Raises TargetError: it is a class, has a parameter without a role, or none with one.
    """
    if inspect.isclass(function):
        raise TargetError(
            "target: without an objective expected a function; wrap the class in a few lines that call it"
        )
    roles = _roles(function, roles, settings)
    sized = [ours for ours in roles.values() if ours in ROLES]
    if not sized:
        raise TargetError("target: none of its parameters has a role that is known; say so with names")
    per_token = bool({"log_probs", "mask", "values"} & set(sized))
    shapes = {ours: "B T" if ours == "rewards" and per_token else ROLES[ours] for ours in sized}
    batch = _made(shapes) | {ours: NUMBERS[ours] for ours in roles.values() if ours in NUMBERS}
    declared = tuple(k for k in FLOWS if k in shapes)
    calls = [
        _Ask(function, roles, settings, output, time_limit, mask, credit, free)
        for mask in (("bool", "float") if "mask" in shapes else ("bool",))
        for credit in (("B", "B 1", "B T") if "advantages" in shapes else ("B",))
        for free in (tuple(shapes), declared)
    ]
    return first_that_runs(calls, batch), batch, shapes, declared


def _roles(function: Callable[..., Any], roles: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Parameter -> role: as told, or else by its name."""
    known = [*ROLES, *NUMBERS]
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as e:
        raise TargetError("target: its parameters cannot be read; wrap it in a function that names them") from e
    for theirs, ours in roles.items():
        if theirs not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise TargetError(f"names: the target has no parameter {theirs!r}{near(theirs, parameters)}")
        if ours not in known:
            raise TargetError(f"names: {theirs} = {ours!r}: expected one of {', '.join(known)}{near(ours, known)}")
    found = dict(roles)
    for p in parameters.values():
        if p.name in found or p.name in settings or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        guesses = [p.name, role(p.name), *setting(p.name)]
        guess = next((g for g in guesses if g in known and g not in found.values()), None)
        if guess is None and p.default is p.empty:
            raise TargetError(
                f"target: cannot tell what {p.name} is; say so with names ({p.name} = one of {', '.join(known)}) "
                f"or set a value ({p.name}=...)"
            )
        if guess in ROLES or (guess is not None and (p.default is p.empty or guess in ("beta", "denominator"))):
            found[p.name] = guess
    return found


def _made(shapes: Mapping[str, str]) -> Batch:
    """Ragged rows with a gap, both signs, ratios on both sides of the usual clip."""
    g = torch.Generator().manual_seed(3)
    batch: Batch = {}
    base: Tensor | None = None
    for name, shape in shapes.items():
        sizes = [SIZES[d] for d in shape.split()]
        x = torch.randn(sizes, generator=g, dtype=torch.float64)
        if name == "mask":
            x = torch.arange(sizes[1])[None] < torch.tensor([5, 3, 4, 2])[:, None]
            x[0, 2] = False
        elif name == "targets":
            x = torch.randint(SIZES["V"], sizes, generator=g)
        elif name.endswith("log_probs") and shape == "B T":
            base = -x.abs() - 0.3 if base is None else base
            x = base if name == "log_probs" else base + 0.4 * x
        elif name.endswith("log_probs"):
            x = -8 + 2 * x
        elif name == "entropies":
            x = x.abs()
        batch[name] = x
    return batch


@dataclass(frozen=True)
class _Ask:
    """One reading of a plain function: ``mask`` "bool" or "float", ``credit`` "B", "B 1" or "B T" of the advantages."""

    function: Callable[..., Any]
    roles: Mapping[str, str]
    settings: Mapping[str, Any]
    output: str | int | None
    time_limit: float
    mask: str
    credit: str
    free: Sequence[str]

    def __call__(self, batch: Batch) -> Answer:
        """One call, and the gradient of the sum of what it gives."""
        leaves = {
            k: x.clone().requires_grad_(k in self.free and x.is_floating_point()) if isinstance(x, Tensor) else x
            for k, x in batch.items()
        }
        before = {k: x.detach().clone() for k, x in leaves.items() if isinstance(x, Tensor)}
        passed = {k: x * 1 if isinstance(x, Tensor) and x.requires_grad else x for k, x in leaves.items()}
        laid_out = self._laid_out(passed)
        keywords = {theirs: laid_out[ours] for theirs, ours in self.roles.items()}
        try:
            with limited(self.time_limit):
                found = _first(self.function(**keywords, **self.settings), self.output)
                slopes = _slopes(found, leaves, batch.get("mask"))
        except Overtime as e:
            raise Refused(str(e)) from e
        except KeyboardInterrupt:
            raise
        except (Exception, SystemExit) as e:
            raise Refused(describe(e)) from e
        same = {k: torch.equal(passed[k].detach().nan_to_num(), x.nan_to_num()) for k, x in before.items()}
        return Answer(found.detach(), slopes, tuple(k for k, equal in same.items() if not equal))

    def _laid_out(self, passed: Batch) -> Batch:
        asked = dict(passed)
        if self.mask == "float" and "mask" in asked:
            like = next(x for x in passed.values() if isinstance(x, Tensor) and x.is_floating_point())
            asked["mask"] = asked["mask"].to(like.dtype)
        if "advantages" in asked and asked["advantages"].ndim == 1 and self.credit != "B":
            column = asked["advantages"][:, None]
            width = asked["log_probs"].shape[1] if "log_probs" in asked else SIZES["T"]
            asked["advantages"] = column if self.credit == "B 1" else column.expand(-1, width)
        return asked


def _first(result: Any, output: str | int | None) -> Tensor:
    """The tensor asked for; or the first with a gradient, or else the first."""
    if output is not None:
        key = str(output)
        if isinstance(result, Mapping) and key in result:
            return torch.as_tensor(result[key])
        if isinstance(result, list | tuple) and key.lstrip("-").isdigit():
            return torch.as_tensor(result[int(key)])
        return torch.as_tensor(getattr(result, key))
    if isinstance(result, Tensor | int | float):
        return torch.as_tensor(result)
    if isinstance(result, Mapping):
        parts = list(result.values())
    else:
        parts = list(result) if isinstance(result, list | tuple) else list(vars(result).values())
    tensors = [x for x in parts if isinstance(x, Tensor)]
    if not tensors:
        raise Refused(f"expected a tensor, got {type(result).__name__}")
    return next((x for x in tensors if x.requires_grad), tensors[0])


def _slopes(found: Tensor, leaves: Batch, mask: Tensor | None) -> dict[str, Tensor] | None:
    free = {k: x for k, x in leaves.items() if isinstance(x, Tensor) and x.requires_grad}
    if not found.requires_grad:
        return None
    chosen = found[mask] if mask is not None and found.shape == mask.shape else found
    slopes = torch.autograd.grad(chosen.sum(), list(free.values()), allow_unused=True)
    return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(free.items(), slopes, strict=True)}
