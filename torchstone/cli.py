"""The command ``torchstone``: where each command lives, and how it ends. Help is shown without loading torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from torchstone.terminal import UserError, near

HELP = """\
torchstone: REINFORCE, PPO, GRPO and DPO for language models, each objective a
plain function, with test vectors that say whether another one is the same

usage: torchstone COMMAND [options]

  compare          REINFORCE, PPO, GRPO and DPO teach one small language model
                   the same task (about 3 minutes)
  train METHOD     one run of reinforce, ppo, grpo, dpo or distill, of the small
                   model or of a Hugging Face model
  trace METHOD     one update by hand: every number from the tokens to the
                   changed probabilities
  eval MODEL ...   held-out reward and pass@k, with intervals; several models
                   are compared prompt by prompt
  ask MODEL "..."  what a model writes after a prompt, sampled as in training
  plot RUN ...     the curves of several runs in one picture; seeds become bands
  sanity           does training work here? A sound loop must learn, and three
                   broken ones must not (about 2 minutes)
  pipeline         SFT, pairs, a reward model and PPO paid by it, on the small
                   model: what is paid rises, what was meant does not
  learn            24 exercises: write a function, or mend one; a check names
                   the mistake
  recipes          every named algorithm as a row of choices; one row, or what
                   differs between two
  check TARGET     is a function of yours right? If not: which known variant or
                   bug is it?
  identify TARGET  which objective, recipe or framework's dialect does a
                   function implement?
  peers            the same check over TRL, verl, OpenRLHF and Liger, as far as
                   they are installed
  frameworks       the engines that a recipe runs in (TRL, verl, ...): which are
                   installed, does the plug work, which rows can each run
  cost             memory and work of an update on paper, with the formula
                   behind every number

examples
  torchstone compare                              a table, and learning curves
  torchstone compare --quick --methods grpo dpo   one seed, 8,192 samples
  torchstone compare --recipes grpo,gspo,dr_grpo  rows of the table of recipes
  torchstone train grpo --task add                the small model learns to add
  torchstone train grpo --model FOLDER --task reasoning_gym:basic_arithmetic
  torchstone train grpo --model FOLDER --data prompts.jsonl --reward reward.py
  torchstone train dpo --model FOLDER --data pairs.jsonl
  torchstone train distill --teacher runs/grpo-sort-0  a student of that run
  torchstone train --resume runs/grpo-sort-0      go on with a stopped run
  torchstone check my_losses.py:grpo_loss --objective grpo_loss
  torchstone check my_losses.py:pg_loss --as verl   right where it plugs in?

torchstone COMMAND --help explains the options; torchstone train METHOD --help
those of a method.
"""
COMMANDS = {  # the module that has a function of the command's name
    "compare": "torchstone.evaluate.command",
    "train": "torchstone.train.command",
    "pipeline": "torchstone.evaluate.pipeline",
    "trace": "torchstone.trace.command",
    "eval": "torchstone.evaluate.asking",
    "ask": "torchstone.evaluate.asking",
    "plot": "torchstone.evaluate.plot",
    "sanity": "torchstone.evaluate.sanity_command",
    "learn": "torchstone.learn.command",
    "recipes": "torchstone.recipes.command",
    "check": "torchstone.conformance.command",
    "identify": "torchstone.conformance.command",
    "peers": "torchstone.frameworks.command",
    "frameworks": "torchstone.frameworks.overview",
    "cost": "torchstone.cost.command",
}
TRAIN = {
    "rich",
    "matplotlib",
    "transformers",
    "tokenizers",
    "safetensors",
    "filelock",
    "reasoning_gym",
}  # packages of the extra "train"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give back its exit status. A mistake of the user's is one line on stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the command
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks is no reason to stop
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])
    except BrokenPipeError:  # who reads has enough, as in: | head
        status = 141
    return _flushed(status)


def _flushed(status: int) -> int:
    """The status, with all that was printed written; another one if that cannot be."""
    try:
        sys.stdout.flush()
        return status
    except ValueError:  # closed on the way, by a reward
        return status
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more
        if isinstance(e, BrokenPipeError):
            return 141
        print(f"torchstone: what is printed cannot be written: {e.strerror}", file=sys.stderr)
        return status or 1


def _run(arguments: list[str]) -> int:
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if name == "--version":
        from torchstone import __version__

        print(__version__)
        return 0
    try:
        return _command(name, rest)
    except UserError as e:
        print(f"torchstone{f' {name}' * (name in COMMANDS)}: {e}", file=sys.stderr)
        return e.status


def _command(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}{near(name, COMMANDS)}; choose {', '.join(COMMANDS)}", 2)
    if name in ("compare", "sanity", "pipeline", "eval", "ask") and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "WORLD_SIZE says several processes, and only torchstone train takes them: start without torchrun"
        )
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads then do not spin on a busy machine
    try:
        return int(getattr(import_module(COMMANDS[name]), name)(arguments))
    except KeyboardInterrupt:
        raise UserError("stopped", 130) from None
    except ModuleNotFoundError as e:
        if (
            name not in ("compare", "train", "pipeline", "eval", "ask", "plot", "sanity")
            or (e.name or "").split(".")[0] not in TRAIN
        ):
            raise
        raise UserError(f'{e.name} is not installed: pip install ".[train]" in a checkout of Torchstone', 2) from e
