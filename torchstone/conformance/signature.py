"""Which of a function's parameters is which of ours? Guessed from the names that the field uses.

``role("ref_per_token_logps")`` is "ref_log_probs". What cannot be guessed is asked for: ``--names``, ``--set``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torchstone.conformance.target import TargetError
from torchstone.conformance.vectors import Vectors

# fmt: off
WHOSE = {  # words that say whose log-prob, value or reward it is
    "ref": "ref reference base init initial frozen anchor logq logqs",
    "teacher": "teacher expert",
    "sampler": "sampler sampling vllm inference infer engine",
    "old": "old prev previous behavior behaviour behave rollout mu generation fixed before",
    "chosen": "chosen win winner winning w preferred pos positive good accepted better",
    "rejected": "rejected reject lose loser losing l dispreferred neg negative bad worse",
}
WHAT = {  # words that say what it is
    "log_probs": "logprob logprobs logp logps lp logpi logq logqs",
    "logits": "logits logit",
    "mask": "mask masks",
    "advantages": "advantage advantages adv advs a",
    "rewards": "reward rewards r score scores",
    "values": "value values v vpred vpreds vs baseline",
    "returns": "return returns ret rets",
    "entropies": "entropy entropies ent",
    "targets": "target targets label labels index ids actions",
    "log_ratios": "logratio logratios",
    "ratios": "ratio ratios rho",
}
SETTINGS = {  # whole names, after words such as "coefficient" have become one
    "value_epsilon": "value_epsilon cliprange_value clip_range_vf value_clip vf_clip value_clip_eps clip_value",
    "epsilon": "epsilon eps clip cliprange clip_range clip_eps eps_clip clip_ratio clip_param clip_epsilon "
               "clip_coef ppo_clip epsilon_low clip_low eps_low cliprange_low clip_ratio_low clip_eps_low "
               "clip_range_low low_clip clip_epsilon_low eps_clip_low cliprange_value clip_range_vf value_clip vf_clip",
    "epsilon_high": "epsilon_high clip_high eps_high cliprange_high clip_ratio_high clip_eps_high clip_range_high "
                    "high_clip clip_epsilon_high eps_clip_high epsilon_upper",
    "dual_clip": "dual_clip clip_ratio_c dual_clip_c delta",
    "beta": "beta kl_coef kl_beta kl_weight kl_ctl kl_loss_coef kl_penalty_coef init_kl_coef beta_kl kl_penalty "
            "distillation_alpha jsd_beta js_beta gkd_beta jsd_coef skew kl_direction direction kl_type divergence",
    "gamma": "gamma discount discount_factor kl_discount_factor kl_discount",
    "lam": "lam lambda lambd lmbda gae_lambda gae_lam lamb",
    "eps": "eps epsilon std_eps adv_eps",
    "temperature": "temperature temp tau t",
    "correction": "correction ddof",
    "divide_by_std": "divide_by_std normalize_by_std scale_rewards scale_by_std use_std std_norm norm_adv_by_std "
                     "norm_adv_by_std_in_grpo normalize_std use_std_normalization normalize",
    "label_smoothing": "label_smoothing smoothing label_smooth",
    "denominator": "denominator num_items_in_batch normalizer batch_num_tokens total_tokens num_tokens n_tokens "
                   "global_num_tokens",
    "length": "length max_length max_len max_tokens max_completion_length loss_scale_factor max_response_length "
              "generation_max_len",
    "value_coef": "value_coef vf_coef value_loss_coef critic_coef v_coef",
    "entropy_coef": "entropy_coef ent_coef entropy_loss_coef",
    "group_size": "group_size num_generations n_samples n_samples_per_prompt num_samples rollout_n g k n n_rollouts "
                  "samples_per_prompt",
    "reduce": "reduce reduction loss_agg_mode aggregation",
    "flip_rate": "flip_rate label_smoothing label_noise",
    "delta": "delta margin",
    "eos_id": "eos_id eos_token_id eos",
    "keep_mean": "keep_mean",
    "k": "k topk top_k distillation_topk distillation_top_k distill_topk distill_top_k loss_topk loss_top_k kl_topk "
         "kl_top_k teacher_topk teacher_top_k num_topk num_top_k n_top",
    "of": "of topk_of topk_source support",
    "rest": "rest add_tail distillation_add_tail loss_add_tail tail",
}
# fmt: on
WORDS: dict[
    str, dict[Any, Any]
] = {  # what a setting's values are called where they have names: their parameter -> our value -> their word
    "kl_direction": {0.0: "forward", 1.0: "reverse"},
    "direction": {0.0: "forward", 1.0: "reverse"},
    "kl_type": {0.0: "forward", 1.0: "reverse"},
    "divergence": {0.0: "forward_kl", 1.0: "reverse_kl", 0.5: "jsd"},
    "add_tail": {"tail": True, "renormalise": False},
    "distillation_add_tail": {"tail": True, "renormalise": False},
    "loss_add_tail": {"tail": True, "renormalise": False},
}
AGGREGATIONS = {  # loss_agg_mode, as verl names them
    "token_mean": "token-mean",
    "sequence_sum": "seq-mean-token-sum",
    "sequence_mean": "seq-mean-token-mean",
}


def words(name: str) -> list[str]:
    """``refPerTokenLogps`` -> ref, per, token, logp."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    snake = re.sub(r"log_?probabilit(y|ies)", "logprobs", snake)
    snake = re.sub(r"log_(?=p(rob)?s?(_|$)|pi|ratio|probs)", "log", snake)
    snake = snake.replace("coefficient", "coef").replace("coeff", "coef").replace("normaliz", "normaliz")
    return [w for w in snake.split("_") if w]


