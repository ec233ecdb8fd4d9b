"""What a room here says of its framework: where its code is, and the functions of it that answer to our names.

Nothing of theirs is copied, and a framework is imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Target = Callable[..., Any]


@dataclass(frozen=True)
class Peer:
    """One function of a framework, and what it is compared with.

    ``of``: where their function is, ``package.module:function``. ``using``: the settings of theirs that are set here.
    ``remark``: what a person found who looked at a difference.
    """

    what: str
    objective: str
    of: str
    using: str
    remark: str
    target: Target


@dataclass
class Framework:
    """A framework with its entries. ``tag`` and ``prefix`` make the links to the version that was run."""

    name: str
    package: str
    distribution: str
    repository: str
    tag: str = "v{}"
    prefix: str = ""
    prepare: Callable[[], None] = lambda: None
    peers: list[Peer] = field(default_factory=list)

    def peer(self, what: str, objective: str, of: str, using: str = "", remark: str = "") -> Callable[[Target], Target]:
        """Enter a function whose parameters are our names (or ``**policy``, ``**pairs``), and which calls theirs."""

        from torchstone.frameworks.arguments import spelled_out  # loads torch, which the command's --help does not need

        def enter(target: Target) -> Target:
            target.__signature__ = spelled_out(target)  # type: ignore[attr-defined]
            target.__doc__ = target.__doc__ or f"{what}: our {objective} by {of}. {using}".strip()
            self.peers.append(Peer(what, objective, of, using, remark, target))
            return target

        return enter

    @property
    def version(self) -> str | None:
        """The installed version; None if it is not installed."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    def link(self, of: str) -> str:
        """Where the function is, in the repository at this version; "" if that cannot be told."""
        try:
            lines, first = inspect.getsourcelines(source(of))
            path = source(of).__module__.replace(".", "/") + ".py"
        except (OSError, TypeError, AttributeError):
            return ""
        tag = self.tag.format(self.version)
        return f"{self.repository}/blob/{tag}/{self.prefix}{path}#L{first}-L{first + len(lines) - 1}"


def theirs(of: str) -> Any:
    """The object behind ``package.module:name``."""
    module, _, name = of.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module))


def source(of: str) -> Any:
    """The same without what torch.compile or a decorator wrapped around it."""
    target = theirs(of)
    return inspect.unwrap(getattr(target, "_torchdynamo_orig_callable", target))


FRAMEWORKS = ("trl", "verl", "openrlhf", "liger", "torchrl", "torchtune", "skyrl")


def framework(name: str) -> Framework:
    """The entries of one framework; importing them does not import it."""
    made: Framework = importlib.import_module(f"torchstone.frameworks.{name}.functions").FRAMEWORK
    return made
