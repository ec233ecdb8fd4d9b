"""The command ``torchstone``. Nothing here imports torch until a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

HELP = """\
torchstone: the reference implementation of RL for language models

usage: torchstone COMMAND [options]

  compare         watch REINFORCE, PPO, GRPO and DPO teach one small language model the same task (about 3 minutes)
  train METHOD    one run of reinforce, ppo, grpo or dpo: of the small model, or of a Hugging Face model
  recipes         every named algorithm as a row of choices; one row, or what differs between two
  check TARGET    is a function of yours right? If not: which known variant or bug is it?
  identify TARGET which objective, recipe or framework's dialect does a function implement?
  peers           the same check over TRL, verl, OpenRLHF and Liger, as far as they are installed
  cost            memory and work of an update on paper, with the formula behind every number

examples
  torchstone compare                                       a table, and the learning curves as a picture
  torchstone compare --quick --methods grpo dpo            a look in half a minute
  torchstone compare --recipes grpo,gspo,dr_grpo           rows of the table of recipes, with or without changes
  torchstone train grpo --task add                         the small model learns to add
  torchstone train grpo --model FOLDER --task reasoning_gym:basic_arithmetic
  torchstone train grpo --model FOLDER --data prompts.jsonl --reward reward.py:score
  torchstone train dpo --model FOLDER --data pairs.jsonl   lines with prompt, chosen, rejected
  torchstone train --resume runs/grpo-sort-0               go on with an interrupted run
  torchstone check my_losses.py:grpo_loss --objective grpo_loss

torchstone COMMAND --help (torchstone train METHOD --help) explains every option.
"""
TRAIN_HELP = """\
usage: torchstone train METHOD [options]
       torchstone train --resume FOLDER

  reinforce   raise the log-probability of what earned more than the baseline
  ppo         some clipped steps on each round of samples, a critic, and a price on leaving the start model
  grpo        each completion against the others of its prompt; no critic
  dpo         from pairs of a better and a worse completion; no sampling while it trains
  recipe      any policy-gradient row of torchstone recipes: --recipe gspo

torchstone train METHOD --help explains every option of the method.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error of the user's comes out as one line, and as exit status 1 or 2."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if name == "--version":
        from torchstone import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        from torchstone.terminal import near

        known = ", ".join(COMMANDS)
        print(f"torchstone: unknown command {name!r}{near(name, COMMANDS)}; choose {known}", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads then do not spin on a busy machine
    return COMMANDS[name](rest)


def _train(arguments: list[str]) -> int:
    from torchstone.train import command as commands

    return commands.guarded(commands.train, arguments)


def _compare(arguments: list[str]) -> int:
    from torchstone.train import command as commands

    return commands.guarded(commands.compare, arguments)


def _recipes(arguments: list[str]) -> int:
    from torchstone.recipes.command import recipes
    from torchstone.train import command as commands

    return commands.guarded(recipes, arguments)


def _check(arguments: list[str]) -> int:
    from torchstone.conformance.command import (
        check,
    )  # not guarded, as the next: it tells its own errors, and --help needs no torch

    return check(arguments)


def _identify(arguments: list[str]) -> int:
    from torchstone.conformance.command import identify

    return identify(arguments)


def _peers(arguments: list[str]) -> int:
    from torchstone.frameworks.command import peers
    from torchstone.train import command as commands

    return commands.guarded(peers, arguments)


def _cost(arguments: list[str]) -> int:
    from torchstone.cost.command import cost  # not guarded: that loads torch, and this needs none

    return cost(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "compare": _compare,
    "train": _train,
    "recipes": _recipes,
    "check": _check,
    "identify": _identify,
    "peers": _peers,
    "cost": _cost,
}
