"""Which of a function's parameters is which of ours? Guessed from the names that the field uses.

``role("ref_per_token_logps")`` is "ref_log_probs". What cannot be guessed is asked for: ``--names``, ``--set``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torchstone.conformance.fit.aliases import OF_TOKENS, WORDS, is_new, near_roles, role, setting, words
from torchstone.conformance.fit.containers import Containers, opened
from torchstone.conformance.fit.reading import METRICS
from torchstone.conformance.fit.refusal import refusal
from torchstone.conformance.fit.target import TargetError
from torchstone.conformance.vectors import Case, Vectors


@dataclass(frozen=True)
class Signature:
    """How a function's parameters are filled: from the case's arguments, from its settings, or as the user said.

    ``arguments``, ``settings``: their name -> ours. ``derived``: their name -> "log_ratios", "ratios". ``fillers``:
    their name -> what it may be without changing the objective. ``values``: their name -> the user's value.
    ``defaults``: left as they are, and what that is. ``constructor``: the same for the arguments of a class.
    """

    arguments: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    fillers: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    positional: tuple[str, ...] = ()
    constructor: Signature | None = None
    containers: Containers = field(default_factory=Containers)
    lists: bool = False  # does it say that it takes lists of arrays, one a row?

    def expresses(self, ours: str) -> bool:
        """Can this argument or setting of ours be passed at all?"""
        inner = self.constructor is not None and self.constructor.expresses(ours)
        of_derived = {x for d in self.derived.values() for x in expressed(d)}
        return inner or ours in (*self.arguments.values(), *self.settings.values(), *of_derived)

    def can_lay_out(self, case: Case) -> bool:
        """Can this case's mask be said? One that is passed as lengths has no gaps."""
        passed = {*self.arguments.values(), *self.derived.values()}
        if "lengths" not in self.derived.values() or {"mask", "cu_seqlens"} & passed:
            return True
        return all(row == sorted(row, reverse=True) for row in case.inputs["mask"])

    def left(self) -> dict[str, str]:
        """What is not understood and stays at its default, those of the constructor first: name -> the default."""
        outer = self.constructor.left() if self.constructor else {}
        return outer | {k: repr(v) for k, v in self.defaults.items()}

    def can_say(self, ours: str, value: Any) -> bool:
        """Is there a word for this value, where the setting is passed by words?"""
        theirs = "_".join(words(next((t for t, o in self.settings.items() if o == ours), "")))
        return theirs == ours or value in WORDS.get(theirs, (value,))

    def names(self) -> dict[str, str]:
        """Their name -> ours, those of the constructor first."""
        outer = self.constructor.names() if self.constructor else {}
        return {**outer, **self.arguments, **self.settings, **self.derived, **self.fillers}

    def passed(self) -> dict[str, str]:
        """The same without those of the constructor, and with what the user gave a value."""
        return {**self.arguments, **self.settings, **self.derived, **self.fillers, **dict.fromkeys(self.values, "")}


NORMALISED = {  # log-probs of the whole vocabulary, for an objective of logits
    f"log_softmax({logits})": logits for logits in ("logits", "ref_logits", "teacher_logits")
}
HALVES = {  # one tensor for chosen and rejected
    f"pairs of {what}": tuple(f"{whose}{side}_{kind}" for side in ("chosen", "rejected"))
    for what, whose, kind in (
        ("log_probs", "", "log_probs"), ("ref_log_probs", "ref_", "log_probs"), ("rewards", "", "rewards")
    )
}  # fmt: skip
THUMBS = {  # one tensor for each kind of thumb, as TRL's KTO has it
    f"{side} {what}": (what, "desirable") for side in ("up", "down") for what in ("log_probs", "ref_log_probs")
}
MISMATCHED = ("log_probs of the KL", "ref_log_probs of the KL")  # their mean difference is the reference point
OF_LOGITS = {f"logits of {what}": what for what in ("log_probs", "ref_log_probs", "old_log_probs")}
DERIVED = (
    "log_ratios", "ratios", "group_size", "gamma_beta_ratio", "labels", "group_ids", "cu_seqlens", "lengths",
    "not keep_mean", *NORMALISED, *HALVES, *THUMBS, *MISMATCHED, *OF_LOGITS,
)  # fmt: skip


def expressed(derived: str) -> tuple[str, ...]:
    """What of ours is passed by something that is derived from it."""
    plain = {"gamma_beta_ratio": "gamma", "labels": "mask", "cu_seqlens": "mask", "lengths": "mask",
             "not keep_mean": "keep_mean", **dict.fromkeys(MISMATCHED, "reference_point")}  # fmt: skip
    found = NORMALISED | OF_LOGITS | plain
    return HALVES.get(derived) or THUMBS.get(derived) or ((found[derived],) if derived in found else ())


