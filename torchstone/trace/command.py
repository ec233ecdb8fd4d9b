"""``torchstone trace``: one update by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone.terminal import Parser, UserError, bold, dim, table, wrapped

if TYPE_CHECKING:
    from torchstone.trace.stages import Cell, Part

HELP = """\
One update by hand: every number from the tokens to the changed probabilities.

A language model that fits on a screen (2 prompts, 4 words, 32 logits) is taught
by METHOD: reinforce, ppo, grpo, dpo, distill, or any row of torchstone recipes.
The numbers are those that the library's functions give.
"""
EXAMPLES = """\
examples
  torchstone trace grpo                       2 prompts, 3 completions of each
  torchstone trace ppo --seed 5               other completions
  torchstone trace gspo:surrogate.epsilon=0.1     a row with a change
  torchstone trace grpo --batch mine.json     numbers of your own, by the names
                                              of the vectors: {"mask": [[true]],
                                              "log_probs": [[-1.0]], ...}
"""
ROWS = {"distill": "opd"}  # of the table of recipes, where a method has another name there


def trace(arguments: Sequence[str]) -> int:
    """``torchstone trace METHOD [--seed N] [--group-size G] [--batch FILE] [--markdown] [--json]``."""
    parser = Parser("trace", HELP, EXAMPLES, operands="METHOD")
    parser.add_argument("method", nargs="?", metavar="METHOD", help="a method, or a row of the table of recipes")
    parser.add_argument("--recipe", metavar="ROW", help="the row, in the place of METHOD")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the model and its samples (default: 1)")
    parser.add_argument(
        "--group-size", type=int, default=3, metavar="N", help="completions of each prompt (default: 3)"
    )
    parser.add_argument("--batch", type=Path, metavar="FILE", help="JSON of your own, in place of the model")
    parser.add_argument("--case", type=int, metavar="ID", help="which case, if FILE is one of the vectors")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as a page")
    form.add_argument("--json", action="store_true", help="every number in full")
    options = parser.parse_args(arguments)
    name = options.recipe or options.method
    if not name:
        raise UserError("which method? reinforce, ppo, grpo, dpo, distill, or a row of: torchstone recipes", 2)
    if options.recipe and options.method not in (None, "recipe"):
        raise UserError(f"METHOD {options.method} and --recipe {options.recipe}: give one of the two", 2)
    if not 2 <= options.group_size <= 8:
        raise UserError(f"--group-size must be from 2 to 8, got {options.group_size}", 2)

    from torchstone.recipes import find
    from torchstone.trace.update import of_a_file, of_the_table

    try:
        row = find(ROWS.get(name, name))
    except ValueError as e:
        raise UserError(str(e), 2) from e
    parts = (
        of_a_file(row, options.batch, options.case)
        if options.batch
        else of_the_table(row, options.seed, options.group_size)
    )
    if options.json:
        print(json.dumps({"recipe": row.name, "parts": [asdict(part) for part in parts]}, indent=1))
    elif options.markdown:
        print(
            "\n\n".join(
                [f"# One update by hand: {row.name}", f"{row.about}\nSource: {row.source}", *map(as_markdown, parts)]
            )
        )
    else:
        print(f"{wrapped(row.about, bold(row.name) + '  ', '')}\n{dim(wrapped(row.source))}")
        for part in parts:
            print(f"\n{bold(part.title)}")
            for line in part.text:
                print(wrapped(line.strip(), "    " if line.startswith(" ") else "  "))
            print(table(part.head, [list(map(as_text, cells)) for cells in part.rows], right=set(part.head[1:])))
    return 0


def as_text(cell: Cell) -> str:
    """A number with three places after the point; a dot where a token does not count."""
    if isinstance(cell, tuple):
        return " > ".join(map(as_text, cell))
    return cell if isinstance(cell, str) else "." if cell is None else f"{cell + 0.0:.3f}"


def as_markdown(part: Part) -> str:
    """A section with its table."""
    text = [f"`{line.strip()}`" if line.startswith(" ") else line for line in part.text]
    lines = [f"| {' | '.join(row)} |" for row in [part.head, ["---", *["---:"] * (len(part.head) - 1)],
             *(list(map(as_text, cells)) for cells in part.rows)]]  # fmt: skip
    return "\n\n".join([f"## {part.title}", *text, "\n".join(lines)])
