"""One run from start to end, and what it writes so that it can be looked at, used, and gone on with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from torchstone.data.examples import read_pairs
from torchstone.data.find import find_task
from torchstone.data.tasks import Example, Task
from torchstone.evaluate.dry import dry_step
from torchstone.layers import set_layers
from torchstone.rewards.calling import State
from torchstone.rewards.reward_model import load_critic, load_reward_model, reward_model_of
from torchstone.rewards.scores import paid_by
from torchstone.store import checkpoint
from torchstone.store.files import absolute, append, claimed, read_records, rewind, save, save_model, say
from torchstone.terminal import UserError
from torchstone.trackers import tracked
from torchstone.train import processes
from torchstone.train.checks import check_lesson, check_options, check_task
from torchstone.train.learner import Learner
from torchstone.train.lesson import nothing_learned
from torchstone.train.loading import load_policy, load_teacher
from torchstone.train.methods import method_of
from torchstone.train.metrics import held_out, of_samples
from torchstone.train.model import Policy
from torchstone.train.offline import add_reference, learn_offline, sample_pairs
from torchstone.train.online import learn_online
from torchstone.train.options import DPOOptions, Online, Pairs, RewardOptions, Run, SFTOptions
from torchstone.train.reward import learn_reward
from torchstone.train.start import demonstrations, make_start, untrained
from torchstone.train.supervised import learn_sft

Report = Callable[[dict[str, Any]], bool]
Prepared = tuple[Learner, Iterator[dict[str, Any]], int]  # rounds: the metrics of each


class NoPairs(UserError):
    """No two completions of any prompt differ in what they earn."""


class Interrupted(Exception):
    """The run was asked to stop. The round was finished and saved; the message is the folder to go on with."""


def train(config: Run, report: Report = lambda record: False, resume: bool = False, dry: bool = True) -> Path:
    """Run one method; write metrics.jsonl, completions.jsonl, checkpoints and model/; give back their folder.

    Args:
        report: called with each record of metrics.jsonl; ``steps``, the number of rounds; and ``held_out``, at an
            evaluation one sample in a list. True asks to stop.
        resume: go on from the checkpoint in ``config.out``; the result is that of an unbroken run.
        dry: with ``--model``, go through a step first, and say what it takes.
    """
    processes.join()
    if resume and processes.world() == 1:
        config = replace(config, shard=False)  # it may have begun in several processes
    check_options(config)
    task = find_task(config)
    tracking = tracked(config, report) if processes.main_process() else nullcontext(report)
    with processes.peers(config.folder), claimed(config.folder, resume), tracking as told:
        return _train(config, task, told, resume, dry)


@torch.enable_grad()  # whatever the file of a reward switches off
def _train(config: Run, task: Task, report: Report, resume: bool, dry: bool) -> Path:
    folder, notes = config.folder, checkpoint.notes_of(config, task.fingerprint)
    for text in task.told:
        say(text)
    if config.dtype == "pure-bfloat16" and not config.lora:
        say(f"--dtype pure-bfloat16 loses most steps of --lr {config.lr}; --dtype bfloat16 keeps weights in float32")
    done = (folder / "model").exists() or len(read_records(folder / "metrics.jsonl")) > 1
    if resume and done and not checkpoint.files(folder):
        raise UserError(f"{folder} has a run's rounds and no checkpoint to go on from; choose another --out")
    place = "cpu" if config.shard else usable_device(config.device)
    teacher = load_teacher(config, place) if config.has_teacher else None
    if isinstance(config, Online) and config.reward_model:
        device, trust = usable_device(config.device), config.trust_remote_code
        task = paid_by(task, load_reward_model(config.reward_model, device, config.dtype, trust), config)
    policy = first_policy(config, task, teacher, resume)
    save(folder / "config.json", json.dumps(notes["options"] | {"out": str(folder.absolute())}, indent=1))

    started = time.perf_counter()
    learner, rounds, steps = prepare(config, task, policy, teacher, resume)
    if isinstance(config, RewardOptions):
        task = replace(task, held_out=held_out_pairs(config, task, policy, resume))
    if config.lr_warmup >= steps:
        raise UserError(f"--lr-warmup {config.lr_warmup}: the run has {steps} rounds, and would end before --lr")
    policy = learner.policy
    checkpoint.check_disk(folder, learner, config.keep)
    notes = checkpoint.read(folder, learner, notes) if resume else notes
    if learner.step > steps:
        raise UserError(f"--steps {steps}: round {learner.step} of the run in {folder} is done already")
    if dry and config.model and learner.step == 0:
        say(dry_step(config, task, learner, teacher))
    journal = Journal(config, task, learner, teacher, steps, report, started - rewind(folder, learner.step), notes)
    if learner.step == 0:
        journal.write({"step": 0, "samples": 0})
    with checkpoint.kept(folder):
        for metrics in rounds:
            journal.write(metrics)
    save_model(policy, folder / "model")
    if config.lora:
        save_model(policy, folder / "adapter", adapters=True)
    say(nothing_learned(config, task, read_records(folder / "metrics.jsonl")[1:]))
    return folder


def first_policy(config: Run, task: Task, teacher: Policy | None, resume: bool) -> Policy:
    """The model of ``--model``, or the small one, made here or by the run that goes on; and the folder of the run."""
    device, start = "cpu" if config.shard else usable_device(config.device), config.folder / "start"
    source = config.model or (str(start) if resume and start.exists() else "")
    trust = config.trust_remote_code
    policy = load_policy(source, device, config.dtype, trust=trust) if source else untrained(config, task, device)
    if config.model:
        policy.set_template(config.chat_template, config.template_args)
    check_task(config, task, policy, teacher)
    policy = policy if source else make_start(config, task, device)
    if teacher:
        check_lesson(config, task, policy, teacher)
    if not source:
        save_model(policy, start)
    if config.lora and not isinstance(config, RewardOptions):
        torch.manual_seed(config.seed)
        policy.add_lora(config.lora, absolute("model", config.model or str(start)))
    say(set_layers(config, policy))
    return policy


def prepare(config: Run, task: Task, policy: Policy, teacher: Policy | None, resume: bool) -> Prepared:
    """The learner, its rounds, and how many they are."""
    if isinstance(config, SFTOptions):
        examples = task.examples if config.data else demonstrations(config, task)
        steps = config.epochs * len(examples) // min(config.batch_size, len(examples))
        learner = learner_of(config, policy)
        return learner, learn_sft(config, examples, learner, steps), steps
    if isinstance(config, Pairs):
        learner = learner_of(config, reward_model_of(config, policy) if isinstance(config, RewardOptions) else policy)
        pairs = make_pairs(config, task, policy, config.folder / "pairs.jsonl", resume)
        steps = config.epochs * len(pairs) // min(config.pairs, len(pairs))
        if isinstance(config, DPOOptions):
            return learner, learn_offline(config, pairs, learner, steps), steps
        assert isinstance(config, RewardOptions)
        return learner, learn_reward(config, pairs, learner, steps), steps
    assert isinstance(config, Online)
    needs = method_of(config).needs
    reference = policy.frozen() if "ref_log_probs" in needs else teacher
    if "values" in needs:
        policy.add_critic(load_critic(config, policy))
    learner = learner_of(config, policy, reference, teacher)
    return learner, learn_online(config, task, learner, reference), config.steps


def learner_of(config: Run, policy: Policy, *others: Policy | None) -> Learner:
    """Of the policy; with ``--shard``, its weights and those of the other models are cut over the processes first."""
    if config.shard:
        processes.cut_weights([policy, *others], usable_device(config.device))
    return Learner(policy, config.weight_decay, config.schedule, config.lr_warmup)


def make_pairs(config: Pairs, task: Task, start: Policy, file: Path, resume: bool) -> Sequence[Example]:
    """The pairs given with ``--data``, or sampled and ranked; kept in a file, to look at and for resuming."""
    if not (resume and file.exists()):
        pairs = sample_pairs(config, task, start) if task.reward else task.examples
        if not pairs:
            raise NoPairs("no pairs: the completions of each prompt all earn the same reward; try more --samples")
        ready = add_reference(config, start, pairs) if isinstance(config, DPOOptions) else pairs
        save(file, (json.dumps(pair, default=str) + "\n" for pair in ready))
    made = read_pairs(str(file))
    if isinstance(config, DPOOptions) and not {"ref_chosen", "ref_rejected"} <= made[0].keys():
        raise UserError(f"{file}: 'ref_chosen' or 'ref_rejected' is missing: without the file, it is made again")
    return made


def held_out_pairs(config: RewardOptions, task: Task, start: Policy, resume: bool) -> Sequence[Example]:
    """Those given, or made of the held-out prompts as the others are of the training prompts."""
    n = min(config.eval_prompts, len(task.held_out))
    if not task.reward or n == 0:
        return task.held_out
    config, task = replace(config, samples=n * config.group_size), replace(task, examples=task.held_out)
    try:
        return make_pairs(config, task, start, config.folder / "held_out.jsonl", resume)
    except NoPairs:
        say(f"{n} held-out prompts give no pairs, so none are ranked: try more --eval-prompts")
        return []


@dataclass
class Journal:
    """What a run writes, and tells, as it goes."""

    config: Run
    task: Task
    learner: Learner
    teacher: Policy | None
    steps: int
    report: Report
    started: float  # on the clock; earlier by the seconds that were used before an interruption
    notes: checkpoint.Notes  # of the next checkpoint

    def write(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; where it is time, evaluate and save. Raises Interrupted if asked to stop."""
        config, step, folder = self.config, self.learner.step, self.config.folder
        evaluated = step % (config.eval_every or max(1, self.steps // 10)) == 0 or step == self.steps
        samples = self.evaluate() if evaluated else []
        metrics |= of_samples(samples)
        if isinstance(config, Online) and step:
            self.notes["tokens"] += round(metrics["completions/mean_length"] * config.prompts * config.group_size)
            metrics["tokens"] = self.notes["tokens"]
        if isinstance(config, Pairs):
            metrics["samples"] = config.samples if self.task.reward else 0
        metrics["seconds"] = round(time.perf_counter() - self.started, 2)
        append(folder / "metrics.jsonl", [metrics])
        if step == 1:
            say(nothing_learned(config, self.task, [metrics]))
        asked = self.report({**metrics, "steps": self.steps, "held_out": samples[:1]})
        stop = processes.any_of(asked) and step < self.steps
        if evaluated or stop:
            self.notes |= {"step": step}
            self.save_best(metrics.get("eval_reward", metrics.get("eval_accuracy")))
            checkpoint.write(folder, self.learner, self.notes, config.keep)
        if stop:
            raise Interrupted(folder)

    def save_best(self, reward: float | None) -> None:
        """best/, if several checkpoints are kept: the model whose held-out reward is the highest so far."""
        best = self.notes["best"]
        if self.config.keep > 1 and reward is not None and (best is None or reward > best):
            self.notes |= {"best": reward}
            save_model(self.learner.policy, self.config.folder / "best")

    def evaluate(self) -> list[dict[str, Any]]:
        """Samples of held-out prompts, judged; eight of them go to completions.jsonl."""
        state = State(self.learner.step, self.steps)
        samples = held_out(self.config, self.task, self.learner.policy, self.teacher, state)
        texts = [{"step": self.learner.step, **one} for one in samples[:8]]
        append(self.config.folder / "completions.jsonl", texts)
        return samples


def usable_device(name: str) -> str:
    """``auto`` is cuda where there is one; any other name must work here. Each process has a device of its own."""
    device = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if processes.world() > 1 and device not in ("cpu", "cuda"):
        several = f"{processes.world()} processes; cpu is for all, and cuda gives each its own"
        raise UserError(f"--device {device} is one device for {several}")
    if device == "cuda" and processes.world() > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f"--device {device} cannot be used here: {str(e).splitlines()[0][:200]}") from e
    return device


def make_and_save_start(config: Run, folder: Path) -> None:
    """Only the small start model, as a folder that ``--model`` takes."""
    if not (folder / "config.json").exists():
        save_model(make_start(config, find_task(config), "cpu"), folder)
