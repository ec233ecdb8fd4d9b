"""The inputs and settings of a case as a function's own keywords: its names, its kind of arrays, its layout."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone import core
from torchstone.conformance.calling import PER_ROW, Calling
from torchstone.conformance.signature import (
    AGGREGATIONS,
    BESIDE_TEACHER,
    FILLERS,
    NORMALISED,
    WORDS,
    Signature,
    words,
)
from torchstone.conformance.vectors import Argument, Case
from torchstone.grpo.variants import group_token_mean

NO_BOUND = {"dual_clip": 1e9, "value_epsilon": 1e9}  # for a function that has no None for it
FILLED = {"ref_log_probs": "log_probs"}  # an argument that this case has no need of


def array(x: Any, argument: Argument, precision: str) -> Tensor:
    """Nested lists as a tensor of the argument's kind; ``precision`` ("float64", "float32") is that of floats."""
    kinds = {"bool": torch.bool, "int": torch.int64, "float": getattr(torch, precision)}
    return torch.tensor(x, dtype=kinds[argument.kind])


def keywords(
    signature: Signature, function: Any, calling: Calling, case: Case, values: dict[str, Any],
    leaves: dict[str, Tensor],
) -> dict[str, Any]:  # fmt: skip
    """What to pass, by the function's own names.

    Args:
        signature: whose names are whose.
        function: what is called, or its ``inspect.Signature``: read for defaults of None.
        calling: the layout.
        case: its settings, and the inputs that others are derived from.
        values: the inputs in the function's kind of arrays, by our names.
        leaves: the same as tensors.
    """
    passed: dict[str, Any] = {}
    for theirs, ours in signature.arguments.items():
        if ours in values:
            passed[theirs] = _laid_out(ours, values[ours], calling, values, leaves)
        elif ours in FILLED and FILLED[ours] in values:
            passed[theirs] = _constant(values[FILLED[ours]])
        elif theirs not in signature.optional:
            passed[theirs] = None
    for theirs, ours in signature.settings.items():
        value = case.settings[ours]
        if value is None and not _default_is_none(function, theirs):
            value = {"epsilon_high": case.settings.get("epsilon"), **NO_BOUND}.get(ours)
        if value is not None or theirs not in signature.optional:
            passed[theirs] = _as_asked(theirs, ours, value, case)
    for theirs, what in signature.derived.items():
        passed[theirs] = _derive(what, values, case)
    for theirs, ours in signature.fillers.items():
        passed[theirs] = _filler(ours, values, calling)
    return passed | signature.values


def _default_is_none(function: Any, name: str) -> bool:
    try:
        known = function if isinstance(function, inspect.Signature) else inspect.signature(function)
        return known.parameters[name].default is None
    except (TypeError, ValueError, KeyError):
        return False


def _laid_out(ours: str, x: Any, calling: Calling, values: dict[str, Any], leaves: dict[str, Tensor]) -> Any:
    if ours.endswith("mask") and calling.mask == "float":
        like = next(v for k, v in leaves.items() if v.is_floating_point())
        return x.astype(str(like.dtype)[6:]) if not isinstance(x, Tensor) else x.to(like.dtype)
    if calling.rewards == "flat" and x.ndim == 2 and ours in ("rewards", "scored", "lengths"):
        return x.reshape(-1)
    if ours in PER_ROW and calling.advantages == "B":
        return x[:, 0] if x.ndim == 2 else x  # only cases whose rows are constant are asked
    if ours in PER_ROW and calling.advantages and x.ndim == 1:
        column = x.reshape(-1, 1)
        return column if calling.advantages == "B 1" else column * _ones(values["log_probs"])
    return x


def _ones(x: Any) -> Any:
    return torch.ones_like(x) if isinstance(x, Tensor) else x * 0 + 1


def _constant(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def _as_asked(theirs: str, ours: str, value: Any, case: Case) -> Any:
    """A setting as the function wants it: the name of a reduction or an estimator as the function itself."""
    named = WORDS.get("_".join(words(theirs)))
    if named is not None:
        return named.get(value, value)
    if ours == "reduce":
        return AGGREGATIONS.get(value, value) if theirs != "reduce" else reduction(case)
    if ours == "kl" and isinstance(value, str):
        return getattr(core, value)
    return value


def reduction(case: Case) -> Callable[[Any, Any], Any]:
    """The reduction that this case's settings name, a function of (x, mask); a mean over tokens if they name none."""
    name = case.settings.get("reduce", "token_mean")
    if name == "fixed_length_mean":
        return partial(core.fixed_length_mean, length=case.settings["length"])
    if name == "group_token_mean":
        return partial(group_token_mean, group_size=case.settings["group_size"])
    return getattr(core, name)


def _derive(what: str, values: dict[str, Any], case: Case) -> Any:
    if what == "gamma_beta_ratio":
        return case.settings["gamma"] / case.settings["beta"]
    if what == "labels":  # a token's id where it counts, and -100, as transformers has it, where it does not
        mask = values["mask"]
        return torch.where(mask, 0, -100) if isinstance(mask, Tensor) else mask * 100 - 100
    if what in NORMALISED:
        return _log_softmax(values[NORMALISED[what]])
    if what == "group_size":
        return len(next(x for k, x in case.inputs.items() if k == "rewards")[0])
    other = next(values[k] for k in ("old_log_probs", "ref_log_probs") if k in values)
    log_ratios = values["log_probs"] - other
    if what == "log_ratios":
        return log_ratios
    return log_ratios.exp() if isinstance(log_ratios, Tensor) else math.e**log_ratios


def _log_softmax(logits: Any) -> Any:
    if isinstance(logits, Tensor):
        return logits.log_softmax(-1)
    shifted = logits - logits.max(-1, keepdims=True)
    numpy = sys.modules["numpy" if type(logits).__module__ == "numpy" else "jax.numpy"]
    return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))


def _filler(ours: str, values: dict[str, Any], calling: Calling) -> Any:
    neutral = (FILLERS | BESIDE_TEACHER)[ours]
    if neutral in ("0", "1"):
        return float(neutral)
    like = next(x for x in values.values() if getattr(x, "ndim", 0) == 2)
    if neutral == "all True":
        ones = _ones(_constant(like))
        return ones if calling.mask == "float" else ones > 0
    if neutral == "zeros":
        return 0 * _ones(_constant(like))
    return _constant(values.get(neutral, values.get("log_probs", like)))
