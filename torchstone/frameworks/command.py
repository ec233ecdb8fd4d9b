"""``torchstone peers``: the checker over public frameworks, as far as they are installed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from torchstone.terminal import Parser, columns, dim, table, wrapped

ABOUT = """\
Run public frameworks' own functions on the test vectors: who matches what,
which named variant each uses, and in which cases they differ. Nothing is
downloaded; a framework that is not installed is listed as such.
"""
EXAMPLES = """\
examples
  torchstone peers                        all that are installed: two minutes
  torchstone peers --only verl trl
  torchstone peers --markdown > docs/peers.md
  torchstone peers --json > peers.json

exit status: 0 everything could be run, whatever it computes;
1 something could not; 2 none of them is installed
"""


def peers(arguments: Sequence[str]) -> int:
    """``torchstone peers [--only NAME ...] [--json | --markdown]``."""
    from torchstone.frameworks.registry import FRAMEWORKS
    from torchstone.frameworks.run import run

    parser = Parser("peers", ABOUT, EXAMPLES)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=FRAMEWORKS, default=FRAMEWORKS, help=", ".join(FRAMEWORKS)
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    form.add_argument("--markdown", action="store_true", help="the page docs/peers.md on stdout")
    options = parser.parse_args(arguments)

    with contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
        reports, absent = run(options.only, _progress)
    _progress("")
    if options.json:
        print(json.dumps({"absent": absent, "rows": [dataclasses.asdict(r) for r in reports]}, indent=1, default=str))
    elif options.markdown:
        from torchstone.frameworks.page import markdown

        print(markdown(reports, absent), end="")
    else:
        _show(reports, absent)
    if not reports:
        return 2
    return int(any(r.outcome == "error" for r in reports))


def _progress(text: str) -> None:
    """One line on the terminal, written over; nothing where stderr is a file."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text[: columns() - 1]}")
        sys.stderr.flush()


def _show(reports: Sequence[Any], absent: Sequence[str]) -> None:
    from torchstone.frameworks.page import OUTCOMES, where

    for name in dict.fromkeys(r.framework for r in reports):
        members = [r for r in reports if r.framework == name]
        cells = [
            [f"{r.what} ({r.using})" if r.using else r.what, f"{r.passed} of {r.cases}", OUTCOMES[r.outcome],
             where(r).replace("`", "")]
            for r in members
        ]  # fmt: skip
        head = ["what", "cases", "result", "where it differs"]
        print(table(head, cells, title=f"{name} {members[0].version}") + "\n")
    if absent:
        print(dim(wrapped(f"not installed: {', '.join(absent)}")))
    if not reports:
        print(wrapped("None is installed: pip install --no-deps -r requirements-frameworks.txt has them."))
