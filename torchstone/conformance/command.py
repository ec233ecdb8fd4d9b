"""``torchstone check``: is somebody's function right? ``torchstone identify``: what does it implement?"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.conformance.settings import known_objective, read_names, read_setting
from torchstone.terminal import Parser, UserError, bold, columns, dim, near, styled, table, wrapped

if TYPE_CHECKING:
    from torchstone.conformance.relations import Relation
    from torchstone.conformance.result import Report

FAR = 0.5  # relative distance beyond which "nearest" says nothing
LAYOUTS = {"groups": "P G", "flat": "flat", "row": "row"}
FAMILIES = {
    "CORE": "core: log-probs, masks, reductions",
    "KL": "core: KL divergence",
    "REINFORCE": "reinforce",
    "PPO": "ppo",
    "GRPO": "grpo",
    "DPO": "dpo and reward models",
    "DISTILL": "distill",
}

CHECK = """\
Run a function on test vectors with known numbers and gradients, and say which
known variant or bug it equals. TARGET is package.module:function or
file.py:function, of torch, NumPy or JAX. Its parameters are matched by the
names that the field uses (logprobs, per_token_logps, old_log_prob, adv,
response_mask, cliprange, ...).
"""
CHECK_EXAMPLES = """\
examples
  torchstone check my_losses.py:grpo_loss             an objective's own name
  torchstone check my_losses.py:loss --objective grpo_loss
  torchstone check trainer.core:pg_loss --objective ppo_loss \\
                   --set loss_agg_mode=token-mean
  torchstone check my_losses.py:loss --objective grpo_loss --accept token_mean
  torchstone check my_losses.py:loss --objective grpo_loss --names names.toml
      where names.toml has a line for each:  their_name = "our_name"
  torchstone check my_losses.py:new_loss --metamorphic
      no objective is like it: only what holds whatever the numbers are
  torchstone check my_losses.py:loss --objective dpo_loss --json
  torchstone check --list                             what each objective takes
  torchstone check my_losses.py:pg_loss --as verl     where it is plugged in:
      trl, verl, prime-rl, skyrl, slime, tinker (--as verl --help)

exit status: 0 right on ordinary batches, or what differs was accepted by name
(--strict: edges such as NaN under the mask are failures too); 1 wrong;
2 the target cannot be checked, or not enough of it could be asked
"""
IDENTIFY = """\
Say which objective, recipe or framework's dialect a function implements, and
otherwise which it is nearest to.
"""
IDENTIFY_EXAMPLES = """\
examples
  torchstone identify my_losses.py:loss
  torchstone identify my_losses.py:loss --names names.toml --json

