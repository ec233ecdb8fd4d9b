"""``torchstone check TARGET --as FRAMEWORK``."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchstone.terminal import Parser, UserError, bold, dim, near, styled, table, wrapped

if TYPE_CHECKING:
    from torchstone.frameworks.contract.find import Findings
    from torchstone.frameworks.contract.hand import Hand

FRAMEWORKS = {
    "trl": "trl", "verl": "verl", "prime-rl": "prime_rl", "skyrl": "skyrl", "slime": "slime", "tinker": "tinker",
}  # fmt: skip
ROWS = 3  # of those that it equals, shown
ABOUT = """\
Is a loss right where it is plugged in? TARGET is package.module:function or
file.py:function, a loss in FRAMEWORK's own form; for TRL a trainer class. A
batch of 16 completions of unequal lengths is cut over ranks and micro-batches,
the loss is called on each piece as FRAMEWORK calls it, and what the optimizer
would see is held against the batch uncut. The framework need not be installed
if the loss does not call it.
"""
EXAMPLES = """\
examples
  torchstone check my_losses.py:pg_loss --as verl
  torchstone check my_losses.py:pg_loss --as verl --set clip_ratio_high=0.28
      settings of the framework's configuration that the loss reads
  torchstone check my_trainer.py:MyTrainer --as trl
  torchstone check my_losses.py:loss --as skyrl --recipe dr_grpo
      also: is the batch uncut that row of the table?
  torchstone check my_losses.py:loss --as prime-rl --objective cispo_loss
      also: does it match that objective's test vectors?
  torchstone check my_trainer.py:MyTrainer --as trl --accept tokens
      a mean over each micro-batch's tokens is meant

