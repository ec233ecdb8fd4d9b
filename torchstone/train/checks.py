"""Errors before any work: options, recipes and data that cannot work, said by name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from torchstone.data.chat import control_tokens, has_system
from torchstone.data.examples import everything, look_over, place
from torchstone.data.formats import completion_of, text_of
from torchstone.data.tasks import Task
from torchstone.store.files import say
from torchstone.terminal import UserError
from torchstone.train import methods, options, processes
from torchstone.train.methods import Batch
from torchstone.train.model import Outputs, Policy
from torchstone.train.rollout import as_rollout, check_room, sample
from torchstone.train.tokens import weigh

SIGNALS = {"teacher-advantage": {"gamma"}, "jsd": {"beta"}, "jsd-top-k": {"beta", "k", "of", "rest"}}


def check_options(config: options.Run) -> None:
    """Numbers that cannot work, and options that would change nothing, by name. Raises UserError."""
    for name, (words, fits) in ranges(config).items():
        value = getattr(config, name, None)
        if value is not None and not (fits(value) and math.isfinite(value)):
            raise UserError(f"--{name.replace('_', '-')} must be {words} for {config.method}, got {value}")
    for name in ("model", "reward", "teacher", "reward_model"):
        if getattr(config, name, None) in ("", ("",)):
            raise UserError(f"--{name.replace('_', '-')} is empty: name one, or leave the option out")
    if config.lora and find_spec("peft") is None:
        raise UserError('--lora needs peft: pip install ".[lora]" in a checkout of Torchstone')
    if config.lora and config.model and Path(config.model, "adapter_config.json").is_file():
        raise UserError(
            f"--model {config.model} is adapters: with --lora, give a whole model, as model/ beside them is"
        )
    if lacking := [name for name in config.log if find_spec(name) is None]:
        packages = 'pip install ".[log]" in a checkout of Torchstone'
        raise UserError(f"--log {' '.join(lacking)} needs a package that is not installed: {packages}")
    if getattr(config, "critic", "linear") != "linear" and not getattr(config, "reward_model", None):
        raise UserError("--critic reward-model begins as the model of --reward-model FOLDER: give one")
    if not (config.data or config.task):
        raise UserError("with --model, what to learn is --data FILE or --task NAME")
    for name, (idle, why) in idle_options(config).items():
        if idle and is_given(config, name):
            raise UserError(f"--{name.replace('_', '-')} would change nothing: {why}")
    if isinstance(config, options.RecipeOptions):
        check_recipe(config)
    check_processes(config)


def check_processes(config: options.Run) -> None:
    """Several processes need rows for each; one has nothing to share its weights with. Raises UserError."""
    several = processes.world()
    if config.shard and several == 1:
        start = f"torchrun --nproc-per-node 2 -m torchstone train {config.method} --shard ..."
        raise UserError(f"--shard cuts weights over several processes, and this is one: {start}")
    rows, what, more = getattr(config, "pairs", 0) or getattr(config, "batch_size", several), "examples", "more of them"
    if isinstance(config, options.Online):
        whole = config.group_size if "group_size" in methods.method_of(config).needs else 1
        rows = math.ceil(config.prompts * config.group_size / config.minibatches / whole)
        what, more = "groups" if whole > 1 else "completions", "fewer --minibatches, more --prompts"
    if several > rows:
        raise UserError(f"{several} processes, and an optimizer step is on {rows} {what}: fewer processes, or {more}")


def is_given(config: options.Run, name: str) -> bool:
    """Whether an option is another than if it were left out."""
    left_out = (getattr(options.defaults(config.method, large), name, None) for large in (False, True))
    return getattr(config, name, None) not in (None, *left_out)


def idle_options(config: options.Run) -> dict[str, tuple[Any, str]]:
    """Options that would change nothing beside others: whether it is so, and why."""
    small = (config.model, "it is for the small model, and --model takes its place")
    idle: dict[str, tuple[Any, str]] = dict.fromkeys(["pretrain_steps", "warmup_steps", "demonstrations"], small)
    if isinstance(config, options.SFTOptions):
        idle["demonstrations"] = (config.data, "all of --data is imitated")
    idle["split"] = (config.data or ":" in config.task, "it is for the built-in tasks")
    idle |= dict.fromkeys(
        ["chat_template", "template_args"], (not config.model, "the small model has no chat template")
    )
    idle |= dict.fromkeys(["columns", "skip_bad_rows"], (not config.data, "it is for --data"))
    for name in ("reward_weights", "reward_workers", "reward_timeout"):
        idle[name] = (not config.reward, "it is for --reward")
    idle |= dict.fromkeys(["trust_remote_code", "router_aux_loss"], (not config.model, "it is for --model"))
    idle["dtype"] = (not config.model, "it is for --model; the small model is float32")
    idle["lr_warmup"] = (config.schedule in ("up-down", "constant"), f"--schedule {config.schedule} takes none")
    if isinstance(config, options.RewardOptions):
        idle["router_aux_loss"] = (True, "a reward model has no balancing loss in transformers")
    if isinstance(config, options.Online):
        idle["missing_eos_penalty"] = (not config.reward_model, "it is for --reward-model")
    if isinstance(config, options.GRPOOptions):
        idle["kl"] = (config.beta == 0, "--beta is 0")
        idle |= dict.fromkeys(["std_correction", "std_eps"], (not config.divide_by_std, "--no-divide-by-std"))
    if isinstance(config, options.PPOOptions):
        idle |= dict.fromkeys(["whiten_correction", "whiten_eps"], (not config.whiten, "--no-whiten"))
    if isinstance(config, options.DistillOptions):
        for name in ("gamma", "beta", "k", "of", "rest"):
            its = " or ".join(signal for signal, names in SIGNALS.items() if name in names)
            idle[name] = (name not in SIGNALS.get(config.signal, set()), f"it belongs to --signal {its}")
    return idle


def ranges(config: options.Run) -> dict[str, tuple[str, Callable[[float], bool]]]:
    """What each number must be, in words and as a test."""
    counts = dict.fromkeys(["steps", "prompts", "group_size", "epochs", "minibatches", "pairs", "samples", "k"], 1)
    counts |= {"batch_size": 1}
    counts |= {"max_new_tokens": 1, "micro_batch": 1, "pretrain_steps": 0, "warmup_steps": 0, "eval_prompts": 0}
    counts |= {
        "eval_every": 0, "demonstrations": 0, "center_rewards_coefficient": 0, "missing_eos_penalty": 0, "keep": 1,
        "lora": 0, "lr_warmup": 0,
    }  # fmt: skip
    counts |= {"reward_workers": 0, "router_aux_loss": 0, "micro_batch_tokens": 0, "rollout_tokens": 0}
    weights = ["beta", "epsilon", "epsilon_high", "value_epsilon", "value_coef", "entropy_coef"]
    counts |= dict.fromkeys([*weights, "std_eps", "whiten_eps", "weight_decay"], 0)
    if isinstance(config, options.GRPOOptions | options.Pairs) or (
        isinstance(config, options.ReinforceOptions) and config.baseline == "leave-one-out"
    ):
        counts["group_size"] = 2  # a lone completion has nothing to be compared with
    found: dict[str, tuple[str, Callable[[float], bool]]] = {
        name: (f"at least {least}", partial(operator.le, least)) for name, least in counts.items()
    }
    found |= dict.fromkeys(["gamma", "lam", "label_smoothing"], ("from 0 to 1", lambda x: 0 <= x <= 1))
    found |= dict.fromkeys(["std_correction", "whiten_correction"], ("0 or 1", lambda x: x in (0, 1)))
    found |= dict.fromkeys(["lr", "temperature", "max_grad_norm", "reward_timeout"], ("above 0", lambda x: x > 0))
    found["seed"] = ("between -2^40 and 2^40", lambda x: abs(x) < 2**40)
    if isinstance(config, options.Online):
        rows = config.prompts * config.group_size
        found["minibatches"] = (f"from 1 to the round's {rows} completions", lambda x: 1 <= x <= rows)
    found["dual_clip"] = ("above 1", lambda x: x > 1)
    if isinstance(config, options.DPOOptions):
        found["beta"] = ("above 0", lambda x: x > 0)
    if isinstance(config, options.DistillOptions):
        found["beta"] = found["gamma"]
    return found


def check_recipe(config: options.RecipeOptions) -> None:
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
        teacher = SimpleNamespace(logits=lambda: logits) if config.has_teacher else None
        each = torch.zeros(2 * G, max(1, len(config.reward_weights)))
        empty = Batch(mask, outputs, outputs.log_probs, teacher=teacher, each=each)
        batch = method.advantages(rewards, empty, rewards[:, 0])
        if "token_weights" in method.needs:
            batch = weigh(method, batch, slice(None), outputs, seed=0)
        method.loss(outputs, batch, 1)
    except ValueError as e:
        raise UserError(f"--recipe {config.recipe}: {e}{why}") from e


def check_task(config: options.Run, task: Task, policy: Policy, teacher: Policy | None = None) -> None:
    """Data that teaches nothing, and texts that the model (or its teacher) cannot read. Raises UserError."""
    if teacher is not None:
        check_teacher(config, task, policy, teacher)
    pairs = isinstance(config, options.Pairs) and check_pairs(config, task)
    sides: list[Callable[[Any], str]] = [itemgetter("chosen"), itemgetter("rejected")] if pairs else []
    if isinstance(config, options.SFTOptions):
        sides = [completion_of]
        if not {"completion", "answer"} & task.examples[0].keys():
            say(f"{task.name} has preference pairs: the chosen completions are imitated")
    if config.system and has_system(task.examples[0]["prompt"]):
        raise UserError("--system would change nothing: the prompts have system messages of their own")
    places, told = look_over(task, sides, control_tokens(policy.tokenizer))
    say(told)
    few = [examples[i] for examples, i in places]
    prompts = policy.encode_prompts([example["prompt"] for example in few], config.system)
    rooms = [policy.encode_completions([side(example) for example in few]) for side in sides]
    readers = [("a", policy)] + ([("the teacher's", teacher)] if teacher else [])
    for whose, reader in readers:
        for at, prompt, *written in zip(places, prompts, *rooms, strict=True):
            try:
                check_room(reader, [prompt], [max(config.max_new_tokens, *map(len, written), 0)], whose)
            except UserError as e:
                raise UserError(f"{place(*at)}{e}") from e
    if config.model:
        try:
            sample(policy, prompts[-1:], 2, temperature=0.0)
        except AttributeError as e:
            raise UserError(f"--model {config.model} cannot be sampled here: {e}") from e


def check_pairs(config: options.Pairs, task: Task) -> bool:
    """Whether the pairs are given. Raises UserError: options that then change nothing, pairs that teach nothing."""
    if task.reward and "chosen" in task.examples[0]:
        raise UserError(f"{task.name} has preference pairs: leave --reward out: only what is sampled is judged")
    for name in ("samples", "group_size") if not task.reward else ():
        if is_given(config, name):
            raise UserError(f"--{name.replace('_', '-')} would change nothing: the pairs are given")
    same = [] if task.reward else bytearray(pair["chosen"] == pair["rejected"] for pair in everything(task))
    n, twice = len(same), sum(same)
    if n and twice == n:
        raise UserError(f"every pair of {task.name} has one text twice: there is nothing to learn")
    if twice:
        say(f"{twice} of {n} pairs have one text twice, and teach nothing")
    return not task.reward


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
    for text in (text_of(example["prompt"]) for example in task.examples[:100]):
        if theirs(text)["input_ids"] != ours(text)["input_ids"]:
            raise UserError(f"{name} has another tokenizer: it cuts {text[:60]!r} into other tokens; {then}")
    if isinstance(config, options.RecipeOptions):
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
