"""What verl's registries hold once verl is imported, and why Torchstone's part is not there.

verl logs the failure of a plugin at DEBUG only, with the exception as an argument of the record: it is read from there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from traceback import format_exception_only

PREFIX = "torchstone:"
GROUP = "verl.plugins"
POLICY = "VERL_USE_EXTERNAL_PLUGINS"


class Failures(logging.Handler):
    """Keeps the exceptions of plugins that verl could not load, by the plugin's name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, BaseException] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 2 and isinstance(record.args[1], Exception):
            self.found[str(record.args[0])] = record.args[1]


@contextmanager
def listening() -> Iterator[Failures]:
    """verl's logger tells of plugins inside, here and nowhere else."""
    logger, failures = logging.getLogger("verl"), Failures()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(failures)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield failures
    finally:
        logger.removeHandler(failures)
        logger.setLevel(level)
        logger.propagate = propagate


def registered() -> dict[str, str | list[str]]:
    """Import verl and look: how many names its registries have of ours, problems of the plug, and faults of names."""
    with listening() as failures:
        from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    from torchstone.frameworks.verl.names import VARIABLE, faults, named  # after verl, as where verl is trained with

    wrong = faults()
    losses, estimators = (
        {name.removeprefix(PREFIX) for name in registry if name.startswith(PREFIX)} - wrong.keys()
        for registry in (POLICY_LOSS_REGISTRY, ADV_ESTIMATOR_REGISTRY)
    )
    failure = failures.found.get("torchstone")
    return {
        "registered": f"{len(losses)} losses, {len(estimators)} estimators",
        VARIABLE: (", ".join(sorted(named().keys() & losses)) or "names no row")
        + f"; not {', '.join(wrong)}" * bool(wrong),
        "problems": [why(failure)] * bool(failure or not losses or not estimators),
        "faults": [f"{VARIABLE}: {name} cannot be used: {reason}" for name, reason in wrong.items()],
    }


def why(failure: BaseException | None) -> str:
    """Why verl has not loaded the plug."""
    asked = os.environ.get(POLICY, "auto").strip()
    if failure is not None:
        return f"the plug failed, which verl logs at DEBUG only: {''.join(format_exception_only(failure)).strip()}"
    if asked.lower() != "auto" and "torchstone" not in [name.strip() for name in asked.lower().split(",")]:
        return f"{POLICY}={asked} keeps verl from loading the plug: unset it, or add torchstone to it"
    if "torchstone" not in entry_points(group=GROUP).names:
        return (
            f"no installed package gives verl the plug (entry point {GROUP}: torchstone); a checkout on PYTHONPATH "
            "does not, nor one installed before it had the plug: pip install Torchstone again in this environment"
        )
    return "verl imported the plug, and nothing is registered"