exit status: 0 it equals something in the table; 1 it is near something only;
2 the target cannot be checked
"""


def check(arguments: Sequence[str]) -> int:
    """``torchstone check TARGET --objective NAME [options]``, or ``--as FRAMEWORK``."""
    if any(word.split("=")[0] == "--as" for word in arguments):
        from torchstone.frameworks.contract.command import check_as

        return _told(check_as, arguments)
    return _told(_check, arguments)


def identify(arguments: Sequence[str]) -> int:
    """``torchstone identify TARGET [options]``."""
    return _told(_identify, arguments)


def _told(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    try:
        return command(arguments)
    except (UserError, ValueError) as e:  # ValueError: what conformance says of its arguments
        raise UserError(str(e), 2) from e


# ---------------------------------------------------------------------------------------------------------------- check


def _check(arguments: Sequence[str]) -> int:
    options = _check_parser(arguments).parse_args(arguments)
    if options.list:
        return _list(options.json)
    if not options.target:
        raise UserError("which function? TARGET is package.module:function or file.py:function; see --help")
    asked = _asked(options) | {"layout": LAYOUTS.get(options.layout)}

    from torchstone.conformance.fit.target import resolve

    with _aside():
        function = resolve(options.target)
    objective = _objective(options)
    report, relations = _run(options, function, objective, asked)
    if options.junit:
        from torchstone.conformance.machine import junit

        _write(options.junit, junit(report, relations))
    if options.json:
        from torchstone.conformance.machine import as_dict, as_json

        print(as_json(as_dict(report, relations)))
    else:
        again = shlex.join(["torchstone", "check", *(a for a in arguments if a != "--verbose")])
        _print_report(options.target, report, relations, again, options.verbose)
    failed = int(any(r.status == "fail" for r in relations))
    return failed if report is None or report.exit_status == 0 else report.exit_status


def _check_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _parser("check", CHECK, CHECK_EXAMPLES + (_families() if {"-h", "--help"} & set(arguments) else ""))
    add = parser.add_argument
    add("--objective", metavar="NAME", help="what it should be; by default what its name says")
    add("--list", action="store_true", help="list the objectives, with their arguments")
    add("--accept", metavar="NAME", action="append", default=[], help="a variant that is meant, so no failure")
    add("--strict", action="store_true", help="edges that plain code forgets (NaN under the mask) are failures too")
    add("--verbose", action="store_true", help="the evidence too: flags, numbers, cases, links")
    add("--metamorphic", action="store_true", help="also what must hold whatever the numbers are")
    layout = "of rewards: one row a prompt, all in one row, or one prompt at a time; by default found out by trying"
    add("--layout", choices=LAYOUTS, help=layout)
    add("--junit", metavar="FILE", type=Path, help="write JUnit XML for a CI system")
    return parser


def _run(
    options: argparse.Namespace, function: Callable[..., Any], objective: str | None, asked: dict[str, Any]
) -> tuple[Report | None, list[Relation]]:
    from torchstone import conformance

    report, relations = None, []
    with _aside(), _working(f"{options.target} on the cases of {objective or 'no objective'}"):
        if objective:
            accept, target = options.accept, options.target
            asked_strictly = asked | {"strict": options.strict}
            report = conformance.check(function, objective, accept=accept, target=target, **asked_strictly)
        if options.metamorphic:
            relations = conformance.check_relations(function, objective, **asked)
    return report, relations


def _print_report(target: str, report: Report | None, relations: list[Relation], again: str, verbose: bool) -> None:
    from torchstone.conformance.report import relations_verdict, show, show_relations

    if report:
        show(report, relations, again, verbose)
    else:
        print(bold(target) + "\n")
        show_relations(relations)
        print(relations_verdict(relations))


def _objective(options: argparse.Namespace) -> str | None:
    """What the function should be: as told, or as its own name says; None if only relations are asked."""
    from torchstone.conformance.vectors import objectives

    if options.objective:
        return known_objective(options.objective)
    name = options.target.rpartition(":")[2].rpartition(".")[2]
    if name in objectives():
        return name
    if options.metamorphic:
        return None
    raise UserError(
        f"what should {name} be? Say so with --objective NAME{near(name, objectives())}; torchstone check --list lists "
        f"them, and torchstone identify {options.target} finds out"
    )


def _families() -> str:
    """The names of all objectives, by family."""
    lines = ["\nobjectives"]
    for family, members in _by_family().items():
        lines.append(f"  {family}")
        line = "   "
        for name in members:
            if len(line) + len(name) + 1 > min(columns(), 100) - 2:
                lines.append(line)
                line = "   "
            line += f" {name}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _by_family() -> dict[str, dict[str, dict[str, Any]]]:
    """Family -> objective -> what its file says of it."""
    from torchstone.conformance.vectors import FOLDER

    families: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in FAMILIES.values()}
    for path in sorted(FOLDER.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        tag = data["tags"][0].partition(".")[0] if data["tags"] else "CORE"
        families.setdefault(FAMILIES.get(tag, tag.lower()), {})[path.stem] = data
    return {title: members for title, members in families.items() if members}


def _list(as_json: bool) -> int:
    families = _by_family()
    if as_json:
        rows = [
            {
                "objective": name,
                "family": family,
                "about": d["about"],
                "tags": d["tags"],
                "arguments": list(d["arguments"]),
                "settings": list(d["settings"]),
                "cases": sum(len(group["cases"]) for group in d["groups"]),
                "alternatives": [k for k, flag in d["flags"].items() if flag["kind"] != "edge"],
            }
            for family, members in families.items()
            for name, d in members.items()
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for family, members in families.items():
        print(bold(family))
        for name, d in members.items():
            takes = ", ".join([*d["arguments"], *d["settings"]])
            print(wrapped(f"{styled(name, 'cyan')}({takes})", "  ", " " * 6))
            print(dim(wrapped(d["about"], "    ")))
        print()
    return 0


# ------------------------------------------------------------------------------------------------------------- identify


def _identify(arguments: Sequence[str]) -> int:
    parser = _parser("identify", IDENTIFY, IDENTIFY_EXAMPLES)
    options = parser.parse_args(arguments)
    if not options.target:
        raise UserError("which function? TARGET is package.module:function or file.py:function; see --help")
    asked = _asked(options)

    from torchstone import conformance
    from torchstone.conformance.fit.target import resolve
    from torchstone.conformance.machine import as_json

    with _aside():
        found = conformance.identify(resolve(options.target), target=options.target, **asked)
    if options.json:
        print(as_json(found.as_dict()))
    else:
        _print_identification(found)
    return int(not found.exact)


def _print_identification(found: Any) -> None:
    near = [m for m in found.near if m.kind == "objective" or m.distance < FAR]
    if not found.exact and not near:
        print(wrapped(f"{bold(found.target)} is near nothing in the table"))
        return
    for title, colour, matches in (("equals", "green", found.exact), ("is nearest to", "yellow", near)):
        for given in dict.fromkeys(m.given for m in matches):
            by = f", called with {', '.join(given)}," if given else ""
            print(wrapped(f"{bold(found.target)}{by} {title}"))
            shown = [m for m in matches if m.given == given]
            print(table((), [[f"  {styled(m.name, colour)}", dim(m.kind), _detail(m)] for m in shown]) + "\n")
    for note in found.notes:
        print(wrapped(note))
    first = next((m.name for m in (*found.exact, *near) if m.kind == "objective"), None)
    if first:
        print(dim("Case by case, with the diagnosis of what differs:"))
        print(styled(f"  torchstone check {shlex.quote(found.target)} --objective {first}", "cyan"))


def _detail(m: Any) -> str:
    """What a match differs in, how far it is, and what else is known of it."""
    from torchstone.conformance.nearest import EQUAL

    far = m.distance > EQUAL and not m.differs and m.kind != "objective"
    told = [f"but {', '.join(m.differs)}"] if m.differs else []
    told += [f"{m.distance:.2g} of the loss and its gradient apart"] if far else []
    return "; ".join([*told, *([m.detail] if m.detail else [])])


# ------------------------------------------------------------------------------------------------------ what both take


def _parser(name: str, about: str, examples: str) -> Parser:
    parser = Parser(name, about, examples, operands="TARGET")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="package.module:function or file.py:function")
    parser.add_argument("--names", metavar="FILE", type=Path, help='TOML with lines such as  their_name = "our_name"')
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a value for one of its own parameters, passed as it is",
    )
    parser.add_argument("--output", metavar="KEY", help="which of several results: an index, a key or an attribute")
    parser.add_argument("--arrays", choices=("torch", "numpy", "jax"), help="by default found out by trying")
    parser.add_argument("--time-limit", metavar="SECONDS", type=float, default=10.0, help="for one case (10)")
    parser.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    return parser


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    if not options.time_limit > 0:
        raise UserError(f"--time-limit must be above 0, got {options.time_limit:g}")
    return {
        "names": read_names(options.names) if options.names else {},
        "settings": dict(read_setting(text) for text in options.set),
        "output": options.output,
        "arrays": options.arrays,
        "time_limit": options.time_limit,
    }


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise UserError(f"--junit: cannot write {path}: {e.strerror}") from e


@contextlib.contextmanager
def _working(what: str) -> Iterator[None]:
    """On a terminal a line on stderr that counts the seconds: a search for the cause takes some."""
    if not sys.stderr.isatty():
        yield
        return
    stop, start, stream = threading.Event(), time.monotonic(), sys.stderr

    def tick() -> None:
        while not stop.wait(0.5):
            line = f"{what}: {time.monotonic() - start:.0f} s"
            print(f"\r{line[: columns() - 1]}", end="", file=stream, flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        print("\r\033[K", end="", file=stream, flush=True)


def _aside() -> contextlib.AbstractContextManager[Any]:
    """What the function prints goes to stderr: stdout is the report's."""
    return contextlib.redirect_stdout(sys.stderr)
