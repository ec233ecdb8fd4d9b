"""``torchstone recipes``: the table, one row, or what differs between two."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchstone.terminal import Parser, UserError, bold, columns, dim, table, wrapped

if TYPE_CHECKING:
    from torchstone.recipes.choices import Recipe
    from torchstone.recipes.table import Difference

HELP = """\
Each named algorithm as a row of choices. Without a name: one line for each,
which says what it does differently from another row.
"""
EXAMPLES = """\
examples
  torchstone recipes                            every algorithm as published
  torchstone recipes --dialects                 and as frameworks compute it
  torchstone recipes dapo                       one row: each choice, and where
                                                each number is stated
  torchstone recipes grpo grpo@trl-1.16.0       what differs, and what that does
                                                to the update
  torchstone recipes grpo:advantage=group-mean  a row with your own choice
  torchstone recipes --choices                  all that can be chosen
"""
FOOT = (
    "Three dots are further choices. A KL is in the loss unless it says reward. Name a row to have it explained, or "
    "two to see what differs; docs/recipes.md says where to begin."
)


def recipes(arguments: Sequence[str]) -> int:
    """``torchstone recipes [NAME [NAME]] [--dialects] [--choices] [--json] [--markdown]``."""
    parser = Parser("recipes", HELP, EXAMPLES, operands="[NAME [NAME]]")
    parser.add_argument("names", nargs="*", metavar="NAME", help="one row to explain, or two to compare")
    parser.add_argument("--dialects", action="store_true", help="frameworks' dialects too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--choices", action="store_true", help="every option of every column, and what it does")
    form.add_argument("--json", action="store_true", help="every row with every choice, as JSON")
    form.add_argument("--markdown", action="store_true", help="the page docs/recipes.md")
    options = parser.parse_args(arguments)
    if len(options.names) > 2:
        raise UserError(f"expected one name or two, got {len(options.names)}")

    from torchstone.recipes import RECIPES, find, page
    from torchstone.recipes.table import differences, markdown_table

    try:
        rows = [find(name) for name in options.names]
        found = differences(*rows) if len(rows) == 2 else []
    except ValueError as e:
        raise UserError(str(e)) from e
    if options.json:
        kept = {at.partition(".")[0] for at, *_ in found} if len(rows) == 2 else None
        print(json.dumps([_data(row, kept) for row in rows or RECIPES.values()], indent=1, ensure_ascii=False))
    elif options.choices:
        _print_choices()
    elif options.markdown:
        print(page.markdown() if not rows else markdown_table(rows, rows[0] if len(rows) == 2 else None))
    elif not rows:
        _print_all(options.dialects)
    elif len(rows) == 1:
        _print_one(rows[0])
    else:
        _print_differences(rows[0], rows[1], found)
    return 0


def _data(row: Recipe, kept: set[str] | None) -> dict[str, Any]:
    from torchstone.recipes.table import as_data

    data = as_data(row)
    return data if kept is None else data | {"choices": {k: v for k, v in data["choices"].items() if k in kept}}


def _print_all(dialects: bool) -> None:
    from torchstone.recipes import RECIPES
    from torchstone.recipes.table import KINDS, in_words

    shown = [row for row in RECIPES.values() if dialects or "@" not in row.name]
    for kind, (_, title) in KINDS.items():
        rows = [row for row in shown if isinstance(row, kind)]
        *_, second, longest = sorted(len(row.name) for row in rows)
        width = min(longest, second + 1) + 2  # a single long name may stand out: the lines are short without it
        print(bold(title))
        for row in rows:
            print(f"{row.name:<{width - 2}}  {_fitted(in_words(row, RECIPES), columns() - width)}")
        print()
    print(dim(wrapped(FOOT)))


def _fitted(choices: str, width: int) -> str:
    """As many choices as stand in ``width`` characters; three dots for the others."""
    while len(choices) > width and re.search("[;,] [^.]", choices):
        choices = re.sub(r"[;,] [^;,]*(; \.\.\.)?$", "; ...", choices)
    return choices


def _print_choices() -> None:
    from torchstone.recipes.page import in_full
    from torchstone.recipes.table import KINDS

    told: list[list[str]] = []
    for kind, (_, title) in KINDS.items():
        print(bold(title))
        for at, options in kind.COLUMNS.items():
            rows = [[name, ", ".join(o.numbers), in_full(o)] for name, o in options.items()]
            if new := [row for row in rows if [at, *row] not in told]:
                print(table([at, "numbers", "what it does to the update"], new) + "\n")
            told += [[at, *row] for row in rows]


def _print_one(row: Recipe) -> None:
    from torchstone.recipes.choices import TENSORS, show

    _print_head(row)
    rows = []
    for at in row.COLUMNS:
        choice = getattr(row, at)
        rows.append([at, choice.name, row.effect(at)])
        for name, number in choice.numbers.items():
            rows.append(["", f"  {name} {show(number)}", row.stated.get(f"{at}.{name}", "")])
    print(table(["choice", "option", "what it does; where its numbers are stated"], rows))
    print()
    print(wrapped(row.left_out or "not said", "left out  "))
    if row.needs():
        print(wrapped("; ".join(f"{name} ({TENSORS[name]})" for name in row.needs()), "needs  "))


def _print_head(row: Recipe) -> None:
    told = wrapped(row.about, f"{row.name}  ", indent="")
    print(f"{bold(row.name)}{told[len(row.name) :]}\n{dim(wrapped(row.source))}\n")


def _print_differences(a: Recipe, b: Recipe, found: Sequence[Difference]) -> None:
    for row in (a, b):
        _print_head(row)
    if not found:
        print("They make the same choices.")
    for at, (one, two), effects in found:
        print(bold(at))
        if len(effects) == 1:
            print(f"  {one} -> {two}\n{dim(wrapped(f'{effects[0][0].upper()}{effects[0][1:]}.', '  '))}\n")
            continue
        for name, text, effect in ((a.name, one, effects[0]), (b.name, two, effects[1])):
            print(f"{wrapped(f'{name}: {text}', '  ')}\n{dim(wrapped(effect, '  '))}")
        print()