def role(name: str) -> str | None:
    """The argument of ours that a parameter of this name usually is; None where it cannot be told."""
    ws = words(name)
    what = next((k for k, known in WHAT.items() for w in ws if w in known.split()), None)
    if "mask" in ws or "mask" in name.lower():
        what = "mask"
    whose = [k for k, known in WHOSE.items() if any(w in known.split() for w in ws)]
    if what is None:
        return "_".join([*whose, "log_probs"]) if {"chosen", "rejected"} & set(whose) else None  # as in pi_w, ref_l
    if what == "mask":
        return next((f"{k}_mask" for k in ("chosen", "rejected") if k in whose), "mask")
    if what == "log_probs" and whose in (["old", "sampler"], ["sampler"]):
        return "sampler_log_probs"
    return "_".join([*whose, what])


def setting(name: str) -> list[str]:
    """The settings of ours that a parameter of this name may be."""
    joined = "_".join(words(name))
    return [k for k, known in SETTINGS.items() if joined in known.split()]


@dataclass(frozen=True)
class Signature:
    """How a function's parameters are filled: from the case's arguments, from its settings, or as the user said.

    ``arguments``, ``settings``: their name -> ours. ``derived``: their name -> "log_ratios", "ratios". ``fillers``:
    their name -> what it may be without changing the objective. ``values``: their name -> the user's value.
    ``defaults``: left as they are. ``constructor``: the same for the arguments of a class.
    """

    arguments: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    fillers: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    positional: tuple[str, ...] = ()
    constructor: Signature | None = None

    def expresses(self, ours: str) -> bool:
        """Can this argument or setting of ours be passed at all?"""
        inner = self.constructor is not None and self.constructor.expresses(ours)
        by_ratio = ours == "gamma" and "gamma_beta_ratio" in self.derived.values()
        by_labels = ours == "mask" and "labels" in self.derived.values()
        by_log_probs = f"log_softmax({ours})" in self.derived.values()
        return (
            inner
            or by_ratio
            or by_labels
            or by_log_probs
            or ours in (*self.arguments.values(), *self.settings.values())
        )

    def can_say(self, ours: str, value: Any) -> bool:
        """Is there a word for this value, where the setting is passed by words?"""
        theirs = "_".join(words(next((t for t, o in self.settings.items() if o == ours), "")))
        return theirs == ours or value in WORDS.get(theirs, (value,))

    def names(self) -> dict[str, str]:
        """Their name -> ours, those of the constructor first."""
        outer = self.constructor.names() if self.constructor else {}
        return {**outer, **self.arguments, **self.settings, **self.derived, **self.fillers}