# What a parameter that the objective does not know may be given without changing it.
FILLERS = {
    "ref_log_probs": "log_probs", "old_log_probs": "log_probs", "sampler_log_probs": "old_log_probs",
    "beta": "0", "entropy_coef": "0", "value_coef": "0", "label_smoothing": "0",
    "mask": "all True", "chosen_mask": "all True", "rejected_mask": "all True", "teacher_weight": "1",
    "next_values": "0 a row", "metrics": "metrics",
}  # fmt: skip
# The same of what comes beside a teacher: its weight, and the task's own advantages or rewards.
BESIDE_TEACHER = {"advantages": "zeros", "rewards": "zeros", "returns": "zeros"}


def read_signature(
    function: Callable[..., Any], vectors: Vectors, names: Mapping[str, str], settings: Mapping[str, Any]
) -> Signature:
    """Match a function's parameters with an objective's arguments and settings.

    Args:
        function: a callable, or a class that is made first.
        vectors: of the objective.
        names: their parameter -> our argument or setting.
        settings: their parameter -> a value, passed as it is.

    Raises TargetError: a parameter without a default cannot be matched; a name in ``names`` or ``settings`` is unknown.
    """
    constructor, inside = None, set()
    if inspect.isclass(function):
        own, packed = opened(function.__init__, _parameters(function.__init__)[1:])
        constructor = _matched(own, vectors, names, settings, partial=True)
        constructor = replace(constructor, containers=packed)
        called = getattr(function, "forward", None) or function.__call__
        parameters, containers = opened(called, _parameters(called)[1:])
        inside = set(constructor.names())
    else:
        forward = getattr(function, "forward", None)
        called = forward if forward is not None and not inspect.isroutine(function) else function
        parameters, containers = opened(called, _parameters(called))
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        every = {p.name for p in parameters} | inside | set(constructor.defaults if constructor else ())
        _check_known(every, names, settings)
    try:
        found = _matched(parameters, vectors, names, {k: v for k, v in settings.items() if k not in inside})
    except _Unknown as e:
        unknown, every_one, taken = e.args
        raise TargetError(refusal(function, every_one, containers, taken, unknown, vectors)) from None
    return replace(found, constructor=constructor, containers=containers)


def _check_known(parameters: set[str], names: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    for source, told in (("--names", names), ("--set", settings)):
        for name in told:
            if name not in parameters:
                have = ", ".join(sorted(parameters))
                raise TargetError(f"{source}: the target has no parameter {name!r}; it has {have}")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as e:
        raise TargetError(
            f"target: the parameters of {function!r} cannot be read; wrap it in a function that names them"
        ) from e


def _matched(
    parameters: list[inspect.Parameter], vectors: Vectors, names: Mapping[str, str], settings: Mapping[str, Any],
    partial: bool = False,
) -> Signature:  # fmt: skip
    """``partial``: parameters may stay unknown, as those of a constructor do."""
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    kinds: dict[str, dict[str, str]] = {"arguments": {}, "settings": {}, "derived": {}}
    left = [p for p in parameters if p.name not in settings]
    for match in MATCHES:
        for p in list(left):
            used = set(kinds["arguments"].values()) | set(kinds["settings"].values())
            kind, ours = match(p, vectors, names, used)
            if kind:
                kinds[kind][p.name] = ours
                left.remove(p)
    kinds = {kind: {p.name: found[p.name] for p in parameters if p.name in found} for kind, found in kinds.items()}
    weights = [p.name for p in left if p.default is not p.empty and _weight_of_teacher(p.name, vectors)]
    unknown = [p.name for p in left if p.default is p.empty]
    own = [name for name in unknown if role(name) in ("old_log_probs", "sampler_log_probs")]
    if own and _has_teacher(vectors) and "log_probs" in set(vectors.arguments) - {*kinds["arguments"].values()}:
        kinds["arguments"][own[0]] = "log_probs"  # beside a teacher's alone they are the policy's
        unknown.remove(own[0])
    fillers = {name: filler for name in [*unknown, *weights] if (filler := _neutral(name, vectors))}
    unknown = [name for name in unknown if name not in fillers]
    tensors = [k for k in vectors.arguments if k not in kinds["arguments"].values()]
    required = [k for k in tensors if all(k in case.inputs for case in vectors.cases)]
    if len(unknown) == len(required) == 1 and not partial and _may_be(unknown[0], required[0]):
        kinds["arguments"][unknown.pop()] = required[0]  # one is left on both sides
    if unknown and not partial:
        raise _Unknown(unknown, parameters, {k: v for found in kinds.values() for k, v in found.items()})
    return Signature(
        kinds["arguments"],
        kinds["settings"],
        kinds["derived"],
        fillers=fillers,
        values={p.name: settings[p.name] for p in parameters if p.name in settings},
        defaults={p.name: p.default for p in left if p.default is not p.empty and p.name not in fillers},
        optional=frozenset(p.name for p in parameters if p.default is not p.empty),
        positional=tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY),
        lists=any(re.search(r"(?i)\b(list|sequence)\[.*(tensor|array)", str(p.annotation)) for p in parameters),
    )


