"""The inputs and settings of a case as a function's own keywords: its names, its kind of arrays, its layout."""

from __future__ import annotations

import inspect
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone import core
from torchstone.conformance.fit.aliases import AGGREGATIONS, WORDS, is_padding, words
from torchstone.conformance.fit.calling import PER_ROW, Calling
from torchstone.conformance.fit.signature import (
    BESIDE_TEACHER,
    FILLERS,
    HALVES,
    MISMATCHED,
    NORMALISED,
    OF_LOGITS,
    THUMBS,
    Signature,
)
from torchstone.conformance.vectors import Argument, Case
from torchstone.grpo.variants import group_token_mean

NO_BOUND = {"dual_clip": 1e9, "value_epsilon": 1e9}  # for a function that has no None for it
FILLED = {  # an argument that this case has no need of: what it is there, and like what
    "scored": ("1", "rewards"), "entropies": ("0", "log_probs"), "values": ("0", "log_probs"),
    "old_values": ("0", "log_probs"), "returns": ("0", "log_probs"), "baseline": ("0", "returns"),
    "margin": ("0", "chosen_rewards"),
}  # fmt: skip


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
            x = ~values[ours] if calling.padding and is_padding(theirs) else values[ours]
            passed[theirs] = _of_tokens(_laid_out(ours, x, calling, values, leaves), signature, calling, values)
        elif ours == "ref_log_probs":
            passed[theirs] = _of_tokens(_constant(values["log_probs"]), signature, calling, values)
        elif ours in FILLED and FILLED[ours][1] in values and theirs not in signature.optional:
            zeros = 0 * _ones(_constant(values[FILLED[ours][1]]))
            x = _laid_out(ours, zeros if FILLED[ours][0] == "0" else zeros == 0, calling, values, leaves)
            passed[theirs] = _of_tokens(x, signature, calling, values)
        elif theirs not in signature.optional:
            passed[theirs] = None
    for theirs, ours in signature.settings.items():
        value = case.settings[ours]
        if value is None and not _default_is_none(function, theirs):
            value = {"epsilon_high": case.settings.get("epsilon"), **NO_BOUND}.get(ours)
        passed[theirs] = _as_asked(theirs, ours, value, case, calling)  # None too: what it raises then is told
    for theirs, what in signature.derived.items():
        passed[theirs] = _derive(what, values, case, calling, signature)
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
    if calling.rewards == "tokens" and x.ndim == 2 and ours == "rewards":
        return _on_the_last_token(x)
    if calling.rewards == "flat" and x.ndim == 2 and ours in ("rewards", "scored", "lengths"):
        return x.reshape(-1)
    if ours in PER_ROW and calling.advantages == "B":
        return x[:, 0] if x.ndim == 2 else x  # only cases whose rows are constant are asked
    if ours in PER_ROW and calling.advantages and x.ndim == 1:
        column = x.reshape(-1, 1)
        return column if calling.advantages == "B 1" else column * _ones(values["log_probs"])
    return x


def _on_the_last_token(x: Any) -> Any:
    """Rewards [P G] as [P * G, 3]: 0, 0, and the reward."""
    column = x.reshape(-1, 1)
    nothing = column * 0
    return _library(x).concatenate([nothing, nothing, column], 1)


def _library(x: Any) -> Any:
    """What an array is of: torch, numpy or jax.numpy."""
    if isinstance(x, Tensor):
        return torch
    return sys.modules["numpy" if type(x).__module__ == "numpy" else "jax.numpy"]


def _of_tokens(x: Any, signature: Signature, calling: Calling, values: dict[str, Any]) -> Any:
    """What has one number a token, as one row of all chosen tokens, as a list of rows, or with a place in front."""
    mask = values.get("mask")
    if not calling.tokens or mask is None or tuple(getattr(x, "shape", ())) != tuple(mask.shape):
        return x
    if calling.tokens == "shifted":
        return torch.cat([x[:, :1] & False, x], 1) if x.dtype == mask.dtype else x
    if calling.tokens == "lists":
        return [row[on] if "mask" not in signature.arguments.values() else row for row, on in zip(x, mask, strict=True)]
    return x.reshape(-1) if "mask" in signature.arguments.values() else x[mask]


def _ones(x: Any) -> Any:
    return torch.ones_like(x) if isinstance(x, Tensor) else x * 0 + 1


