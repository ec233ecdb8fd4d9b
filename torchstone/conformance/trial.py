"""Which cases a function can be asked, how it is called, and which numbers it has built in: found by trying."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.ask.compare import matches
from torchstone.conformance.fit.aliases import is_padding, words
from torchstone.conformance.fit.arguments import FILLED
from torchstone.conformance.fit.calling import PER_ROW, Calling
from torchstone.conformance.fit.signature import HALVES, OF_LOGITS, Signature
from torchstone.conformance.name.changes import times
from torchstone.conformance.result import Outcome
from torchstone.conformance.vectors import Case, Vectors, hazards

OVERTIMES = 3  # cases that take too long; after them no more is run


def run_all(trial: Trial, cases: Iterable[Case]) -> dict[int, Outcome]:
    """The outcome of every case, by its id, in float64; after three that took too long, of no more."""
    outcomes: dict[int, Outcome] = {}
    for case in cases:
        if sum(o.kind == "timeout" for o in outcomes.values()) < OVERTIMES:
            outcomes[case.id] = trial.run(case)
    return outcomes


def constant_rows(case: Case) -> bool:
    """Does every argument that may have one number a row or one a token have one value in each row?"""
    present = [x for k in PER_ROW for x in [case.inputs.get(k)] if isinstance(x, list)]
    rows = [row for x in present for row in x if isinstance(row, list)]
    return all(len(set(row)) == 1 for row in rows)


# An input and the number that weighs it: where the function takes neither, the weight is 0 and the input is left out.
WEIGHTS = {
    "ref_log_probs": "beta", "entropies": "entropy_coef", "values": "value_coef", "old_values": "value_coef",
    "returns": "value_coef",
}  # fmt: skip


def askable(case: Case, signature: Signature, vectors: Vectors, without: bool = False) -> Case | None:
    """The case as the function can be asked it, with the inputs that matter to it; None if it cannot be.

    ``without``: a reference may be missing even so, to name what a function without one computes. The numbers of a case
    that lost an input are still those of the whole case: see ``settled``.
    """
    if not all(signature.can_say(ours, value) for ours, value in case.settings.items()):
        return None
    kept = dict(case.inputs)
    for name, x in case.inputs.items():
        weight = WEIGHTS.get(name)
        if signature.expresses(name) or (name.endswith("log_probs") and _derived(signature)):
            continue
        if name.endswith("mask") and all(m for row in x for m in (row if isinstance(row, list) else [row])):
            continue
        if name == "old_values" and case.settings.get("value_epsilon", 0) is None:
            continue
        if name == "old_log_probs" and x == case.inputs["log_probs"]:
            continue
        if weight is not None and weight in vectors.settings and signature.expresses(weight) and case.settings[weight]:
            continue  # it weighs what it is never given: whatever that makes is compared with the right numbers
        if _optional(name, vectors):
            del kept[name]
        elif not (without and name.startswith("ref_")):
            return None
    required = {ours for theirs, ours in signature.arguments.items() if theirs not in signature.optional}
    # a reference that the case has no need of can be anything, if its weight can be set to 0
    for k in required:
        if k not in kept and k not in FILLED and not (k == "ref_log_probs" and signature.expresses("beta")):
            return None
    if "old_values" in required and "old_values" not in kept and "values" in kept:
        kept["old_values"] = times(kept["values"], 0.0, 1)  # where the clip is written in, they matter
    settings = dict(case.settings)
    lower, upper = (signature.expresses(k) for k in ("epsilon", "epsilon_high"))
    none = settings.get("epsilon_high", 0) is None
    if none and upper and settings.get("cap") is not None and not signature.expresses("cap"):
        return None  # the bound is the number that it cannot be given, and not the one that it can
    if none and upper and not lower:
        settings["epsilon_high"] = settings["epsilon"]  # none is the lower bound's number, which it cannot be given
    return replace(case, inputs=kept, settings=settings) if signature.can_lay_out(case) else None


def _optional(name: str, vectors: Vectors) -> bool:
    """Has a case with right numbers no such input? What chooses tokens or completions is never left out."""
    if vectors.arguments[name].kind == "bool":
        return False
    return any(c.expected is not None and name not in c.inputs for c in vectors.cases)


def _derived(signature: Signature) -> bool:
    return any(d in ("log_ratios", "ratios") for d in signature.derived.values())


def likely_arrays(function: Callable[..., Any]) -> tuple[str, ...]:
    """The library that the function itself speaks of, or else its module; then the others worth trying."""
    run = getattr(function, "forward", None) or function
    spoken = getattr(getattr(run, "__code__", None), "co_names", ())
    here = getattr(run, "__globals__", None) or vars(sys.modules.get(getattr(function, "__module__", "") or "", sys))
    for names in (spoken, list(here)):
        found = {x.__name__.split(".")[0] for k in names if isinstance(x := here.get(k), ModuleType)}
        for library, other in (("torch", "numpy"), ("jax", ""), ("numpy", "torch")):
            if library in found:
                return (library, other) if other else (library,)
    return "torch", "numpy"


def best_trial(
    function: Callable[..., Any], signature: Signature, vectors: Vectors, cases: list[Case], arrays: Sequence[str],
    layout: str | None, output: str | None, time_limit: float,
) -> Trial:  # fmt: skip
    """The most favourable reading of what the signature leaves open, found on a few plain cases.

    Args:
        function, signature, vectors: what is called, as what.
        cases: those that it can be asked.
        arrays: the kinds to try, such as ("torch", "numpy").
        layout: of rewards ("P G", "flat", "row"); None tries them.
        output: which result to take; None tries them.
        time_limit: seconds for one case.
    """
    plain = [c for c in cases if c.expected is not None and c.result == "valid" and not hazards(c) and _uneven(c)]
    guesses = hypotheses(
        plain or [c for c in cases if c.expected is not None] or cases[:1], [*fixed_settings(signature, vectors)]
    )
    best: tuple[float, Trial] | None = None
    for calling in _callings(signature, vectors, arrays, layout, output):
        if calling.rewards == "row" and layout is None and best is not None and best[0] >= 1:
            break  # it takes [P G], so it is taken at its word
        if best is not None and best[0] >= 1 and best[1].calling.arrays == "torch" and calling.arrays == "numpy":
            continue  # it takes tensors, so its gradients are asked for too
        trial = Trial(function, signature, calling, vectors, time_limit)
        score = 0.0
        for guess in guesses:  # of the numbers that the function has built in
            asked = [c for c in guess if calling.advantages != "B" or constant_rows(c)][:3]
            if not asked:
                continue
            outcomes = [(trial.run(case), case) for case in asked]
            score = max(score, sum(_score(*pair) for pair in outcomes) / len(outcomes))
            if any(outcome.kind == "timeout" for outcome, _ in outcomes):
                return trial
        if best is None or score > best[0]:
            best = (score, trial)
        if score == 3:
            break
    assert best is not None
    return best[1]


def _uneven(case: Case) -> bool:
    """Are rows and columns of different number, so that they cannot be mistaken for each other?"""
    mask = case.inputs.get("mask")
    return mask is None or len(mask) != len(mask[0])


def fixed_settings(signature: Signature, vectors: Vectors) -> Iterable[str]:
    """The settings that cannot be passed: the function has them built in."""
    return (k for k in vectors.settings if not signature.expresses(k))


def hypotheses(cases: Iterable[Case], fixed: Sequence[str]) -> list[list[Case]]:
    """The cases by what these settings are: a function that has them built in can be right in one group only."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(tuple(repr(case.settings[k]) for k in fixed), []).append(case)
    return list(groups.values())


