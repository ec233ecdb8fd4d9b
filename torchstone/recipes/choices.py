"""A recipe is a row of choices. A choice is the name of an option, and the option's numbers.

An option is a function of the maths, and a sentence on what it does to the update. Its arguments say the rest: those
named like a tensor of the batch (``log_probs``, ``rewards``, ...) are taken from the batch, by name; all others are
numbers, which the recipe sets. So a new objective becomes an option by being written down in one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from torchstone.terminal import near

Number = float | int | str | bool | None

# What a batch may hold, and what it is for: the message when a recipe needs it and it is not given.
TENSORS = {
    "rewards": "one reward a completion [P G], or one of each function [P G K]",
    "several_rewards": "several rewards a completion [P G K]",
    "reward_weights": "the weight of each of several rewards [K]",
    "completion_advantages": "one advantage a completion [P G]",
    "scored": "which completions could be scored [P G]",
    "greedy_rewards": "the reward of each prompt's greedy completion [P]",
    "prompt_values": "what each prompt is worth: the baseline of its completions [P]",
    "lengths": "tokens of each completion [P G]",
    "energies": "the squared norm of each token's score [B T]",
    "token_rewards": "one reward a token [B T]",
    "log_probs": "log-probs of the policy that learns [B T]",
    "old_log_probs": "the trainer's log-probs when the update began [B T]",
    "ref_log_probs": "log-probs of the frozen reference [B T]",
    "sampler_log_probs": "log-probs as the engine that sampled reported them (if the trainer did, the old ones) [B T]",
    "teacher_log_probs": "log-probs of the sampled tokens under the teacher [B T]",
    "logits": "logits of the policy, where it chose the tokens [B T V]",
    "teacher_logits": "logits of the teacher for the same positions [B T V]",
    "values": "the critic's values [B T]",
    "old_values": "the critic's values at sampling time [B T]",
    "returns": "what the critic learns to predict [B T]",
    "entropies": "entropy of each next-token distribution [B T]",
    "advantages": "one advantage a sequence [B] or a token [B T]",
    "mask": "True where the policy chose the token [B T]",
    "draws": "a random number for each token, drawn for the whole batch [B T]",
    "token_weights": "a weight for each token, made by token_weights() of the whole batch [B T]",
    "max_length": "the longest completion that generation allows, in tokens",
    "group_size": "completions of each prompt",
    "denominator": "tokens or rows of the whole batch",
    "x": "a loss per token [B T]",
    **{
        f"{ref}{side}_log_probs": f"log-probs of the {side} completions' tokens{under} [N {length}]"
        for ref, under in (("", ""), ("ref_", " under the reference"))
        for side, length in (("chosen", "T"), ("rejected", "U"))
    },
    "weights": "a weight for each pair [N]",
    "reference_point": "KTO's reference point, a scalar",
    "reward_shift": "where a reward counts as neither good nor bad, a scalar (bco_reward_shift)",
    "other_mask": "True at the tokens of the pair's other completion [N U]",
    "of_reference": "whether log-probs are those of the reference",
    "gold_log_probs": "log-probs of the tokens of a third completion, better than the pair's [N W]",
    "gold_mask": "True at the gold completions' tokens [N W]",
    "chosen_mask": "True at the chosen completions' tokens [N T]",
    "rejected_mask": "True at the rejected completions' tokens [N U]",
    "chosen_is_from_reference": "True where the reference wrote the chosen completion, not the rejected one [N]",
    "sft_denominator": "tokens or completions of the whole batch",
    "right": "which completions are right answers [B]",
    "right_tokens": "tokens of right answers in the whole batch",
    "expert_log_probs": "log-probs of an expert's tokens under the policy that learns [E S]",
    "expert_mask": "True at the expert's tokens [E S]",
    "expert_tokens": "tokens of the experts in the whole batch",
    "chosen_win_rates": "how often the chosen completion wins [N]",
    "rejected_win_rates": "how often the rejected completion wins [N]",
}


# fmt: off
ALWAYS = {  # every batch has these, or they are made from what it has
    "rewards", "several_rewards", "completion_advantages", "scored",
    "lengths", "token_rewards", "log_probs", "advantages", "mask", "x",
    "chosen_log_probs", "rejected_log_probs", "chosen_mask", "rejected_mask", "other_mask", "of_reference",
}
# fmt: on


class Option(NamedTuple):
    """``run`` computes it; ``effect`` says in one sentence what it does to the update.

    ``ratios``: of a surrogate, the ratios that it can take; empty where any will do. ``beside``: another sentence where
    the row has this ratio, as what is true of a token's own ratio is not true of the whole completion's. ``ahead``:
    what has to be computed of the whole batch, before it is cut into micro-batches; ``run`` takes its result.
    """

    run: Callable[..., Any]
    effect: str
    ratios: tuple[str, ...] = ()
    beside: Mapping[str, str] = MappingProxyType({})
    ahead: Callable[..., Any] | None = None

    @property
    def inputs(self) -> dict[str, bool]:
        """Names of the tensors that ``run`` takes, and whether it needs them."""
        return _tensors(self.run)

    @property
    def inputs_ahead(self) -> dict[str, bool]:
        """Names of the tensors that ``ahead`` takes, and whether it needs them; none where there is no ``ahead``."""
        return {} if self.ahead is None else _tensors(self.ahead)

    @property
    def numbers(self) -> dict[str, Any]:
        """Names of its numbers, with their defaults; ``inspect.Parameter.empty`` where there is none."""
        both = (_parameters(function) for function in (self.ahead, self.run) if function is not None)
        return {k: p.default for found in both for k, p in found.items() if k not in TENSORS}


def _tensors(run: Callable[..., Any]) -> dict[str, bool]:
    return {k: p.default is p.empty for k, p in _parameters(run).items() if k in TENSORS}


def _parameters(run: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments that are still open: those that ``functools.partial`` has set are the option's own."""
    fixed = getattr(run, "keywords", {})
    return {k: p for k, p in inspect.signature(run).parameters.items() if k not in fixed}