NORMALISED = {  # log-probs of the whole vocabulary, for an objective of logits
    f"log_softmax({logits})": logits for logits in ("logits", "ref_logits", "teacher_logits")
}
DERIVED = ("log_ratios", "ratios", "group_size", "gamma_beta_ratio", "labels", *NORMALISED)
# What a parameter that the objective does not know may be given without changing it.
FILLERS = {
    "ref_log_probs": "log_probs", "old_log_probs": "log_probs", "sampler_log_probs": "old_log_probs",
    "beta": "0", "entropy_coef": "0", "value_coef": "0", "label_smoothing": "0",
    "mask": "all True", "chosen_mask": "all True", "rejected_mask": "all True", "teacher_weight": "1",
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
        constructor = _matched(_parameters(function.__init__)[1:], vectors, names, settings, partial=True)
        parameters = _parameters(getattr(function, "forward", None) or function.__call__)[1:]
        inside = set(constructor.names())
    else:
        forward = getattr(function, "forward", None)
        parameters = _parameters(forward if forward is not None and not inspect.isroutine(function) else function)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        every = {p.name for p in parameters} | inside | set(constructor.defaults if constructor else ())
        _check_known(every, names, settings)
    found = _matched(parameters, vectors, names, {k: v for k, v in settings.items() if k not in inside})
    return found if constructor is None else replace(found, constructor=constructor)


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
    left = []
    for p in (p for p in parameters if p.name not in settings):
        used = set(kinds["arguments"].values()) | set(kinds["settings"].values())
        kind, ours = _match(p, vectors, names, used)
        if kind:
            kinds[kind][p.name] = ours
        else:
            left.append(p)
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
    if len(unknown) == 1 and len(required) == 1 and not partial:  # one is left on both sides
        kinds["arguments"][unknown.pop()] = required[0]
    if unknown and not partial:
        raise TargetError(_ask(unknown, tensors, [k for k in vectors.settings if k not in kinds["settings"].values()]))
    return Signature(
        kinds["arguments"],
        kinds["settings"],
        kinds["derived"],
        fillers=fillers,
        values={p.name: settings[p.name] for p in parameters if p.name in settings},
        defaults=tuple(p.name for p in left if p.default is not p.empty and p.name not in fillers),
        optional=frozenset(p.name for p in parameters if p.default is not p.empty),
        positional=tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY),
    )


def _neutral(name: str, vectors: Vectors) -> str | None:
    """What a parameter is, that the objective does not know, but that has a neutral value."""
    known = FILLERS | (BESIDE_TEACHER if _has_teacher(vectors) else {})
    if _weight_of_teacher(name, vectors):
        return "teacher_weight"
    return next((k for k in [role(name), *setting(name)] if k in known), None)


def _has_teacher(vectors: Vectors) -> bool:
    return any(k.startswith("teacher_") for k in vectors.arguments)


def _weight_of_teacher(name: str, vectors: Vectors) -> bool:
    """Is it what a teacher's term is multiplied by? An objective of this term alone has no name for it."""
    said = words(name)
    weighs = bool({"coef", "weight", "penalty", "ctl"} & set(said)) and setting(name) in ([], ["beta"])
    return _has_teacher(vectors) and (weighs or ("beta" not in vectors.settings and said == ["beta"]))