def _callings(
    signature: Signature, vectors: Vectors, arrays: Sequence[str], layout: str | None, output: str | None
) -> Iterable[Calling]:
    """All that the signature leaves open, the plain calling first; one group at a time last."""
    has = vectors.arguments
    masks = ("bool", "float") if any(a.kind == "bool" and k.endswith("mask") for k, a in has.items()) else ("bool",)
    layouts: tuple[str, ...] = ("P G",)
    if "rewards" in has and has["rewards"].shape == "P G":
        layouts = ("flat", "P G") if "group_size" in signature.derived.values() else ("P G", "row")
        if any("group" in theirs for theirs, ours in signature.arguments.items() if ours == "rewards"):
            layouts = ("row", "P G")
        of_tokens = any("token" in words(theirs) for theirs, ours in signature.arguments.items() if ours == "rewards")
        if of_tokens or "mask" in signature.fillers.values():
            layouts = ("tokens", *layouts)
        elif "group_ids" in signature.derived.values():
            layouts = ("flat", *layouts)
    layouts = (layout,) if layout else layouts
    per_row = any(k in has for k in PER_ROW) and "log_probs" in has
    expanded = ("", "B T", "B 1", "B") if per_row else ("",)
    first, *rest = (k for k, a in vectors.returns.items() if not a.metric)
    outputs = (output,) if output is not None else (None,) if rest else (None, "0", "1", first)
    inverted = (True, False) if any(is_padding(k) for k in signature.names()) else (False,)
    pairs, tokens, ids = _of_derived(signature)
    for more in itertools.product(inverted, pairs, tokens, ids):
        for rewards, kind, choice, advantages, mask in itertools.product(layouts, arrays, outputs, expanded, masks):
            yield Calling(kind, mask, rewards, advantages, choice, *more)


def _of_derived(signature: Signature) -> tuple[tuple[str, ...], ...]:
    """How pairs, tokens and the groups' ids may lie, where they are derived from our arguments."""
    derived = set(signature.derived.values())
    tokens: tuple[str, ...] = ("",)
    if "cu_seqlens" in derived:
        tokens = ("packed",)
    elif derived & set(OF_LOGITS):
        tokens = ("shifted", "")
    elif signature.lists:
        tokens = ("lists", "")
    return (
        ("halves", "interleaved", "rows", "columns") if derived & set(HALVES) else ("halves",),
        tokens,
        ("numpy", "torch", "list") if "group_ids" in derived else ("numpy",),
    )


def _score(outcome: Outcome, case: Case) -> float:
    if outcome.kind != "numbers":
        return 0.5 if outcome.kind == "shape" else 0.0
    if case.expected is None:
        return 1.0
    if matches(outcome, case.expected):
        return 3.0
    if any(matches(outcome, n) for n in case.alternatives.values()):
        return 2.0
    return 1.0


def form(case: Case) -> dict[str, bool]:
    """Of the arguments that may hold one number a row or one a token: do they hold one a token?"""
    return {k: isinstance(x[0], list) for k in PER_ROW for x in [case.inputs.get(k)] if isinstance(x, list) and x}


def reduces(outcomes: Mapping[int, Outcome]) -> bool:
    """Does the function reduce by itself? What comes back per token is reduced here, as the case says."""
    return all(o.reduced != "tokens" for o in outcomes.values())
