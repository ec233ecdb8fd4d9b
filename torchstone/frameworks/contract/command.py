"""``torchstone check TARGET --as FRAMEWORK``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchstone.conformance.settings import known_objective, read_setting
from torchstone.terminal import Parser, UserError, bold, dim, near, styled, table, wrapped

if TYPE_CHECKING:
    from torchstone.frameworks.contract.hand import Hand
    from torchstone.frameworks.contract.plugged import Findings

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
        raise UserError("which loss? TARGET is package.module:function or file.py:function; see --as trl --help")
    options.framework = (options.framework or "").lower().replace("_", "-")
    if options.framework not in FRAMEWORKS:
        close = near(options.framework, FRAMEWORKS)
        raise UserError(f"--as: unknown framework {options.framework!r}{close}; {', '.join(FRAMEWORKS)}")
    if options.objective:
        options.objective = known_objective(options.objective)
    if options.recipe:
        from torchstone.recipes import find as find_row

        find_row(options.recipe)
    with contextlib.redirect_stdout(sys.stderr):
        checked = _checked(options) or _checked(options, always=True)
    assert checked is not None
    wrong = _wrong(options, checked) or not (checked.report is None or checked.report.passed)
    if options.json:
        print(json.dumps(_as_dict(options, checked, wrong), indent=1, ensure_ascii=False))
        return int(wrong)
    _show(options, checked)
    if checked.report is not None:
        from torchstone.conformance.report import show

        print(dim(f"\nThe batch uncut, by the test vectors of {checked.report.objective}:\n"))
        show(checked.report, [], f"torchstone check {options.target}")
    return int(wrong)


def _wrong(options: argparse.Namespace, checked: Checked) -> bool:
    """Whether a finding was not accepted, or it is not the row that it should be."""
    faults = [f for f in checked.found.faults if f.name not in options.accept]
    return bool(faults or (options.recipe and options.recipe not in checked.rows))


@dataclass(frozen=True)
class Checked:
    """``rows``: of the table, equal to the batch uncut. ``stood_in``: packages that are not installed."""

    hand: Hand
    found: Findings
    rows: list[str]
    stood_in: list[str]
    report: Any


def _checked(options: argparse.Namespace, always: bool = False) -> Checked | None:
    """The check; None where the framework is installed and cannot be imported, so that it needs stand-ins."""
    from torchstone import conformance
    from torchstone.conformance.fit.target import TargetError, describe, resolve
    from torchstone.frameworks.contract.compare import kind_of, rows_equal, whole_function
    from torchstone.frameworks.contract.find import find
    from torchstone.frameworks.contract.hand import FormError
    from torchstone.frameworks.contract.stand_in import packages

    room, settings = import_module(f"torchstone.frameworks.{FRAMEWORKS[options.framework]}.hand"), dict(options.set)
    hand: Hand = room.HAND
    with packages(hand.stand_ins, always) as stood_in:
        try:
            target = resolve(options.target)
        except TargetError as e:
            if not always and isinstance(e.__cause__, ImportError):
                return None
            raise
        try:
            hand = room.hand_for(target) if hasattr(room, "hand_for") else hand
            _row_of_its_kind(options.recipe, kind_of(hand))
            found = find(hand, target, settings)
        except UserError:
            raise
        except Exception as e:
            why = f"has not {hand.name}'s form: {e}"
            if not isinstance(e, FormError):
                why = f"raises on what {hand.name} hands it: {describe(e)}"
                if isinstance(e, AttributeError) and hand.name == "TRL":
                    why += " (__init__ is not run: --set NAME=VALUE gives what it would have set)"
                if isinstance(e, KeyError) and str(e) in ("'ref_chosen_logps'", "'ref_rejected_logps'"):
                    why += " (TRL hands it only with --set precompute_ref_log_probs=true)"
                why += f" ({', '.join(sorted(stood_in))} not installed here)" * bool(stood_in)
            raise UserError(f"{options.target} {why}. {hand.name} calls\n{hand.form}") from e
        report = None
        if options.objective:
            function = whole_function(hand, target, settings)
            report = conformance.check(function, options.objective, target=options.target)
        return Checked(hand, found, rows_equal(hand, found, options.recipe), sorted(stood_in), report)


def _row_of_its_kind(recipe: str | None, kind: type) -> None:
    from torchstone.recipes import PolicyRecipe
    from torchstone.recipes import find as find_row

    if recipe and not isinstance(find_row(recipe), kind):
        raise UserError(f"--recipe: expected a {'policy' if kind is PolicyRecipe else 'preference'} row, got {recipe}")


def _parser() -> Parser:
    parser = Parser("check", ABOUT, EXAMPLES, operands="TARGET --as FRAMEWORK")
    add = parser.add_argument
    add("target", nargs="?", metavar="TARGET", help="package.module:function or file.py:function")
    add("--as", dest="framework", metavar="FRAMEWORK", help=", ".join(FRAMEWORKS))
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        type=read_setting,
        default=[],
        help="a setting of the framework's configuration",
    )
    add("--recipe", metavar="ROW", help="a row of the table that the batch uncut should equal")
    add("--objective", metavar="NAME", help="an objective whose test vectors the batch uncut should match")
    add("--accept", metavar="NAME", action="append", default=[], help="a finding that is meant, so no failure")
    add("--json", action="store_true", help="everything as JSON on stdout")
    return parser


# -------------------------------------------------------------------------------------------------------------- showing


def _show(options: argparse.Namespace, checked: Checked) -> None:
    hand, found, rows = checked.hand, checked.found, checked.rows
    known = rows or options.recipe or checked.report
    right = styled("right" if known or not hand.cut else "cut rightly", "bold green")
    right += (", however the batch is cut" if known else "") if hand.cut else ", with one call a step"
    if any(f.name == "chooses" for f in found.findings):
        right = styled("right", "bold green") + ", but for the tokens that it chooses"
    verdict = styled("wrong", "bold red") if _wrong(options, checked) else right
    print(wrapped(f"{bold(options.target)}, in {hand.name} {hand.unit.version.rpartition('-')[2]}: {verdict}") + "\n")
    for finding in found.faults:
        if finding.name in options.accept:
            _line("accepted", finding.said + ".")
            continue
        _line("wrong", finding.said[0].upper() + finding.said[1:] + ".", "red")
        print(wrapped(finding.change, " " * 7 + dim("instead  "), " " * 16) + "\n" if finding.change else "")
    _table(found)
    for finding in found.findings:
        if not finding.fault:
            _line("note", finding.said + ".", "dim")
    if options.recipe and options.recipe not in rows:
        _line("wrong", f"Uncut, it does not equal the loss of {options.recipe}.", "red")
    if rows:
        shown = [options.recipe] if options.recipe in rows else rows[:ROWS]
        more = f" and {len(rows) - len(shown)} more rows" * (len(rows) > len(shown))
        _line("row", f"Uncut, it equals the loss of {', '.join(shown)}{more}.")
    elif not (known or _wrong(options, checked)):
        text = "Uncut, it equals no row of the table: whether the formula is right was not asked; "
        _line("row", text + "--recipe ROW or --objective NAME does.")
    if checked.stood_in:
        names = ", ".join(checked.stood_in)
        _line("note", f"{names}: not installed here, or not whole; stand-ins took the place.", "dim")
    _line("unit", f"{hand.name} wants {hand.unit.wants} ({hand.unit.how}).", "dim")


def _line(label: str, text: str, style: str = "") -> None:
    """A labelled paragraph; "dim" is all of it, a colour the label alone."""
    first = f"{label:<7}" if len(label) < 7 else f"{label}  "
    found = wrapped(text, first if style in ("", "dim") else styled(first, style), " " * len(first))
    print(dim(found) if style == "dim" else found)


def _table(found: Findings) -> None:
    """What the optimizer sees in each split, where one differs."""
    cells, same = [], True
    for s in found.seen:
        known = s.weight[~s.weight.isnan()]
        low, high = float(known.min()), float(known.max())
        same = same and s.clean and max(abs(low - 1), abs(high - 1)) < 1e-3
        size = f"{low:.3g}" if high - low <= 1e-3 * abs(high) else f"{low:.3g} to {high:.3g}"
        cells.append([str(s.split.ranks), str(s.split.micro_batches), size if s.clean else f"{size}, and turned"])
    if not same:
        print(table(["ranks", "micro-batches", "gradient of a row, over the uncut batch's"], cells) + "\n")


def _as_dict(options: argparse.Namespace, checked: Checked, wrong: bool) -> dict[str, Any]:
    hand, found, report = checked.hand, checked.found, checked.report
    splits = [
        {"ranks": s.split.ranks, "micro_batches": s.split.micro_batches, "multiple": s.clean,
         "weights": [None if w != w else w for w in s.weight.tolist()]}
        for s in found.seen
    ]  # fmt: skip
    return {
        "target": options.target, "framework": options.framework, "version": hand.unit.version, "right": not wrong,
        "findings": [{**vars(f), "accepted": f.name in options.accept} for f in found.findings], "splits": splits,
        "equals": checked.rows, **({"objective": report.as_dict()} if report is not None else {}),
    }  # fmt: skip