@dataclass(frozen=True, init=False)
class Choice:
    """The name of an option and its numbers: ``Choice("clip", epsilon=0.2)``."""

    name: str
    numbers: Mapping[str, Number]

    def __init__(self, name: str, /, **numbers: Number):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "numbers", MappingProxyType(numbers))

    def __str__(self) -> str:
        inside = ", ".join(f"{k} {show(v)}" for k, v in self.numbers.items())
        return f"{self.name} ({inside})" if inside else self.name


NONE = Choice("none")


def nothing() -> None:
    """The option "none"."""


def show(value: Number) -> str:
    """A number as a person writes it: ``0.2``, ``1e-4``, ``none``."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:.10e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all kinds of recipe share: the check of a row, its numbers, and where they come from.

    ``source`` names the paper, its version and equation, or the framework's file. ``left_out`` is what that source has
    and this row leaves out, or "nothing". ``stated`` says for each number (``"surrogate.epsilon"``) where it was seen:
    "paper, ...", "authors' code, ...", "framework, ...", "account, ..." (of others), or "not stated; ..." (by a paper
    that was read), "not found; ..." (a paper that could not be had), and why it is this one. ``name`` is the row's own.
    ``parent`` names the row that the list of ``torchstone recipes`` tells this one from: where it is left out, a
    dialect's is the published row, and any other's the nearest of REINFORCE, GRPO and DPO.
    """

    COLUMNS: ClassVar[dict[str, dict[str, Option]]]  # in the order of data flow: the options of each choice, by name
    STAGES: ClassVar[dict[str, tuple[str, ...]]]  # the methods that compute, and the columns that each of them reads
    AHEAD: ClassVar[str] = "token_weights"  # the stage that computes an option's ``ahead``, of the whole batch
    ALWAYS: ClassVar[Set[str]] = ALWAYS  # what is never asked for by name
    NUMBERS: ClassVar[dict[str, str]]  # what each number does to the update: "epsilon", "value.epsilon", "clip.epsilon"

    name: str
    parent: str = ""
    about: str
    source: str
    left_out: str = ""
    stated: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for at, options in self.COLUMNS.items():
            choice = getattr(self, at)
            option = options.get(choice.name)
            if option is None:
                known = f"expected one of {', '.join(options)}"
                raise ValueError(f"{self.name}.{at}: {known}, got {choice.name!r}{near(choice.name, options)}")
            missing = [k for k, v in option.numbers.items() if v is inspect.Parameter.empty and k not in choice.numbers]
            if set(choice.numbers) - set(option.numbers) or missing:
                takes = ", ".join(option.numbers) or "no number"
                raise ValueError(f"{self.name}.{at}: {choice.name} takes {takes}, got {choice}")

    def numbers(self) -> dict[str, Number]:
        """Every number of the row, as ``"surrogate.epsilon": 0.2``."""
        return {f"{at}.{k}": v for at in self.COLUMNS for k, v in getattr(self, at).numbers.items()}

    def option(self, at: str) -> Option:
        """The option that the row chooses in this column."""
        return self.COLUMNS[at][getattr(self, at).name]

    def effect(self, at: str, number: str = "") -> str:
        """What the choice of this column, or one number of it, does to the update of this row."""
        option, ratio = self.option(at), getattr(self, "ratio", NONE).name
        if not number:
            return option.beside.get(ratio, option.effect)
        own = getattr(self, at).name
        keys = (f"{own}.{number} {ratio}", f"{own}.{number}", f"{at}.{number}", number)
        return next(self.NUMBERS[key] for key in keys if key in self.NUMBERS)

    def inputs(self, at: str, stage: str = "loss") -> dict[str, bool]:
        """Tensors that the choice of this column takes in this stage, and whether it needs them."""
        option = self.option(at)
        return option.inputs_ahead if stage == self.AHEAD else option.inputs

    def run(self, at: str, batch: Mapping[str, Any], stage: str = "loss") -> Any:
        """Call the option of this column: tensors from the batch by name, numbers from the row."""
        option = self.option(at)
        function = option.ahead if stage == self.AHEAD else option.run
        if function is None:
            return None
        known = _parameters(function)
        tensors = {k: batch[k] for k in known if k in TENSORS and batch.get(k) is not None}
        return function(**tensors, **{k: x for k, x in getattr(self, at).numbers.items() if k in known})

    def check(self, stage: str, batch: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` before anything is computed, if this stage lacks a tensor or would ignore one."""
        for at in self.STAGES[stage]:
            for tensor, needed in self.inputs(at, stage).items():
                if needed and tensor not in self.ALWAYS and batch.get(tensor) is None:
                    why = f"since {at} is {getattr(self, at)}"
                    raise ValueError(f"{tensor}: the recipe {self.name} needs {TENSORS[tensor]}, {why}, got None")
        used = {*self.ALWAYS, *self.takes(stage)}
        for tensor, given in batch.items():
            number = (
                tensor in ("reference_point", "reward_shift", "sft_denominator", "right_tokens", "expert_tokens")
                and given is not None
            )
            if (isinstance(given, Tensor) or number) and tensor in TENSORS.keys() - used and tensor != "denominator":
                known = ", ".join(self.takes(stage)) or "nothing beside what every row does"
                got = f"a tensor of shape {list(given.shape)}" if isinstance(given, Tensor) else given
                raise ValueError(
                    f"{tensor}: the recipe {self.name} does not use it in {stage}, expected None: takes({stage!r}) "
                    f"is {known}; got {got}"
                )

    def takes(self, stage: str = "loss") -> list[str]:
        """Every tensor that this stage (``"advantages"``, ``"token_weights"``, ``"loss"``) uses, beside what all do."""
        found = (k for at in self.STAGES[stage] for k in self.inputs(at, stage))
        return [k for k in dict.fromkeys(found) if k not in self.ALWAYS]

    def used(self, stage: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """Of what is known by these names, what this stage takes: the keyword arguments to call it with."""
        return {name: known[name] for name in self.takes(stage) if name in known}

    def needs(self) -> list[str]:
        """What this row cannot do without, beside rewards and log-probs, in the order of data flow."""
        asked = (self.inputs(at, stage).items() for stage, columns in self.STAGES.items() for at in columns)
        found = (k for tensors in asked for k, needed in tensors if needed)
        return [k for k in dict.fromkeys(found) if k not in self.ALWAYS]

    def but(self, **changes: Any) -> Any:
        """This row with some choices changed."""
        return replace(self, **changes)