def _neutral(name: str, vectors: Vectors) -> str | None:
    """What a parameter is, that the objective does not know, but that has a neutral value."""
    known = FILLERS | (BESIDE_TEACHER if _has_teacher(vectors) else {})
    if _weight_of_teacher(name, vectors):
        return "teacher_weight"
    if METRICS & set(words(name)):
        return "metrics"
    if role(name) == "values" and {"next", "last", "bootstrap", "final"} & set(words(name)):
        return "next_values"
    return next((k for k in [role(name), *setting(name)] if k in known), None)


def _has_teacher(vectors: Vectors) -> bool:
    return any(k.startswith("teacher_") for k in vectors.arguments)


def _weight_of_teacher(name: str, vectors: Vectors) -> bool:
    """Is it what a teacher's term is multiplied by? An objective of this term alone has no name for it."""
    said = words(name)
    weighs = bool({"coef", "weight", "penalty", "ctl"} & set(said)) and setting(name) in ([], ["beta"])
    return _has_teacher(vectors) and (weighs or ("beta" not in vectors.settings and said == ["beta"]))


class _Unknown(Exception):
    """Parameters that cannot be told: which, all of them, and those that were understood."""


Matched = tuple[str, str]  # ("arguments" or "settings" or "derived", our name); ("", "") where it is none
NOT_HERE: Matched = ("", "")


