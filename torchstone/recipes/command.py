"""``torchstone recipes``: the table, one row, or what differs between two."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from torchstone.recipes import RECIPES, PolicyRecipe, find, page, table
from torchstone.recipes.choices import TENSORS, Recipe, show
from torchstone.terminal import UserError

EXAMPLES = """\
examples
  torchstone recipes                                   every algorithm as published
  torchstone recipes --dialects                        and as frameworks compute it
  torchstone recipes dapo                              one row: each choice, each number and where it is stated
  torchstone recipes grpo grpo@trl-1.16.0              what differs, and what that does to the update
  torchstone recipes grpo grpo:advantage=group-mean    a row with a choice of your own
"""


def recipes(arguments: Sequence[str]) -> int:
    """``torchstone recipes [NAME [NAME]] [--dialects] [--json] [--markdown]``."""
    parser = argparse.ArgumentParser(
        prog="torchstone recipes",
        description="The field in one table: each named algorithm as a row of choices.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one row to explain, or two to compare")
    parser.add_argument("--dialects", action="store_true", help="frameworks' dialects too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every row with every choice, as JSON")
    form.add_argument("--markdown", action="store_true", help="the page docs/recipes.md")
    options = parser.parse_args(arguments)
    if len(options.names) > 2:
        raise UserError(f"recipes: one name or two, got {len(options.names)}")
    try:
        rows = [find(name) for name in options.names]
        found = table.differences(*rows) if len(rows) == 2 else []
    except ValueError as e:
        raise UserError(str(e)) from e
    if options.json:
        kept = {at.partition(".")[0] for at, *_ in found} if len(rows) == 2 else None
        print(json.dumps([_data(row, kept) for row in rows or RECIPES.values()], indent=1, ensure_ascii=False))
    elif options.markdown:
        print(page.markdown() if not rows else table.markdown_table(rows, rows[0] if len(rows) == 2 else None))
    elif not rows:
        _print_table(options.dialects)
    elif len(rows) == 1:
        _print_row(rows[0])
    else:
        _print_differences(rows[0], rows[1], found)
    return 0


def _data(row: Recipe, kept: set[str] | None) -> dict[str, Any]:
    data = table.as_data(row)
    return data if kept is None else data | {"choices": {k: v for k, v in data["choices"].items() if k in kept}}


def _print_table(dialects: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = [row for row in RECIPES.values() if dialects or "@" not in row.name]
    for title, policy in (("Policy gradient", True), ("Preference", False)):
        rows = [row for row in shown if isinstance(row, PolicyRecipe) == policy]
        printed = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        printed.add_column("name", style="bold", no_wrap=True)
        for heading in table.cells(rows[0]):
            printed.add_column(heading, overflow="fold")
        for name, group in table.by_algorithm(rows).items():
            known = table.cells(RECIPES[name]) if name in RECIPES else {}
            for row in group:
                own = table.cells(row).items()
                printed.add_row(
                    row.name, *(_marked(text, "@" in row.name and text != known.get(k, text)) for k, text in own)
                )
        console.print(printed)
        console.print()
    note = "yellow: not as published. " if dialects else ""
    console.print(f"[dim]{note}torchstone recipes NAME explains a row, torchstone recipes A B what differs.[/dim]")


def _marked(text: str, differs: bool) -> str:
    return f"[yellow]{text or 'none'}[/yellow]" if differs else text


def _print_row(row: Recipe) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{row.name}[/bold]  {row.about}\n{row.source}\n", highlight=False)
    printed = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("choice", "option", "what it does; where its numbers are stated"):
        printed.add_column(heading)
    for at in row.COLUMNS:
        choice = getattr(row, at)
        printed.add_row(f"[bold]{at}[/bold]", choice.name, f"[dim]{row.option(at).effect}[/dim]")
        for name, number in choice.numbers.items():
            printed.add_row("", f"  {name} {show(number)}", row.stated.get(f"{at}.{name}", ""))
    console.print(printed, highlight=False)
    if row.needs():
        console.print(
            "\nneeds " + "; ".join(f"{name} ({TENSORS[name]})" for name in row.needs()), highlight=False, markup=False
        )


def _print_differences(a: Recipe, b: Recipe, found: list[table.Difference]) -> None:
    from rich.console import Console

    console = Console()
    for row in (a, b):
        console.print(f"[bold]{row.name}[/bold]  {row.about}\n[dim]{row.source}[/dim]\n", highlight=False)
    if not found:
        console.print("They make the same choices.", highlight=False)
    for at, (one, two), effects in found:
        console.print(f"[bold]{at}[/bold]", highlight=False)
        if len(effects) == 1:
            console.print(f"  {one} -> {two}\n  [dim]{effects[0][0].upper()}{effects[0][1:]}.[/dim]\n", highlight=False)
            continue
        for name, text, effect in ((a.name, one, effects[0]), (b.name, two, effects[1])):
            console.print(f"  {name}: {text}\n  [dim]{effect}[/dim]", highlight=False)
        console.print()