def _ask(unknown: list[str], arguments: list[str], settings: list[str]) -> str:
    return (
        f"target: cannot tell what {', '.join(unknown)} should be; say so with names "
        f"({unknown[0]} = one of {', '.join([*arguments, *settings])}) or set a value ({unknown[0]}=...)"
    )


def _match(p: inspect.Parameter, vectors: Vectors, names: Mapping[str, str], used: set[str]) -> tuple[str, str]:
    """("arguments" or "settings" or "derived", our name) for one parameter; "" where it is none."""
    if p.name in names:
        ours = names[p.name]
        for kind, known in (("arguments", vectors.arguments), ("settings", vectors.settings)):
            if ours in known:
                return kind, ours
        if ours in DERIVED:
            return "derived", ours
        known_names = ", ".join([*vectors.arguments, *vectors.settings, *DERIVED])
        raise TargetError(f"--names: {p.name} = {ours!r}: expected one of {known_names}")
    if p.name in vectors.arguments and p.name not in used:
        return "arguments", p.name
    if p.name in vectors.settings and p.name not in used:
        return "settings", p.name
    weight = _weight_of_teacher(p.name, vectors)
    for ours in setting(p.name):
        if ours in vectors.settings and ours not in used and not _of_torch(p, ours) and not weight:
            return "settings", ours
    guess = role(p.name)
    if words(p.name)[:1] == ["ignore"]:  # ignore_index: the number that labels have where nothing counts
        return "", ""
    if (logits := _normalised(guess, vectors, used)) is not None:
        return "derived", f"log_softmax({logits})"
    if guess == "targets" and "mask" in vectors.arguments and _has_teacher(vectors):
        return ("", "") if "mask" in used else ("derived", "labels")
    for ours in _near_roles(guess):
        if ours in vectors.arguments and ours not in used:
            return "arguments", ours
    if "group_size" in setting(p.name) and any(a.shape == "P G" for a in vectors.arguments.values()):
        return "derived", "group_size"
    if "_".join(words(p.name)) == "gamma_beta_ratio" and "gamma" in vectors.settings:
        return "derived", "gamma_beta_ratio"
    if (
        p.default is p.empty
        and guess in ("log_ratios", "ratios", "ref_log_ratios")
        and "log_probs" in vectors.arguments
    ):
        return "derived", guess.removeprefix("ref_")
    return "", ""


def _normalised(guess: str | None, vectors: Vectors, used: set[str]) -> str | None:
    """The logits whose log-probs it is, of the whole vocabulary: in an objective that has no log-probs of tokens."""
    if not (guess or "").endswith("log_probs") or any(k.endswith("log_probs") for k in vectors.arguments):
        return None
    near = _near_roles((guess or "").replace("log_probs", "logits"))
    return next((k for k in near if k in vectors.arguments and k not in used), None)


def _of_torch(p: inspect.Parameter, ours: str) -> bool:
    """Is it a reduction by torch's names? It stays at its default: they do not say what is averaged over what."""
    return ours == "reduce" and p.default in ("batchmean", "mean", "sum", "none")


def _near_roles(guess: str | None) -> list[str]:
    """What a role may be called in an objective that has another word for it."""
    others = {
        "ref_log_probs": ["teacher_log_probs", "old_log_probs"],
        "old_log_probs": ["ref_log_probs", "sampler_log_probs"],
        "sampler_log_probs": ["old_log_probs"],
        "teacher_log_probs": ["ref_log_probs"],
        "teacher_logits": ["ref_logits"],
        "rewards": ["scores"],
        "chosen_rewards": ["chosen_log_probs"],
        "rejected_rewards": ["rejected_log_probs"],
        "targets": ["tokens", "completions"],
        "returns": ["advantages"],
        "advantages": ["returns"],
        "values": ["old_values", "baseline", "x"],
        "log_probs": ["x"],
        "ref_logits": ["teacher_logits"],
    }
    return [] if guess is None else [guess, *others.get(guess, [])]
