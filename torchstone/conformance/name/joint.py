"""Changes of several inputs at once that any objective can have: exchanged, broadcast, or all of them alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import FunctionType
from typing import Any, cast

from torchstone.conformance.name.changes import Change, Inputs
from torchstone.conformance.name.inputs import each_entry, of_all, word
from torchstone.conformance.vectors import Argument, Vectors


def joint_changes(vectors: Vectors, taken: Iterable[str]) -> Iterable[Change]:
    """Of the arguments that a function takes."""
    names = [k for k in vectors.arguments if k in set(taken)]
    yield from _exchanged(names, vectors.arguments)
    yield from _all_at_once(names, vectors)
    yield from _broadcast(names, vectors.arguments)


def _all_at_once(names: list[str], vectors: Vectors) -> Iterable[Change]:
    """The same to all inputs of one shape: a mean too early, logs of another base, rows for columns."""
    from torchstone_oracle import core
    from torchstone_oracle.numbers import dual, mean

    def change(name: str, about: str, effect: str, keys: list[str], function: Callable[[Any], Any],
               result: Callable[[Any], Any] | None = None) -> Change:  # fmt: skip
        return Change(
            name, about, effect, frozenset((*keys, "everything")),
            inputs=lambda given: given | {k: function(given[k]) for k in keys if k in given},
            result=None if result is None else lambda x, case: result(x),
        )  # fmt: skip

    numbers = [k for k in names if vectors.arguments[k].kind == "float"]
    rows = [k for k in numbers if vectors.arguments[k].shape == "N"]
    if rows:
        yield change("mean_first", "The mean over the batch is taken first, inside the loss: the order is exchanged.",
                     "Pairs are not judged one by one.", rows, of_all(mean))  # fmt: skip
    logs = [k for k in numbers if "log" in k]
    for base, factor in ((10, 2.302585092994046), (2, 0.6931471805599453)):
        yield change(f"log_ratios_of_base_{base}", f"Log-ratios are of base {base}, and e ** x is taken of them.",
                     "A ratio of 2 is another one.", logs,
                     each_entry(lambda x, factor=factor: x / dual(factor)))  # fmt: skip
        yield change(f"base_{base}", f"Logs are taken of base {base}, or {base} ** x in place of exp(x).",
                     "Every log-ratio is another one.", logs,
                     each_entry(lambda x, factor=factor: x * dual(factor)))  # fmt: skip
    tokens = [k for k in names if vectors.arguments[k].shape == "B T"]
    if tokens and next(iter(vectors.returns.values())).shape == "B T":
        yield change("other_direction", "It runs in the other direction along the tokens: forwards in place of "
                     "backwards, or the reverse.", "Tokens are credited with what came before them.", tokens, _reversed,
                     _reversed)  # fmt: skip
    groups = [k for k in names if vectors.arguments[k].shape == "P G"]
    first = next(iter(vectors.returns.values()))
    if groups and first.shape == "P G":
        yield change("along_columns", "It is computed along the wrong axis (dim, columns): over the same sample of all "
                     "prompts, not over the samples of a prompt.", "Easy and hard prompts are compared.", groups,
                     _exactly_transposed, _exactly_transposed)  # fmt: skip
        yield change("groups_interleaved", "The groups are interleaved: sample i belongs to prompt i % P, where the "
                     "samples of a prompt stand one after the other.", "Samples of other prompts are the baseline.",
                     groups, _dealt_out, _gathered)  # fmt: skip
    logits = [k for k in numbers if vectors.arguments[k].shape == "B T V"]
    if logits:
        yield replace(
            change("softmax_over_time", "The softmax is over the tokens of a row (the wrong axis, dim), not over the "
                   "vocabulary.", "What is trained is no distribution of a next token.", logits, list),
            inputs=None,
            at_settings=lambda given, settings: given | {k: _over_time(given[k], settings) for k in logits},
            code=((cast(FunctionType, core.log_softmax), _as_given.__code__),),
        )  # fmt: skip


def _dealt_out(x: Any) -> Any:
    """Of all entries, one row after the other, every P-th is in a row."""
    entries = [v for row in x for v in row]
    return [entries[p :: len(x)] for p in range(len(x))]


def _gathered(x: Any) -> Any:
    """The reverse."""
    entries = [v for column in zip(*x, strict=True) for v in column]
    return [entries[p * len(x[0]) : (p + 1) * len(x[0])] for p in range(len(x))]


def _over_time(x: Any, settings: Mapping[str, Any]) -> Any:
    """Log-probs, times the temperature that the objective will divide them by."""
    from torchstone_oracle.core import log_softmax

    tau = settings.get("temperature", 1)
    by_row = ([[z * tau for z in log_softmax(column, tau)] for column in zip(*row, strict=True)] for row in x)
    return [_exactly_transposed(row) for row in by_row]


def _as_given(logits: Any, temperature: Any) -> Any:
    """In place of the oracle's ``log_softmax``, in whose module this runs: they are log-probs."""
    return [dual(z) / temperature for z in logits]