def _as_told(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> Matched:
    """As the user said."""
    if p.name in names:
        ours = names[p.name]
        for kind, known in (("arguments", vectors.arguments), ("settings", vectors.settings)):
            if ours in known:
                return kind, ours
        if ours in DERIVED:
            return "derived", ours
        known_names = ", ".join([*vectors.arguments, *vectors.settings, *DERIVED])
        raise TargetError(f"--names: {p.name} = {ours!r}: expected one of {known_names}")
    return NOT_HERE


def _as_the_new_one(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> Matched:
    """What is said to be the present policy's or critic's: beside ``newvalue``, ``values`` are the old ones."""
    guess = role(p.name)
    here = is_new(p.name) and guess in vectors.arguments and guess not in used
    here = here and not ("desirable" in vectors.arguments and "kl" in words(p.name))
    return ("arguments", guess or "") if here else NOT_HERE


def _by_its_name(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> Matched:
    if p.name in vectors.arguments and p.name not in used:
        return "arguments", p.name
    if p.name in vectors.settings and p.name not in used:
        return "settings", p.name
    return NOT_HERE


def _by_its_words(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> Matched:
    """A setting by one of its usual names, and what is derived."""
    said, guess = words(p.name), role(p.name)
    joined = "_".join(said)
    if said[:1] == ["ignore"]:  # ignore_index: the number that labels have where nothing counts
        return NOT_HERE
    weight = _weight_of_teacher(p.name, vectors)
    if "cap" in vectors.settings and "epsilon_high" in setting(p.name) and _is_above_1(p.default):
        return "settings", "cap"  # 5 is the bound itself, 0.28 its distance from 1
    for ours in setting(p.name):
        if ours in vectors.settings and ours not in used and not _of_torch(p, ours) and not weight:
            return "settings", ours
    if "mask" in vectors.arguments and joined in CUMULATIVE:
        return "derived", "cu_seqlens"
    of_groups = any(a.shape == "P G" for a in vectors.arguments.values())
    for here, ours in (
        (joined == "shift_mean" and "keep_mean" in vectors.settings, "not keep_mean"),
        (joined == "gamma_beta_ratio" and "gamma" in vectors.settings, "gamma_beta_ratio"),
        (of_groups and joined in GROUP_IDS, "group_ids"),
        (of_groups and "group_size" in setting(p.name), "group_size"),
    ):
        if here:
            return "derived", ours
    if "desirable" in vectors.arguments and (found := _thumbs(said, guess)):
        return found
    if guess == "mask" and "scored" in vectors.arguments and "scored" not in used and not OF_TOKENS & set(said):
        return "arguments", "scored"
    return NOT_HERE


def _by_its_role(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> Matched:
    guess = role(p.name)
    if words(p.name)[:1] == ["ignore"]:
        return NOT_HERE
    if (logits := _normalised(guess, vectors, used)) is not None:
        return "derived", f"log_softmax({logits})"
    if guess == "targets" and "mask" in vectors.arguments and _has_teacher(vectors):
        return NOT_HERE if "mask" in used else ("derived", "labels")
    return ("arguments", guess or "") if guess in vectors.arguments and guess not in used else NOT_HERE


def _by_what_is_left(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> Matched:
    """What the role is called in an objective that has another word for it, and what can be made of the arguments."""
    guess = role(p.name)
    if words(p.name)[:1] == ["ignore"]:
        return NOT_HERE
    halves = HALVES.get(f"pairs of {(guess or '').removeprefix('old_')}", ("",))
    if all(k in vectors.arguments and k not in used for k in halves):
        return "derived", f"pairs of {(guess or '').removeprefix('old_')}"
    for ours in near_roles(guess):
        if ours in vectors.arguments and ours not in used:
            return "arguments", ours
    if p.default is not p.empty or "log_probs" not in vectors.arguments:
        return NOT_HERE
    if guess in ("log_ratios", "ratios", "ref_log_ratios"):
        return "derived", guess.removeprefix("ref_")
    of_logits = f"logits of {guess.replace('logits', 'log_probs')}" if guess else ""
    if OF_LOGITS.get(of_logits) in vectors.arguments and OF_LOGITS[of_logits] not in used:
        return "derived", of_logits
    if "mask" not in vectors.arguments:
        return NOT_HERE
    if guess == "targets" or {"ids", "tokens"} & set(words(p.name)):
        return "derived", "labels"
    said = set(words(p.name))
    lengths = {"lengths", "lens", "seqlens"}
    return ("derived", "lengths") if lengths & said and said <= {*lengths, "seq", "sequence"} | OF_TOKENS else NOT_HERE


def _is_above_1(default: Any) -> bool:
    return isinstance(default, int | float) and not isinstance(default, bool) and default > 1


CUMULATIVE = {"cu_seqlens", "cu_seq_lens", "cu_seqlens_q", "cu_lens", "cu_lengths", "cumulative_lengths"}
GROUP_IDS = {"index", "uid", "uids", "group_ids", "group_id", "prompt_ids", "prompt_id", "group_index", "prompt_index",
             "group_idx", "prompt_idx", "groups", "group", "qid", "qids", "batch_idx"}  # fmt: skip


def _thumbs(said: list[str], guess: str | None) -> Matched:
    """What belongs to thumbs up and down: one tensor for each, pairs that do not belong together, the labels."""
    what = "ref_log_probs" if "ref" in (guess or "") else "log_probs"
    if (guess or "").endswith("log_probs"):
        if "kl" in said:
            return "derived", f"{what} of the KL"
        for whose, side in (("chosen", "up"), ("rejected", "down")):
            if whose in (guess or ""):
                return "derived", f"{side} {what}"
    thumbs = {"desirable", "labels", "label", "thumbs", "liked", "good"} & set(said)
    if said == ["is", "chosen"] or (thumbs and not {"weight", "coef", "w"} & set(said)):
        return "arguments", "desirable"
    return NOT_HERE


MATCHES = (_as_told, _as_the_new_one, _by_its_name, _by_its_words, _by_its_role, _by_what_is_left)  # the surest first
OTHER_TYPES = {  # words of what is no number for each token, row or pair
    "cu", "seqlens", "lengths", "lens", "ids", "index", "idx", "uid", "tokenizer", "model", "config", "cfg", "args",
    "step", "device", "mode", "type", "name", "use", "is", "num", "max", "min", "coef", "dones", "done", "position",
    "self", "batch", "kwargs", "data", "inputs", "attention",
}  # fmt: skip


def _may_be(name: str, ours: str) -> bool:
    """Can the one that is left be the one that is missing? Not if its name says that it is something else."""
    guess = role(name)
    if guess is not None:
        return ours.endswith(guess.split("_", 1)[-1]) or ours.endswith(guess)
    return not setting(name) and not OTHER_TYPES & set(words(name))


def _normalised(guess: str | None, vectors: Vectors, used: set[str]) -> str | None:
    """The logits whose log-probs it is, of the whole vocabulary: in an objective that has no log-probs of tokens."""
    if not (guess or "").endswith("log_probs") or any(k.endswith("log_probs") for k in vectors.arguments):
        return None
    near = near_roles((guess or "").replace("log_probs", "logits"))
    return next((k for k in near if k in vectors.arguments and k not in used), None)


def _of_torch(p: inspect.Parameter, ours: str) -> bool:
    """Is it a reduction by torch's names? It stays at its default: they do not say what is averaged over what."""
    return ours == "reduce" and p.default in ("batchmean", "mean", "sum", "none")
