"""Errors before any work: options, recipes and data that cannot work, said by name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from torchstone.terminal import UserError
from torchstone.train import methods
from torchstone.train.methods import Batch
from torchstone.train.model import Outputs, Policy
from torchstone.train.options import DistillOptions, DPOOptions, GRPOOptions, RecipeOptions, ReinforceOptions, Run
from torchstone.train.rollout import as_rollout
from torchstone.train.tasks import Task


def check_options(config: Run) -> None:
    """Numbers that cannot work, by name. Raises UserError."""
    for name, (words, fits) in ranges(config).items():
        value = getattr(config, name, None)
        if value is not None and not (fits(value) and math.isfinite(value)):
            raise UserError(f"--{name.replace('_', '-')} must be {words} for {config.method}, got {value}")
    if isinstance(config, RecipeOptions):
        check_recipe(config)
    if isinstance(config, DistillOptions):
        check_signal(config)


def ranges(config: Run) -> dict[str, tuple[str, Callable[[float], bool]]]:
    """What each number must be, in words and as a test."""
    counts = dict.fromkeys(["steps", "prompts", "group_size", "epochs", "minibatches", "pairs", "samples", "k"], 1)
    counts |= {"max_new_tokens": 1, "micro_batch": 1, "pretrain_steps": 0, "warmup_steps": 0, "eval_prompts": 0}
    weights = ["beta", "epsilon", "epsilon_high", "value_epsilon", "value_coef", "entropy_coef"]
    counts |= dict.fromkeys([*weights, "std_eps", "whiten_eps"], 0)
    if isinstance(config, GRPOOptions | DPOOptions) or (
        isinstance(config, ReinforceOptions) and config.baseline == "leave-one-out"
    ):
        counts["group_size"] = 2  # a lone completion has nothing to be compared with
    found: dict[str, tuple[str, Callable[[float], bool]]] = {
        name: (f"at least {least}", partial(operator.le, least)) for name, least in counts.items()
    }
    found |= dict.fromkeys(["gamma", "lam", "label_smoothing"], ("from 0 to 1", lambda x: 0 <= x <= 1))
    found |= dict.fromkeys(["std_correction", "whiten_correction"], ("0 or 1", lambda x: x in (0, 1)))
    found |= dict.fromkeys(["lr", "temperature", "max_grad_norm"], ("above 0", lambda x: x > 0))
    found["dual_clip"] = ("above 1", lambda x: x > 1)
    if isinstance(config, DPOOptions):
        found["beta"] = ("above 0", lambda x: x > 0)
    if isinstance(config, DistillOptions):
        found["beta"] = found["gamma"]
    return found


SIGNALS = {"teacher-advantage": {"gamma"}, "jsd": {"beta"}, "jsd-top-k": {"beta", "k", "of", "rest"}}


def check_signal(config: DistillOptions) -> None:
    """A number of another signal would be without effect. Raises UserError."""
    for name in ("gamma", "beta", "k", "of", "rest"):
        given = getattr(config, name) != getattr(DistillOptions(), name)
        if given and name not in SIGNALS.get(config.signal, set()):
            its = " or ".join(signal for signal, names in SIGNALS.items() if name in names)
            raise UserError(
                f"--{name} belongs to --signal {its}; with --signal {config.signal} it would change nothing"
            )


def check_recipe(config: RecipeOptions) -> None:
    """A round on two empty groups: what the recipe lacks, or cannot be given here, is said before any work."""
    G, why = config.group_size, ""
    try:
        method = methods.method_of(config)
        assert isinstance(method, methods.Recipe)
        if config.teacher and not config.has_teacher:
            raise ValueError("it has no teacher: leave --teacher out")
        cache = method.recipe.penalty.numbers.get("cache") or 0 if not config.has_teacher else 0
        if cache > config.max_new_tokens:
            why = f"; its cache is longer than a completion: raise --max-new-tokens, or write {config.recipe}"
            why += f"{'+' if ':' in config.recipe else ':'}penalty.cache={max(1, config.max_new_tokens // 5)}"
        rewards, mask = torch.zeros(2, G), torch.ones(2 * G, 1, dtype=torch.bool)
        logits = torch.zeros(2 * G, 1, method.recipe.signal.numbers.get("k", 2)) if config.has_teacher else None
        outputs = replace(Outputs(*torch.zeros(3, 2 * G, 1)), logits=logits)
        teacher = SimpleNamespace(logits=lambda: logits)
        batch = method.advantages(rewards, Batch(mask, outputs, outputs.log_probs, teacher=teacher), rewards[:, 0])
        method.loss(outputs, batch, 1)
    except ValueError as e:
        raise UserError(f"--recipe {config.recipe}: {e}{why}") from e


def check_task(config: Run, task: Task, policy: Policy, teacher: Policy | None = None) -> None:
    """Data that the method cannot learn from, and texts that the model (or its teacher) cannot read: a UserError."""
    if task.reward is None and not (isinstance(config, DPOOptions) or config.has_teacher):
        raise UserError(f"{task.name} has preference pairs, not prompts to be judged: use dpo, or give --reward")
    if teacher is not None:
        check_teacher(config, task, policy, teacher)
    readers = {"a": policy} | ({"the teacher's": teacher} if teacher else {})
    whose, context = min(((name, p.context) for name, p in readers.items()), key=operator.itemgetter(1))
    examples = task.examples + task.held_out
    lengths = [len(ids) for ids in policy.encode_prompts([example["prompt"] for example in examples], config.system)]
    longest = [0] * len(examples)  # completion that is given
    if isinstance(config, DPOOptions) and task.reward is None:
        sides = (policy.encode_completions([pair[side] for pair in examples]) for side in ("chosen", "rejected"))
        longest = [max(len(chosen), len(rejected)) for chosen, rejected in zip(*sides, strict=True)]
    for example, length, completion in zip(examples, lengths, longest, strict=True):
        if length == 0 or length + max(completion, config.max_new_tokens) > context:
            own = completion > config.max_new_tokens
            then = f"{completion} of a completion" if own else f"--max-new-tokens {config.max_new_tokens}"
            advice = "shorten it" if own or length + 1 >= context else "try a smaller --max-new-tokens"
            sizes = f"{length} tokens, then {then}, in {whose} context of {context}"
            raise UserError(f"a prompt does not fit ({sizes}): {example['prompt'][:60]!r}; {advice}")


def check_teacher(config: Any, task: Task, policy: Policy, teacher: Policy) -> None:
    """A teacher that counts other tokens than the student, or the same ones otherwise. Raises UserError."""
    name, then = f"--teacher {config.teacher}", "choose one of the student's family, or another student with --model"
    if teacher.vocabulary != policy.vocabulary:
        raise UserError(f"{name} has {teacher.vocabulary} tokens, the student {policy.vocabulary}; {then}")
    theirs, ours = teacher.tokenizer, policy.tokenizer
    if differ := theirs.get_vocab().items() ^ ours.get_vocab().items():
        i = min(i for _, i in differ)
        both = (tokenizer.convert_ids_to_tokens(i) for tokenizer in (theirs, ours))
        raise UserError(
            "{} has another tokenizer: token {} is {!r} there, {!r} for the student; {}".format(name, i, *both, then)
        )
    if not set(teacher.eos_ids) & set(policy.eos_ids):
        both = (tokenizer.convert_ids_to_tokens(p.eos_ids) for tokenizer, p in ((theirs, teacher), (ours, policy)))
        raise UserError("{} ends a completion with {}, the student with {}; {}".format(name, *both, then))
    for text in (example["prompt"] for example in task.examples[:100]):
        if theirs(text)["input_ids"] != ours(text)["input_ids"]:
            raise UserError(f"{name} has another tokenizer: it cuts {text[:60]!r} into other tokens; {then}")
    if isinstance(config, RecipeOptions):
        row: Any = config.find()
        option, k = f"--recipe {config.recipe}: signal.k", row.signal.numbers.get("k", 1)
    else:
        option, k = "--k", config.k if config.signal == "jsd-top-k" else 1
    if k > policy.vocabulary:
        raise UserError(f"{option} must be at most the vocabulary's {policy.vocabulary}, got {k}")


@torch.no_grad()
def check_lesson(config: Any, task: Task, policy: Policy, teacher: Policy) -> None:
    """A teacher that says what the student says already. Raises UserError."""
    prompts = policy.encode_prompts([example["prompt"] for example in task.examples[:8]], config.system)
    batch = as_rollout(policy, prompts, [[policy.end_id]] * len(prompts))
    ours, theirs = (p.logits(*batch.inputs).float().log_softmax(-1) for p in (policy, teacher))
    if (ours - theirs).abs().max() < 1e-5:
        raise UserError(f"--teacher {config.teacher} predicts what the student predicts: there is nothing to learn")