exit status: 0 right, or what is wrong was accepted by name; 1 something is
wrong; 2 the loss cannot be called as FRAMEWORK calls it
"""


def check_as(arguments: Sequence[str]) -> int:
    """The command; ``arguments`` have ``--as``."""
    options = _parser().parse_args(arguments)
    if not options.target:
        raise UserError("which loss? TARGET is package.module:function or file.py:function; see --as trl --help", 2)
    options.framework = (options.framework or "").lower().replace("_", "-")
    if options.framework not in FRAMEWORKS:
        close = near(options.framework, FRAMEWORKS)
        raise UserError(f"--as: unknown framework {options.framework!r}{close}; {', '.join(FRAMEWORKS)}", 2)
    settings = dict(_setting(text) for text in options.set)
    if options.objective:
        from torchstone.conformance.settings import known_objective

        options.objective = known_objective(options.objective)
    if options.recipe:
        from torchstone.recipes import PolicyRecipe
        from torchstone.recipes import find as find_row

        if not isinstance(find_row(options.recipe), PolicyRecipe):
            raise UserError(f"--recipe: expected a policy row, got {options.recipe}", 2)
    with contextlib.redirect_stdout(sys.stderr):
        checked = _checked(options, settings) or _checked(options, settings, always=True)
    assert checked is not None
    found, report = checked.found, checked.report
    faults = [f for f in found.faults if f.name not in options.accept]
    missed = bool(options.recipe) and options.recipe not in checked.rows
    wrong = bool(faults or missed or (report is not None and not report.passed))
    if options.json:
        print(json.dumps(_as_dict(options, checked, wrong), indent=1, ensure_ascii=False))
    else:
        _show(options, checked)
        if report is not None:
            from torchstone.conformance.report import show

            print(dim(f"\nThe batch uncut, by the test vectors of {report.objective}:\n"))
            show(report, [], f"torchstone check {options.target}")
    return int(wrong)


@dataclass(frozen=True)
class Checked:
    """``rows``: of the table, equal to the batch uncut. ``stood_in``: packages that are not installed."""

    hand: Hand
    found: Findings
    rows: list[str]
    stood_in: list[str]
    report: Any


def _checked(options: argparse.Namespace, settings: dict[str, Any], always: bool = False) -> Checked | None:
    """The check; None where the framework is installed and cannot be imported, so that it needs stand-ins."""
    from torchstone import conformance
    from torchstone.conformance.target import TargetError, describe, resolve
    from torchstone.frameworks.contract.compare import rows_equal, whole_function
    from torchstone.frameworks.contract.find import find
    from torchstone.frameworks.contract.hand import FormError
    from torchstone.frameworks.contract.stand_in import packages

    room = import_module(f"torchstone.frameworks.{FRAMEWORKS[options.framework]}.hand")
    hand: Hand = room.HAND
    with packages(hand.stand_ins, always) as stood_in:
        try:
            target = resolve(options.target)
        except TargetError as e:
            if not always and isinstance(e.__cause__, ImportError):
                return None
            raise UserError(str(e), 2) from e
        try:
            hand = room.hand_for(target) if hasattr(room, "hand_for") else hand
            found = find(hand, target, settings)
        except FormError as e:
            why = f"has not {hand.name}'s form: {e}"
            raise UserError(f"{options.target} {why}. {hand.name} calls\n{hand.form}", 2) from e
        except Exception as e:
            why = f"raises on what {hand.name} hands it: {describe(e)}"
            if isinstance(e, AttributeError) and options.framework == "trl":
                why += " (__init__ is not run: --set NAME=VALUE gives what it would have set)"
            why += f" ({', '.join(sorted(stood_in))} not installed here)" * bool(stood_in)
            raise UserError(f"{options.target} {why}. {hand.name} calls\n{hand.form}", 2) from e
        report = None
        if options.objective:
            function = whole_function(hand, target, settings)
            report = conformance.check(function, options.objective, target=options.target)
        return Checked(hand, found, rows_equal(hand, found, options.recipe), sorted(stood_in), report)


def _parser() -> Parser:
    parser = Parser("check", ABOUT, EXAMPLES, operands="TARGET --as FRAMEWORK")
    add = parser.add_argument
    add("target", nargs="?", metavar="TARGET", help="package.module:function or file.py:function")
    add("--as", dest="framework", metavar="FRAMEWORK", help=", ".join(FRAMEWORKS))
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of the framework's configuration")
    add("--recipe", metavar="ROW", help="a row of the table that the batch uncut should equal")
    add("--objective", metavar="NAME", help="an objective whose test vectors the batch uncut should match")
    add("--accept", metavar="NAME", action="append", default=[], help="a finding that is meant, so no failure")
    add("--json", action="store_true", help="everything as JSON on stdout")
    return parser


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"--set: expected NAME=VALUE, got {text!r}", 2)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


# -------------------------------------------------------------------------------------------------------------- showing


def _show(options: argparse.Namespace, checked: Checked) -> None:
    hand, found, rows, stood_in = checked.hand, checked.found, checked.rows, checked.stood_in
    faults = [f for f in found.faults if f.name not in options.accept]
    accepted = [f for f in found.faults if f.name in options.accept]
    notes = [f for f in found.findings if not f.fault]
    place = f"in {hand.name} {hand.unit.version.rpartition('-')[2]}"
    whole = ", however the batch is cut" if hand.cut else ", with one call a step"
    if faults or (options.recipe and options.recipe not in rows):
        print(wrapped(f"{bold(options.target)}, {place}: {styled('wrong', 'bold red')}"))
    else:
        print(wrapped(f"{bold(options.target)}, {place}: {styled('right', 'bold green')}{whole}"))
    print()
    for finding in faults:
        print(wrapped(finding.said[0].upper() + finding.said[1:] + ".", styled("wrong  ", "red"), " " * 7))
        if finding.change:
            print(wrapped(finding.change, " " * 7 + dim("instead  "), " " * 16))
        print()
    for finding in accepted:
        print(wrapped(finding.said + ".", "accepted  ", " " * 10))
    _table(found)
    for finding in notes:
        print(dim(wrapped(finding.said + ".", "note   ", " " * 7)))
    if options.recipe and options.recipe not in rows:
        print(wrapped(f"Uncut, it does not equal {options.recipe}.", styled("wrong  ", "red"), " " * 7))
    if rows:
        shown = [options.recipe] if options.recipe in rows else rows[:ROWS]
        more = f" and {len(rows) - len(shown)} more rows" * (len(rows) > len(shown))
        print(wrapped(f"Uncut, it equals {', '.join(shown)}{more}.", "row    ", " " * 7))
    if stood_in:
        print(
            dim(
                wrapped(
                    f"{', '.join(stood_in)}: not installed here, or not whole; stand-ins took the place.",
                    "note   ",
                    " " * 7,
                )
            )
        )
    print(dim(wrapped(f"{hand.name} wants {hand.unit.wants} ({hand.unit.how}).", "unit   ", " " * 7)))


def _table(found: Findings) -> None:
    """What the optimizer sees in each split, where one differs."""
    import torch

    if all(s.clean and (s.weight[~s.weight.isnan()] - 1).abs().max() < 1e-3 for s in found.seen):
        return
    cells = []
    for s in found.seen:
        known = s.weight[~s.weight.isnan()]
        low, high = float(known.min()), float(known.max())
        size = f"{low:.3g}" if torch.isclose(known.min(), known.max(), rtol=1e-3) else f"{low:.3g} to {high:.3g}"
        cells.append([str(s.split.ranks), str(s.split.micro_batches), size if s.clean else f"{size}, and turned"])
    print(table(["ranks", "micro-batches", "gradient of a row, over the uncut batch's"], cells) + "\n")


def _as_dict(options: argparse.Namespace, checked: Checked, wrong: bool) -> dict[str, Any]:
    hand, found, report = checked.hand, checked.found, checked.report
    finding: Callable[[Any], Mapping[str, Any]] = lambda f: {**vars(f), "accepted": f.name in options.accept}  # noqa: E731
    splits = [
        {
            "ranks": s.split.ranks, "micro_batches": s.split.micro_batches, "multiple": s.clean,
            "weights": [None if w != w else w for w in s.weight.tolist()],
        }
        for s in found.seen
    ]  # fmt: skip
    return {
        "target": options.target, "framework": options.framework, "version": hand.unit.version, "right": not wrong,
        "findings": [finding(f) for f in found.findings], "splits": splits, "equals": checked.rows,
        **({"objective": report.as_dict()} if report is not None else {}),
    }  # fmt: skip
