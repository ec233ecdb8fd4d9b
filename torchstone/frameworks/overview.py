"""``torchstone frameworks``: the engines that recipes run in, as they are installed here."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torchstone.terminal import Parser, UserError, bold, columns, dim, near, styled, table, wrapped

if TYPE_CHECKING:
    from torchstone.frameworks.engines import Engine, Found

ABOUT = """\
Which engines are installed, in which version, whether Torchstone's plug works
in them, and how many recipes each can run. With a NAME: where a recipe plugs
in, what is registered there, and which rows it cannot run and why. A plug is
tried: the engine is imported, which takes seconds. Nothing is downloaded.
"""
EXAMPLES = """\
examples
  torchstone frameworks                  every engine, a line each
  torchstone frameworks trl              one engine, and the rows it cannot run
  TORCHSTONE_RECIPES="mine=gspo:reduction=token-mean" torchstone frameworks verl
                                         does verl know the row "mine"?
  torchstone frameworks verl --json      the same as data

exit status: 0 every plug of an installed engine works; 1 one does not, or
TORCHSTONE_RECIPES names a row that cannot be had; 2 the engine that was named
is not installed
"""
PLUG = {True: "works", False: "fails", None: "-"}
KINDS = {"policies": "PolicyRecipe", "pairs": "PreferenceRecipe", "distilled": "DistillRecipe"}
STYLE = {True: "green", False: "bold red", None: ""}


def frameworks(arguments: Sequence[str]) -> int:
    """``torchstone frameworks [NAME] [--json]``."""
    parser = Parser("frameworks", ABOUT, EXAMPLES, operands="[NAME]")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one engine: trl, verl, prime-rl, ...")
    parser.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    options = parser.parse_args(arguments)

    from torchstone.frameworks.engines import ENGINES, look

    if options.name is not None and options.name not in ENGINES:
        raise UserError(f"unknown engine {options.name!r}{near(options.name, ENGINES)}; choose {', '.join(ENGINES)}", 2)
    found = look([options.name] if options.name else list(ENGINES), _progress)
    _progress("")
    if options.json:
        print(json.dumps([_data(one) for one in found], indent=1, ensure_ascii=False))
    elif options.name:
        _show(found[0])
    else:
        _list(found)
    if options.name and found[0].installed is None:
        return 2
    return int(any(one.problems or one.faults for one in found))


def _progress(text: str) -> None:
    """One line on the terminal, written over; nothing where stderr is a file."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text[: columns() - 1]}")
        sys.stderr.flush()


def _data(found: Found) -> dict[str, Any]:
    engine = found.engine
    rows = engine.rows()
    return {
        "name": engine.name,
        "installed": found.installed,
        "tested": engine.tested,
        "plugs_in_at": engine.lines.split("; ") if engine.lines else [],
        "plug_works": found.works,
        "problems": found.problems,
        "faults": found.faults,
        "registered": found.registered,
        "runs": [name for name, reason in rows.items() if not reason],
        "cannot_run": {name: reason for name, reason in rows.items() if reason},
    }


def _list(found: Sequence[Found]) -> None:
    head = ["engine", "installed", "tested", "plug", *KINDS, "plugs in at"]
    cells = [
        [one.engine.name, one.installed or "-", one.engine.tested, styled(PLUG[one.works], STYLE[one.works]),
         *_counts(one.engine).values(), one.engine.place]
        for one in found
    ]  # fmt: skip
    print(table(head, cells, faint=[i for i, one in enumerate(found) if not one.engine.lines]))
    for one in found:
        _tell_problems(one)
    print()
    print(dim(wrapped("Rows: how many of each kind it can run; (loss): with advantages of its own. "
                      "torchstone frameworks NAME: which it cannot, and why. "
                      "How to use it there: docs/engines.md.")))  # fmt: skip


def _counts(engine: Engine) -> dict[str, str]:
    """How many rows of each kind the engine runs: ``{"policies": "66/95", ...}``; "(loss)": with its own advantages."""
    rows, losses = engine.rows(), engine.losses()
    counts = {}
    for title, names in _by_kind(rows).items():
        whole, loss = (sum(name in of for name in names) for of in ([k for k in rows if not rows[k]], losses))
        counts[title] = f"{whole or loss}/{len(names)}{' (loss)' * (not whole and loss > 0)}" if engine.lines else "-"
    return counts


def _by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """These rows of the table by their kind."""
    from torchstone.recipes import RECIPES

    return {title: [k for k in names if type(RECIPES[k]).__name__ == kind] for title, kind in KINDS.items()}


def _tell_problems(found: Found) -> None:
    for problem in found.problems + found.faults:
        print("\n" + wrapped(problem, f"{styled(found.engine.name, 'bold red')}: ", "  "))


def _show(found: Found) -> None:
    engine = found.engine
    here = f"{found.installed} is installed" if found.installed else "is not installed"
    other = ", another version" if found.installed and engine.unit and not engine.tested_here(found.installed) else ""
    print(f"{bold(engine.name)} {here}; tested: {engine.tested}{other}")
    for line in filter(None, engine.lines.split("; ")):
        print(f"  {line}")
    print()
    facts = {"plugs in at": engine.place}
    for name, unit in {"unit": engine.unit, "unit of pairs": engine.unit_of_pairs}.items():
        if unit is not None:
            facts[name] = f"micro-batches are {unit.micro_batches}, ranks {unit.ranks}; a loss returns {unit.wants}"
    if engine.unit is not None:
        runs = ", ".join(f"{kind} {count}" for kind, count in _counts(engine).items() if count[0] != "0")
        facts["runs"] = runs or "no row as it stands"
    if found.works is not None:
        facts["plug"] = styled(PLUG[found.works], STYLE[found.works])
    facts |= found.registered
    width = max(map(len, facts))
    print("\n".join(wrapped(text, f"{name:<{width}}  ") for name, text in facts.items()))
    _tell_problems(found)
    if engine.lines:
        _tell_rows(engine)


def _tell_rows(engine: Engine) -> None:
    """The rows that the engine cannot run, by the reason; a whole kind in one word."""
    reasons: dict[str, list[str]] = defaultdict(list)
    rows = {name: reason.replace(f"{name}{':' * (':' not in name)}", "ROW:") for name, reason in engine.rows().items()}
    for title, names in _by_kind(rows).items():
        why = {rows[name] for name in names}
        if len(why) == 1 and "" not in why:
            reasons[why.pop()].append(f"all {len(names)} rows of {title.replace('distilled', 'distillation')}")
            continue
        for name in names:
            reasons[rows[name]].append(name)
    reasons.pop("", None)
    print("\n" + bold("rows that it cannot run, or not alone") if reasons else "\nIt can run every row.")
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(wrapped(reason, "- ", "  "))
        print(dim(wrapped(", ".join(names), "  ", "  ")))
