"""The engines that recipes run in, or could: which is installed, whether its plug works, and which rows it can run.

What is said of an engine rests on its room: ``unit.py`` (its unit, the version that was looked at), ``settings.py``
(``refusal``: why it cannot run a row) and the plug, which is tried in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from torchstone.frameworks.unit import Unit
from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.recipes.choices import Recipe

HERE = "torchstone.frameworks"
ASK = """\
import contextlib, importlib, json, sys, traceback
sys.path[:] = {path!r}
with contextlib.redirect_stdout(sys.stderr):
    try:
        found = [getattr(importlib.import_module(plug.partition(":")[0]), plug.partition(":")[2]) for plug in {plugs!r}]
        answer = found[0]() if {call!r} else {{}}
    except BaseException as e:
        answer = {{"problems": ["".join(traceback.format_exception_only(e)).strip()]}}
print("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class Engine:
    """One engine.

    ``distribution``: pip's name for it. ``place``: where a recipe plugs in, in words; ``lines``: what a user writes,
    parted by semicolons, "" where no loss plugs in. ``plugs``: what is imported to try the plug. ``call``: whether the
    first is called too: it answers with what is registered, with ``problems`` and with ``faults``.
    """

    name: str
    distribution: str
    place: str
    lines: str = ""
    plugs: tuple[str, ...] = ()
    call: bool = False

    @property
    def room(self) -> str:
        """The package of its files here."""
        return f"{HERE}.{self.name.replace('-', '_')}"

    @property
    def installed(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    @property
    def unit(self) -> Unit | None:
        """How it adds up a loss; None where no loss plugs in."""
        return import_module(f"{self.room}.unit").UNIT if self.lines else None

    @property
    def unit_of_pairs(self) -> Unit | None:
        """Another for its rows of pairs, if it has one."""
        return getattr(import_module(f"{self.room}.unit"), "PAIRS", None) if self.lines else None

    @property
    def tested(self) -> str:
        """The version that was looked at: ``0.9.1``, or ``1a2b3c4 (read)`` where nothing of it was run."""
        if self.unit is None:
            return str(import_module(f"{self.room}.rows").VERSION.rpartition("-")[2])
        of = self.unit.version.removeprefix(f"{self.name}-")
        return of if self.unit.how.startswith("run") else f"{of} (read)"

    def tested_here(self, installed: str) -> bool:
        """Whether this is the version that was looked at."""
        return self.tested.split()[0] == installed

    def rows(self) -> dict[str, str]:
        """For each row of the table why this engine cannot run it; "" where it can."""
        if not self.lines:
            return dict.fromkeys(RECIPES, self.place)
        refusal: Callable[[Recipe], str] = import_module(f"{self.room}.settings").refusal
        return {name: refusal(row) for name, row in RECIPES.items()}

    def losses(self) -> list[str]:
        """The policy rows whose loss it can run, with the row's advantages or with its own."""
        if not self.lines:
            return []
        settings = import_module(f"{self.room}.settings")
        refusal: Callable[[Recipe], str] = getattr(settings, "loss_refusal", settings.refusal)
        return [name for name, row in RECIPES.items() if isinstance(row, PolicyRecipe) and not refusal(row)]


NO_PLACE, LOSSES = "no place for a loss", "losses alone, no trainer"
ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "trl",
            "trl",
            "a trainer's subclass",
            "RecipeGRPOTrainer(recipe=ROW, ...); RecipeDPOTrainer(...); RecipeDistillationTrainer(...)",
            tuple(f"{HERE}.trl:Recipe{kind}Trainer" for kind in ("GRPO", "DPO", "Distillation")),
        ),
        Engine(
            "verl",
            "verl",
            "two settings",
            "actor_rollout_ref.actor.policy_loss.loss_mode=torchstone:ROW; algorithm.adv_estimator=torchstone:ROW",
            (f"{HERE}.verl.registered:registered",),
            call=True,
        ),
        Engine(
            "prime-rl",
            "prime-rl",
            "a loss's import path",
            '[trainer.loss] import_path = "torchstone.frameworks.prime_rl.plug.loss"; kwargs.recipe = ROW',
            (f"{HERE}.prime_rl.plug:loss",),
        ),
        Engine(
            "slime",
            "slime",
            "paths of functions",
            "--custom-loss-function-path torchstone.frameworks.slime.plug.loss",
            (f"{HERE}.slime.plug:loss",),
        ),
        Engine(
            "skyrl",
            "skyrl",
            "two registries",
            "torchstone.frameworks.skyrl.plug: register_loss(ROW); register_advantages(ROW)",
            (f"{HERE}.skyrl.plug:register_loss",),
        ),
        Engine(
            "tinker",
            "tinker",
            "a function's argument",
            "forward_backward_custom(data, tinker_loss(ROW, ...))",
            (f"{HERE}.tinker.plug:tinker_loss",),
        ),
        Engine("openrlhf", "openrlhf", NO_PLACE),
        Engine("liger", "liger-kernel", LOSSES),
        Engine("torchrl", "torchrl", LOSSES),
        Engine("torchtune", "torchtune", LOSSES),
    )
}


@dataclass(frozen=True)
class Found:
    """What was found of an engine here: ``registered`` where its plug enters names, ``problems`` empty if it works,
    ``faults`` of single names."""

    engine: Engine
    installed: str | None
    registered: dict[str, str]
    problems: list[str]
    faults: list[str]

    @property
    def works(self) -> bool | None:
        """Whether the plug works; None where there is none, or no engine to try it in."""
        return None if self.installed is None or not self.engine.plugs else not self.problems


def look(names: Sequence[str], progress: Callable[[str], None] = lambda text: None) -> list[Found]:
    """Try the plugs of these engines, all at once. ``progress`` is told which engine is waited for."""
    started = [(engine, engine.installed, start(engine)) for engine in (ENGINES[name] for name in names)]
    found = []
    for engine, installed, running in started:
        progress(f"importing {engine.name}")
        found.append(Found(engine, installed, *finish(running)))
    return found


def start(engine: Engine) -> subprocess.Popen[str] | None:
    """The process that tries the plugs of an installed engine."""
    if engine.installed is None or not engine.plugs:
        return None
    code = ASK.format(path=sys.path, plugs=engine.plugs, call=engine.call)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)


def finish(running: subprocess.Popen[str] | None) -> tuple[dict[str, str], list[str], list[str]]:
    """What the process said is registered, the problems, and the faults."""
    if running is None:
        return {}, [], []
    out, err = running.communicate()
    if running.returncode:
        return {}, [f"importing it ended the process with {running.returncode}: {err.strip()[-200:]}"], []
    answer = json.loads(out.strip().splitlines()[-1])
    problems, faults = answer.pop("problems", []), answer.pop("faults", [])
    return answer, problems, faults