def _reversed(x: Any) -> Any:
    return [row[::-1] if isinstance(row, list) else row for row in x]


def _exactly_transposed(x: Any) -> Any:
    return [list(column) for column in zip(*x, strict=True)]


def _exchanged(names: list[str], arguments: Mapping[str, Argument]) -> Iterable[Change]:
    """Each pair of one shape and kind: changed places, and one in place of the other."""
    for a, b in itertools.permutations(names, 2):
        one, other = arguments[a], arguments[b]
        if one.kind != other.kind or len(one.shape.split()) > 2 or (one.kind == "float" and not one.shape):
            continue
        if one.shape == other.shape and names.index(a) < names.index(b):
            yield Change(
                f"{a}_and_{b}_exchanged", f"{word(a).capitalize()} and {word(b)} are exchanged (swapped).",
                "Each has the place of the other.", frozenset((a, b)),
                inputs=lambda given, a=a, b=b: {**given, a: given[b], b: given[a]} if {a, b} <= given.keys() else given,
            )  # fmt: skip
        if len(one.shape.split()) >= len(other.shape.split()):
            yield Change(
                f"{a}_is_{b}", *_in_place(a, b), frozenset((a,)),
                inputs=lambda given, a=a, b=b: {**given, a: _spread(given[b], given[a])} if a in given and b in given
                else given,
            )  # fmt: skip


def _spread(x: Any, like: Any) -> Any:
    """One number a row at each place of the row."""
    if not isinstance(like, list) or not isinstance(like[0], list) or isinstance(x[0], list):
        return x
    return [[v] * len(row) for v, row in zip(x, like, strict=True)]


def _in_place(a: str, b: str) -> tuple[str, str]:
    if (a, b) == ("ref_log_probs", "old_log_probs"):
        return (
            "The KL is to the old policy, not to the reference: old_log_probs stands where ref_log_probs belongs.",
            "Nothing holds the policy near the reference: the KL starts anew at every rollout.",
        )
    return f"{word(b).capitalize()} stand in place of {word(a)} ({b} for {a}).", f"Nothing depends on {word(a)}."


def _broadcast(names: list[str], arguments: Mapping[str, Argument]) -> Iterable[Change]:
    """[N 1] against [N]: every entry of these meets every entry of the others."""
    vectors = [k for k in names if arguments[k].shape == "N"]
    for n in range(1, len(vectors) // 2 + 1):
        for these in itertools.combinations(vectors, n):
            yield Change(
                f"{'_and_'.join(these)}_broadcast",
                f"{' and '.join(map(word, these)).capitalize()} are broadcast, [N, 1] against [N]: every pair of rows.",
                "A completion is compared with those of all other prompts.", frozenset(vectors),
                inputs=lambda given, these=these: _outer(given, these, vectors),
            )  # fmt: skip


def _outer(given: Inputs, these: tuple[str, ...], every: list[str]) -> Inputs:
    n = len(given[these[0]])
    wide = {k: [v for v in given[k] for _ in range(n)] if k in these else given[k] * n for k in every if k in given}
    return given | wide
