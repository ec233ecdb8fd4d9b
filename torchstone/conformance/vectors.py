"""The vector files, read: one objective's arguments, settings, flags and cases, with numbers in place of strings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from torchstone.terminal import near

FOLDER = Path(__file__).parent / "vectors"


@dataclass(frozen=True)
class Argument:
    """``shape`` names the dimensions, such as "B T"; "" is a number. ``kind``: float, bool or int."""

    shape: str
    unit: str
    kind: str = "float"
    gradient: bool = False
    metric: bool = False


@dataclass(frozen=True)
class Setting:
    """``free``: published code disagrees, so whatever a function has built in is right."""

    about: str
    free: bool
    usual: tuple[Any, ...]


@dataclass(frozen=True)
class Flag:
    """``kind``: "edge" (what a case is about), "variant" or "bug" (a named alternative)."""

    kind: str
    about: str
    effect: str
    pitfalls: tuple[str, ...]
    links: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """Nested lists of floats by name; None where anything may stand."""

    outputs: Mapping[str, Any]
    gradients: Mapping[str, Any]

    @cached_property
    def magnitude(self) -> float:
        """The largest finite magnitude; 1 where all are 0, or what 50 digits leave of a 0."""
        trees = (self.outputs, self.gradients)
        largest = max((abs(x) for tree in trees for _, x in leaves(tree) if math.isfinite(x)), default=0.0)
        return largest if largest > NOTHING else 1.0


NOTHING = 1e-40  # less is rounding: no float32 number is as small


@dataclass(frozen=True)
class Case:
    """``expected`` or, of a case that is checked by properties, ``signs`` of each gradient; neither if "invalid"."""

    id: int
    comment: str
    flags: tuple[str, ...]
    result: str
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    expected: Numbers | None
    signs: Mapping[str, Any] | None
    tolerance: Mapping[str, float]
    alternatives: Mapping[str, Numbers]


@dataclass(frozen=True)
class Vectors:
    """One objective's file. ``tags``: its equations, such as "GRPO.2"; ``source``: the papers."""

    objective: str
    about: str
    tags: tuple[str, ...]
    source: tuple[str, ...]
    arguments: Mapping[str, Argument]
    returns: Mapping[str, Argument]
    settings: Mapping[str, Setting]
    flags: Mapping[str, Flag]
    cases: tuple[Case, ...]

    @property
    def named(self) -> list[str]:
        """The alternatives: variants and bugs that have a name."""
        return [name for name, flag in self.flags.items() if flag.kind != "edge"]

    @cached_property
    def held(self) -> dict[str, str]:
        """Arguments that callers hold constant, and the variant in which a gradient flows there: harmless, but said."""
        variants = [n for n in self.named if n.endswith("not_detached") and self.flags[n].kind == "variant"]
        return {
            k: name
            for name in variants
            for case in self.cases
            if case.expected is not None and name in case.alternatives
            for k, g in case.alternatives[name].gradients.items()
            if g != case.expected.gradients[k]
        }


def leaves(x: Any, at: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a nested list or dict, with its place; None is left out."""
    if isinstance(x, Mapping):
        for k, part in x.items():
            yield from leaves(part, k)
    elif isinstance(x, list):
        for i, part in enumerate(x):
            yield from leaves(part, f"{at}[{i}]")
    elif x is not None:
        yield at, float(x)


# Flags of ordinary batches. Every other edge is a reason to fail of its own, which says nothing on the formula.
MASKS = ("ragged_mask", "gaps_in_mask", "junk_under_mask")
ORDINARY = (
    *MASKS, "on_policy", "every_side_of_the_clip", "far_from_reference",
    "two_prompts", "one_right_in_four", "sparse_reward", "delayed_reward", "small_deviation", "micro_batch",
    "score_reaches_last_token", "many_ends", "no_end",
    "both_signs", "one_pair", "at_reference", "tied", "with_margin", "no_reference", "on_target", "far_from_target",
)  # fmt: skip


class Flagged(Protocol):
    """A case, or the result of one."""

    @property
    def flags(self) -> tuple[str, ...]: ...


def hazards(case: Flagged) -> list[str]:
    """The flags of a case on which code fails that is right elsewhere."""
    return [f for f in case.flags if f not in ORDINARY]


def objectives() -> tuple[str, ...]:
    """Names of all objectives that have vectors."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@cache
def load(name: str) -> Vectors:
    """The vectors of one objective.

    Raises ValueError: there is none of this name.
    """
    known = objectives()
    if name not in known:
        guess = next((k for k in (f"{name}_loss", f"{name}_surrogate", f"kl_{name}") if k in known), None)
        if guess is None:
            raise ValueError(f"objective: expected one of {', '.join(known)}; got {name!r}{near(name, known)}")
        name = guess
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    arguments = {k: Argument(**a) for k, a in data["arguments"].items()}
    cases = (_case(c, group["settings"], arguments) for group in data["groups"] for c in group["cases"])
    return Vectors(
        objective=data["objective"],
        about=data["about"],
        tags=tuple(data["tags"]),
        source=tuple(data["source"]),
        arguments=arguments,
        returns={k: Argument(**a) for k, a in data["returns"].items()},
        settings={
            k: Setting(s["about"], s["free"], tuple(number(v) for v in s["usual"])) for k, s in data["settings"].items()
        },
        flags={
            k: Flag(f["kind"], f["about"], f["effect"], tuple(f["pitfalls"]), tuple(f["links"]))
            for k, f in data["flags"].items()
        },
        cases=tuple(cases),
    )


def number(x: Any) -> Any:
    """A string that is a number as a float, at any depth; everything else as it is."""
    if isinstance(x, list):
        return [number(part) for part in x]
    if not isinstance(x, str):
        return x
    try:
        return float(x)
    except ValueError:
        return x


def _case(data: dict[str, Any], settings: dict[str, Any], arguments: Mapping[str, Argument]) -> Case:
    return Case(
        data["id"], data["comment"], tuple(data["flags"]), data["result"],
        {k: number(x) if arguments[k].kind == "float" else x for k, x in data["inputs"].items()},
        {k: number(v) for k, v in settings.items()},
        _numbers(data["expected"]) if "expected" in data else None,
        data["properties"]["signs"] if "properties" in data else None,
        {k: float(v) for k, v in data.get("tolerance", {}).items()},
        {name: _numbers(n) for name, n in data.get("alternatives", {}).items()},
    )  # fmt: skip


def _numbers(data: dict[str, Any]) -> Numbers:
    return Numbers(_number_tree(data["outputs"]), _number_tree(data["gradients"]))


def _number_tree(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: number(v) for k, v in tree.items()}