def _constant(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def _as_asked(theirs: str, ours: str, value: Any, case: Case, calling: Calling) -> Any:
    """A setting as the function wants it: the name of a reduction or an estimator as the function itself."""
    named = WORDS.get("_".join(words(theirs)))
    if named is not None:
        return named.get(value, value)
    if ours == "reduce":
        return AGGREGATIONS.get(value, value) if theirs != "reduce" else reduction(case)
    if ours == "reference_point" and calling.arrays == "torch":
        return torch.tensor(value, dtype=torch.float64)
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


def _derive(what: str, values: dict[str, Any], case: Case, calling: Calling, signature: Signature) -> Any:
    if what in HALVES:
        return _in_one(*(values[k] for k in HALVES[what] if k in values), calling=calling)
    if what in THUMBS:
        up = values["desirable"]
        return values[THUMBS[what][0]][up if what.startswith("up") else ~up]
    if what in MISMATCHED:  # any numbers whose mean difference is the reference point
        other = values["ref_log_probs"] * 0 - 2
        return _constant(other + case.settings["reference_point"] if what == MISMATCHED[0] else other)
    if what in OF_LOGITS:
        return _logits(values[OF_LOGITS[what]], calling)
    if what == "not keep_mean":
        return not case.settings["keep_mean"]
    if what == "group_ids":
        return _group_ids(case, calling)
    if what in ("cu_seqlens", "lengths"):
        return _lengths(what, values["mask"], "mask" in signature.arguments.values())
    if what == "gamma_beta_ratio":
        return case.settings["gamma"] / case.settings["beta"]
    if what == "labels":  # a token's id where it counts, and -100, as transformers has it, where it does not
        mask = values["mask"]
        if calling.tokens == "shifted":
            mask = torch.cat([mask[:, :1] & False, mask], 1)
        if "mask" in signature.arguments.values():
            return mask * 0
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


def _in_one(chosen: Any, rejected: Any, calling: Calling) -> Any:
    """Chosen and rejected in one array: one half after the other, in turn, or as two rows or columns."""
    numpy = _library(chosen)
    if calling.pairs == "halves":
        return numpy.concatenate([chosen, rejected])
    both = numpy.stack([chosen, rejected], 0 if calling.pairs == "rows" else 1)
    return both.reshape(-1) if calling.pairs == "interleaved" else both


def _logits(log_probs: Tensor, calling: Calling) -> Tensor:
    """Logits of two tokens, whose first has these log-probs; with a last place that predicts nothing, if shifted."""
    both = torch.stack([log_probs, torch.log(-torch.expm1(log_probs))], -1)
    return torch.cat([both, torch.zeros_like(both[:, :1])], 1) if calling.tokens == "shifted" else both


def _group_ids(case: Case, calling: Calling) -> Any:
    rewards = case.inputs["rewards"]
    ids = torch.arange(len(rewards)).repeat_interleave(len(rewards[0]))
    return {"numpy": ids.numpy(), "torch": ids, "list": ids.tolist()}[calling.ids]


def _lengths(what: str, mask: Any, whole_rows: bool) -> Any:
    """Tokens of each row; or where each row ends in one row of all: [0, n_1, n_1 + n_2, ...]."""
    n = mask.sum(1)
    if what == "lengths":
        return n
    ends = (n * 0 + mask.shape[1] if whole_rows else n).cumsum(0)
    return torch.cat([ends[:1] * 0, ends]).to(torch.int32) if isinstance(n, Tensor) else [0, *ends.tolist()]


def _log_softmax(logits: Any) -> Any:
    if isinstance(logits, Tensor):
        return logits.log_softmax(-1)
    shifted = logits - logits.max(-1, keepdims=True)
    numpy = _library(logits)
    return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))


def _filler(ours: str, values: dict[str, Any], calling: Calling) -> Any:
    neutral = (FILLERS | BESIDE_TEACHER)[ours]
    if neutral == "metrics":
        return defaultdict(lambda: defaultdict(list))
    if neutral == "0 a row":
        return _constant(values["rewards"])[:, 0] * 0
    if neutral in ("0", "1"):
        return float(neutral)
    like = next(x for x in values.values() if getattr(x, "ndim", 0) == 2)
    like = _on_the_last_token(like) if calling.rewards == "tokens" else like
    if neutral == "all True":
        ones = _ones(_constant(like))
        return ones if calling.mask == "float" else ones > 0
    if neutral == "zeros":
        return 0 * _ones(_constant(like))
    return _constant(values.get(neutral, values.get("log_probs", like)))
