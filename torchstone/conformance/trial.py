"""Which cases a function can be asked, how it is called, and which numbers it has built in: found by trying."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torchstone.conformance.aliases import is_padding, words
from torchstone.conformance.arguments import FILLED
from torchstone.conformance.call import Trial
from torchstone.conformance.calling import PER_ROW, Calling
from torchstone.conformance.compare import matches
from torchstone.conformance.result import Outcome
from torchstone.conformance.signature import HALVES, OF_LOGITS, Signature
from torchstone.conformance.vectors import Case, Vectors, hazards

OVERTIMES = 3  # cases that take too long; after them no more is run
# Alternatives that leave out a setting: of a function that cannot be given it, they say only that it has another value.
LEAVES_OUT = {
    "no_temperature": "temperature", "always_forward_kl": "beta", "always_reverse_kl": "beta", "always_half": "beta",
    "each_token_alone": "gamma", "undiscounted": "gamma",
}  # fmt: skip


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


def applies(case: Case, signature: Signature, vectors: Vectors, without: bool = False) -> bool:
    """Can the function be asked this at all? What it cannot be given must not matter in the case.

    ``without``: a reference may be missing even so, to name what a function without one computes.
    """
    if case.settings.get("denominator") is not None and not signature.expresses("denominator"):
        return False
    if not all(signature.can_say(ours, value) for ours, value in case.settings.items()):
        return False
    for name, x in case.inputs.items():
        if without and name.startswith("ref_"):
            continue
        if signature.expresses(name) or (name.endswith("log_probs") and _derived(signature)):
            continue
        if name.endswith("mask") and all(m for row in x for m in (row if isinstance(row, list) else [row])):
            continue
        if name == "old_values" and case.settings.get("value_epsilon", 0) is None:
            continue
        if name == "old_log_probs" and x == case.inputs["log_probs"]:
            continue
        return False
    if not signature.can_lay_out(case):
        return False
    required = {ours for theirs, ours in signature.arguments.items() if theirs not in signature.optional}
    # a reference that the case has no need of can be anything, if its weight can be set to 0
    return all(
        k in case.inputs or k in FILLED or (k == "ref_log_probs" and signature.expresses("beta")) for k in required
    )


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


def built_in(
    cases: list[Case], outcomes: Mapping[int, Outcome], signature: Signature, vectors: Vectors
) -> tuple[dict[str, Any], list[Case]]:
    """What the settings that cannot be passed seem to be: the values under which most cases match, and those cases.

    Args:
        cases, outcomes: what was asked, and what came back by the case's id.
        signature, vectors: which settings cannot be passed.
    """
    fixed = [
        k
        for k in fixed_settings(signature, vectors)
        if k not in ("reduce", "length", "group_size") or _reduces(outcomes)
    ]

    usual = {k: vectors.settings[k].usual[0] for k in fixed if k == "temperature" and vectors.settings[k].usual}

    def match(group: list[Case]) -> tuple[bool, float]:
        scored = [c for c in group if c.id in outcomes and c.expected is not None and not hazards(c)]
        right = sum(_score(outcomes[c.id], c) == 3 for c in scored)
        names = {n for c in scored for n in c.alternatives if LEAVES_OUT.get(n) not in fixed}
        named = max((sum(_score_as(outcomes[c.id], c, n) for c in scored) for n in names), default=0)
        most = max(right, named)
        if 2 * most < len(scored) and any(group[0].settings[k] != usual[k] for k in usual):
            most = 0  # a few chance hits do not show that it has an unusual number built in
        return len(scored) > 2 and right == len(scored), most / (len(scored) + 2)

    best = max(hypotheses(cases, fixed), key=match)
    forms = [[c for c in best if _form(c) == form] for form in dict.fromkeys(map(_form, best))]
    if len(forms) > 1:  # a function of one number a row, or of one a token, that does not take the other
        fits = [any(_score(outcomes[c.id], c) >= 2 for c in form if c.id in outcomes) for form in forms]
        best = [c for form, fit in zip(forms, fits, strict=True) if fit or not any(fits) for c in form]
    return {k: best[0].settings[k] for k in fixed}, best


def _form(case: Case) -> tuple[str, ...]:
    """Which arguments hold one number a token, of those that may also hold one a row."""
    return tuple(
        k for k in PER_ROW for x in [case.inputs.get(k)] if isinstance(x, list) and x and isinstance(x[0], list)
    )


def _score_as(outcome: Outcome, case: Case, name: str) -> bool:
    return matches(outcome, case.alternatives.get(name, case.expected))


def _reduces(outcomes: Mapping[int, Outcome]) -> bool:
    """Does the function reduce by itself? What comes back per token is reduced here, as the case says."""
    return all(o.reduced != "tokens" for o in outcomes.values())
